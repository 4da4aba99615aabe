"What a recipe may ask for, and that regimes differ in nothing but what they train"
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback

from hw4.data.celeba import portraits
from hw4.data.synth import portraits_twin
from hw4.learn.backbones import backbone
from hw4.learn.transfer import FROZEN, REGIMES
from hw4.study.build import build_dls, build_learner
from hw4.study.checkpoint import Checkpoint
from hw4.study.questions import regime
from hw4.study.run import evaluate, run
from hw4.study.spec import OPTIMISERS, SCHEDULES, Spec
from hw4.study.train import keeps_features, train
from tests.killed import PLAIN, ends_as_unbroken


@pytest.fixture(scope='module')
def faces(tmp_path_factory): return portraits_twin(tmp_path_factory.mktemp('faces')/'faces', n_train=12, n_val=4)


@pytest.fixture(scope='module')
def spec(tmp_path_factory):
    "A small recipe, from a body of random numbers in the place of pretrained ones"
    file = tmp_path_factory.mktemp('body')/'body.pth'
    torch.manual_seed(0)
    torch.save(backbone('test_efficientnet', None).body.state_dict(), file)
    return Spec('classify', 'portraits', 'test_efficientnet', (40, 32), weights=str(file), epochs=2, bs=4, augment='heavy', lr=.01, precision='float32')


class Seen(Callback):
    "What the net is shown in training: images, shares of mixed pairs, labels; and the rate of each group"
    order = 2

    def __init__(self): self.x, self.y, self.lam, self.rates = [], [], [], []

    def before_batch(self):
        if not self.training: return
        self.x.append(self.xb[0].as_subclass(torch.Tensor).clone())
        self.y.append(self.yb[0].as_subclass(torch.Tensor).clone())
        if hasattr(self.learn, 'seeded_mix_up'): self.lam.append(self.seeded_mix_up.lam.clone())

    def before_step(self): self.rates.append(list(self.opt.hypers.attrgot('lr')))


def trained(spec, faces, seed=0):
    "A training on images: its learner, and what the net was shown"
    seen = Seen()
    learn, named, history = train(spec, portraits(faces), seed=seed, device=replace(PLAIN, features_once=False), checkpoint=Checkpoint(None), watch=[seen])
    return learn, seen, named, history


def of(spec, name): return replace(regime(spec, name), weights=None if name == 'scratch' else spec.weights)


@pytest.mark.parametrize('mixup', [0., .4])
def test_regimes_differ_in_nothing_else(spec, faces, mixup):
    "The same pixels in the same order with the same labels, the same normalisation, the same images to measure on, as many steps"
    ends = {o: trained(replace(of(spec, o), mixup=mixup), faces, seed=3) for o in REGIMES}
    learns = [learn for learn, *_ in ends.values()]
    for learn in learns[1:]:
        assert torch.equal(learn.model.norm.mean, learns[0].model.norm.mean) and torch.equal(learn.model.norm.std, learns[0].model.norm.std)
        for a, b in zip(learn.dls.loaders, learns[0].dls.loaders): assert list(a.items) == list(b.items)
    first, *others = [seen for _, seen, *_ in ends.values()]
    assert len(first.x) == 2*6 and bool(first.lam) == bool(mixup)
    for o in others:
        for kind in ('x', 'y', 'lam'):
            a, b = getattr(first, kind), getattr(o, kind)
            assert len(a) == len(b) and all(map(torch.equal, a, b)), kind
    assert not torch.equal(first.x[0], trained(of(spec, 'fine_tune'), faces, seed=4)[1].x[0])
    parts = [{o for o, p in learn.model.named_parameters() if p.requires_grad} for learn in learns]
    assert parts[0] < parts[1] < parts[2] == parts[3]  # feature_extract, last_groups, fine_tune, scratch


