"The device used well: fused steps that are fastai's, folded nets that say the same, threads, compiling, and imports that stay small."
import copy
import os
import shutil
import subprocess
import sys

import pytest
import torch
from fastai import optimizer as fastai_opts
from fastai.callback.core import Callback
from fastai.callback.schedule import SchedCos
from fastai.callback.training import GradientClip
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from torch import nn

from hw4.learn import fused as fused_room
from hw4.learn.backbones import backbone
from hw4.learn.device import Device, best_device
from hw4.learn.fcn import FCN
from hw4.learn.fold import fold_batchnorm
from hw4.learn.fused import FusedAdam, FusedSGD, adam, laid_out, sgd
from hw4.learn.transfer import Classifier, make_learner
from hw4.study.checkpoint import _plain

PLAIN = Device('cpu', 'float32', False, 1)


def three_groups():
    "Convolutions, BatchNorm and a Linear in three groups, the same numbers each time"
    torch.manual_seed(0)
    return nn.ModuleList([nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)),
                          nn.Linear(128, 2)])


def made(net, make, **hypers):
    "An optimizer as fastai's Learner makes it: no decay of BatchNorm and biases"
    opt = make([list(o.parameters()) for o in net], lr=1e-2, **hypers)
    for o in net.modules():
        for name, p in o.named_parameters(recurse=False):
            if isinstance(o, nn.BatchNorm2d) or name == 'bias': opt.state[p]['do_wd'] = False
    return opt


def steps(net, opt, which):
    "Steps on given gradients, with a schedule, rates by slice, and the first group frozen in the middle"
    for i in which:
        opt.freeze_to(1 if 2 <= i < 4 else 0)
        opt.set_hyper('lr', slice(1e-4 * (i + 1), 1e-2 * (i + 1)))
        opt.set_hyper('mom', SchedCos(.95, .85)(i / 8) if 'sqr_mom' in opt.hypers[0] or opt.hypers[0]['mom'] else 0.)
        g = torch.Generator().manual_seed(i)
        for p in net.parameters():  # what is frozen has none, as `FrozenEval` sees to
            grad = torch.randn(p.shape, generator=g)
            p.grad = laid_out(grad, p) if p.requires_grad else None
        opt.step()
        opt.zero_grad()


def close(a, b, rtol=1e-6):
    "Whether two nets have the same weights, up to the rounding of float32 relative to the largest weight of a tensor"
    for x, y in zip(a.parameters(), b.parameters()):
        torch.testing.assert_close(x, y, rtol=rtol, atol=rtol * float(y.detach().abs().max()))


MAKERS = dict(adam=(adam, fastai_opts.Adam), sgd=(sgd, fastai_opts.SGD))
CASES = [('adam', dict(wd=.1)), ('adam', dict(wd=.1, decouple_wd=False)), ('adam', dict(wd=0., eps=1e-8)),
         ('sgd', dict()), ('sgd', dict(wd=.1)), ('sgd', dict(mom=.9, wd=.1)), ('sgd', dict(mom=.9, wd=.1, decouple_wd=False))]


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('name, hypers', CASES)
def test_fused_steps_are_those_of_fastai(name, hypers, layout):
    nets = [three_groups().to(memory_format=layout) for _ in range(2)]
    opts = [made(net, make, **hypers) for net, make in zip(nets, MAKERS[name])]
    assert isinstance(opts[0], (FusedAdam, FusedSGD)) and opts[0].hypers == opts[1].hypers
    for net, opt in zip(nets, opts): steps(net, opt, range(8))
    close(*nets)
    for (_, _, a, _), (_, _, b, _) in zip(opts[0].all_params(), opts[1].all_params()):
        assert set(a) == set(b) and a.get('step') == b.get('step')


@pytest.mark.parametrize('name, hypers', CASES)
@pytest.mark.parametrize('way', ['fused to fused', 'fused to fastai', 'fastai to fused'])
def test_state_goes_round(name, hypers, way):
    "Three steps, a stored state, five more: as eight in a row, whoever wrote it and whoever reads it"
    ours, theirs = MAKERS[name]
    first, second = (ours if o == 'fused' else theirs for o in way.split(' to '))
    whole, half, rest = (three_groups() for _ in range(3))
    steps(whole, made(whole, theirs, **hypers), range(8))
    opt = made(half, first, **hypers)
    steps(half, opt, range(3))
    rest.load_state_dict(half.state_dict())
    other = made(rest, second, **hypers)
    other.load_state_dict(_plain(copy.deepcopy(opt.state_dict())))  # as a checkpoint keeps it
    steps(rest, other, range(3, 8))
    close(rest, whole)


