"From a spec to a record and back: reproducible, nothing of the caller's changed, killed and taken up again."
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hw4.data.synth import portraits_twin, scenes_twin
from hw4.study import checkpoint
from hw4.study.index import INDEX, table
from hw4.study.records import measure, records, write_record
from hw4.study.run import evaluate, run
from hw4.study.spec import Spec
from tests.killed import PLAIN, ends_as_unbroken

FACES = Spec('classify', 'portraits', 'resnet18', (40, 32), regime='scratch', weights=None, epochs=3, bs=8, augment='whole_face', precision='float32')
ROADS = Spec('segment', 'scenes', 'resnet18', (48, 64), regime='scratch', weights=None, epochs=2, freeze_epochs=1, bs=2, augment='scene', stride=16,
             precision='float32')


@pytest.fixture(scope='module')
def twins(tmp_path_factory):
    "Tiny twins of both kinds"
    root = tmp_path_factory.mktemp('twins')
    return dict(portraits=portraits_twin(root/'faces', n_train=12, n_val=4), scenes=scenes_twin(root/'roads', n_train=4, n_val=3))


@pytest.mark.parametrize('spec', [FACES, ROADS], ids=['faces', 'roads'])
def test_same_seed_same_result(spec, twins, tmp_path):
    "Twice the same seed: the same history and predictions, whatever was drawn in between"
    a = run(spec, 3, path=twins[spec.dataset], store=tmp_path/'a', device=PLAIN)
    random.random(), np.random.rand()
    b = run(spec, 3, path=twins[spec.dataset], store=tmp_path/'b', device=PLAIN)
    pd.testing.assert_frame_equal(a.history.drop(columns='time', errors='ignore'), b.history.drop(columns='time', errors='ignore'))
    pd.testing.assert_frame_equal(a.predictions, b.predictions)
    assert measure(spec.task, evaluate(a, twins[spec.dataset], device=PLAIN), a.vocab) == a.metrics


def test_learner_from_record(twins, tmp_path):
    "A record gives a learner back that says the same of the same images"
    from hw4.study.build import build_dls, open_layout
    record = run(FACES, path=twins['portraits'], store=tmp_path, device=PLAIN)
    dls = build_dls(FACES, open_layout(FACES, twins['portraits']), PLAIN)
    learn = record.learner(dls, PLAIN)
    with learn.no_bar(): preds, targs = learn.get_preds()
    assert float((preds.argmax(1) == targs).float().mean()) == pytest.approx(record.metrics['accuracy'])


def test_images_decide_the_name(twins, tmp_path):
    "Another image under the same name is another run; the same images elsewhere are the same run"
    import shutil
    record = run(FACES, path=twins['portraits'], store=tmp_path/'runs', device=PLAIN)
    moved = shutil.copytree(twins['portraits'], tmp_path/'moved')
    assert run(FACES, path=moved, store=tmp_path/'runs', device=PLAIN).path == record.path
    first, second = sorted((moved/'train'/'heavy_makeup').iterdir())[:2]
    shutil.copy(first, second)
    assert run(FACES, path=moved, store=tmp_path/'runs', device=PLAIN).path != record.path


@pytest.mark.parametrize('frozen, all_of_it, n', [(1, 2, 1), (1, 2, 2), (2, 1, 1), (0, 2, 1)])
def test_a_run_goes_on_inside_any_stage(twins, tmp_path, frozen, all_of_it, n):
    "A run that was stopped after `n` epochs ends like the unbroken one, also where only the head was trained at first"
    spec = replace(FACES, freeze_epochs=frozen, epochs=all_of_it)
    ends_as_unbroken(spec, n, path=twins['portraits'], tmp_path=tmp_path)


