"What the lesson of `learn.metrics` does not show: oracles, contracts, and what importing it must not bring in"
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastai.torch_core import TensorImage
from fastai.vision.core import TensorMask
from sklearn.metrics import confusion_matrix

from hw4.data.camvid import THREE
from hw4.learn.boundary import boundary_iou
from hw4.learn.merging import merge_by, merge_named
from hw4.learn.metrics import (CONVENTIONS, ClassIoU, Count, MeanIoU, PixelAccuracy, class_ids, confusion, confusions, fw_iou, iou, mean_acc,
                               merge, miou, miou_by, pixel_acc, seg_metrics, tally)


def naive(preds, targs, n):
    cm = np.zeros((n + 1, n), int)
    for p, t in zip(np.ravel(preds), np.ravel(targs)): cm[min(t, n), p] += 1
    return cm


def some(seed=0, n=5, size=(4, 13, 17)):
    rng = np.random.default_rng(seed)
    return rng.integers(0, n, size), rng.integers(0, n + 1, size)


def test_counts_equal_a_loop_and_sklearn():
    p, t = some()
    assert (confusion(p, t, 5) == naive(p, t, 5)).all()
    assert (confusion(p, t, 5)[:5] == confusion_matrix(t[t < 5], p[t < 5], labels=range(5))).all()
    assert (confusions(p, t, 5) == np.stack([naive(a, b, 5) for a, b in zip(p, t)])).all()


