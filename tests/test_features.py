"What is computed once must be what would have been computed every time"
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fasttransform import Transform

from hw4.data.celeba import portraits
from hw4.data.contents import hash_files
from hw4.data.images import image_dls
from hw4.data.synth import portraits_twin, scenes_twin
from hw4.learn.device import best_device
from hw4.learn import features as room
from hw4.learn.features import NoRoom, Still, feature_learner, features
from hw4.learn.freezing import freezing
from hw4.learn.transfer import clas_learner
from hw4.study.build import build_dls, build_learner
from hw4.study.checkpoint import Checkpoint
from hw4.study.run import run
from hw4.study.spec import Spec
from hw4.study.train import train

DEVICE = best_device('cpu', 'float32')


@pytest.fixture(scope='module')
def faces(tmp_path_factory): return portraits_twin(tmp_path_factory.mktemp('faces')/'faces', n_train=30, n_val=12)


@pytest.fixture(scope='module')
def roads(tmp_path_factory): return scenes_twin(tmp_path_factory.mktemp('roads')/'roads', n_train=5, n_val=3)


@pytest.fixture(scope='module')
def body(tmp_path_factory, faces):
    "A file of random numbers for a body: what they are does not matter here"
    file = tmp_path_factory.mktemp('body')/'body.pth'
    spec = Spec('classify', 'portraits', 'resnet18', (48, 32), regime='scratch', weights=None)
    torch.manual_seed(0)
    torch.save(build_learner(spec, build_dls(spec, portraits(faces), DEVICE), DEVICE).model.body.state_dict(), file)
    return str(file)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path): monkeypatch.setenv('HW4_CACHE', str(tmp_path/'cache'))


def small(**kwargs): return Spec('classify', 'portraits', 'resnet18', (48, 32), bs=8, precision='float32', **kwargs)


FROZEN = dict(regime='feature_extract', epochs=3)
CASES = dict(
    frozen=dict(FROZEN, augment='whole_face', views=2), plain=dict(FROZEN), tuned=dict(augment='heavy', epochs=1),
    gradual=dict(augment='flip_light', epochs=1, freeze_epochs=2), scratch=dict(regime='scratch', weights=None, epochs=1))


@pytest.mark.parametrize('case', CASES)
def test_the_cache_changes_no_digit_of_a_classification(case, faces, body, tmp_path, monkeypatch):
    spec = small(**dict(weights=body) | CASES[case])
    found = []
    for room in ('1', '1', '0'):                            # filling the cache, reading it, without it
        monkeypatch.setenv('HW4_CACHE_GB', room)
        found.append(run(spec, path=faces, store=tmp_path/f'store{len(found)}', device=DEVICE, watch=False))
    for other in found[1:]:
        assert np.array_equal(np.stack(found[0].predictions.logits), np.stack(other.predictions.logits))
        assert found[0].metrics == other.metrics and found[0].history.equals(other.history)


def test_the_cache_changes_no_digit_of_a_segmentation(roads, tmp_path, monkeypatch):
    spec = Spec('segment', 'scenes', 'resnet18', (48, 64), regime='scratch', weights=None, epochs=1, bs=2, stride=8, precision='float32', augment='scene')
    found = []
    for room in ('1', '1', '0'):
        monkeypatch.setenv('HW4_CACHE_GB', room)
        found.append(run(spec, path=roads, store=tmp_path/f'store{len(found)}', device=DEVICE, watch=False))
    for other in found[1:]:
        assert np.array_equal(np.stack(found[0].predictions.cm), np.stack(other.predictions.cm))
        assert found[0].metrics == other.metrics and found[0].predictions.preds.tolist() == other.predictions.preds.tolist()


@pytest.mark.parametrize('case', ['frozen', 'plain', 'gradual'])
def test_features_end_as_the_usual_training_does(case, faces, body):
    spec, layout = small(**dict(weights=body) | CASES[case]), portraits(faces)
    ends = [train(spec, layout, seed=3, device=o, checkpoint=Checkpoint(None), watch=False) for o in (DEVICE, replace(DEVICE, features_once=False))]
    logits = []
    for learn, _, history in ends:
        learn.model.eval()
        with torch.inference_mode(): logits.append(torch.cat([learn.model(x) for x, _ in learn.dls.valid]).as_subclass(torch.Tensor))
    assert torch.equal(logits[0].argmax(1), logits[1].argmax(1))
    assert torch.allclose(*logits, atol=1e-4)
    assert np.allclose(ends[0][2], ends[1][2], atol=1e-4)


def watched(learn):
    "The frozen part of a learner's net, and the sizes of the batches of images that it looks at"
    front, _ = freezing(learn.model.eval(), torch.rand(2, 3, 48, 32))
    looks, forward = [], front.forward
    front.forward = lambda x: looks.extend([len(x)] * (len(x) > 1)) or forward(x)  # a single image is only asked for its shape
    return Still(front, DEVICE), looks