@pytest.mark.parametrize('changes', [dict(), dict(freeze_epochs=1)])
def test_last_groups_move_and_nothing_before_them(spec, faces, changes):
    "With a stage for the head before it, too; BatchNorm's statistics included"
    learn, seen, named, _ = trained(replace(of(spec, 'last_groups'), **changes), faces)
    tensors = {f'body.{k}': v for k, v in learn.model.body.state_dict().items()}
    early = {id(v) for o in learn.model.groups()[0] for v in o.state_dict(keep_vars=True).values()}
    still = {k for k, v in learn.model.state_dict(keep_vars=True).items() if id(v) in early}
    moved = {k for k, v in tensors.items() if not torch.equal(v, named[k])}
    assert still and not still & moved and any('running_mean' in k for k in still)
    assert any('running_mean' in k for k in moved) and any('conv' in k for k in moved)
    peak = np.array(seen.rates).max(0)
    assert peak[2]/peak[1] == pytest.approx(10) and peak[2] == pytest.approx(.01, rel=.1)


@pytest.mark.parametrize('name', REGIMES)
def test_what_a_regime_freezes_is_what_it_says(spec, faces, name):
    learn = build_learner(of(spec, name), build_dls(spec, portraits(faces), PLAIN), PLAIN)
    assert [any(p.requires_grad for o in group for p in o.parameters()) for group in learn.model.groups()] == [i >= FROZEN[name] for i in range(3)]


FORMS = dict(
    one_cycle=lambda r: r.argmax() == 3 and r[0] < r.max()/20, flat_cos=lambda r: np.allclose(r[:8], r[0]) and r[-1] < r[0]/3,
    constant=lambda r: np.allclose(r, r[0]), step=lambda r: np.allclose(r[[0, 4, 8]]/r[0], [1, .1, .01]),
    cosine=lambda r: np.allclose(r, r[0]*(1 + np.cos(np.pi*np.arange(12)/12))/2))


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_schedules(spec, faces, schedule):
    "Twelve steps, three rates in the course's proportion all the way"
    rates = np.array(trained(replace(spec, schedule=schedule), faces)[1].rates)
    assert rates.shape == (12, 3) and FORMS[schedule](rates[:, 2]), rates[:, 2]
    np.testing.assert_allclose(rates[:, 2]/rates[:, 0], 100)
    np.testing.assert_allclose(rates[:, 2]/rates[:, 1], 10)


@pytest.mark.parametrize('opt', OPTIMISERS)
def test_optimisers(spec, faces, opt):
    learn, _, named, history = trained(replace(spec, opt=opt, epochs=1), faces)
    assert np.isfinite(history.train_loss).all()
    assert any(not torch.equal(v, named[f'body.{k}']) for k, v in learn.model.body.state_dict().items() if 'weight' in k)


def test_a_smoothed_loss_is_less_sure(spec, faces):
    "On a net that learns its few images by heart"
    sure = dict(epochs=8, augment='none', lr=.05, spread=1.)
    spread = []
    for loss in ('cross_entropy', 'smooth'):
        learn, *_ = trained(replace(spec, loss=loss, **sure), faces)
        assert learn.loss_func.func.__class__.__name__ == dict(cross_entropy='CrossEntropyLoss', smooth='LabelSmoothingCrossEntropy')[loss]
        spread.append(learn.get_preds(dl=learn.dls.train.new(shuffle=False, drop_last=False))[0].max(1).values.mean())
    assert spread[0] > spread[1]


def test_mixup_trains_heads_on_images(spec, faces, tmp_path):
    "Features of one image say nothing of two; whether features are kept decides no number"
    assert keeps_features(spec, replace(PLAIN, features_once=True)) and not keeps_features(replace(spec, mixup=.4), replace(PLAIN, features_once=True))
    mixed = replace(of(spec, 'feature_extract'), mixup=.4)
    records = [run(mixed, path=faces, store=tmp_path/str(once), device=replace(PLAIN, features_once=once), watch=False) for once in (True, False)]
    assert records[0].predictions.logits.map(list).equals(records[1].predictions.logits.map(list))
    plain = run(replace(mixed, mixup=0.), path=faces, store=tmp_path/'plain', device=PLAIN, watch=False)
    assert plain.run_id != records[0].run_id and not plain.history.train_loss.equals(records[0].history.train_loss)


