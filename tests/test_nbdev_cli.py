"`nbdev_test` under that name: it runs what it is told to, and its exit code says what came out."
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hw4.nbdev_cli import as_nbdev3

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize('typed, passed', [
    ('--n_workers 2 --do_print', '--n-workers 2 --do-print'),
    ('--path nbs/my_file.ipynb --flags slow', 'nbs/my_file.ipynb --flags slow'),
    ('--path=nbs/my_file.ipynb', 'nbs/my_file.ipynb'),
    ('--skip_file_re=a_b', '--skip-file-re=a_b'),
])
def test_words(typed, passed): assert as_nbdev3(typed.split()) == passed.split()


@pytest.mark.parametrize('source, code', [('assert 1 + 1 == 2', 0), ('assert 1 + 1 == 3', 1)])
def test_exit_code(tmp_path, source, code):
    "A lesson that fails is seen to fail; the project around it is a copy of this one's configuration"
    for name in ('pyproject.toml', 'settings.ini'): (tmp_path/name).write_text((ROOT/name).read_text())
    cell = dict(cell_type='code', id='a1', metadata={}, source=[source], outputs=[], execution_count=None)
    nb = dict(cells=[cell], metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')), nbformat=4, nbformat_minor=5)
    (tmp_path/'nbs').mkdir()
    (tmp_path/'nbs'/'one.ipynb').write_text(json.dumps(nb))
    run = 'import sys; from hw4.nbdev_cli import nbdev_test; sys.exit(nbdev_test())'
    done = subprocess.run([sys.executable, '-c', run, '--path', 'nbs/one.ipynb', '--n_workers', '0', '--do_print'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code and 'one.ipynb' in done.stdout + done.stderr
