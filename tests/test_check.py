"Check: a good dataset passes, and every way in which one can be broken is found, all at once, named by file."
import io
import os
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from hw4.data.check import check
from hw4.data.codes import codes_of
from hw4.data.layouts import class_folders
from hw4.study.folders import check_files, divided


def picture(file, *, size=(48, 36), ids=None):
    "Write a noisy image, or a mask whose ids go from 0 to `ids`-1"
    file.parent.mkdir(parents=True, exist_ok=True)
    rng, (w, h) = np.random.default_rng(zlib.crc32('/'.join(file.parts[-3:]).encode())), size  # another one for each file
    Image.fromarray(rng.integers(0, ids or 255, (h, w) if ids else (h, w, 3), dtype=np.uint8)).save(file)


@pytest.fixture
def portraits(tmp_path):
    root = tmp_path/'portraits'
    for split in ('train', 'val'):
        for label in ('heavy_makeup', 'no_heavy_makeup'):
            for i in range(3): picture(root/split/label/f'{i}.jpg')
    return root


@pytest.fixture
def scenes(tmp_path):
    root = tmp_path/'scenes'
    for split, n in (('train', 6), ('val', 3)):
        for i in range(n):
            picture(root/split/f'{i}.png')
            picture(root/f'{split}annot'/f'{i}.png', ids=12)
        rows = [f'{split}/{i}.png,{split}annot/{i}.png' for i in range(n)]
        (root/f'{split}.csv').write_text('\n'.join(['img,label', *rows]) + '\n')
    return root


@pytest.fixture
def celeba(tmp_path):
    root, names = tmp_path/'celeba', [f'{i:06d}.jpg' for i in range(1, 6)]
    for o in names: picture(root/'img_align_celeba'/o)
    (root/'list_attr_celeba.txt').write_text('5\nHeavy_Makeup Male\n' + ''.join(f'{o}  1 -1\n' for o in names))
    (root/'list_eval_partition.txt').write_text(''.join(f'{o} {i//2}\n' for i, o in enumerate(names)))
    return root


def found(report): return {o.file: o.what for o in report.faults}


def cut(file, share=0.7): file.write_bytes(file.read_bytes()[:int(file.stat().st_size*share)])


def test_good(portraits, scenes, celeba):
    report = check(portraits)
    assert report.ok and report.layout == 'class folders' and report.images == {'train': 6, 'val': 6}
    assert report.counts.loc['heavy_makeup'].to_dict() == {'train': 3, 'val': 3}
    report = check(scenes)
    assert report.ok and report.images == {'train': 6, 'val': 3}
    assert report.counts['train pixels'].sum() == 6*48*36 and report.counts.index[-1] == 'void'
    assert report.counts['val share'].sum() == pytest.approx(1)
    report = check(celeba)
    assert report.ok and report.images == {'train': 2, 'val': 2, 'test': 1} and report.counts.loc['Heavy_Makeup', 'train images'] == 2
    assert 'ok, nothing is wrong' in str(report)


def test_portraits_broken_at_once(portraits):
    cut(portraits/'train'/'heavy_makeup'/'0.jpg', 0.9)
    (portraits/'train'/'heavy_makeup'/'1.jpg').write_bytes(b'')
    (portraits/'train'/'heavy_makeup'/'text.png').write_text('this is text')
    picture(portraits/'val'/'stray.jpg')
    for o in (portraits/'val'/'no_heavy_makeup').iterdir(): o.unlink()
    report, faults = check(portraits), found(check(portraits))
    assert set(faults) == {'train/heavy_makeup/0.jpg', 'train/heavy_makeup/1.jpg', 'train/heavy_makeup/text.png', 'val/stray.jpg',
                           'val/no_heavy_makeup'}
    assert 'truncated' in faults['train/heavy_makeup/0.jpg'] and 'is empty' in faults['train/heavy_makeup/1.jpg']
    assert "begins with b'this is text'" in faults['train/heavy_makeup/text.png']
    assert faults['val/no_heavy_makeup'] == 'class folder without images'
    assert not report.ok and all(o in str(report) for o in faults) and '5 faults' in str(report)
    assert all(o.fix for o in report.faults)


def test_missing_class_and_split(portraits):
    for o in (portraits/'val'/'heavy_makeup').iterdir(): o.unlink()
    (portraits/'val'/'heavy_makeup').rmdir()
    assert list(found(check(portraits))) == ['val/heavy_makeup']
    (portraits/'val').rename(portraits/'elsewhere')
    assert found(check(portraits)) == {'val': 'folder is missing, there is only train', 'elsewhere': 'holds classes too, and no split is called so'}


