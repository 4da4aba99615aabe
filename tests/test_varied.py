"Options of a recipe, and several values of one side by side, as they are typed, recorded, reported and asked again"
import shlex
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from timm import create_model
from typer.testing import CliRunner

from hw4.cli import app
from hw4.data.augment import STRATEGIES
from hw4.data.synth import portraits_twin
from hw4.study.folders import OPTIONS
from hw4.study.questions import answers, noted_question, question
from hw4.study.records import records, said
from hw4.study.spec import diff
from hw4.study.statements import caveats, rerun

SMALL = ['--arch', 'test_efficientnet', '--epochs', '1', '--size', '32x32', '--device', 'cpu']


def hw4(*words, ok=True):
    "Run a command here; what it printed, or the error it ended with"
    done = CliRunner().invoke(app, list(map(str, words)))
    assert (done.exit_code == 0) == ok, f'{done.output}\n{done.exception!r}'
    return done.output if ok else f'{done.output}{done.exception}'


@pytest.fixture(scope='module')
def faces(tmp_path_factory): return portraits_twin(tmp_path_factory.mktemp('faces')/'faces', n_train=8, n_val=6)


def test_every_option_of_a_recipe_is_recorded_and_asked_again(faces, tmp_path):
    given = dict(augment='stronger', freeze_epochs=1, lr=.02, schedule='cosine', opt='sgd', loss='smooth', mixup=.3, ema=.9, tta='flip', zoom=(1., 1.4))
    words = [o for k, v in given.items() for each in (v if k == 'zoom' else [v]) for o in (f'--{k.replace("_", "-")}', each)]
    place = ['--portraits', faces, '--store', tmp_path]
    hw4('run', 'q1-3', *SMALL, *words, *place)
    record, = records(tmp_path)
    asked, = question('q1-3').sides.values()
    assert record.spec == replace(asked, arch='test_efficientnet', epochs=1, size=(32, 32), **given) and set(given) <= set(OPTIONS)
    command = shlex.split(rerun('q1-3', [record]))
    assert command[:5] == ['env', '-u', 'HW4_PORTRAITS', 'hw4', 'run']
    assert 'stored' in hw4(*command[4:], *place, '--device', 'cpu', '--dry-run')


@pytest.mark.parametrize('words, says', [
    (['q1-3', '--schedule', 'linear'], "'cosine'"), (['q1-3', '--loss', 'ohem'], "expected one of 'cross_entropy', 'smooth'"),
    (['q2-1', '--mixup', '0.2'], 'Leave it out'), (['q2-1', '--zoom', '2'], 'a mask is of the whole image'), (['q1-3', '--zoom', '9'], 'to 8'), (['q2-1', '--augment', 'whole_face'], 'not safe for masks'),
    (['q1-1', '--freeze-epochs', '1'], 'it is frozen throughout'), (['q1-3', '--augment', 'heavy', '--augment', 'heavy'], 'each once'),
    (['q2-1', '--augment', 'scene', '--augment', 'none'], 'on a question with one, such as q2-best'),
    (['q1-3', '--lr', '1e-3', '--lr', '2e-3', '--epochs', '1', '--epochs', '2'], '--epochs and --lr are given several times'),
    (['q1-3', '--weights', 'imagenet', '--weights', 'faces'], 'which begins with random numbers'), (['q1-9', '--lr', '1e-3', '--lr', '4e-3'], 'discusses q1-8'), (['q2-2', '--loss', 'weighted', '--loss', 'ohem'], 'such as q2-best'), (['q2-1', '--arch', 'resnet18+resnet34'], "belongs to task='classify'"),
    (['q1-1', '--lr', '1e-3', '--lr', '4e-3', '--freeze-epochs', '2'], 'it is frozen throughout'), (['q1-6', 'q2-best', '--lr', '1e-3', '--lr', '4e-3', '--mixup', '.2'], "belongs to task='classify'"),
    (['q1-6', '--size', '160', '--size', '160x128'], '--size 160 --size 160x128 of q1-6: some of these come to one'), (['q1-6', '--weights', 'imagenet', '--weights', 'None'], 'a question of its own'),
    (['q2-best', '--size', '90', '--size', '180'], 'not one scale'), (['q1-6', '--lr', '1e-3', '--lr', '-1'], 'above 0'),
])
def test_what_contradicts_itself_is_refused_before_anything_runs(words, says, faces, tmp_path):
    assert says in hw4('run', *words, '--portraits', faces, '--scenes', faces, '--store', tmp_path/'none', ok=False) and not (tmp_path/'none').exists()


