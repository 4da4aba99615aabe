"Augmentation against slow references: the same pixels, the promised shares, one random source"
import pickle
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.torch_core import TensorImage, TensorMask

from hw4.data.augment import N_NUMBERS, STRATEGIES, draw_heavy, draw_stronger, draw_whole_face, strategy
from hw4.data.batches import Augment, ToFloat, batch_tfms
from hw4.data.frames import frame_map, frame_points, sample, visible_share
from hw4.data.masks import ClassMask
from hw4.data.strategies import visible

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
    theta = draw_whole_face(torch.rand(2000, N_NUMBERS), aspect).theta
    assert visible_share(theta).min() == 1
    assert corners_in_frame(theta).abs().max() < 1          # an independent way to say it: every corner is inside the frame
    widths = (corners_in_frame(theta)[:, 0] - corners_in_frame(theta)[:, 1]).norm(dim=1) / 2
    assert widths.max() > 0.9 if aspect == 1 else True       # and the padding is not a retreat: the face stays large


@pytest.mark.parametrize('aspect', ASPECTS[:4])
def test_heavy_shows_about_half(aspect):
    torch.manual_seed(2)
    share = visible_share(draw_heavy(torch.rand(1500, N_NUMBERS), aspect).theta)
    assert 0.3 < share.median() < 0.6
    assert share.min() > 0 and share.max() <= 1


@pytest.mark.parametrize('aspect', ASPECTS[:4])
def test_stronger_shows_most(aspect):
    "At the median nine tenths, never less than six, counted without the grey patch too"
    torch.manual_seed(2)
    drawn = draw_stronger(torch.rand(1500, N_NUMBERS), aspect)
    share = visible_share(drawn.theta, drawn.hole)
    assert .86 < share.median() < .94 and share.min() > .6
    assert ((visible_share(drawn.theta) - share) > 0).float().mean() == pytest.approx(.5, abs=.05)


@pytest.mark.parametrize('name, least', dict(none=1, whole_face=1, flip_light=1, stronger=.6, heavy=.05, scene=.2).items())
def test_what_is_seen_of_two_hundred_views(name, least):
    "The measured property that is told of each strategy, for several pictures; 1 means: in every single draw"
    for image in ('0'*16, '89abcdef01234567'):
        for aspect in (1, 89/109, 4/3): assert visible(name, aspect=aspect, image=image).min() >= least


def test_a_patch_is_where_its_share_says():
    "Counted in the pixels of a white picture under a black outside"
    u = torch.rand(40, N_NUMBERS, generator=torch.Generator().manual_seed(1))
    drawn = draw_stronger(u, 80/60)
    points = frame_points(drawn.theta, (600, 800))
    y, x = torch.meshgrid(*((torch.arange(o)*2 + 1)/o - 1 for o in (600, 800)), indexing='ij')
    left, top, right, bottom = drawn.hole.T[:, :, None, None]
    seen = (points.abs() <= 1).all(-1) & ~((x >= left) & (x < right) & (y >= top) & (y < bottom))
    area = drawn.theta[:, :, :2].det().abs()  # a pixel of the frame covers this much of the source
    torch.testing.assert_close(visible_share(drawn.theta, drawn.hole).float(), seen.float().mean((1, 2))*area, atol=5e-3, rtol=0)


