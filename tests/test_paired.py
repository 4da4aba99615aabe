"What the lessons on paired comparison do not show: independent calculations, and simulations whose figures are printed (-m slow -s)"
import subprocess
import sys
from functools import partial
from time import perf_counter

import numpy as np
import pytest
from scipy.stats import binom, bootstrap, norm, permutation_test, t, ttest_ind
from statsmodels.stats.proportion import proportion_confint

from hw4.learn.metrics import iou, miou, pixel_acc
from hw4.study.paired import (Paired, discordant, holm, images_needed, mcnemar_p, tango, tango_z, two_classifiers, verdict, what_it_takes,
                              wilson)
from hw4.study.recipes import Noise, Side, accuracy, hits, noise_of, seeds_needed, two_recipes
from hw4.study.resampled import draws, expanded, measured, swap_p, swaps, two_models

MIOU = partial(miou, present='truth')


# independent calculations

def test_needs_no_torch():
    code = 'import sys, hw4.study.recipes; print(sorted({"torch", "fastai", "timm"} & set(sys.modules)))'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'


@pytest.mark.parametrize('a, b', [(9, 1), (13, 3), (15, 5), (18, 6), (21, 9), (27, 13), (39, 21), (6, 0)])
def test_smallest_tables_that_decide(a, b):
    "The least uneven disagreements with p < .05, at 10, 16, 20, ... of them"
    assert mcnemar_p(a, b) < 0.05 <= mcnemar_p(a - 1, b + 1)
    assert mcnemar_p(a, b) == mcnemar_p(b, a) == pytest.approx(2 * binom.cdf(b, a + b, 0.5))


def test_known_p_values():
    assert mcnemar_p(6, 0) == pytest.approx(0.03125)
    assert mcnemar_p(5, 0) == pytest.approx(0.0625)
    assert mcnemar_p(4, 4) == 1


@pytest.mark.parametrize('right, n', [(380, 400), (0, 20), (20, 20), (1, 3)])
def test_wilson_equals_its_formula(right, n):
    z, p = norm.isf(0.025), right / n
    centre, half = (p + z*z/(2*n)) / (1 + z*z/n), z / (1 + z*z/n) * np.sqrt(p*(1 - p)/n + z*z/(4*n*n))
    assert wilson(np.arange(n) < right) == pytest.approx((centre - half, centre + half), abs=1e-9)
    assert wilson(np.arange(n) < right, alpha=0.1) == pytest.approx(proportion_confint(right, n, 0.1, 'wilson'), abs=1e-9)


@pytest.mark.parametrize('a, b, n, alpha, known', [
    (60, 20, 1000, 0.05, (0.0231, 0.0584)),  # R's PropCIs::scoreci.mp, which takes the two counts in the opposite order
    (28, 25, 618, 0.10, (-0.0148, 0.0247)),
    (48, 41, 549, 0.10, (-0.0157, 0.0414)),
])
def test_tango_as_in_r(a, b, n, alpha, known):
    assert tango(a, b, n, alpha=alpha) == pytest.approx(known, abs=6e-5)
    assert tango(b, a, n, alpha=alpha) == pytest.approx((-known[1], -known[0]), abs=6e-5)


@pytest.mark.parametrize('a, b, n', [(9, 1, 400), (0, 0, 10), (10, 0, 10), (0, 10, 10), (5, 5, 10), (1, 0, 1)])
def test_tango_holds_what_was_seen_and_solves_its_equation(a, b, n):
    lo, hi = tango(a, b, n)
    assert -1 <= lo <= (a - b) / n <= hi <= 1
    if lo > -1: assert tango_z(a, b, n, lo) == pytest.approx(norm.isf(0.025), abs=1e-6)
    if hi < 1: assert tango_z(a, b, n, hi) == pytest.approx(-norm.isf(0.025), abs=1e-6)


def test_exact_test_and_interval_never_contradict_each_other():
    "Where the exact test says p <= .05 the interval leaves out 0, so a verdict never lacks an interval that shows it"
    for n in (50, 400):
        for b in range(25):
            for a in range(b, 25): assert mcnemar_p(a, b) > 0.05 or tango(a, b, n)[0] > 0