def test_features_are_found_again_by_what_decides_them(faces, body):
    dls = image_dls(faces, size=(48, 32), augment='whole_face', bs=8, device='cpu')
    learn = clas_learner(dls, 'resnet18', regime='feature_extract', weights=body, device=DEVICE)
    def looked(dl=dls.train, **kwargs):
        still, looks = watched(learn)
        return features(still, dl, **kwargs), len(looks)
    first, n = looked()
    assert n == 1                                           # 60 images, 64 at once
    assert looked()[1] == 0
    assert looked(views=2)[1] == 1 and looked(views=2)[1] == 0 and looked(seed=1)[1] == 1
    assert looked(dl=dls.valid)[1] == 1 and looked(dl=dls.valid, seed=5)[1] == 0       # validation is not varied
    torch.nn.init.constant_(next(learn.model.body.parameters()), .1)
    other, n = looked()
    keys = [f'{o}-0' for o in hash_files(dls.train.items)]
    assert n == 1 and np.abs(first.take(keys) - other.take(keys)).max() > 0            # another body, other features


def test_a_new_image_costs_one_look(faces, body, tmp_path):
    import shutil
    from PIL import Image
    own = shutil.copytree(faces, tmp_path/'faces')
    def seen():
        dls = image_dls(own, size=(48, 32), bs=8, device='cpu')
        learn = clas_learner(dls, 'resnet18', regime='feature_extract', weights=body, device=DEVICE)
        still, looks = watched(learn)
        features(still, dls.train)
        return len(looks)
    assert (seen(), seen()) == (1, 0)
    file = next((own/'train').rglob('*.jpg'))
    Image.new('RGB', (89, 109), 'red').save(file)
    assert seen() == 1


def test_frozen_dropout_and_batchnorm_are_off_for_features(faces, body):
    "Whatever mode the net is in when the head's learner is asked for"
    dls = image_dls(faces, size=(48, 32), bs=8, device='cpu')
    learn = clas_learner(dls, 'resnet18', regime='feature_extract', weights=body, device=DEVICE)
    learn.model.train()
    before = Still(learn.model.body, DEVICE).digest
    quick = feature_learner(learn)
    with quick.no_bar(), quick.no_logging(): quick.fit(2, 1e-2)
    assert Still(learn.model.body, DEVICE).digest == before
    with learn.no_bar(), learn.no_logging(): assert np.allclose(quick.validate(), learn.validate(), atol=1e-4)


def test_frozen_bfloat16_agrees_with_the_usual_training_in_bfloat16(faces, body):
    spec, layout, device = small(**FROZEN, weights=body), portraits(faces), best_device('cpu', 'bfloat16')
    spec = replace(spec, precision='bfloat16', size=(48, 64))  # narrower images would run in float32
    ends = [train(spec, layout, device=o, checkpoint=Checkpoint(None), watch=False)[2] for o in (device, replace(device, features_once=False))]
    assert np.allclose(*ends, atol=2e-2)                    # eight bits of mantissa: the batches differ, so the last bits do


def test_what_does_not_fit_is_trained_as_usual(faces, body, monkeypatch, capsys):
    monkeypatch.setenv('HW4_CACHE_GB', '0')
    monkeypatch.setattr(room, 'HELD', 100)
    spec, layout = small(**FROZEN, weights=body), portraits(faces)
    learn, _, history = train(spec, layout, device=DEVICE, checkpoint=Checkpoint(None), watch=False)
    assert len(history) == 3 and 'training on the images instead' in capsys.readouterr().out
    with pytest.raises(NoRoom, match='HW4_CACHE_GB'): feature_learner(learn)


class Stop(Callback):
    "Stands for a kill after some epochs"
    order = 90
    def __init__(self, n): self.n = n
    def after_epoch(self):
        if self.epoch + 1 == self.n: raise KeyboardInterrupt


@pytest.mark.parametrize('first, then', [(True, False), (False, True), (True, True)])
def test_a_killed_stage_goes_on_in_the_way_it_began(first, then, faces, body, tmp_path):
    "Whatever the device of the second try would do"
    spec, layout, file = small(**dict(FROZEN, augment='whole_face', views=2), weights=body), portraits(faces), tmp_path/'checkpoint.pt'
    ways = {o: replace(DEVICE, features_once=o) for o in (True, False)}
    whole = train(spec, layout, device=ways[first], checkpoint=Checkpoint(None), watch=False)[2]
    with pytest.raises(KeyboardInterrupt): train(spec, layout, device=ways[first], checkpoint=Checkpoint(file), watch=[Stop(2)])
    resumed = train(spec, layout, device=ways[then], checkpoint=Checkpoint(file), watch=False)[2]
    assert np.allclose(whole, resumed, atol=1e-6)


def test_predictions_of_a_learner_of_features(faces, body):
    dls = image_dls(faces, size=(48, 32), bs=8, device='cpu')
    learn = clas_learner(dls, 'resnet18', regime='feature_extract', weights=body, device=DEVICE)
    quick = feature_learner(learn)
    for a, b in zip(quick.get_preds(), learn.get_preds()): assert np.allclose(a, b, atol=1e-4)
    x, y = quick.get_preds(ds_idx=0)
    assert len(x) == 60 and y.tolist() == [int(o[1]) for o in dls.train_ds]


def test_what_features_cannot_stand_in_for_is_refused(faces, body):
    dls = image_dls(faces, size=(48, 32), bs=8, device='cpu')
    learn = clas_learner(dls, 'resnet18', regime='feature_extract', weights=body, device=DEVICE)
    learn.add_cb(Stop(1))
    with pytest.raises(ValueError, match='Stop would not see the training'): feature_learner(learn)
    dls.valid.after_item.add(Transform(lambda o: o))
    learn.remove_cb(Stop)
    with pytest.raises(ValueError, match='without item transforms'): feature_learner(learn)
