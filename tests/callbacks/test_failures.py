"""Whatever fails inside an analysis, the run goes on unchanged."""

from __future__ import annotations

import logging
from importlib import import_module

import pytest
import torch
from pytorch_lightning.callbacks import Callback

import lightning_morse.analysis.pipeline
import lightning_morse.callbacks._account
import lightning_morse.callbacks._figures
import lightning_morse.monitoring.exploring
import lightning_morse.monitoring.one_analysis
import lightning_morse.monitoring.run_record
import lightning_morse.slices.loss_slice
from lightning_morse.distributed.errors import cause
from lightning_morse.monitoring.extent import half_widths
from lightning_morse.slices.directions import DirectionSource, Slice
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.steps import loss_from_steps
from tests.callback_models import Net, Outside, fit, monitor, one_answer, rng_state, stub_analysis


class Odd(Exception):
    """An exception that nobody expects."""


ERRORS = {
    "out_of_memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "memory": MemoryError("no more"),
    "cholesky": torch.linalg.LinAlgError("the leading minor of order 3 is not positive-definite"),
    "value": ValueError("the loss diverged"),
    "odd": Odd("no idea"),
}


# Known to losses by number: what a loss holds itself, it holds a copy of where it is analysed.
FAULTS: dict[int, Fault] = {}


class Fault(Callback):
    """Breaks one function after the first epoch; the last of several errors lasts."""

    def __init__(self, *errors: Exception, armed: bool = False, draws: bool = True) -> None:
        self.error, *self.later = errors
        self.armed = armed
        self.draws = draws
        self.met = self.calls = 0
        self.number = len(FAULTS)
        FAULTS[self.number] = self

    def on_train_epoch_end(self, trainer, pl_module):
        if self.armed and self.later:
            self.error = self.later.pop(0)
        self.armed = True

    def before(self, function):
        number = self.number

        def broken(*args, **options):
            fault = FAULTS[number]
            if fault.armed:
                fault.met += 1
                if fault.draws:
                    torch.rand(1)  # the generators must be restored too
                raise fault.error
            return function(*args, **options)

        return broken

    def after(self, function, calls=1):
        """Let the function do its work, possibly several times, then fail."""
        number = self.number

        def broken(*args, **options):
            fault = FAULTS[number]
            value = function(*args, **options)
            fault.calls += fault.armed
            return fault.before(lambda: value)() if fault.calls >= calls else value

        return broken


def break_stage(stage: str, fault: Fault, patch: pytest.MonkeyPatch) -> dict[str, object]:
    """Install the fault in a stage; return options for the monitor."""
    home = lightning_morse.monitoring.one_analysis
    exploring = lightning_morse.monitoring.exploring
    if stage == "users_loss":
        return {"loss_fn": fault.before(loss_from_steps)}
    if stage == "slice":
        patch.setattr(DirectionSource, "slice_at", fault.before(DirectionSource.slice_at))
    elif stage == "shadow":
        copy = lightning_morse.slices.loss_slice.shadow_copy
        patch.setattr("lightning_morse.slices.loss_slice.shadow_copy", fault.after(copy))
    elif stage == "point":
        patch.setattr(LossSlice, "_loss_at", fault.after(LossSlice._loss_at, calls=7))
    elif stage == "box":
        patch.setattr(exploring, "half_widths", fault.after(half_widths))
    elif stage == "analysis":
        patch.setattr(exploring, "analyze_turning", fault.after(one_answer))
    elif stage == "coverage":
        patch.setattr(Slice, "coverage", fault.before(Slice.coverage))
    elif stage == "readings":
        patch.setattr(home, "readings", fault.before(home.readings))
    return {}


STAGES = (
    "users_loss",
    "slice",
    "shadow",
    "point",
    "box",
    "analysis",
    "coverage",
    "readings",
)