def test_verdicts():
    found = Paired(0.9, 0.8, (0, 1), (0, 1), 0.01, 0.19, 0.03, 100, '')
    assert [verdict(found), verdict(found, p=0.051), verdict(found, alpha=0.01), verdict(found, p=float('nan'))] == \
        ['better', *['not decided'] * 3]
    assert verdict(Paired(0.9, 0.8, (0, 1), (0, 1), -0.01, 0.19, 0.03, 100, '')) == 'not decided'
    assert 'no reasonable number of images would' in what_it_takes(found)


def test_two_classifiers_mirror_each_other():
    rng = np.random.default_rng(0)
    a, b = rng.random(400) < 0.9, rng.random(400) < 0.8
    found, turned = two_classifiers(a, b), two_classifiers(b, a)
    assert (turned.lo, turned.hi, turned.p, *turned.a_ci) == pytest.approx((-found.hi, -found.lo, found.p, *found.b_ci))
    assert [verdict(found), verdict(turned), verdict(two_classifiers(a, a))] == ['better', 'worse', 'not decided']
    assert two_classifiers(a, a).images_needed is None


def test_holm_keeps_order_and_is_at_least_the_p_value():
    assert holm([]) == [] and holm([0.2]) == [0.2]
    ps = np.random.default_rng(0).random(20) ** 3
    assert (np.array(holm(ps)) >= ps).all() and min(holm(ps)) == pytest.approx(min(1, 20 * ps.min()))


def test_images_needed_gives_the_power_it_promises():
    "With that many images, and the same shares of disagreement, the exact test decides about four times in five"
    a, b, n = 20, 12, 400
    lo, hi = tango(a, b, n)
    more = images_needed((a - b) / n, (hi - lo) / 2, n)
    x, y, _ = np.random.default_rng(0).multinomial(more, [a/n, b/n, 1 - (a + b)/n], size=20_000).T
    assert np.mean((2 * binom.cdf(y, x + y, 0.5) <= 0.05) & (x > y)) == pytest.approx(0.8, abs=0.04)


def test_draws_are_whole_blocks():
    w = np.concatenate(list(draws(101, block=10, reps=300, seed=5)))
    assert w.shape == (300, 101) and (w.sum(1) == 101).all()
    starts = (w > np.roll(w, 1, 1)).sum(1)  # on the circle, a run can only begin where a block does
    assert starts.max() <= 11
    assert w.mean(0).std() < 0.15  # every frame is drawn about as often
    assert (w == np.concatenate(list(draws(101, block=10, reps=300, seed=5)))).all()


def test_many_images_are_drawn_in_parts():
    parts = list(draws(20_000, reps=450))
    assert len(parts) == 3 and sum(map(len, parts)) == 450 and all((o.sum(1) == 20_000).all() for o in parts)


def test_bootstrap_agrees_with_scipy():
    "Percentile intervals of a difference of accuracies; only the random draws differ"
    rng = np.random.default_rng(0)
    a, b = rng.random(80) < 0.9, rng.random(80) < 0.8
    values = measured(np.stack([hits(a), hits(b)]), accuracy)
    ours = expanded(values[0] - values[1], 1e9)
    theirs = bootstrap((a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), paired=True, method='percentile', rng=0).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.013)  # one image
    assert expanded(values[0] - values[1], 80)[1] >= ours[1]


def test_swaps_agree_with_scipy():
    rng = np.random.default_rng(1)
    cms = rng.integers(0, 9, (2, 8, 3, 2))

    def delta(i, j, axis):  # scipy swaps indices 0..15, ours swaps matrices; both go through all 2**8 ways
        both = cms.reshape(16, 3, 2)
        return MIOU(both[i.astype(int)].sum(axis % i.ndim)) - MIOU(both[j.astype(int)].sum(axis % j.ndim))
    theirs = permutation_test((np.arange(8.), np.arange(8.) + 8), delta, permutation_type='samples', vectorized=True, n_resamples=999)
    deltas = np.abs(theirs.null_distribution)
    assert len(deltas) == 256
    assert swap_p(cms[0], cms[1], MIOU) == pytest.approx(np.mean(deltas >= abs(theirs.statistic) - 1e-12))


def test_swap_test_of_accuracies_is_mcnemars():
    a, b = np.arange(14) < 11, np.arange(14) >= 9
    assert swap_p(hits(a), hits(b), accuracy, reps=2**14) == pytest.approx(mcnemar_p(*discordant(a, b)))


