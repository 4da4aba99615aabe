"Parts of counts, ladders and merges: oracles by loops over pixels, and real predictions of tiny nets."
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import norm
from scipy.stats import t as t_of

from hw4.data.camvid import THREE, scenes
from hw4.data.camvid_classes import ALL_32
from hw4.data.codes import CAMVID, apply_remap
from hw4.data.layouts import mask_folders
from hw4.data.other_forms import write_form
from hw4.data.pixels import read_mask
from hw4.data.synth import scenes_twin
from hw4.learn.boundary import BAND
from hw4.learn.merging import merge_by
from hw4.learn.device import Device
from hw4.learn.metrics import confusion, iou, merge, miou
from hw4.study.answers import readings, side_row
from hw4.study.compare import common_classes, compare, side_counts
from hw4.study.discussions import DISCUSSIONS, discussed, say_steps
from hw4.study.fewer import forgiven, merge_measures, merge_rows, rise, unforgiven
from hw4.study.figures import unpack
from hw4.study.find import find_record, find_seeds
from hw4.study.flips import masks_of, truth_of
from hw4.study.folders import open_pair
from hw4.study.ladder import climbed, rungs
from hw4.study.questions import QUESTIONS, answers, ask
from hw4.study.records import fingerprint, stack_cms, write_record
from hw4.study.report import answered, sections
from hw4.study.run import run
from hw4.study.spec import Spec
from hw4.study.statements import statements
from hw4.study.where import band_share, banded, group_iou, part_measures, parted, small_classes, where

SMALL = dict(size=(48, 64), epochs=1, watch=False)
GROUPS = [[0], [1, 2, 3, 4, 5, 6, 7, 11], [8, 9, 10]]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Real predictions of tiny nets on tiny twins: the ladder and both sets of classes, in one store"
    root = tmp_path_factory.mktemp('where')
    path = scenes_twin(root/'roads', n_train=6, n_val=5)
    return path, root/'runs', ask('q2-1', path=path, store=root/'runs', **SMALL), ask('q2-3', path=path, store=root/'runs', **SMALL)


def masks_by_hand(record, root):
    "What was predicted and what is true of each image, read from the files and not from the counts"
    layout = scenes(root)
    files = dict(zip(layout.items.file, layout.paths('mask')))
    return [(unpack(o.preds), read_mask(files[o.file], record.spec.size)) for o in record.predictions.itertuples()]


def merged_both_ways(record, root):
    "The counts of the record merged, and the counts of labels merged pixel by pixel"
    pairs = [(apply_remap(p, THREE), apply_remap(t, THREE)) for p, t in masks_by_hand(record, root)]
    return merge_by(stack_cms(record.predictions, 11), THREE), np.stack([confusion(p, t, 3) for p, t in pairs])


def test_merging_real_predictions_is_merging_their_labels(place):
    "To the last pixel, void in the course's class 1"
    path, _, _, classes = place
    got, expected = merged_both_ways(classes['11 classes'][0], path)
    assert (got == expected).all() and got.sum() == 5*48*64 and (got[:, -1] == 0).all()
    assert stack_cms(classes['11 classes'][0].predictions, 11)[:, -1].sum() > 0, 'there must be void for this to be a test'
    assert (got.sum(-1) == stack_cms(classes['3 classes'][0].predictions, 3).sum(-1)).all()  # the net of three classes saw the same truth


@pytest.mark.data
def test_merging_on_the_real_scenes(tmp_path):
    "The same on the real validation images, at their own size and with every label"
    path = Path(os.environ['HW4_SCENES'])
    record = ask('q2-3', path=path, store=tmp_path, size=(90, 120), epochs=1, watch=False)['11 classes'][0]
    got, expected = merged_both_ways(record, path)
    assert len(got) == 101 and (got == expected).all() and (got[:, -1] == 0).all()


