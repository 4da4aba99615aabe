"mIoU from logits: the same tensor to every library."
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import numpy as np
import segmentation_models_pytorch as smp
import torch
from fastai.metrics import JaccardCoeffMulti
from torchmetrics.classification import MulticlassJaccardIndex

from hw4.learn.metrics import MeanIoU

from .load import Load
from .measure import alternate, timed
from .results import Result

CLASSES = 11
TARGETS = dict(fastai=dict(NCHW='>= 8', channels_last='>= 3'), torchmetrics=dict(NCHW='>= 1', channels_last='>= 1'),
               smp=dict(NCHW=None, channels_last=None))


def by_learner_metric(
    metric,  # fastai's or hw4's
    logits: torch.Tensor,
    targs: torch.Tensor,
) -> float:
    "A metric as a fastai `Learner` calls it"
    metric.reset()
    metric.accumulate(SimpleNamespace(pred=logits, y=targs, yb=(targs,)))
    return float(metric.value)


def by_torchmetrics(metric: MulticlassJaccardIndex, logits: torch.Tensor, targs: torch.Tensor) -> float:
    "A metric as torchmetrics has it"
    metric.reset()
    metric.update(logits, targs)
    return float(metric.compute())


def by_smp(logits: torch.Tensor, targs: torch.Tensor) -> float:
    "The metric of segmentation_models_pytorch, of all images together"
    stats = smp.metrics.get_stats(logits.argmax(1), targs, mode='multiclass', num_classes=CLASSES)
    return float(smp.metrics.iou_score(*(o.sum(0, keepdim=True) for o in stats), reduction='macro'))


def ways() -> dict[str, Callable]:  # library -> function: logits, targs -> mIoU
    "mIoU by each library"
    return dict(hw4=partial(by_learner_metric, MeanIoU()), fastai=partial(by_learner_metric, JaccardCoeffMulti(axis=1)),
                torchmetrics=partial(by_torchmetrics, MulticlassJaccardIndex(CLASSES)), smp=by_smp)


def metric(load: Load) -> list[Result]:  # two memory formats, three libraries
    "mIoU of one batch; without void pixels, where all four agree on what it is"
    torch.manual_seed(0)
    logits, targs = torch.randn(8, CLASSES, *load.size(360, 480)), torch.randint(CLASSES, (8, *load.size(360, 480)))
    found = []
    for layout, x in dict(NCHW=logits, channels_last=logits.contiguous(memory_format=torch.channels_last)).items():
        values = {k: o(x, targs) for k, o in ways().items()}
        same = np.allclose(list(values.values()), values['hw4'], rtol=1e-5)
        quality = ('equal: ' if same else 'NOT EQUAL: ') + ', '.join(f'{k} {v:.6f}' for k, v in values.items())
        turns = {k: timed(partial(o, x, targs)) for k, o in ways().items()}
        figures = {k: [1000 * o for o in took] for k, took in alternate(turns, turns=3 * load.pairs).items()}
        found += [Result(f'metric_{k}_{layout}', f'mIoU from logits {tuple(x.shape)}, {layout}: {k} / hw4', target[layout],
                         {'hw4': figures['hw4'], k: figures[k]}, k, 'hw4', 'ms', quality) for k, target in TARGETS.items()]
    return found