def test_swapped_blocks_are_even():
    ways, = swaps(101, block=20)
    assert len(ways) == 2**5
    sizes = np.bincount(np.unique(ways, axis=1, return_inverse=True)[1])
    assert set(sizes) <= {20, 21} and sizes.sum() == 101


def test_two_models_reads_any_measure_and_refuses_other_truths():
    cms = scenes(np.random.default_rng(0), 1, 30)[0]
    for measure in (MIOU, pixel_acc, lambda cm: iou(cm)[..., 4]):
        found, turned = (two_models(*o, measure, reps=500) for o in (cms, cms[::-1]))
        assert found.a == pytest.approx(measure(cms[0].sum(0))) and found.lo <= found.delta <= found.hi
        assert (turned.lo, turned.hi, turned.p) == pytest.approx((-found.hi, -found.lo, found.p))
    with pytest.raises(ValueError, match='B counts other true pixels in images .0, 1'): two_models(cms[0], cms[1][::-1], MIOU)
    with pytest.raises(ValueError, match='nothing to measure'): two_models(0 * cms[0], 0 * cms[1], MIOU)
    assert two_models(cms[0], cms[0], MIOU, reps=200).p == 1


def test_a_class_that_some_draws_lack():
    "A class in one image of 20: draws without it are left out of its IoU, and the interval is still finite"
    cms = np.zeros((2, 20, 4, 3), int)
    cms[:, :, 0, 0], cms[:, 0, 1, 1], cms[0, 0, 1, 0], cms[1, 0, 1, 2] = 50, 20, 4, 4
    cms[1, 0, 1, 1] = 20
    found = two_models(cms[0], cms[1], lambda cm: iou(cm)[..., 1], reps=500)
    assert np.isfinite([found.lo, found.hi, found.p]).all()


def test_recipes_reduce_to_the_textbook():
    "Without noise of images, Welch's test of the seeds; without noise of seeds, a t interval of the images"
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.90, 0.02, 3), rng.normal(0.85, 0.01, 5)
    noise = noise_of(Side(a, np.tile(a[:, None], 9)), Side(b, np.tile(b[:, None], 9)), 400)
    known = ttest_ind(a, b, equal_var=False)
    assert noise.p(a.mean() - b.mean()) == pytest.approx(known.pvalue)
    assert noise.width() == pytest.approx(np.diff(known.confidence_interval(0.95))[0] / 2)
    x, y = rng.random(400) < 0.9, rng.random(400) < 0.8
    found = two_recipes(np.stack([hits(x)] * 3), np.stack([hits(y)] * 3), accuracy)
    gap = x.astype(float) - y
    assert found.hi - found.delta == pytest.approx(t.isf(0.025, 399) * gap.std(ddof=1) / 20, rel=0.03)
    assert found.seed_sd == (0, 0) and found.seeds_needed in (3, None)


def test_churn_is_told_from_lasting_noise():
    "Seeds that differ in nothing but on which images they are wrong: most of their noise would average out, and what five seeds happen to hide of it stays"
    rng, shares = np.random.default_rng(0), []
    for _ in range(40):
        a, b = (hits(rng.random((5, 400)) < 0.9) for _ in range(2))
        noise = noise_of(*(Side(accuracy(o.sum(1)), measured(o, accuracy, reps=300)) for o in (a, b)), 400)
        shares.append([sum(noise.seeds), noise.churn, noise.images])
    of_seeds, mixed, images = np.mean(shares, 0)
    assert mixed == pytest.approx(2 * 0.9 * 0.1 / 400 / 5, rel=0.05) and of_seeds == pytest.approx(mixed, rel=0.15) and images < 0.25 * mixed


def test_interval_and_p_of_recipes_agree():
    for seeds in ((1e-4, 3e-4), (0, 1e-4), (0, 0)):
        noise = Noise(seeds, 0, 2e-4, (3, 4), 50)
        for alpha in (0.2, 0.05, 0.001): assert noise.p(-noise.width(alpha)) == pytest.approx(alpha, rel=1e-6)
    assert Noise((0, 0), 0, 0, (3, 3), 50).p(0.1) < 1e-6
    assert seeds_needed(0, noise) is None


# simulations