def test_bands_and_parts_by_a_loop(place):
    "Near a border is what has another id within three pixels in any direction; the rest is inside"
    path, _, ladder, _ = place
    record = ladder['skips (FCN-8s)'][0]
    whole, near, inside = parted(banded([record], record)[0])
    order = np.argsort(record.predictions.file.to_numpy(), kind='stable')
    for k, (p, t) in zip(np.argsort(order), masks_by_hand(record, path)):
        band = np.zeros(t.shape, bool)
        for y, x in np.ndindex(t.shape): band[y, x] = len(np.unique(t[max(0, y-BAND):y+BAND+1, max(0, x-BAND):x+BAND+1])) > 1
        assert (near[k] == confusion(p[band], t[band], 11)).all() and (inside[k] == confusion(p[~band], t[~band], 11)).all()
    assert (whole == near + inside).all()


def test_a_group_is_the_mean_of_its_classes(place):
    _, _, ladder, _ = place
    record = ladder['skips (FCN-8s)'][0]
    cm = side_counts([record], record)[0].sum(0)
    true, ids = cm[:11].sum(1) > 0, [2, 6, 7, 9, 10]
    assert np.isclose(group_iou(cm, ids), np.mean([iou(cm)[i] for i in ids if true[i]]))
    assert np.isclose(group_iou(cm, list(range(11))), miou(cm, 'truth'))
    stack = np.stack([cm, cm])
    assert np.allclose(group_iou(stack, ids), group_iou(cm, ids))


def test_the_parts_are_what_the_whole_is_made_of(place):
    "The difference of differences is the difference of the two rows above it, and the whole is what `compare` says"
    _, _, ladder, _ = place
    (x, a), (y, b) = list(ladder.items())[:2]
    found, whole = where(a, b, names=(x, y)), compare(a, b, names=(x, y))
    d = {k: o.delta for k, o in found.measured.items()}
    assert np.isclose(d['small minus other'], d['mIoU, small and thin classes'] - d['mIoU, the other classes'])
    assert np.isclose(d['near minus inside'], d['pixel accuracy near borders'] - d['pixel accuracy inside'])
    assert found.measured['mIoU'] == whole.measured['miou']  # one bootstrap, one set of draws
    gained, near, lies = band_share(a, b)
    band = [side_counts(o, a[0], column='band')[0, :, :11].sum(0) for o in (a, b)]
    assert np.isclose(near*len(a[0].predictions), np.trace(band[0]) - np.trace(band[1]))
    assert np.isclose(gained*len(a[0].predictions), (whole.measured['pixel_acc'].delta)*side_counts(a, a[0])[0, :, :11].sum())
    assert 0 < lies < 1


def test_rare_classes_are_the_small_ones_elsewhere(tmp_path):
    "A folder of one's own: nobody says which classes are thin"
    cm = np.diag([1000, 500, 10, 0, 0])[:, :4]
    spec = Spec('segment', 'leaves', 'resnet18', (48, 64), stride=8)
    record = write_record(tmp_path, 'a', {'spec.json': dict(spec=spec.to_dict(), seed=0, resolved=dict(vocab=list('abcd'))), 'result.json': {},
                                          'predictions.parquet': pd.DataFrame(dict(file=['1'], cm=[cm.ravel()]))})
    assert small_classes(record) == ('c',)
    assert not [o for o in part_measures(('a', 'b'), ()) if 'small' in o]


def test_a_ladder_needs_three_that_differ_in_the_stride(place):
    _, _, ladder, classes = place
    assert rungs(ladder) == ['no skips (FCN-32s)', 'one skip (FCN-16s)', 'skips (FCN-8s)'] and rungs(classes) == []
    steps, (x, y) = climbed(ladder), list(ladder)[:2]
    whole = compare(ladder[x], ladder[y])
    assert np.isclose(sum(o.measured['miou'].delta for o in steps), whole.measured['miou'].delta)  # the steps make the whole way
    assert [o.pairs for o in steps] == [2, 2] and set(steps[0].measured) == {'miou', 'pixel_acc'}


def test_steps_of_a_merge_by_hand(place):
    "Each step against labels that were changed pixel by pixel"
    path, _, _, classes = place
    record = classes['11 classes'][0]
    pairs = masks_by_hand(record, path)
    p, t = (np.concatenate([o[i].ravel() for o in pairs]) for i in (0, 1))
    steps, cm = list(merge_measures(GROUPS, 11).values()), stack_cms(record.predictions, 11).sum(0)
    p3, t3 = apply_remap(p[None], THREE)[0], apply_remap(t[None], THREE)[0]
    assert np.isclose(steps[2][0](cm), miou(confusion(p3[t < 11], t3[t < 11], 3), 'truth'))
    assert np.isclose(steps[3][0](cm), miou(confusion(p3, t3, 3), 'truth'))
    ious = []  # nothing forgiven: a hit is a hit of the old classes, a union is of the new ones
    for i in range(3):
        hit, true, said = ((t3 == i) & (t == p), (t3 == i) & (t < 11), (p3 == i) & (t < 11))
        if true.any(): ious.append(hit.sum()/(true.sum() + said.sum() - hit.sum()))
    assert np.isclose(unforgiven(cm, GROUPS), np.mean(ious))


