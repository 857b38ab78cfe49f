"""Evaluations, held-out samples, and what diverged."""

import numpy as np
import pytest
import torch

from lightning_morse import CubicalGrid
from lightning_morse.analysis.samples import (
    HeldOut,
    Samples,
    beside_samples,
    evaluate,
    hold_out,
    n_held_out,
    nearest_diverged,
)
from tests.landscapes import bowl


def test_points_beside_samples_are_close_and_inside():
    grid = CubicalGrid([0, -10], [1, 10], (4, 4))
    samples = Samples(
        points=np.array([[0.0, 10.0], [1.0, -10.0], [0.5, 0.0], [0.2, 3.0]]),
        losses=np.array([1.0, 2.0, np.nan, 0.0]),
    )
    chosen, points = beside_samples(grid, samples, 3, seed=0)
    assert sorted(chosen) == [0, 1, 3]
    step = (points - samples.points[chosen]) / [1, 20]
    assert np.linalg.norm(step, axis=1) == pytest.approx(1e-3)
    assert (grid.cell_of(points) >= 0).all()
    assert [n_held_out(n) for n in (16, 32, 128)] == [0, 1, 4]


def test_held_out_samples_know_their_partners():
    grid = CubicalGrid([-1, -1], [1, 1], (4, 4))
    points = np.random.default_rng(0).uniform(-1, 1, (10, 2))
    samples = Samples(points, evaluate(bowl, points))
    held_out = hold_out(bowl, samples, grid, 4, seed=0)
    assert len(held_out) == len(set(held_out.partners)) == 4
    near = np.linalg.norm(held_out.points - points[held_out.partners], axis=1)
    assert (near < 3e-3).all()
    assert np.array_equal(held_out.losses, evaluate(bowl, held_out.points))


def test_without_a_finite_sample_nothing_is_held_out_or_evaluated():
    samples = Samples(np.zeros((3, 2)), np.full(3, np.nan))
    grid = CubicalGrid([-1, -1], [1, 1], (4, 4))
    held_out = hold_out(lambda x: pytest.fail("evaluated"), samples, grid, 4, seed=0)
    assert len(held_out) == 0
    assert samples.followed_by(held_out.points, held_out.losses).points.shape == (3, 2)


def test_what_is_finite():
    losses = np.array([1.0, np.nan, np.inf, 2.0])
    points = np.arange(8.0).reshape(4, 2)
    assert Samples(points, losses).finite.losses.tolist() == [1, 2]
    held_out = HeldOut(np.array([5, 6, 7, 8]), points, losses).finite
    assert held_out.partners.tolist() == [5, 8]
    assert np.array_equal(held_out.points, points[[0, 3]])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda x: x, r"one number for each of the 3 points, shape \(3,\), got \(3, 2\)"),
        (lambda x: 1.0, r"a tensor of shape \(3,\) for 3 points, got float"),
    ],
)
def test_a_loss_of_another_shape_is_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        evaluate(loss, np.zeros((3, 2)))


def test_a_loss_may_change_the_tensor_it_is_given():
    points = np.ones((3, 2))
    losses = evaluate(lambda x: x.mul_(2).sum(1).to(torch.float32), points)
    assert losses.dtype == np.float64
    assert (points == 1).all()


def test_cells_are_diverged_where_their_nearest_sample_is():
    grid = CubicalGrid([0, 0], [1, 10], (2, 2))
    points = np.array([[0.2, 2.0], [0.8, 8.0]])
    assert nearest_diverged(grid, Samples(points, np.array([1.0, np.nan]))).tolist()[0] is False
    assert nearest_diverged(grid, Samples(points, np.array([1.0, np.nan]))).tolist()[3] is True
    assert not nearest_diverged(grid, Samples(points, np.array([1.0, 2.0]))).any()
