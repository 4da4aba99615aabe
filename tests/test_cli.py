"The command line as its users meet it: exit codes, messages, and some of it in a process of its own."
import io
import os
import resource
import subprocess
import sys
import tarfile
import warnings
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

import pandas as pd
import pytest
import torch
from PIL import Image

from hw4.cli import main
from hw4.data.layouts import mask_folders
from hw4.data.other_forms import write_form
from hw4.data.synth import portraits_twin, scenes_twin
from hw4.study.index import INDEX

HW4 = [sys.executable, '-c', 'from hw4.cli import main; main()']


def afresh(*words, ok=True, **how):
    "Run `hw4 words` in a process of its own, which imports what it needs; its output, both streams"
    done = subprocess.run([*HW4, *map(str, words)], capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'}, **how)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def hw4(*words, ok=True, **env):
    "Run `hw4 words` here, where everything is imported already; its output, both streams"
    said = io.StringIO()
    with (mock.patch.dict(os.environ, env), mock.patch.object(sys, 'argv', ['hw4', *map(str, words)]), warnings.catch_warnings(),
          redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit) as end): main()
    assert (not end.value.code) == ok, said.getvalue()
    return said.getvalue()


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Tiny twins, and a store with a run on each"
    root = tmp_path_factory.mktemp('cli')
    portraits_twin(root/'faces', n_train=8, n_val=4)
    scenes_twin(root/'roads', n_train=4, n_val=3)
    said = afresh('run', 'q1-3', 'q2-1', '--arch', 'resnet18', '--epochs', 1, '--size', 48, '--device', 'cpu', '--portraits', root/'faces',
                  '--scenes', root/'roads', '--store', root/'runs', '--weights', random_weights(root/'resnet18.pth'))
    return root, said


def random_weights(path):
    "A file of weights that stands in for published ones"
    import timm
    import torch
    torch.manual_seed(0)
    torch.save(timm.create_model('resnet18', pretrained=False).state_dict(), path)
    return path


def test_help_is_quick():
    "Under half a second of processor time, the best of three on a machine that may be busy: nothing heavy is imported"
    def took():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = afresh('--help')
        assert all(o in said for o in ('check', 'run', 'eval', 'predict', 'runs', 'report'))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert min(took() for _ in range(3)) < .5


