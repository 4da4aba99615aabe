"The hand-in: what is in the zip, and that there is none when anything is wrong."
import importlib.util
import json
import os
import time
import zipfile
from pathlib import Path

import nbformat
import pytest

from hw4.study import handin as module
from hw4.study.handin import NOTEBOOKS, build_wheel, covered, find_notebooks, handin

ROOT = Path(__file__).parents[1]
NAMES = {'hw4/Q1-8.ipynb', 'hw4/Q2-1.ipynb', 'hw4/Q2-3.ipynb', 'hw4/report.pdf'}


def write(folder, **cells):
    "Three notebooks; those that are not named print a word"
    folder.mkdir(parents=True, exist_ok=True)
    for name in NOTEBOOKS:
        sources = cells.get(name.replace('-', '_'), [f"print('I am {name}')"])
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(o) for o in sources]), folder/f'{name}.ipynb')
    return folder


@pytest.fixture
def no_report(monkeypatch):
    "A report that needs no records"
    monkeypatch.setattr(module, 'write_pdf', lambda store, out, **options: Path(out).write_bytes(b'%PDF'))


def make(tmp_path, **options): return handin('abc1', store=tmp_path/'runs', out=tmp_path/'out', tell=lambda words: None, **options)


@pytest.mark.parametrize('wrong', ['', '1/2', '..', 'a b', 'a-b', 'é1', '1\n'])
def test_ids(wrong, tmp_path):
    with pytest.raises(ValueError, match='letters and digits'): handin(wrong, notebooks=write(tmp_path/'nb'), out=tmp_path)


def test_zip(tmp_path, no_report):
    "These four files and no other, the outputs inside, the notebooks on disk as they were"
    before = {o.name: o.read_bytes() for o in write(tmp_path/'nb').iterdir()}
    made = make(tmp_path, notebooks=tmp_path/'nb')
    assert made == tmp_path/'out'/'hw4_abc1.zip'
    with zipfile.ZipFile(made) as z:
        assert set(z.namelist()) == NAMES
        for name in NOTEBOOKS:
            cells = json.loads(z.read(f'hw4/{name}.ipynb'))['cells']
            assert ''.join(cells[0]['outputs'][0]['text']) == f'I am {name}\n'
    assert {o.name: o.read_bytes() for o in (tmp_path/'nb').iterdir()} == before
    assert list((tmp_path/'out').iterdir()) == [made]


def test_a_failure_writes_nothing(tmp_path, no_report):
    "The notebook, the cell and the error are named; a zip of before stays as it is"
    write(tmp_path/'nb', Q2_1=['a = 1', 'import nowhere_to_be_found'])
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/'hw4_abc1.zip').write_text('before')
    with pytest.raises(ValueError, match=r"Q2-1, cell 2 of 2 failed; nothing was written.\nModuleNotFoundError: No module named 'nowhere(.|\n)*import nowhere"):
        make(tmp_path, notebooks=tmp_path/'nb')
    assert [o.read_text() for o in (tmp_path/'out').iterdir()] == ['before']


def test_a_cell_that_hangs_and_a_kernel_that_dies(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'CELL_LIMIT', 1)
    with pytest.raises(ValueError, match='Q1-8, cell 1 of 1 failed; nothing was written.\nit took longer'):
        make(tmp_path, notebooks=write(tmp_path/'nb', Q1_8=['import time; time.sleep(60)']))
    monkeypatch.setattr(module, 'CELL_LIMIT', 60)
    with pytest.raises(ValueError, match='Q1-8, cell 1 of 1 failed; nothing was written.\nits kernel died'):
        make(tmp_path, notebooks=write(tmp_path/'nb', Q1_8=['import os; os._exit(9)']))


def test_training_images_are_refused(tmp_path):
    "Before anything runs"
    write(tmp_path/'nb', Q1_8=['open("ran", "w")'], Q2_3=['1', 'celeba_dls(path).show_batch()'])
    with pytest.raises(ValueError, match='Q2-3, cell 2 shows training images'): make(tmp_path, notebooks=tmp_path/'nb')
    assert not (tmp_path/'nb'/'ran').exists()


