"CamVid in its three forms is one dataset: the same splits, the same ids to the last pixel, the same predictions."
import hashlib
import json
import os
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hw4.data import pixels as pixels_module
from hw4.data.camvid import THREE, camvid_dls, scenes
from hw4.data.camvid_classes import ALL_32, CLASSES_32, ELEVEN
from hw4.data.camvid_lists import camvid_lists
from hw4.data.check import check
from hw4.data.contents import hash_file
from hw4.data.codes import CAMVID, Remap, codes_of, identity, remap, with_void
from hw4.data.colours import ids_of_colours, is_painted
from hw4.data.layouts import mask_folders
from hw4.data.masks import full_remap, mask_dl, mask_dls, mask_remap
from hw4.data.names import names_beside
from hw4.data.other_forms import as_32, write_form
from hw4.data.pairs import pair_folders
from hw4.data.pixels import KeptMasks, open_masks, read_mask
from hw4.data.synth import scenes_twin
from hw4.learn.device import Device
from hw4.learn.losses import SegCrossEntropy
from hw4.study.folders import check_files, open_pair
from hw4.study.handin import build_wheel
from hw4.study.records import fingerprint, run_name
from hw4.study.run import evaluate, run
from hw4.study.spec import Spec, spec_from

SIZE = (27, 40)


@pytest.fixture(scope='module')
def forms(tmp_path_factory):
    "The same twins in three forms"
    root = tmp_path_factory.mktemp('forms')
    layout = mask_folders(scenes_twin(root/'segnet', n_train=11, n_val=3, size=(54, 80)))
    return dict(segnet=layout.root, **{o: write_form(layout, root/o, form=o) for o in ('painted', 'fastai')})


def truths(layout, **how):
    "Name of a frame -> its mask, as the loaders read it"
    read = open_masks(layout.paths('mask'), SIZE, remap=full_remap(layout, how.pop('remap', identity(CAMVID))), **how)
    return {Path(o).stem: read(m) for o, m in zip(layout.items.file, layout.paths('mask'))}


def test_one_split_and_one_truth(forms):
    layouts = {o: scenes(root) for o, root in forms.items()}
    tables = [o.items.assign(name=[Path(f).stem for f in o.items.file]).sort_values('name')[['name', 'split', 'drive']].values.tolist() for o in layouts.values()]
    assert tables[0] == tables[1] == tables[2] and Counter(s for _, s, _ in tables[0]) == {'train': 11, 'val': 3}
    for wanted in (identity(CAMVID), THREE):
        ours = [truths(o, remap=wanted) for o in layouts.values()]
        for other in ours[1:]: assert all(np.array_equal(mask, other[name]) for name, mask in ours[0].items())
    assert len(np.unique(np.concatenate([o.ravel() for o in truths(layouts['fastai'], remap=ALL_32).values()]))) > 11


@pytest.mark.parametrize('form', ['painted', 'fastai'])
def test_kept_is_live(forms, form, tmp_path, monkeypatch):
    "The cache gives the bits of a live read, and decodes a file once, whatever is asked of it"
    monkeypatch.setenv('HW4_CACHE', str(tmp_path))
    monkeypatch.setenv('HW4_CACHE_GB', '1')
    layout, seen = scenes(forms[form]), []
    monkeypatch.setattr(pixels_module, 'read_mask', lambda file, size=None, **how: seen.append(file) or read_mask(file, size, **how))
    live = truths(layout, keep=False)
    assert len(seen) == 14
    for wanted in (identity(CAMVID), THREE, ALL_32):
        opened = open_masks(layout.paths('mask'), SIZE, remap=full_remap(layout, wanted))
        assert isinstance(opened, KeptMasks)
        if wanted.target == CAMVID: assert np.array_equal(opened.batch(layout.paths('mask')), np.stack(list(live.values())))
        opened.batch(layout.paths('mask'))
    assert len(seen) == 28


