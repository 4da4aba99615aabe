"What the figures were measured on: the machine, the versions, and the commit."
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import hw4
from hw4.study.environment import commit

PACKAGES = ('fastai', 'torch', 'torchvision', 'timm', 'torchmetrics', 'segmentation-models-pytorch', 'numpy', 'pillow',
            'opencv-python-headless')


def processor() -> str:  # as the system names it
    "The model of the CPU"
    file = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*: (.+)', file.read_text()) if file.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def installed(
    package: str,  # as pip names it
) -> str | None:  # None: it is not there
    "The version of a package"
    try: return version(package)
    except PackageNotFoundError: return None


def machine() -> dict:  # ready for JSON
    "Where this runs"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    ram = round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30)
    return dict(cpu=processor(), cores=os.cpu_count(), ram_gib=ram, gpu=gpu, system=platform.platform(), python=platform.python_version())


def versions() -> dict:  # package -> version, None where it is missing
    "What was measured, and against what"
    return dict(hw4=hw4.__version__, commit=commit()) | {o: installed(o) for o in PACKAGES}


def short_name(
    where: dict,  # what `machine` gave
) -> str:  # fit for a file's name
    "A machine in a few letters"
    return re.sub(r'[^a-z0-9]+', '-', f'{where["gpu"] or where["cpu"]} {where["cores"]} cores'.lower()).strip('-')
