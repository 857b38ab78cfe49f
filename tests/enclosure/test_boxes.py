"""Bounds on what happens within a step, against finely integrated centres of real surrogates."""

import numpy as np
import pytest

from lightning_morse import CubicalGrid
from lightning_morse.analysis.design import design
from lightning_morse.enclosure.bounds import FlowBounds
from lightning_morse.enclosure.boxes import AxisBoxes, FramedBoxes, Place, Stride
from lightning_morse.enclosure.integrate import FARTHEST
from lightning_morse.gp.fit import fit
from lightning_morse.grids.lattice import Lattice
from tests.landscapes import double_well, himmelblau


def flow_bounds(loss, lower, upper, shape):
    x = design(lower, upper, 64, 0)
    gp = fit(x, loss(x), lower, upper)
    lattice = Lattice.of(CubicalGrid(lower, upper, shape))
    widest = int(np.ceil(FARTHEST * max(lattice.refinement)))
    return FlowBounds.of(lattice, gp.lattice_posterior(lattice.axes), widest)


def centers_path(bounds, y, time, pieces=200):
    """End of the centres' paths, their lengths per axis, in the largest norm, and furthest points.

    By midpoint steps so short that their error does not matter.
    """
    start, length, largest = y, np.zeros_like(y), np.zeros(y.shape[1])
    furthest = np.zeros_like(y)
    h = time / pieces
    for _ in range(pieces):
        move = h * bounds.velocity_at(y + 0.5 * h * bounds.velocity_at(y))
        y = y + move
        length += np.abs(move)
        largest += np.abs(move).max(axis=0)
        furthest = np.maximum(furthest, np.abs(y - start))
    return y, length, largest, furthest


@pytest.mark.parametrize(
    ("loss", "lower", "upper", "shape"),
    [
        (double_well, [-2.0], [2.0], (40,)),
        (himmelblau, [-5.0, -5.0], [5.0, 5.0], (48, 48)),
        (double_well, [-2.0, -1.5], [1.0, 2.0], (24, 60)),
        (double_well, [-2.0] * 3, [2.0] * 3, (16, 16, 16)),
    ],
)
@pytest.mark.parametrize("kind", [AxisBoxes, FramedBoxes])
def test_the_path_of_a_center_is_no_longer_than_its_bound(loss, lower, upper, shape, kind):
    bounds = flow_bounds(loss, lower, upper, shape)
    rng = np.random.default_rng(0)
    n, d = 400, len(shape)
    y = (rng.uniform(0, 1, (n, d)) * bounds.lattice.cells).T
    cell = np.ravel_multi_index(tuple(bounds.corner(y)), bounds.lattice.cells)
    window = np.full(n, len(bounds.reaches) - 1)
    velocity = bounds.velocity_at(y)
    radius = np.tile(np.array(bounds.lattice.refinement)[:, None] / 2, (1, n))
    growth = kind(bounds, y, radius).growth(
        np.arange(n), Place(y, velocity, cell, window, np.zeros((d, n)))
    )
    # The longest steps there are, as far as the window and the exponent admit them.
    fastest = np.maximum(np.abs(velocity).max(axis=0), 1e-12)
    time = np.minimum(0.7 / np.maximum(growth.norm, 1e-12), 2.0 / fastest)
    ahead, length, largest, furthest = centers_path(bounds, y, time)
    grown = growth.after(Stride(time, ahead, bounds.velocity_at(ahead), np.zeros_like(y)))
    ok = grown.sound & (furthest + grown.swept <= bounds.reaches[window]).all(axis=0)
    assert ok.mean() > 0.3
    slack = 1e-4 * fastest * time  # of the reference
    assert (length[:, ok] <= grown.path[:, ok] + slack[ok]).all()
    away = 0.5 * (grown.path + np.abs(ahead - y))
    assert (furthest[:, ok] <= away[:, ok] + slack[ok]).all()
    if kind is FramedBoxes:  # its path is one in the largest norm
        assert (largest[ok] <= grown.path[0, ok] + slack[ok]).all()
    assert (largest[ok] > 0.6 * grown.path[:, ok].max(axis=0)).any()
