"The loaders as a fastai user meets them: learners, predictions, pictures, saving; and that they are reproducible"
import os
import pickle
import random
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import fastai.callback.schedule  # noqa: F401  gives Learner fit_one_cycle
import fastai.callback.progress  # noqa: F401  gives Learner no_bar
import fastai.vision.learner  # noqa: F401  draws the results of classifiers
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from PIL import Image
from torch import nn

from hw4.data import loader
from hw4.data.camvid import THREE, camvid_dls, scenes
from hw4.data.celeba import celeba_dls, every_portrait, portraits, read_attributes
from hw4.data.codes import CAMVID, codes_of, identity
from hw4.data.images import hold_out, image_dl, image_dls
from hw4.data.layouts import class_folders, mask_folders
from hw4.data.masks import ClassMask, mask_dl, mask_dls
from hw4.data.pixels import open_masks, read_image, read_mask
from hw4.data.synth import celeba_twin

matplotlib.use('agg')
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


@pytest.fixture(scope='module')
def light(tmp_path_factory):
    "Bright and dark pictures, 9 a class and split, with a split for test"
    root, rng = tmp_path_factory.mktemp('light'), np.random.default_rng(0)
    for split in ('train', 'val', 'test'):
        for label, mean in (('dusk', 60), ('noon', 190)):
            (root / split / label).mkdir(parents=True)
            for i in range(9):
                pixels = rng.normal(mean, 25, (24, 20, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / label / f'{i}.png')
    return root


@pytest.fixture(scope='module')
def roads(tmp_path_factory):
    "CamVid's layout and ids: 6 frames a split, a 24x32 picture whose grey is the id"
    root, rng = tmp_path_factory.mktemp('roads'), np.random.default_rng(0)
    for split in ('train', 'val'):
        for part in ('', 'annot'): (root / (split + part)).mkdir()
        for i in range(6):
            ids = rng.integers(0, 12, (6, 8), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
            name = f'{("0001TP", "0006R0")[i % 2]}_{i:05d}.png'
            Image.fromarray(ids).save(root / f'{split}annot' / name)
            Image.fromarray(np.dstack([ids * 20] * 3)).save(root / split / name)
    return root


def small_classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


# --- classes of images -------------------------------------------------------------------------------------------------

def test_a_learner_trains_predicts_shows_and_is_saved(light, tmp_path):
    random.seed(0)
    torch.manual_seed(0)
    dls = image_dls(light, size=(24, 20), augment='flip_light', bs=6, device='cpu')
    learn = Learner(dls, small_classifier(), loss_func=CrossEntropyLossFlat(), metrics=accuracy, path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(12, 0.05)
    assert learn.validate()[1] > 0.9
    file = light / 'val' / 'noon' / '0.png'
    for given in (file, str(file), np.array(Image.open(file)), Image.open(file)):
        with learn.no_bar(): label, idx, probs = learn.predict(given)
        assert label == 'noon' and idx == 1 and probs.shape == (2,)
    learn.show_results(max_n=4)
    assert len(plt.gcf().axes) == 4
    paths = [light / 'val' / c / '1.png' for c in ('noon', 'dusk', 'noon')]
    with learn.no_bar(): preds, _ = learn.get_preds(dl=dls.test_dl(paths))
    assert preds.argmax(1).tolist() == [1, 0, 1]
    with learn.no_bar(): again, targs = learn.get_preds(dl=dls.test_dl(dls.valid_ds.items, with_labels=True))
    assert targs.tolist() == [0] * 9 + [1] * 9 and torch.allclose(again, learn.get_preds()[0])
    learn.export(tmp_path / 'learn.pkl')
    loaded = load_learner(tmp_path / 'learn.pkl')
    with loaded.no_bar(): assert loaded.predict(file)[0] == 'noon'
    assert list(loaded.dls.vocab) == ['dusk', 'noon']


def test_labels_of_strange_files_are_not_guessed(light, tmp_path):
    dls = image_dls(light, size=8, device='cpu')
    other = tmp_path / 'noon' / '0.png'
    other.parent.mkdir()
    Image.new('RGB', (8, 8)).save(other)
    with pytest.raises(ValueError, match='no label is known'): dls.test_dl([other], with_labels=True).one_batch()
    assert len(dls.test_dl([other]).one_batch()) == 1


@pytest.mark.parametrize('make', [
    lambda light, roads: image_dls(light, size=8, augment='whole_face', bs=4, device='cpu'),
    lambda light, roads: camvid_dls(roads, size=(12, 16), augment='scene', bs=2, device='cpu')])
def test_a_seed_fixes_the_whole_epoch(light, roads, make):
    def epochs(order_seed, draw_seed):
        random.seed(order_seed)
        dls = make(light, roads)
        random.seed(99)
        np.random.seed(order_seed)
        torch.manual_seed(draw_seed)
        return [[torch.cat([o.flatten().float() for o in column]) for column in zip(*dls.train)][0] for _ in range(2)]
    one, same, other_order, other_draw = epochs(1, 1), epochs(1, 1), epochs(2, 1), epochs(1, 2)
    assert all(torch.equal(a, b) for a, b in zip(one, same))
    assert not torch.equal(one[0], one[1]) and not torch.equal(one[0], other_order[0]) and not torch.equal(one[0], other_draw[0])


@pytest.mark.parametrize('worker, place', [(None, 'cuda'), (object(), None)])
def test_a_batch_is_sent_to_the_gpu_but_not_by_a_process_that_reads(light, monkeypatch, worker, place):
    "Such a process has no GPU, and to ask for one ends it"
    dl = image_dls(light, size=8, bs=2, device='cpu').train
    asked = []
    monkeypatch.setattr(loader, 'get_worker_info', lambda: worker)
    monkeypatch.setattr(loader, 'send', lambda x, device: asked.append(device) or x)
    monkeypatch.setattr(type(dl), 'device', 'cuda')
    dl.take([0, 1])
    assert asked == [place, place]


def test_the_order_does_not_depend_on_strategy_or_size(light):
    "Two recipes with one seed see the same images in the same order, which is what makes them comparable"
    def order(**kwargs):
        random.seed(3)
        dls = image_dls(light, bs=5, device='cpu', **kwargs)
        return [y for _, yb in dls.train for y in yb.tolist()]
    assert order(size=8) == order(size=16, augment='heavy') == order(size=8, augment='whole_face')


def test_a_seed_fixes_a_training(light, tmp_path):
    def losses():
        random.seed(0)
        torch.manual_seed(0)
        learn = Learner(image_dls(light, size=12, augment='whole_face', bs=5, device='cpu'), small_classifier(),
                        loss_func=CrossEntropyLossFlat(), path=tmp_path)
        with learn.no_bar(), learn.no_logging(): learn.fit(2, 0.01)
        return [*learn.recorder.losses, *(o for row in learn.recorder.values for o in row)]
    assert losses() == losses()


def test_validation_is_the_whole_image_squished(light):
    dls = image_dls(light, size=(12, 30), augment='heavy', bs=4, device='cpu')
    x = torch.cat([x for x, _ in dls.valid])
    expected = np.stack([read_image(o, (12, 30)) for o in dls.valid_ds.items]).transpose(0, 3, 1, 2) / np.float32(255)
    assert np.array_equal(x.numpy(), expected)
    assert torch.equal(torch.cat([y for _, y in dls.valid]), torch.tensor([0] * 9 + [1] * 9))


def test_workers_change_nothing(light, roads):
    for make in (lambda n: image_dls(light, size=8, bs=4, workers=n, device='cpu').valid,
                 lambda n: camvid_dls(roads, size=(12, 16), bs=4, workers=n, device='cpu').valid):
        here, there = list(make(0)), list(make(2))
        assert [type(o) for o in here[0]] == [type(o) for o in there[0]]
        assert all(torch.equal(a, b) for one, two in zip(here, there) for a, b in zip(one, two))


@pytest.mark.parametrize('bs, seen', [(17, 17), (9, 18), (5, 18), (32, 18), (1, 18)])
def test_only_a_single_left_over_image_is_dropped(light, bs, seen):
    dls = image_dls(light, size=8, bs=bs, device='cpu')
    assert sum(len(x) for x, _ in dls.train) == seen and sum(len(x) for x, _ in dls.valid) == 18


def test_nothing_that_was_given_is_changed(light, roads):
    for layout, make in ((class_folders(light), image_dls), (scenes(roads), camvid_dls)):
        before = layout.items.copy()
        dls = make(layout, size=8, device='cpu')
        dls.one_batch()
        assert layout.items.equals(before) and dls.layout is layout
    assert hold_out(class_folders(light).of('train')).splits == ('train', 'val')


def test_floats_from_0_to_1_and_no_normalisation(light):
    dls = image_dls(light, size=8, bs=18, device='cpu')
    assert [type(o).__name__ for o in dls.train.after_batch.fs] == ['ToFloat']
    x = dls.valid.one_batch()[0]
    assert x.dtype == torch.float32 and 0 <= x.min() < 0.3 and 0.6 < x.max() <= 1


def test_a_missing_split_is_never_drawn_in_silence(light, roads, tmp_path):
    with pytest.raises(ValueError, match='hold_out'): image_dls(class_folders(light).of('train'), device='cpu')
    with pytest.raises(ValueError, match="has no split 'test'"): mask_dls(roads, codes=CAMVID, valid='test', device='cpu')
    assert len(image_dls(light, valid='test', device='cpu').valid_ds) == 18
    held = image_dls(hold_out(class_folders(light / 'train')), size=8, device='cpu')
    assert (len(held.train_ds), len(held.valid_ds)) == (14, 4)


def test_image_dl_measures_a_folder_of_another_kind(light):
    dl = image_dl(class_folders(light).of('test'), size=8, vocab=('noon', 'dusk', 'night'), device='cpu')
    assert dl.one_batch()[1].tolist() == [1] * 9 + [0] * 9
    assert torch.equal(dl.one_batch()[0], image_dls(light, size=8, valid='test', bs=64, device='cpu').valid.one_batch()[0])


def test_a_broken_file_is_named(light, tmp_path):
    for split in ('train', 'val'):
        for label in ('a', 'b'):
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / 'x.jpg').write_text('not an image')
    with pytest.raises(ValueError, match=r'x\.jpg cannot be read as an image'): image_dls(tmp_path, size=8, bs=2, device='cpu').one_batch()


# --- masks -------------------------------------------------------------------------------------------------------------

class PerPixel(nn.Module):
    "A net for masks of the smallest kind"

    def __init__(self, n):
        super().__init__()
        torch.manual_seed(0)
        self.score = nn.Conv2d(3, n, 1)

    def forward(self, x): return self.score(x)


def test_a_segmentation_learner_trains_predicts_and_shows(roads, tmp_path):
    dls = camvid_dls(roads, remap=THREE, size=(24, 32), bs=2, device='cpu')
    learn = Learner(dls, PerPixel(3), loss_func=CrossEntropyLossFlat(axis=1), path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 0.01)
    file = roads / 'val' / '0001TP_00000.png'
    with learn.no_bar(): mask, ids, probs = learn.predict(file)
    assert ids.shape == (24, 32) and probs.shape == (3, 24, 32) and isinstance(mask, ClassMask) and mask.codes == THREE.target
    learn.show_results(max_n=2)
    fig = plt.gcf()
    assert [o.get_text() for o in fig.axes[0].get_legend().get_texts()] == ['Sky', 'Fixed', 'Moving']
    assert [ax.get_title() for ax in fig.axes[1:]] == ['truth', 'prediction', '', '']
    with learn.no_bar(): preds, targs = learn.get_preds()
    assert preds.shape == (6, 3, 24, 32) and targs.shape == (6, 24, 32)
    learn.export(tmp_path / 'learn.pkl')
    loaded = load_learner(tmp_path / 'learn.pkl')
    with loaded.no_bar(): assert torch.equal(loaded.predict(file)[1], ids)
    assert loaded.dls.codes == THREE.target and loaded.dls.remap == THREE


def test_masks_are_remapped_and_never_blended(roads):
    for remap in (identity(CAMVID), THREE):
        dls = camvid_dls(roads, remap=remap, size=(13, 17), bs=6, device='cpu')
        expected = np.stack([remap.lut[read_mask(roads / 'valannot' / o.name, (13, 17))] for o in dls.valid_ds.items])
        y = dls.valid.one_batch()[1]
        assert type(y) is ClassMask and y.dtype == torch.int64 and np.array_equal(y.numpy(), expected)
        assert torch.equal(y, mask_dl(mask_folders(roads).of('val'), remap=remap, size=(13, 17), device='cpu').one_batch()[1])


def test_image_and_mask_stay_together_through_shuffle_and_augmentation(roads):
    "The picture's grey is 20 times the id, so the two can be compared pixel by pixel"
    dls = camvid_dls(roads, size=(24, 32), augment='flip_light', bs=6, device='cpu')
    augment = dls.train.after_batch.fs[0]
    for _ in range(3):
        x, y = dls.one_batch()
        gain, shift = (o[:, 0, None, None] for o in (augment.drawn.gain, augment.drawn.shift))
        expected = (y * 20 / 255 * gain + shift).clamp(0, 1)
        assert (x[:, 0] - expected).abs().max() < 1e-5


def test_show_batch_of_masks_has_a_legend_and_hides_what_is_outside(roads):
    dls = camvid_dls(roads, size=(24, 32), augment='scene', bs=4, device='cpu')
    dls.show_batch(max_n=4)
    fig = plt.gcf()
    assert [o.get_text() for o in fig.axes[0].get_legend().get_texts()] == list(CAMVID.all_names)
    pictures = fig.axes[1:]
    assert len(pictures) == 4 and all(len(ax.images) == 2 for ax in pictures)
    fig.canvas.draw()
    below = fig.axes[0].get_legend().get_window_extent()
    assert below.x0 >= 0 and below.x1 <= fig.bbox.width and 0 <= below.y0 and below.y1 <= min(ax.get_window_extent().y0 for ax in pictures)
    dls.test_dl(dls.valid_ds.items).show_batch(max_n=2)         # images without masks are shown as such


@pytest.mark.parametrize('figsize', [None, (2, 2)])
def test_the_legend_of_32_classes_is_not_cut(roads, figsize):
    names = tuple(f'class of number {i}' for i in range(32))
    dls = mask_dls(roads, codes=codes_of(names), size=(24, 32), bs=1, device='cpu')
    dls.show_batch(max_n=1, figsize=figsize)
    fig = plt.gcf()
    fig.canvas.draw()
    legend, picture = fig.axes[0].get_legend(), fig.axes[1].get_window_extent()
    below = legend.get_window_extent()
    assert len(legend.get_texts()) == 32 and picture.height > fig.dpi / 2
    assert below.x0 >= 0 and below.x1 <= fig.bbox.width and below.y0 >= 0 and below.y1 <= picture.y0


def test_a_mask_with_a_strange_id_is_named(roads, tmp_path):
    for split in ('train', 'val'):
        for part in ('', 'annot'):
            (tmp_path / (split + part)).mkdir()
            Image.fromarray(np.full((8, 8), 57, np.uint8)).save(tmp_path / (split + part) / 'x.png')
    with pytest.raises(ValueError, match=r'x\.png.*id 57 in 64 pixels'): camvid_dls(tmp_path, size=8, bs=1, device='cpu').one_batch()


def test_openers_can_be_saved(roads):
    files = mask_folders(roads).paths('mask')
    opened = open_masks(files, 8, remap=THREE)
    assert np.array_equal(pickle.loads(pickle.dumps(opened))(files[0]), opened(files[0]))


# --- CelebA's own files ------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def celeba(tmp_path_factory):
    "200 portraits of 50 people, with every list"
    root, rng = tmp_path_factory.mktemp('celeba'), np.random.default_rng(0)
    (root / 'img_align_celeba').mkdir()
    names = [f'{i:06d}.jpg' for i in range(1, 201)]
    for o in names: Image.new('RGB', (9, 11), tuple(rng.integers(0, 255, 3).tolist())).save(root / 'img_align_celeba' / o)
    table = pd.DataFrame(np.where(rng.random((200, 3)) < .4, 1, -1), index=names, columns=['Heavy_Makeup', 'Smiling', 'Male'])
    lines = ['200', ' '.join(table), *(f'{o} ' + ' '.join(f'{v:2d}' for v in row) for o, row in zip(names, table.to_numpy()))]
    (root / 'list_attr_celeba.txt').write_text('\n'.join(lines))
    people = rng.integers(0, 50, 200)
    (root / 'identity_CelebA.txt').write_text(''.join(f'{o} {p}\n' for o, p in zip(names, people)))
    part = np.array([0, 1, 2])[np.digitize(people, [30, 42])]
    (root / 'list_eval_partition.txt').write_text(''.join(f'{o} {p}\n' for o, p in zip(names, part)))
    return root


def copy_without(celeba, to, *names):
    "A second folder with the same images and only some of the lists"
    (to / 'img_align_celeba').symlink_to(celeba / 'img_align_celeba', target_is_directory=True)
    for file in celeba.glob('*.txt'):
        if file.stem not in names: (to / file.name).write_text(file.read_text())
    return to


def drawn_people(celeba, layout):
    people = dict(o.split() for o in (celeba / 'identity_CelebA.txt').read_text().splitlines())
    return {s: {people[Path(o).name] for o in layout.of(s).items.file} for s in layout.splits}


@pytest.mark.parametrize('missing', [(), ('list_eval_partition',)])
def test_no_person_is_on_both_sides(celeba, tmp_path, missing):
    layout = portraits(copy_without(celeba, tmp_path, *missing), n_train=15, n_val=8)
    assert layout.items.groupby(['split', 'label']).size().tolist() == [15, 15, 8, 8]
    people = drawn_people(celeba, layout)
    assert not people['train'] & people['val']
    assert layout.items.file.is_unique and all(o.is_file() for o in layout.paths())
    has = read_attributes(celeba).Heavy_Makeup
    assert all((has[Path(f).name] == 1) == (label == 'heavy_makeup') for f, label in zip(layout.items.file, layout.items.label))


def test_without_lists_of_people_a_warning_says_so(celeba, tmp_path):
    bare = copy_without(celeba, tmp_path, 'list_eval_partition', 'identity_CelebA')
    with pytest.warns(UserWarning, match='same person may be in both'): layout = portraits(bare, n_train=15, n_val=8)
    assert layout.items.file.is_unique and len(layout.items) == 46


def test_the_partition_is_kept(celeba):
    part = dict(o.split() for o in (celeba / 'list_eval_partition.txt').read_text().splitlines())
    layout = portraits(celeba, n_train=15, n_val=8)
    assert all(part[Path(f).name] == {'train': '0', 'val': '1'}[s] for f, s in zip(layout.items.file, layout.items.split))


def test_both_editions_of_the_lists_are_read_alike(celeba, tmp_path):
    (tmp_path / 'img_align_celeba').symlink_to(celeba / 'img_align_celeba', target_is_directory=True)
    read_attributes(celeba).rename_axis('image_id').to_csv(tmp_path / 'list_attr_celeba.csv')
    for name, column in (('list_eval_partition', 'partition'), ('identity_CelebA', 'identity')):
        rows = [o.replace(' ', ',') for o in (celeba / f'{name}.txt').read_text().splitlines()]
        (tmp_path / f'{name}.csv').write_text('\n'.join([f'image_id,{column}', *rows]))
    one, two = (portraits(o, n_train=15, n_val=8, seed=4).items for o in (celeba, tmp_path))
    assert one.equals(two)


def test_attributes_are_slices(celeba):
    items = portraits(celeba, attr='Smiling', n_train=15, n_val=8).items
    assert items.Male.dtype == bool and (items.Smiling == (items.label == 'smiling')).all()


def test_celeba_dls(celeba):
    dls = celeba_dls(portraits(celeba, n_train=15, n_val=8), size=(20, 16), bs=10, device='cpu')
    assert list(dls.vocab) == ['heavy_makeup', 'no_heavy_makeup'] and dls.one_batch()[0].shape == (10, 3, 20, 16)


def test_the_celeba_twin_is_read_like_celeba(tmp_path):
    root = celeba_twin(tmp_path / 'celeba', n=60, size=(28, 22), workers=1)
    layout = portraits(root, n_train=6, n_val=1)
    assert layout.items.groupby(['split', 'label']).size().tolist() == [6, 6, 1, 1]
    people = drawn_people(root, layout)
    assert not people['train'] & people['val']
    assert celeba_dls(layout, bs=4, device='cpu').one_batch()[0].shape == (4, 3, 160, 128)
    with pytest.raises(ValueError, match='wanted are young and no_young'): celeba_dls(layout, attr='Young', device='cpu')


@pytest.mark.parametrize('read', [portraits, every_portrait])
def test_missing_faces_and_strange_parts_are_named(celeba, tmp_path, read):
    root = copy_without(celeba, tmp_path)
    (root / 'list_eval_partition.txt').write_text((celeba / 'list_eval_partition.txt').read_text().replace('000200.jpg ', '000200.jpg 4'))
    with pytest.raises(ValueError, match=r'list_eval_partition.txt holds the parts \[4\d\]'): read(root)
    (root / 'img_align_celeba').unlink()
    with pytest.raises(FileNotFoundError, match='img_align_celeba is missing'): read(root)
    (root / 'img_align_celeba').mkdir()
    with pytest.raises(FileNotFoundError, match='img_align_celeba holds no images'): read(root)
    (root / 'img_align_celeba' / 'img_align_celeba').symlink_to(celeba / 'img_align_celeba', target_is_directory=True)
    with pytest.raises(FileNotFoundError, match='one folder too deep'): read(root)


def test_too_few_for_val_is_said_of_val(celeba, tmp_path):
    root = copy_without(celeba, tmp_path, 'list_eval_partition')
    with pytest.raises(ValueError, match='500 without Heavy_Makeup are wanted for val'): portraits(root, n_train=1, n_val=500)


def test_incomplete_lists_are_errors(celeba, tmp_path):
    root = copy_without(celeba, tmp_path)
    lines = (celeba / 'list_eval_partition.txt').read_text().splitlines()
    (root / 'list_eval_partition.txt').write_text('\n'.join(lines[:-3]))
    with pytest.raises(ValueError, match='no line for 3 images, such as 000198.jpg'): portraits(root, n_train=15, n_val=8)
    (root / 'list_attr_celeba.txt').write_text('not a table')
    with pytest.raises(ValueError): portraits(root, n_train=15, n_val=8)


# --- codes.txt ---------------------------------------------------------------------------------------------------------

def test_void_moves_to_the_end_whatever_its_id_is(tmp_path):
    for part in ('images', 'masks'): (tmp_path / part).mkdir()
    for i in range(4):
        Image.new('RGB', (4, 4)).save(tmp_path / 'images' / f'{i}.png')
        Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8)).save(tmp_path / 'masks' / f'{i}.png')
    (tmp_path / 'codes.txt').write_text('Void\nroad\ncar\n')
    layout = hold_out(mask_folders(tmp_path), share=.5)
    dls = mask_dls(layout, size=2, augment='none', bs=2, device='cpu')
    assert dls.vocab == ['road', 'car'] and dls.codes == codes_of(('road', 'car'), void='Void')
    assert dls.one_batch()[1][0].tolist() == [[2, 0], [1, 1]]


# --- the real images ---------------------------------------------------------------------------------------------------

@pytest.mark.data
@pytest.mark.skipif('HW4_PORTRAITS' not in os.environ, reason='HW4_PORTRAITS says where the portraits are')
def test_real_portraits():
    dls = celeba_dls(os.environ['HW4_PORTRAITS'], device='cpu')
    assert list(dls.vocab) == ['heavy_makeup', 'no_heavy_makeup'] and len(dls.train_ds) == 2000 and len(dls.valid_ds) == 400
    assert dls.one_batch()[0].shape == (32, 3, 160, 128)


@pytest.mark.data
@pytest.mark.skipif('HW4_SCENES' not in os.environ, reason='HW4_SCENES says where the road scenes are')
def test_real_scenes():
    layout = scenes(os.environ['HW4_SCENES'])
    assert layout.of('train').items.drive.value_counts().to_dict() == {'0001TP': 62, '0006R0': 101, '0016E5': 204}
    for remap, ids in ((None, set(range(12))), (THREE, {0, 1, 2})):
        dls = camvid_dls(layout, remap=remap, bs=20, device='cpu')
        assert len(dls.valid_ds) == 101 and set(dls.one_batch()[1].unique().tolist()) == ids
