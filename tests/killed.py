"A run that is killed goes on and ends as if nothing had happened: what several tests ask of it."
import numpy as np
import pytest
from fastai.callback.core import Callback

from hw4.learn.device import Device
from hw4.study.records import records
from hw4.study.run import run

PLAIN = Device('cpu', 'float32', False, 1)


class StopAfter(Callback):
    "Stands for a kill after so many epochs of the run"
    order = 90  # after the checkpoint

    def __init__(self, n): self.n = n

    def after_epoch(self):
        if len(self.learn.checkpoint.rows) == self.n: raise KeyboardInterrupt


class EpochsTrained(Callback):
    "Counts the epochs that are trained; those that are walked through again are not"
    n = 0

    def before_train(self): self.n += 1


def ends_as_unbroken(spec, n, *, path, tmp_path, kept=None, device=PLAIN):
    "A run that is stopped after `n` epochs leaves no record, and ends like the unbroken one when it goes on, from `kept` epochs (None: all `n`)"
    shared = dict(path=path, device=device)
    whole = run(spec, store=tmp_path/'whole', watch=False, **shared)
    with pytest.raises(KeyboardInterrupt): run(spec, store=tmp_path/'broken', watch=[StopAfter(n)], **shared)
    assert records(tmp_path/'broken') == []
    again = EpochsTrained()
    resumed = run(spec, store=tmp_path/'broken', watch=[again], **shared)
    assert again.n == spec.freeze_epochs + spec.epochs - (n if kept is None else kept)
    np.testing.assert_array_equal(np.stack(resumed.predictions.logits), np.stack(whole.predictions.logits))
    assert resumed.history.drop(columns='time', errors='ignore').equals(whole.history.drop(columns='time', errors='ignore'))
