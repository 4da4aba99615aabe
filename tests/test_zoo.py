"The zoo's nets in our study: sizes, weights, gradients, statistics, records"
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.vision.learner import unet_learner
from torchvision.models import resnet18

from hw4.data.camvid import camvid_dls
from hw4.data.synth import scenes_twin
from hw4.learn.backbones import backbone
from hw4.learn.device import Device
from hw4.learn.losses import SegCrossEntropy
from hw4.learn.metrics import seg_metrics
from hw4.learn.transfer import FROZEN, REGIMES, group_params
from hw4.learn.weights import WeightsError
from hw4.learn.zoo import NETS, Zoo, zoo_learner, zoo_net
from hw4.study.build import build_dls, open_layout
from hw4.study.find import find_record
from hw4.study.records import load_model, row
from hw4.study.run import evaluate, run
from hw4.study.spec import Spec, title
from hw4.study.tables import _row

ARCH = 'test_efficientnet'
LITE = 'tf_efficientnet_lite0'
PLAIN = Device('cpu', 'float32', False, 1)
N = 4
ODD = [(h, 131 - h + i % 2) for i, h in enumerate(range(25, 105, 4))]


def zoo(net, arch=ARCH, seed=0):
    torch.manual_seed(seed)
    return Zoo(backbone(arch, None), N, net=net).eval()


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp('weights') / 'small.pth'
    torch.save(backbone(ARCH, None).body.state_dict(), file)
    return file


@pytest.fixture(scope='module')
def roads(tmp_path_factory):
    return scenes_twin(tmp_path_factory.mktemp('roads'), n_train=4, n_val=2)


def dls():
    torch.manual_seed(0)
    batch = list(zip(torch.rand(8, 3, 40, 48), torch.randint(0, N + 1, (8, 40, 48))))
    o = DataLoaders(DataLoader(batch, bs=4), DataLoader(batch, bs=4))
    o.vocab = [f'class {i}' for i in range(N)]
    return o


def quiet_fit(learn, n=1, lr=1e-2):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, lr)


class Reached(Callback):
    def before_fit(self): self.ids = set()
    def after_backward(self): self.ids |= {id(o) for o in self.model.parameters() if o.grad is not None and o.grad.abs().sum() > 0}


@pytest.mark.parametrize('net', NETS)
def test_output_size_is_input_size(net):
    model = zoo(net)
    assert len(ODD) == 20 and any(h % 2 and w % 2 for h, w in ODD)
    with torch.no_grad():
        for size in [*ODD, (1, 1), (64, 96)]: assert model(torch.rand(1, 3, *size)).shape == (1, N, *size)


@pytest.mark.parametrize('net', NETS)
def test_an_image_that_fits_gets_what_the_library_says(net):
    model, x = zoo(net), torch.rand(2, 3, 64, 96)
    theirs = zoo_net(net, ARCH, N).eval()
    theirs.encoder.load_state_dict(model.body.state_dict())
    theirs.decoder.load_state_dict(model.head[0].state_dict())
    theirs.segmentation_head.load_state_dict(model.head[1].state_dict())
    with torch.no_grad(): assert torch.allclose(model(x), theirs(model.norm(x)), atol=1e-5)


@pytest.mark.parametrize('arch', ['resnet18', 'mobilenetv3_small_050', 'convnext_atto', 'vgg16_bn'])
@pytest.mark.slow
def test_other_encoders_fit_with_every_number(arch):
    bone = backbone(arch, None)
    model = Zoo(bone, N, net='unet')
    own = {tuple(v.shape): [] for v in bone.body.state_dict().values()}
    for v in bone.body.state_dict().values(): own[tuple(v.shape)].append(v)
    for v in model.body.state_dict().values(): assert any(torch.equal(v, o) for o in own[tuple(v.shape)])
    with torch.no_grad(): assert model.eval()(torch.rand(1, 3, 45, 61)).shape == (1, N, 45, 61)


def test_imagenet_weights_without_a_network(monkeypatch):
    "EfficientNet-Lite0's own numbers end up in the encoder, and nothing is fetched"
    monkeypatch.setattr('socket.socket.connect', lambda *_: pytest.fail('went to the network'))
    model = zoo_learner(dls(), 'unet', LITE, device=PLAIN).model
    bone = backbone(LITE)
    assert model.weights == bone.weights and model.weights.sha256 and torch.equal(model.norm.mean.flatten(), torch.tensor(bone.mean))
    theirs = bone.body.state_dict()
    for k, v in model.body.model.state_dict().items(): assert torch.equal(v, theirs[k])