def classifiers(rng, reps, n, a, b, rho):
    "Counts of (both, only A, only B, none) right, for accuracies `a` and `b` whose right and wrong correlate by `rho`"
    both = a*b + rho*np.sqrt(a*(1 - a)*b*(1 - b))
    return rng.multinomial(n, [both, a - both, b - both, 1 - a - b + both], size=reps)


PAIRS = [(.95, .95, 0), (.95, .95, .5), (.95, .95, .8), (.95, .925, .6), (.95, .93, .8), (.9, .9, .5), (.92, .88, .5), (.9, .8, .3),
         (.8, .75, .6), (.6, .6, 0), (.98, .97, .5), (.99, .98, .3)]


@pytest.mark.slow
def test_coverage_of_two_classifiers():
    rng, n, known = np.random.default_rng(0), 400, {}
    print('\ntwo classifiers, n=400: accuracy A, B, correlation: coverage in 1,000 simulated pairs; share of verdicts in 100,000')
    for a, b, rho in PAIRS:
        inside = 0
        for _, x, y, _ in classifiers(rng, 1000, n, a, b, rho):
            if (x, y) not in known: known[x, y] = tango(x, y, n)
            inside += known[x, y][0] <= a - b <= known[x, y][1]
        _, x, y, _ = classifiers(rng, 100_000, n, a, b, rho).T  # where p <= .05 the interval leaves out 0, as tested above
        told = np.mean(2 * binom.cdf(np.minimum(x, y), x + y, 0.5) <= 0.05)
        print(f'  {a:.3f} {b:.3f} {rho:.1f}: {inside/1000:.3f}; {"type I" if a == b else "power"} {told:.3f}')
        assert 0.93 <= inside/1000 <= 0.97
        if a == b: assert told <= 0.05


def wave(rng, shape, rho):
    "Standard normal series along the last axis, neighbours correlated by `rho`"
    x = rng.normal(size=shape)
    for i in range(1, shape[-1]): x[..., i] = rho*x[..., i - 1] + np.sqrt(1 - rho**2)*x[..., i]
    return x


def scenes(rng, sets, n, *, k=1, rho=0., better=0., luck=(0., 0.), own=0.06, churned=0.04):
    "(sets, 2k, n, 6, 5) int64: counts of k seeds of A, then of B, on images of five classes of which two are rare"
    base, there = np.array([4000, 2000, 800, 200, 60]), np.array([1, 1, 0.9, 0.5, 0.25])
    z = wave(rng, (sets, 5, n), rho)
    pixels = (base[:, None] * np.exp(0.5*wave(rng, (sets, 5, n), rho)) * (norm.cdf(z) < there[:, None])).astype(int)
    ease = 0.8 - 0.08*np.arange(5)[:, None] + 0.1*wave(rng, (sets, 5, n), rho)
    recipe = own*wave(rng, (sets, 2, 1, 5, n), rho)  # what a recipe makes of an image, whatever the seed
    lucky = rng.normal(size=(sets, 2, k, 1, 1)) * np.reshape(luck, (2, 1, 1, 1))
    each = churned*wave(rng, (sets, 2, k, 5, n), rho)
    skill = ease[:, None, None] + recipe + lucky + each + np.reshape([better, 0], (2, 1, 1, 1))
    right = np.round(pixels[:, None, None] * np.clip(skill, 0, 1)).astype(int).reshape(sets, 2*k, 5, n).swapaxes(2, 3)
    wrong, cms = pixels[:, None].swapaxes(2, 3) - right, np.zeros((sets, 2*k, n, 6, 5), int)
    for i in range(5): cms[..., i, i], cms[..., i, (i + 1) % 5] = right[..., i], wrong[..., i]
    return cms


def true_delta(measure, **how):
    "The difference that endless images would show"
    a, b = sum(scenes(np.random.default_rng(9 + i), 1, 20_000, **how)[0].sum(1) for i in range(10))
    return measure(a) - measure(b)


MEASURES = {'miou': MIOU, 'pixel_acc': pixel_acc, 'iou of the rarest class': lambda cm: iou(cm)[..., 4]}


@pytest.mark.slow
@pytest.mark.parametrize('name, n, better', [('miou', 400, 0.01), ('miou', 101, 0.03), ('miou', 40, 0.02), ('pixel_acc', 101, 0.03),
                                             ('iou of the rarest class', 101, 0.03)])
