"Kept pixels give what a live decode gives, whatever happens to the files, the disk or the process."
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from PIL import Image

import hw4.data.pixels as pixels_module
from hw4.data.codes import codes_of, identity
from hw4.data.contents import hash_file, name_files
from hw4.data.pixels import KeptMasks, KeptPixels, LivePixels, open_masks, open_pixels, read_image, read_mask
from hw4.data.rows import open_rows
from hw4.data.segments import MANY, bound, clear_rows, kept_files, kept_rows, rows_folder

SIZE = (20, 28)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "A cache of its own, of one gigabyte, and warnings that are errors unless a test wants them"
    monkeypatch.setenv('HW4_CACHE', str(tmp_path/'cache'))
    monkeypatch.setenv('HW4_CACHE_GB', '1')
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        yield tmp_path/'cache'


def paint(file, seed, size=(31, 40)):
    "A picture of its own"
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(file)
    return file


@pytest.fixture
def files(tmp_path):
    "An image of every kind"
    noise = np.random.default_rng(0).integers(0, 256, (37, 45, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    made = {'a.jpg': Image.fromarray(noise[..., :3]), 'b.png': Image.fromarray(noise[..., :3]), 'c.png': Image.fromarray(noise[..., :3]).quantize(16),
            'd.png': Image.fromarray(noise[..., 0]), 'e.jpg': Image.fromarray(noise[..., 0]), 'f.png': Image.fromarray(noise),
            'g.bmp': Image.fromarray(noise[..., :3]), 'h.png': Image.fromarray(noise[:20, :28, :3])}
    for name, im in made.items(): im.save(tmp_path/name)
    made['a.jpg'].save(tmp_path/'i.jpg', exif=exif, quality=70)
    return sorted(o for o in tmp_path.iterdir() if o.is_file())


@pytest.fixture
def decodes(monkeypatch):
    "The files that are decoded from now on"
    seen = []
    for name, read in dict(read_image=read_image, read_mask=read_mask).items():
        monkeypatch.setattr(pixels_module, name, lambda file, size=None, read=read, **how: seen.append(os.path.basename(file)) or read(file, size, **how))
    return seen


def same(pixels, files, size=SIZE):
    "Whether all pixels are those of a live decode, one by one and together"
    return all(np.array_equal(pixels(o), read_image(o, size)) for o in files) and np.array_equal(pixels.batch(files), np.stack([read_image(o, size) for o in files]))


def damages(call):
    "What `call` gives, and the warnings it gave about damage"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        found = call()
    return found, [str(o.message) for o in said if 'is damaged' in str(o.message)]


def test_every_kind_of_image_is_bit_identical(files):
    for _ in range(2):
        pixels = open_pixels(files, SIZE)
        assert isinstance(pixels, KeptPixels) and len(files) == 9
        assert same(pixels, files)
        assert pixels(files[0]).dtype == np.uint8 and pixels(files[0]).flags.writeable
    assert kept_rows()[['what', 'rows']].values.tolist() == [['images 20x28', 9]]


def test_masks_are_kept_as_stored_and_remapped_when_read(tmp_path, decodes):
    two = codes_of(('sky', 'road', 'void'), void='void')
    ids = np.random.default_rng(0).integers(0, 3, (5, 30, 40), dtype=np.uint8)
    files = [tmp_path/f'{i}.png' for i in range(5)]
    for file, o in zip(files, ids): Image.fromarray(o).save(file)
    palette = Image.fromarray(ids[0], mode='P')
    palette.putpalette([9, 9, 9] * 256)
    palette.save(files[0])
    for remap in (None, identity(two)):
        masks = open_masks(files, SIZE, remap=remap)
        assert isinstance(masks, KeptMasks)
        assert np.array_equal(masks.batch(files), np.stack([read_mask(o, SIZE) for o in files]))
        assert all(np.array_equal(masks(o), read_mask(o, SIZE)) for o in files)
    assert sorted(decodes) == [f'{i}.png' for i in range(5)]


def test_each_is_decoded_once_and_a_new_one_alone(tmp_path, decodes):
    files = [paint(tmp_path/f'{i}.png', i) for i in range(6)]
    open_pixels(files[:5], SIZE)
    assert len(decodes) == 5
    for _ in range(2): open_pixels(files[:5], SIZE).batch(files[:5])
    assert len(decodes) == 5
    assert same(open_pixels(files, SIZE), files)
    assert decodes[5:] == ['5.png']
    os.rename(files[0], tmp_path/'moved.png')
    assert same(open_pixels([tmp_path/'moved.png', *files[1:]], SIZE), [tmp_path/'moved.png', *files[1:]])
    assert len(decodes) == 6  # found by what is in it


def test_equal_files_share_a_row(tmp_path):
    files = [paint(tmp_path/f'{i}.png', 0) for i in range(3)]
    assert same(open_pixels(files, SIZE), files)
    assert kept_rows().rows.tolist() == [1]


@pytest.mark.parametrize('pause', [0, .05])
def test_a_changed_image_is_noticed_after_opening(tmp_path, pause):
    files = [paint(tmp_path/f'{i}.png', i) for i in range(3)]
    time.sleep(pause)
    pixels = open_pixels(files, SIZE)
    for seed in (7, 8, 9):
        paint(files[1], seed)
        assert same(pixels, files)
    os.replace(paint(tmp_path/'new.png', 10), files[2])
    assert same(pixels, files)
    assert same(open_pixels(files, SIZE), files)


def test_a_change_that_hides_its_time_is_noticed(tmp_path):
    file = tmp_path/'a.bmp'  # every picture of this size has as many bytes
    paint(file, 0)
    before = os.stat(file)
    pixels = open_pixels([file], SIZE)
    paint(file, 1)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(file).st_size == before.st_size and os.stat(file).st_mtime_ns == before.st_mtime_ns
    assert same(pixels, [file]) and same(open_pixels([file], SIZE), [file])


def test_hash_follows_a_change_within_a_tick_of_the_clock(tmp_path, monkeypatch):
    (tmp_path/'a').write_text('face')
    seen, before = os.stat(tmp_path/'a'), hash_file(tmp_path/'a')
    (tmp_path/'a').write_text('tree')
    monkeypatch.setattr(os, 'stat', lambda *a, **k: seen)  # a file system with a slow clock
    monkeypatch.setattr(time, 'time_ns', lambda: seen.st_mtime_ns + 5_000_000)
    assert hash_file(tmp_path/'a') != before
    monkeypatch.undo()


def test_a_file_written_while_it_is_named_never_counts(tmp_path, monkeypatch):
    file = paint(tmp_path/'a.png', 0)
    monkeypatch.setattr('hw4.data.contents.changed_just_now', lambda seen: True)
    assert name_files([file]).key(file) is None


def test_an_image_that_changes_while_it_is_decoded_is_not_kept(tmp_path, monkeypatch):
    file = paint(tmp_path/'a.png', 0)
    monkeypatch.setattr(pixels_module, 'read_image', lambda o, size=None: read_image(paint(o, 1), size))
    pixels = open_pixels([file], SIZE)
    monkeypatch.undo()
    assert len(pixels.rows.places.segments) == 0


def test_a_file_that_was_not_named_is_read_live(tmp_path):
    files = [paint(tmp_path/f'{i}.png', i) for i in range(3)]
    pixels = open_pixels(files[:2], SIZE)
    assert same(pixels, files) and same(pixels, [str(o) for o in files])


def flip(file, at):
    "Turn a bit over, leaving the file's size"
    raw = bytearray(file.read_bytes())
    raw[at] ^= 4
    file.write_bytes(raw)


def cut(file, at):
    "Leave the first bytes"
    with open(file, 'r+b') as o: o.truncate(at)


@pytest.mark.parametrize('ending', ['rows', 'index'])
@pytest.mark.parametrize('damage, at', [(flip, 5), (flip, -5), (flip, 700), (cut, 0), (cut, 3), (cut, 700)])
def test_a_damaged_file_is_rebuilt_and_not_read(tmp_path, cache, ending, damage, at):
    files = [paint(tmp_path/f'{i}.png', i) for i in range(4)]
    open_pixels(files, SIZE)
    file, = cache.glob(f'rows/*/*.{ending}')
    if at >= file.stat().st_size: return
    damage(file, at)
    (pixels, fine), said = damages(lambda: (o := open_pixels(files, SIZE), same(o, files)))
    assert fine and len(said) == 1 and str(file.with_suffix('.rows')) in said[0]
    assert not file.exists()
    assert same(open_pixels(files, SIZE), files) and kept_rows().rows.tolist() == [4]


@pytest.mark.parametrize('damage', [lambda o: flip(o, 100), lambda o: cut(o, 10), lambda o: o.unlink(), lambda o: clear_rows()])
def test_damage_after_opening_is_survived(tmp_path, cache, damage):
    files = [paint(tmp_path/f'{i}.png', i) for i in range(4)]
    pixels = open_pixels(files, SIZE)
    damage(next(cache.glob('rows/*/*.rows')))
    assert damages(lambda: same(pixels, files))[0]
    assert damages(lambda: same(pickle.loads(pickle.dumps(pixels)), files))[0]
    assert same(open_pixels(files, SIZE), files)


def test_a_disk_that_goes_on_failing_gives_right_rows_all_the_same(tmp_path, cache):
    files = [paint(tmp_path/f'{i}.png', i) for i in range(3)]
    pixels = open_pixels(files, SIZE)
    for _ in range(6):
        for o in cache.glob('rows/*/*.rows'): flip(o, 100)
        pixels.rows.places.checked[:] = False
        assert damages(lambda: same(pixels, files))[0]


BUILD = '''
import sys, time
import numpy as np
from hw4.data.rows import open_rows
def fill(positions):
    print('fill', len(positions), flush=True)
    time.sleep({pause})
    return np.array([[o] * 1000 for o in positions], np.int64)
rows = open_rows(dict(what='numbers'), [str(o) for o in range(10_000)], fill, shape=(1000,), dtype='int64', words='numbers')
assert (rows.take([str(o) for o in range(0, 10_000, 7)])[:, 0] == np.arange(0, 10_000, 7)).all()
'''


def test_four_processes_at_once_build_one_set(cache):
    jobs = [subprocess.Popen([sys.executable, '-c', BUILD.format(pause=.05)], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = ''.join(o.communicate(timeout=60)[0] for o in jobs)
    assert [o.returncode for o in jobs] == [0] * 4
    assert sum(int(o.split()[1]) for o in said.splitlines()) == 10_000  # each row was computed by one of them
    assert kept_rows().rows.tolist() == [10_000] and len(list(cache.glob('rows/*/*.index'))) == 1


def test_a_killed_build_leaves_nothing_that_is_read(cache):
    job = subprocess.Popen([sys.executable, '-c', BUILD.format(pause=.3)], stdout=subprocess.PIPE, text=True)
    for _ in range(2): job.stdout.readline()
    job.send_signal(signal.SIGKILL)
    job.wait()
    job.stdout.close()
    assert len(list(cache.glob('rows/*/*.part'))) == 1 and not list(cache.glob('rows/*/*.index'))
    subprocess.run([sys.executable, '-c', BUILD.format(pause=0)], check=True, capture_output=True)
    assert not list(cache.glob('rows/*/*.part')) and kept_rows().rows.tolist() == [10_000]


@pytest.mark.parametrize('left', ['.part', '.rows', '.index'])
def test_leftovers_are_removed(tmp_path, cache, left):
    files = [paint(tmp_path/f'{i}.png', i) for i in range(2)]
    folder = open_pixels(files[:1], SIZE).rows.folder
    (folder/f'abc{left}').write_bytes(b'rubbish')
    assert damages(lambda: same(open_pixels(files, SIZE), files))[0]
    assert not (folder/f'abc{left}').exists() and kept_rows().rows.tolist() == [2]


def thing(name, n=10, size=1000):
    "Rows of one method"
    return open_rows(dict(what=name), [str(o) for o in range(n)], lambda at: np.array([[o % 256] * size for o in at], np.uint8), shape=(size,), words=name)


def test_the_least_used_goes_first(monkeypatch):
    monkeypatch.setenv('HW4_CACHE_GB', '35e-6')  # three of 10 kB and their indices
    for name in 'abc':
        assert thing(name)
        time.sleep(.02)
    thing('a')
    time.sleep(.02)
    assert thing('d')
    assert sorted(kept_rows().what) == ['a', 'c', 'd']
    assert sum(size for _, size in kept_files().values()) <= bound()


def test_what_does_not_fit_is_not_kept_and_drives_nothing_out(monkeypatch):
    monkeypatch.setenv('HW4_CACHE_GB', '35e-6')
    thing('a')
    with pytest.warns(UserWarning, match='too many: not kept'): assert thing('too many', n=40) is None
    assert kept_rows().what.tolist() == ['a']


def test_other_rows_of_the_same_method_go_too(monkeypatch):
    monkeypatch.setenv('HW4_CACHE_GB', '35e-6')
    fill = lambda at: np.zeros((len(at), 1000), np.uint8)
    for start in range(0, 100, 10): assert open_rows(dict(what='x'), [str(o) for o in range(start, start + 10)], fill, shape=(1000,))
    assert sum(size for _, size in kept_files().values()) <= bound()


def test_half_of_the_disk_stays_free(monkeypatch):
    import hw4.data.segments as segments
    monkeypatch.setattr(segments.shutil, 'disk_usage', lambda o: type('Usage', (), dict(free=30_000 - sum(size for _, size in kept_files().values()))))
    assert thing('a') is not None
    with pytest.warns(UserWarning, match='not kept'): assert thing('b', n=16) is None
    assert thing('c', n=8) is not None and kept_rows().what.tolist() == ['c']


def test_zero_keeps_nothing(tmp_path, cache, monkeypatch):
    monkeypatch.setenv('HW4_CACHE_GB', '0')
    files = [paint(tmp_path/f'{i}.png', i) for i in range(3)]
    pixels = open_pixels(files, SIZE)
    assert isinstance(pixels, LivePixels) and same(pixels, files) and not cache.exists()
    assert isinstance(open_pixels(files, SIZE, keep=False), LivePixels)


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path, cache):
    files = [paint(tmp_path/f'{i}.png', i) for i in range(3)]
    cache.write_text('a file where the folder should be')
    with pytest.warns(UserWarning, match='not kept'): pixels = open_pixels(files, SIZE)
    assert isinstance(pixels, LivePixels) and same(pixels, files)


def read_there(pixels, files, answers):
    answers.put(same(pixels, files))


@pytest.mark.parametrize('how', ['fork', 'spawn'])
def test_another_process_can_read(tmp_path, how):
    files = [paint(tmp_path/f'{i}.png', i) for i in range(3)]
    pixels, context = open_pixels(files, SIZE), multiprocessing.get_context(how)
    answers = context.Queue()
    jobs = [context.Process(target=read_there, args=(pixels, files, answers)) for _ in range(2)]
    for o in jobs: o.start()
    assert [answers.get(timeout=60) for _ in jobs] == [True, True]
    for o in jobs: o.join()


def test_an_unreadable_image_is_named_when_it_is_read(tmp_path):
    files = [paint(tmp_path/f'{i}.jpg', i) for i in range(3)]
    files[1].write_bytes(files[1].read_bytes()[:200])
    pixels = open_pixels(files, SIZE)
    assert same(pixels, [files[0], files[2]]) and kept_rows().rows.tolist() == [2]
    with pytest.raises(ValueError, match='1.jpg cannot be read as an image'): pixels(files[1])
    with pytest.raises(ValueError, match='1.jpg cannot be read as an image'): pixels.batch(files)
    os.remove(files[2])
    with pytest.raises(FileNotFoundError, match='2.jpg'): pixels(files[2])
    paint(files[1], 5)
    assert same(open_pixels(files[:2], SIZE), files[:2]) and kept_rows().rows.tolist() == [3]


def test_many_small_additions_are_written_together(tmp_path, cache):
    files = [paint(tmp_path/f'{i}.png', i) for i in range(MANY + 6)]
    for i in range(len(files)): pixels = open_pixels(files[:i+1], SIZE)
    assert same(pixels, files) and kept_rows().rows.tolist() == [len(files)]
    assert len(list(cache.glob('rows/*/*.index'))) <= MANY + 1


def test_rows_of_a_wrong_shape_are_an_error():
    with pytest.raises(ValueError, match='int64 of shape'): open_rows(dict(what='x'), ['a'], lambda at: np.zeros((1, 3), np.int64), shape=(3,), words='x')
    assert len(kept_rows()) == 0 and not list(rows_folder().glob('*/*.part'))


def test_memory_stays_flat(tmp_path):
    "600 MB are built and read without taking them into memory"
    fill = lambda at: np.repeat(np.array(at, np.uint32)[:, None], 1 << 18, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = open_rows(dict(what='large'), [str(o) for o in range(600)], fill, shape=(1 << 18,), dtype='uint32')
    for i in range(600): assert rows.take([str(i)])[0, -1] == i
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_the_command_lists_and_clears(tmp_path):
    files = [paint(tmp_path/f'{i}.png', i) for i in range(3)]
    open_pixels(files, SIZE)
    said = [subprocess.run([sys.executable, '-c', 'from hw4.cli import main; main()', 'cache', *o], capture_output=True, text=True, check=True).stdout
            for o in ([], ['--clear'])]
    assert 'images 20x28' in said[0] and str(rows_folder()) in said[0] and '1,000 MB' in said[0]
    assert 'removed' in said[1] and len(kept_rows()) == 0