@pytest.mark.parametrize('option, values, labels', [('lr', ['1e-3', '4e-3'], ['lr 0.001', 'lr 0.004']), ('size', ['32x32', '40'], ['32x32', '40x32']), ('opt', ['adam', 'sgd'], ['adam', 'sgd'])])
def test_any_option_of_a_recipe_can_be_varied(option, values, labels, faces, tmp_path):
    "Two runs a seed that differ in that field alone, the pair tested, and the command that asks it again"
    given = [o for name, each in {'--arch': ['test_efficientnet'], '--epochs': ['1'], '--size': ['32x32'], f'--{option}': values}.items() for v in each for o in (name, v)]
    shown = hw4('run', 'q1-3', *given, '--device', 'cpu', '--seeds', 2, '--portraits', faces, '--store', tmp_path)
    assert sorted(o.seed for o in records(tmp_path)) == [0, 0, 1, 1] and all(o in shown for o in labels)
    assert {len(diff(a.spec, b.spec)) for a in records(tmp_path) for b in records(tmp_path)} == {0, 1}
    assert list(answers(tmp_path)[f'q1-3.{option}']) == labels
    command = shlex.split(noted_question(f'q1-3.{option}', tmp_path).command)
    assert '--seeds' in command and hw4(*command[1:], '--store', tmp_path, '--device', 'cpu', '--dry-run').count('stored') == 4


def test_the_other_options_are_those_of_the_question_by_itself(faces, tmp_path):
    "The runs of a varied question are found as the question's own when it is asked with one of the values"
    place = ['--portraits', faces, '--store', tmp_path, '--device', 'cpu', '--arch', 'test_efficientnet', '--size', '32x32', '--freeze-epochs', 1, '--spread', 10]
    hw4('run', 'q1-3', '--epochs', 1, '--epochs', 2, *place)
    assert 'stored' in hw4('run', 'q1-3', '--epochs', 2, *place, '--dry-run')
    shown = hw4('run', 'q1-3', '--epochs', 1, '--epochs', 3, *place)  # another pair of the same name
    assert 'sides epochs 1, epochs 2 before, epochs 1, epochs 3 now' in ' '.join(shown.split()) and list(answers(tmp_path)['q1-3.epochs']) == ['epochs 1', 'epochs 3']
    hw4('run', 'q1-3', '--epochs', 1, '--epochs', 2, '--epochs', 3, *place)
    hw4('run', 'q1-3', '--epochs', 1, '--epochs', 3, *place)  # two of them again: what was asked last is what is answered
    assert list(answers(tmp_path)['q1-3.epochs']) == ['epochs 1', 'epochs 3']


def test_what_else_was_changed_is_said(faces, tmp_path):
    "The caveats of a varied question name what stands in the place of the question's own recipe, but what is varied"
    place = ['--portraits', faces, '--store', tmp_path, '--device', 'cpu']
    hw4('run', 'q1-3', *SMALL, '--lr', '1e-3', '--lr', '4e-3', *place)
    said = ' '.join(caveats(noted_question('q1-3.lr', tmp_path), answers(tmp_path)['q1-3.lr']))
    assert 'asks for alexnet; test_efficientnet stands in its place' in said and 'epochs 1 (for 6)' in said and ' lr ' not in said


@pytest.mark.parametrize('words', [['--lr', '1e-3', '--lr', '1e-3'], ['--net', 'unet', '--net', 'fcn'], ['--opt', 'adam', '--opt', 'adamw']])
def test_what_is_no_pair_is_refused_before_the_files_of_a_folder_are_read(words, faces):
    assert 'split:' not in hw4('run', '--images', faces, *words, ok=False)


