"Losses against references written the long way, with void in every form, and what a record keeps of them"
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hw4.data.synth import scenes_twin
from hw4.learn.losses import SegCrossEntropy
from hw4.learn.rare import LOSSES, CrossEntropyDice, HardPixels, class_weights, pixels_of_classes, median_frequency, seg_loss
from hw4.study import records
from hw4.study.build import build_dls, open_layout
from hw4.study.run import run
from hw4.study.spec import Spec

N = 5
WEIGHT = torch.tensor([.2, 3., 1., .5, 7.])


def batch(seed=0, bs=3, size=(7, 9), void=(N, 255)):
    g = torch.Generator().manual_seed(seed)
    targs = torch.randint(0, N + 1, (bs, *size), generator=g)
    targs[targs == N] = void[0]
    targs[:, 0] = void[1]
    targs[targs == 3] = 2  # class 3 is in no truth
    return 3 * torch.randn(bs, N, *size, generator=g), targs


def named(name):
    return seg_loss(name, weight=WEIGHT)


def flat(logits, targs):
    "Logits (pixels, n) and ids of the labelled pixels"
    seen = targs.flatten() < N
    return logits.permute(0, 2, 3, 1).reshape(-1, N)[seen], targs.flatten()[seen]


def by_hand(name, logits, targs):
    x, y = flat(logits.double(), targs)
    p = x.softmax(1)
    cost = -p[torch.arange(len(y)), y].log()
    if name == 'cross_entropy': return cost.mean()
    if name == 'weighted': return (cost * WEIGHT.double()[y]).sum() / WEIGHT.double()[y].sum()
    if name == 'smooth': return (.9 * cost - .1 * p.log().mean(1)).mean()
    if name == 'ohem':
        hardest = cost.sort(descending=True).values
        return hardest[:max(int((hardest > -np.log(.7)).sum()), int(len(y) / 16))].mean()
    true = F.one_hot(y, N).double()
    dices = [2 * (p[:, c] * true[:, c]).sum() / (p[:, c].sum() + true[:, c].sum()) for c in range(N) if true[:, c].sum()]
    return cost.mean() + 1 - sum(dices) / len(dices)


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('seed', [0, 1])
def test_values_and_gradients_are_those_of_the_long_way(name, seed):
    logits, targs = batch(seed)
    ours, long = (logits.clone().requires_grad_() for _ in range(2))
    a, b = named(name)(ours, targs), by_hand(name, long, targs)
    assert a.dtype == torch.float32 and a.ndim == 0
    torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)
    a.backward()
    b.backward()
    torch.testing.assert_close(ours.grad, long.grad, rtol=1e-4, atol=1e-7)
    assert ours.grad.abs().sum() > 0


@pytest.mark.parametrize('name', LOSSES)
def test_void_counts_for_nothing_whatever_its_number(name):
    logits, targs = batch()
    loss, void = named(name), targs >= N
    want = loss(logits, targs)
    other = logits.clone()
    other.permute(0, 2, 3, 1)[void] = torch.randn(int(void.sum()), N) * 30
    assert torch.allclose(loss(other, targs), want)
    assert torch.allclose(loss(logits, targs.where(~void, 200)), want) and torch.allclose(loss(logits, targs.to(torch.uint8)), want)
    logits.requires_grad_()
    loss(logits, targs).backward()
    assert (logits.grad.permute(0, 2, 3, 1)[void] == 0).all()
    each = named(name)
    each.reduction = 'none'  # as fastai sets it
    assert each(logits, targs).shape == targs.shape and (each(logits, targs)[void] == 0).all()


@pytest.mark.parametrize('name', LOSSES)
def test_a_batch_of_void_and_one_of_certainty_are_finite(name):
    logits = torch.randn(2, N, 4, 4, requires_grad=True)
    nothing = named(name)(logits, torch.full((2, 4, 4), 255))
    nothing.backward()
    assert nothing == 0 and (logits.grad == 0).all()
    sure = torch.full((1, N, 4, 4), -500.)
    sure[:, 0] = 500.
    for truth in (0, 1):
        x = sure.clone().requires_grad_()
        named(name)(x, torch.full((1, 4, 4), truth)).backward()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize('name', LOSSES)