@pytest.mark.parametrize('there', [True, False])
def test_get(tmp_path, there):
    "From an archive in a file: what is not all of CamVid is refused; and from where nothing is: a few words, no traceback"
    write_form(mask_folders(scenes_twin(tmp_path/'twins', n_train=2, n_val=1, size=(36, 48))), tmp_path/'camvid', form='fastai')
    if there:
        with tarfile.open(tmp_path/'camvid.tgz', 'w:gz') as o: o.add(tmp_path/'camvid', 'camvid')
    there_is = f'from fastai.data.external import URLs; URLs.CAMVID = "file://{tmp_path}/camvid.tgz"; from hw4.cli import main; main()'
    env = {**os.environ, 'FASTAI_HOME': str(tmp_path/'home'), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-c', there_is, 'get', 'scenes'], capture_output=True, text=True, env=env)
    words = 'lacks 698 of the 701 frames of CamVid' if there else f'Get file://{tmp_path}/camvid.tgz (600 MB) in another way'
    assert done.returncode == 1 and words in done.stderr and 'Traceback' not in done.stderr
    assert (tmp_path/'home'/'data'/'camvid'/'codes.txt').is_file() == there
    assert "hw4 cannot fetch 'flowers': expected scenes (CamVid) or portraits (CelebA)" in hw4('get', 'flowers', ok=False)


def test_check_is_told_what_the_masks_hold(tmp_path):
    "The ways out that its faults name are options"
    for part, im in (('images', Image.new('RGB', (4, 4))), ('masks', Image.new('L', (4, 4), 255))):
        (tmp_path/'pets'/part).mkdir(parents=True)
        im.save(tmp_path/'pets'/part/'1.png')
    (tmp_path/'names.txt').write_text('cat\ndog\n')
    assert 'void_id=255' in hw4('check', tmp_path/'pets', '--codes', tmp_path/'names.txt', ok=False)
    said = hw4('check', tmp_path/'pets', '--codes', tmp_path/'names.txt', '--void-id', 255)
    assert f'class names: {tmp_path}/names.txt' in said and 'ok, nothing is wrong' in said
    said = hw4('check', tmp_path/'pets', '--codes', tmp_path/'nowhere.txt', ok=False)
    assert 'expected a text file with one class name a line' in said and 'Traceback' not in said
    portraits_twin(tmp_path/'faces', n_train=2, n_val=2)
    assert 'no masks: leave codes and void_id out' in hw4('check', tmp_path/'faces', '--void-id', 255, ok=False)


def test_run_prints_plan_progress_and_table(place):
    _, said = place
    assert 'about' in said and 'epoch 1/1' in said and 'pixel_acc' in said and 'skips (FCN-8s)' in said
    assert '\r' not in said  # no bars where the output is no terminal


def test_second_time_nothing_runs(place):
    root, _ = place
    said = hw4('run', 'q1-3', '--arch', 'resnet18', '--epochs', 1, '--size', 48, '--device', 'cpu', '--portraits', root/'faces',
               '--store', root/'runs')
    assert 'stored' in said and 'epoch 1/1' not in said and 'from scratch: accuracy ' in said


def test_dry_run_runs_nothing(place):
    root, _ = place
    said = hw4('run', 'q1-3', '--arch', 'resnet18', '--epochs', 3, '--size', 48, '--portraits', root/'faces', '--store', root/'other', '--dry-run')
    assert 'about' in said and not (root/'other').exists()


def test_eval_gives_the_recorded_numbers(place):
    root, _ = place
    listed = pd.read_csv(csv(root))
    for task, path in dict(scratch='faces', fcn8s='roads').items():
        row = listed[listed.run.str.contains(task)].iloc[0]
        said = hw4('eval', row.run, root/path, '--store', root/'runs', '--device', 'cpu')
        metric = 'accuracy' if path == 'faces' else 'miou'
        assert f'{row[metric]:.4f}' in said


def csv(root):
    hw4('runs', '--store', root/'runs', '--csv', root/'runs.csv')
    return root/'runs.csv'


def test_predict_writes_tables_and_pictures(place):
    root, _ = place
    files = sorted((root/'roads'/'val').iterdir())
    said = hw4('predict', 'fcn8s', *files, '--out', root/'out', '--store', root/'runs')
    assert '3 images' in said and len(pd.read_csv(root/'out'/'predictions.csv')) == 3
    assert Image.open(root/'out'/f'{files[0].stem}_mask.png').size == Image.open(files[0]).size
    hw4('predict', 'scratch', root/'faces'/'val'/'heavy_makeup', '--out', root/'faces_out', '--store', root/'runs')
    assert {'predicted', 'heavy_makeup'} <= set(pd.read_csv(root/'faces_out'/'predictions.csv').columns)


def test_predict_goes_on_after_a_file_that_cannot_be_read(place, tmp_path):
    "The others are told, the damaged one is named, and the command fails"
    root, _ = place
    (tmp_path/'broken.jpg').write_bytes(b'no image')
    said = hw4('predict', 'scratch', root/'faces'/'val'/'heavy_makeup', tmp_path, '--out', tmp_path/'out', '--store', root/'runs', ok=False)
    assert '1 of 5 files cannot be read and are left out' in said and 'broken.jpg' in said and len(pd.read_csv(tmp_path/'out'/'predictions.csv')) == 4


def test_eval_of_a_classifier_asks_for_class_folders(place):
    root, _ = place
    said = hw4('eval', 'scratch', root/'faces'/'val'/'heavy_makeup', '--store', root/'runs', ok=False)
    assert 'class' in said and 'mask' not in said


def test_runs_of_a_store_that_may_only_be_read(place, monkeypatch):
    "The table is shown although its index cannot be kept"
    root, _ = place
    monkeypatch.setattr('hw4.study.index._write', mock.Mock(side_effect=PermissionError('read only')))
    (root/'runs'/INDEX).unlink(missing_ok=True)
    assert 'fcn8s' in hw4('runs', '--store', root/'runs')


def test_report(place):
    root, _ = place
    said = hw4('report', '--store', root/'runs', '--out', root/'report.html')
    page = (root/'report.html').read_text()
    assert str(root/'report.html') in said and 'The skip connections' in page and 'AlexNet from scratch' in page


def test_an_error_is_a_line_in_a_process_of_its_own_too():
    said = afresh('run', 'q9', ok=False)
    assert said.startswith('hw4: ') and 'no such question' in said and 'Traceback' not in said


@pytest.mark.parametrize('words, says', [
    (['run', 'q1-3', '--size', 'big'], 'expected HEIGHT'),
    (['run', 'q1-3', '--portraits', 'nowhere'], 'nowhere'),
    (['run', 'q1-6', 'q1-4', '--augment', 'heavy', '--augment', 'whole_face'], 'q1-4 discusses q1-1, q1-2, q1-3'),  # before q1-6 is trained
    (['eval', 'none', '.'], 'no record'),
    (['report', '--store', 'nowhere'], 'answers no question yet'),
])
def test_errors_say_what_to_do(words, says):
    said = hw4(*words, ok=False)
    assert says in said and 'Traceback' not in said


def test_who_stops_a_training_is_told_that_it_goes_on(place):
    root, _ = place
    words = ['run', 'q1-3', '--portraits', root/'faces', '--store', root/'stopped', '--arch', 'resnet18', '--size', '32', '--epochs', '3']
    with mock.patch('hw4.study.checkpoint.EpochLines.epoch_done', side_effect=KeyboardInterrupt): said = hw4(*words, ok=False)
    assert 'hw4: stopped; the same command goes on' in said
    assert ', goes on' not in hw4(*words, '--dry-run')  # no epoch was done
    with mock.patch('hw4.study.run._measured', side_effect=KeyboardInterrupt): hw4(*words, ok=False)
    assert ', goes on' in hw4(*words, '--dry-run')


def test_a_full_memory_is_said_in_words():
    full = torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.18 GiB')
    with mock.patch('hw4.cli.app', side_effect=full): said = hw4('runs', ok=False)
    assert said.startswith("hw4: the GPU's memory is full: CUDA out of memory. Tried to allocate 20.00 MiB. Ask for") and '--device cpu' in said
    with mock.patch('hw4.cli.app', side_effect=RuntimeError('another')), pytest.raises(RuntimeError, match='another'): main()


def test_no_weights_is_an_error_and_not_a_random_net(place):
    "AlexNet's published weights are not there and cannot be fetched: the ways out are named"
    root, _ = place
    unreachable = dict(TORCH_HOME=str(root/'empty'), https_proxy='http://127.0.0.1:9', HTTPS_PROXY='http://127.0.0.1:9')
    said = hw4('run', 'q1-5', '--portraits', root/'faces', '--store', root/'runs', ok=False, **unreachable)
    assert 'alexnet' in said and 'tf_efficientnet_lite0' in said and 'Traceback' not in said


def test_of_several_questions_every_obstacle_is_told_at_once(place):
    "One question without weights, one without images: nothing runs, and what could be asked by itself is named"
    root, _ = place
    unreachable = dict(TORCH_HOME=str(root/'empty'), https_proxy='http://127.0.0.1:9', HTTPS_PROXY='http://127.0.0.1:9')
    said = hw4('run', 'q1-3', 'q1-5', 'q2-1', '--portraits', root/'faces', '--scenes', root/'nowhere', '--store', root/'none', ok=False, **unreachable)
    assert 'q1-5: ' in said and 'nowhere' in said and 'by themselves: q1-3' in said and 'Traceback' not in said
    assert not (root/'none').exists()


def test_slices_of_what_is_not_there(place):
    "A column that does not exist, and a list of other images, are one sentence each"
    root, _ = place
    hw4('runs', '--csv', root/'tables'/'runs.csv', '--store', root/'runs')
    run = pd.read_csv(root/'tables'/'runs.csv').query("dataset == 'portraits'").run[0]
    assert "no column 'Male'" in hw4('slices', run, '--only', 'Male', '--store', root/'runs', ok=False)
    (root/'list.csv').write_text('file,Male\nother.jpg,1\n')
    said = hw4('slices', run, '--attributes', root/'list.csv', '--store', root/'runs', ok=False)
    assert 'no row' in said and 'Traceback' not in said


def test_a_run_is_not_compared_with_itself(place):
    root, _ = place
    assert 'two different runs' in hw4('compare', 'fcn8s', 'fcn8s', '--store', root/'runs', ok=False)


def test_the_same_image_in_both_splits_is_said(place):
    root, _ = place
    import shutil
    leaky = shutil.copytree(root/'faces', root/'leaky')
    first = next((leaky/'train'/'heavy_makeup').iterdir())
    shutil.copy(first, leaky/'val'/'heavy_makeup'/'copied.jpg')
    assert 'the same image as' in hw4('check', leaky, ok=False)
    said = hw4('run', 'q1-3', '--arch', 'resnet18', '--epochs', 1, '--size', 48, '--portraits', leaky, '--store', root/'none', '--dry-run')
    assert 'CAREFUL: 1 of the validation images of q1-3' in said


def test_strips(place):
    root, _ = place
    said = hw4('strips', 'fcn8s', '--out', root/'results_comparison', '--errors', '--store', root/'runs')
    files = sorted(o.name for o in (root/'results_comparison').iterdir())
    assert '3 strips' in said and files == sorted([*(o.name for o in (root/'roads'/'val').iterdir()), 'legend.png'])
    assert 'is a classifier' in hw4('strips', 'scratch', '--store', root/'runs', ok=False)


def test_a_discussion_runs_nothing_new(place):
    root, _ = place
    said = hw4('run', 'q2-2', '--arch', 'resnet18', '--epochs', 1, '--size', 48, '--device', 'cpu', '--scenes', root/'roads', '--store', root/'runs',
               '--weights', root/'resnet18.pth')
    assert 'stored' in said and 'epoch 1/1' not in said
    assert 'Q2-2' in said and ('Not decided:' in said or 'Yes, quantitatively:' in said or 'No, they cost:' in said)


def test_two_folders_of_ones_own(place, tmp_path):
    "Check, plan, three strides and report of any two folders, from one command; and what is wrong is said before anything runs"
    root, _ = place
    scenes_twin(tmp_path/'plots', n_train=10, n_val=1)
    (tmp_path/'plots'/'train').rename(tmp_path/'pictures'), (tmp_path/'plots'/'trainannot').rename(tmp_path/'truth')
    (tmp_path/'codes.txt').write_text('Sky Building Pole Road Pavement Tree SignSymbol Fence Car Pedestrian Bicyclist void'.replace(' ', '\n'))
    mine = ['--images', tmp_path/'pictures', '--masks', tmp_path/'truth', '--codes', tmp_path/'codes.txt', '--store', tmp_path/'runs', '--device', 'cpu']
    dry = hw4('run', *mine, '--dry-run', '--size', 48)
    assert 'ok, nothing is wrong' in dry and 'a random fifth (seed 0) is measured on' in dry and not (tmp_path/'runs').exists()
    assert 'Step by step' in afresh('run', *mine, '--size', 48, '--epochs', 1, '--out', 'pages/mine.html', cwd=tmp_path)
    assert 'is a folder' in hw4('run', *mine, '--out', tmp_path/'pages', ok=False)
    page = (tmp_path/'pages'/'mine.html').read_text()
    assert 'A random fifth of the images is measured on' in page and f'--masks {tmp_path}/truth' in page
    (tmp_path/'truth'/sorted(os.listdir(tmp_path/'truth'))[0]).unlink()
    assert 'image without mask' in hw4('run', *mine, ok=False)
    assert 'in no class folder' in hw4('run', '--images', tmp_path/'pictures', ok=False)
    assert '--codes not given' in hw4('run', '--images', tmp_path/'pictures', '--masks', tmp_path/'truth', ok=False)
    assert 'name questions' in hw4('run', ok=False)
    for asked in ('q1-5',), ('--images', tmp_path/'pictures'): assert 'hw4 run q1-3' in hw4('run', *asked, '--weights', 'none', ok=False)


def test_class_folders_of_ones_own(place, tmp_path):
    "Check, plan, the three regimes and report of any folder of classes, of any number of them, from one command"
    portraits_twin(tmp_path/'faces', n_train=6, n_val=5)
    (tmp_path/'faces'/'val'/'heavy_makeup').rename(tmp_path/'faces'/'train'/'a third class')
    mine = ['--images', tmp_path/'faces'/'train', '--size', 32, '--device', 'cpu', '--store', tmp_path/'runs']
    said = afresh('run', *mine, '--epochs', 1, cwd=tmp_path)
    assert 'ok, nothing is wrong' in said and 'a random fifth (seed 0) is measured on' in said
    page = (tmp_path/'report-train.html').read_text()  # not where `hw4 report` writes
    assert '3 classes: a third class, heavy_makeup, no_heavy_makeup' in page and f'hw4 run --images {tmp_path}/faces/train --epochs 1 --size 32' in page
    assert said.count('corrected for 3 pairs by Holm') == 3 and 'A random fifth of the images is measured on' in page
    assert 'one class only, no_heavy_makeup' in hw4('run', '--images', tmp_path/'faces'/'val', ok=False)


def test_transfer_table(place, tmp_path):
    "Plan, runs, numbers and picture of a decision table; several values stand behind one option"
    root, _ = place
    mine = ['transfer-table', '--portraits', root/'faces', '--sources', f'{root}/resnet18.pth=very-similar', '--sizes', 2, 4, '--seeds', 1, '--arch', 'resnet18',
            '--size', '32x32', '--epochs', 1, '--device', 'cpu', '--store', tmp_path/'runs', '--out', tmp_path/'table']
    said = hw4(*mine)
    assert '2 a class, resnet18 (very similar): ' in said and 'The course says a linear classifier on top' in said
    rows = pd.read_csv(tmp_path/'table'/'transfer-portraits.csv')
    assert len(rows) == 8 and set(rows.way) == {'last layer', 'last groups', 'all layers', 'scratch'} and (tmp_path/'table'/'transfer-portraits.png').is_file()
    assert '8 runs, in all about' in said and '0 runs, in all about' in hw4(*mine, '--dry-run')


def test_a_question_and_folders_of_ones_own_are_not_mixed(tmp_path):
    "Neither is dropped in silence; and masks with an end of their own are found"
    said = hw4('run', 'q2-1', '--images', 'pictures', '--scenes', 'CamVid', ok=False)
    assert 'q2-1 and --scenes with --images: ' in said and 'Traceback' not in said
    assert '--out belongs to --images' in hw4('run', 'q2-1', '--out', 'x', ok=False) and 'kind of net for masks' in hw4('run', '--images', tmp_path, '--net', 'unet', ok=False)
    assert 'a kind of net for masks' in hw4('run', 'q1-3', '--net', 'unet', '--dry-run', ok=False)
    assert '--images and --masks and --codes not given' in hw4('run', '--void-id', 0, ok=False)
    scenes_twin(tmp_path/'plots', n_train=10, n_val=1)
    (tmp_path/'plots'/'train').rename(tmp_path/'pictures'), (tmp_path/'plots'/'trainannot').rename(tmp_path/'truth')
    for o in (tmp_path/'truth').iterdir(): o.rename(o.with_name(f'{o.stem}_mask.png'))
    (tmp_path/'codes.txt').write_text('Sky Building Pole Road Pavement Tree SignSymbol Fence Car Pedestrian Bicyclist void'.replace(' ', '\n'))
    mine = ['--images', tmp_path/'pictures', '--masks', tmp_path/'truth', '--codes', tmp_path/'codes.txt', '--size', 48, '--dry-run', '--device', 'cpu']
    assert 'ok, nothing is wrong' in hw4('run', *mine, '--suffix', '_mask', '--store', tmp_path/'runs')
