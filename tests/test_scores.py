"Scores against loops that a reader can follow: two and five classes, absent classes, ties, a perfect and a constant classifier."
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hw4.study import scores

NAMES = {2: ('no', 'yes'), 5: tuple('abcde')}


def record(truth, logits, vocab):
    return SimpleNamespace(vocab=vocab, predictions=pd.DataFrame(dict(truth=truth, logits=list(map(list, logits)))))


def drawn(n, *, images=200, seed=0, decimals=None):
    "A classifier that is right more often than not; few decimals make ties"
    rng = np.random.default_rng(seed)
    truth = rng.integers(n, size=images)
    logits = rng.normal(size=(images, n)) + 1.2*np.eye(n)[truth]
    return record(np.array(NAMES[n])[truth], logits if decimals is None else logits.round(decimals), NAMES[n])


def softmax(row):
    powers = [math.exp(o) for o in row]
    return [o/sum(powers) for o in powers]


def rows_of(made):
    "(truth, said, probabilities) image by image"
    for truth, logits in zip(made.predictions.truth, made.predictions.logits):
        probs = softmax(logits)
        yield truth, made.vocab[max(range(len(probs)), key=lambda i: logits[i])], probs


def area(truth, probs):
    "The chance that an image of the class is ranked above another, ties counting half"
    inside, outside = [p for t, p in zip(truth, probs) if t], [p for t, p in zip(truth, probs) if not t]
    won = sum((p > q) + (p == q)/2 for p in inside for q in outside)
    return won/(len(inside)*len(outside))


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


@pytest.mark.parametrize('n', [2, 5])
@pytest.mark.parametrize('decimals', [None, 0])
def test_class_scores(n, decimals):
    made = drawn(n, decimals=decimals)
    found = scores.class_scores(made).set_index('class')
    rows = list(rows_of(made))
    for i, name in enumerate(made.vocab):
        both = sum(t == name and s == name for t, s, _ in rows)
        said, true = sum(s == name for _, s, _ in rows), sum(t == name for t, _, _ in rows)
        p, r = both/said, both/true
        expected = [true, p, r, 2*p*r/(p + r)]
        assert found.loc[name, ['images', 'precision', 'recall', 'f1']].tolist() == pytest.approx(expected)
        # softmax of these logits in two ways rounds differently, which breaks ties: to 12 digits they are the same
        assert found.auc[name] == pytest.approx(area([t == name for t, *_ in rows], [round(o[i], 12) for *_, o in rows]), abs=2e-3 if decimals == 0 else 1e-9)
    for measure in scores.MEASURES: assert found[measure]['macro'] == pytest.approx(found[measure][:-1].mean())


@pytest.mark.parametrize('n', [2, 5])
def test_roc_is_its_area(n):
    made = drawn(n)
    areas = scores.class_scores(made).set_index('class').auc
    for name in made.vocab:
        curve = scores.roc(made, name)
        assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(areas[name])
        assert curve.iloc[0][['fpr', 'tpr']].tolist() == [0, 0] and curve.iloc[-1][['fpr', 'tpr']].tolist() == [1, 1]
        for o in curve.iloc[1:].itertuples():  # each point is what a line at its threshold gives
            taken = [t for t, _, probs in rows_of(made) if probs[made.vocab.index(name)] >= o.threshold - 1e-12]
            assert sum(t == name for t in taken)/sum(made.predictions.truth == name) == pytest.approx(o.tpr)
    mean = scores.macro_roc(made, 2001)
    assert np.trapezoid(mean.tpr, mean.fpr) == pytest.approx(areas['macro'], abs=2e-3)


