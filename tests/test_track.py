"The bridges: a record arrives in MLflow whole and once, on a real server too; TensorBoard goes on where a killed run does."
import http.server
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace

os.environ['MLFLOW_DISABLE_TELEMETRY'] = 'true'  # MLflow looks at this when it is imported: no word of these tests to its makers

import numpy as np
import pandas as pd
import pytest
from fastai.callback.core import Callback
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hw4.data.synth import scenes_twin
from hw4.study import track
from hw4.study.records import write_record
from hw4.study.run import run
from hw4.study.spec import Spec
from hw4.study.track import Board, to_mlflow

SPEC = Spec('segment', 'scenes', 'resnet18', (48, 32), regime='scratch', weights=None, freeze_epochs=1, epochs=2, bs=4, stride=32, precision='float32')


@pytest.fixture(scope='module')
def roads(tmp_path_factory): return scenes_twin(tmp_path_factory.mktemp('roads')/'roads', n_train=8, n_val=2)


@pytest.fixture(scope='module')
def record(roads, tmp_path_factory): return run(SPEC, path=roads, store=tmp_path_factory.mktemp('runs'), watch=False)


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as o: return o.getsockname()[1]


@pytest.fixture
def server(tmp_path):
    "A real MLflow server with a database and a folder of its own; yields its address"
    port = free_port()
    (tmp_path/'empty').mkdir()
    env = os.environ | dict(MLFLOW_SERVER_ENABLE_JOB_EXECUTION='false')  # one process serves, nothing else is started
    command = [sys.executable, '-m', 'mlflow', 'server', '--host', '127.0.0.1', '--port', str(port), '--workers', '1',
               '--backend-store-uri', f'sqlite:///{tmp_path}/server.db', '--artifacts-destination', str(tmp_path/'files')]
    with open(tmp_path/'server.log', 'w') as log:
        process = subprocess.Popen(command, cwd=tmp_path/'empty', env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f'http://127.0.0.1:{port}/health', process, tmp_path/'server.log')
        yield f'http://127.0.0.1:{port}'
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # its own session: the server and the worker it started
        process.wait(30)


