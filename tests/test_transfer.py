"Regimes: what is trained, what is frozen, and that nothing frozen moves."
import copy
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from fastai.callback.core import Callback, CancelEpochException, CancelFitException, CancelTrainException
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.data.transforms import Normalize
from fastai.learner import AvgSmoothLoss, Recorder
from fastai.optimizer import Adam, SGD
from fastai.torch_core import TensorCategory, TensorImage
from fasttransform import Pipeline
from torch import nn
from torchvision import models

from hw4.data.synth import portraits_twin, scenes_twin
from hw4.learn.backbones import backbone
from hw4.learn.device import Device, UseDevice, best_device, trains_depthwise
from hw4.learn.later import LossesLater
from hw4.learn.transfer import Classifier, FrozenEval, clas_learner, group_params, make_learner
from hw4.learn.weights import WeightsError

PLAIN = Device('cpu', 'float32', False, 1)
FAST = Device('cpu', 'bfloat16', True, 1)


def two_classes(n=8, size=64, bs=4):
    "Seeded random images with two classes, the same ones each time"
    g = torch.Generator().manual_seed(0)
    items = [(torch.rand(3, size, size, generator=g), torch.tensor(i % 2)) for i in range(n)]
    dls = DataLoaders(*[DataLoader(items, bs=bs) for _ in range(2)])
    dls.vocab = ['no', 'yes']
    return dls


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "Seeded random nets on disk, in the place of published weights"
    folder = tmp_path_factory.mktemp('weights')
    torch.manual_seed(0)
    torch.save(models.alexnet().state_dict(), folder / 'alexnet.pth')
    for arch in ('resnet18', 'mobilenetv3_small_100', 'vit_tiny_patch16_224', 'convnext_atto'):
        torch.save(backbone(arch, None).body.state_dict(), folder / f'{arch}.pth')
    return folder


def learner(files, arch='resnet18', regime='feature_extract', size=64, n=8, **kwargs):
    kwargs = dict(device=PLAIN, metrics=None) | kwargs
    if regime != 'scratch': kwargs['weights'] = files / f'{arch}.pth'
    return clas_learner(two_classes(n, size), arch, regime=regime, **kwargs)