def test_states_in_another_memory_layout_are_brought_into_place():
    nets = [three_groups(), three_groups().to(memory_format=torch.channels_last)]
    opts = [made(o, adam) for o in nets]
    steps(nets[0], opts[0], range(3))
    nets[1].load_state_dict(nets[0].state_dict())
    opts[1].load_state_dict(copy.deepcopy(opts[0].state_dict()))
    for net, opt in zip(nets, opts): steps(net, opt, range(3, 6))
    close(*nets)


def test_gradients_in_another_memory_layout():
    weights = [nn.Parameter(torch.arange(16.).view(1, 4, 2, 2)) for _ in range(2)]
    grad = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    for p, g in zip(weights, (grad, grad.contiguous(memory_format=torch.channels_last))):
        p.grad = g
        sgd([p], .1).step()
    assert torch.equal(*weights)


def test_a_device_without_the_kernel_has_fastais_own(monkeypatch):
    monkeypatch.setattr(fused_room, 'has_fused', lambda name: False)
    for make, kind in ((adam, fastai_opts.Adam), (sgd, fastai_opts.SGD)):
        opt, own = (o([nn.Parameter(torch.ones(2))], lr=.1) for o in (make, kind))
        assert type(opt) is fastai_opts.Optimizer and opt.hypers == own.hypers and len(opt.cbs) == len(own.cbs)


def two_classes(n=8, size=32, bs=4, workers=0):
    "Seeded random images with two classes"
    g = torch.Generator().manual_seed(0)
    items = [(torch.rand(3, size, size, generator=g), torch.tensor(i % 2)) for i in range(n)]
    dls = DataLoaders(*[DataLoader(items, bs=bs, num_workers=workers) for _ in range(2)])
    dls.vocab = ['no', 'yes']
    return dls


def learner(device=PLAIN, arch='resnet18', seed=0, workers=0, **kwargs):
    "A small learner, the same numbers each time"
    torch.manual_seed(seed)
    model = Classifier(backbone(arch, None), 2)
    return make_learner(two_classes(workers=workers), model, device=device, **(dict(loss_func=nn.CrossEntropyLoss()) | kwargs))


def fit(learn, epochs=1, lr=1e-3):
    with learn.no_logging(), learn.no_bar(): learn.fit(epochs, lr)


def test_the_optimizer_that_a_learner_gets():
    for device, given, kind in ((PLAIN, {}, FusedAdam), (best_device('cpu', plain=True), {}, fastai_opts.Optimizer),
                                (PLAIN, dict(opt_func=sgd), FusedSGD), (PLAIN, dict(opt_func=fastai_opts.Adam), fastai_opts.Optimizer)):
        learn = learner(device, **given)
        learn.create_opt()
        assert type(learn.opt) is kind


def test_a_fit_with_the_fused_optimizer_is_a_fit_with_fastais():
    learns = [learner(opt_func=o, wd=.1) for o in (adam, fastai_opts.Adam)]
    for o in learns:
        with o.no_logging(), o.no_bar(): o.fit_one_cycle(1, slice(1e-5, 1e-3), cbs=GradientClip(1.))
    close(learns[0].model, learns[1].model, rtol=1e-3)  # a rounded gradient near 0 can turn a step of Adam around


@pytest.mark.parametrize('opt', [adam, sgd])
def test_frozen_stays_where_it_is(opt):
    learn = learner(opt_func=opt, wd=.1)
    fit(learn)
    learn.freeze()
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    fit(learn)
    assert [k for k, v in learn.model.state_dict().items() if not torch.equal(v, before[k])] == ['head.weight', 'head.bias']


def test_a_saved_learner_goes_on(tmp_path):
    "fastai's own save and load, with the optimizer"
    learn = learner(path=tmp_path)
    fit(learn)
    learn.save('half')
    fit(learn)
    other = learner(path=tmp_path, seed=1)
    other.create_opt()
    other.load('half', with_opt=True)
    fit(other)
    close(learn.model, other.model)


class Threads(Callback):
    "Threads of the net while it trains"
    def before_batch(self): self.n = torch.get_num_threads()


@pytest.mark.parametrize('workers, wanted', [(0, 3), (1, 3), (2, 2), (9, 1)])
def test_threads_leave_room_for_the_workers(monkeypatch, workers, wanted):
    monkeypatch.setattr(os, 'cpu_count', lambda: 4)
    before, seen = torch.get_num_threads(), Threads()
    learn = learner(Device('cpu', 'float32', False, 3), workers=workers, cbs=seen)
    fit(learn)
    assert (seen.n, torch.get_num_threads()) == (wanted, before)


def test_words_of_devices():
    assert Device('cpu', 'bfloat16', True, 2).words == 'cpu: bfloat16, channels last, 2 threads, fused optimiser'
    assert Device('cuda', 'bfloat16', True, 2, compiled=True).words == 'cuda: bfloat16, channels last, fused optimiser, compiled'
    plain = best_device('cpu', plain=True)
    assert plain == Device('cpu', 'float32', False, torch.get_num_threads(), fused=False, features_once=False)
    assert plain.words.endswith('fastai optimiser')
    with pytest.raises(ValueError, match='leave one of them out'): best_device('cpu', plain=True, compiled=True)


