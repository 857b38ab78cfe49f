"""Where the mean flow of several boxes ends."""

from types import SimpleNamespace

import numpy as np
import pytest

from lightning_morse.analysis import descent
from lightning_morse.analysis.phase_portrait import PhasePortrait


class Field:
    """On a line from ``low`` to ``up``: leads to a target, wherever that is."""

    def __init__(self, k, patch, grid):
        self.box, (self.low, self.up, self.target), self.spacing = k, patch, np.array([0.1])

    def holds(self, point):
        return self.low <= point[0] <= self.up

    def at(self, point):
        way = self.target - point[0]
        return np.array([way]), abs(way)


@pytest.fixture(autouse=True)
def on_a_line(monkeypatch):
    monkeypatch.setattr(descent, "_Field", Field)


def portrait(*patches):
    charts = [SimpleNamespace(patches=[patch], grid=None) for patch in patches]
    grid = SimpleNamespace(lower=np.array([patches[0][0]]), upper=np.array([patches[0][1]]))
    return SimpleNamespace(charts=charts, nested=SimpleNamespace(grids=[grid]))


def test_a_way_that_goes_back_and_forth_ends_in_the_outer_box():
    """The box inside leads out of itself, and the one around it back into it."""
    way = descent.descend(portrait((0.0, 9.0, 3.0), (2.0, 4.0, 6.0)), np.array([1.0]))
    assert way.box == 0
    assert not way.leaves
    assert abs(way.end[0] - 4.0) < 0.2


def test_a_way_that_rests_ends_in_the_innermost_box_there():
    way = descent.descend(portrait((0.0, 9.0, 3.0), (2.0, 4.0, 3.0)), np.array([8.0]))
    assert way.box == 1
    assert abs(way.end[0] - 3.0) < 0.2


def test_a_box_that_nothing_stays_in_is_certain():
    nested = SimpleNamespace(size=6, part=[slice(0, 2), slice(2, 4), slice(4, 6)].__getitem__)
    sets, labels = (np.array([0]), np.array([3])), np.array([-1, -1, -1, -1, -1, -1])
    about = SimpleNamespace(nested=nested, labels=labels, found=SimpleNamespace(morse_sets=sets))
    assert PhasePortrait.is_certain_in(about, [2])
    assert not PhasePortrait.is_certain_in(about, [1])
    assert not PhasePortrait.is_certain_in(about, [1, 2])
    labels[2] = 0  # a basin reaches into it
    assert PhasePortrait.is_certain_in(about, [1])
