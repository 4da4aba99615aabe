"Layouts: every arrangement is recognised and read, and what is damaged is named."
import os

import pytest
from PIL import Image

from hw4.data.layouts import class_folders, find_images, mask_folders, mask_pairs
from hw4.data.pairs import pair_folders
from hw4.data.recognise import recognise


def draw(root, *files):
    "Write small pictures"
    for o in files:
        (root/o).parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (4, 3)).save(root/o)
    return root


def both(*stems, splits=('train', 'val')):
    "Images and masks of the SegNet layout"
    return [f'{s}{end}/{o}.png' for s in splits for end in ('', 'annot') for o in stems]


@pytest.mark.parametrize('files, layout', [
    (['train/cat/1.jpg', 'train/dog/1.jpg'], 'class folders'),
    (['valid/cat/1.jpg'], 'class folders'),
    (['cat/1.jpg', 'dog/1.jpg'], 'class folders'),
    (['test/1.jpg', 'train/cat/1.jpg'], 'class folders'),
    (both('1'), 'mask folders'),
    (['train/1.png', 'val/1.png'], 'mask folders'),
    (['images/1.jpg', 'masks/1.png'], 'mask folders'),
    (['images/train/1.jpg', 'masks/train/1.png'], 'mask folders'),
    (['images/1.png', 'labels/1_P.png'], 'mask folders'),
    (['train/1.png', 'train_labels/1_L.png'], 'mask folders'),
    (['701_StillsRaw_full/1.png', 'LabeledApproved_full/1_L.png'], 'mask folders'),
    (['img_align_celeba/000001.jpg'], 'celeba'),
    (['1.jpg', '2.jpg'], 'images'),
    (['1.jpg', 'thumbs/2.jpg'], 'images')])
def test_recognise(tmp_path, files, layout):
    assert recognise(draw(tmp_path, *files)) == layout


def test_recognise_what_is_left(tmp_path):
    "A damaged dataset is still known by its other half, by a list, or by the class that has images"
    (tmp_path/'a').mkdir()
    (tmp_path/'a'/'train.csv').write_text('img,label\n')
    assert recognise(tmp_path/'a') == 'mask folders'
    (draw(tmp_path/'b', 'cat/1.jpg')/'dog').mkdir()
    assert recognise(tmp_path/'b') == 'class folders'
    (tmp_path/'c').mkdir()
    (tmp_path/'c'/'list_attr_celeba.csv').write_text('')
    assert recognise(tmp_path/'c') == 'celeba'


def test_no_dataset(tmp_path):
    (tmp_path/'notes.txt').write_text('nothing')
    (tmp_path/'src'/'deep').mkdir(parents=True)
    with pytest.raises(ValueError, match='no known layout.*1 folder \\(src\\)(.|\\n)*known layouts'): recognise(tmp_path)
    with pytest.raises(FileNotFoundError, match='does not exist'): recognise(tmp_path/'gone')
    with pytest.raises(FileNotFoundError, match='is a file'): recognise(tmp_path/'notes.txt')


def test_class_folders(tmp_path):
    draw(tmp_path, *(f'{s}/{c}/{i}.jpg' for s in ('train', 'valid', 'test') for c in ('cat', 'dog') for i in range(3)))
    draw(tmp_path, 'train/.cache/1.jpg', 'train/cat/._1.jpg')
    layout = class_folders(tmp_path)
    assert (layout.splits, layout.vocab, layout.task, len(layout.items)) == (('train', 'val', 'test'), ('cat', 'dog'), 'classify', 18)
    assert all(o.is_file() for o in layout.paths())
    assert layout.of('val').items.file.str.startswith('valid/').all()
    assert layout.of('val').items.index.tolist() == list(range(6))


def test_other_splits_come_last(tmp_path):
    assert mask_folders(draw(tmp_path, *both('1', splits=('night', 'test', 'day', 'train')))).splits == ('train', 'test', 'day', 'night')


@pytest.mark.parametrize('end', ['.png', '.PNG'])
def test_mask_folders_match_by_stem(tmp_path, end):
    draw(tmp_path, 'train/a.jpg', f'trainannot/a{end}', 'train/b.b.jpg', f'trainannot/b.b{end}')
    layout = mask_folders(tmp_path)
    assert layout.items['mask'].tolist() == [f'trainannot/a{end}', f'trainannot/b.b{end}']
    assert layout.paths('mask')[0].is_file()


def test_csv_decides(tmp_path):
    draw(tmp_path, *both('1', '2', '3'))
    (tmp_path/'train.csv').write_text('img,label\ntrain/3.png,trainannot/3.png\ntrain/1.png,trainannot/1.png\n')
    items = mask_folders(tmp_path).items
    assert items.file.tolist() == ['train/3.png', 'train/1.png', 'val/1.png', 'val/2.png', 'val/3.png']
    (tmp_path/'trainannot'/'2.png').unlink()
    assert len(mask_folders(tmp_path).items) == 5
    (tmp_path/'trainannot'/'1.png').unlink()
    with pytest.raises(ValueError, match='trainannot/1.png: mask is missing, train.csv names it in line 3'): mask_folders(tmp_path)