def test_coverage_of_two_models(name, n, better):
    measure, rng, found = MEASURES[name], np.random.default_rng(n), []
    truth = true_delta(measure, better=better)
    for i, cms in enumerate(o for _ in range(20) for o in scenes(rng, 50, n, better=better)):
        values = measured(cms, measure, reps=499, seed=i)
        (lo, hi), (plain_lo, plain_hi) = (expanded(values[0] - values[1], o) for o in (n, 1e9))
        found.append([lo <= truth <= hi, plain_lo <= truth <= plain_hi])
    ours, plain = np.mean(found, 0)
    print(f'\ntwo models, {name}, 1,000 simulated pairs, {n} images, difference {truth:.4f}: '
          f'coverage {ours:.3f} (plain percentiles {plain:.3f})')
    if n == 400: assert 0.93 <= ours <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize('name', MEASURES)
def test_type_one_error_of_two_models(name):
    measure, rng, found = MEASURES[name], np.random.default_rng(0), []
    for i, cms in enumerate(o for _ in range(40) for o in scenes(rng, 100, 101)):
        p = swap_p(*cms, measure, reps=199, seed=i)
        told = p <= 0.05 and verdict(two_models(*cms, measure, reps=399, seed=i), p=p) != 'not decided'
        found.append([p <= 0.05, told])
    swapped, told = np.mean(found, 0)
    print(f'\ntwo models, {name}, equally good, 4,000 simulations, 101 images: '
          f'permutation p <= .05 in {swapped:.4f}, type I error {told:.4f}')
    assert told <= 0.05 + 2*np.sqrt(0.05*0.95/4000)  # so many simulations tell a rate to within 0.7 points


@pytest.mark.slow
def test_coverage_in_blocks():
    print('\ntwo models, miou, equally good, 400 simulated films of 101 frames: coverage and errors as they are')
    for rho in (0.95, 0.9, 0.8):
        films, worth = scenes(np.random.default_rng(1), 400, 101, rho=rho), 101*(1 - rho)/(1 + rho)
        print(f'  neighbouring frames correlated by {rho}, so that 101 are worth about {worth:.1f}')
        for block in (1, 5, 10, 15, 20, 25):
            found = [two_models(*cms, MIOU, block=block, reps=499, seed=i) for i, cms in enumerate(films)]
            inside, swapped, told = np.mean([[o.lo <= 0 <= o.hi, o.p <= 0.05, verdict(o) != 'not decided'] for o in found], 0)
            print(f'    blocks of {block}: coverage {inside:.3f}, permutation p <= .05 in {swapped:.3f}, type I error {told:.3f}')


def usual(noise, delta):
    "The usual way that was not taken: variances added, one t with Satterthwaite's degrees of freedom"
    parts, total = [*noise.seeds, noise.images], sum(noise.seeds) + noise.images
    df = total**2 / (sum(v**2 / (k - 1) for v, k in zip(parts, (*noise.k, noise.m)) if v) or 1e-30)
    return 2*t.sf(abs(delta) / np.sqrt(total), df) if total else 1.0


def naive(a, b, rng):
    "Two-sided p of a plain bootstrap of seeds and images"
    d = [o.draws[rng.integers(len(o.values), size=(len(o.values), o.draws.shape[1])), np.arange(o.draws.shape[1])].mean(0) for o in (a, b)]
    return 2 * min(np.mean(d[0] <= d[1]), np.mean(d[0] >= d[1]))


def judged(pairs, measure, m, reps):
    "Shares of p <= .05 by our interval, the usual one, a plain bootstrap, and the first seeds alone"
    rng, told = np.random.default_rng(0), []
    for i, cms in enumerate(pairs):
        k = len(cms) // 2
        values, drawn = measure(cms.sum(1)), measured(cms, measure, reps=reps, seed=i)
        a, b = Side(values[:k], drawn[:k]), Side(values[k:], drawn[k:])
        noise, delta, gap = noise_of(a, b, m), a.mean - b.mean, drawn[0] - drawn[k]
        told.append([noise.p(delta), usual(noise, delta), naive(a, b, rng), 2 * min(np.mean(gap <= 0), np.mean(gap >= 0))])
    return (np.array(told) <= 0.05).mean(0)


def report(words, pairs, measure, m, reps):
    ours, added, plain, first = judged(pairs, measure, m, reps)
    print(f'  {words}: ours {ours:.3f}, variances added {added:.3f}, plain bootstrap {plain:.3f}, first seeds alone {first:.3f}')
    return ours