def test_memory_format_and_precision_of_the_net_do_not_matter(name):
    logits, targs = batch()
    want = named(name)(logits, targs)
    assert torch.allclose(named(name)(logits.contiguous(memory_format=torch.channels_last), targs), want)
    assert torch.allclose(named(name)(logits.bfloat16().double(), targs), named(name)(logits.bfloat16(), targs))


def test_dice_of_a_large_batch_keeps_its_digits():
    "Float32 sums over a million pixels must not drift"
    torch.manual_seed(0)
    logits, targs = torch.randn(2, N, 500, 700), torch.randint(0, N, (2, 500, 700))
    a = CrossEntropyDice()(logits, targs).double()
    assert abs(a - by_hand('ce_dice', logits, targs)) < 1e-5


def test_hard_pixels_fall_back_to_the_hardest_share():
    logits, targs = batch()
    cost = SegCrossEntropy('none')(logits, targs).flatten().sort(descending=True).values
    n = int((targs < N).sum())
    assert torch.allclose(HardPixels(threshold=1e-9, least=.5)(logits, targs), cost[:int(n * .5)].mean())
    assert torch.allclose(HardPixels(threshold=1., least=1/n)(logits, targs), cost[:n].mean())


def test_median_frequency_by_hand():
    masks = [np.zeros((2, 5), int), np.ones((2, 5), int)]
    masks[1][0] = [0, 0, 2, 255, 255]
    own, among = pixels_of_classes(masks, 4)
    assert own.tolist() == [12, 5, 1, 0] and among.tolist() == [20, 10, 10, 0]
    assert np.allclose(median_frequency(own, among), [.5 / .6, 1, 5, 1])  # frequencies .6, .5, .1: the median is .5


@pytest.fixture(scope='module')
def roads(tmp_path_factory):
    return scenes_twin(tmp_path_factory.mktemp('roads'), n_train=4, n_val=2)


def test_weights_are_counted_once_and_read_back(roads, tmp_path, monkeypatch):
    spec = Spec('segment', 'scenes', 'test_efficientnet', (32, 48), regime='scratch', weights=None, epochs=1, bs=2, stride=8, loss='weighted')
    record = run(spec, path=roads, store=tmp_path, watch=False)
    stored = record.stored['resolved']['class_weights']
    dls = build_dls(spec, open_layout(spec, roads))
    assert list(stored) == list(record.vocab) and np.allclose(list(stored.values()), class_weights(dls))
    masks = [np.asarray(o) for o in dls.train_ds.tls[1]]
    assert np.allclose(class_weights(dls), median_frequency(*pixels_of_classes(masks, 11))) and masks[0].shape == (32, 48)
    monkeypatch.setattr('hw4.learn.rare.class_weights', lambda dls: pytest.fail('counted again'))
    assert np.allclose(records.Record(record.path).learner(dls).loss_func.weight, list(stored.values()))


def test_other_losses_leave_no_weights_in_the_record(roads, tmp_path):
    spec = Spec('segment', 'scenes', 'test_efficientnet', (32, 48), regime='scratch', weights=None, epochs=1, bs=2, stride=8, loss='ohem')
    record = run(spec, path=roads, store=tmp_path, watch=False)
    assert 'class_weights' not in record.stored['resolved'] and record.spec.loss == 'ohem'
    assert type(record.learner(build_dls(spec, open_layout(spec, roads))).loss_func) is HardPixels


def test_the_default_loss_leaves_old_digests_as_they_were():
    assert Spec('segment', 'scenes', 'vgg16', (64, 64), stride=8).digest == 'ca2f685bcd53'  # of hw4 0.1, which knew one loss