def test_what_is_forgiven_by_hand(place):
    path, _, _, classes = place
    record, coarse = classes['11 classes'][0], classes['3 classes'][0]
    p, t = (np.concatenate([o[i].ravel() for o in masks_by_hand(record, path)]) for i in (0, 1))
    p3, t3 = apply_remap(p[None], THREE)[0], apply_remap(t[None], THREE)[0]
    found, wrong = forgiven([record], coarse), (p != t) & (t < 11)
    assert np.isclose(found.share.sum(), (wrong & (p3 == t3)).sum()/wrong.sum())
    o = found.iloc[0]
    i, j = CAMVID.names.index(o.truth), CAMVID.names.index(o.said)
    assert np.isclose(o.pixels*len(record.predictions), ((t == i) & (p == j)).sum())


def test_the_way_adds_up(tmp_path):
    "From the first mIoU to the last, for one model, for recipes, and where only one side is a recipe; every step has an interval around it"
    path = scenes_twin(tmp_path/'roads', n_train=4, n_val=4)
    every = ask('q2-4', path=path, store=tmp_path/'runs', seeds=3, **SMALL)
    one = every['3 classes'][0].run_id  # its digits mean all its seeds, those of both specs none
    assert [o.seed for o in find_seeds(one[:-3], tmp_path/'runs')] == [0, 1, 2] and [o.run_id for o in find_seeds(one, tmp_path/'runs')] == [one]
    with pytest.raises(ValueError, match='names 6 records'): find_seeds('fcn8s', tmp_path/'runs')
    for seeds in ((1, 1), (3, 3), (3, 2)):
        runs = {k: every[k][:n] for k, n in zip(('11 classes', '3 classes'), seeds)}
        rows = merge_rows(runs['11 classes'], runs['3 classes'])
        assert np.isclose(rows.miou.iloc[0] + rows.added[1:].sum(), rows.miou.iloc[-1])
        assert ((rows.lo[1:-1] <= rows.added[1:-1] + 1e-9) & (rows.added[1:-1] <= rows.hi[1:-1] + 1e-9)).all()
        assert np.isclose(rows.added.iloc[-1], compare(runs['3 classes'], runs['11 classes']).measured['miou'].delta)
        delta, lo, hi = rise(runs['11 classes'], runs['3 classes'], block=1)
        assert np.isclose(delta, rows.added[1:].sum()) and lo < delta < hi
        if seeds == (3, 3): assert np.isclose(hi - delta, delta - lo)
        else: assert np.allclose([lo, hi], one_by_hand(runs['3 classes'][0], runs['11 classes'][0]), atol=.01)


def one_by_hand(few, many):
    "Percentiles of a difference of two models, an image drawn at a time, widened as for four images"
    counts, rng, found = [stack_cms(o.predictions, len(o.vocab)) for o in (few, many)], np.random.default_rng(1), []
    for _ in range(9999):
        drawn = rng.integers(0, 4, 4)
        found.append(np.subtract(*(miou(o[drawn].sum(0), 'truth') for o in counts)))
    tail = norm.cdf(t_of.ppf(.025, 3)*np.sqrt(4/3))
    return np.quantile(found, [tail, 1 - tail])


@pytest.mark.parametrize('whole, answer', [((.2, .1, .3), 'Yes'), ((-.2, -.3, -.1), 'No'), ((.2, -.1, .5), 'Not decided')])
def test_the_interval_of_the_rise_decides(whole, answer):
    rows = pd.DataFrame(dict(step=list('abc'), miou=[.4, .5, .4 + whole[0]], pixel_acc=.9, added=[np.nan, .1, whole[0] - .1], lo=[np.nan, .05, np.nan], hi=[np.nan, .15, np.nan]))
    assert say_steps(rows, 'many', 'few', whole)[0].startswith(f'{answer}: mIoU is 0.400 for many')


