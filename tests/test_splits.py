"Leave-one-drive-out: what is measured was never trained on, and a run's record says so"
import pytest

from hw4.data.camvid import scenes
from hw4.data.splits import groups_of, leave_out, split_for
from hw4.data.synth import scenes_twin
from hw4.learn.device import Device
from hw4.study.build import open_layout
from hw4.study.run import evaluate, run
from hw4.study.spec import Spec


@pytest.fixture(scope='module')
def roads(tmp_path_factory): return scenes_twin(tmp_path_factory.mktemp('roads')/'CamVid', n_train=11, n_val=2, size=(48, 64))


def test_groups_are_disjoint_and_whole(roads):
    "Every training image is left out exactly once, no other image ever, and the official splits stay"
    layout = scenes(roads)
    seen = []
    for drive, n in groups_of(layout, 'drive').items():
        apart = leave_out(layout, drive)
        out, kept = apart.of(f'drive:{drive}').items, apart.of('train').items
        assert len(out) == n and set(out.drive) == {drive} and drive not in set(kept.drive)
        assert apart.of('val').items.file.tolist() == layout.of('val').items.file.tolist()
        seen += out.file.tolist()
    assert sorted(seen) == sorted(layout.of('train').items.file)


def test_only_training_images_are_left_out(roads):
    "The validation clip is part of drive 0016E5, and is not measured under its name"
    apart = split_for(scenes(roads), 'drive:0016E5')
    assert set(apart.of('val').items.drive) == {'0016E5'} and not any(o.startswith('val/') for o in apart.of('drive:0016E5').items.file)


def test_a_run_on_a_drive_of_its_own(roads, tmp_path):
    "Specs that measure different drives are different runs; what was measured is the drive, and only that"
    spec = Spec('segment', 'scenes', 'resnet18', (48, 64), regime='scratch', weights=None, bs=4, stride=32, epochs=1, valid='drive:0006R0')
    record = run(spec, path=roads, store=tmp_path, device=Device('cpu', 'float32', False, 1), watch=False)
    left = open_layout(spec, roads).of('drive:0006R0').items
    assert sorted(record.predictions.file) == sorted(left.file)
    trained, measured = (set(record.fingerprint[o]['files']) for o in ('train', 'drive:0006R0'))
    assert not trained & measured and len(trained | measured) == 11
    assert run(spec, path=scenes(roads), store=tmp_path, device=Device('cpu', 'float32', False, 1), watch=False).run_id == record.run_id  # what was read already is divided too
    assert spec.digest != Spec(**spec.to_dict() | dict(valid='drive:0001TP')).digest != Spec(**spec.to_dict() | dict(valid='val')).digest
    assert len(evaluate(record, roads)) == 2                                    # the folder's own validation images, as they are
    with pytest.raises(ValueError, match="no drive '0005VD'"): open_layout(Spec(**spec.to_dict() | dict(valid='drive:0005VD')), roads)
