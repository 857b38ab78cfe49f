"""A run in which pictures are turned: everything that reads them takes them as they are."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lightning_morse import MorseMonitor
from lightning_morse.monitoring.one_analysis import OneAnalysis
from tests.callback_models import fit

pytestmark = pytest.mark.usefixtures("no_pictures")


class Views(pl.Callback):
    """Keeps the picture of each epoch."""

    def __init__(self, monitor):
        self.monitor, self.seen = monitor, []

    def on_train_epoch_end(self, trainer, module):
        account = self.monitor._account
        self.seen.append((account.result, account.view))


@pytest.fixture
def impatient(monkeypatch):
    """Boxes are turned after a few samples, which decide nothing."""
    monkeypatch.setattr("lightning_morse.analysis.turning._PATIENCE", {2: 0.1, 3: 0.1})
    monkeypatch.setattr("lightning_morse.analysis.turning._AT_LEAST", 17)


@pytest.fixture
def checked(monkeypatch):
    """Holds what is recorded of each slice against the loss there; counts the slices."""
    read_off, found = OneAnalysis._findings, []

    def checks(self, explored, tracked):
        result, look = explored.result, explored.look
        there = self.loss.on(look.subspace)(torch.from_numpy(result.samples))
        np.testing.assert_allclose(there, result.sample_losses, rtol=1e-3, atol=1e-6)
        known = self.record.trajectory.snapshots()
        at = look.subspace.project(known)
        np.testing.assert_allclose(at, look.trajectory, atol=1e-5)
        found.append(look)
        return read_off(self, explored, tracked)

    monkeypatch.setattr(OneAnalysis, "_findings", checks)
    return found


def watched(tmp_path, **options):
    monitor = MorseMonitor(
        every_n_epochs=1, n_samples=160, resolution=32, max_overhead=1.0, **options
    )
    views = Views(monitor)
    module, _ = fit(tmp_path, monitor, views, max_epochs=6)
    assert [row["morse/failed"] for row in monitor.history] == [0] * 6
    return module, monitor, views.seen


def is_turned(view):
    return all(label.startswith("valley axis") for label in view.axis_labels)


@pytest.mark.slow
def test_turned_pictures_show_training_where_it_is(tmp_path, impatient, checked):
    module, monitor, seen = watched(tmp_path)
    assert sum(is_turned(view) for _, view in seen) >= 2
    assert len(checked) == 6
    for result, view in seen:
        assert result.grid.cell_of(view.current[None])[0] >= 0
    assert len({row["morse/identity_current"] for row in monitor.history} - {-1, -2}) <= 2
    assert set(monitor.figures()) == {"basins", "graph", "merge", "timeline"}
    again, _ = fit(tmp_path / "without", max_epochs=6)
    for a, b in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_directions_of_the_user_are_left_as_they_are(tmp_path, impatient):
    n = sum(p.numel() for p in fit(tmp_path, max_epochs=1)[0].parameters())
    directions = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    _, _, seen = watched(tmp_path, directions=directions)
    assert all(view.axis_labels[0].startswith("direction 1 (") for _, view in seen)
