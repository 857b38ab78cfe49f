"""The pattern for EarlyStopping in the docs, and what is known of the end of a run."""

import math
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, Timer

from lightning_morse import MorseMonitor
from lightning_morse.callbacks._progress import Progress
from lightning_morse.monitoring.budget import Budget
from tests.callback_models import Net, fit, loader, monitor, rng_state, stub_analysis, trainer


class Looks(Callback):
    """The epochs at whose end there was a value."""

    def __init__(self, key):
        self.key = key
        self.epochs = []

    def on_train_epoch_end(self, trainer, pl_module):
        if self.key in trainer.callback_metrics:
            self.epochs.append(trainer.current_epoch)


@pytest.mark.parametrize("validates", [True, False])
@pytest.mark.usefixtures("no_pictures")
def test_patience_counts_analyses(tmp_path, validates):
    stop = EarlyStopping("morse/morse_sets", min_delta=1e6, patience=1, strict=False)
    looks, watch = Looks("morse/morse_sets"), monitor(dim=1, n_samples=16, every_n_epochs=3)
    runner = trainer(tmp_path, watch, stop, looks, max_epochs=20)
    val = loader(8, shuffle=False) if validates else None
    runner.fit(Net(), loader(8), val)
    # The first value cannot be an improvement; the second exhausts the patience.
    assert looks.epochs == [2, 5]
    assert runner.current_epoch == 6
    assert [row["epoch"] for row in watch.history] == [2, 5]
    assert not any(row["morse/failed"] for row in watch.history)


# ------------------------------------------------------------------ the end of a run


def ahead(*callbacks, after=4, first=1.0, **options):
    """What is known of the rest of a run of 1 s per batch, 6 batches per epoch."""
    now = [0.0]
    budget = Budget(0.05, lambda: now[0], 2.0)
    progress = Progress(budget)
    given = {
        "max_epochs": 3,
        "max_steps": -1,
        "num_training_batches": 6,
        "accumulate_grad_batches": 1,
        "current_epoch": 0,
        "global_step": 0,
        "callbacks": list(callbacks),
    }
    runner = SimpleNamespace(**(given | options))
    budget.start()
    progress.begin(runner)
    for k in range(after):
        now[0] += 1 if k else first
        runner.global_step += 1
        runner.is_last_batch = k % 6 == 5
        runner.current_epoch = k // 6
        progress.has_stepped(runner, k % 6)
    return progress.ahead(runner)


def test_the_end_is_known_from_epochs_steps_and_time():
    assert ahead().seconds == pytest.approx(14)
    assert ahead(after=18).seconds == 0
    assert ahead(max_steps=9).seconds == pytest.approx(5)
    assert math.isinf(ahead(max_epochs=-1).seconds)
    assert math.isinf(ahead(num_training_batches=math.inf).seconds)
    timer = Timer(duration={"seconds": 8})
    timer.time_remaining = lambda stage=None: 6.5
    assert ahead(timer).seconds == pytest.approx(6.5)
    assert ahead(timer, max_epochs=-1).seconds == pytest.approx(6.5)
    endless = Timer()  # measures, and ends nothing
    assert ahead(endless).seconds == pytest.approx(14)


def test_a_slow_first_batch_says_nothing_of_the_others():
    """It may wait for processes to start or for a network to be compiled."""
    assert ahead(first=60.0).seconds == pytest.approx(14)
    assert ahead(after=1, first=60.0).seconds == pytest.approx(17 * 60)


def test_with_early_stopping_the_end_may_come_at_any_time():
    found = ahead(EarlyStopping("loss"))
    assert found.ends_by_surprise
    assert found.known == 0
    assert math.isinf(found.planned)
    assert not ahead(EarlyStopping("loss"), after=18).ends_by_surprise  # it has come


def test_a_default_run_is_analysed_to_its_end_and_stays_the_same(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    bare, _ = fit(tmp_path / "a", max_epochs=3)
    bare_state = rng_state()
    watch = MorseMonitor(grace=60.0)
    watched, _ = fit(tmp_path / "b", watch, max_epochs=3)
    assert rng_state() == bare_state
    assert bare.seen == watched.seen
    for name, value in bare.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name])
    assert watch.history[-1]["step"] == 17
    assert not watch.history[-1]["morse/failed"]
