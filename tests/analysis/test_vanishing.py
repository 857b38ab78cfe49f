"""Boxes that end where a positive loss is as good as nothing."""

import numpy as np
import pytest
import torch

from lightning_morse.analysis.descent import Descent
from lightning_morse.analysis.pipeline import analyze_from
from lightning_morse.analysis.samples import Samples
from lightning_morse.analysis.vanishing import drawn_in, worth_following
from lightning_morse.conley.reach import ESCAPES
from lightning_morse.grids.cubical import CubicalGrid
from tests.towers import known_portrait

GRID = CubicalGrid([-4.0, -2.0], [4.0, 2.0], (32, 32))
ZERO = np.zeros(2)


def samples(*rows):
    table = np.array([(0.0, 0.0, 1.0), *rows])
    return Samples(table[:, :2], table[:, 2])


@pytest.mark.parametrize(
    ("rows", "lower", "upper"),
    [
        # Each face by itself, short of the nearest sample without loss along its axis.
        ([(2.0, 0.5, 1e-6)], [-4, -2], [1.6, 2]),
        ([(2.0, 0.5, 1e-6), (3.0, 0.0, 1e-9), (-1.0, -1.5, 0.0)], [-4, -1.2], [1.6, 2]),
        # Nearer than a sixteenth of where it was is no face.
        ([(0.1, 0.0, 1e-6)], [-4, -2], [0.25, 2]),
    ],
)
def test_faces_move_inwards_to_where_there_is_a_loss(rows, lower, upper):
    found = drawn_in(GRID, samples(*rows), ZERO)
    assert found.lower.tolist() == pytest.approx(lower)
    assert found.upper.tolist() == pytest.approx(upper)
    assert found.shape == GRID.shape


@pytest.mark.parametrize(
    "rows",
    [
        [(2.0, 0.5, 1e-3)],  # that is something
        [(2.0, 0.5, 1e-6), (1.0, 1.0, -0.1)],  # zero is no limit of such a loss
        [(2.0, 0.5, np.nan)],
    ],
)
def test_a_loss_that_does_not_vanish_leaves_the_box_as_it_is(rows):
    assert drawn_in(GRID, samples(*rows), ZERO) is GRID
    nothing = Samples(np.zeros((1, 2)), np.zeros(1))
    assert drawn_in(GRID, nothing, ZERO) is GRID
    assert drawn_in(GRID, samples((2.0, 0.5, 1e-6)), GRID.upper) is GRID


def portrait(loss_at, y):
    return known_portrait(loss_at, GRID, y)


def way(end):
    return Descent(np.linspace(ZERO, [end, 0.0], 101), 0, face=(0, 1))


def test_a_way_is_worth_following_until_the_loss_is_next_to_nothing():
    """Of an exponential that is known; the box is eight wide."""
    falling = portrait(lambda x: np.exp(-x[:, 0]), [1.0, 0.1])
    assert worth_following(falling, way(4.0)) == pytest.approx((np.log(1e4) - 4) / 8, rel=1e-6)
    assert worth_following(falling, way(10.0)) == 0
    # It rises in the end, is not positive, or falls without a rate.
    assert worth_following(portrait(lambda x: 1 + x[:, 0], [1.0]), way(4.0)) == np.inf
    assert worth_following(portrait(lambda x: np.exp(-x[:, 0]), [1.0, -1.0]), way(4.0)) == np.inf
    assert worth_following(portrait(lambda x: -x[:, 0] - 1, [-1.0]), way(4.0)) == np.inf


def separable(x):
    """A mean of cross-entropies in single precision that ends in zeros."""
    margins = torch.stack([3 * x[:, 0] + x[:, 1], 4 * x[:, 0] - x[:, 1]], dim=1).float()
    logits = torch.stack([margins, torch.zeros_like(margins)], dim=2)
    return -logits.log_softmax(dim=2)[..., 0].mean(dim=1).double()


@pytest.mark.slow
@pytest.mark.parametrize("half", [2.0, 5.0])
def test_where_data_is_separated_the_weights_certainly_leave(half):
    """Whether the box is too small, or has zeros in it; and no more is evaluated than allowed."""
    calls = []

    def loss(x):
        calls.append(len(x))
        return separable(x)

    far = np.array([16 * half, 4 * half])
    box = np.array([half, half / 4])
    start = np.array([0.5, 0.0])
    result = analyze_from(loss, start, -box, box, (-far, far), 64, 64)
    assert result.basin_of(start[None]).tolist() == [ESCAPES]
    assert result.n_attractors == 0
    assert 0 < result.way_out.loss < 1e-3 * separable(torch.from_numpy(start[None])).item()
    assert len(result.samples) == sum(calls) <= 2.5 * 64
    # A box that the user has set stays.
    given = analyze_from(separable, start, -box, box, None, 64, 64)
    assert given.grid.upper.tolist() == box.tolist()