@pytest.mark.parametrize('n', [1, 2])
@pytest.mark.parametrize('changes', [dict(), dict(freeze_epochs=1, epochs=1), dict(regime='last_groups', spread=None, freeze_epochs=1, epochs=1), dict(ema=.9, schedule='cosine')],
                         ids=['mixup', 'head first', 'last groups', 'mean and cosine'])
def test_a_killed_run_with_mixed_images_goes_on(spec, faces, tmp_path, n, changes):
    ends_as_unbroken(replace(spec, mixup=.4, loss='smooth', **changes), n, path=faces, tmp_path=tmp_path)


@pytest.mark.parametrize('opt', OPTIMISERS)
@pytest.mark.parametrize('name', ['fine_tune', 'feature_extract'])
def test_a_head_is_held_by_itself(spec, faces, opt, name):
    "Its own decay is the head's and nobody else's: the same number as the body's changes nothing, a larger one makes the head small"
    plain = replace(of(spec, name), opt=opt, epochs=1)
    heads = [trained(o, faces)[0].model for o in (plain, replace(plain, head_wd=plain.wd), replace(plain, head_wd=80.))]
    for a, b in zip(heads[0].state_dict().values(), heads[1].state_dict().values()): assert torch.equal(a, b)
    head, body = ([sum(p.detach().norm().item() for p in part(o).parameters()) for o in heads] for part in (lambda o: o.head, lambda o: o.body))
    assert head[2] < .7*head[0] and body[2] == pytest.approx(body[0], rel=.02)


@pytest.mark.parametrize('n', [1, 2])
def test_a_killed_run_with_a_held_head_goes_on(spec, faces, tmp_path, n):
    ends_as_unbroken(replace(spec, freeze_epochs=1, epochs=2, head_wd=20.), n, path=faces, tmp_path=tmp_path)


def test_new_words_leave_old_digests_as_they_were():
    old = Spec('classify', 'portraits', 'alexnet', (224, 224))
    assert old.digest == 'edd9c01098b4' and 'mixup' in old.to_dict()
    assert replace(old, mixup=.2).digest != old.digest and replace(old, head_wd=.2).digest != old.digest
    assert replace(old, zoom=[1, 2]).zoom == (1., 2.) and len({old.digest, *(replace(old, zoom=o).digest for o in ((1,), (2,), (1, 2)))}) == 4


def test_a_net_that_looks_several_times(spec, faces, tmp_path):
    "It starts from the same weights, is read back as it was, and its head is trained on kept features as on images"
    several = replace(of(spec, 'feature_extract'), zoom=(1., 1.5))
    records = [run(several, path=faces, store=tmp_path/str(once), device=replace(PLAIN, features_once=once), watch=False) for once in (True, False)]
    pairs = [np.stack(o.predictions.logits) for o in records]
    np.testing.assert_allclose(*pairs, rtol=1e-4, atol=1e-5)
    other = evaluate(records[0], faces, device=PLAIN)
    np.testing.assert_allclose(np.stack(other.logits), pairs[0], rtol=1e-4, atol=1e-5)
    once = run(of(spec, 'feature_extract'), path=faces, store=tmp_path/'once', device=PLAIN, watch=False)
    assert records[0].model().head.in_features == 2*once.model().head.in_features
    for k, v in once.model().body.state_dict().items(): assert torch.equal(v, records[0].model().body.bodies[0].state_dict()[k])


def test_a_killed_run_that_looks_several_times_goes_on(spec, faces, tmp_path):
    ends_as_unbroken(replace(spec, zoom=(1., 1.5), freeze_epochs=1, epochs=1), 1, path=faces, tmp_path=tmp_path)