def test_a_run_is_measured_on_another_form(forms, tmp_path):
    "What a net says of an image does not depend on how the truth is stored, nor does the truth"
    spec = Spec('segment', 'scenes', 'resnet18', (54, 80), regime='scratch', weights=None, bs=4, stride=32, epochs=1, remap=THREE.to_dict())
    record = run(spec, path=forms['segnet'], store=tmp_path, device=Device('cpu', 'float32', False, 1), watch=False)
    assert 'held' not in json.loads((record.path/'spec.json').read_text())['resolved']
    other = run(spec, path=forms['painted'], store=tmp_path, device=Device('cpu', 'float32', False, 1), watch=False)
    assert Remap.from_dict(json.loads((other.path/'spec.json').read_text())['resolved']['held']) == ELEVEN and other.metrics == record.metrics
    rows = [evaluate(record, forms[o]) for o in forms]
    bare = [o.assign(file=[Path(f).stem for f in o.file]).sort_values('file').reset_index(drop=True) for o in rows]
    for o in bare[1:]: pd.testing.assert_frame_equal(bare[0], o)


def test_ids_are_not_read_under_other_names(forms, tmp_path):
    "A run that tells the 32 ids apart is not measured on masks of the 11, where id 0 is Sky and not Animal"
    fine = replace(ALL_32, colours=None)
    spec = Spec('segment', 'scenes', 'resnet18', (54, 80), regime='scratch', weights=None, bs=4, stride=32, epochs=1, remap=fine.to_dict())
    record = run(spec, path=forms['fastai'], store=tmp_path, device=Device('cpu', 'float32', False, 1), watch=False)
    assert len(record.vocab) == 31 and len(evaluate(record, forms['painted'])) == 3            # the same 32, painted
    for read in (lambda: evaluate(record, forms['segnet']), lambda: run(spec, path=forms['segnet'], store=tmp_path, watch=False),
                 lambda: mask_dl(scenes(forms['segnet']).of('val'), remap=fine, size=SIZE)):
        with pytest.raises(ValueError, match=r'its masks hold 12 ids \(Sky, Building, Pole, ...\), the remap starts from 32 ids \(Animal, Archway'): read()


def test_the_list_of_names_is_a_part_of_the_truth(forms, tmp_path):
    "Two lists, one set of files: two truths, two runs. Where the masks hold the classes themselves the digest is that of the files, as it always was"
    root = write_form(mask_folders(forms['segnet']), tmp_path/'fastai', form='fastai')
    spec = Spec('segment', 'scenes', 'resnet18', (54, 80), regime='scratch', weights=None, stride=32)
    marks = [fingerprint(scenes(root), ['train', 'val'])]
    names = (root/'codes.txt').read_text().split()
    i, j = names.index('Car'), names.index('Sky')
    names[i], names[j] = names[j], names[i]
    (root/'codes.txt').write_text('\n'.join(names))
    marks.append(fingerprint(scenes(root), ['train', 'val']))
    assert marks[0]['val']['files'] == marks[1]['val']['files'] and marks[0]['val']['digest'] != marks[1]['val']['digest']
    assert len({run_name(spec, 0, o) for o in marks}) == 2
    layout = scenes(forms['segnet']).of('val')
    pairs = sorted(f'{hash_file(a)} {hash_file(b)}' for a, b in zip(layout.paths(), layout.paths('mask')))
    assert fingerprint(layout, ['val'])['val']['digest'] == hashlib.blake2b('\n'.join(pairs).encode(), digest_size=8).hexdigest()


def test_what_says_itself_is_not_said_again(forms):
    "An id of void beside a layout that knows its ids would be ignored, so it is refused"
    for o in ('fastai', 'painted'):
        with pytest.raises(ValueError, match='says itself what its masks hold, from Animal to Wall: leave it out'): camvid_dls(forms[o], void_id=255, size=SIZE, device='cpu')
    assert mask_remap(scenes(forms['segnet']), codes=CAMVID, void_id=255).stored[-1] == 255