def test_one_thing_is_varied_on_folders_of_ones_own(faces, tmp_path):
    "The fine-tuned net alone, once for each file of weights; the page bears the question's name, and holds nothing else"
    for seed, name in enumerate(('first', 'second')):
        torch.manual_seed(seed)
        (tmp_path/name).mkdir()
        torch.save(create_model('test_efficientnet').state_dict(), tmp_path/name/'net.pth')
    files = [tmp_path/o/'net.pth' for o in ('first', 'second')]
    shown = hw4('run', '--images', faces, *SMALL, *(o for f in files for o in ('--weights', f)), '--store', tmp_path/'runs', '--out', tmp_path/'page.html')
    assert [o.spec.regime for o in records(tmp_path/'runs')] == ['fine_tune'] * 2
    assert set(answers(tmp_path/'runs')['faces.weights']) == set(map(str, files)) and 'The source of weights for faces' in (tmp_path/'page.html').read_text(), shown


def test_strategies_are_compared_and_reported(faces, tmp_path):
    "One command: three runs that differ in the strategy alone, three pairs, corrected; a section of the report; and the command again"
    store = tmp_path/'runs'
    shown = hw4('run', 'q1-3', *SMALL, *(o for s in ('heavy', 'whole_face', 'stronger') for o in ('--augment', s)), '--portraits', faces, '--store', store)
    assert {o.spec.augment for o in records(store)} == {'heavy', 'whole_face', 'stronger'}
    assert len({replace(o.spec, augment='none') for o in records(store)}) == 1
    for a, b in (('heavy', 'whole_face'), ('heavy', 'stronger'), ('whole_face', 'stronger')): assert any(a in o and b in o for o in shown.splitlines()[-14:]), shown
    assert 'Holm' in shown
    command = shlex.split(noted_question('q1-3.augment', store).command)
    assert 'stored' in hw4(*command[1:], '--store', store, '--device', 'cpu', '--dry-run')
    hw4('report', '--store', store, '--out', tmp_path/'report.html')
    page = (tmp_path/'report.html').read_text()
    assert 'The way of augmentation for Q1-3' in page and 'visible in 200 draws' in page and '--augment stronger' in page
    assert list(answers(store)) == ['q1-3.augment']


def test_nets_of_several_kinds_stand_side_by_side(faces, tmp_path):
    "Two nets of different depths under one head: trained whole, then a linear head of both; the record is read back, and predicts what it measured"
    two, place = 'test_efficientnet+test_byobnet', ['--portraits', faces, '--store', tmp_path, *SMALL[2:]]
    hw4('run', 'q1-3', '--arch', two, *place)
    record, = records(tmp_path)
    assert record.spec.arch == two and sum(type(o).__name__ == 'Linear' for o in record.model().modules()) == 1
    hw4('predict', record.run_id, *(faces/'val').iterdir(), '--out', tmp_path/'said', '--store', tmp_path)
    rows = pd.read_csv(tmp_path/'said'/'predictions.csv')
    now = dict(zip(rows.file.map(lambda o: Path(o).name), rows.predicted))
    assert now == dict(zip(record.predictions.file.map(lambda o: Path(o).name), said(record.predictions, record.vocab)))
    assert 'names 2 nets and' in hw4('run', 'q1-6', '--arch', two, '--weights', 'a+b+c', *place, ok=False)
    assert "no net is called 'nosuch'" in hw4('run', 'q1-3', '--arch', 'test_byobnet+nosuch', *place, ok=False)


def test_show_augment(faces, tmp_path):
    shown = hw4('show-augment', '--portraits', faces, '--out', tmp_path/'new'/'all.png')
    assert all(f'{o}: ' in shown for o in STRATEGIES) and 'whole_face' in shown
    w, h = Image.open(tmp_path/'new'/'all.png').size
    assert h > w/2
    assert 'not both' in hw4('show-augment', 'a.png', '--portraits', faces, ok=False)
    assert 'choose one of none' in hw4('show-augment', '--only', 'cutmix', '--out', tmp_path/'no.png', ok=False)
