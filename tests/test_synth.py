"The twins: what a lesson should not spend time on. Determinism, no shortcut in the colours, CamVid's class shares, time."
import multiprocessing
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import jaccard_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import hw4.data.synth as synth
from hw4.data.celeba import portraits, read_attributes
from hw4.data.check import check
from hw4.data.faces import paint_up, who
from hw4.data.portraits import portrait
from hw4.data.streets import scene
from hw4.data.synth import celeba_twin, frames, portraits_twin, scenes_twin, twin

# Shares of the pixels, in per cent, counted over trainannot of CamVid (367 images): Sky ... Bicyclist, void
CAMVID_SHARES = np.array([16.85, 23.26, .98, 31.66, 4.49, 9.72, 1.17, 1.13, 5.87, .64, .29, 3.95])


def files(root):
    "Every file of a folder: relative path -> bytes"
    return {o.relative_to(root).as_posix(): o.read_bytes() for o in sorted(Path(root).rglob('*')) if o.is_file()}


@pytest.fixture(scope='module')
def shown():
    "Frames of the three drives, as a twin has them, small"
    return [scene(drive, number, size=(90, 120)) for drive, number in frames(220)[::5]]


def test_workers_and_threads_do_not_matter(tmp_path):
    small = dict(n_val=1, size=(55, 45))
    one = files(portraits_twin(tmp_path/'one', 3, workers=1, **small))
    thread = threading.Thread(target=portraits_twin, args=(tmp_path/'thread', 3), kwargs=dict(workers=3, **small))
    thread.start(), thread.join()
    context, two = multiprocessing.get_context('fork'), dict(workers=2, **small)
    fork = context.Process(target=portraits_twin, args=(tmp_path/'fork', 3), kwargs=two, daemon=True)
    fork.start(), fork.join()
    assert files(tmp_path/'thread') == one == files(tmp_path/'fork')
    assert len(one) == 9 and len(set(one.values())) == 9       # 8 portraits and the mark that they are painted


def test_seeds_differ():
    assert (portrait(True, (0, 1)) != portrait(True, (1, 1))).mean() > .5
    assert (scene(0, 6690, 0, size=(90, 120))[1] != scene(0, 6690, 1, size=(90, 120))[1]).mean() > .1


def test_larger_scenes_contain_smaller(tmp_path):
    few, more = (files(scenes_twin(tmp_path/str(n), n, n_val=n - 1, size=(45, 60))) for n in (2, 4))
    pictures = [o for o in few if o.endswith('.png')]
    assert len(pictures) == 6 and all(few[o] == more[o] for o in pictures)


def test_splits_share_no_image():
    train, val = frames(367), frames(101, val=True)
    assert len({*train, *val}) == 468


def test_mean_colour_tells_nothing():
    "A shortcut that any net would take: the class must not be readable from the mean colour"
    x = np.array([portrait(i % 2 == 1, (0, i), size=(55, 45)).mean((0, 1)) for i in range(1000)])
    y = np.arange(1000) % 2
    fit = make_pipeline(StandardScaler(), LogisticRegression()).fit(x[:600], y[:600])
    assert fit.score(x[600:], y[600:]) < .6


def test_only_makeup_differs():
    "The draws of a person do not know the class"
    for i in range(20):
        faces = [paint_up(who(np.random.default_rng(i)), o, np.random.default_rng(i)) for o in (False, True)]
        for name in ('skin', 'hair', 'style', 'glasses', 'light', 'turn', 'smile'):
            assert np.all(getattr(faces[0], name) == getattr(faces[1], name))
        parts = [(o.shadow[0] / .85, o.blush[0] / .5) for o in faces]
        assert max(parts[0]) <= .35 and max(parts[1]) >= .55


def test_shares_are_camvids(shown):
    count = sum(np.bincount(mask.ravel(), minlength=12) for _, mask in shown)
    shares = 100 * count / count.sum()
    assert len(shares) == 12
    assert (abs(shares - CAMVID_SHARES) < .5 + .35 * CAMVID_SHARES).all(), dict(enumerate(shares.round(2)))


def test_every_class_is_there(shown):
    there = np.mean([np.bincount(mask.ravel(), minlength=12) > 0 for _, mask in shown], axis=0)
    assert (there > .25).all() and (there[[0, 1, 2, 3, 4, 5, 6, 8]] > .9).all(), there


def test_colour_of_a_pixel_is_not_enough(shown):
    "A tree that sees one pixel at a time is far from solving the scenes"
    x, y = np.concatenate([o.reshape(-1, 3)[::7] for o, _ in shown]), np.concatenate([o.ravel()[::7] for _, o in shown])
    half = len(y) // 2
    preds = DecisionTreeClassifier(max_depth=12, random_state=0).fit(x[:half], y[:half]).predict(x[half:])
    keep = y[half:] < 11
    assert jaccard_score(y[half:][keep], preds[keep], labels=range(11), average='macro', zero_division=0) < .3


def test_masks_are_plain_ids(tmp_path):
    root = scenes_twin(tmp_path/'roads', 2, n_val=1, size=(90, 120))
    with Image.open(root/'trainannot/0006R0_f00930.png') as mask: assert mask.mode == 'L' and mask.size == (120, 90)
    assert (root/'val.csv').read_text() == 'img,label\nval/0016E5_07959.png,valannot/0016E5_07959.png\n'


def test_twins_pass_the_check(tmp_path):
    made = [portraits_twin(tmp_path/'faces', 3, n_val=2, size=(55, 45)), scenes_twin(tmp_path/'roads', 2, n_val=1, size=(45, 60)),
            celeba_twin(tmp_path/'celeba', 30, size=(55, 45))]
    assert all(check(o).ok for o in made)


def test_celeba_is_read_back(tmp_path):
    root = celeba_twin(tmp_path, 60, size=(55, 45))
    attrs = read_attributes(root)
    assert len(attrs) == 60 and .2 < (attrs.Heavy_Makeup == 1).mean() < .6
    rows = [(root/f'{name}.txt').read_text().splitlines() for name in ('list_eval_partition', 'identity_CelebA')]
    part, people = (np.array([o.split()[1] for o in row], int) for row in rows)
    assert all(len(set(part[people == o])) == 1 for o in set(people)) and set(part) == {0, 1, 2}
    assert set(portraits(root, n_train=5, n_val=1).splits) >= {'train', 'val'}


def test_a_twin_is_whole_or_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv('HW4_CACHE', str(tmp_path))
    few = dict(n_train=2, n_val=1, size=(55, 45))
    def fails(job): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(synth, 'draw', fails)
        with pytest.raises(KeyboardInterrupt): twin('portraits', **few)
    assert not list((tmp_path/'twins').iterdir())
    assert twin('portraits', **few) == twin('portraits', seed=0, **few) and len(list((tmp_path/'twins').iterdir())) == 1


@pytest.mark.slow
def test_2400_portraits_in_30_seconds(tmp_path):
    "On two cores: 60 seconds of processor time, whatever else the machine does"
    spent = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before = spent()
    root = portraits_twin(tmp_path/'faces', workers=2)
    assert len(list(root.rglob('*.jpg'))) == 2400
    assert spent() - before < 60