@pytest.mark.parametrize('listed', [True, False])
def test_scenes_broken_at_once(scenes, listed):
    if not listed:
        for o in scenes.glob('*.csv'): o.unlink()
    mask = np.array(Image.open(scenes/'trainannot'/'0.png'))
    mask[:2, :5], mask[3, 0] = 57, 200
    Image.fromarray(mask).save(scenes/'trainannot'/'0.png')
    picture(scenes/'trainannot'/'1.png', size=(47, 36), ids=12)
    (scenes/'trainannot'/'2.png').unlink()
    (scenes/'train'/'3.png').unlink()
    (scenes/'train'/'4.png').write_text('not a PNG')
    cut(scenes/'trainannot'/'5.png')
    Image.new('RGB', (48, 36)).save(scenes/'valannot'/'0.png')
    picture(scenes/'val'/'extra.png')
    picture(scenes/'valannot'/'more.png', ids=12)
    faults = found(check(scenes))
    gone = {'trainannot/2.png', 'train/3.png'} if listed else {'train/2.png', 'trainannot/3.png'}
    assert set(faults) == gone | {'trainannot/0.png', 'trainannot/1.png', 'train/4.png', 'trainannot/5.png', 'valannot/0.png',
                                  'val/extra.png', 'valannot/more.png'}
    assert faults['trainannot/0.png'] == 'id 57 in 10 pixels, id 200 in 1 pixels, outside the codes 0 to 11'
    assert faults['trainannot/1.png'] == 'is 47x36, its image train/1.png is 48x36'
    assert 'truncated' in faults['trainannot/5.png'] and 'not a mask of ids' in faults['valannot/0.png']
    if listed: assert faults['train/3.png'] == 'image is missing, train.csv names it in line 5'
    else: assert faults['train/2.png'] == 'image without mask' and faults['trainannot/3.png'] == 'mask without image'


def test_csv(scenes):
    with (scenes/'val.csv').open('a') as f: f.write('val/gone.png,valannot/gone.png\n')
    assert set(found(check(scenes))) == {'val/gone.png', 'valannot/gone.png'}
    (scenes/'val.csv').write_text('a,b\n')
    (scenes/'train.csv').write_text('')
    assert {'val.csv', 'train.csv'} <= set(found(check(scenes)))


def test_missing_folder(scenes):
    (scenes/'valannot').rename(scenes/'elsewhere')
    assert found(check(scenes)) == {'valannot': 'folder is missing'}


def test_codes(scenes):
    assert not check(scenes, codes_of(['a', 'b'])).ok
    (scenes/'codes.txt').write_text('\n'.join(f'class {i}' for i in range(11)))
    assert 'id 11 in' in check(scenes).faults[0].what
    (scenes/'codes.txt').write_text('\n'.join(f'class {i}' for i in range(12)))
    assert check(scenes).ok and check(scenes).counts.index[11] == 'class 11'
    (scenes/'codes.txt').write_text('one\n\nthree')
    (scenes/'trainannot'/'2.png').write_text('broken')
    report = check(scenes)
    assert 'line 2 is empty' in found(report)['codes.txt'] and 'begins with' in found(report)['trainannot/2.png']
    assert report.layout == 'mask folders'


def test_who_named_the_classes(scenes, portraits):
    assert check(scenes).names_from == 'those of CamVid, as there is no codes.txt' and 'class names: those of CamVid' in str(check(scenes))
    (scenes/'codes.txt').write_text('\n'.join(f'class {i}' for i in range(12)))
    assert check(scenes).names_from == 'codes.txt' and 'class names' not in str(check(portraits))


@pytest.mark.parametrize('kind', ['portraits', 'scenes'])
def test_only_train_is_said_beside_other_faults(request, kind):
    root = request.getfixturevalue(kind)
    for o in [*root.glob('val*')]: o.rename(root.parent/o.name)
    broken = next(o for o in sorted((root/'train').rglob('*')) if o.is_file())
    broken.write_text('broken')
    (root/'train'/'stray.jpg').write_text('broken')
    if kind == 'scenes': (root/'train.csv').unlink()
    faults = found(check(root))
    assert set(faults) == {'val', 'train/stray.jpg', broken.relative_to(root).as_posix()} and 'only train' in faults['val']


def test_a_bad_attribute_is_said_beside_other_faults(celeba):
    file = celeba/'list_attr_celeba.txt'
    file.write_text(file.read_text().replace('000001.jpg  1', '000001.jpg  7'))
    picture(celeba/'img_align_celeba'/'000009.jpg')
    faults = found(check(celeba))
    assert 'something else than 1 and -1' in faults['list_attr_celeba'] and 'without a row' in faults['img_align_celeba/000009.jpg']


def test_celeba_broken_at_once(celeba):
    (celeba/'img_align_celeba'/'000002.jpg').unlink()
    picture(celeba/'img_align_celeba'/'000009.jpg')
    cut(celeba/'img_align_celeba'/'000003.jpg')
    text = (celeba/'list_attr_celeba.txt').read_text().replace('5\n', '7\n', 1)
    (celeba/'list_attr_celeba.txt').write_text(text)
    (celeba/'list_eval_partition.txt').unlink()
    faults = found(check(celeba))
    assert set(faults) == {'img_align_celeba/000002.jpg', 'img_align_celeba/000009.jpg', 'img_align_celeba/000003.jpg',
                           'list_attr_celeba.txt'}
    assert faults['list_attr_celeba.txt'] == 'its first line says 7 images, it has 5 rows'
    assert 'image is missing' in faults['img_align_celeba/000002.jpg'] and 'without a row' in faults['img_align_celeba/000009.jpg']
    (celeba/'list_attr_celeba.txt').unlink()
    assert 'list_attr_celeba.txt' in found(check(celeba))