@pytest.mark.parametrize('frozen', [0, 1])
def test_a_run_goes_on_from_an_older_checkpoint(twins, tmp_path, monkeypatch, frozen):
    "Where a file takes too long to be written after each epoch, more is trained again, and nothing else changes"
    monkeypatch.setattr(checkpoint, 'CHEAP', 0)
    monkeypatch.setattr(checkpoint, 'SHARE', 1e-9)  # so only the first epoch is kept
    ends_as_unbroken(replace(FACES, freeze_epochs=frozen, epochs=4 - frozen), 3, path=twins['portraits'], tmp_path=tmp_path, kept=1)


def start(store, path, seed=0):
    "A run in a process of its own, that can be killed"
    code = f"from tests.test_e2e import *; run(FACES, {seed}, path={str(path)!r}, store={str(store)!r}, device=PLAIN, watch=False)"
    return subprocess.Popen([sys.executable, '-c', code], cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_killed_at_random_moments(twins, tmp_path):
    "kill -9 at 20 moments: the store is always readable, nothing half counts, and the resumed run ends like the unbroken one"
    rng = random.Random(0)
    began = time.monotonic()
    assert start(tmp_path/'whole', twins['portraits']).wait() == 0
    took = time.monotonic() - began
    whole = records(tmp_path/'whole')[0]
    for i in range(20):
        store = tmp_path/f'broken{i}'
        process = start(store, twins['portraits'])
        time.sleep(rng.uniform(.3, 1.)*took)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(records(store)) == len(table(store)) <= 1
        assert all(len(o.predictions) == 8 and o.metrics for o in records(store))
        assert start(store, twins['portraits']).wait() == 0
        resumed, = records(store)
        assert resumed.metrics == whole.metrics
        np.testing.assert_array_equal(np.stack(resumed.predictions.logits), np.stack(whole.predictions.logits))


def write_many(store, process, n=50):
    "Write `n` small records, as one of several processes"
    for i in range(n):
        spec = Spec('classify', 'portraits', 'resnet18', (64, 48), lr=1e-3*(i + 1))
        predictions = pd.DataFrame(dict(file=['1.jpg', '2.jpg'], truth=['cat', 'dog'], logits=[[1., 0.], [0., 1.]]))
        write_record(store, f'run{i}-s{process}', {
            'spec.json': dict(spec=spec.to_dict(), seed=process, resolved=dict(vocab=['cat', 'dog'])), 'predictions.parquet': predictions,
            'environment.json': dict(path='faces', synthetic=False),
            'result.json': dict(metrics=measure('classify', predictions, ['cat', 'dog']), seconds=1., finished=f'2020-01-01T00:{i:02d}')})
        if i % 10 == 0: table(store)


def test_four_processes_write_at_once(tmp_path):
    "Four processes, fifty records each, the index read and rebuilt meanwhile: two hundred readable records"
    import multiprocessing
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context('spawn')) as pool:
        for o in [pool.submit(write_many, tmp_path, p) for p in range(4)]: o.result()
    assert len(records(tmp_path)) == len(table(tmp_path)) == 200
    assert all(o.metrics == dict(accuracy=1.) and len(o.predictions) == 2 for o in records(tmp_path))


def test_one_run_asked_for_by_two(tmp_path):
    "Two writers of one name: one record, and no temporary folder left"
    for _ in range(2): write_many(tmp_path, 0, n=1)
    assert [o.name for o in tmp_path.iterdir() if o.name != INDEX] == ['run0-s0']


@pytest.mark.slow
def test_ten_thousand_records_in_a_second(tmp_path):
    "The table of 10,000 records, its index known"
    first = tmp_path/'run0-s0'
    write_many(tmp_path, 0, n=1)
    for i in range(1, 10_000):
        other = tmp_path/f'copy{i}'
        other.mkdir()
        for name in ('spec.json', 'environment.json', 'result.json'): os.link(first/name, other/name)
    began = time.monotonic(); table(tmp_path); built = time.monotonic() - began
    began = time.monotonic(); rows = table(tmp_path); took = time.monotonic() - began
    print(f'10,000 records: index built in {built:.1f} s, table in {took:.2f} s')
    assert len(rows) == 10_000 and took < 1
