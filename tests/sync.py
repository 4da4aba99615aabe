"Notebooks are clean, modules and README are what the notebooks export: checked on a copy, run by `make test`."
import filecmp
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KEPT = ['hw4', 'nbs', 'settings.ini', 'setup.py', 'pyproject.toml', 'README.md']


@pytest.fixture(scope='module')
def fresh(tmp_path_factory):
    "A copy of the project in which everything has been exported and cleaned anew"
    copy = tmp_path_factory.mktemp('project')
    skip = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', 'runs')
    for name in KEPT:
        if (ROOT/name).is_dir(): shutil.copytree(ROOT/name, copy/name, ignore=skip)
        else: shutil.copy(ROOT/name, copy/name)
    for command in ('nbdev-clean', 'nbdev-export'): subprocess.run([Path(sys.executable).with_name(command)], cwd=copy, check=True)
    subprocess.run([sys.executable, '-m', 'hw4.nbdev_cli', 'readme'], cwd=copy, check=True)
    return copy


def changed(fresh, pattern):
    "Files that a fresh export or clean would change"
    return [o.relative_to(fresh).as_posix() for o in sorted(fresh.glob(pattern))
            if not (ROOT/o.relative_to(fresh)).is_file() or not filecmp.cmp(o, ROOT/o.relative_to(fresh), shallow=False)]


def test_notebooks_are_clean(fresh): assert changed(fresh, 'nbs/**/*.ipynb') == [], 'run `make prepare`'


def test_modules_are_exported(fresh): assert changed(fresh, 'hw4/**/*.py') == [], 'run `make prepare`'


def test_readme_is_the_index(fresh): assert changed(fresh, 'README.md') == [], 'run `make prepare`'
