"Contracts of the FCN: sizes, gradients, frozen statistics, and upsampling against a bilinear reference made by hand"
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import load_learner
from PIL import Image
from torchvision.models import vgg16

from hw4.data.codes import codes_of
from hw4.data.images import image_dls
from hw4.data.masks import mask_dls
from hw4.learn.backbones import STRIDES, Backbone, VGGMaps, backbone, blocks_of
from hw4.learn.fcn import FCN, SCALES, Double, fcn_learner, seg_learner, upsample
from hw4.learn.losses import SegCrossEntropy
from hw4.learn.staged import extend
from hw4.learn.transfer import FROZEN, REGIMES, clas_learner, group_params

ARCH = 'test_efficientnet'  # timm's own small net, with BatchNorm and maps at strides 8, 16 and 32
ODD = [(h, 161 - h) for h in range(33, 112, 4)]  # 20 sizes: odd heights, even widths ...
ODD = [(h, w + i % 2) for i, (h, w) in enumerate(ODD)]  # ... and odd ones
N = 4


def fcn(stride=8, arch=ARCH, seed=0, **kwargs):
    torch.manual_seed(seed)
    return FCN(backbone(arch, None, maps=True), N, stride=stride, **kwargs).eval()


def opinionated(model):
    "The same net with random score layers, so that its output depends on its maps"
    torch.manual_seed(1)
    for o in model.score.parameters(): torch.nn.init.normal_(o)
    return model


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    "A file of weights, so that every regime can be had without a network"
    file = tmp_path_factory.mktemp('weights') / 'small.pth'
    torch.save(backbone(ARCH, None).body.state_dict(), file)
    return file


def dls(n=8, size=(40, 48)):
    torch.manual_seed(0)
    batch = list(zip(torch.rand(n, 3, *size), torch.randint(0, N + 1, (n, *size))))
    o = DataLoaders(DataLoader(batch, bs=4), DataLoader(batch, bs=4))
    o.vocab = [f'class {i}' for i in range(N)]
    return o


def learner(weights, regime='fine_tune', stride=8, **kw):
    return fcn_learner(dls(), ARCH, stride=stride, regime=regime, weights=None if regime == 'scratch' else weights, **kw)


def quiet_fit(learn, n=1, lr=1e-2):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, lr)


class Reached(Callback):
    "Notes which parameters a gradient has reached"
    def before_fit(self): self.ids = set()
    def after_backward(self): self.ids |= {id(o) for o in self.model.parameters() if o.grad is not None and o.grad.abs().sum() > 0}


def by_hand(x, factor, size):
    "Every value from the formula: centres of cells, weights by distance, edges continued"
    h, w = x.shape[-2:]
    up = torch.zeros(*x.shape[:2], *size)
    for i in range(size[0]):
        for j in range(size[1]):
            y, z = (min(i, h * factor - 1) + .5) / factor - .5, (min(j, w * factor - 1) + .5) / factor - .5
            y0, z0 = int(y // 1), int(z // 1)
            for a, share_a in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
                for b, share_b in ((z0, 1 - (z - z0)), (z0 + 1, z - z0)):
                    up[..., i, j] += share_a * share_b * x[..., min(max(a, 0), h - 1), min(max(b, 0), w - 1)]
    return up


@pytest.mark.parametrize('factor', [2, 8, 16, 32])
@pytest.mark.parametrize('off', [(0, 0), (-1, 0), (-1, -1), (1, 1)])
def test_upsampling_is_bilinear(factor, off):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 3, 2)
    size = (3 * factor + off[0], 2 * factor + off[1])
    assert torch.allclose(upsample(x, factor, size), by_hand(x, factor, size), atol=1e-5)


def test_a_cell_lies_over_its_pixels_for_any_size():
    ramp = (torch.arange(5.) * 2 + .5)[None, None, None]  # the mean position of the two finer cells under each
    for width in (9, 10):
        got = upsample(ramp, 2, (2, width))[0, 0, 0]
        assert torch.allclose(got[1:9], torch.arange(1., 9.))  # in between, position is kept exactly: no stretching


