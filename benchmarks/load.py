"How much is measured, and on what: the real images in full, or tiny twins to see that every row still runs."
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import nn

from hw4.data.layouts import need_folder
from hw4.data.synth import portraits_twin, scenes_twin
from hw4.learn.backbones import backbone
from hw4.learn.weights import WeightsError

REAL = Path('../shared/data')  # beside the checkout


@dataclass(frozen=True)
class Load:
    "The amount of work"
    work: Path  # folder for all that is written
    portraits: Path
    scenes: Path
    smoke: bool = False
    pairs: int = 3  # turns of each side
    batches: int = 10  # timed in a turn
    warm: int = 3  # batches before them
    epochs: int = 10  # of the feature extractor
    repeated: tuple[int, int] = (100, 1000)  # images whose evaluation's memory is compared
    grown: tuple[int, ...] = (1_000, 10_000, 100_000)  # images of the growing set

    def size(self, h: int, w: int) -> tuple[int, int]:  # (h, w)
        "The size to measure at"
        return (64, 64) if self.smoke else (h, w)

    def bs(self, images: int) -> int:
        "The batch size to measure with"
        return 4 if self.smoke else images

    @property
    def short(self) -> 'Load':
        "Turns that are long enough to choose by"
        return replace(self, batches=min(self.batches, 5), warm=min(self.warm, 2))

    def fresh_cache(self) -> None:
        "From here on, nothing is cached"
        os.environ['HW4_CACHE'] = tempfile.mkdtemp(prefix='cache-', dir=self.work)

    @cache
    def weights(self, arch: str) -> str:  # 'imagenet', or a file of seeded random numbers where the published ones cannot be had
        "The weights that both sides start from"
        try: return backbone(arch).weights.name
        except WeightsError: pass
        file = self.work/f'{arch}-random.pt'
        if not file.is_file(): torch.save(random_state(arch), file)
        return str(file)


def random_state(arch: str) -> dict:  # of the body
    "Seeded random weights that keep the size of what flows through the net (He et al. 2015, equation 10)"
    torch.manual_seed(0)
    body = backbone(arch, None).body
    for o in body.modules():
        if isinstance(o, (nn.Conv2d, nn.Linear)): nn.init.kaiming_normal_(o.weight, nonlinearity='relu')
    return body.state_dict()


def said_weights(
    weights: str,  # what `Load.weights` gave
) -> str:
    "Weights in words"
    return 'ImageNet weights' if weights == 'imagenet' else 'seeded random weights, for the published ones are not at hand'


@contextmanager
def make_load(
    smoke: bool,  # tiny twins
) -> Iterator[Load]:  # its folder is removed at the end
    "The load of a benchmark"
    with tempfile.TemporaryDirectory(prefix='hw4-bench-') as folder:
        work = Path(folder)
        os.environ.update(HW4_CACHE=str(work/'cache'), HW4_STORE=str(work/'runs'))
        if smoke:
            os.environ['OMP_NUM_THREADS'] = '1'  # others may be at work: threads that wait for each other take minutes
            faces = portraits_twin(work/'portraits', n_train=16, n_val=4, size=(109, 89))
            roads = scenes_twin(work/'scenes', n_train=6, n_val=4, size=(90, 120))
            yield Load(work, faces, roads, True, pairs=1, batches=1, warm=1, epochs=1, repeated=(6, 12), grown=(40, 80))
        else: yield Load(work, *(real(*o) for o in (('HW4_PORTRAITS', 'heavy_makeup_CelebA'), ('HW4_SCENES', 'CamVid'))))


def real(
    variable: str,  # of the environment, names the folder
    name: str,  # of the folder, where the variable is not set
) -> Path:
    "The folder of real images; an error where there is none"
    try: return need_folder(os.environ.get(variable) or REAL/name).resolve()
    except (FileNotFoundError, NotADirectoryError) as e:
        raise FileNotFoundError(f'{e}: the benchmark needs the real images; set {variable}, or see it run with --smoke') from None


def linked(
    files: dict[Path, Path],  # where a file should be -> where it is
) -> None:
    "Lay files out anew without copying them"
    for there, here in files.items():
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(here)


def varied(
    files: dict[Path, tuple[Path, int]],  # where a file should be -> the image it is like, and a number of its own
) -> None:
    "Write images whose content differs from all others, at the cost of a copy: decoders ignore what follows the end of the image"
    content = {o: o.read_bytes() for o in {like for like, _ in files.values()}}
    for there, (like, i) in files.items():
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(content[like] + i.to_bytes(8, 'big'))
