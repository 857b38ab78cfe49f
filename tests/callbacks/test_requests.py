"""What is meant to end a run ends it from inside any of the callbacks."""

from __future__ import annotations

import pytest
import torch

from lightning_morse import AffineSubspace, DeepLinearMonitor, WeightRecorder
from tests.callback_models import Net, fit, monitor, stub_analysis


class TrialPruned(Exception):
    """As in Optuna."""


def request(kind: str) -> type[BaseException]:
    if kind == "optuna":
        return pytest.importorskip("optuna").TrialPruned
    return {"stand-in": TrialPruned, "interrupt": KeyboardInterrupt}[kind]


def in_monitor(fails, tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    return monitor(loss_fn=fails)


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