@pytest.mark.parametrize('stride', STRIDES)
@pytest.mark.parametrize('upsampling', ['bilinear', 'learned'])
def test_output_size_is_input_size(stride, upsampling):
    model = opinionated(fcn(stride, upsampling=upsampling))
    assert len(ODD) == 20 and any(h % 2 and w % 2 for h, w in ODD)
    with torch.no_grad():
        for size in [*ODD, (1, 1), (32, 64)]: assert model(torch.rand(1, 3, *size)).shape == (1, N, *size)


@pytest.mark.parametrize('arch', ['test_resnet', 'test_convnext', 'tf_efficientnet_lite0', 'mobilenetv3_small_050'])
def test_other_nets_fit(arch):
    model = opinionated(fcn(8, arch))
    with torch.no_grad(): assert model(torch.rand(1, 3, 75, 101)).shape == (1, N, 75, 101)
    assert sum(len(o) for o in group_params(model)) == len(list(model.parameters()))


@pytest.mark.slow
def test_vgg16_says_what_the_classifier_says():
    "fc6 and fc7 as convolutions: at the middle of a 224x224 image, scores with the last layer's own numbers are the classifier's logits"
    torch.manual_seed(0)
    net, x = vgg16().eval(), torch.rand(1, 3, 224, 224)
    last = net.classifier[6]
    maps = VGGMaps(net)
    model = FCN(Backbone('vgg16', maps, 4096, (.5,) * 3, (.25,) * 3, None, blocks_of(maps), maps.channels), 1000, stride=32).eval()
    with torch.no_grad():
        want = net(model.norm(x))
        model.score['32'].weight.copy_(last.weight[:, :, None, None])
        model.score['32'].bias.copy_(last.bias)
        got = model.score['32'](model.body(model.norm(x))[2])
        assert got.shape == (1, 1000, 7, 7) and want.abs().max() > .01
        torch.testing.assert_close(got[..., 3, 3], want, rtol=1e-4, atol=1e-5)
        for size in ((224, 224), (45, 61)): assert model(torch.rand(1, 3, *size)).shape == (1, 1000, *size)


def test_fusion_is_the_papers():
    model = opinionated(fcn(8))
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        m8, m16, m32 = model.body(model.norm(x))
        s = model.score
        want = by_hand(by_hand(by_hand(s['32'](m32), 2, (4, 6)) + s['16'](m16), 2, (8, 12)) + s['8'](m8), 8, (64, 96))
        assert torch.allclose(model(x), want, atol=1e-4)


def test_at_the_start_no_class_is_preferred_whatever_the_body_says():
    model = fcn()
    assert model(torch.rand(1, 3, 40, 40)).abs().max() == 0
    model(torch.rand(1, 3, 40, 40)).mean().backward()
    assert all(p.grad.abs().sum() == 0 for p in model.body.parameters())  # so the first step moves the score layers alone


def test_a_skip_counts_once_it_is_trained_and_fcn_32s_has_none():
    model, x = opinionated(fcn(8)), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)
        model.score['8'].weight.zero_()
        assert not torch.allclose(before, model(x))
    assert set(fcn(32).score) == {'32'} and set(fcn(16).score) == {'16', '32'}


@pytest.mark.parametrize('size', [(h, w) for h in (1, 2, 5, 9) for w in (1, 4, 7)])
def test_learned_upsampling_starts_exactly_bilinear(size):
    "Whole numbers leave no rounding: bit for bit; any others up to it"
    torch.manual_seed(0)
    double = Double(N)
    for off in ((0, 0), (-1, 0), (-1, -1), (1, 1)):
        want = tuple(2*o + a for o, a in zip(size, off))
        x = torch.randint(-999, 999, (2, N, *size)).float()
        assert torch.equal(double(x, want), upsample(x, 2, want))
        y = torch.randn(2, N, *size)
        torch.testing.assert_close(double(y, want), upsample(y, 2, want), rtol=1e-5, atol=1e-6)


def test_a_net_that_learns_its_upsampling_starts_as_the_one_that_does_not(weights):
    fixed, learned = fcn(8), fcn(8, upsampling='learned')
    assert set(learned.state_dict()) - set(fixed.state_dict()) == {'up.8.conv.weight', 'up.16.conv.weight'}
    learned.load_state_dict(opinionated(fixed).state_dict(), strict=False)
    x = torch.rand(2, 3, 61, 77)
    with torch.no_grad(): torch.testing.assert_close(learned(x), fixed(x), rtol=1e-4, atol=1e-4)
    learn = seg_learner(dls(), learned)
    before = learned.up['8'].conv.weight.detach().clone()
    learn.freeze()
    quiet_fit(learn)
    assert not torch.equal(learned.up['8'].conv.weight, before)  # it belongs to the head
    assert (learned.up['8'].conv.weight[0, 1] != 0).any()  # and one class may speak to another


