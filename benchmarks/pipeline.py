"Images a second out of the loader, decoded and augmented."
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from hw4.data.images import image_dls

from . import fastai_side, torch_side
from .alone import beside
from .load import Load, linked
from .measure import alternate
from .results import Result

BS, SIZE = 64, (224, 224)


def hw4_loader(load: Load, path: Path, workers: int) -> Iterable:
    "hw4's training batches; it reads in a thread, whatever `workers` says"
    return image_dls(path, size=load.size(*SIZE), bs=load.bs(BS), augment='whole_face', device='cpu').train


def fastai_loader(load: Load, path: Path, workers: int) -> Iterable:
    "fastai's training batches"
    return fastai_side.face_loaders(path, size=load.size(*SIZE), bs=load.bs(BS), workers=workers).train


def vision_loader(load: Load, path: Path, workers: int) -> Iterable:
    "torchvision's training batches"
    return torch_side.face_loader(path/'train', size=load.size(*SIZE), bs=load.bs(BS), workers=workers)


def pass_turn(
    make: Callable[[Load, Path, int], Iterable],  # one of the three above
    load: Load,
    path: Path,  # {train,val}/{class}/
    workers: int,  # processes that read
) -> Callable[[], float]:  # gives images/s
    "A turn: a pass through a loader"
    loader = make(load, path, workers)
    def turn():
        start, images = time.perf_counter(), 0
        for xb, _ in loader: images += len(xb)
        return images / (time.perf_counter() - start)
    return turn


def all_training(load: Load) -> Path:  # {train,val}/{class}/
    "A folder in which every portrait is a training image"
    root, files = load.work/'all-portraits', sorted(load.portraits.rglob('*.jpg'))
    if not root.is_dir():
        linked({root/'train'/o.parent.name/o.name: o for o in files})
        linked({root/'val': load.portraits/'val'})
    return root


def pipeline(load: Load) -> list[Result]:
    "hw4's loader, fastai's and torchvision's"
    path = all_training(load)
    workers, tried = fastai_side.fastest(lambda o: pass_turn(fastai_loader, load, path, o))
    load.fresh_cache()
    start = time.perf_counter()
    ours = pass_turn(hw4_loader, load, path, 0)
    ours()
    cold = time.perf_counter() - start
    others = dict(fastai=fastai_loader, torchvision=vision_loader)
    figures = alternate({'hw4': ours} | {k: beside(pass_turn, o, load, path, workers) for k, o in others.items()}, turns=load.pairs)
    means = [f'{k} {float(next(iter(o(load, path, 0)))[0].mean()):.3f}' for k, o in (dict(hw4=hw4_loader) | others).items()]
    note = f'{tried}; augmented by whole_face and by aug_transforms(); hw4 with its cache built, which takes {cold:.1f} s with the first pass'
    return [Result('pipeline', f'a pass through {len(list(path.glob("train/*/*")))} portraits, augmented, {load.size(*SIZE)}', '>= 10', figures,
                   'hw4', 'fastai', 'images/s', f'mean of a batch: {", ".join(means)}', note)]