def test_weights_that_cannot_be_had_are_an_error(tmp_path):
    with pytest.raises(WeightsError, match='no such file'): zoo_learner(dls(), 'unet', ARCH, weights=tmp_path / 'none.pth')
    with pytest.raises(ValueError, match='needs pretrained weights'): zoo_learner(dls(), 'unet', ARCH, weights=None)


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr('hw4.learn.zoo.find_spec', lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'hw4\[zoo\]'"): zoo('unet')


def test_the_library_is_not_imported_before_it_is_needed():
    import subprocess
    code = 'import sys, hw4.study.run; print([o for o in sys.modules if o.startswith("segmentation")])'
    ran = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert ran.stdout.strip() == '[]', ran.stderr[-1000:]


@pytest.mark.parametrize('net', NETS)
@pytest.mark.parametrize('regime', list(REGIMES))
def test_gradients_reach_exactly_what_is_not_frozen(weights, net, regime):
    learn = zoo_learner(dls(), net, ARCH, regime=regime, weights=None if regime == 'scratch' else weights, device=PLAIN, cbs=Reached())
    quiet_fit(learn)
    for i, group in enumerate(group_params(learn.model)):
        free = i >= FROZEN[regime]
        assert group and all(o.requires_grad == free for o in group)
        reached = [id(o) in learn.reached.ids for o in group]
        assert any(reached) == free and (free or not any(reached))
        assert not free or sum(reached) > .8 * len(group)  # the library's decoders leave the deepest stages of some encoders out


@pytest.mark.parametrize('net', ['unet', 'deeplabv3+'])
@pytest.mark.parametrize('regime, bn_stats, body_moves', [('feature_extract', 'default', False), ('feature_extract', 'batch', False),
                                                          ('fine_tune', 'default', False), ('fine_tune', 'batch', True),
                                                          ('scratch', 'default', True)])
def test_statistics_of_the_body_move_only_where_they_may_and_those_of_the_decoder_always(weights, net, regime, bn_stats, body_moves):
    learn = zoo_learner(dls(), net, ARCH, regime=regime, weights=None if regime == 'scratch' else weights, device=PLAIN, bn_stats=bn_stats)
    before = {k: v.clone() for k, v in learn.model.named_buffers()}
    quiet_fit(learn)
    moved = [k for k, v in learn.model.named_buffers() if not torch.equal(v, before[k])]
    assert any(k.startswith('body.') for k in moved) == body_moves
    assert any(k.startswith('head.') for k in moved)


SPEC = Spec('segment', 'scenes', ARCH, (40, 64), regime='scratch', weights=None, epochs=1, bs=2, net='unet', lr=.01, precision='float32')


@pytest.mark.parametrize('net', NETS)
def test_a_zoo_net_is_run_recorded_and_read_back(roads, tmp_path, net):
    spec = replace(SPEC, net=net)
    record = run(spec, path=roads, store=tmp_path, device=PLAIN, watch=False)
    assert record.run_id.startswith(f'{net}-{ARCH}-scratch') and find_record(record.run_id, tmp_path).spec == spec
    assert evaluate(record, roads, device=PLAIN).preds.equals(record.predictions.preds)
    learn = record.learner(build_dls(spec, open_layout(spec, roads), PLAIN), PLAIN)
    stored = load_model(record).state_dict()
    assert all(torch.equal(v, stored[k]) for k, v in learn.model.state_dict().items())
    assert title(spec).startswith(NETS[net][1]) and NETS[net][1] in repr(record) and _row('a', record)['net'] == f'{NETS[net][1]} {ARCH}'
    assert row(record)['arch'] == f'{net} {ARCH}'
    assert json.loads(json.dumps(spec.to_dict()))['net'] == net


def test_a_frozen_encoder_is_not_stored_but_found_again(roads, tmp_path, weights):
    spec = replace(SPEC, regime='feature_extract', weights=str(weights))
    record = run(spec, path=roads, store=tmp_path, device=PLAIN, watch=False)
    from safetensors.torch import load_file
    assert not any(k.startswith('body.') for k in load_file(record.path / 'model.safetensors'))
    assert evaluate(record, roads, device=PLAIN).preds.equals(record.predictions.preds)
    body = torch.load(weights, weights_only=True)
    assert torch.equal(record.model().body.model.conv_stem.weight, body['conv_stem.weight'])


def test_an_fcn_with_all_its_options_is_read_back(roads, tmp_path):
    spec = replace(SPEC, net='fcn', stride=8, upsampling='learned', scaled=True)
    record = run(spec, path=roads, store=tmp_path, device=PLAIN, watch=False)
    model = record.model()
    assert model.upsampling == 'learned' and model.scales[8] == 1e-4 and 'up.8.conv.weight' in model.state_dict()
    assert evaluate(record, roads, device=PLAIN).preds.equals(record.predictions.preds)


@pytest.mark.slow
def test_fastais_own_unet_learns_from_the_same_dls(roads):
    dls = camvid_dls(roads, size=(48, 64), bs=2, device='cpu')
    learn = unet_learner(dls, resnet18, pretrained=False, n_out=11, loss_func=SegCrossEntropy(), metrics=seg_metrics(dls.vocab))
    quiet_fit(learn, lr=1e-3)
    with learn.no_bar(): preds, targs = learn.get_preds()
    assert preds.shape == (2, 11, 48, 64) and np.isfinite(learn.final_record[1])