def test_what_is_kept_under_a_digest_is_found_again():
    "Strategies do today what they did in hw4 0.1, whatever numbers later ones need beside"
    assert {o: strategy(o).digest for o in ('none', 'heavy', 'whole_face', 'flip_light', 'scene')} == dict(
        none='185d484ba22b', heavy='0edba28dad56', whole_face='e66acf104d8d', flip_light='8c8abefcdd7f', scene='5d6ebbf51b09')


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
    torch.manual_seed(1)
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
    holes = [None]*len(x) if drawn.hole is None else drawn.hole
    for im, out, theta, gain, shift, hole in zip(x, fused, drawn.theta, drawn.gain, drawn.shift, holes):
        grid = F.affine_grid(theta[None].double(), (1, 3, 40, 56), align_corners=False)
        slow = F.grid_sample(im[None].as_subclass(torch.Tensor).double(), grid, padding_mode='reflection', align_corners=False)[0]
        slow = (slow * gain[:, None, None] + shift[:, None, None]).clamp(0, 1)
        for left, top, right, bottom in [] if hole is None else [hole.tolist()]:
            for i in range(40):
                for j in range(56):
                    if top <= (2*i + 1)/40 - 1 < bottom and left <= (2*j + 1)/56 - 1 < right: slow[:, i, j] = .5
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
def test_nothing_is_asked_of_a_batch_that_is_elsewhere(name):
    "On `meta` every question about a value is an error; on a GPU it is a wait"
    x, y = (torch.zeros(6, *o, 40, 56, dtype=torch.uint8, device='meta') for o in ((3,), ()))
    varied = Augment(strategy(name))((TensorImage(x), TensorMask(y)), split_idx=0)
    assert [(o.shape, o.dtype) for o in varied] == [(x.shape, torch.float32), (y.shape, torch.uint8)]


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
        assert [o.order for o in pickle.loads(pickle.dumps(batch_tfms(name)))] == ([40] if name == 'none' else [30, 40])


@pytest.fixture(scope='module')
def pictures():
    "Smooth ones, as photographs are: (64, 3, 60, 80) bytes"
    torch.manual_seed(9)
    return (F.interpolate(torch.rand(64, 3, 8, 10), (60, 80), mode='bicubic', antialias=False).clamp(0, 1) * 255).round().to(torch.uint8)


@pytest.mark.parametrize('name', STRATEGIES)
def test_bytes_and_floats_are_seen_alike(pictures, name):
    "The quick way on bytes is the slow way on floats, but for the rounding of a byte: no bias, and less than a level"
    augment = Augment(strategy(name))
    x = TensorImage(pictures.clone())
    x.numbers = torch.rand(64, N_NUMBERS, generator=torch.Generator().manual_seed(3))
    y = TensorImage(pictures.double() / 255)
    y.numbers = x.numbers
    quick, slow = (augment(o, split_idx=0).as_subclass(torch.Tensor).double() for o in (x, y))
    steepest = dict(scene=1.25 / .9, stronger=1 / .7 / .9).get(name, 1.25)
    assert (quick - slow).abs().max() <= .51 / 255 * steepest
    assert (quick - slow).mean().abs() < .02 / 255


@pytest.mark.parametrize('name', [o.name for o in STRATEGIES.values() if o.mask_safe])
def test_masks_of_bytes_and_of_int64_are_seen_alike(name):
    ids = torch.randint(0, 12, (16, 6, 8), generator=torch.Generator().manual_seed(4)).repeat_interleave(10, 1).repeat_interleave(10, 2)
    augment = Augment(strategy(name))
    seen = []
    for kind in (torch.uint8, torch.int64):
        torch.manual_seed(5)
        seen.append(ToFloat()(augment((TensorImage(torch.zeros(16, 3, 60, 80)), TensorMask(ids.to(kind))), split_idx=0))[1])
    assert seen[0].dtype == seen[1].dtype == torch.int64
    assert (seen[0] != seen[1]).double().mean() < 1e-3           # a point on the border of two pixels may fall to either


@pytest.mark.parametrize('name', [o for o in STRATEGIES if o != 'none'])
def test_the_distribution_is_that_of_the_slow_reference(pictures, name):
    "What a net is shown, drawn anew for each side: mean, spread and visible share of the two agree within the noise of the draws"
    augment = Augment(strategy(name))
    sides = []
    for seed, batch in ((10, pictures), (11, pictures.float() / 255)):
        torch.manual_seed(seed)
        drawn = [(augment(TensorImage(batch), split_idx=0), visible_share(augment.drawn.theta, augment.drawn.hole)) for _ in range(6)]
        x, share = torch.cat([o for o, _ in drawn]).as_subclass(torch.Tensor), torch.cat([o for _, o in drawn])
        sides.append(torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3)), (x[..., :-1] - x[..., 1:]).abs().mean((1, 2, 3)), share.float()], 1))
    a, b = sides
    noise = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt() + 1e-6
    assert ((a.mean(0) - b.mean(0)).abs() / noise).max() < 4
