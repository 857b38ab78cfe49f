"""What the callbacks share in dealing with Lightning: both packages, periods, learning rates."""

from __future__ import annotations

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import lightning_morse as lm
from lightning_morse.callbacks._lightning import (
    Period,
    first_learning_rate,
    learning_rate,
    logging_step,
    publish,
)


def at(epoch=0, step=0, last=False, batches=10, accumulate=1):
    """A trainer at a moment of a run."""
    return SimpleNamespace(
        current_epoch=epoch,
        global_step=step,
        is_last_batch=last,
        num_training_batches=batches,
        accumulate_grad_batches=accumulate,
    )


def test_every_callback_is_one_of_both_packages(tmp_path):
    other = pytest.importorskip("lightning.pytorch")
    for callback in (lm.MorseMonitor(), lm.DeepLinearMonitor(), lm.WeightRecorder(tmp_path)):
        assert isinstance(callback, pl.Callback)
        assert isinstance(callback, other.Callback)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("used", "unused"),
    [("pytorch_lightning", "lightning"), ("lightning.pytorch", "pytorch_lightning")],
)
def test_the_package_that_nobody_uses_is_not_imported(used, unused):
    """A third of a second for each; one that comes later is met when a callback is made."""
    pytest.importorskip("lightning.pytorch")
    program = (
        f"import sys, {used} as one; import lightning_morse as lm; first = lm.MorseMonitor();"
        f"assert {unused!r} not in sys.modules; assert isinstance(first, one.Callback);"
        "import lightning.pytorch, pytorch_lightning; second = lm.MorseMonitor();"
        "assert isinstance(second, lightning.pytorch.Callback);"
        "assert isinstance(second, pytorch_lightning.Callback);"
        "assert first.state_key == second.state_key"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.slow
def test_a_callback_imported_before_any_trainer_is_one_of_its_package():
    pytest.importorskip("lightning.pytorch")
    program = (
        "from lightning_morse import MorseMonitor; import lightning.pytorch as other;"
        "other.Trainer(callbacks=MorseMonitor(), logger=False, enable_checkpointing=False)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_both_periods_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other, got 1 and 5"):
        Period.of(1, 5)


@pytest.mark.parametrize(("epochs", "steps"), [(0, None), (None, 0), (1.5, None), (None, True)])
def test_periods_are_positive_integers(epochs, steps):
    with pytest.raises(ValueError, match=r"every_n_(epochs|steps) must be an integer of at least"):
        Period.of(epochs, steps)


def test_a_period_of_steps_is_over_when_they_have_been_taken():
    period = Period.of(None, 4)
    assert not period.is_over(at(step=9), last_step=6)
    assert period.is_over(at(step=10), last_step=6)
    assert period.is_over(at(step=11), last_step=6)  # two optimizers: 10 is skipped
    assert not period.ends_with_epoch(at(epoch=3))


def test_a_period_of_epochs_is_over_with_the_last_batch():
    period = Period.of(2, None)
    assert period.is_over(at(epoch=1, step=20, last=True), last_step=0)
    assert not period.is_over(at(epoch=1, step=19), last_step=0)
    assert not period.is_over(at(epoch=0, step=10, last=True), last_step=0)
    assert not period.is_over(at(epoch=1, step=20, last=True), last_step=20)  # acted already
    assert period.ends_with_epoch(at(epoch=1))
    assert not period.ends_with_epoch(at(epoch=2))


def test_the_length_of_a_period_in_steps():
    assert Period.of(None, 7).n_steps(at()) == 7
    assert Period.of(3, None).n_steps(at(batches=10, accumulate=4)) == 7.5
    assert math.isinf(Period.of(1, None).n_steps(at(batches=math.inf)))


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr)


def test_one_rate_for_all_weights():
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    assert learning_rate([sgd([a], lr=0.1), sgd([b], lr=0.1)]) == 0.1
    assert math.isnan(learning_rate([sgd([a], lr=0.1), sgd([b], lr=0.2)]))
    assert math.isnan(learning_rate([sgd([{"params": [a]}, {"params": [b], "lr": 3}], lr=0.1)]))
    assert math.isnan(learning_rate([]))


def test_a_rate_that_is_a_tensor_is_read_unseen():
    optimizer = sgd([nn.Parameter(torch.zeros(1))], lr=torch.tensor(0.5))

    class Counts(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.n += 1
            return function(*args, **(kwargs or {}))

    with Counts() as counts:
        assert learning_rate([optimizer]) == 0.5
        assert counts.n == 0
        assert float(optimizer.param_groups[0]["lr"]) == 0.5
        assert counts.n == 1


def test_the_first_of_several_rates():
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    assert first_learning_rate([sgd([a], lr=0.1), sgd([b], lr=0.2)]) == 0.1
    assert first_learning_rate([sgd([a], lr=torch.tensor(0.5))]) == 0.5


def test_scalars_are_published_as_tensors():
    trainer = SimpleNamespace(callback_metrics={})
    publish(trainer, {"morse/mu": 0.5})
    assert trainer.callback_metrics == {"morse/mu": torch.tensor(0.5)}


def test_a_lightning_that_does_not_tell_its_step_is_refused():
    with pytest.raises(RuntimeError, match="Install one of these versions"):
        logging_step(SimpleNamespace())
