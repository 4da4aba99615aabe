"hw4 as a user types it, and the measure that the nets of all sides are judged by."
import torch
from fastai.callback.schedule import Learner
from fastai.data.load import DataLoader
from torch import nn

from hw4.data.images import image_dls
from hw4.learn.backbones import backbone
from hw4.learn.metrics import Count, miou
from hw4.learn.transfer import Classifier, clas_learner

from .load import Load

BS = 32


def net(
    arch: str,
    weights: str,  # what `Load.weights` gave
) -> Classifier:  # of two classes, the same at every call
    "The module that both sides train"
    torch.manual_seed(0)
    return Classifier(backbone(arch, weights), 2)


def face_learner(
    load: Load,
    arch: str,
    *,
    size: tuple[int, int],  # (h, w)
    bs: int = BS,  # unless this is a smoke test
    augment: str = 'whole_face',
    regime: str = 'fine_tune',
    device: str = 'cpu',
) -> Learner:  # of the same net as `net` gives
    "A classifier of portraits"
    dls = image_dls(load.portraits, size=size, augment=augment, bs=load.bs(bs), device=device)
    torch.manual_seed(0)
    return clas_learner(dls, arch, regime=regime, weights=load.weights(arch))


@torch.inference_mode()
def accuracy_of(
    model: nn.Module,
    dl: DataLoader,  # of validation images
) -> float:  # 0-1
    "How many images a net has right, computed in float32 for every side"
    model.eval()
    right = [(model(xb.as_subclass(torch.Tensor)).argmax(1) == yb).float().mean().item() * len(xb) for xb, yb in dl]
    return sum(right) / dl.n


@torch.inference_mode()
def miou_of(
    model: nn.Module,
    dl: DataLoader,  # of validation images and masks
) -> float:  # 0-1
    "mIoU of a net, computed in float32 for every side"
    model.eval()
    count = Count()
    for xb, yb in dl: count.add(model(xb.as_subclass(torch.Tensor)), yb)
    return float(miou(count.cm))