def test_check_knows_the_forms(forms):
    for form, names in dict(painted='label_colors.txt', fastai='codes.txt', segnet='those of CamVid, as there is no codes.txt').items():
        report = check(forms[form])
        assert report.ok and report.images == {'train': 11, 'val': 3} and report.names_from == names, str(report)
        assert len(report.counts) == (12 if form == 'segnet' else 32)
    counts = {o: check(forms[o]).counts for o in ('painted', 'fastai')}
    pd.testing.assert_frame_equal(counts['painted'], counts['fastai'])


def test_every_strange_mask_is_found_at_once(forms, tmp_path):
    layout = mask_folders(forms['segnet'])
    root = write_form(layout, tmp_path/'painted', form='painted')
    files = mask_folders(root).paths('mask')
    for i, o in enumerate(files[2:5]):
        rgb = np.array(Image.open(o))
        rgb[:i + 1, :3] = 60, 40, 222                                              # SegNet's own colour of Pavement, in pictures of results
        Image.fromarray(rgb).save(o)
    Image.open(files[6]).convert('L').save(files[6])
    Image.open(files[7]).resize((80, 54)).resize((160, 108), Image.Resampling.BILINEAR).resize((80, 54)).save(files[7])
    (root/'label_colors.txt').unlink()
    report = check(root)
    said = {o.file.split('/')[1]: o.what for o in report.faults}
    assert set(said) == {o.name for o in (*files[2:5], files[6], files[7])} and report.names_from == "CamVid's 32, as there is no label_colors.txt"
    assert [said[o.name] for o in files[2:5]] == [f'(60 40 222) in {3 * k} pixels: no class has this colour' for k in (1, 2, 3)]
    assert 'holds ids (mode L)' in said[files[6].name] and 'colours more' in said[files[7].name]
    assert len([o for o in report.show().splitlines() if o.startswith('  -> Mend the mask')]) == 1      # what to do is said once
    with pytest.raises(ValueError, match=rf'{files[2].name}: \(60 40 222\) in 3 pixels'): truths(scenes(root))


def test_lists_are_whole_and_disjoint():
    assert Counter(camvid_lists().values()) == {'train': 367, 'val': 101, 'test': 233} and len(camvid_lists()) == 701
    drives = Counter((split, name.rsplit('_', 1)[0]) for name, split in camvid_lists().items())
    assert drives == {('train', '0001TP'): 62, ('train', '0006R0'): 101, ('train', '0016E5'): 204, ('val', '0016E5'): 101,
                      ('test', '0001TP'): 62, ('test', 'Seq05VD'): 171}


@pytest.mark.slow
def test_lists_are_in_the_wheel(tmp_path):
    with zipfile.ZipFile(build_wheel(tmp_path)) as o: held = o.read('hw4/data/camvid_lists.csv').decode().splitlines()
    assert len(held) == 702 and held[1] == 'train,0001TP_006690' and held[-1] == 'test,Seq05VD_f05100'


def test_a_strange_frame_in_one_folder_is_an_error(forms, tmp_path):
    root = write_form(mask_folders(forms['segnet']), tmp_path/'fastai', form='fastai')
    for folder, end in (('images', ''), ('labels', '_P')): (root/folder/f'0001TP_006690{end}.png').rename(root/folder/f'holiday{end}.png')
    with pytest.raises(ValueError, match="1 of 14 images are none of CamVid's 701 frames, the first is 'holiday'"): scenes(root)
    report = check(root)                                                            # says the same, and the rest is split
    assert report.images == {'train': 10, 'val': 3, 'all': 1}
    assert [(o.file, o.what) for o in report.faults] == [('images/holiday.png', "is none of CamVid's 701 frames, as others here are")]


def test_painted_masks_of_somebody_else_are_not_camvids(tmp_path):
    "In folders that anybody may have: nobody says what the colours mean, and no colour is said to be wrong"
    report = check(painted(tmp_path/'pets').rename(tmp_path/'labels'))
    assert report.names_from.startswith('nobody says') and report.ok is False
    for split in ('train', 'val'):
        for o in ('images', 'labels'): (tmp_path/'split'/o/split).mkdir(parents=True)
    for i in range(3):
        split = 'train' if i else 'val'
        for a, b in (('images', 'images'), ('masks', 'labels')): (tmp_path/'labels'/a/f'{i}.png').rename(tmp_path/'split'/b/split/f'{i}.png')
    report = check(tmp_path/'split')
    assert report.images == {'train': 2, 'val': 1} and report.names_from.startswith('nobody says what the colours mean')
    assert all('it is painted in colours. Say which colour is which class' in f'{o.what}. {o.fix}' for o in report.faults) and len(report.faults) == 3
    assert check(tmp_path/'split', PETS).ok


