"A source task of one's own: which images are in it, that it ends the same however it got there, and the command as it is typed."
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from PIL import Image
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from hw4.cli import app
from hw4.cli_start import start
from hw4.data.attributes import attributed, choose_attributes, pixel_hashes, without
from hw4.data.camvid import scenes
from hw4.data.celeba import portraits
from hw4.data.codes import CAMVID, identity
from hw4.data.crops import write_pieces
from hw4.data.images import image_dls
from hw4.data.synth import celeba_twin, scenes_twin
from hw4.learn.backbones import backbone
from hw4.learn.device import best_device
from hw4.learn.sources import entries, own_entry
from hw4.learn.transfer import clas_learner
from hw4.study import pretrain as source_task
from hw4.study.pretrain import Task, learn_source, pretrain, pretrain_crops, source_spec, task_learner
from hw4.study.records import records
from hw4.study.run import evaluate, run
from hw4.study.source_scores import score_attributes
from hw4.study.spec import Spec
from hw4.study.statements import say_learnt

NET = 'test_resnet'  # timm's own for tests, half a million parameters
SIZE, CPU = (40, 32), best_device('cpu', 'float32')
HOW = dict(size=SIZE, epochs=2, bs=8, device=CPU, watch=False)
SHORT = HOW | dict(epochs=1)


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    "A twin of CelebA, 60 images of 20 people"
    return celeba_twin(tmp_path_factory.mktemp('celeba')/'celeba', n=60, size=(48, 40))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('HW4_CACHE', str(tmp_path/'cache'))
    return tmp_path/'cache'


def drawn(faces, folder):
    "Class folders drawn from the twin, as the course's portraits were from CelebA; one of them saved anew without loss"
    layout = portraits(faces, n_train=4, n_val=1)
    for i, (file, split, label) in enumerate(zip(layout.paths(), layout.items.split, layout.items.label)):
        (goal := folder/split/label).mkdir(parents=True, exist_ok=True)
        if i: shutil.copy(file, goal/f'{i}.jpg')
        else: Image.open(file).save(goal/f'{i}.png')
    return folder, layout


def test_every_image_of_the_target_is_left_out(faces, tmp_path):
    "Under other names, in both splits, even as a PNG: what counts is what is to be seen"
    target, layout = drawn(faces, tmp_path/'target')
    rest, out = without(attributed(faces), [target], size=SIZE)
    assert out.found == {str(target): (10, 10)} and out.n == 10 and len(out.digest) == 16
    assert not set(rest.items.file) & set(layout.items.file) and len(rest.items) == 50
    assert not set(pixel_hashes(rest.paths(), SIZE)) & set(pixel_hashes(layout.paths(), SIZE))


def test_nothing_left_out_although_asked_for(faces, tmp_path):
    "A folder of other images, and one whose images were made smaller, are errors and not silence"
    target, layout = drawn(faces, tmp_path/'target')
    small = tmp_path/'small'
    small.mkdir()
    for o in layout.paths()[:3]: Image.open(o).resize((20, 24)).save(small/o.name)
    for folders in ([small], [target, small]):
        with pytest.raises(ValueError, match='of the 3 images of .*small none is among the'): without(attributed(faces), folders, size=SIZE)


def test_lipstick_is_left_out_unless_it_is_wanted():
    known = ['Bangs', 'Heavy_Makeup', 'Smiling', 'Wearing_Lipstick']
    assert choose_attributes(('all-but', 'Heavy_Makeup'), known) == ('Bangs', 'Smiling', 'Wearing_Lipstick')
    with pytest.raises(ValueError, match="'Lipstick': expected names such as Wearing_Lipstick"): choose_attributes(['all-but', 'Lipstick'], known)


def test_nobody_is_on_both_sides(faces):
    "The twin's partition list decides; without it whole people are drawn"
    people = dict(o.split() for o in (faces/'identity_CelebA.txt').read_text().splitlines())
    other = shutil.copytree(faces, faces.parent/'no partition')
    (other/'list_eval_partition.txt').unlink()
    for layout in (attributed(faces), attributed(other, share=.2)):
        sides = [{people[o.name] for o in layout.of(split).paths()} for split in ('train', 'val')]
        assert all(sides) and not sides[0] & sides[1]
    assert 10 <= len(layout.of('val').items) <= 16


def test_batches_are_those_of_a_usual_loader(faces):
    "The same pixels as `image_dls` gives, read by the batch, and CelebA's own truth beside them"
    layout = attributed(faces)
    spec = source_spec(NET, 'attributes', weights=None, how=HOW | dict(augment='none'))
    dls = task_learner(Task(layout, ''), spec, seed=0, device=CPU).dls
    x, y = dls.valid.one_batch()
    usual = image_dls(replace(layout, task='classify', items=layout.items.assign(label=layout.items.Smiling.map({True: 'b', False: 'a'}))), size=SIZE, bs=8, device='cpu')
    torch.testing.assert_close(torch.Tensor(x), torch.Tensor(usual.valid.one_batch()[0]))
    assert torch.Tensor(y)[:, list(dls.vocab).index('Smiling')].tolist() == usual.valid.one_batch()[1].tolist()


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(0)
    has, chance = rng.integers(0, 2, (50, 3)), rng.random((50, 3))
    has[:, 2] = 0  # nobody has it: an average precision of 0 would be a lie
    means, table = score_attributes(chance, has, list('abc'))
    assert means['mean_ap'] == pytest.approx(average_precision_score(has[:, :2], chance[:, :2])) and np.isnan(table.ap[2])