def test_discussions_are_read_off_the_records_of_others(place, tmp_path):
    "No run is made for them, they are in every report, and after their subject"
    path, store, ladder, classes = place
    before = sorted(o.name for o in store.iterdir())
    assert {k: [o.run_id for o in v] for k, v in ask('q2-2', path=path, store=store, **SMALL).items()} == {k: [o.run_id for o in v] for k, v in ladder.items()}
    assert sorted(o.name for o in store.iterdir()) == before and list(answers(store)) == ['q2-1', 'q2-2', 'q2-3', 'q2-4']
    assert set(DISCUSSIONS) == {o.name for o in QUESTIONS.values() if o.of}
    for found in sections(store):
        first = found['statements'][0]
        if found['name'] == 'q2-2': assert first.split(':')[0] in ('Yes, quantitatively', 'No, they cost', 'Not decided')
        if found['name'] == 'q2-4': assert first.split(':')[0] in ('Yes', 'No', 'Not decided') and any('What training on 3 classes adds' in o for o in found['statements'])
        assert len(found['rows']) >= 2 and any('official validation frames are one clip' in o for o in found['caveats'])


def test_a_sentence_follows_its_verdict(tmp_path):
    "The same two sides, one better, one worse, and one undecided: the words turn with the numbers"
    def made(name, right, stride):
        "90 pictures, so that there are six blocks; `right` of 20 pixels of pole and of 80 of road"
        rng, rows = np.random.default_rng(0), []
        for i in range(90):
            k, cms = right + rng.integers(-1, 2), np.zeros((2, 12, 11), int)
            for cm, n, hit in zip(cms, (20, 10), (k, k//2)): cm[2, 2], cm[2, 3], cm[3, 3], cm[3, 2] = hit, n - hit, 4*hit, 4*(n - hit)
            rows.append(dict(file=f'{i:03d}', hash=f'{i:03d}', cm=cms[0].ravel(), band=cms[1].ravel(), preds=b''))
        spec = Spec('segment', 'scenes', 'resnet18', (48, 64), stride=stride)
        return write_record(tmp_path, name, {
            'spec.json': dict(spec=spec.to_dict(), seed=0, resolved=dict(vocab=list(CAMVID.names), weights=None, parameters=10)), 'predictions.parquet': pd.DataFrame(rows),
            'thumbs.parquet': pd.DataFrame(dict(file=['none'], image=[b''], mask=[b''])), 'fingerprint.json': dict(train=dict(digest='a', files={}), val=dict(files={})),
            'environment.json': dict(path=str(tmp_path/'gone'), device=dict(name='cpu', precision='float32')), 'result.json': dict(metrics={}, seconds=0)})
    good, bad, same = made('good', 17, 8), made('bad', 10, 32), made('same', 17, 16)
    said = lambda a, b: discussed('q2-2', {'A': [a], 'B': [b]})['statements'][0]
    assert said(good, bad).startswith('Yes, quantitatively: A is better than B')
    assert said(bad, good).startswith('No, they cost: A is worse than B')
    assert said(good, same).startswith('Not decided: Between A and B it is not decided')


def test_old_records_are_discussed_too(place):
    "A record of before masks were noted, and an answer of two sides: what the last version wrote"
    path, store, ladder, _ = place
    two = {k: ladder[k] for k in list(ladder)[:2]}
    assert rungs(two) == [] and len(discussed('q2-2', two)['tables']) == 2
    record = find_record(two['skips (FCN-8s)'][0].run_id, store)
    record.fingerprint['val'].pop('masks')
    masks = masks_of(record)
    assert len(masks) == 11 and truth_of(record, record.predictions.file[0], masks=masks, whole=True).shape == (360, 480)


def test_the_truth_is_read_where_it_was(tmp_path):
    "Two folders of one's own, and beside them a third of the same names, which is what a guess would take for the masks"
    scenes_twin(tmp_path/'plots', n_train=10, n_val=1)
    here = tmp_path/'mine'
    here.mkdir()
    (tmp_path/'plots'/'train').rename(here/'images'), (tmp_path/'plots'/'trainannot').rename(here/'truth')
    (here/'codes.txt').write_text('\n'.join(CAMVID.all_names))
    layout, held, _ = open_pair(here/'images', here/'truth', codes=here/'codes.txt')
    (here/'masks').mkdir()
    for o in (here/'truth').iterdir(): Image.fromarray(np.zeros((360, 480), np.uint8)).save(here/'masks'/o.name)
    assert mask_folders(here).items['mask'].str.startswith('masks/').all()
    spec = Spec('segment', 'mine', 'resnet18', (48, 64), stride=8, remap=held.to_dict())
    record = SimpleNamespace(spec=spec, environment=dict(path=here), fingerprint=fingerprint(layout, ('val',)), stored=dict(resolved={}), thumbs=pd.DataFrame(dict(file=[], mask=[])))
    masks = masks_of(record)
    assert set(masks) >= set(layout.of('val').items.file)
    for file, mask in zip(layout.of('val').items.file, layout.of('val').paths('mask')):
        assert (truth_of(record, file, masks=masks, whole=True) == read_mask(mask)).all()


@pytest.mark.parametrize('form', ['painted', 'fastai'])
def test_all_32_against_the_usual_11(tmp_path, form):
    "Both start from the same files, one from what they hold and one from what is made of it: compared on the 11, and the truths agree to the last pixel"
    root = write_form(mask_folders(scenes_twin(tmp_path/'roads', n_train=11, n_val=3, size=(54, 80))), tmp_path/form, form=form)
    spec = Spec('segment', 'scenes', 'resnet18', (27, 40), regime='scratch', weights=None, bs=4, stride=32, epochs=1)
    fine, usual = (run(replace(spec, remap=o and o.to_dict()), path=root, store=tmp_path/'runs', device=Device('cpu', 'float32', False, 1), watch=False) for o in (ALL_32, None))
    groups, none, vocab = common_classes(fine, usual)
    assert none is None and vocab == CAMVID.names
    merged = merge(stack_cms(fine.predictions, 31), groups)
    assert (merged.sum(-1) == stack_cms(usual.predictions, 11).sum(-1)).all() and merged[:, :11].sum() > 0
    assert compare(fine, usual).measured['miou'].n == 3
    masks = masks_of(usual)
    assert set(np.unique(truth_of(usual, usual.predictions.file[0], masks=masks, whole=True))) <= set(range(12))


def test_an_unfair_side_takes_nothing_from_the_rest(place, tmp_path):
    "A step that was measured on other images: no ladder, and the sentence says why; the pair that is asked for is answered all the same"
    _, _, ladder, _ = place
    other = ask('q2-1', path=scenes_twin(tmp_path/'others', n_train=4, n_val=3), store=tmp_path/'runs', **SMALL)
    sides = ladder | {'one skip (FCN-16s)': other['one skip (FCN-16s)']}
    found, where_ = answered('q2-1', sides), discussed('q2-2', sides)
    for o in (found, where_):
        assert not [t for t in o['tables'] if 'ladder' in t['title']]
        assert len([s for s in o['statements'] if s.startswith('The steps cannot be compared: ')]) == 1
    assert where_['statements'][0].split(':')[0] in ('Yes, quantitatively', 'No, they cost', 'Not decided')


def test_of_two_seeds_the_first_speaks(tmp_path):
    "In every table and sentence alike, and they say so"
    two = ask('q2-3', path=scenes_twin(tmp_path/'roads', n_train=4, n_val=3), store=tmp_path/'runs', seeds=2, **SMALL)
    two, few = two['11 classes'], two['3 classes']
    said, first = (statements({'a': o})[0] for o in (two, two[:1]))
    assert ' (seed 0 of 2)' in said and said.replace(' (seed 0 of 2)', '') == first
    assert [readings(two), side_row('a', two)] == [readings(two[:1]), side_row('a', two[:1]) | dict(seeds='first of 2')]
    assert forgiven(two, few[0]).equals(forgiven(two[:1], few[0]))
    for share in (band_share(two, two[1:]), band_share(two[:1], two[1:])): assert share == band_share(two, [two[1]])
    assert band_share(two[::-1], two[1:])[0] == 0  # the first of both is one run
