"The mean of the weights and the mirror image: what they leave alone, and that a killed run with them ends like an unbroken one"
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from PIL import Image

from hw4.data.synth import portraits_twin, scenes_twin
from hw4.learn.average import AverageWeights, floats
from hw4.learn.backbones import backbone
from hw4.learn.fcn import FCN, seg_learner
from hw4.study.build import build_dls, open_layout
from hw4.study.looks import LOOKS
from hw4.study.predict import predict_files
from hw4.study.run import evaluate, run
from hw4.study.spec import TTAS, Spec
from tests.killed import PLAIN, StopAfter, ends_as_unbroken

FACES = Spec('classify', 'portraits', 'test_efficientnet', (40, 32), regime='scratch', weights=None, epochs=3, bs=4, augment='whole_face', ema=.9, lr=.01)
ROADS = Spec('segment', 'scenes', 'test_efficientnet', (33, 48), regime='scratch', weights=None, epochs=2, bs=2, stride=8, ema=.9, lr=.02)


@pytest.fixture(scope='module')
def twins(tmp_path_factory):
    root = tmp_path_factory.mktemp('twins')
    return dict(portraits=portraits_twin(root/'faces', n_train=12, n_val=4), scenes=scenes_twin(root/'roads', n_train=4, n_val=3))


def learner(**kwargs):
    "A small FCN on noise"
    torch.manual_seed(0)
    batch = list(zip(torch.rand(8, 3, 33, 40), torch.randint(0, 3, (8, 33, 40))))
    dls = DataLoaders(DataLoader(batch, bs=4), DataLoader(batch, bs=4))
    dls.vocab = ['a', 'b', 'c']
    return seg_learner(dls, FCN(backbone('test_efficientnet', None, maps=True), 3), regime='scratch', device=PLAIN, **kwargs)


class Path(Callback):
    "All weights after each step, and what the loss was before it"
    order = 1
    def before_fit(self): self.seen, self.losses = [], []
    def after_step(self): self.seen.append({k: v.clone() for k, v in floats(self.model).items()})
    def after_loss(self): self.losses.append((self.training, self.loss.item()))


def quiet_fit(learn, n=2, lr=1e-2):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, lr)


def test_the_mean_is_that_of_the_path_and_the_path_is_not_changed_by_it():
    plain, with_mean = learner(cbs=Path()), learner(cbs=[AverageWeights(.9), Path()])
    start = {k: v.clone() for k, v in floats(plain.model).items()}
    quiet_fit(plain), quiet_fit(with_mean)
    train = lambda o: [loss for training, loss in o.path.losses if training]
    assert train(plain) == train(with_mean)
    for a, b in zip(plain.path.seen, with_mean.path.seen): assert all(torch.equal(v, b[k]) for k, v in a.items())
    mean = start
    for t, w in enumerate(plain.path.seen, 1):
        keep = min(.9, (1 + t)/(10 + t))
        mean = {k: keep * v + (1 - keep) * w[k] for k, v in mean.items()}
    for k, v in floats(with_mean.model).items(): torch.testing.assert_close(v, mean[k], rtol=1e-4, atol=1e-6)
    assert 'body.net.bn1.running_mean' in mean and not torch.equal(mean['body.net.bn1.running_mean'], plain.path.seen[-1]['body.net.bn1.running_mean'])
    last = with_mean.final_record[1]
    with with_mean.no_bar(): assert with_mean.validate()[0] == pytest.approx(last, rel=1e-5)


def test_what_is_frozen_is_its_own_mean():
    learn = learner(cbs=AverageWeights(.9))
    learn.freeze()
    before = {k: v.clone() for k, v in learn.model.body.state_dict().items()}
    quiet_fit(learn)
    assert all(torch.equal(v, before[k]) for k, v in learn.model.body.state_dict().items())
    assert learn.model.score['8'].weight.abs().sum() > 0


def test_a_second_fit_starts_a_new_mean():
    learn = learner(cbs=[AverageWeights(.9), Path()])
    quiet_fit(learn)
    quiet_fit(learn, 1, 0.)
    assert all(torch.allclose(v, learn.path.seen[-1][k], atol=1e-6) for k, v in floats(learn.model).items() if 'running' not in k)


@pytest.mark.parametrize('n', [1, 2, 3])
@pytest.mark.parametrize('changes', [dict(), dict(freeze_epochs=1, epochs=2), dict(schedule='step')])
def test_a_killed_run_goes_on_with_its_mean(twins, tmp_path, n, changes):
    "Killed in any epoch, the last one too, where only the record is missing"
    spec = replace(FACES, **changes)
    ends_as_unbroken(spec, n, path=twins['portraits'], tmp_path=tmp_path)


