"The rules of the house that a program can check: import order, names imported one by one, docstrings, sizes, one set of facts."
import ast
import json
import re
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

import hw4

ROOT = Path(__file__).parents[1]
WINGS = ['data', 'learn', 'look', 'study']
NOTEBOOKS = sorted(o for o in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)


def exporting():
    "Module name -> its notebook, for every notebook that exports one"
    found = {}
    for nb in NOTEBOOKS:
        cells = json.loads(nb.read_text())['cells']
        for cell in cells:
            if m := re.match(r'#\|\s*default_exp (\S+)', ''.join(cell['source'])): found['hw4.' + m[1]] = nb
    return found


MODULES = exporting()


def place(module):
    "Where a module stands: its wing, then the number of its notebook; the command line stands last: first what all commands share, at the end what puts them together"
    wing = module.split('.')[1]
    return (WINGS.index(wing), MODULES[module].name.split('_')[0]) if wing in WINGS else (len(WINGS), {'hw4.cli_start': '0', 'hw4.cli': '2'}.get(module, '1'))


def source(module): return ROOT/(module.replace('.', '/') + '.py')


def tree(module): return ast.parse(source(module).read_text())


def test_every_wing_is_seen():
    assert {'hw4.data.codes', 'hw4.learn.metrics', 'hw4.study.spec', 'hw4.cli'} <= set(MODULES)


@pytest.mark.parametrize('module', MODULES)
def test_imports_go_down(module):
    "A module imports only from wings before its own, and from lower numbers in its own"
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            assert not any(o.name == '*' for o in node.names), f'{module} imports * from {node.module}'
            # the export turns `hw4.data.codes` into `.codes` or `..data.codes`
            package = '.'.join(module.split('.')[:-node.level]) + '.' if node.level else ''
            source = package + (node.module or '')
            if source in MODULES: assert place(source) < place(module), f'{module} imports from {source}, which stands after it'
            else: assert not source.startswith('hw4.'), f'{module} imports from {source}, which no notebook exports'


@pytest.mark.parametrize('module', MODULES)
def test_no_work_at_import(module):
    "At module level: imports, definitions, constants; no file is opened and nothing is patched"
    for node in ast.walk(tree(module)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            assert not any('patch' in ast.unparse(o) for o in node.decorator_list), f'{module}: {node.name} patches a class'
    for node in tree(module).body:
        for call in (o for o in ast.walk(node) if isinstance(o, ast.Call)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)): break
            assert not re.match(r'(open|print|random|np\.random|torch\.manual_seed)', ast.unparse(call.func)), f'{module}: {ast.unparse(call)}'


@pytest.mark.parametrize('module', MODULES)
def test_docstrings(module):
    "Every public function and class has a docstring of one line"
    for node in tree(module).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
            doc = ast.get_docstring(node)
            assert doc and '\n' not in doc, f'{module}.{node.name}: a docstring of one line is needed'


@pytest.mark.parametrize('module', MODULES)
def test_parameters_are_explained(module):
    "Every parameter of a public function stands on a line of its own with a comment or a telling annotation"
    lines = source(module).read_text().splitlines()
    for node in tree(module).body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith('_') or node.decorator_list: continue
        args = node.args.args + node.args.kwonlyargs
        assert len({o.lineno for o in args}) == len(args), f'{module}.{node.name}: one parameter a line'
        for o in args: assert '#' in lines[o.lineno-1] or o.annotation, f'{module}.{node.name}: say what {o.arg} is'
        assert len(args) <= 7 or module.startswith('hw4.cli'), f'{module}.{node.name}: {len(args)} parameters; a dataclass holds more than seven'


@pytest.mark.parametrize('module', MODULES)
def test_size(module):
    "A module that grows past 250 lines holds two ideas"
    count = sum(bool(o.strip()) and not o.lstrip().startswith('#') for o in source(module).read_text().splitlines())
    assert count <= 250, f'{module}: {count} lines'


@pytest.mark.parametrize('nb', NOTEBOOKS, ids=lambda o: o.relative_to(ROOT/'nbs').as_posix())
def test_notebook(nb):
    "A notebook opens with a title and its one idea, has unique cell ids, and is small"
    cells = json.loads(nb.read_text())['cells']
    first = ''.join(cells[0]['source']).splitlines()
    assert first[0].startswith('# ') and any(o.startswith('> ') for o in first), f'{nb.name}: a title and a line with its idea come first'
    ids = [o['id'] for o in cells]
    assert len(set(ids)) == len(ids)
    assert nb.stat().st_size < 400_000, f'{nb.name} weighs {nb.stat().st_size} bytes: keep only outputs that teach'


def test_one_set_of_facts():
    "settings.ini, pyproject.toml and the package agree"
    ini = ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini')
    ini, toml = ini['DEFAULT'], tomllib.loads((ROOT/'pyproject.toml').read_text())
    nbdev = toml['tool']['nbdev']
    assert ini['version'] == hw4.__version__
    assert ini['lib_name'] == toml['project']['name']
    assert toml['project']['requires-python'] == f">={ini['min_python']}"
    assert all(ini[o] == nbdev[o] for o in ('nbs_path', 'lib_path', 'doc_path', 'tst_flags'))


def test_map_is_complete():
    "Every room has its row in CONTRIBUTING.md, and every row its room"
    rows = re.findall(r'^\| (\w+) \|', (ROOT/'CONTRIBUTING.md').read_text(), flags=re.M)
    rooms = [nb.stem for module, nb in MODULES.items() if not module.startswith('hw4.cli')]
    assert sorted(o for o in rows if o[0].isdigit()) == sorted(rooms)
