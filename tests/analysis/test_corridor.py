"""Narrow boxes along ways that leave, of losses that are known."""

import numpy as np
import pytest

from lightning_morse.analysis.corridor import corridor_along
from lightning_morse.analysis.descent import Descent
from lightning_morse.grids.cubical import CubicalGrid
from tests.towers import known_portrait as portrait


def oblique(d):
    """Orthonormal columns, oblique to all axes."""
    return np.linalg.qr(np.random.default_rng(d).standard_normal((d, d)))[0]


@pytest.mark.parametrize("d", [2, 3])
def test_it_lies_along_the_way_and_ends_where_nothing_is_left(d):
    turn, grid = oblique(d), CubicalGrid(-np.full(d, 20.0), np.full(d, 20.0), (8,) * d)
    # Ten units along the first column; at first it comes from one side.
    along = np.linspace(0, 10, 401)
    side = 0.5 * np.exp(-2 * along)
    way = np.outer(along, turn[:, 0]) + np.outer(side - side[0], turn[:, 1])
    known = portrait(lambda x: np.exp(-2 * (x @ turn[:, 0])), grid)
    box = corridor_along(known, Descent(way, 0, face=(0, 1)))
    np.testing.assert_allclose(box.axes.T @ box.axes, np.eye(d), atol=1e-12)
    assert box.axes[:, 0] @ turn[:, 0] > 0.9999
    # A ten-thousandth is left after log(1e4) / 2 = 4.6, and nothing beyond is looked at.
    assert box.upper[0] == pytest.approx(np.log(1e4) / 2, abs=0.1)
    assert box.lower[0] == pytest.approx(-0.1 * box.upper[0], abs=0.05)
    inside = way[way @ turn[:, 0] < 4.5] @ box.axes
    assert ((inside > box.lower) & (inside < box.upper)).all()
    across = (box.upper - box.lower)[1:]
    assert (across >= 0.12 * 4.5).all()
    assert across.max() < 1.6 * 0.5 + 0.1


def test_it_goes_on_to_where_nothing_is_foreseen_but_no_further_than_the_way_is_long():
    grid = CubicalGrid([-4.0, -4.0], [4.0, 4.0], (8, 8))
    way = Descent(np.linspace([0.0, 0.0], [4.0, 0.0], 101), 0, face=(0, 1))
    # Nothing is left at 5, and 1.2 times as far beyond the face is looked.
    soon = corridor_along(portrait(lambda x: np.exp(-np.log(1e4) / 5 * x[:, 0]), grid), way)
    assert soon.upper[0] == pytest.approx(5.2)
    late = corridor_along(portrait(lambda x: np.exp(-0.1 * x[:, 0]), grid), way)
    never = corridor_along(portrait(lambda x: -x[:, 0], grid), way)
    assert late.upper[0] == never.upper[0] == pytest.approx(8.0)
    # A straight way has a box of 0.12 times its length across.
    np.testing.assert_allclose(late.upper[1] - late.lower[1], 0.12 * 4)
