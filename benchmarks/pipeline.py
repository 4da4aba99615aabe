"Images a second out of the loader, decoded and augmented."
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from hw4.data.images import image_dls

from . import fastai_side, torch_side
from .load import Load, linked
from .measure import alternate
from .results import Result

BS = 64


def pass_turn(
    loader: Iterable,
    means: dict,  # gets what the last batch was like
    label: str,  # of the side
) -> Callable[[], float]:  # gives images/s
    "A turn: a pass through a loader"
    def turn():
        start, images = time.perf_counter(), 0
        for xb, _ in loader: images += len(xb)
        took = time.perf_counter() - start
        means[label] = f'{label} {float(xb.mean()):.3f}'
        return images / took
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
    path, how, means = all_training(load), dict(size=load.size(224, 224), bs=load.bs(BS)), {}
    plain = lambda o: pass_turn(fastai_side.face_loaders(path, workers=o, **how).train, means, 'fastai')
    workers, tried = fastai_side.fastest(plain)
    vision = pass_turn(torch_side.face_loader(path/'train', workers=workers, **how), means, 'torchvision')
    load.fresh_cache()
    start = time.perf_counter()
    ours = pass_turn(image_dls(path, augment='whole_face', device='cpu', **how).train, means, 'hw4')
    ours()
    cold = time.perf_counter() - start
    figures = alternate({'hw4': ours, 'fastai': plain(workers), 'torchvision': vision}, turns=load.pairs)
    note = f'{tried}; augmented by whole_face and by aug_transforms(); hw4 with its cache built, which takes {cold:.1f} s with the first pass'
    return [Result('pipeline', f'a pass through {len(list(path.glob("train/*/*")))} portraits, augmented, {how["size"]}', '>= 10', figures,
                   'hw4', 'fastai', 'images/s', f'mean of the last batch: {", ".join(means.values())}', note)]