@pytest.mark.parametrize('kind', [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_any_whole_numbers_and_void_anywhere_above(kind):
    p, t = some()
    t[t == 5] = 99
    got = confusion(torch.tensor(p).to(kind), torch.tensor(t).to(kind), 5)
    assert got.dtype == torch.int64 and (got.numpy() == naive(p, t, 5)).all()


def test_the_callers_masks_are_not_changed():
    p, t = (torch.tensor(o, dtype=torch.int32) for o in some())
    before = p.clone(), t.clone()
    confusions(p, t, 5)
    assert torch.equal(p, before[0]) and torch.equal(t, before[1])


def test_a_view_in_another_memory_order_is_counted_right():
    p, t = some(size=(6, 8, 6))
    assert (confusions(p.T, t.T, 5) == confusions(p.T.copy(), t.T.copy(), 5)).all()


def test_an_empty_batch_gives_no_matrices():
    assert confusions(torch.zeros(0, 4, 4, dtype=torch.uint8), torch.zeros(0, 4, 4, dtype=torch.int64), 3).shape == (0, 4, 3)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('order', [torch.contiguous_format, torch.channels_last])
def test_class_ids_are_argmax(dtype, order):
    torch.manual_seed(0)
    x = torch.randn(3, 11, 9, 7).mul(3).round().to(dtype).contiguous(memory_format=order)  # many ties
    assert torch.equal(class_ids(x).long(), x.argmax(1))
    x[0, 3, 2, 2], x[0, 8, 2, 2], x[1, 0], x[2, :, 0] = float('nan'), float('nan'), float('inf'), -float('inf')
    x[1, 4, :3] = float('inf')
    assert torch.equal(class_ids(x).long(), x.argmax(1))


def test_class_ids_of_many_classes_of_views_and_of_logits_with_a_gradient():
    torch.manual_seed(0)
    for shape in ((2, 300, 4, 4), (2, 256, 4, 4), (2, 1, 4, 4), (5, 3)):
        x = torch.randn(shape, requires_grad=True)
        assert torch.equal(class_ids(x).long(), x.argmax(1))
    x = torch.randn(2, 7, 10, 12)[:, 1:6, ::2, 1:]
    assert torch.equal(class_ids(x).long(), x.argmax(1))
    assert torch.equal(class_ids(TensorImage(x)).long(), x.argmax(1)) and type(class_ids(TensorImage(x))) is torch.Tensor


def test_readers_of_a_stack_are_the_readers_of_each():
    cms = confusions(*some(), 5)
    for read in (pixel_acc, mean_acc, miou, fw_iou, iou, lambda o: miou(o, 'truth'), lambda o: miou(o, 'all')):
        assert np.allclose(read(cms), [read(o) for o in cms])
        assert np.allclose(read(torch.tensor(cms)), read(cms))


def test_permuting_the_classes_permutes_the_ious():
    p, t = some()
    order = np.array([3, 1, 4, 0, 2])
    new = np.argsort(order)  # old id -> new id
    assert np.allclose(iou(confusion(new[p], np.append(new, 5)[t], 5)), iou(confusion(p, t, 5))[order])


def test_nothing_labelled_is_nan_without_a_warning(recwarn):
    cm = np.zeros((4, 3), int)
    cm[3] = 5
    assert np.isnan(fw_iou(cm)) and np.isnan(pixel_acc(cm)) and np.isnan(mean_acc(cm)) and np.isnan(miou(cm)) and np.isnan(miou(cm, 'truth'))
    assert not recwarn.list


@pytest.mark.parametrize('groups', [[[0], [1, 2, 5], [3, 4]], [[4, 0], [1, 2, 3]], [[0, 1, 2, 3, 4, 5]]])
def test_merging_the_matrix_is_merging_the_labels(groups):
    p, t = some()
    lut = np.full(6, len(groups))
    for i, group in enumerate(groups): lut[group] = i
    cms = confusions(p, t, 5)
    assert (merge(cms, groups) == confusions(lut[p], lut[t], len(groups))).all()
    assert merge(torch.tensor(cms), groups).dtype == np.int64


def test_the_conventions_agree_when_there_is_nothing_to_disagree_about():
    p, t = some()
    cms = confusions(p, np.minimum(t, 4), 5)  # no void, every class present
    assert np.allclose([miou_by(cms, o) for o in ('dataset', 'truth', 'absent zero')], miou(cms.sum(0)))
    assert set(CONVENTIONS) == {'dataset', 'truth', 'absent zero', 'per image', 'micro', 'void as class'}
    assert all(np.isfinite(miou_by(cms, o)) for o in CONVENTIONS)


def batches(sizes=(6, 9, 5)):
    torch.manual_seed(0)
    for bs in sizes: yield SimpleNamespace(pred=torch.randn(bs, 4, 6, 5), yb=(TensorMask(torch.randint(0, 5, (bs, 6, 5))),))


def test_metrics_give_the_same_alone_together_and_twice():
    alone, shared = [PixelAccuracy(), MeanIoU(), ClassIoU(2)], seg_metrics('abcd')
    for metrics in (alone, shared, shared):  # the third time: `reset` forgets the epoch before
        for metric in metrics: metric.reset()
        for batch in batches():
            for metric in metrics: metric.accumulate(batch)
    whole = sum(confusion(o.pred.argmax(1), o.yb[0], 4) for o in batches())
    assert torch.equal(shared[0].count.cm, whole)
    assert [o.value for o in alone] == [shared[0].value, shared[1].value, shared[4].value]
    assert shared[1].value == miou(whole)


def test_a_batch_is_counted_once_and_its_prediction_is_let_go():
    metrics, batch = seg_metrics('abcd'), next(batches((2,)))
    for metric in metrics: metric.accumulate(batch)
    count = metrics[0].count
    assert count.cm.sum() == 60 and count._last() is batch.pred
    batch.pred = None
    assert count._last() is None  # nothing keeps the tensor alive


def test_the_way_of_a_gpu_counts_as_the_way_of_a_cpu(monkeypatch):
    "Ones added to cells, which is what happens where there is no `bincount` without waiting"
    p, t = map(torch.tensor, some())
    expected = tally(p, t, 5)
    monkeypatch.setattr(torch.Tensor, 'device', SimpleNamespace(type='elsewhere'))
    monkeypatch.setattr(torch, 'arange', lambda *a, device=None, f=torch.arange, **k: f(*a, **k))
    monkeypatch.setattr(torch, 'ones', lambda *a, device=None, f=torch.ones, **k: f(*a, **k))
    monkeypatch.setattr(torch, 'bincount', None)
    assert torch.equal(tally(p, t, 5), expected)


def test_an_epoch_is_counted_without_asking_the_device():
    "On `meta` every question about a value is an error: none is asked by any metric, batch after batch"
    metrics = seg_metrics('abcd')
    for bs in (3, 3, 2):
        batch = SimpleNamespace(pred=torch.rand(bs, 4, 6, 5, device='meta'), yb=(torch.zeros(bs, 6, 5, dtype=torch.int64, device='meta'),))
        for metric in metrics: metric.accumulate(batch)
    assert metrics[0].count.cm.shape == (5, 4)
    with pytest.raises(RuntimeError): confusions(batch.pred.argmax(1), batch.yb[0], 4)  # the careful way asks


def test_a_negative_id_of_any_batch_is_said_at_the_end():
    for at in (0, 2):
        metric = MeanIoU()
        for i, batch in enumerate(batches()):
            if i == at: batch.yb[0][0, 0, 0] = -1
            metric.accumulate(batch)
        with pytest.raises(ValueError, match='true id -1'): metric.value
        metric.reset()
        for batch in batches(): metric.accumulate(batch)
        assert metric.value > 0  # and is forgotten with the epoch


def test_frequency_weights_are_the_shares_of_the_truth():
    p, t = some()
    cm, seen = confusion(p, t, 5), t < 5
    assert np.isclose(fw_iou(cm), np.average(iou(cm), weights=np.bincount(t[seen], minlength=5)))


def test_merging_by_name_is_merging_by_id():
    cms = confusions(*some(n=11), 11)
    ids = [[0], [1, 2, 3, 4, 5, 6, 7, 11], [8, 9, 10]]  # the course's three classes
    assert (merge_by(cms, THREE) == merge(cms, ids)).all()
    assert (merge_named(cms, THREE.source, groups=dict(reversed(list(THREE.groups.items())[:3]))) == merge(cms, ids[::-1])).all()


def test_boundary_iou_by_distances():
    "Against the distance of each pixel to the nearest one outside its class, measured in squares as the authors' erosion does"
    from scipy.ndimage import distance_transform_cdt
    p, t = (torch.tensor(o) for o in some(n=3, size=(2, 24, 30)))
    p, t = (o.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :50, :70] for o in (p, t))
    rims = lambda o, c: np.stack([(m == c) & (distance_transform_cdt(np.pad(m == c, 1), 'chessboard')[1:-1, 1:-1] <= 3) for m in o.numpy()])
    for c, got in enumerate(boundary_iou(p, t, 3, width=3)):
        a, b = rims(p, c) & (t < 3).numpy(), rims(t, c) & (t < 3).numpy()
        assert np.isclose(got, (a & b).sum()/(a | b).sum())


def test_the_import_brings_no_vision_stack():
    code = "import sys, hw4.learn.metrics; print([o for o in sys.modules if o.startswith(('fastai.vision', 'torchvision', 'timm'))])"
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == '[]'
