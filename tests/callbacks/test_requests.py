"""What is meant to end a run ends it from inside any of the callbacks."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import torch

from lightning_morse import AffineSubspace, DeepLinearMonitor, WeightRecorder
from tests.callback_models import Net, fit, monitor, seed_all, stub_analysis


class TrialPruned(Exception):
    """As in Optuna."""


def request(kind: str) -> type[BaseException]:
    if kind == "optuna":
        return pytest.importorskip("optuna").TrialPruned
    return {"stand-in": TrialPruned, "interrupt": KeyboardInterrupt}[kind]


def in_monitor(fails, tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    monkeypatch.setattr("lightning_morse.monitoring.exploring.half_widths", fails)
    return monitor()


def in_drawing(fails, tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    monkeypatch.setattr("lightning_morse.callbacks._figures.plot_basins", fails)
    return monitor()


def in_linear_monitor(fails, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_morse.deep_linear.linear_run.linear_stack", fails)
    return DeepLinearMonitor()


def in_recording(fails, tmp_path, monkeypatch):
    monkeypatch.setattr(AffineSubspace, "project", fails)
    p = sum(q.numel() for q in Net().parameters())
    plane = AffineSubspace(torch.zeros(p), torch.eye(p)[:, :2])
    return WeightRecorder(tmp_path / "runs", subspace=plane)


def in_writing(fails, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_morse.callbacks.weight_recorder.Run", fails)
    return WeightRecorder(tmp_path / "runs")


MET: list[None] = []  # a list that a loss holds would be a copy
PLACES = [in_monitor, in_drawing, in_linear_monitor, in_recording, in_writing]


@pytest.mark.parametrize("kind", ["stand-in", "optuna", "interrupt"])
@pytest.mark.parametrize("place", PLACES)
def test_a_request_to_end_the_run_passes_through(place, kind, tmp_path, monkeypatch, caplog):
    error = request(kind)
    MET.clear()

    def fails(*args, **options):
        MET.append(None)
        raise error

    callback = place(fails, tmp_path, monkeypatch)
    # Lightning turns an interrupt into an exit of its own.
    ended = (SystemExit, KeyboardInterrupt) if error is KeyboardInterrupt else error
    with pytest.raises(ended):
        fit(tmp_path, callback, max_epochs=1)
    assert MET
    assert not [r for r in caplog.records if r.name == "lightning_morse"]


@pytest.mark.parametrize("place", PLACES)
def test_a_failure_at_the_same_place_does_not(place, tmp_path, monkeypatch, caplog):
    def fails(*args, **options):
        raise ValueError("out of luck")

    _, runner = fit(tmp_path, place(fails, tmp_path, monkeypatch), max_epochs=1)
    assert runner.global_step == 6
    said = [r.getMessage() for r in caplog.records if r.name == "lightning_morse"]
    assert any("ValueError: out of luck" in line for line in said)


def ends(kind):
    """Asks to end the run."""
    if kind == "exit":
        sys.exit("diverged")
    raise request(kind)


class EndsWhereTheLossIsHigh(Net):
    """Which it is on the slice, and not in training."""

    kind = ""

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        if not self.training and (self.kind == "at once" or float(loss.detach()) > 2):
            ends("stand-in" if self.kind == "at once" else self.kind)
        return loss


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("kind", ["stand-in", "optuna", "exit"])
def test_a_step_that_ends_the_run_at_a_point_of_the_slice_ends_nothing(kind, tmp_path, caplog):
    watch = monitor(extent=3.0)
    EndsWhereTheLossIsHigh.kind = kind
    seed_all()
    bare, _ = fit(tmp_path / "a", module=EndsWhereTheLossIsHigh())
    seed_all()
    module, runner = fit(tmp_path / "b", watch, module=EndsWhereTheLossIsHigh())
    assert runner.global_step == 12
    assert module.seen == bare.seen
    assert all(map(torch.equal, module.state_dict().values(), bare.state_dict().values()))
    assert [row["morse/failed"] for row in watch.history] == [0.0, 0.0]
    assert "at some points of the slice the loss cannot be evaluated" in caplog.text


@pytest.mark.usefixtures("no_pictures")
def test_a_step_that_ends_the_run_wherever_it_is_evaluated_has_no_analysis(tmp_path, caplog):
    watch = monitor()
    EndsWhereTheLossIsHigh.kind = "at once"
    _, runner = fit(tmp_path, watch, module=EndsWhereTheLossIsHigh())
    assert runner.global_step == 12
    assert [row["morse/failed"] for row in watch.history] == [1.0, 1.0]
    assert "EndedByStepError: a step must not end the run" in caplog.text


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal")
def test_a_signal_handler_that_exits_ends_the_run_in_an_analysis_too(tmp_path):
    """As those by which clusters end a job do."""

    def loss_fn(module, batch):
        os.kill(os.getpid(), signal.SIGUSR1)
        return module.training_step(batch, 0)

    before = signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(17))
    try:
        with pytest.raises(SystemExit) as met:
            fit(tmp_path, monitor(loss_fn=loss_fn))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert met.value.code == 17
