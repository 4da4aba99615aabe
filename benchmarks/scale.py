"What happens as a set grows to 100,000 images: time and memory of each image."
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from hw4.data.check import check
from hw4.data.images import image_dls
from hw4.data.layouts import class_folders
from hw4.study.records import Record, fingerprint, measure, write_record

from .alone import alone, peak_memory
from .load import Load, varied
from .results import Result

SIZE, BS = (64, 64), 64
VOCAB = ['heavy_makeup', 'no_heavy_makeup']


def grow(
    load: Load,
    n: int,  # images
) -> Path:  # {train,val}/{class}/
    "A folder of n portraits whose contents differ, a fifth of them for validation"
    root, like = load.work/f'portraits-{n}', sorted(load.portraits.rglob('*.jpg'))[:200]
    place = lambda i: root/('val' if i % 5 == 0 else 'train')/VOCAB[i % 2]/f'{i:06d}.jpg'
    varied({place(i): (like[i % len(like)], i) for i in range(n)})
    return root


def check_all(path: Path, store: Path) -> None:
    "`hw4 check`"
    check(path, progress=False)


def pass_through(path: Path, store: Path) -> None:
    "A pass through both loaders: it builds the cache, or finds it built"
    dls = image_dls(path, size=SIZE, augment='whole_face', bs=BS, device='cpu')
    for dl in dls.loaders:
        for _ in dl: pass


def keep_record(path: Path, store: Path) -> None:
    "Write the record of a classifier that guesses, and read it and its metrics back"
    layout, rng = class_folders(path), np.random.default_rng(0)
    marks = fingerprint(layout, ['train', 'val'])
    guesses = pd.DataFrame(dict(truth=layout.items.label, logits=list(rng.normal(size=(len(layout.items), 2))), file=layout.items.file,
                                hash=[marks[s]['files'][f] for s, f in zip(layout.items.split, layout.items.file)]))
    record = write_record(store, f'guess-{len(guesses)}', {'predictions.parquet': guesses, 'fingerprint.json': marks}, again=True)
    measure('classify', Record(record.path).predictions, VOCAB)


STEPS = dict(check=check_all, build=pass_through, loader=pass_through, records=keep_record)  # in order: the loader finds the cache built


def step(
    work: Callable,  # of `STEPS`
    path: Path,
    store: Path,
) -> tuple[float, float]:  # seconds, MiB
    "One step, when its packages are loaded"
    start = time.perf_counter()
    work(path, store)
    return time.perf_counter() - start, peak_memory()


def scale(load: Load) -> list[Result]:
    "Each step at each size, in a process of its own"
    took, peaks = {o: {} for o in STEPS}, {o: {} for o in STEPS}
    for n in load.grown:
        load.fresh_cache()
        path, label = grow(load, n), f'{n:,} images'
        for name, work in STEPS.items():
            found = [alone(step, work, path, load.work/'runs') for _ in range(1 if name == 'build' else load.pairs if n <= 10_000 else 1)]
            took[name][label], peaks[name][label] = [1e3 * s / n for s, _ in found], [m for _, m in found]
    few, *_, many = (f'{n:,} images' for n in load.grown)
    times = [Result(f'scale_{o}', f'{o}: time an image as the set grows', '<= 1.2', took[o], many, few, 'ms an image',
                    note=f'images of {SIZE}; what is paid once weighs most on the small set') for o in STEPS]
    return times + [Result(f'scale_{o}_memory', f'{o}: peak memory as the set grows', '<= 1.2', peaks[o], many, few, 'MiB',
                           note='packages included, and pages of mapped files') for o in STEPS]
