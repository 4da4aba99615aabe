"What only a GPU can show: `pytest -m cuda`. Nothing waits, nothing differs, and a full memory is said in words."
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fastai.callback.core import Callback

from hw4.data.images import image_dls
from hw4.data.synth import portraits_twin, scenes_twin
from hw4.learn.device import Device, best_device
from hw4.learn.later import LossesLater
from hw4.learn.metrics import Count, confusion
from hw4.learn.transfer import clas_learner
from hw4.study.run import run
from hw4.study.spec import Spec
from tests.killed import ends_as_unbroken

os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # read once, at the first product; for `exact`
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')]
PLAIN = Device('cuda', 'float32', False, 1)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path): monkeypatch.setenv('HW4_CACHE', str(tmp_path/'cache'))


@pytest.fixture
def exact(monkeypatch):
    "Sums in an order of their own, and no shortened numbers"
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope='module')
def faces(tmp_path_factory): return portraits_twin(tmp_path_factory.mktemp('faces')/'faces', n_train=48, n_val=16)


@pytest.fixture(scope='module')
def roads(tmp_path_factory): return scenes_twin(tmp_path_factory.mktemp('roads')/'roads', n_train=6, n_val=3)


def loaders(faces, **kwargs): return image_dls(faces, size=(64, 48), bs=8, device='cuda', **dict(augment='whole_face') | kwargs)


def small(**kwargs): return Spec('classify', 'portraits', 'resnet18', (64, 48), bs=8, weights=None, regime='scratch', **dict(precision='float32') | kwargs)


class NoWaiting(Callback):
    "From the third epoch on, to wait for the GPU inside of the training is an error"
    order = LossesLater.order - 1

    def before_train(self): torch.cuda.set_sync_debug_mode('error' if self.epoch > 1 else 'default')

    def after_train(self): torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('augment, reside', [('none', 'auto'), ('flip_light', 'auto'), ('whole_face', 'auto'), ('stronger', 'auto'), ('whole_face', False)])
def test_no_batch_waits_for_the_gpu(faces, augment, reside):
    learn = clas_learner(loaders(faces, augment=augment), 'resnet18', regime='scratch')
    learn.dls.train.reside = reside
    try:
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(4, 1e-3, cbs=NoWaiting())
    finally: torch.cuda.set_sync_debug_mode('default')
    assert (learn.dls.train.resident is not None) == bool(reside)
    assert len(learn.recorder.losses) == 4*len(learn.dls.train)
    assert all(o.device.type == 'cpu' and 0 < o < 10 for o in learn.recorder.losses)


def test_an_epoch_is_counted_without_waiting():
    count, logits, targs = Count(), torch.randn(2, 4, 6, 5, device='cuda'), torch.randint(0, 5, (2, 6, 5), device='cuda')
    torch.cuda.set_sync_debug_mode('error')
    try: count.add(logits, targs), count.add(logits.clone(), targs)
    finally: torch.cuda.set_sync_debug_mode('default')
    assert torch.equal(count.whole(), 2*confusion(logits.argmax(1).cpu(), targs.cpu(), 4))


def test_a_training_that_is_broken_off_leaves_its_losses(faces):
    class Stop(Callback):
        def after_batch(self):
            if self.train_iter == 3: raise KeyboardInterrupt
    learn = clas_learner(loaders(faces), 'resnet18', regime='scratch')
    with learn.no_bar(), learn.no_logging(), pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=Stop())
    assert [o.device.type for o in learn.recorder.losses] == ['cpu']*3


def test_losses_are_there_for_whoever_draws_them(faces):
    learn = clas_learner(loaders(faces), 'resnet18', regime='scratch')
    with learn.no_bar(), learn.no_logging(): found = learn.lr_find(num_it=20, show_plot=False)
    assert 0 < found.valley < 10
    assert all(o.device.type == 'cpu' for o in learn.recorder.losses)
    learn.recorder.plot_loss(with_valid=False)


def test_images_that_stay_on_the_gpu_are_those_of_the_files(faces):
    dls = loaders(faces)
    dls.train.fix_view(0, 3)
    def shown(): return {(x.numpy().tobytes(), int(y)) for xs, ys in dls.train for x, y in zip(xs.cpu(), ys)}
    read, kept = shown(), shown()
    assert dls.train.resident is not None and read == kept


def test_processes_that_read_have_no_gpu(faces):
    learn = clas_learner(loaders(faces, workers=1), 'resnet18', regime='scratch')
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    assert learn.dls.train.resident is None


def test_the_cpu_sees_the_same_pictures(faces):
    "To bytes they are warped, to floats they are sampled: what differs is the rounding of bytes"
    def batch(device):
        dls = image_dls(faces, size=(64, 48), bs=8, device=device, augment='stronger')
        dl = dls.train.new(shuffle=False)
        dl.fix_view(0, 1)
        return next(iter(dl))[0].cpu()
    a, b = batch('cpu'), batch('cuda')
    assert (a - b).abs().median() < .01


def test_a_gpu_learns_what_a_cpu_does(faces, exact):
    "The same start and the same batch; in float32 only the order of sums differs"
    def gradients(device):
        torch.manual_seed(0)
        learn = clas_learner(image_dls(faces, size=(64, 48), bs=8, device=device.name), 'resnet18', regime='scratch', device=device)
        x, y = learn.dls.valid.one_batch()
        learn.loss_func(learn.model.train()(x), y).backward()
        return [p.grad.cpu() for p in learn.model.parameters()]
    for a, b in zip(gradients(Device('cpu', 'float32', False, 1)), gradients(PLAIN)):
        assert (a - b).norm() < .02*a.norm() + 1e-6


@pytest.mark.parametrize('spec', [small(epochs=3, augment='heavy'), small(epochs=2, augment='whole_face', mixup=.2, ema=.9)])
def test_a_killed_run_goes_on(faces, tmp_path, spec, exact):
    ends_as_unbroken(spec, 1, path=faces, tmp_path=tmp_path, device=PLAIN)


def test_a_record_of_a_gpu_is_measured_on_a_cpu(roads, tmp_path):
    spec = Spec('segment', 'scenes', 'resnet18', (48, 64), regime='scratch', weights=None, epochs=1, bs=2, stride=8, augment='scene')
    record = run(spec, path=roads, store=tmp_path, device=best_device('cuda'), watch=False)
    assert 0 <= record.metrics['miou'] <= 1
    assert next(record.model().parameters()).device.type == 'cpu'


def test_a_full_memory_is_said_in_words(faces, tmp_path):
    "A process that may have a thousandth of the GPU"
    code = 'import torch; torch.cuda.set_per_process_memory_fraction(.001); from hw4.cli import main; main()'
    told = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, 'run', 'q1-3', '--portraits', str(faces), '--size', '640x512', '--epochs', '1'],
                          env=os.environ | dict(HW4_STORE=str(tmp_path), PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get('PYTHONPATH', '')])),
                          capture_output=True, text=True)
    assert told.returncode == 1 and "hw4: the GPU's memory is full" in told.stderr and '--size' in told.stderr and 'Traceback' not in told.stderr
