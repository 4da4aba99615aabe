"Fine-tuning: an epoch against the usual way, against a loop by hand, and against what the hardware can do."
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from fastai.callback.schedule import Learner
from torch.utils.flop_counter import FlopCounterMode

from hw4.learn.device import Device, best_device

from . import fastai_side, hw4_side, torch_side
from .alone import beside
from .load import Load, said_weights
from .measure import alternate, seconds
from .results import Result

SIZES = dict(alexnet=(224, 224), resnet18=(160, 128), tf_efficientnet_lite0=(160, 128))
TARGETS = dict(alexnet='>= 1.8', resnet18='>= 1.8', tf_efficientnet_lite0='>= 1.4')
SHORT = dict(tf_efficientnet_lite0='lite0')
LR, GPU_BS = 1e-3, 128
AUGMENTED = 'augmented by whole_face on the one side, by aug_transforms() on the other'


def ours(
    load: Load,
    arch: str,
    **kwargs,  # of `hw4_side.face_learner`
) -> Learner:
    "hw4's learner at the size that a net is measured at"
    return hw4_side.face_learner(load, arch, size=load.size(*SIZES[arch]), **kwargs)


def plain(load: Load, arch: str, workers: int) -> Learner:
    "fastai's learner of the same net"
    dls = fastai_side.face_loaders(load.portraits, size=load.size(*SIZES[arch]), bs=load.bs(hw4_side.BS), workers=workers)
    return fastai_side.face_learner(dls, hw4_side.net(arch, load.weights(arch)))


def fastai_turn(load: Load, arch: str, workers: int) -> Callable[[], float]:
    "fastai's turn of fine-tuning"
    return fastai_side.training_turn(plain(load, arch, workers), load, lr=LR)


def vision_turn(load: Load, arch: str, workers: int) -> Callable[[], float]:
    "torchvision's turn of fine-tuning"
    batches = torch_side.face_loader(load.portraits/'train', size=load.size(*SIZES[arch]), bs=load.bs(hw4_side.BS), workers=workers)
    bare = Device('cpu', 'float32', False, torch.get_num_threads())
    return torch_side.hand_turn(hw4_side.net(arch, load.weights(arch)), batches, load, lr=LR, device=bare, fused=False)


def finetune(arch: str, load: Load) -> list[Result]:
    "An epoch of fine-tuning: hw4, fastai and torchvision"
    load.fresh_cache()
    workers, tried = fastai_side.fastest(lambda o: fastai_turn(load.short, arch, o))
    start = time.perf_counter()
    learn = ours(load, arch)
    opened = f'hw4 with its cache built before, in {time.perf_counter() - start:.1f} s'
    sides = {'fastai': beside(fastai_turn, load, arch, workers), 'torchvision': beside(vision_turn, load, arch, workers)}
    figures = alternate({'hw4': fastai_side.training_turn(learn, load, lr=LR)} | sides, turns=load.pairs)
    runs = dict(hw4=partial(ours, load, arch), fastai=partial(plain, load, arch, workers))
    epochs = 1 if load.smoke or load.weights(arch) == 'imagenet' else 2  # one epoch from random numbers says little
    quality = 'accuracy ' + fastai_side.whole_epochs(runs, hw4_side.accuracy_of, lr=LR, epochs=epochs)
    return [Result(f'finetune_{SHORT.get(arch, arch)}', f'an epoch of {arch} {load.size(*SIZES[arch])}, batches of {hw4_side.BS}', TARGETS[arch],
                   figures, 'hw4', 'fastai', 'images/s', quality, f'{tried}; {AUGMENTED}; {opened}; {said_weights(load.weights(arch))}')]


def overhead(arch: str, load: Load) -> list[Result]:
    "The same epoch by hw4, and by hand with its loader, its autocast and a fused AdamW"
    load.fresh_cache()
    learn, device = ours(load, arch), best_device('cpu')
    by_hand = torch_side.hand_turn(hw4_side.net(arch, load.weights(arch)), learn.dls.train, load, lr=LR, device=device, fused=True)
    turns = {'hw4': fastai_side.training_turn(learn, load, lr=LR), 'by hand': by_hand}
    figures = {label: [1000 / o for o in speeds] for label, speeds in alternate(turns, turns=load.pairs + 1).items()}
    return [Result(f'overhead_{SHORT.get(arch, arch)}', f'the same training of {arch} by hw4 and by hand', '<= 1.03', figures, 'hw4', 'by hand',
                   'ms an image', 'the same net, loader, autocast and optimiser', device.words)]


def product_peak(
    dtype: torch.dtype,
    *,
    side: int,  # of the square matrices
) -> float:  # GFLOP/s, the best of ten
    "What the machine reaches when it multiplies matrices and does nothing else"
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    return 2 * side**3 / min(seconds(lambda: a @ b) for _ in range(10)) / 1e9


def flop_of(learn: Learner) -> float:  # GFLOP of one image, forward and backward
    "Multiplications and additions of a training step: backward counts as two forward passes, one for the weights and one for the inputs"
    # counted forward only, for torch's counter takes the backward pass of a depthwise convolution for that of a full one
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        learn.model.eval()(torch.rand(1, 3, *learn.dls.one_batch()[0].shape[-2:]))
    return 3 * counter.get_total_flops() / 1e9


def floor(load: Load) -> list[Result]:
    "FLOP/s in the epoch beside the machine's peak"
    load.fresh_cache()
    side = 256 if load.smoke else 2048
    found = []
    for arch in SIZES:
        learn, precision = ours(load, arch), best_device('cpu').precision_for(hw4_side.net(arch, load.weights(arch)))
        each, turn = flop_of(learn), fastai_side.training_turn(learn, load.short, lr=LR)
        turns = {'achieved': lambda: each * turn()}
        turns |= {f'peak {o}': partial(product_peak, getattr(torch, o), side=side) for o in ('float32', 'bfloat16')}
        found.append(Result(f'floor_{SHORT.get(arch, arch)}', f'training {arch} beside a product of matrices {side} x {side}', None,
                            alternate(turns, turns=load.pairs), 'achieved', f'peak {precision}', 'GFLOP/s',
                            f'{each:.2f} GFLOP an image, forward and backward', f'trained in {precision}'))
    return found


def gpu(arch: str, load: Load) -> list[Result]:
    "On a GPU: hw4's epoch against the net fed from one batch that is there already"
    row = Result(f'gpu_{arch}', f'fine-tuning {arch}, batches of {GPU_BS} / fed from one resident batch', '>= 0.9', unit='images/s')
    if not torch.cuda.is_available():
        row.note = 'not measured: there is no GPU here'
        return [row]
    load.fresh_cache()
    if not load.smoke: load = replace(load, batches=8*load.batches, warm=8*load.warm)  # a batch takes milliseconds
    learn, device = ours(load, arch, bs=GPU_BS, device='cuda'), best_device('cuda')
    for _ in learn.dls.train: pass  # from the second epoch on, the images are on the GPU
    batch = [o.clone() for o in learn.dls.one_batch()]
    ceiling = torch_side.hand_turn(hw4_side.net(arch, load.weights(arch)), [batch], load, lr=LR, device=device, fused=True)
    row.figures = alternate({'hw4': fastai_side.training_turn(learn, load, lr=LR), 'ceiling': ceiling}, turns=2 * load.pairs)
    row.above, row.below, row.note = 'hw4', 'ceiling', f'from the second epoch on; {said_weights(load.weights(arch))}'
    return [row]
