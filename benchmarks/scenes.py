"Segmentation: an epoch, the question that needs no net, and memory that does not pile up."
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from fastai.callback.schedule import Learner

from hw4.data.camvid import THREE, camvid_dls
from hw4.data.codes import CAMVID
from hw4.learn.fcn import fcn_learner
from hw4.learn.metrics import merge, miou
from hw4.study.questions import SCENES
from hw4.study.records import Record, stack_cms
from hw4.study.run import evaluate, run

from . import fastai_side, hw4_side
from .alone import alone, beside, peak_memory
from .load import Load, linked, varied
from .measure import alternate, timed
from .results import Result

ARCH, BS, LR = 'tf_efficientnet_lite0', 8, 3e-3


def ours(load: Load) -> Learner:
    "hw4's FCN-8s"
    dls = camvid_dls(load.scenes, size=load.size(360, 480), bs=load.bs(BS), device='cpu')
    torch.manual_seed(0)
    return fcn_learner(dls, ARCH, bn_stats='batch')


def plain(load: Load, workers: int) -> Learner:
    "fastai's learner of the same net"
    dls = fastai_side.road_loaders(load.scenes, size=load.size(360, 480), bs=load.bs(BS), workers=workers, codes=CAMVID.all_names)
    return fastai_side.road_learner(dls, ours(load).model, void=CAMVID.n)


def fastai_turn(load: Load, workers: int) -> Callable[[], float]:
    "fastai's turn of training"
    return fastai_side.training_turn(plain(load, workers), load, lr=LR)


def fcn8s(load: Load) -> list[Result]:
    "An epoch of FCN-8s"
    load.fresh_cache()
    workers, tried = fastai_side.fastest(lambda o: fastai_turn(load.short, o))
    turn = fastai_side.training_turn(ours(load), load, lr=LR)
    figures = alternate({'hw4': turn, 'fastai': beside(fastai_turn, load, workers)}, turns=load.pairs)
    runs = dict(hw4=partial(ours, load), fastai=partial(plain, load, workers))
    quality = 'mIoU ' + fastai_side.whole_epochs(runs, hw4_side.miou_of, lr=LR)
    return [Result('fcn8s', f'an epoch of FCN-8s {ARCH} {load.size(360, 480)}, batches of {BS}', '>= 1.5', figures, 'hw4', 'fastai', 'images/s',
                   quality, f'{tried}; ImageNet weights, BatchNorm with the statistics of the batch on both sides, which fastai knows alone')]


def few_scenes(load: Load) -> Path:  # {train,val}/ and {train,val}annot/
    "A folder with eight images to train on and all to validate on: the record is to be read, the net need not be good"
    root = load.work/'few-scenes'
    files = [o for o in sorted((load.scenes/'train').glob('*.png'))[:8]] + sorted((load.scenes/'val').glob('*.png'))
    pairs = {root/o.parent.name/o.name: o for o in files}
    masks = {root/f'{o.parent.name}annot'/o.name: load.scenes/f'{o.parent.name}annot'/o.name for o in files}
    if not root.is_dir(): linked(pairs | masks)
    return root


def record_of(load: Load, *, size: tuple[int, int]) -> Record:
    "A run of the course's recipe for road scenes, cut short"
    return run(replace(SCENES, size=load.size(*size), epochs=1, bs=load.bs(BS)), path=few_scenes(load), store=load.work/'runs', watch=False)


def merged(
    cms,  # (k, n+1, n) a matrix for each image
) -> float:  # mIoU of the three classes
    "Q2-4: what eleven classes give when they are counted as three"
    names = THREE.source
    groups = [[names.index(o) for o in THREE.groups[t]] for t in THREE.target.names]
    return miou(merge(cms, groups).sum(0))


def merge_three(load: Load) -> list[Result]:
    "Three classes from eleven: by the net again, or by the record"
    load.fresh_cache()
    record, vocab = record_of(load, size=SCENES.size), CAMVID.n
    values = {}
    def again(): values['again'] = merged(stack_cms(evaluate(record, few_scenes(load)), vocab))
    def read(): values['merged'] = merged(stack_cms(Record(record.path).predictions, vocab))
    again(), read()
    figures = alternate({'again': timed(again), 'merged': timed(read)}, turns=load.pairs)
    same = 'equal' if values['again'] == values['merged'] else 'NOT EQUAL'
    return [Result('merge', f'Q2-4, {len(record.predictions)} images {load.size(*SCENES.size)}: evaluating again / merging what the record has',
                   '>= 300', figures, 'again', 'merged', 's', f'{same}: mIoU {values["again"]:.6f} and {values["merged"]:.6f}',
                   'the net was trained on eight images only')]


def evaluated(
    record: Path,  # its folder
    path: Path,  # of the images
) -> float:  # MiB
    "The peak memory of an evaluation"
    evaluate(Record(record), path)
    return peak_memory()


def memory(load: Load) -> list[Result]:
    "Peak memory of evaluating few images and many"
    load.fresh_cache()
    record, few = record_of(load, size=(360, 480)), load.work/'few-scenes'/'val'
    files, figures = sorted(few.glob('*.png')), {}
    for n in load.repeated:
        root = load.work/f'scenes-{n}'
        chosen = [(files[i % len(files)], i) for i in range(n)]
        varied({root/'val'/f'{i:06d}.png': (o, i) for o, i in chosen})
        varied({root/'valannot'/f'{i:06d}.png': (few.with_name('valannot')/o.name, i) for o, i in chosen})
        figures[f'{n} images'] = [alone(evaluated, record.path, root)]
    few, many = (f'{n} images' for n in load.repeated)
    return [Result('memory', f'peak memory of evaluating FCN-8s {load.size(360, 480)}', '<= 1.1', figures, many, few, 'MiB',
                   note='each in a process of its own, from a cold cache; the packages alone, once imported, are a part of both')]