def test_a_source_is_learnt_kept_and_found_again(faces):
    "What is there is found; another training under its name is refused; a killed one goes on and ends as if it had not been"
    whole = pretrain(NET, faces, name='whole', **HOW)
    assert [len(whole.facts[o]) for o in ('history', 'each')] == [2, len(whole.facts['names'])] and whole.facts['environment']['synthetic']
    assert pretrain(NET, faces, name='whole', **HOW).facts['date'] == whole.facts['date']
    with pytest.raises(ValueError, match="weights called 'whole', trained otherwise"): pretrain(NET, faces, name='whole', seed=1, **HOW)
    with pytest.raises(TypeError, match='no option is called epoch:'): pretrain(NET, faces, epoch=1)
    with pytest.raises(KeyboardInterrupt): pretrain(NET, faces, name='cut', **HOW | dict(watch=[Stop()]))
    assert [o.name for o in entries()] == ['whole'] and pretrain(NET, faces, name='cut', **HOW).facts['sha256'] == whole.facts['sha256']


@pytest.mark.parametrize('step, trainings', [('unfinished', 1), ('fit_aloud', 2)])
def test_two_processes_make_the_same_weights_once(faces, monkeypatch, step, trainings):
    "What another one leaves that ends before this one begins to train, or while it trains, is found"
    own, fit, done, fits = getattr(source_task, step), source_task.fit_aloud, [], []

    def late(*args, **how):
        monkeypatch.setattr(source_task, step, counted if step == 'fit_aloud' else own)
        done.append(pretrain(NET, faces, name='both', **SHORT))  # the other process, from beginning to end
        return getattr(source_task, step)(*args, **how)

    def counted(*args, **how):
        fits.append(args)
        return fit(*args, **how)

    monkeypatch.setattr(source_task, 'fit_aloud', counted)
    monkeypatch.setattr(source_task, step, late)
    assert pretrain(NET, faces, name='both', **SHORT).facts == done[0].facts and len(fits) == trainings


def test_what_cannot_be_had_is_refused_before_an_image_is_read(tmp_path):
    for how, why in ((dict(name='my faces'), 'expected letters, digits'), (dict(arch='resnet-18'), 'no net is called'), (dict(weights='nobody'), 'no such file, and no such name')):
        with pytest.raises(ValueError, match=why): pretrain(**dict(arch=NET, portraits=tmp_path/'not there', watch=False) | how)


def test_measuring_on_what_the_weights_have_learnt_from_is_said(faces, tmp_path):
    "In whole or through the weights that they began with; not of weights that were made without these images"
    target, _ = drawn(faces, tmp_path/'target')
    for old, new in (('train', 'other'), ('val', 'train'), ('other', 'val')): (target/old).rename(target/new)  # measured on what is CelebA's for training
    seen = pretrain(NET, faces, name='seen', **HOW)
    pretrain(NET, faces, name='onward', weights='seen', **SHORT | dict(seed=1))
    pretrain(NET, faces, name='clean', leave_out=[target], **SHORT)
    assert len(seen.facts['learnt_from']) == seen.facts['n']
    spec = Spec('classify', 'portraits', NET, SIZE, weights='seen', epochs=1, bs=4)
    said = {o: say_learnt(run(replace(spec, weights=o), path=target, store=tmp_path/'runs', device=CPU, watch=False)) for o in ('seen', 'onward', 'clean', 'clean+seen')}
    assert said['clean'] is None and said['seen'].startswith('CAREFUL: 7 of the 8 validation images')  # one was saved anew
    assert said['onward'].replace('onward', 'seen') == said['seen']
    assert said['clean+seen'].replace('clean+seen', 'seen') == said['seen']
    by = {o.spec.weights: o.run_id for o in records(tmp_path/'runs')}
    for words in (['eval', by['seen'], target], ['compare', by['seen'], by['clean']]):
        out = CliRunner().invoke(app, [*map(str, words), '--store', str(tmp_path/'runs')]).output
        assert 'CAREFUL: 7 of ' in out and 'weights seen were made from' in out
    pretrain(NET, faces, name='seen', seed=2, again=True, **HOW)  # other weights under the name say nothing of those
    assert [say_learnt(o) for o in records(tmp_path/'runs') if 'seen' in o.spec.weights] == [None]*2


class Stop(Callback):
    "Kills a training after its first epoch"
    order = 99
    def after_epoch(self):
        if self.epoch == 0: raise KeyboardInterrupt