def test_precision_is_found_out_once_a_phase(monkeypatch):
    asked = []
    real = Device.precision_for
    monkeypatch.setattr(Device, 'precision_for', lambda self, model=None, x=None: asked.append(1) or real(self, model, x))
    fit(learner(Device('cpu', 'bfloat16', True, 1, depthwise='float32')), epochs=2)
    assert len(asked) == 4  # two epochs, training and validation


def test_compiling_without_a_compiler(monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(ValueError, match='needs a C[+][+] compiler'): learner(Device('cpu', 'float32', False, 1, compiled=True))


def test_a_device_that_pytorch_has_no_kernel_for(monkeypatch):
    def missing(*_, **__): raise NotImplementedError("Could not run 'aten::_fused_adamw_' on this device")
    monkeypatch.setattr('hw4.learn.device.torch_adam', missing)
    device = best_device('cpu')
    assert not device.fused and device.words.endswith('fastai optimiser')


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('g++'), reason='needs a compiler')
def test_a_compiled_net_trains_alike():
    learns = [learner(Device('cpu', 'float32', False, 1, compiled=o), opt_func=sgd) for o in (False, True)]
    for o in learns: fit(o)
    assert list(learns[0].model.state_dict()) == list(learns[1].model.state_dict())
    close(learns[0].model, learns[1].model, rtol=1e-3)
    copy.deepcopy(learns[1].model)


def lively(model):
    "A net whose BatchNorm statistics and weights are no longer 0 and 1"
    g = torch.Generator().manual_seed(0)
    for o in model.modules():
        if not isinstance(o, nn.BatchNorm2d): continue
        with torch.no_grad():
            for x, low in ((o.running_mean, -.2), (o.running_var, .6), (o.weight, .7), (o.bias, -.2)):
                x.copy_(low + .5 * torch.rand(x.shape, generator=g))
    return model


def norms(model): return sum(isinstance(o, nn.BatchNorm2d) for o in model.modules())


@pytest.mark.parametrize('arch, maps', [('resnet18', False), ('resnet50', False), ('tf_efficientnet_lite0', False), ('vgg11_bn', False),
                                        ('alexnet', False), ('mobilenetv3_small_100', False), ('tf_efficientnet_lite0', True),
                                        ('resnet18', True), ('vgg11_bn', True)])
def test_folded_nets_say_the_same(arch, maps):
    torch.manual_seed(0)
    body = backbone(arch, None, maps=maps)
    model = lively(FCN(body, 3) if maps else Classifier(body, 2))
    if maps:
        for o in model.score.parameters(): nn.init.normal_(o)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    folded = fold_batchnorm(model, torch.rand(2, 3, 64, 64))
    assert norms(folded) == 0 and model.training and not folded.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    x = torch.rand(3, 3, 96, 64)
    with torch.no_grad(): a, b = model.eval()(x), folded(x)
    assert (a - b).abs().max() <= 1e-4 * a.abs().max()


def test_an_activation_between_and_a_shared_layer_are_left():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    for layers in ([conv, nn.ReLU(inplace=True), norm], [conv, norm, conv, norm], [nn.BatchNorm2d(3), conv]):
        net = nn.Sequential(*layers)
        assert norms(fold_batchnorm(lively(net), torch.rand(2, 3, 8, 8))) == 1


def test_a_norm_without_weights():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False))
    net[1].running_mean.fill_(.3), net[1].running_var.fill_(2.)
    assert norms(fold_batchnorm(net, torch.rand(2, 3, 8, 8))) == 0


def test_metrics_do_not_import_pictures():
    "What counts class ids needs neither fastai's vision stack nor torchvision nor timm"
    code = ("import sys, hw4.learn.metrics; "
            "print([o for o in sys.modules if o.startswith('fastai.vision') or o in ('torchvision', 'timm')])")
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert said.stdout.strip() == '[]', said.stdout + said.stderr


def test_images_that_are_too_narrow_run_in_float32():
    "Kernels of bfloat16 give NaN now and then where a map is one pixel wide: the weights of the front must not be cast either"
    device, net = Device('cpu', 'bfloat16', True, 1), nn.Conv2d(3, 4, 3)
    wide, narrow = torch.rand(2, 3, 32, 48), torch.rand(2, 3, 48, 32)
    with device.autocast(net, wide): assert net(wide).dtype == torch.bfloat16
    with device.autocast(net, narrow): assert net(narrow).dtype == torch.float32
    assert device.precision_for(net, narrow) == 'float32' and Device('cuda', 'bfloat16', True, 1).precision_for(net, narrow) == 'bfloat16'
