"Backbones against what they were made from: the weights package, torchvision's own forward pass, and the errors."
import copy
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn
from torchvision import models

from hw4.learn.backbones import VGGMaps, backbone, blocks_of, build_body, normalisation
from hw4.learn.weights import PACKAGES, Published, WeightsError, fetch, file_sha256, lite_to_timm, packaged, published, read_state, weights_here

LITE = 'tf_efficientnet_lite0'


@pytest.fixture(scope='module')
def lite_state():
    return read_state(packaged(LITE)[0].file)


def photo(name, size=224):
    "A photograph that comes with scikit-learn, as (1, 3, size, size) from 0 to 1"
    image = Image.fromarray(load_sample_image(name))
    w, h = image.size
    image = image.crop(((w - h) // 2, 0, (w + h) // 2, h)).resize((size, size), Image.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def original_lite(state, x, repeats):
    "EfficientNet-Lite written from the paper's table, on the packages' own names: convolutions padded as TensorFlow does"
    def conv(x, name, stride=1):
        w = state[f'{name}.weight']
        pad = [max((-(-n // stride) - 1) * stride + w.shape[-1] - n, 0) for n in x.shape[-2:]]
        x = F.pad(x, (pad[1] // 2, pad[1] - pad[1] // 2, pad[0] // 2, pad[0] - pad[0] // 2))
        return F.conv2d(x, w, stride=stride, groups=x.shape[1] // w.shape[1])

    def bn(x, name):
        return F.batch_norm(x, *[state[f'{name}.{o}'] for o in ('running_mean', 'running_var', 'weight', 'bias')], eps=1e-3)

    x, i = F.relu6(bn(conv(x, '_conv_stem', 2), '_bn0')), 0
    for n, stride in zip(repeats, (1, 2, 2, 2, 1, 2, 1)):
        for j in range(n):
            name, y = f'_blocks.{i}.', x
            if f'{name}_expand_conv.weight' in state: y = F.relu6(bn(conv(y, f'{name}_expand_conv'), f'{name}_bn0'))
            y = F.relu6(bn(conv(y, f'{name}_depthwise_conv', 1 if j else stride), f'{name}_bn1'))
            y = bn(conv(y, f'{name}_project_conv'), f'{name}_bn2')
            x, i = x + y if j else y, i + 1
    x = F.relu6(bn(conv(x, '_conv_head'), '_bn1')).mean((2, 3))
    return F.linear(x, state['_fc.weight'], state['_fc.bias'])


def test_lite0_package_keys_are_all_used(lite_state):
    body, _ = build_body(LITE, None)
    blocks = [f'blocks.{i}.{j}' for i, stage in enumerate(body.blocks) for j in range(len(stage))]
    renamed = lite_to_timm(lite_state, blocks)
    assert len(renamed) == len(lite_state) == 296
    assert set(renamed) - set(body.state_dict()) == {'classifier.weight', 'classifier.bias'}
    assert set(body.state_dict()) <= set(renamed)


def test_lite0_gives_the_predictions_of_the_original(lite_state):
    bb = backbone(LITE)
    assert bb.weights.sha256 == '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db'
    assert bb.mean == (127 / 255,) * 3 and bb.std == (128 / 255,) * 3
    for name, wanted in [('flower.jpg', {985}), ('china.jpg', {698, 663, 832})]:  # daisy; palace, monastery, stupa
        x = (photo(name) * 255 - 127) / 128
        with torch.no_grad():
            ours = F.linear(bb.body.eval()(x), lite_state['_fc.weight'], lite_state['_fc.bias'])
            theirs = original_lite(lite_state, x, (1, 2, 2, 3, 3, 4, 1))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert int(ours.argmax()) in wanted


@pytest.mark.parametrize('arch, n, size', [('resnet18', 512, 64), ('convnext_atto', 320, 64), ('vit_tiny_patch16_224', 192, 224),
                                           ('mobilenetv3_small_100', 1024, 64), (LITE, 1280, 64), ('mobilenet_v2', 1280, 64),
                                           ('shufflenet_v2_x0_5', 1024, 64)])
def test_features_and_blocks(arch, n, size):
    bb = backbone(arch, None)
    with torch.no_grad(): features = bb.body.eval()(torch.rand(2, 3, size, size))
    assert features.shape == (2, bb.n_features) == (2, n) and bb.weights is None
    told = [id(p) for o in bb.blocks for p in o.parameters()]
    assert len(told) == len(set(told)) and set(told) == {id(p) for p in bb.body.parameters()}


@pytest.mark.parametrize('arch', ['resnet18', 'convnext_atto', 'mobilenetv3_small_100', 'densenet121', 'regnety_002', LITE])
def test_maps_have_their_strides_and_no_dead_parameters(arch):
    bb = backbone(arch, None, maps=True)
    maps = bb.body(torch.rand(2, 3, 64, 96))
    assert [tuple(o.shape) for o in maps] == [(2, c, 64 // s, 96 // s) for c, s in zip(bb.channels, (8, 16, 32))]
    sum(o.square().mean() for o in maps).backward()
    assert [n for n, p in bb.body.named_parameters() if p.grad is None] == []
    assert {id(p) for o in bb.blocks for p in o.parameters()} == {id(p) for p in bb.body.parameters()}


@pytest.mark.parametrize('arch, strides', [('vit_tiny_patch16_224', r'\[16\]'), ('alexnet', r'\[\]')])
def test_a_net_without_such_maps_says_so(arch, strides):
    with pytest.raises(ValueError, match=f'strides {strides}, expected 8, 16 and 32'): backbone(arch, None, maps=True)


def test_published_weights_load_whole_into_a_net_with_maps(lite_state):
    body = backbone(LITE, maps=True).body
    torch.testing.assert_close(body.net.blocks[6][0].conv_dw.weight, lite_state['_blocks.15._depthwise_conv.weight'])
    with torch.no_grad(): deepest = body.eval()(torch.ones(1, 3, 64, 64))[-1]
    full = backbone(LITE).body.eval()
    with torch.no_grad(): maps = full.forward_intermediates(torch.ones(1, 3, 64, 64), intermediates_only=True)
    torch.testing.assert_close(maps[-1], deepest)


def narrow_vgg(width=8):
    "A VGG11 of the same shape, a few channels wide"
    w, drop = width, [nn.ReLU(), nn.Dropout()]
    net = models.vgg.VGG(models.vgg.make_layers([w, 'M', w, 'M', w, w, 'M', w, w, 'M', w, w, 'M']), init_weights=False)
    net.classifier = nn.Sequential(nn.Linear(w * 49, 32), *drop, nn.Linear(32, 32), *copy.deepcopy(drop), nn.Linear(32, 5))
    return net.eval()


def test_vgg_maps_hold_the_classifier_that_was_pretrained():
    net, x = narrow_vgg(), torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        fc7 = net.classifier[:6](net.features(x).flatten(1))  # torchvision's own way, at the size it was trained for
        maps = VGGMaps(net).eval()
        p3, p4, p5 = maps(x)
    torch.testing.assert_close(p5[0, :, 3, 3], fc7[0], rtol=1e-4, atol=1e-5)
    assert [o.shape[-1] for o in (p3, p4, p5)] == [28, 14, 7]
    n = sum(p.numel() for p in net.features.parameters()) + sum(p.numel() for p in net.classifier[:6].parameters())
    assert sum(p.numel() for o in blocks_of(maps) for p in o.parameters()) == n == sum(p.numel() for p in maps.parameters())


@pytest.mark.parametrize('h, w', [(45, 60), (180, 240), (33, 65), (32, 64)])
def test_vgg_maps_cover_an_image_of_any_size(h, w):
    maps = VGGMaps(narrow_vgg())(torch.zeros(1, 3, h, w))
    assert [tuple(o.shape[-2:]) for o in maps] == [(-(-h // s), -(-w // s)) for s in (8, 16, 32)]


def test_weights_file_in_each_form(tmp_path):
    torch.manual_seed(1)
    net = backbone('resnet18', None).body.eval()
    state, x = net.state_dict(), torch.rand(1, 3, 64, 64)
    whole = state | {'fc.weight': torch.zeros(7, 512), 'fc.bias': torch.zeros(7)}  # with a classifier of any number of classes
    save_file(state, tmp_path / 'a.safetensors')
    torch.save(whole, tmp_path / 'b.pth')
    torch.save({'model': {f'module.{k}': v for k, v in whole.items()}, 'opt': {}}, tmp_path / 'c.pt')
    for name in ('a.safetensors', 'b.pth', 'c.pt'):
        bb = backbone('resnet18', tmp_path / name)
        torch.testing.assert_close(bb.body.eval()(x), net(x))
        assert bb.weights.name == Path(name).stem and bb.weights.sha256 == file_sha256(tmp_path / name)
        assert (bb.mean, bb.std) == normalisation('resnet18') == (bb.weights.mean, bb.weights.std)
        assert 'state_dict' not in bb.body.pretrained_cfg
    less = {k: v for k, v in state.items() if k != 'conv1.weight'}
    for wrong in (dict(state, extra=torch.zeros(1)), less, {'conv1.weight': torch.zeros(3)}):
        torch.save(wrong, tmp_path / 'wrong.pth')
        with pytest.raises(WeightsError, match='does not fit resnet18'): backbone('resnet18', tmp_path / 'wrong.pth')


@pytest.mark.parametrize('arch', ['resnet18', 'vit_tiny_patch16_224', 'alexnet', 'test_efficientnet'])
def test_weights_of_another_net_are_refused(arch):
    with pytest.raises(WeightsError, match=f'does not fit {arch}'): backbone(arch, packaged(LITE)[0].file)


def test_a_file_is_never_run(tmp_path):
    torch.save({'net': nn.Linear(2, 2)}, tmp_path / 'pickled.pth')
    with pytest.raises(WeightsError, match='not a readable weights file'): backbone('resnet18', tmp_path / 'pickled.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(WeightsError, match='dictionary of tensors'): backbone('resnet18', tmp_path / 'list.pth')


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    "No cache, and an address that nobody has"
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr('hw4.learn.weights.ENDPOINT', 'https://hub.invalid')
    monkeypatch.setattr('hw4.learn.weights.try_to_load_from_cache', lambda *_: None)
    monkeypatch.setattr('hw4.learn.weights.urlopen', lambda *_, **__: (_ for _ in ()).throw(OSError('Name or service not known')))
    return tmp_path / 'hub' / 'checkpoints'


@pytest.mark.parametrize('arch, file, url', [
    ('alexnet', 'alexnet-owt-7be5be79.pth', 'https://download.pytorch.org/models/alexnet-owt-7be5be79.pth'),
    ('resnet18', 'resnet18.a1_in1k.safetensors', 'https://hub.invalid/timm/resnet18.a1_in1k/resolve/main/model.safetensors')])
def test_weights_that_cannot_be_had_say_what_can(nowhere, arch, file, url):
    start = time.perf_counter()
    with pytest.raises(WeightsError) as error: backbone(arch)
    assert time.perf_counter() - start < 5
    text = str(error.value)
    for part in (f"'imagenet' for '{arch}'", f'looked for: {nowhere / file} (not there)', f'tried: {url}: Name or service not known',
                 "'tf_efficientnet_lite0'", f'download {url}', f'put it at {nowhere / file}', 'weights=PATH', "regime='scratch'",
                 '--arch tf_efficientnet_lite0', '--weights FILE', 'q1-3'):
        assert part in text, part


def test_a_net_that_nobody_publishes_says_so(nowhere):
    with pytest.raises(WeightsError, match='Nobody publishes any'): backbone('darknet17')


def test_a_file_put_into_the_cache_by_hand_is_found(nowhere):
    nowhere.mkdir(parents=True)
    state = backbone('resnet18', None).body.state_dict()
    save_file(state | {'fc.weight': torch.zeros(1000, 512), 'fc.bias': torch.zeros(1000)}, nowhere / 'resnet18.a1_in1k.safetensors')
    assert 'resnet18.a1_in1k' in weights_here()
    bb = backbone('resnet18')
    assert bb.weights.name == 'imagenet' and 'timm/resnet18.a1_in1k' in bb.weights.source
    torch.testing.assert_close(bb.body.conv1.weight, state['conv1.weight'])


def test_only_nets_that_can_be_built_are_offered(nowhere, tmp_path, monkeypatch):
    "Of torchvision's files those of nets that torchvision builds for us: ResNet's are read by nobody, GoogLeNet and MNASNet are no backbones"
    nowhere.mkdir(parents=True)
    for arch in ('alexnet', 'resnet18', 'googlenet', 'squeezenet1_0', 'mnasnet1_0'):
        (nowhere / models.get_model_weights(arch).DEFAULT.url.split('/')[-1]).touch()
    monkeypatch.setattr('hw4.learn.weights.HF_HUB_CACHE', tmp_path / 'hf')
    (tmp_path / 'hf' / 'models--timm--resnet18.of_a_later_timm').mkdir(parents=True)
    assert [o for o in weights_here() if o not in PACKAGES] == ['alexnet']
    for arch in ('googlenet', 'mnasnet1_0'):
        with pytest.raises(ValueError, match=f"no net is called '{arch}'"): backbone(arch, None)


def test_a_damaged_cache_is_an_error_and_not_a_net(nowhere):
    nowhere.mkdir(parents=True)
    torch.save(backbone('alexnet', None).body.features.state_dict(), nowhere / 'alexnet-owt-7be5be79.pth')
    with pytest.raises(WeightsError, match='is damaged.*expected 7be5be79; delete it'): backbone('alexnet')


def test_a_download_is_checked(tmp_path):
    (tmp_path / 'net-00000000.pth').write_bytes(b'other bytes')
    entry = Published(tmp_path / 'cache' / 'net-00000000.pth', (tmp_path / 'net-00000000.pth').as_uri(), 'a test')
    with pytest.raises(RuntimeError, match='invalid hash'): fetch(entry)
    assert not entry.file.exists()


def test_a_server_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr('hw4.learn.weights.PATIENCE', .3)
    with socket.socket() as silent:
        silent.bind(('127.0.0.1', 0))
        silent.listen()
        start, port = time.perf_counter(), silent.getsockname()[1]
        with pytest.raises(OSError): fetch(Published(tmp_path / 'net.pth', f'http://127.0.0.1:{port}/net.pth', 'a test', 'some/repo'))
    assert time.perf_counter() - start < 2


def test_building_a_net_takes_one_number_from_the_global_stream():
    after = []
    for weights in ('imagenet', None):
        torch.manual_seed(5)
        backbone(LITE, weights)
        after.append(torch.rand(1))
    assert torch.equal(*after)
    torch.manual_seed(5)
    first = backbone('resnet18', None).body.conv1.weight
    torch.manual_seed(5)
    assert torch.equal(first, backbone('resnet18', None).body.conv1.weight)


def test_published_entries_are_well_formed():
    for arch in ('alexnet', 'vgg16', 'resnet18', 'convnext_atto', LITE):
        for o in published(arch):
            assert o.url.startswith('https://') or o.source.startswith('package')
    assert published(LITE)[0].source.startswith('package')