def test_scaled_maps_are_the_reference_nets():
    plain, scaled = fcn(8), fcn(8, scaled=True)
    assert SCALES == {8: 1e-4, 16: 1e-2, 32: 1} and set(plain.scales.values()) == {1.}
    scaled.load_state_dict(opinionated(plain).state_dict())
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for s, k in SCALES.items(): plain.score[str(s)].weight.mul_(k)
        torch.testing.assert_close(scaled(x), plain(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('upsampling', ['bilinear', 'learned'])
@pytest.mark.parametrize('coarse, fine', [(32, 16), (32, 8), (16, 8)])
def test_a_net_that_extends_another_starts_from_all_it_knows(coarse, fine, upsampling):
    "The copy is exact, what is new is silent, and the coarser net is left as it was"
    old = opinionated(fcn(coarse, upsampling=upsampling))
    old.body.requires_grad_(False)
    before = {k: v.clone() for k, v in old.state_dict().items()}
    new, x = extend(old, fine).eval(), torch.rand(1, 3, 61, 77)
    assert all(torch.equal(new.state_dict()[k], v) and torch.equal(old.state_dict()[k], v) for k, v in before.items())
    assert new.stride == fine and old.stride == coarse and all(p.requires_grad for p in new.parameters())
    assert not {id(p) for p in new.parameters()} & {id(p) for p in old.parameters()}
    assert sum(len(o) for o in group_params(new)) == len(list(new.parameters()))
    same, at = fcn(fine, upsampling=upsampling).state_dict(), coarse
    assert set(same) == set(new.state_dict())
    with torch.no_grad():
        maps = dict(zip(STRIDES, old.body(old.norm(x))))
        scores = old.score['32'](maps[32])
        if coarse == 16: scores = upsample(scores, 2, maps[16].shape[-2:]) + old.score['16'](maps[16])
        torch.testing.assert_close(old(x), upsample(scores, coarse, (61, 77)))
        while at > fine:
            at //= 2
            scores = upsample(scores, 2, maps[at].shape[-2:])  # no score of the new maps, and doubling that has not learned yet
        torch.testing.assert_close(new(x), upsample(scores, fine, (61, 77)), rtol=1e-4, atol=1e-4)


def test_level_scores_stay_exactly_what_they_were_when_a_net_is_extended():
    old = fcn(32)
    torch.nn.init.normal_(old.score['32'].bias)  # the same everywhere
    x = torch.rand(1, 3, 61, 77)
    with torch.no_grad(): torch.testing.assert_close(extend(old, 8).eval()(x), old(x), rtol=0, atol=1e-6)


def test_stages_learn_one_after_the_other(weights):
    learn = learner(weights, stride=32)
    quiet_fit(learn)
    finer = seg_learner(dls(), extend(learn.model, 16))
    quiet_fit(finer)
    assert finer.model.score['16'].weight.abs().sum() > 0 and finer.model.weights == learn.model.weights and '16' not in learn.model.score


def test_score_layers_can_be_copied_from_the_coarser_net():
    coarse, fine = opinionated(fcn(32)), fcn(16, seed=1)
    missing = fine.load_state_dict(coarse.state_dict(), strict=False)
    assert set(missing.missing_keys) == {'score.16.weight', 'score.16.bias'} and not missing.unexpected_keys


@pytest.mark.parametrize('stride', STRIDES)
@pytest.mark.parametrize('regime', list(REGIMES))
def test_gradients_reach_exactly_what_is_not_frozen(weights, regime, stride):
    learn = learner(weights, regime, stride, cbs=Reached())
    opinionated(learn.model)
    quiet_fit(learn)
    for i, group in enumerate(group_params(learn.model)):
        free = i >= FROZEN[regime]
        assert all(o.requires_grad == free for o in group)
        assert {id(o) in learn.reached.ids for o in group} == {free}


@pytest.mark.parametrize('stride', STRIDES)
@pytest.mark.parametrize('regime, bn_stats, moves', [('feature_extract', 'default', False), ('fine_tune', 'default', False),
                                                     ('fine_tune', 'batch', True), ('scratch', 'default', True),
                                                     ('feature_extract', 'batch', False)])
def test_batchnorm_statistics_move_only_where_they_may(weights, regime, bn_stats, moves, stride):
    learn = learner(weights, regime, stride, bn_stats=bn_stats)
    before = {k: v.clone() for k, v in learn.model.named_buffers()}
    quiet_fit(learn)
    moved = [k for k, v in learn.model.named_buffers() if not torch.equal(v, before[k])]
    assert bool(moved) == moves, moved[:3]


def test_a_frozen_body_does_not_move_and_a_thawed_one_does(weights):
    learn = learner(weights, 'feature_extract')
    body = lambda: torch.cat([o.detach().flatten() for o in learn.model.body.state_dict().values() if o.is_floating_point()])
    before = body().clone()
    quiet_fit(learn, 2)
    assert torch.equal(body(), before)
    learn.unfreeze()
    quiet_fit(learn)
    assert not torch.equal(body(), before)


def test_rates_by_depth(weights):
    learn = learner(weights)
    quiet_fit(learn, lr=slice(1e-5, 1e-3))
    assert torch.allclose(torch.tensor(learn.opt.hypers.attrgot('lr')), torch.tensor([1e-5, 1e-4, 1e-3]))


def test_the_learner_measures_labelled_pixels_only(weights):
    learn = learner(weights)
    assert isinstance(learn.loss_func, SegCrossEntropy) and learn.model.n_out == N and learn.model.stride == 8
    with learn.no_bar(): values = dict(zip(['loss', *learn.metrics.attrgot('name')], learn.validate()))
    assert list(values)[:3] == ['loss', 'pixel_acc', 'miou'] and len(values) == 3 + N
    preds, targs = learn.get_preds()
    seen = targs < N
    assert values['pixel_acc'] == pytest.approx((preds.argmax(1)[seen] == targs[seen]).double().mean().item())


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "Noise on disk in the layouts of both tasks, 4 pictures a split"
    root, rng = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    for split in ('train', 'val'):
        for o in (f'masks/{split}annot', f'masks/{split}', f'classes/{split}/a', f'classes/{split}/b'):
            (root / o).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, N, (32, 40)) if o.endswith('annot') else rng.integers(0, 255, (32, 40, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(root / o / f'{i}.png')
    return root


@pytest.mark.parametrize('task', ['masks', 'classes'])
def test_a_learner_that_has_counted_is_exported_and_predicts(weights, pictures, tmp_path, task):
    how = dict(size=(32, 40), bs=4, device='cpu')
    if task == 'masks': learn = fcn_learner(mask_dls(pictures / task, codes=codes_of('abcd'), **how), ARCH, weights=weights)
    else: learn = clas_learner(image_dls(pictures / task, **how), ARCH, weights=weights)
    quiet_fit(learn)
    file = next((pictures / task / 'val').rglob('*.png'))
    with learn.no_bar(): want = learn.predict(file)[2]
    learn.export(tmp_path / 'learn.pkl')
    loaded = load_learner(tmp_path / 'learn.pkl')
    with loaded.no_bar(): assert torch.allclose(loaded.predict(file)[2], want, atol=1e-6)


def test_a_batch_of_void_leaves_the_net_as_it_is(weights):
    learn = learner(weights, 'feature_extract', wd=0.)
    x, y = torch.rand(4, 3, 32, 32), torch.full((4, 32, 32), N)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.dls = DataLoaders(DataLoader(list(zip(x, y)), bs=4), DataLoader(list(zip(x, y)), bs=4))
    quiet_fit(learn)
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())


def test_losses_equal_pytorchs_with_an_ignored_index():
    torch.manual_seed(0)
    x, y = torch.randn(3, N, 5, 6), torch.randint(0, N + 1, (3, 5, 6))
    want = torch.nn.functional.cross_entropy(x, y, ignore_index=N)
    assert torch.allclose(SegCrossEntropy()(x, y), want)
    each = SegCrossEntropy('none')(x, y)
    assert torch.allclose(each.sum() / (y < N).sum(), want) and (each[y == N] == 0).all()
    assert torch.allclose(SegCrossEntropy()(x, y.where(y < N, 255)), want)
    assert torch.equal(SegCrossEntropy().decodes(x), x.argmax(1))
