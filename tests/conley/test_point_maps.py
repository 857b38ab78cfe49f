"""Time maps of flows, and the evaluation of point maps in chunks."""

import numpy as np
import pytest

from lightning_morse import CubicalGrid
from lightning_morse.conley import point_maps
from lightning_morse.conley.box_maps import corner_box_map, corner_images
from lightning_morse.conley.point_maps import time_map


def test_time_map_of_a_rotation_and_its_order():
    def field(x):
        return np.stack([-x[:, 1], x[:, 0]], axis=1)

    start = np.array([[1.0, 0.0], [0.5, -2.0]])
    angle = 1.3
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    errors = [np.abs(time_map(field, angle, n)(start) - start @ turn).max() for n in (5, 10)]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.2)
    there = time_map(field, angle, 40)(start)
    assert np.allclose(time_map(field, -angle, 40)(there), start, atol=1e-6)


@pytest.mark.parametrize(
    ("time", "steps", "message"),
    [
        (0.0, 4, "time must be finite and not zero"),
        (np.inf, 4, "time must be finite and not zero"),
        (1.0, 0, "steps must be a positive integer"),
        (1.0, 1.5, "steps must be a positive integer"),
    ],
)
def test_bad_times_are_refused(time, steps, message):
    with pytest.raises(ValueError, match=message):
        time_map(lambda x: x, time, steps)


def test_the_corners_of_a_grid_are_evaluated_once_and_in_chunks(monkeypatch):
    grid = CubicalGrid([-1, -1], [1, 1], (7, 5))
    whole = corner_images(lambda x: x**2 - x[:, ::-1], grid)
    sizes = []

    def watched(x):
        sizes.append(len(x))
        return x**2 - x[:, ::-1]

    monkeypatch.setattr(point_maps, "_CHUNK", 13)
    assert np.array_equal(corner_images(watched, grid), whole)
    assert sum(sizes) == 8 * 6, "each corner is evaluated once"
    assert max(sizes) <= 13


def test_the_corners_of_boxes_are_evaluated_in_chunks(monkeypatch):
    sizes = []

    def watched(x):
        sizes.append(len(x))
        return x**2 - x[:, ::-1]

    bounds = CubicalGrid([-1, -1], [1, 1], (7, 5)).cell_bounds()
    whole = corner_box_map(watched)(*bounds)
    monkeypatch.setattr(point_maps, "_CHUNK", 13)
    sizes.clear()
    assert np.array_equal(corner_box_map(watched)(*bounds), whole)
    assert sizes == [13, 13, 9] * 4
