"""Values are there while they are news."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from tests.callback_models import fit, monitor, stub_analysis


class Looks(pl.Callback):
    """Keeps what is in ``callback_metrics`` at the end of each epoch and validation."""

    def __init__(self) -> None:
        self.at_start: set[str] = set()
        self.epochs: list[Any] = []
        self.validations: list[Any] = []

    def on_train_start(self, trainer, pl_module):
        self.at_start = {k for k in trainer.callback_metrics if k.startswith("morse/")}

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append(seen(trainer))

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.validations.append(seen(trainer))


def seen(trainer):
    value = trainer.callback_metrics.get("morse/mu")
    return None if value is None else round(float(value), 2)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    stub_analysis(monkeypatch)


def test_a_value_is_there_after_its_analysis_and_not_before_or_twice(tmp_path):
    looks = Looks()
    fit(tmp_path, monitor(every_n_epochs=3), looks, max_epochs=7)
    assert looks.at_start == set()
    expected = [None, None, 0.95, None, None, 0.95, None]
    assert looks.validations == expected
    assert looks.epochs == expected


def test_a_value_waits_for_a_validation_that_comes_later(tmp_path):
    looks = Looks()
    options = {"max_epochs": 4, "check_val_every_n_epoch": 2}
    fit(tmp_path, monitor(every_n_epochs=3), looks, **options)
    assert looks.validations == [None, 0.95]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("at_epoch_end", [True, False])
@pytest.mark.parametrize("every", [1, 5])
def test_early_stopping_counts_analyses_and_nothing_else(
    strict, at_epoch_end, every, tmp_path, caplog
):
    stop = EarlyStopping(
        "morse/mu", mode="max", patience=2, strict=strict, check_on_train_epoch_end=at_epoch_end
    )
    watch = monitor(every_n_epochs=every)
    _, runner = fit(tmp_path, watch, stop, max_epochs=16)
    # The first analysis is the best; two more of the same are two without improvement.
    assert runner.current_epoch == 3 * every
    assert len(watch.history) == 3
    assert ("strict=False" in caplog.text) == strict


def test_a_checkpoint_by_a_value_finds_its_key_from_the_start(tmp_path):
    saver = ModelCheckpoint(tmp_path, monitor="morse/mu", mode="max", filename="{epoch}")
    watch = monitor(every_n_epochs=3)
    fit(tmp_path, watch, saver, max_epochs=4, enable_checkpointing=True)
    assert float(saver.best_model_score) == pytest.approx(0.9515)
    assert saver.best_model_path.endswith("epoch=2.ckpt")


class Present(pl.Callback):
    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, *args):
        self.found.append("morse/mu" in trainer.callback_metrics)


def test_a_key_that_is_watched_from_the_second_fit_on_stays(tmp_path):
    """It was shown in the first, in which nobody would have missed it."""
    watch, present = monitor(every_n_epochs=1), Present()
    fit(tmp_path / "first", watch, max_epochs=2)
    saver = ModelCheckpoint(tmp_path, monitor="morse/mu", mode="max")
    fit(tmp_path / "second", watch, saver, present, max_epochs=2, enable_checkpointing=True)
    assert present.found
    assert all(present.found)


def test_before_the_first_analysis_a_watched_key_is_no_number(tmp_path):
    looks = Looks()
    saver = ModelCheckpoint(tmp_path, monitor="morse/mu", mode="max")
    fit(tmp_path, monitor(every_n_epochs=2), saver, looks, max_epochs=2, enable_checkpointing=True)
    assert looks.at_start == {"morse/mu"}
    assert math.isnan(looks.epochs[0])


class Ages(pl.Callback):
    def __init__(self):
        self.found = []

    def on_train_epoch_end(self, trainer, pl_module):
        age = trainer.callback_metrics.get("morse/age")
        self.found.append(None if age is None else float(age))


def test_age_counts_steps_since_the_analysis(tmp_path):
    ages = Ages()
    fit(tmp_path, monitor(every_n_epochs=2), ages, max_epochs=5)
    assert ages.found == [None, 0.0, 6.0, 0.0, 6.0]


def test_nothing_is_said_of_what_others_watch(tmp_path):
    stop = EarlyStopping("val_loss", strict=True)
    fit(tmp_path, monitor(), stop, max_epochs=1)
    assert stop.strict
    assert torch.isfinite(torch.tensor(stop.best_score))
