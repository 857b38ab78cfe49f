"""Image boxes from maps given at points."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_morse import CubicalGrid, box_maps, morse_graph, outer_approximation
from lightning_morse.box_maps import corner_images, lipschitz_images, time_map


def naive_corner_images(point_map, grid, padding):
    """One cell after the other, every one of its corners by itself."""
    lower, upper = [], []
    for low, up in zip(*grid.cell_bounds(), strict=True):
        corners = np.stack(np.meshgrid(*zip(low, up, strict=True)), -1).reshape(-1, grid.dim)
        images = np.array([point_map(c[None])[0] for c in corners])
        lower.append(images.min(0) - padding * grid.cell_widths)
        upper.append(images.max(0) + padding * grid.cell_widths)
    return np.array(lower), np.array(upper)


def waves(matrix, shift):
    return lambda x: np.sin(x @ matrix.T + shift)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1), st.sampled_from([0, 0.5, 1]))
def test_corner_images_equal_the_naive_ones(d, seed, padding):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 6, d).tolist()
    grid = CubicalGrid(rng.uniform(-2, 0, d), rng.uniform(1, 2, d), shape)
    point_map = waves(rng.normal(0, 2, (d, d)), rng.normal(size=d))
    found = corner_images(point_map, grid, padding=padding)
    assert np.allclose(found, naive_corner_images(point_map, grid, padding), rtol=1e-14, atol=1e-14)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1), st.sampled_from(["number", "matrix", "cells"]))
def test_lipschitz_images_hold_the_image_of_every_point(d, seed, kind):
    rng = np.random.default_rng(seed)
    grid = CubicalGrid(rng.uniform(-2, 0, d), rng.uniform(1, 2, d), rng.integers(1, 6, d).tolist())
    matrix = rng.normal(0, 2, (d, d))
    bound = {
        "number": np.linalg.norm(matrix, 2),
        "matrix": np.abs(matrix),
        "cells": np.broadcast_to(np.abs(matrix), (grid.size, d, d)),
    }[kind]
    point_map = waves(matrix, rng.normal(size=d))
    lower, upper = lipschitz_images(point_map, grid, bound)
    low, up = grid.cell_bounds()
    for _ in range(20):
        images = point_map(low + rng.choice([0, 1, rng.random()], low.shape) * (up - low))
        assert ((lower <= images) & (images <= upper)).all()
    # and no more than the bound asks for
    assert np.allclose(upper - lower, (upper - lower)[:1])
    widest = np.abs(matrix) @ grid.cell_widths
    if kind == "number":
        widest = np.full(d, bound * np.linalg.norm(grid.cell_widths))
    assert np.allclose(upper - lower, widest, rtol=1e-9)


def test_results_do_not_depend_on_the_chunks(monkeypatch):
    grid = CubicalGrid([-1, -1], [1, 1], (7, 5))
    whole = corner_images(lambda x: x**2 - x[:, ::-1], grid)
    sizes = []

    def watched(x):
        sizes.append(len(x))
        return x**2 - x[:, ::-1]

    monkeypatch.setattr(box_maps, "_CHUNK", 13)
    assert np.array_equal(corner_images(watched, grid), whole)
    assert sum(sizes) == 8 * 6, "each corner once"
    assert max(sizes) <= 13


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


def test_rotation_of_a_circle_is_recurrent_everywhere():
    """A turn by an irrational angle, given by its lift; without the seam everything leaves."""
    point_map = lambda x: x + np.sqrt(0.5)  # noqa: E731
    circle = CubicalGrid([0], [1], (64,), (True,))
    found = morse_graph(outer_approximation(*corner_images(point_map, circle), circle))
    assert [c.size for c in found.morse_sets] == [64]
    assert found.attractors == (0,)
    line = CubicalGrid([0], [1], (64,))
    assert morse_graph(outer_approximation(*corner_images(point_map, line), line)).morse_sets == ()


def test_infinite_images_leave():
    grid = CubicalGrid([0.0], [1.0], (4,))
    images = corner_images(lambda x: np.where(x < 0.3, x, np.inf), grid, padding=1)
    found = morse_graph(outer_approximation(*images, grid))
    exterior = len(found.morse_sets)
    assert found.reaches(exterior)[:4].tolist() == [True] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"padding": -1}, "padding must be finite and not negative, got -1"),
        ({"padding": np.nan}, "padding must be finite"),
        ({"point_map": lambda x: x[:, :1]}, r"shape \(16, 2\), got \(16, 1\)"),
        ({"point_map": lambda x: np.where(x < 0.4, x, np.nan)}, "must not return NaN, but does at"),
    ],
)
def test_bad_maps_are_refused(change, message):
    grid = CubicalGrid([0, 0], [1, 1], (3, 3))
    arguments = {"point_map": lambda x: x, "padding": 0, **change}
    with pytest.raises(ValueError, match=message):
        corner_images(arguments["point_map"], grid, padding=arguments["padding"])
    with pytest.raises(ValueError, match=message.replace("16", "9")):
        lipschitz_images(arguments["point_map"], grid, 1.0, padding=arguments["padding"])


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        (np.ones(2), r"shape \(2, 2\) or \(9, 2, 2\), got shape \(2,\)"),
        (-1.0, "finite and not negative"),
        (np.full((2, 2), np.inf), "finite and not negative"),
    ],
)
def test_bad_bounds_are_refused(bound, message):
    with pytest.raises(ValueError, match=message):
        lipschitz_images(lambda x: x, CubicalGrid([0, 0], [1, 1], (3, 3)), bound)


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
