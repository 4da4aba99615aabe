"Plain PyTorch: torchvision's reference style (references/classification/train.py and presets.py), and a loop that nothing is added to."
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from hw4.learn.device import Device

from .load import Load
from .measure import Stopwatch


def face_loader(
    path: Path,  # {class}/
    *,
    size: tuple[int, int],  # (h, w)
    bs: int,
    workers: int,  # processes that read
) -> DataLoader:  # batches of floats 0-1 and ids
    "Class folders, augmented image by image about as much as fastai does it"
    tfms = T.Compose([T.Resize(size), T.RandomHorizontalFlip(), T.RandomAffine(10, scale=(1, 1.1)), T.ColorJitter(.2, .2), T.ToTensor()])
    return DataLoader(ImageFolder(path, tfms), bs, shuffle=True, num_workers=workers, drop_last=True)


def endless(
    batches: Iterable,  # can be gone through again
) -> Iterator:
    "Batches, epoch after epoch"
    while True: yield from batches


def hand_turn(
    model: nn.Module,
    batches: Iterable,  # of images and class ids
    load: Load,
    *,
    lr: float,
    device: Device,  # how hw4 would run it
    fused: bool,  # one kernel for the whole step of the optimiser
) -> Callable[[], float]:  # gives images/s
    "A turn of training by hand: the loop that a toolkit must not be slower than"
    def turn():
        opt, watch = torch.optim.AdamW(model.parameters(), lr, fused=fused), Stopwatch(load.batches, warm=load.warm)
        model.to(device.name).train()
        for xb, yb in endless(batches):
            step(model, opt, device.prepare(xb.as_subclass(torch.Tensor)), yb.as_subclass(torch.Tensor).to(device.name), device)
            if watch.tick(len(xb)): return watch.speed
    return turn


def step(
    model: nn.Module,
    opt: torch.optim.Optimizer,
    xb: torch.Tensor,  # (bs, 3, h, w) floats 0-1
    yb: torch.Tensor,  # (bs,) ids
    device: Device,
) -> None:
    "Train on one batch"
    with device.autocast(model, xb): logits = model(xb)
    F.cross_entropy(logits.float(), yb).backward()
    opt.step()
    opt.zero_grad()