def snapshot(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def moved(model, before):
    return [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]


def fit(learn, epochs=1, lr=1e-3):
    with learn.no_logging(), learn.no_bar(): learn.fit(epochs, lr)


def test_alexnet_feature_extractor_trains_8194_parameters(files):
    learn = learner(files, 'alexnet')
    assert sum(p.numel() for p in learn.model.parameters() if p.requires_grad) == 4096 * 2 + 2
    before = snapshot(learn.model)
    fit(learn)
    assert moved(learn.model, before) == ['head.weight', 'head.bias']
    state = torch.load(files / 'alexnet.pth', weights_only=True)
    assert all(torch.equal(learn.model.body.state_dict()[k], v) for k, v in state.items() if not k.startswith('classifier.6'))
    assert learn.model.weights.name == 'alexnet'


def test_alexnet_groups(files):
    early, late, head = learner(files, 'alexnet').model.groups()
    assert [type(o).__name__ for o in early if next(o.parameters(), None) is not None] == ['Conv2d'] * 3
    assert [type(o).__name__ for o in late if next(o.parameters(), None) is not None] == ['Conv2d'] * 2 + ['Linear'] * 2
    assert sum(isinstance(o, nn.Dropout) for o in late) == 2 and not any(isinstance(o, nn.Dropout) for o in early)
    assert [type(o).__name__ for o in head] == ['Linear']


class Gradients(Callback):
    "Which groups a gradient reached, before the optimizer steps"
    def before_step(self):
        self.reached = [any(p.grad is not None and p.grad.abs().sum() > 0 for p in ps) for ps in group_params(self.model)]
        self.complete = all(p.grad is not None for p in self.model.parameters() if p.requires_grad)


@pytest.mark.parametrize('arch, size', [('resnet18', 64), ('vit_tiny_patch16_224', 224), ('convnext_atto', 64)])
@pytest.mark.parametrize('regime, wanted', [('feature_extract', [0, 0, 1]), ('last_groups', [0, 1, 1]), ('fine_tune', [1, 1, 1]), ('scratch', [1, 1, 1])])
def test_gradients_reach_the_groups_of_the_regime(files, arch, size, regime, wanted):
    seen = Gradients()
    learn = learner(files, arch, regime, size=size, n=4, cbs=seen)
    fit(learn)
    assert (seen.reached, seen.complete) == ([bool(o) for o in wanted], True)


def test_freeze_to_moves_late_and_head_only(files):
    seen = Gradients()
    learn = learner(files, regime='fine_tune', cbs=seen)
    learn.freeze_to(-2)
    before = snapshot(learn.model)
    fit(learn)
    assert seen.reached == [False, True, True]
    early = {id(v) for o in learn.model.groups()[0] for v in [*o.parameters(), *o.buffers()]}
    names = [n for n, v in [*learn.model.named_parameters(), *learn.model.named_buffers()] if id(v) in early]
    assert names and not set(names) & set(moved(learn.model, before))
    assert 'body.layer4.1.bn2.running_mean' in moved(learn.model, before)


@pytest.mark.parametrize('bn_stats', ['batch', 'running'])
@pytest.mark.parametrize('opt', [Adam, SGD])
def test_last_groups_leave_the_early_half_bit_identical(files, bn_stats, opt):
    "Parameters and BatchNorm statistics, whatever the optimiser and its weight decay"
    learn = learner(files, regime='last_groups', bn_stats=bn_stats, opt_func=opt, wd=.1)
    before = snapshot(learn.model)
    fit(learn, 2, lr=slice(1e-5, 1e-3))
    early = {id(v) for o in learn.model.groups()[0] for v in o.state_dict(keep_vars=True).values()}
    still = {k for k, v in learn.model.state_dict(keep_vars=True).items() if id(v) in early}
    names = set(moved(learn.model, before))
    assert {'body.conv1.weight', 'body.bn1.running_mean'} <= still and not still & names
    assert {'body.layer4.1.conv2.weight', 'head.weight', 'head.bias'} <= names
    assert ('body.layer4.1.bn2.running_mean' in names) == (bn_stats == 'batch')


def test_frozen_means_frozen_after_having_been_trained(files):
    "Left-over gradients, momentum and weight decay must not move what was trained before and is frozen now"
    for opt in (Adam, SGD):
        learn = learner(files, regime='fine_tune', opt_func=opt, wd=.1)
        fit(learn)
        learn.freeze()
        before = snapshot(learn.model)
        fit(learn)
        assert moved(learn.model, before) == ['head.weight', 'head.bias']


class Modes(Callback):
    "Training flags while a batch is trained"
    def before_batch(self):
        if self.training: self.on = {n: m.training for n, m in self.model.named_modules()}


def test_dropout_of_a_frozen_timm_net_is_off(files):
    modes = Modes()
    learn = learner(files, 'mobilenetv3_small_100', cbs=modes)  # timm drops out by the flag of the net itself
    learn.model.body.drop_rate = .9
    fit(learn)
    assert modes.on == {n: not n.startswith('body') for n in modes.on}
    learn.model.train()
    learn.frozen_eval.before_train()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad(): assert torch.equal(learn.model.body(x), learn.model.body(x))
    learn.unfreeze()
    learn.model.train()
    learn.frozen_eval.before_train()
    with torch.no_grad(): assert not torch.equal(learn.model.body(x), learn.model.body(x))


@pytest.mark.parametrize('bn_stats, still', [('batch', False), ('running', True)])
def test_bn_stats(files, bn_stats, still):
    learn = learner(files, regime='fine_tune', bn_stats=bn_stats)
    before = snapshot(learn.model)
    fit(learn)
    names = moved(learn.model, before)
    assert ('body.bn1.running_mean' not in names) == still and 'body.bn1.weight' in names


def test_slice_gives_three_rates(files):
    learn = learner(files, regime='fine_tune')
    fit(learn, lr=slice(1e-4, 1e-2))
    assert list(learn.opt.hypers.attrgot('lr')) == pytest.approx([1e-4, 1e-3, 1e-2])
    fit(learn, lr=1e-3)
    assert list(learn.opt.hypers.attrgot('lr')) == pytest.approx([1e-3] * 3)


def test_fastai_schedules_work(files, tmp_path):
    learn = learner(files, path=tmp_path)
    with learn.no_logging(), learn.no_bar():
        before = snapshot(learn.model)
        learn.lr_find(num_it=4, show_plot=False)
        assert moved(learn.model, before) == []
        learn.fit_one_cycle(1, 1e-3)
        assert moved(learn.model, before) == ['head.weight', 'head.bias']
        learn.fine_tune(1, 1e-3)
    assert learn.opt.frozen_idx == 0 and len(moved(learn.model, before)) > 50


def test_regimes_differ_in_the_body_alone(files):
    learns = []
    for regime in ('feature_extract', 'last_groups', 'fine_tune', 'scratch'):
        torch.manual_seed(7)
        learns.append(learner(files, regime=regime))
    norms = [(o.model.norm.mean, o.model.norm.std, o.model.head.weight) for o in learns]
    assert all(torch.equal(a, b) for other in norms[1:] for a, b in zip(norms[0], other))
    bodies = [o.model.body.conv1.weight for o in learns]
    assert torch.equal(bodies[0], bodies[1]) and torch.equal(bodies[0], bodies[2]) and not torch.equal(bodies[0], bodies[3])
    assert learns[3].model.weights is None and learns[0].model.weights == learns[1].model.weights == learns[2].model.weights


def test_same_seed_same_numbers(files):
    losses = []
    for _ in range(2):
        torch.manual_seed(7)
        learn = learner(files, regime='fine_tune')
        fit(learn)
        losses.append([float(o) for o in learn.recorder.losses])
    assert losses[0] == losses[1]


def test_weights_that_cannot_be_had_leave_no_learner(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr('hw4.learn.weights.urlopen', lambda *_, **__: (_ for _ in ()).throw(OSError('no network')))
    with pytest.raises(WeightsError, match='Ways out'): clas_learner(two_classes(), 'alexnet', regime='feature_extract')


def test_a_copied_and_a_pickled_model_keep_their_groups(files, tmp_path):
    model = learner(files, 'vit_tiny_patch16_224').model
    torch.save(model, tmp_path / 'model.pth')
    for other in (copy.deepcopy(model), torch.load(tmp_path / 'model.pth', weights_only=False)):
        assert [len(o) for o in group_params(other)] == [len(o) for o in group_params(model)]
        assert not {id(p) for p in other.parameters()} & {id(p) for p in model.parameters()}
    assert any(p is model.body.cls_token for p in group_params(model)[0])


def test_dls_without_classes_and_on_another_device():
    dls = two_classes()
    del dls.vocab
    with pytest.raises(ValueError, match='how many classes'): clas_learner(dls, 'resnet18', regime='scratch')
    dls = two_classes()
    dls.device = torch.device('cpu')
    model = Classifier(backbone('resnet18', None), 2)
    with pytest.raises(ValueError, match='the dls are on cpu'):
        make_learner(dls, model, device=Device('cuda', 'float32', False, 1), loss_func=nn.CrossEntropyLoss())


def test_dls_that_normalise_are_refused():
    dls = two_classes()
    dls.train.after_batch = Pipeline([Normalize.from_stats((.5,) * 3, (.5,) * 3, cuda=False)])
    with pytest.raises(ValueError, match='build the dls without Normalize'): clas_learner(dls, 'resnet18', regime='scratch', device=PLAIN)


class Types(Callback):
    "Types of what the loss sees, and of what the net gives inside"
    order = UseDevice.order - 1
    def before_batch(self): self.laid_out = self.xb[0].is_contiguous(memory_format=torch.channels_last)
    def after_pred(self): self.inside = self.pred.dtype
    def after_loss(self): self.outside = (self.pred.dtype, self.loss_grad.dtype, type(self.pred))


@pytest.mark.parametrize('device', [PLAIN, FAST])
def test_losses_and_predictions_are_float32(files, device):
    types, late = Types(), Types()
    late.order = UseDevice.order + 1
    learn = learner(files, regime='fine_tune', device=device, cbs=[types, late])
    items = [(TensorImage(x), TensorCategory(y)) for x, y in learn.dls.train.dataset]
    learn.dls = DataLoaders(*[DataLoader(items, bs=4) for _ in range(2)])
    fit(learn)
    assert types.inside == (torch.float32 if device is PLAIN else torch.bfloat16)
    assert types.outside == (torch.float32, torch.float32, torch.Tensor)
    assert late.laid_out == device.channels_last
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in learn.model.parameters())
    assert learn.get_preds()[0].dtype == torch.float32


def test_reduced_precision_is_close(files):
    preds = []
    for device in (PLAIN, FAST):
        torch.manual_seed(0)
        preds.append(learner(files, device=device).get_preds()[0])
    torch.testing.assert_close(*preds, rtol=0, atol=.02)


def test_a_failing_batch_leaves_nothing_on(files):
    learn = learner(files, regime='fine_tune', device=Device('cpu', 'bfloat16', True, 1))
    threads = torch.get_num_threads()
    good, learn.dls = learn.dls, DataLoaders(*[DataLoader([(torch.rand(5, 8, 8), torch.tensor(0))] * 4, bs=4) for _ in range(2)])
    with pytest.raises(Exception, match='must match the size'): fit(learn)
    assert not torch.is_autocast_enabled('cpu')
    learn.dls = good
    fit(learn)
    assert not learn.model._forward_pre_hooks and not learn.model._forward_hooks and torch.get_num_threads() == threads


class End(Callback):
    "Raises an error after the first training batch"
    order = Recorder.order + 1

    def __init__(self, error): self.error = error

    def after_batch(self):
        if self.error and self.training: raise self.error('enough')


@pytest.mark.parametrize('error', [None, CancelTrainException, CancelEpochException, CancelFitException, KeyboardInterrupt, ZeroDivisionError])
def test_however_a_training_ends_threads_are_given_back_and_losses_fetched(files, error):
    before, later = torch.get_num_threads(), LossesLater()
    learn = learner(files, device=PLAIN, cbs=later)
    torch.set_num_threads(2)
    try:
        with pytest.raises(error) if error in (KeyboardInterrupt, ZeroDivisionError) else nullcontext():
            with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=End(error))
        assert PLAIN.threads == 1 and torch.get_num_threads() == 2
    finally: torch.set_num_threads(before)
    assert later.here == len(learn.recorder.losses) == (1 if error else 2)
    assert not [o for o in learn.cbs if isinstance(o, End)]


