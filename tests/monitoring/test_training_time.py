"""Learning rates summed along a trajectory, thinned with it."""

import math

import numpy as np
import pytest
import torch

from lightning_morse.monitoring.snapshots import Trajectory
from lightning_morse.monitoring.training_time import TrainingTime


def run(trajectory, time, rates, length=2):
    for rate in rates:
        time.rate = rate
        trajectory.step(lambda: torch.zeros(length))
        time.step(trajectory)


def test_times_are_sums_of_rates_and_thinned_with_the_snapshots():
    trajectory = Trajectory(4)
    time = TrainingTime(trajectory)
    rates = 0.1 * np.arange(1, 24)
    run(trajectory, time, rates)
    assert trajectory.stride == 8
    expected = np.concatenate([[0.0], np.cumsum(rates[1:])])[:: trajectory.stride]
    assert time.of(trajectory) == pytest.approx(expected[: len(trajectory)])


def test_the_stride_set_before_the_first_step_counts():
    trajectory = Trajectory(5)
    time = TrainingTime(trajectory)
    trajectory.stride = 3
    run(trajectory, time, [1.0] * 7)
    assert time.of(trajectory).tolist() == [0.0, 3.0, 6.0]


def test_unknown_rates_give_unknown_times():
    trajectory = Trajectory(5)
    time = TrainingTime(trajectory)
    run(trajectory, time, [1.0, 1.0, math.nan, 1.0])
    assert np.isnan(time.of(trajectory)).tolist() == [False, False, True, True]


def test_a_record_that_starts_over_is_timed_anew():
    trajectory = Trajectory(5)
    time = TrainingTime(trajectory)
    run(trajectory, time, [1.0] * 3)
    run(trajectory, time, [2.0] * 3, length=7)
    assert time.of(trajectory).tolist() == [0.0, 2.0, 4.0]


def test_a_record_out_of_step_has_no_times():
    trajectory = Trajectory(5)
    time = TrainingTime(trajectory)
    run(trajectory, time, [1.0] * 3)
    trajectory.step(lambda: torch.zeros(2))
    assert np.isnan(time.of(trajectory)).all()


def test_a_resumed_run_goes_on():
    def fresh():
        trajectory = Trajectory(4)
        return trajectory, TrainingTime(trajectory)

    whole, part, again = fresh(), fresh(), fresh()
    rates = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    run(*whole, rates)
    run(*part, rates[:5])
    again[0].load_state_dict(part[0].state_dict())
    again[1].load_state_dict(part[1].state_dict())
    run(*again, rates[5:])
    assert again[1].of(again[0]).tolist() == whole[1].of(whole[0]).tolist()
