"""A run in which pictures are turned: everything that reads them takes them as they are."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lightning_morse import MorseMonitor
from tests.callback_models import fit


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
    monkeypatch.setattr("lightning_morse.analysis.turning._AT_LEAST", {2: 17, 3: 17})


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


def test_turned_pictures_show_training_where_it_is(tmp_path, impatient):
    module, monitor, seen = watched(tmp_path)
    assert sum(is_turned(view) for _, view in seen) >= 2
    for result, view in seen:
        # Weights are the origin of their slice, however it is turned.
        np.testing.assert_array_equal(view.current, [0, 0])
        assert result.basin_of(view.current[None])[0] >= -2
        assert (view.trajectory**2).sum() > 0
    assert len({row["morse/identity_current"] for row in monitor.history} - {-1, -2}) <= 2
    assert set(monitor.figures()) == {"basins", "graph", "merge", "timeline"}
    again, _ = fit(tmp_path / "without", max_epochs=6)
    for a, b in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_directions_of_the_user_are_left_as_they_are(tmp_path, impatient):
    n = sum(p.numel() for p in fit(tmp_path, max_epochs=1)[0].parameters())
    directions = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    _, _, seen = watched(tmp_path, directions=directions)
    assert all(view.axis_labels[0].startswith("direction 1 (") for _, view in seen)