def test_where_notebooks_are_found(tmp_path, monkeypatch):
    "The clone's folder first, then the current one, else both are named"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match='no homework notebooks in .*homework or .*Q1-8.ipynb, Q2-1.ipynb, Q2-3.ipynb missing'): find_notebooks()
    write(tmp_path)
    assert find_notebooks()['Q1-8'].resolve() == tmp_path/'Q1-8.ipynb'
    write(tmp_path/'nbs'/'homework')
    assert find_notebooks()['Q1-8'].resolve() == tmp_path/'nbs'/'homework'/'Q1-8.ipynb'


def test_kernel_sees_the_callers_folders(tmp_path, monkeypatch):
    "A folder named relative to here is the same folder for a kernel that starts elsewhere"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HW4_SCENES', 'CamVid')
    monkeypatch.setenv('MPLBACKEND', 'agg')
    seen = module.kernel_environment(Path('runs'))
    assert (seen['HW4_SCENES'], seen['HW4_STORE'], seen.get('MPLBACKEND')) == (str(tmp_path/'CamVid'), str(tmp_path/'runs'), None)


def test_without_the_extra(tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name in ('typst', 'nbclient') else there(name))
    with pytest.raises(ValueError, match=r"needs nbclient and typst, not installed here: pip install 'hw4\[handin\]'"): make(tmp_path, notebooks=write(tmp_path/'nb'))


def test_what_cannot_work_is_said_first(tmp_path):
    "Before a notebook runs: an output that is no folder, a list that is not there"
    (tmp_path/'out').touch()
    with pytest.raises(ValueError, match='out is a file, expected a folder'): make(tmp_path, notebooks=write(tmp_path/'nb', Q1_8=['1/0']))
    (tmp_path/'out').unlink()
    with pytest.raises(FileNotFoundError, match='nowhere.txt'): make(tmp_path, notebooks=tmp_path/'nb', attributes=tmp_path/'nowhere.txt')


@pytest.mark.slow
def test_the_real_notebooks_on_twins(tmp_path, monkeypatch):
    "The whole hand-in, wheel included, in under ten minutes; all the notebooks' questions are in the report"
    for name in ('HW4_PORTRAITS', 'HW4_SCENES'): monkeypatch.delenv(name, raising=False)
    began = time.monotonic()
    made = make(tmp_path, notebooks=ROOT/'nbs'/'homework', wheel=True)
    took = time.monotonic() - began
    print(f'{took:.0f} s, {made.stat().st_size/1e6:.1f} MB')
    assert took < 600
    lines = covered(tmp_path/'runs')
    assert [o.split(':')[0] for o in lines[:-1]] == ['q1-8', 'q1-9', 'q2-1', 'q2-2', 'q2-3', 'q2-4']
    assert all('SYNTHETIC' in o for o in lines[:-1]), 'nobody must take these numbers for real ones'
    with zipfile.ZipFile(made) as z:
        wheels = {o for o in z.namelist() if o.startswith('hw4/hw4-') and o.endswith('.whl')}
        assert len(wheels) == 1 and set(z.namelist()) == NAMES | wheels
        assert z.read('hw4/report.pdf').startswith(b'%PDF')
        for name in NOTEBOOKS:
            cells = [o for o in json.loads(z.read(f'hw4/{name}.ipynb'))['cells'] if o['cell_type'] == 'code']
            kinds = [k for o in cells for out in o['outputs'] for k in out.get('data', {})]
            assert all(o['execution_count'] for o in cells) and kinds.count('image/png') >= 3, f'{name}: its figures are not inside'


@pytest.mark.slow
def test_wheel_holds_every_module(tmp_path):
    "What is imported from the clone is in the wheel, and building it leaves the clone as it was"
    before = sorted(os.listdir(ROOT))
    with zipfile.ZipFile(build_wheel(tmp_path)) as z: packed = {o for o in z.namelist() if o.startswith('hw4/')}
    assert packed == {o.relative_to(ROOT).as_posix() for end in ('*.py', '*.csv') for o in (ROOT/'hw4').rglob(end)}
    assert sorted(os.listdir(ROOT)) == before