def test_missing_folder_is_one_fault(tmp_path):
    draw(tmp_path, *(o for o in both(*'123456789') if not o.startswith('valannot')))
    with pytest.raises(ValueError) as e: mask_folders(tmp_path)
    assert str(e.value).count('\n') == 1 and 'valannot: folder is missing' in str(e.value)


def test_pair_folders(tmp_path):
    draw(tmp_path, 'x/photos/valid/1.jpg', 'y/ids/valid/1.png', 'x/photos/train/2.jpg', 'y/ids/train/2.png')
    layout = pair_folders(tmp_path/'x'/'photos', tmp_path/'y'/'ids')
    assert (layout.splits, layout.root) == (('train', 'val'), tmp_path.resolve())
    assert all(o.is_file() for o in layout.paths() + layout.paths('mask'))
    assert mask_pairs(draw(tmp_path/'z', 'images/valid/1.jpg', 'masks/valid/1.png')) == [('val', 'images/valid', 'masks/valid')]
    assert mask_folders(tmp_path/'z').splits == ('val',)


def test_images(tmp_path):
    draw(tmp_path, 'b.png', 'a.jpeg', 'deep/c.tif')
    assert [o.name for o in find_images(tmp_path)] == ['a.jpeg', 'b.png']
    assert [o.name for o in find_images(tmp_path, True)] == ['a.jpeg', 'b.png', 'c.tif']


@pytest.mark.parametrize('files', [
    ['imgs/1.jpg', 'labels/1_P.png'], ['imgs/1.jpg', 'gt/1.png'],
    ['train/image/1.jpg', 'train/Mask/1.png', 'val/image/2.jpg', 'val/Mask/2.png']])
def test_images_and_masks_are_no_classes(tmp_path, files):
    draw(tmp_path, *files)
    for read in (recognise, class_folders):
        with pytest.raises(ValueError, match=r"images/ and masks/ (.|\n)*pair_folders\(images, masks, suffix"): read(tmp_path)
    assert recognise(draw(tmp_path, *(str(o).replace(o.split('/')[-2], 'cat') for o in files))) == 'class folders'


@pytest.mark.parametrize('read, files', [
    (class_folders, [f'{s}/{c}/1.jpg' for s in ('train', 'val', 'valid') for c in ('cat', 'dog')]),
    (mask_folders, both('1', splits=('train', 'val', 'valid'))),
    (lambda o: pair_folders(o/'a', o/'b'), [f'{side}/{s}/1.png' for side in 'ab' for s in ('train', 'val', 'valid')])], ids=['classes', 'masks', 'pairs'])
def test_two_folders_are_not_taken_for_one_split(tmp_path, read, files):
    with pytest.raises(ValueError, match='val and .*valid: are both the split val'): read(draw(tmp_path, *files))


def test_a_file_counts_once(tmp_path):
    draw(tmp_path, *both('1', '2'))
    (tmp_path/'val.csv').write_text('img,label\nval/1.png,valannot/1.png\ntrain/2.png,valannot/2.png\nval/1.png,valannot/1.png\n')
    with pytest.raises(ValueError) as e: mask_folders(tmp_path)
    assert [o.split('.')[0].strip() + o.split(':')[1].split('.')[0] for o in str(e.value).splitlines()[1:]] == [
        'train/2 named 2 times', 'val/1 named 2 times', 'valannot/1 named 2 times']


@pytest.mark.parametrize('extra, missing', [('photos/test/3.jpg', 'ids/test'), ('ids/test/3.png', 'photos/test')])
def test_a_split_of_one_side_is_reported(tmp_path, extra, missing):
    draw(tmp_path, 'photos/train/1.jpg', 'ids/train/1.png', extra)
    with pytest.raises(ValueError, match=f'{missing}: folder is missing'): pair_folders(tmp_path/'photos', tmp_path/'ids')


def test_folder_in_a_class_folder(tmp_path):
    draw(tmp_path, *(f'{s}/{c}/1.jpg' for s in ('train', 'val') for c in ('cat', 'dog')), 'train/cat/kittens/young/2.jpg')
    (tmp_path/'val'/'dog'/'empty').mkdir()
    with pytest.raises(ValueError) as e: class_folders(tmp_path)
    assert 'train/cat/kittens: folder with images in a class folder' in str(e.value) and 'val/dog' not in str(e.value)


@pytest.mark.data
def test_real_layouts():
    portraits, scenes = class_folders(os.environ['HW4_PORTRAITS']), mask_folders(os.environ['HW4_SCENES'])
    assert portraits.items.groupby(['split', 'label']).size().to_dict() == {
        ('train', 'heavy_makeup'): 1000, ('train', 'no_heavy_makeup'): 1000, ('val', 'heavy_makeup'): 200, ('val', 'no_heavy_makeup'): 200}
    assert scenes.items.split.value_counts().to_dict() == {'train': 367, 'val': 101}