def test_losses_are_left_alone_where_nobody_or_somebody_else_keeps_them(files):
    class Own(AvgSmoothLoss): pass
    learn = learner(files, device=PLAIN, cbs=LossesLater())
    learn.recorder.smooth_loss = own = Own()
    fit(learn)
    assert learn.recorder.smooth_loss is own and len(learn.recorder.losses) == 2
    learn.remove_cb(learn.recorder)
    fit(learn)


def test_auto_trains_mobile_nets_in_float32(files):
    auto = Device('cpu', 'bfloat16', True, 1, depthwise='float32')
    mobile, resnet, convnext = (Classifier(backbone(o, None), 2) for o in ('mobilenetv3_small_100', 'resnet18', 'convnext_atto'))
    assert [auto.precision_for(o) for o in (mobile, resnet, convnext)] == ['float32', 'bfloat16', 'bfloat16']
    with torch.no_grad(): assert auto.precision_for(mobile) == 'bfloat16'
    mobile.body.requires_grad_(False)
    assert not trains_depthwise(mobile)  # a frozen body only runs forward
    assert best_device('cpu', 'bfloat16').depthwise is None


def test_frozen_eval_order():
    assert FrozenEval.order > -10  # after fastai's TrainEvalCallback, which puts the whole net into training mode