def test_scenes_of_somebody_else(tmp_path):
    "None of CamVid's frames: they stay together, to be measured on"
    for i in range(2):
        for part, im in (('images', Image.new('RGB', (4, 4), (i, 0, 0))), ('masks', Image.new('L', (4, 4), 3))):
            (tmp_path/part).mkdir(exist_ok=True)
            im.save(tmp_path/part/f'{i}.png')
    assert scenes(tmp_path).splits == ('all',) and scenes(tmp_path).remap is None


def test_codes_in_another_order(forms, tmp_path):
    "The names decide, not their places"
    layout = mask_folders(forms['segnet'])
    root = write_form(layout, tmp_path/'fastai', form='fastai')
    order = sorted(CLASSES_32, key=lambda o: o[::-1])
    table = np.array([order.index(o) for o in CLASSES_32], np.uint8)
    for o in mask_folders(root).paths('mask'): Image.fromarray(table[np.array(Image.open(o))]).save(o)
    (root/'codes.txt').write_text('\n'.join(order))
    ours, theirs = truths(scenes(root)), truths(layout)
    assert all(np.array_equal(ours[o], theirs[o]) for o in theirs)


# --- painted masks of any folder ---------------------------------------------------------------------------------------

PETS = codes_of(('cat', 'dog'), 'rest', colours=((250, 120, 0), (0, 120, 250)))


