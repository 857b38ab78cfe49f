"""The record of the trajectory: bounded, evenly spaced, of a known size."""

from __future__ import annotations

import torch

from lightning_morse.monitoring.snapshots import Trajectory
from tests.monitoring.test_budget import peak


def test_trajectory_is_bounded_and_even():
    trajectory = Trajectory(max_snapshots=5, stride=2)
    for step in range(200):
        trajectory.step(lambda step=step: torch.tensor([float(step)]))
        assert len(trajectory) <= 5
    kept = trajectory.snapshots().ravel()
    assert kept[0] == 0
    assert set(kept.diff().tolist()) == {64.0}
    assert kept[-1] + 64 > 199


def test_a_full_record_takes_no_more(tmp_path):
    trajectory = Trajectory(max_snapshots=32)
    flat = torch.zeros(100_000)
    trajectory.step(lambda: flat)

    def train():
        for _ in range(200):
            trajectory.step(lambda: flat)

    assert trajectory.n_bytes == 132 * 100_000  # as documented: 132 bytes a parameter
    assert peak(train) < 1000
