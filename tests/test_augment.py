"Augmentation against slow references: the same pixels, the promised shares, one random source"
import pickle
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.torch_core import TensorImage, TensorMask

from hw4.data.augment import STRATEGIES, Augment, batch_tfms, draw_heavy, draw_whole_face, strategy
from hw4.data.frames import frame_map, frame_points, sample, visible_share
from hw4.data.masks import ClassMask

ASPECTS = (1, 89 / 109, 128 / 160, 4 / 3, 0.3, 3.5)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    x = TensorImage(torch.rand(6, 3, 40, 56))
    return x, TensorMask((x[:, 0] * 12).long())


def corners_in_frame(theta):
    "Where the source's four corners come to lie in the frame, by inverting the map"
    square = torch.tensor([[-1., -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
    theta = theta.double()
    return torch.linalg.solve(theta[:, :, :2], (square[None] - theta[:, None, :, 2]).transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize('aspect', ASPECTS)
def test_whole_face_shows_everything_in_every_draw(aspect):
    torch.manual_seed(1)
    theta = draw_whole_face(2000, aspect).theta
    assert visible_share(theta).min() == 1
    assert corners_in_frame(theta).abs().max() < 1          # an independent way to say it: every corner is inside the frame
    widths = (corners_in_frame(theta)[:, 0] - corners_in_frame(theta)[:, 1]).norm(dim=1) / 2
    assert widths.max() > 0.9 if aspect == 1 else True       # and the padding is not a retreat: the face stays large


@pytest.mark.parametrize('aspect', ASPECTS[:4])
def test_heavy_shows_about_half(aspect):
    torch.manual_seed(2)
    share = visible_share(draw_heavy(1500, aspect).theta)
    assert 0.3 < share.median() < 0.6
    assert share.min() > 0 and share.max() <= 1


def test_visible_share_agrees_with_counting_points():
    torch.manual_seed(3)
    theta = torch.eye(2, 3) + 0.6 * torch.randn(30, 2, 3)
    theta[0] = torch.tensor([[1., 0, 5], [0, 1, 0]])         # sees nothing
    side = (torch.arange(400, dtype=torch.float64) + .5) / 200 - 1
    points = torch.cartesian_prod(side, side)
    seen = torch.linalg.solve(theta[:, :, :2].double(), (points[None] - theta[:, None, :, 2].double()).transpose(1, 2)).abs() <= 1
    counted = seen.all(1).double().mean(1)
    assert visible_share(theta)[0] == 0
    torch.testing.assert_close(visible_share(theta), counted, atol=5e-3, rtol=0)


def test_sampling_equals_the_librarys_grid():
    torch.manual_seed(4)
    x, theta = torch.rand(5, 3, 31, 47), torch.eye(2, 3) + torch.randn(5, 2, 3) * .4
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    torch.testing.assert_close(frame_points(theta, (31, 47)), grid, atol=2e-6, rtol=0)
    torch.testing.assert_close(sample(x, theta), F.grid_sample(x, grid, padding_mode='reflection', align_corners=False), atol=1e-4, rtol=0)


def test_a_turn_keeps_shapes():
    "A round spot in a picture that is not square stays round when the frame turns"
    h, w = 120, 60
    y, x = np.indices((h, w)) + .5
    spot = torch.tensor(np.exp(-((x - w / 2)**2 + (y - h / 2)**2) / 2 / 8**2), dtype=torch.float32)[None, None]
    one = dict(span=torch.ones(1, 2), centre=torch.zeros(1, 2), flip=torch.tensor([False]))
    turned = sample(spot, frame_map(torch.tensor([37.]), aspect=w / h, **one), padding='zeros')
    assert (turned - spot).abs().max() < 0.01
    sheared = sample(spot, frame_map(torch.tensor([37.]), aspect=1., **one), padding='zeros')
    assert (sheared - spot).abs().max() > 0.1                # what it would be without the aspect


def test_flips_are_exact(batch):
    x, y = batch
    torch.manual_seed(0)
    augment = Augment(strategy('flip_light'))
    _, ya = augment((x, y), split_idx=0)
    flipped = augment.drawn.theta[:, 0, 0] < 0
    assert 0 < flipped.sum() < len(x)
    for was, now, f in zip(y, ya, flipped): assert torch.equal(now, was.flip(-1) if f else was)


@pytest.mark.parametrize('name', STRATEGIES)
def test_one_fused_step_equals_a_slow_one_per_image(batch, name):
    "Geometry and light of every image, done one image and one operation at a time"
    x, _ = batch
    augment = Augment(strategy(name))
    torch.manual_seed(5)
    fused = augment((x,), split_idx=0)[0]
    drawn = augment.drawn
    for im, out, theta, gain, shift in zip(x, fused, drawn.theta, drawn.gain, drawn.shift):
        grid = F.affine_grid(theta[None].double(), (1, 3, 40, 56), align_corners=False)
        slow = F.grid_sample(im[None].as_subclass(torch.Tensor).double(), grid, padding_mode='reflection', align_corners=False)[0]
        slow = (slow * gain[:, None, None] + shift[:, None, None]).clamp(0, 1)
        torch.testing.assert_close(out.as_subclass(torch.Tensor).double(), slow, atol=2e-4, rtol=0)


@pytest.mark.parametrize('name', [o.name for o in STRATEGIES.values() if o.mask_safe])
def test_image_and_mask_look_through_the_same_frame(name):
    "The image is the mask in grey; after any draw it still is, away from edges and outside"
    ids = torch.zeros(8, 60, 80, dtype=torch.long)
    ids[:, 10:35, 12:50], ids[:, 40:55, 30:75] = 5, 10
    x, y = TensorImage(ids[:, None].expand(8, 3, 60, 80) / 10.), TensorMask(ids)
    augment = Augment(strategy(name))
    torch.manual_seed(6)
    for _ in range(3):
        xa, ya = augment((x, y), split_idx=0)
        gain, shift = (o[:, 0, None, None] for o in (augment.drawn.gain, augment.drawn.shift))
        expected = (ya / 10. * gain + shift).clamp(0, 1)
        inside = ya != 255
        assert set(ya.unique().tolist()) <= {0, 5, 10, 255}
        assert ((xa[:, 0] - expected).abs() < 1e-3)[inside].float().mean() > 0.9


def test_outside_of_a_mask_is_255_exactly_where_the_frame_leaves_the_source(batch):
    x, y = batch
    augment = Augment(strategy('scene'))
    torch.manual_seed(7)
    _, ya = augment((x, y), split_idx=0)
    points = frame_points(augment.drawn.theta, (40, 56))
    well_outside, well_inside = (points.abs() > 1.05).any(-1), (points.abs() < 0.95).all(-1)
    assert (ya[well_outside] == 255).all() and (ya[well_inside] != 255).all()


@pytest.mark.parametrize('name', STRATEGIES)
def test_only_torchs_random_source_is_used(batch, name):
    augment = Augment(strategy(name))
    states = random.getstate(), np.random.get_state()[1].copy()
    runs = []
    for _ in range(2):
        torch.manual_seed(8)
        runs.append([augment(batch, split_idx=0) for _ in range(2)])
    assert all(torch.equal(a, b) for one, two in zip(*runs) for a, b in zip(one, two))
    assert random.getstate() == states[0] and (np.random.get_state()[1] == states[1]).all()
    if name != 'none': assert not torch.equal(runs[0][0][0], runs[0][1][0])


def test_validation_is_untouched_and_draws_nothing(batch):
    augment, before = Augment(strategy('whole_face')), torch.get_rng_state()
    for split in (1, None):
        for was, now in zip(batch, augment(batch, split_idx=split)): assert torch.equal(was, now)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_batch_that_was_given_is_not_changed(batch):
    kept = [o.clone() for o in batch]
    for name in STRATEGIES: Augment(strategy(name))(batch, split_idx=0)
    assert all(torch.equal(a, b) for a, b in zip(kept, batch))


def test_types_and_metadata_are_kept(batch):
    x, y = batch[0], ClassMask(batch[1])
    y.codes = 'kept'
    xa, ya = Augment(strategy('scene'))((x, y), split_idx=0)
    assert type(xa) is TensorImage and type(ya) is ClassMask and ya.codes == 'kept' and ya.dtype == torch.int64


def test_transforms_can_be_saved():
    for name in STRATEGIES:
        for tfm in pickle.loads(pickle.dumps(batch_tfms(name))): assert tfm.order in (10, 30)
