"Plain fastai, as its documentation shows it (docs.fast.ai: vision.data, data.block, vision.augment, learner)."
import math
import os
from collections.abc import Callable
from pathlib import Path

from fastai.callback.core import Callback, CancelFitException, CancelValidException
from fastai.callback.schedule import Learner  # the one with `fit_one_cycle`
from fastai.data.block import DataBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import FuncSplitter, get_image_files
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import JaccardCoeffMulti, accuracy
from fastai.vision.augment import Resize, ResizeMethod, aug_transforms
from fastai.vision.data import ImageBlock, ImageDataLoaders, MaskBlock
from torch import nn

from .alone import alone
from .load import Load
from .measure import Stopwatch, seconds

WORKERS = tuple(sorted({0, 1, *range(2, min(17, os.cpu_count() + 1), 2)}))  # tried, and the fastest taken


def face_loaders(
    path: Path,  # {train,val}/{class}/
    *,
    size: tuple[int, int],  # (h, w)
    bs: int,
    workers: int,  # processes that read
    augment: bool = True,
) -> DataLoaders:  # on the CPU
    "Class folders; squished, as hw4 does, and not cropped"
    return ImageDataLoaders.from_folder(path, valid='val', item_tfms=Resize(size, method=ResizeMethod.Squish),
                                        batch_tfms=aug_transforms() if augment else None, bs=bs, num_workers=workers, device='cpu')


def road_loaders(
    path: Path,  # {train,val}/ and {train,val}annot/
    *,
    size: tuple[int, int],  # (h, w)
    bs: int,
    workers: int,  # processes that read
    codes: tuple[str, ...],  # names of the ids, void included
) -> DataLoaders:  # on the CPU
    "Images with masks; flipped and lit, as hw4's strategy is"
    return DataBlock(blocks=(ImageBlock, MaskBlock(codes)), get_items=lambda o: get_image_files(o, folders=['train', 'val']),
                     splitter=FuncSplitter(lambda o: o.parent.name == 'val'), get_y=lambda o: path/f'{o.parent.name}annot'/o.name,
                     item_tfms=Resize(size, method=ResizeMethod.Squish),
                     batch_tfms=aug_transforms(max_rotate=0., max_zoom=1., max_warp=0.)
                     ).dataloaders(path, bs=bs, num_workers=workers, device='cpu')


def head_and_body(
    model: nn.Module,  # hw4's classifier
) -> list[list[nn.Parameter]]:  # two groups
    "The split that fastai's users write to freeze a body"
    return [list(model.body.parameters()), list(model.head.parameters())]


def face_learner(dls: DataLoaders, model: nn.Module) -> Learner:
    "A classifier of somebody's own, trained by fastai"
    return Learner(dls, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy, splitter=head_and_body)


def road_learner(
    dls: DataLoaders,
    model: nn.Module,
    *,
    void: int,  # id that is not trained on
) -> Learner:
    "A segmentation of somebody's own, trained by fastai"
    return Learner(dls, model, loss_func=CrossEntropyLossFlat(axis=1, ignore_index=void), metrics=JaccardCoeffMulti(axis=1))


class Turn(Callback):
    "Times some batches of a training and ends it"
    def __init__(self, watch: Stopwatch): self.watch = watch

    def after_batch(self):
        if self.watch.tick(len(self.xb[0])): raise CancelFitException

    def before_validate(self): raise CancelValidException


def training_turn(
    learn: Learner,  # fastai's or hw4's
    load: Load,
    *,
    lr: float,
) -> Callable[[], float]:  # gives images/s
    "A turn of training: some batches of a one-cycle fit"
    def turn():
        watch = Stopwatch(load.batches, warm=load.warm)
        epochs = math.ceil(watch.last / len(learn.dls.train))
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr, cbs=[Turn(watch)])
        return watch.speed
    return turn


def whole_epochs(
    runs: dict[str, Callable[[], Learner]],  # side -> what makes its learner, can be pickled; the first one's validation images are what all are measured on
    measure: Callable,  # net, loader -> what it reaches
    *,
    lr: float,
    epochs: int = 1,  # full ones
) -> str:  # such as 'after one epoch: hw4 0.868 in 50.0 s, fastai 0.865 in 80.4 s'
    "What each side reaches in full epochs, from files or caches, and in what time, in a process of its own"
    judge = next(iter(runs.values()))
    reached = {label: alone(whole_epochs_of, make, judge, measure, lr, epochs) for label, make in runs.items()}
    said = [f'{label} {value:.3f} in {took:.1f} s' for label, (value, took) in reached.items()]
    return f'after {"one epoch" if epochs == 1 else f"{epochs} epochs"}: {", ".join(said)}'


def whole_epochs_of(
    make: Callable[[], Learner],
    judge: Callable[[], Learner],  # makes the learner whose validation images are measured on
    measure: Callable,  # net, loader -> what it reaches
    lr: float,
    epochs: int,
) -> tuple[float, float]:  # what is reached, and the seconds of the training
    "Full epochs of one side"
    learn = make()
    with learn.no_bar(), learn.no_logging(): took = seconds(lambda: learn.fit_one_cycle(epochs, lr))
    return measure(learn.model, judge().dls.valid), took


def fastest(
    make: Callable[[int], Callable[[], float]],  # number of workers -> a turn that gives images/s
) -> tuple[int, str]:  # the best number of workers, and all that were tried in words
    "fastai's best `num_workers`"
    speeds = {o: make(o)() for o in WORKERS}
    best = max(speeds, key=speeds.get)
    tried = ', '.join(f'{o}: {v:.1f}' for o, v in speeds.items())
    return best, f'fastai with num_workers={best}, the fastest (images/s with {tried})'