def painted(root, *, save=lambda im, file: im.save(file), n=3):
    "Images and masks of cats and dogs, the masks painted"
    for part in ('images', 'masks'): (root/part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(root/'images'/f'{i}.png')
        save(Image.fromarray(PETS.palette[rng.integers(0, 3, (12, 16))]), root/'masks'/f'{i}.png')
    return root


def shrunk(im, file):
    "Save a painted mask with a palette in an order of its own"
    order = np.array([PETS.colours[1], PETS.void_colour, PETS.colours[0]], np.uint8)
    small = Image.fromarray((np.array(im)[..., None, :] == order).all(-1).argmax(-1).astype(np.uint8)).convert('P')
    small.putpalette(order.ravel().tolist())
    small.save(file)


def test_a_palette_of_class_colours_is_painted(tmp_path):
    "A program that makes PNGs small changes nothing: its indices mean nothing, its colours all"
    plain = painted(tmp_path/'plain')
    small = painted(tmp_path/'small', save=shrunk)
    assert Image.open(small/'masks'/'0.png').getpalette()[:3] != list(PETS.colours[0])      # index 0 is not class 0: read as ids they would be wrong
    ours, theirs = (truths_of(root) for root in (plain, small))
    assert np.array_equal(ours, theirs)


def truths_of(root):
    layout = mask_folders(root)
    files = layout.paths('mask')
    return open_masks(files, (12, 16), remap=mask_remap(layout, codes=PETS)).batch(files)


def test_painted_masks_that_look_like_ids_are_found(tmp_path):
    "Without the colours nobody can read them; that they are no ids is seen at palettes that contradict each other"
    turn = iter((shrunk, shrunk, lambda im, file: im.quantize(3, dither=Image.Dither.NONE).save(file)))
    root = painted(tmp_path/'pets', save=lambda im, file: next(turn)(im, file))
    (root/'codes.txt').write_text('cat\ndog\nrest\n')
    report = check(root)
    assert [o.file for o in report.faults] == ['masks/2.png'] and 'index 0 is' in report.faults[0].what
    assert check(root, PETS).ok                                                             # with the colours all is well


TABLE = '250 120 0 cat\n0 120 250 dog\n0 0 0 Void\n'


def test_a_palette_is_paint_if_a_file_says_so(tmp_path):
    "The colours beside the masks, or in the file that is given, are known before it is asked whether the masks are painted in them"
    plain, small = painted(tmp_path/'plain', n=10), painted(tmp_path/'small', save=shrunk, n=10)
    for o in (plain, small): (o/'label_colors.txt').write_text(TABLE)
    held = [names_beside(mask_folders(o)) for o in (plain, small)]
    assert held[0] == held[1] and held[0].colours and held[0].target.all_names == ('cat', 'dog', 'Void')
    assert [check(o).names_from for o in (plain, small)] == ['label_colors.txt'] * 2 and check(small).ok
    assert check(plain).counts.equals(check(small).counts)
    for o in (plain, small): (o/'label_colors.txt').rename(o/'names.txt')
    pairs = [open_pair(o/'images', o/'masks', codes=o/'names.txt') for o in (plain, small)]
    assert pairs[0][1] == pairs[1][1] == held[0]
    read = [open_masks(layout.paths('mask'), (12, 16), remap=remap).batch(layout.paths('mask')) for layout, remap, _ in pairs]
    assert np.array_equal(*read)


def test_camvids_palettes_beside_their_list(forms, tmp_path):
    "Masks that a program made small, with CamVid's own list: `check` and the readers agree"
    root = write_form(mask_folders(forms['segnet']), tmp_path/'painted', form='painted')
    for o in mask_folders(root).paths('mask'):
        small = Image.fromarray(31 - ids_of_colours(np.array(Image.open(o)), ELEVEN.colours)).convert('P')
        small.putpalette(np.array(ELEVEN.colours[::-1], np.uint8).ravel().tolist())
        small.save(o)
    ours, theirs = truths(scenes(root)), truths(scenes(forms['segnet']))
    assert all(np.array_equal(ours[o], theirs[o]) for o in theirs)
    assert check(root).ok and check(root).names_from == 'label_colors.txt' and names_beside(mask_folders(root)).colours == ELEVEN.colours


@pytest.mark.parametrize('mode', ['L', 'P'])
def test_a_list_of_colours_names_no_ids(tmp_path, mode):
    "'250 120 0 cat' is no class"
    root = painted(tmp_path/'pets', save=lambda im, file: Image.new('L', im.size, 1).convert(mode).save(file), n=10)
    (tmp_path/'colours.txt').write_text(TABLE)
    with pytest.raises(ValueError, match='names colours, but the masks of .* hold ids'): open_pair(root/'images', root/'masks', codes=tmp_path/'colours.txt')
    with pytest.raises(ValueError, match='names colours, but the masks of .* hold ids'): check(root, tmp_path/'colours.txt')
    (root/'label_colors.txt').write_text(TABLE)
    (root/'codes.txt').write_text('cat\ndog\nvoid\n')
    assert names_beside(mask_folders(root)).colours is None and check(root).names_from == 'codes.txt' and check(root).ok


def test_two_folders_with_contradicting_palettes(tmp_path):
    "What `check` finds in a dataset, the study of two folders finds as well"
    turn = iter([shrunk] * 9 + [lambda im, file: im.quantize(3, dither=Image.Dither.NONE).save(file)])
    root = painted(tmp_path/'pets', save=lambda im, file: next(turn)(im, file), n=10)
    (tmp_path/'codes.txt').write_text('cat\ndog\nrest\n')
    layout, held, _ = open_pair(root/'images', root/'masks', codes=tmp_path/'codes.txt')
    report = check_files(layout, held, progress=False)
    assert len(report.faults) >= 1 and all('in its palette, and' in o.what for o in report.faults)
    (tmp_path/'colours.txt').write_text(TABLE)
    layout, held, _ = open_pair(root/'images', root/'masks', codes=tmp_path/'colours.txt')
    assert check_files(layout, held, progress=False).ok


def test_void_with_a_colour_of_its_own(tmp_path):
    "Pascal VOC: the background is black, and the border that nobody labelled is not"
    voc = dict(names=('background', 'cat', 'void'), void='void', colours=((0, 0, 0), (64, 0, 0)))
    palette, ids = np.array([(0, 0, 0), (64, 0, 0), (224, 224, 192)], np.uint8), np.array([[0, 1, 2, 0]] * 4, np.uint8)
    for part in ('images', 'masks'): (tmp_path/part).mkdir()
    for i in range(2):
        Image.new('RGB', (4, 4), (i, i, i)).save(tmp_path/'images'/f'{i}.jpg')
        Image.fromarray(palette[ids]).save(tmp_path/'masks'/f'{i}.png')
    layout = replace(mask_folders(tmp_path), items=mask_folders(tmp_path).items.assign(split=['train', 'val']))
    with pytest.raises(ValueError, match='background and void have no colours of their own; void is black unless'): mask_dls(layout, codes=codes_of(**voc), size=4)
    dls = mask_dls(layout, codes=codes_of(**voc, void_colour=(224, 224, 192)), size=4, augment='none', bs=1, device='cpu')
    assert dls.one_batch()[1][0].tolist() == ids.tolist() and dls.codes.void_idx == 2
    (tmp_path/'label_colors.txt').write_text('0 0 0 background\n64 0 0 cat\n224 224 192 void\n')
    assert mask_dls(layout, size=4, augment='none', bs=1, device='cpu').codes == dls.codes and check(tmp_path).ok


def test_a_decorated_mask_of_ids_is_ids(tmp_path):
    "A palette in the order of the ids, padded with black, gives the ids by either way; a grey or foreign palette is decoration"
    ids = np.array([[0, 1], [2, 1]], np.uint8)
    for theirs, palette in ((True, PETS.palette), (False, np.arange(768) // 3), (False, [9, 9, 9, 200, 0, 0, 0, 200, 0])):
        im = Image.fromarray(ids).convert('P')
        im.putpalette(np.array(palette, np.uint8).ravel().tolist())
        im.save(tmp_path/'a.png')
        colours = tuple(map(tuple, PETS.palette.tolist()))
        shown = is_painted(Image.open(tmp_path/'a.png'), colours)
        assert shown == theirs
        assert np.array_equal(read_mask(tmp_path/'a.png', colours=colours if shown else None), ids)


def test_masks_with_255_as_void(tmp_path):
    "Pascal VOC and Cityscapes: 255 is what nobody labelled"
    for part in ('images', 'masks'): (tmp_path/part).mkdir()
    for i in range(3):
        Image.new('RGB', (4, 4), (i, i, i)).save(tmp_path/'images'/f'{i}.jpg')
        Image.fromarray(np.array([[0, 1, 2, 255]] * 4, np.uint8)).save(tmp_path/'masks'/f'{i}.png')
    layout = replace(mask_folders(tmp_path), items=mask_folders(tmp_path).items.assign(split=['train', 'train', 'val']))
    names = ('background', 'cat', 'dog')
    for codes in (codes_of(names), codes_of(names, 'void')):
        dls = mask_dls(layout, codes=codes, void_id=255, size=4, augment='none', bs=1, device='cpu')
        assert dls.vocab == list(names) and dls.codes.void == 'void' and dls.one_batch()[1][0, 0].tolist() == [0, 1, 2, 3]
    (tmp_path/'codes.txt').write_text('\n'.join(names))
    assert mask_dls(layout, void_id=255, size=4, bs=1, device='cpu').valid.one_batch()[1][0, 0].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match='id 255 in 4 pixels, but the codes are 0 to 2'): mask_dls(layout, size=4, bs=1, device='cpu').one_batch()
    assert not check(tmp_path).ok and check(tmp_path, void_id=255).ok
    assert check(tmp_path, void_id=255).counts['all pixels'].to_dict() == {'background': 12, 'cat': 12, 'dog': 12, 'void': 12}
    two = remap((*names, 'void'), codes_of(('animal', 'void'), 'void'), ids=(0, 1, 2, 255), groups={'animal': ('cat', 'dog'), 'void': ('background', 'void')})
    assert mask_dls(layout, remap=two, size=4, augment='none', bs=1, device='cpu').one_batch()[1][0, 0].tolist() == [1, 0, 0, 1]


def test_two_ids_far_apart(tmp_path):
    "Black and white masks"
    on = remap(('off', 'on'), codes_of(('off', 'on')), ids=(0, 255))
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path/'a.png')
    assert open_masks([tmp_path/'a.png'], remap=on)(tmp_path/'a.png').tolist() == [[0, 1]]


def test_remaps_are_read_back_and_old_digests_stay():
    for o in (ELEVEN, ALL_32, ELEVEN.then(THREE), identity(CAMVID, 255), THREE): assert Remap.from_dict(o.to_dict()) == o
    spec = Spec('segment', 'scenes', 'resnet18', (64, 96), regime='scratch', weights=None, stride=8, remap=THREE.to_dict())
    assert spec.digest == '9831fa1f605c' and spec_from(spec.to_dict()) == spec                                  # as it was before colours and ids
    assert replace(spec, remap=identity(CAMVID).to_dict()).digest == '07de3009cfc2'


# --- void ---------------------------------------------------------------------------------------------------------------

def test_void_as_a_class(forms):
    "On request it is trained on and counted; the ids stay"
    counted = remap(CAMVID.all_names, with_void(CAMVID))
    dls = camvid_dls(forms['painted'], remap=counted, size=SIZE, bs=2, device='cpu')
    assert dls.vocab == list(CAMVID.all_names) and dls.codes.void_idx is None
    assert torch.equal(dls.valid.one_batch()[1], camvid_dls(forms['segnet'], size=SIZE, bs=2, device='cpu').valid.one_batch()[1])


@pytest.mark.parametrize('wanted', [None, THREE, remap(CAMVID.all_names, with_void(CAMVID))])
def test_what_lies_outside_is_never_a_class(forms, wanted):
    "A shrunk frame shows nothing at its border: 255 there, which no loss or metric counts, whether or not void is a class"
    dls = camvid_dls(forms['segnet'], remap=wanted, size=(54, 80), augment='scene', bs=4, device='cpu')
    augment = dls.train.after_batch.fs[0]
    for _ in range(6):
        x, y = dls.one_batch()
        theta = augment.drawn.theta
        grid = torch.nn.functional.affine_grid(theta, (len(x), 1, 54, 80), align_corners=False)
        outside = (grid.abs() > 1 + 2 / 54).any(-1)
        assert (y[outside] == 255).all() and set(y.unique().tolist()) <= {*range(len(dls.codes.all_names)), 255}
        inside = (grid.abs() < 1 - 2 / 54).all(-1)
        assert (y[inside] != 255).all()
    logits = torch.randn(len(y), len(dls.vocab), 54, 80, requires_grad=True)
    SegCrossEntropy()(logits, y).backward()
    assert (logits.grad.abs().sum(1)[y == 255] == 0).all() and (logits.grad.abs().sum(1)[y < len(dls.vocab)] > 0).all()


# --- the real images ----------------------------------------------------------------------------------------------------

REAL = pytest.mark.skipif('HW4_SCENES' not in os.environ, reason='HW4_SCENES says where the road scenes are')


@pytest.mark.data
@REAL
def test_the_lists_are_those_of_the_real_set():
    for split in ('train', 'val'):
        names = [Path(o).stem for o in pd.read_csv(Path(os.environ['HW4_SCENES'])/f'{split}.csv').img]
        assert names == [o for o, s in camvid_lists().items() if s == split]


@pytest.mark.data
@REAL
def test_real_masks_in_every_form(tmp_path):
    "All 468 of them, to the last pixel"
    layout = scenes(os.environ['HW4_SCENES'])
    ours = truths(layout, keep=False)
    for form in ('painted', 'fastai'):
        other = scenes(write_form(layout, tmp_path/form, form=form))
        assert other.items.split.value_counts().to_dict() == {'train': 367, 'val': 101} and check(other.root).ok
        theirs = truths(other, keep=False)
        assert all(np.array_equal(ours[o], theirs[o]) for o in ours)