FRESH = """
import sys
import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
from hw4.data.camvid import THREE, camvid_dls
from hw4.data.celeba import celeba_dls
from hw4.learn.fcn import fcn_learner
from hw4.learn.transfer import clas_learner
from fastai.interpret import ClassificationInterpretation

def drawn():
    "How many axes each figure has, which is then closed"
    axes = [len(plt.figure(o).axes) for o in plt.get_fignums()]
    plt.close('all')
    return axes

learn = clas_learner(celeba_dls(sys.argv[1], size=(32, 32), bs=4, device='cpu'), 'resnet18', regime='scratch')
with learn.no_bar(), learn.no_logging():
    learn.show_results(max_n=4, figsize=(4, 3))
    assert drawn() == [4]
    assert 'Total trainable params: 11,177,538' in learn.summary()
    ClassificationInterpretation.from_learner(learn).plot_top_losses(4)
    assert drawn() == [4]
learn = fcn_learner(camvid_dls(sys.argv[2], remap=THREE, size=(32, 32), bs=2, device='cpu'), 'resnet18', stride=8, regime='scratch')
with learn.no_bar(), learn.no_logging():
    learn.show_results(max_n=2)
    assert drawn() == [5]  # two truths, two predictions, one legend
"""


def fresh(code, *args):
    "Run code in a new process, where nothing is imported yet"
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', code, *map(str, args)], capture_output=True, text=True, env=os.environ)


def test_the_imports_of_the_readme_are_enough_to_look_at_results(tmp_path):
    ran = fresh(FRESH, portraits_twin(tmp_path / 'faces', n_train=4, n_val=4), scenes_twin(tmp_path / 'roads', n_train=4, n_val=4))
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_metrics_do_without_the_images_of_fastai():
    ran = fresh('import sys, hw4.learn.metrics; print([o for o in sys.modules if o.startswith("fastai.vision")])')
    assert ran.stdout.strip() == '[]', ran.stderr[-2000:]