def seeded(rng, sets, n, k, luck, mean=1.5, own=0.3, churned=0.5):
    "(sets, 2k, n, 1, 2) hits of k seeds of two recipes of equal accuracy Phi(mean), whose seeds vary by `luck` on the probit scale"
    total = np.sqrt(1 + own**2 + churned**2 + np.square(luck))
    x = rng.normal(size=(sets, 1, 1, n)) + own*rng.normal(size=(sets, 2, 1, n)) + churned*rng.normal(size=(sets, 2, k, n))
    x += rng.normal(size=(sets, 2, k, 1)) * np.reshape(luck, (2, 1, 1)) + (mean * total)[:, None, None]
    return hits((x > 0).reshape(sets, 2*k, n))


LUCKS = {3: ((0, 0), (.05, .05), (.1, .1), (.2, .2), (0, .1), (0, .2), (0, .4)), 5: ((.1, .1), (0, .2))}


@pytest.mark.slow
@pytest.mark.parametrize('k', LUCKS)
def test_type_one_error_of_recipes_of_classifiers(k):
    print(f'\ntwo recipes, equal accuracy of 0.933, {k} seeds a side, 400 images, 2,000 simulations: share of p <= .05')
    for luck in LUCKS[k]:
        rng, z = np.random.default_rng(0), np.random.default_rng(1).normal(size=(9999, 1))
        pairs = (o for _ in range(20) for o in seeded(rng, 100, 400, k, luck))
        sd = norm.cdf(1.5*np.sqrt(1 + np.square(luck)/1.34) + luck*z/np.sqrt(1.34)).std(0)  # 1.34: images, recipe and churn together
        ours = report(f'lasting sd between seeds {sd[0]:.4f} and {sd[1]:.4f}', pairs, accuracy, 400, 200)
        if luck != (0, .4): assert ours <= 0.05 + 2*np.sqrt(0.05*0.95/2000)  # so many simulations tell a rate to within a point


@pytest.mark.slow
def test_type_one_error_of_recipes_of_segmenters():
    print('\ntwo recipes, equal mIoU, 3 seeds a side, 101 images, 1,000 simulations: share of p <= .05')
    for luck in ((0, 0), (.01, .01), (.03, .03), (0, .03)):
        rng = np.random.default_rng(0)
        pairs = (o for _ in range(20) for o in scenes(rng, 50, 101, k=3, luck=luck))
        ours = report(f'sd of the share right between seeds {luck[0]} and {luck[1]}', pairs, MIOU, 101, 300)
        assert ours <= 0.05 + 2*np.sqrt(0.05*0.95/1000)


@pytest.mark.slow
def test_power_of_recipes():
    print('\nexpected power of a planned study: share of verdicts with the number of seeds that `seeds_needed` names')
    rng, sd, delta = np.random.default_rng(0), 0.02, 0.03
    k = seeds_needed(delta, Noise((sd**2/3, sd**2/3), 0, 0.004**2, (3, 3), 400))
    told = []
    for _ in range(2000):
        a, b, image = rng.normal(delta, sd, k), rng.normal(0, sd, k), rng.normal(0, 0.004)
        noise = Noise((a.var(ddof=1)/k, b.var(ddof=1)/k), 0, 0.004**2, (k, k), 400)
        told.append(noise.p(a.mean() - b.mean() + image) <= 0.05)
    print(f'  {k} seeds a side: {np.mean(told):.3f}')
    assert 0.7 <= np.mean(told) <= 0.9


@pytest.mark.slow
def test_time_of_9999_draws():
    rng = np.random.default_rng(0)
    cms = rng.integers(0, 20_000, (2, 101, 12, 11))
    cms[1] = cms[0, ..., ::-1]
    for block in (1, 15):
        start = perf_counter()
        two_models(*cms, MIOU, block=block)
        print(f'\n101 images of 12x11 counts, blocks of {block}, 9,999 draws and swaps: {perf_counter() - start:.2f} s', end='')
    start = perf_counter()
    two_recipes(np.stack([cms[0]] * 3), np.stack([cms[1]] * 3), MIOU, block=15)
    print(f'\nthree seeds a side, 9,999 draws: {perf_counter() - start:.2f} s')
