"What the benchmark makes of its figures; the measuring itself is tried on tiny twins."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('torchmetrics')
pytest.importorskip('segmentation_models_pytorch')

from benchmarks.alone import alone, peak_memory
from benchmarks.measure import Stopwatch, alternate, meets, ratio, spread
from benchmarks.results import Result, number, open_results, read, table, write
from benchmarks.rows import ROWS, choose

ROOT = Path(__file__).parents[1]


def some(**changes):
    return Result(**(dict(name='loader', what='a pass', target='>= 3', figures={'hw4': [40., 30., 35.], 'fastai': [10., 10., 7.]},
                          above='hw4', below='fastai', unit='images/s', quality='equal') | changes))


def test_sides_take_turns():
    order = []
    def side(label): return lambda: order.append(label) or len(order)
    assert alternate({o: side(o) for o in 'AB'}, turns=3) == {'A': [1, 3, 5], 'B': [2, 4, 6]}
    assert ''.join(order) == 'ABABAB'


def test_ratio_is_of_medians_and_spread_is_of_turns():
    assert ratio([1, 100, 4], [2, 2, 2]) == 2
    assert spread([1, 100, 4], [2, 2, 2]) == (.5, 50)
    assert spread([10, 20], [5]) == (2, 4)  # the one long run of a side stands against each of the other's


def test_targets():
    assert meets(10, '>= 10') and not meets(9.99, '>= 10') and meets(1.03, '<= 1.03') and not meets(1.04, '<= 1.03')


def test_stopwatch_times_what_follows_the_warm_up():
    watch = Stopwatch(2, warm=3)
    assert [watch.tick(8) for _ in range(5)] == [False] * 4 + [True]
    assert watch.images == 16 and 0 < watch.seconds < 1 and watch.speed == 16 / watch.seconds


def test_result_in_words():
    said = some().said()
    assert said['measured'] == '3.50 (3.00 to 5.00)' and said['reached'] == 'yes'
    assert said['sides'] == 'hw4 35.0 (30.0 to 40.0); fastai 10.0 (7.00 to 10.0) images/s'
    assert some(target='>= 4').said()['reached'] == 'NO' and some(target=None).said()['reached'] == '-'
    assert some(figures=None).said()['measured'] == ''
    assert some(figures=None, error='ValueError: x').said()['reached'] == 'CRASHED'
    assert [number(o) for o in (1234.5, 12.345, .00123)] == ['1,234', '12.3', '0.00123']


def test_table_keeps_every_row_on_a_line():
    lines = table([some(note='a | b\nc'), some(target='>= 4')]).splitlines()
    assert len(lines) == 4 and all(o.count('|') == 9 for o in lines) and 'NO' in lines[3]


def test_written_is_read(tmp_path):
    file = open_results(tmp_path, date='2026-01-02', resume=False)
    write(file, {'loader': some()}, smoke=False)
    assert read(file) == {'loader': some()} and '| loader |' in file.with_suffix('.md').read_text()
    assert json.loads(file.read_text())['results'][0]['ratio'] == 3.5
    assert open_results(tmp_path, date='2026-01-03', resume=True) == file != open_results(tmp_path, date='2026-01-03', resume=False)
    assert [o.name for o in tmp_path.glob('*.new')] == []


def test_rows_are_chosen_by_the_beginning_of_their_name():
    assert list(choose(['finetune_a', 'metric'])) == ['finetune_alexnet', 'metric']
    assert list(choose(['features_again'])) == ['features_none', 'features_whole_face']
    assert list(choose([])) == list(ROWS) and list(choose(['scale'])) == ['scale']
    with pytest.raises(ValueError, match='no row is called nothing; there are pipeline'): choose(['nothing'])


@pytest.mark.slow
def test_fresh_processes():
    assert alone(os.getpid) != os.getpid() and alone(peak_memory) > 10
    with pytest.raises(ValueError): alone(int, 'x')


@pytest.mark.slow
def test_every_row_runs_on_twins(tmp_path):
    command = [sys.executable, '-m', 'benchmarks', '--smoke', '--out', str(tmp_path), '--rows']
    done = subprocess.run([*command, *ROWS, 'scale'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = read(next(tmp_path.glob('*.json')))
    assert {(o.where or {})['row'] for o in found.values()} == {*ROWS, 'scale'}
    assert all(o.figures for o in found.values() if not o.name.startswith('gpu'))
    again = subprocess.run([*command, 'metric', '--resume'], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and 'metric ...' not in again.stdout