def wait_for(url, process, log, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try: return urllib.request.urlopen(url, timeout=2).read()
        except OSError: time.sleep(.1)
    pytest.fail(f'the MLflow server did not start:\n{log.read_text()[-2000:]}')


def runs_of(client, experiment='hw4'): return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def points(client, ident, name): return [(o.step, o.value) for o in client.get_metric_history(ident, name)]


def made_up(store, name='a-s0', vocab=('Sky', 'Sea'), **result):
    "A small record by hand"
    result = dict(metrics={'miou': .5} | {f'iou {o}': .5 for o in vocab}, seconds=1., finished='2026-01-31T12:00:00+00:00') | result
    return write_record(store, name, {
        'spec.json': dict(spec=SPEC.to_dict(), seed=0, resolved=dict(vocab=list(vocab), weights=None)), 'fingerprint.json': {},
        'environment.json': dict(images='x', synthetic=True, device=dict(name='cpu', precision='float32'), hw4='0', commit=None),
        'history.csv': pd.DataFrame(dict(epoch=[0, 1], train_loss=[.7, .6])), 'result.json': result})


def test_a_server(record, server, tmp_path, monkeypatch):
    "Everything arrives on a real server, once, and what is asked for later is added to it"
    monkeypatch.chdir(tmp_path/'empty')
    ident = to_mlflow(record, server, experiment='roads')
    client = MlflowClient(server)
    there = client.get_run(ident)
    assert there.info.status == 'FINISHED' and there.info.run_name == record.run_id
    assert abs(there.info.end_time - there.info.start_time - 1000*record.result['seconds']) <= 1

    said = there.data.params
    assert set(said) == set(SPEC.to_dict()) | {'seed'}
    assert (said['arch'], said['size'], said['lr'], said['weights'], said['freeze_epochs'], said['seed']) == ('resnet18', '48x32', '0.001', 'None', '1', '0')

    assert there.data.tags['hw4.run_id'] == record.run_id
    assert there.data.tags['hw4.device'] == record.environment['device']['name'] and there.data.tags['hw4.precision'] == 'float32'
    assert 'SYNTHETIC' in there.data.tags['hw4.images']

    for name in record.history.columns.drop('epoch'):
        assert points(client, ident, name) == list(enumerate(record.history[name])), name
    for name, value in record.metrics.items():
        assert points(client, ident, f'final/{name}') == ([] if value is None else [(2, value)]), name
    assert None in record.metrics.values()  # a class that is nowhere

    assert {o.path for o in client.list_artifacts(ident)} == {'spec.json', 'environment.json', 'result.json', 'fingerprint.json', 'history.csv', 'figures'}
    before = {k: points(client, ident, k) for k in there.data.metrics}
    assert to_mlflow(record, server, experiment='roads') == ident
    assert to_mlflow(record, server + '/', experiment='roads', images=True, model=True) == ident
    assert len(runs_of(client, 'roads')) == 1
    assert {k: points(client, ident, k) for k in there.data.metrics} == before
    for file in record.path.rglob('*.*'):
        name = file.relative_to(record.path).as_posix()
        assert open(client.download_artifacts(ident, name, tmp_path), 'rb').read() == file.read_bytes(), name
    assert len(client.list_artifacts(ident)) == 9
    assert not list((tmp_path/'empty').iterdir())


def test_a_fresh_process(tmp_path):
    "A local database: no word to anybody, nothing in the current folder, nothing set for good"
    made_up(tmp_path/'runs')
    (tmp_path/'empty').mkdir()
    script = f'''
import os, sys
told = []
sys.addaudithook(lambda event, args: told.append((event, args)) if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto') else None)
from hw4.study.records import Record
from hw4.study.track import to_mlflow
from pathlib import Path
before = dict(os.environ)
to_mlflow(Record(Path({str(tmp_path/'runs'/'a-s0')!r})), 'sqlite:///../here/it is.db')
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
assert not told, told
import mlflow
assert mlflow.active_run() is None and 'here' not in mlflow.get_tracking_uri()
'''
    # as a user has it: MLflow keeps to itself under pytest anyhow; what it would send carries a number that it writes to the configuration folder
    env = {k: v for k, v in os.environ.items() if 'MLFLOW' not in k and k not in ('PYTEST_CURRENT_TEST', 'CI')} | dict(XDG_CONFIG_HOME=str(tmp_path/'config'))
    said = subprocess.run([sys.executable, '-c', script], cwd=tmp_path/'empty', env=env, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert not said.stdout and not list((tmp_path/'empty').iterdir()) and not (tmp_path/'config'/'mlflow').exists()
    assert {o.name for o in (tmp_path/'here').iterdir()} == {'it is.db', 'it is-artifacts'}


def test_a_broken_off_attempt(tmp_path, monkeypatch):
    "What is missing or half there is sent; what is there stays single"
    one, uri = made_up(tmp_path), f'sqlite:///{tmp_path}/mlflow.db'
    with monkeypatch.context() as m:
        def fail(*args, **kwargs): raise MlflowException('the line is cut')
        m.setattr(MlflowClient, 'set_terminated', fail)
        with pytest.raises(ValueError, match='did not take a-s0: the line is cut'): to_mlflow(one, uri)
    client = MlflowClient(uri)
    (left,) = runs_of(client)
    sent = tmp_path/'mlflow-artifacts'/left.info.run_id/'artifacts'
    (sent/'history.csv').write_text('epo')
    assert left.info.status == 'RUNNING'
    assert to_mlflow(one, uri) == left.info.run_id
    assert len(runs_of(client)) == 1 and client.get_run(left.info.run_id).info.status == 'FINISHED'
    assert points(client, left.info.run_id, 'train_loss') == [(0, .7), (1, .6)]
    assert (sent/'history.csv').read_bytes() == (one.path/'history.csv').read_bytes()
    assert 'MLFLOW_HTTP_REQUEST_MAX_RETRIES' not in os.environ


def test_same_name_other_run(tmp_path):
    "A run of the same name from another day or machine is another run; a deleted one is sent anew"
    uri = f'sqlite:///{tmp_path}/mlflow.db'
    first, other = made_up(tmp_path/'a'), made_up(tmp_path/'b', finished='2026-02-01T12:00:00+00:00')
    ident = to_mlflow(first, uri)
    assert to_mlflow(other, uri) != ident == to_mlflow(first, uri)
    client = MlflowClient(uri)
    client.delete_run(ident)
    assert to_mlflow(first, uri) != ident
    client.delete_experiment(client.get_experiment_by_name('hw4').experiment_id)
    with pytest.raises(ValueError, match="'hw4' was deleted there"): to_mlflow(first, uri)
    assert to_mlflow(first, uri, experiment='hw4 again')


def test_names_and_folders(tmp_path):
    "Class names and folders of any characters; a history longer than MLflow takes at once"
    names = ('a/b', 'a*b', '..', 'Bäume', 'x'*300, "it's", '%s: #1?')
    one = made_up(tmp_path/'runs', vocab=names)
    pd.DataFrame(dict(epoch=range(1100), train_loss=np.linspace(1, .5, 1100))).to_csv(one.path/'history.csv', index=False)
    ident = to_mlflow(one, f'sqlite:///{tmp_path}/a folder #1 of 100%/mlflow.db')
    client = MlflowClient(f'sqlite:///{tmp_path}/a folder #1 of 100%/mlflow.db')
    assert len(client.get_run(ident).data.metrics) == len(names) + 2
    assert len(points(client, ident, 'train_loss')) == 1100
    assert len(list((tmp_path/'a folder #1 of 100%'/'mlflow-artifacts'/ident/'artifacts').iterdir())) == 5
    assert json.loads(open(client.download_artifacts(ident, 'result.json', tmp_path)).read()) == one.result


def test_no_server(tmp_path, monkeypatch):
    "Nobody there, nobody answering, somebody else: said within seconds"
    one = made_up(tmp_path)
    start = time.monotonic()
    address = f'http://127.0.0.1:{free_port()}'
    with pytest.raises(ValueError, match=re.escape(address)): to_mlflow(one, address)
    monkeypatch.setattr(track, 'PATIENCE', 1)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        with pytest.raises(ValueError, match='did not take a-s0'): to_mlflow(one, f'http://127.0.0.1:{silent.getsockname()[1]}')
    assert time.monotonic() - start < 15
    with http.server.HTTPServer(('127.0.0.1', 0), type('Other', (http.server.BaseHTTPRequestHandler,), dict(log_message=lambda *o: None))) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(ValueError, match='did not take a-s0'): to_mlflow(one, f'http://127.0.0.1:{other.server_port}')
        other.shutdown()


def test_wrong_address(tmp_path):
    one = made_up(tmp_path)
    for uri in ('mlflow.db', 'sqlite:///', 'postgresql://x/y', 'file:///tmp'):
        with pytest.raises(ValueError, match='expected sqlite:///FILE.db'): to_mlflow(one, uri)
    with pytest.raises(ValueError, match='cannot be used as a database'): to_mlflow(one, f'sqlite:///{one.path}/result.json')
    with pytest.raises(ValueError, match='cannot be used as a database'): to_mlflow(one, f'sqlite:///{one.path}')


def test_without_the_extra(tmp_path, monkeypatch):
    one = made_up(tmp_path)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r"mlflow, not installed here: pip install 'hw4\[track\]'"): to_mlflow(one, 'http://127.0.0.1:9')
    with pytest.raises(ValueError, match=r"mlflow and sqlalchemy and alembic.*pip install 'hw4\[track\]'"): to_mlflow(one, f'sqlite:///{tmp_path}/a.db')
    with pytest.raises(ValueError, match=r"tensorboard, not installed here: pip install 'hw4\[track\]'"): Board(tmp_path)
    assert not (tmp_path/'a.db').exists()


class Kill(Callback):
    "End the run in the middle of an epoch"
    def __init__(self, at): self.at = at
    def before_batch(self):
        if self.training and len(self.learn.checkpoint.rows) == self.at and self.iter == 1: raise RuntimeError('killed')


@pytest.mark.parametrize('spec, at', [(SPEC, 1), (SPEC, 2), (replace(SPEC, freeze_epochs=0), 1)])
def test_board(spec, at, roads, tmp_path):
    "A watched run, killed and gone on with, gives the unwatched one's predictions and one unbroken board"
    plain = run(spec, path=roads, store=tmp_path/'plain', watch=False)
    how = dict(path=roads, store=tmp_path/'runs')
    with pytest.raises(RuntimeError, match='killed'): run(spec, watch=[Board(tmp_path/'board'), Kill(at)], **how)
    time.sleep(1.1)  # event files are read in the order of their names, which hold whole seconds
    seen = run(spec, watch=[Board(tmp_path/'board')], **how)
    pd.testing.assert_frame_equal(seen.predictions, plain.predictions)
    pd.testing.assert_frame_equal(seen.history, plain.history)
    assert [o.name for o in (tmp_path/'board').iterdir()] == [plain.run_id]
    board = EventAccumulator(str(tmp_path/'board'/plain.run_id), size_guidance=dict(scalars=0)).Reload()
    epochs = len(plain.history)  # of two batches each
    assert [o.step for o in board.Scalars('train_loss')] == list(range(1, 2*epochs + 1))
    for name in ('valid_loss', 'miou', 'pixel_acc'):
        assert [o.step for o in board.Scalars(name)] == list(range(2, 2*epochs + 1, 2))
        assert np.allclose([o.value for o in board.Scalars(name)], plain.history[name])