def test_pieces_say_what_fills_most_of_them(tmp_path):
    "Every piece is of the training or validation frames, named by the mask; a source task on them is an entry like any other"
    roads = scenes(scenes_twin(tmp_path/'roads', n_train=3, n_val=2, size=(72, 96)))
    layout = write_pieces(roads, tmp_path/'pieces', remap=identity(CAMVID), size=SIZE, count=10)
    assert len(set(layout.vocab)) >= 4 and {Image.open(o).size for o in layout.paths()} == {SIZE[::-1]}
    entry = pretrain_crops(NET, tmp_path/'roads', count=10, **HOW)
    assert entry.facts['n'] == len(layout.of('train').items) and entry.facts['environment']['path'] == str((tmp_path/'roads').resolve())


def test_a_source_starts_from_another(faces):
    "From pieces of roads to faces: the record names the start"
    first = learn_source(Task(attributed(faces, ['Smiling']), 'smiles'), source_spec(NET, 'attributes', weights=None, how=HOW), name='smiles', device=CPU, watch=False)
    second = pretrain(NET, faces, weights='smiles', name='more', **HOW)
    assert second.facts['start']['sha256'] == first.facts['sha256'] and second.facts['spec']['regime'] == 'fine_tune'


def test_a_source_that_looks_closer_fits_a_net_that_does_not(faces):
    "What is kept are the weights of the arch; how the images were looked at stands in the record"
    near = pretrain(NET, faces, name='closer', zoom=(1.5,), **HOW)
    assert near.facts['spec']['zoom'] == [1.5] and near.facts['key'] != pretrain(NET, faces, name='whole', **HOW).facts['key']
    assert clas_learner(image_dls(portraits(faces, n_train=4, n_val=1), size=SIZE, bs=4, device='cpu'), NET, weights='closer', device=CPU).model.weights.name == 'closer'


def test_two_nets_side_by_side(faces, tmp_path):
    "Begun from two sources they are one run, which is read back, measured elsewhere, and found again as long as both sources are what they were"
    target, _ = drawn(faces, tmp_path/'target')
    for i, name in enumerate(('near', 'far')): pretrain(NET, faces, name=name, seed=i, leave_out=[target], **SHORT)
    spec = Spec('classify', 'portraits', NET, SIZE, weights='near+far', epochs=1, freeze_epochs=1, bs=4, zoom=(1, 1.3))
    record = run(spec, path=target, store=tmp_path/'runs', device=CPU, watch=False)
    assert record.stored['resolved']['weights']['name'] == 'near+far' and len(record.model().body.bodies) == 2
    np.testing.assert_allclose(np.stack(evaluate(record, target, device=CPU).logits), np.stack(record.predictions.logits), rtol=1e-4, atol=1e-5)
    frozen = run(replace(spec, regime='feature_extract', freeze_epochs=0, spread=1.), path=target, store=tmp_path/'runs', device=CPU, watch=False)
    for body, name in zip(frozen.model().body.bodies, ('near', 'far')):
        alone = backbone(NET, name).body.state_dict()
        assert all(torch.equal(v, alone[k]) for k, v in body.state_dict().items())
    assert run(spec, path=target, store=tmp_path/'runs', device=CPU, watch=False).run_id == record.run_id
    pretrain(NET, faces, name='far', seed=2, again=True, leave_out=[target], **SHORT)
    assert run(spec, path=target, store=tmp_path/'runs', device=CPU, watch=False).run_id != record.run_id
    with pytest.raises(ValueError, match='which is now'): frozen.model()
    with pytest.raises(ValueError, match='the weights of one net'): pretrain(NET, faces, weights='near+far', **HOW)
    with pytest.raises(ValueError, match='no such name'): run(replace(spec, weights='near+none'), path=target, store=tmp_path/'runs', device=CPU, watch=False)


def test_the_command_as_it_is_typed(faces, tmp_path):
    "Lists after one option; then the weights are listed, and a question starts from them"
    target, _ = drawn(faces, tmp_path/'target')
    words = ['pretrain', '--arch', NET, '--portraits', faces, '--attributes', 'all-but', 'Heavy_Makeup', 'Wearing_Lipstick', '--leave-out', target,
             '--size', '40x32', '--epochs', '1', '--augment', 'heavy', '--zoom', '1.2', '--name', 'near', '--device', 'cpu']
    said = CliRunner().invoke(start, [str(o) for o in words], catch_exceptions=False).output
    assert f'10 of the 10 images of {target} are left out' in said and f'Use it: --arch {NET} --weights near' in said
    assert own_entry('near').facts['spec']['augment'] == 'heavy'
    assert 'near' in CliRunner().invoke(start, ['weights', '--arch', NET]).output
    env = os.environ | dict(HW4_STORE=str(tmp_path/'runs'), OMP_NUM_THREADS='1')
    run = ['run', 'q1-5', '--arch', NET, '--weights', 'near', '--portraits', str(target), '--epochs', '1', '--size', '40x32', '--zoom', '1', '--zoom', '1.2', '--device', 'cpu']
    done = subprocess.run([sys.executable, '-c', 'from hw4.cli import main; main()', *run], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "near" in done.stdout