def test_no_dataset(tmp_path):
    (tmp_path/'notes.txt').write_text('no images here')
    for path, what in ((tmp_path, 'no known layout'), (tmp_path/'gone', 'does not exist'), (tmp_path/'notes.txt', 'is a file')):
        report = check(path)
        assert not report.ok and report.layout == 'none' and what in report.faults[0].what and str(path) in str(report)
        assert 'The known layouts' in report.faults[0].fix


@pytest.mark.parametrize('missing', [1, 3, 20, 400])
@pytest.mark.parametrize('progressive', [False, True])
def test_every_truncated_jpeg(portraits, missing, progressive):
    "Whatever is missing at the end, and whatever others have set Pillow to"
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(data, 'jpeg', progressive=progressive)
    (portraits/'train'/'heavy_makeup'/'0.jpg').write_bytes(data.getvalue()[:-missing])
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        assert list(found(check(portraits))) == ['train/heavy_makeup/0.jpg']
        assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    finally: ImageFile.LOAD_TRUNCATED_IMAGES = before


@pytest.mark.parametrize('kind, there, copy', [
    ('portraits', 'train/heavy_makeup/1.jpg', 'val/heavy_makeup/9.jpg'), ('scenes', 'train/1.png', 'val/2.png'),
    ('celeba', 'img_align_celeba/000001.jpg', 'img_align_celeba/000005.jpg')])
def test_one_image_in_two_splits(request, kind, there, copy):
    "It is told by its content, whatever it is called; twice in one split is allowed"
    root = request.getfixturevalue(kind)
    shutil.copy(root/there, root/copy)
    report = check(root)
    assert found(report) == {copy: f'is the same image as {there}'} and not report.ok
    assert 'Take it out of one' in report.faults[0].fix and f'{copy}: is the same image as {there}' in str(report)
    if kind != 'portraits': return
    shutil.move(root/copy, root/'train'/'heavy_makeup'/'9.jpg')
    assert check(root).ok


@pytest.mark.parametrize('split', ['train', 'val'])
def test_one_image_in_two_classes(portraits, split):
    "Whatever split it is in, one of the two labels is wrong"
    shutil.copy(portraits/'train'/'heavy_makeup'/'1.jpg', portraits/split/'no_heavy_makeup'/'9.jpg')
    report = check(portraits)
    assert found(report) == {f'{split}/no_heavy_makeup/9.jpg': 'is the same image as train/heavy_makeup/1.jpg, which has another class'}
    assert 'One of the two classes is wrong' in report.faults[0].fix


def test_one_image_twice_where_a_split_will_be_drawn(tmp_path):
    "All of them are told, by the check and before a study, and not those alone that a draw puts on both sides"
    root = tmp_path/'flat'
    for i, (name, n) in enumerate((name, n) for name in 'ab' for n in range(8)):
        (root/name).mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (12, 9), (10 * i, 0, 0)).save(root/name/f'{n}.png')
    assert check(root).ok
    for n in range(6): shutil.copy(root/'a'/f'{n}.png', root/'a'/f'x{n}.png')
    wanted = {f'a/x{n}.png': f'is the same image as a/{n}.png' for n in range(6)}
    assert found(check(root)) == wanted and 'divided at random' in check(root).faults[0].fix
    drawn = found(check_files(divided(class_folders(root))[0]))
    assert {frozenset((k, v.rpartition(' ')[2])) for k, v in drawn.items()} == {frozenset((k, v.rpartition(' ')[2])) for k, v in wanted.items()}


def test_broken_files_are_not_the_same_image(portraits):
    for split in ('train', 'val'): (portraits/split/'heavy_makeup'/'0.jpg').write_bytes(b'')
    assert all('is empty' in o for o in found(check(portraits)).values())


def test_a_folder_that_is_no_dataset_is_said_in_one_way(tmp_path):
    for o in ('a.txt', 'b.txt'): (tmp_path/o).write_text('text')
    said = str(check(tmp_path))
    assert 'it holds 2 .txt files and no images' in said and 'none' not in said and 'images:' not in said
    assert str(check(tmp_path/'nosuch')).startswith(f'{tmp_path/"nosuch"}: does not exist')


def test_nothing_is_changed_or_printed(scenes, capsys):
    before = {o: o.stat().st_mtime_ns for o in scenes.rglob('*')}
    check(scenes)
    assert before == {o: o.stat().st_mtime_ns for o in scenes.rglob('*')}
    assert capsys.readouterr() == ('', '')


@pytest.mark.data
def test_real_sets():
    portraits, scenes = check(os.environ['HW4_PORTRAITS']), check(os.environ['HW4_SCENES'])
    assert portraits.ok and portraits.counts.to_numpy().tolist() == [[1000, 200], [1000, 200]]
    assert scenes.ok and scenes.images == {'train': 367, 'val': 101} and len(scenes.counts) == 12