@pytest.mark.parametrize('n', [2, 5])
@pytest.mark.parametrize('bins', [10, 7])
def test_calibration(n, bins):
    made = drawn(n)
    held = [[] for _ in range(bins)]
    for truth, said, probs in rows_of(made): held[math.ceil(max(probs)*bins) - 1].append((max(probs), truth == said))
    found = scores.calibration(made, bins)
    assert found.images.tolist() == [len(o) for o in held]
    gap = 0
    for o, row in zip(held, found.itertuples()):
        if not o: assert math.isnan(row.confidence) and math.isnan(row.right); continue
        sure, right = (sum(x)/len(o) for x in zip(*o))
        assert (row.confidence, row.right) == pytest.approx((sure, right))
        n_in, z = len(o), 1.959964  # Wilson's interval, as in the books
        middle, width = (right + z*z/2/n_in)/(1 + z*z/n_in), z/(1 + z*z/n_in)*math.sqrt(right*(1 - right)/n_in + z*z/4/n_in**2)
        assert found.loc[row.Index, ['from', 'to']].tolist() == pytest.approx([middle - width, middle + width], abs=1e-6)
        gap += len(o)*abs(sure - right)
    assert scores.ece(made, bins) == pytest.approx(gap/200)


def test_bin_holds_its_upper_end():
    made = record(['yes'], [[0., 0.]], NAMES[2])
    assert scores.calibration(made, 2).images.tolist() == [1, 0]


@pytest.mark.parametrize('n', [2, 5])
def test_brier_and_log_loss(n):
    made, rows = drawn(n), list(rows_of(drawn(n)))
    squares = [sum((p - (name == t))**2 for p, name in zip(probs, made.vocab))/2 for t, _, probs in rows]
    assert scores.brier(made) == pytest.approx(sum(squares)/len(rows))
    assert scores.log_loss(made) == pytest.approx(-sum(math.log(probs[made.vocab.index(t)]) for t, _, probs in rows)/len(rows))
    if n == 2: assert scores.brier(made) == pytest.approx(sum((probs[1] - (t == 'yes'))**2 for t, _, probs in rows)/len(rows))


@pytest.mark.parametrize('n', [2, 5])
def test_perfect(n):
    truth = np.repeat(NAMES[n], 3)
    made = record(truth, 1000*np.eye(n)[np.repeat(range(n), 3)], NAMES[n])
    found = scores.class_scores(made)
    assert (found[scores.MEASURES] == 1).all(axis=None)
    assert scores.ece(made) == scores.brier(made) == scores.log_loss(made) == 0


@pytest.mark.parametrize('n', [2, 5])
def test_constant(n):
    "Always the first class, always as sure: chance everywhere; a class that is never said has precision 0, and counts"
    made = record(np.repeat(NAMES[n], 4), np.tile(np.arange(n, 0, -1.), (4*n, 1)), NAMES[n])
    found = scores.class_scores(made).set_index('class')
    assert found.auc.tolist() == [.5]*(n + 1)
    assert found.precision.tolist() == pytest.approx([1/n] + [0]*(n - 1) + [1/n/n])
    assert found.recall.tolist() == pytest.approx([1] + [0]*(n - 1) + [1/n])
    assert scores.calibration(made).images.max() == 4*n


@pytest.mark.parametrize('n', [2, 5])
def test_absent_class(n):
    "The last class is nowhere in the truth: NaN for it, and the mean is over the others; two classes then leave nothing to rank"
    made = drawn(n)
    made.predictions = made.predictions[made.predictions.truth != NAMES[n][-1]].reset_index(drop=True)
    found = scores.class_scores(made).set_index('class')
    assert found.loc[NAMES[n][-1], 'images'] == 0 and found.loc[NAMES[n][-1], scores.MEASURES].isna().all()
    assert found.recall['macro'] == pytest.approx(found.recall[:-2].mean())
    assert math.isnan(found.auc['macro']) == (n == 2)
    assert scores.roc(made, NAMES[n][-1]).tpr.isna().all()
    assert scores.macro_roc(made).tpr.isna().any() == (n == 2)
    assert 0 < scores.ece(made) < 1 and scores.log_loss(made) > 0


def test_class_nobody_told_the_net():
    with pytest.raises(ValueError, match='the truth holds fish, the net tells no, yes apart'):
        scores.brier(record(['fish', 'no'], [[0., 1.]]*2, NAMES[2]))