def without_callback(folder, epochs):
    module, _ = fit(folder, max_epochs=epochs)
    return module, rng_state()


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The run without a callback."""
    return without_callback(tmp_path_factory.mktemp("bare"), 3)


@pytest.fixture(scope="module")
def long_bare(tmp_path_factory):
    """The same with an epoch for each error, one before them and one after them."""
    return without_callback(tmp_path_factory.mktemp("bare"), len(ERRORS) + 2)


def assert_same_run(module: Net, bare: tuple[Net, object]) -> None:
    assert module.seen == bare[0].seen
    for name, value in bare[0].state_dict().items():
        assert value.equal(module.state_dict()[name]), name
    assert rng_state() == bare[1]


@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_in_any_stage_ends_nothing(stage, long_bare, tmp_path, monkeypatch, caplog):
    """Whichever it is: one after the other in one run, and the last one twice."""
    stub_analysis(monkeypatch)
    fault = Fault(*ERRORS.values())
    watch = monitor(**break_stage(stage, fault, monkeypatch))
    n = len(ERRORS) + 1
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        module, runner = fit(tmp_path, watch, fault, max_epochs=1 + n)
    # A loss that cannot be evaluated is tried in other ways.
    assert fault.met > n if stage == "users_loss" else fault.met == n
    assert_same_run(module, long_bare)
    good, *bad = watch.history
    assert [row["morse/failed"] for row in watch.history] == [0] + [1] * n
    kept = set(good) - {"step", "epoch", "loss", "why", "morse/failed", "morse/overhead"}
    assert all(row[name] == good[name] for row in bad for name in kept)
    assert good["why"] == ""
    causes = [cause(error) for error in ERRORS.values()]
    assert [row["why"] for row in bad] == [*causes, causes[-1]]
    assert {row["loss"] for row in bad} == {None}
    assert runner.callback_metrics["morse/failed"] == 1
    said = [r.getMessage() for r in caplog.records if r.name == "lightning_morse"]
    expected = enumerate(causes, start=2)
    assert said == [f"epoch {k}: no analysis, training goes on ({why})" for k, why in expected]


@pytest.mark.parametrize("kind", ERRORS)
def test_a_loss_that_fails_midway(kind, bare, tmp_path, monkeypatch, caplog):
    """It has diverged at that point; lack of memory is no matter of the point."""
    stub_analysis(monkeypatch)
    fault = Fault(ERRORS[kind])
    watch = monitor(loss_fn=fault.after(loss_from_steps, calls=13))
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        module, _ = fit(tmp_path, watch, fault, max_epochs=3)
    assert_same_run(module, bare)
    failed = float("memory" in kind)
    # At the third analysis it fails at the weights already.
    assert [row["morse/failed"] for row in watch.history] == [0, failed, 1]
    said = [r.getMessage() for r in caplog.records if r.name == "lightning_morse"]
    assert len(said) <= 2
    assert all(cause(ERRORS[kind]) in line for line in said)


@pytest.mark.parametrize(
    "place",
    [
        "surrogates.brought_up_to_date",
        "conclusion.phase_portrait",
        "conclusion.reading_order",
        "conclusion.describe",
    ],
)
def test_a_fault_inside_the_numerics(place, bare, tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    monkeypatch.setattr(
        "lightning_morse.monitoring.exploring.analyze_turning",
        lightning_morse.analysis.turning.analyze_turning,
    )
    fault = Fault(ERRORS["cholesky"], armed=True)
    room, name = place.split(".")
    home = import_module(f"lightning_morse.analysis.{room}")
    monkeypatch.setattr(home, name, fault.before(getattr(home, name)))
    watch = monitor(n_samples=16, resolution=8, every_n_epochs=3)
    module, _ = fit(tmp_path, watch, max_epochs=3)
    assert fault.met == 1
    assert_same_run(module, bare)
    assert [row["morse/failed"] for row in watch.history] == [1]


def test_a_fault_while_weights_and_batches_are_kept(bare, tmp_path, monkeypatch, caplog):
    stub_analysis(monkeypatch)
    fault = Fault(ERRORS["memory"], armed=True, draws=False)
    kept, one = lightning_morse.monitoring.run_record, lightning_morse.monitoring.one_analysis
    for place, name in ((kept, "copied"), (kept, "parts_of_weights"), (one, "flat_parameters")):
        monkeypatch.setattr(place, name, fault.before(getattr(place, name)))
    watch = monitor()
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        module, _ = fit(tmp_path, watch, max_epochs=3)
    assert_same_run(module, bare)
    assert [row["morse/failed"] for row in watch.history] == [1, 1, 1]
    said = [r.getMessage() for r in caplog.records if r.name == "lightning_morse"]
    assert said == [
        "MorseMonitor: starting failed: MemoryError: no more",
        "MorseMonitor: keeping a probe batch failed: MemoryError: no more",
        "epoch 1: no analysis, training goes on (MemoryError: no more)",
    ]


@pytest.mark.parametrize("place", ["plot_basins", "log_report"])
def test_a_fault_in_the_pictures_is_no_failed_analysis(place, bare, tmp_path, monkeypatch, caplog):
    stub_analysis(monkeypatch)
    fault = Fault(ERRORS["odd"])
    homes = {
        "plot_basins": lightning_morse.callbacks._figures,
        "log_report": lightning_morse.callbacks._account,
    }
    home = homes[place]
    monkeypatch.setattr(home, place, fault.before(getattr(home, place)))
    watch = monitor()
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        module, _ = fit(tmp_path, watch, fault, max_epochs=3)
    assert_same_run(module, bare)
    assert fault.met == 2
    assert [row["morse/failed"] for row in watch.history] == [0, 0, 0]
    assert len([r for r in caplog.records if "failed: Odd: no idea" in r.getMessage()]) == 1


def test_different_causes_are_each_said_once(tmp_path, monkeypatch, caplog):
    stub_analysis(monkeypatch)
    met = Outside(epochs={})

    def loss_fn(module, batch):
        epoch = module.current_epoch + 1
        met.epochs[epoch] = True
        if epoch % 2:
            raise ValueError(f"diverged in epoch {epoch}")
        raise RuntimeError("nothing there")

    with caplog.at_level(logging.WARNING, "lightning_morse"):
        fit(tmp_path, monitor(loss_fn=loss_fn), max_epochs=5)
    assert list(met.epochs) == [1, 2, 3, 4, 5]
    assert [r.getMessage() for r in caplog.records if r.name == "lightning_morse"] == [
        "epoch 1: no analysis, training goes on (ValueError: diverged in epoch 1)",
        "epoch 2: no analysis, training goes on (RuntimeError: nothing there)",
    ]


@pytest.mark.parametrize("kind", ERRORS)
def test_on_error_raise(kind, tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    fault = Fault(ERRORS[kind])
    watch = monitor(loss_fn=fault.before(loss_from_steps), on_error="raise")
    with pytest.raises(type(ERRORS[kind])):
        fit(tmp_path, watch, fault, max_epochs=3)
    assert [row["morse/failed"] for row in watch.history] == [0, 1]


def test_on_error_raise_holds_for_the_record_too(tmp_path, monkeypatch):
    fault = Fault(ERRORS["memory"], armed=True)
    monkeypatch.setattr("lightning_morse.monitoring.run_record.copied", fault.before(None))
    with pytest.raises(MemoryError):
        fit(tmp_path, monitor(on_error="raise"))


def test_pruning_by_another_callback_is_none_of_ours(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    optuna = pytest.importorskip("optuna")

    class Prunes(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.callback_metrics["morse/attractors"] == 1:
                raise optuna.TrialPruned

    def objective(trial):
        fit(tmp_path, monitor(), Prunes())
        return 0.0

    study = optuna.create_study()
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state.name == "PRUNED"