def test_a_run_that_is_stopped_gives_threads_back(twins, tmp_path):
    "What comes after it in a notebook is as fast as before"
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt): run(FACES, path=twins['portraits'], store=tmp_path, device=PLAIN, watch=[StopAfter(1)])
        assert PLAIN.threads == 1 and torch.get_num_threads() == 2
    finally: torch.set_num_threads(before)


def test_a_segmentation_is_recorded_with_its_mean(twins, tmp_path):
    shared = dict(path=twins['scenes'], store=tmp_path, device=PLAIN, watch=False)
    record, plain = run(ROADS, **shared), run(replace(ROADS, ema=0.), **shared)
    assert record.run_id != plain.run_id and not record.predictions.loss.equals(plain.predictions.loss)
    assert record.history.train_loss.equals(plain.history.train_loss)
    assert record.history.miou.iloc[-1] == pytest.approx(record.metrics['miou'], abs=1e-6)  # the table tells of the net it ends with
    assert evaluate(record, twins['scenes'], device=PLAIN).preds.equals(record.predictions.preds)


@pytest.mark.parametrize('spec', [FACES, ROADS], ids=['faces', 'roads'])
def test_with_the_mirror_image_a_mirrored_image_gets_the_mirrored_answer(twins, tmp_path, spec):
    spec = replace(spec, ema=0., epochs=1, tta='flip')
    record = run(spec, path=twins[spec.dataset], store=tmp_path, device=PLAIN, watch=False)
    model, dls = record.model(), build_dls(spec, open_layout(spec, twins[spec.dataset]), PLAIN)
    x = next(iter(dls.valid))[0].as_subclass(torch.Tensor)
    with torch.inference_mode():
        turned = model(x.flip(-1)).softmax(1)
        mean = (model(x).softmax(1) + (turned.flip(-1) if turned.ndim == 4 else turned))/2
    found = evaluate(record, twins[spec.dataset], device=PLAIN)
    if spec.task == 'classify':
        said = torch.tensor(np.stack(record.predictions.logits)[:len(x)]).softmax(1)
        torch.testing.assert_close(said.float(), mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(np.stack(found.logits), np.stack(record.predictions.logits))
    else:
        stored = np.stack([np.asarray(Image.open(BytesIO(o))) for o in record.predictions.preds[:len(x)]])
        assert (stored == mean.argmax(1).numpy()).mean() > .99  # but for ties
        assert found.preds.equals(record.predictions.preds)
    files = [dls.valid.items[0]]
    table = predict_files(record, files, tmp_path/'out', device=PLAIN)
    if spec.task == 'classify': assert table.iloc[0, 2:].to_numpy(float) == pytest.approx(mean[0].numpy(), abs=1e-5)


def test_closer_looks_are_the_mean_over_the_whole_and_its_enlarged_middle(twins, tmp_path):
    spec = replace(FACES, ema=0., epochs=1, tta='closer')
    record = run(spec, path=twins['portraits'], store=tmp_path, device=PLAIN, watch=False)
    model, dls = record.model(), build_dls(spec, open_layout(spec, twins['portraits']), PLAIN)
    x = next(iter(dls.valid))[0].as_subclass(torch.Tensor)
    said = []
    for zoom in (1, 1.15, 1.3):
        part = [round(o/zoom) for o in x.shape[-2:]]
        top, left = (round((o - k)/2) for o, k in zip(x.shape[-2:], part))
        middle = torch.nn.functional.interpolate(x[..., top:top + part[0], left:left + part[1]], x.shape[-2:], mode='bilinear')
        with torch.inference_mode(): said += [model(middle).softmax(1), model(middle.flip(-1)).softmax(1)]
    stored = torch.tensor(np.stack(record.predictions.logits)[:len(x)]).softmax(1)
    torch.testing.assert_close(stored.float(), torch.stack(said).mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.stack(evaluate(record, twins['portraits'], device=PLAIN).logits), np.stack(record.predictions.logits))


def test_what_a_spec_may_ask_of_an_image_can_be_done():
    assert {o for each in TTAS.values() for o in each} == set(LOOKS)


def test_looking_at_several_scales_is_recorded_and_measured_the_same(twins, tmp_path):
    spec = replace(ROADS, ema=0., epochs=1, tta='scales')
    record = run(spec, path=twins['scenes'], store=tmp_path, device=PLAIN, watch=False)
    plain = run(replace(spec, tta='none'), path=twins['scenes'], store=tmp_path, device=PLAIN, watch=False)
    assert not record.predictions.preds.equals(plain.predictions.preds)
    assert evaluate(record, twins['scenes'], device=PLAIN).preds.equals(record.predictions.preds)


def test_new_fields_leave_old_digests_as_they_were():
    assert Spec('classify', 'portraits', 'alexnet', (224, 224)).digest == 'edd9c01098b4'  # of hw4 0.1, which knew neither
    assert replace(FACES, ema=0.).digest != FACES.digest
