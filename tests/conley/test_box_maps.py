"""Image boxes from maps given at points."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_morse import CubicalGrid, morse_graph, outer_approximation
from lightning_morse.conley import box_maps
from lightning_morse.conley.box_maps import (
    corner_box_map,
    corner_images,
    lipschitz_box_map,
    lipschitz_images,
    time_map,
)


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


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1), st.sampled_from([0, 0.5, 1]))
def test_box_maps_are_those_of_the_grid_on_its_cells(d, seed, padding):
    rng = np.random.default_rng(seed)
    grid = CubicalGrid(rng.uniform(-2, 0, d), rng.uniform(1, 2, d), rng.integers(1, 6, d).tolist())
    matrix = rng.normal(0, 2, (d, d))
    point_map = waves(matrix, rng.normal(size=d))
    bounds = grid.cell_bounds()
    found = corner_box_map(point_map, padding=padding)(*bounds)
    assert np.allclose(found, corner_images(point_map, grid, padding=padding), atol=1e-13)
    for bound in (
        np.linalg.norm(matrix, 2),
        np.abs(matrix),
        rng.random((grid.size, 1, 1)) * np.abs(matrix),
    ):
        found = lipschitz_box_map(point_map, bound, padding=padding)(*bounds)
        theirs = lipschitz_images(point_map, grid, bound, padding=padding)
        assert np.allclose(found, theirs, atol=1e-13)
        again = lipschitz_box_map(point_map, lambda low, up, b=bound: b, padding=padding)(*bounds)
        assert np.array_equal(found, again)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e-6]))
def test_lipschitz_box_maps_hold_the_image_of_every_point(d, seed, size):
    """Boxes of all sizes at once, far from the origin as well, with a bound for each."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-1, 1, (30, d)) * 10 ** rng.uniform(-3, 3, (30, 1))
    up = low + size * rng.random((30, d)) * 10 ** rng.uniform(-4, 0, (30, 1))
    matrix = rng.normal(0, 2, (d, d))
    shift = rng.normal(size=d)
    # sin(y) + y with y = matrix @ x: a slope of 2 at most; linear where it is measured exactly.
    point_map = lambda x: np.sin(x @ matrix.T + shift) + x @ matrix.T  # noqa: E731
    images = lipschitz_box_map(
        point_map, lambda a, b: np.broadcast_to(2 * np.abs(matrix), (30, d, d))
    )
    lower, upper = images(low, up)
    for _ in range(20):
        part = rng.choice([0, 1, rng.random()], low.shape)
        inside = np.clip(low + part * (up - low), low, up)
        found = point_map(inside)
        rounding = 1e-14 * (1 + np.abs(inside) @ np.abs(matrix).T)  # that of point_map itself
        assert ((lower - rounding <= found) & (found <= upper + rounding)).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_lipschitz_box_maps_are_tight_on_linear_maps(d, seed):
    """The corners go to the faces of the image box: not beyond them, and not far from them."""
    rng = np.random.default_rng(seed)
    low = rng.integers(-64, 64, (20, d)) / 8.0
    up = low + rng.integers(1, 32, (20, d)) / 8.0
    matrix = rng.integers(-9, 10, (d, d)).astype(float)  # all of it exact in binary
    lower, upper = lipschitz_box_map(lambda x: x @ matrix.T, np.abs(matrix))(low, up)
    corners = [np.where(c, up, low) @ matrix.T for c in itertools.product((0, 1), repeat=d)]
    least, most = np.min(corners, axis=0), np.max(corners, axis=0)
    assert (lower < least).all()
    assert (upper > most).all()
    assert np.allclose(lower, least, rtol=0, atol=1e-10)
    assert np.allclose(upper, most, rtol=0, atol=1e-10)


def test_box_maps_widen_each_box_by_its_own_size():
    low, up = np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([[1.0, 4.0], [1.5, 2.25]])
    for make in (corner_box_map, lambda f, **k: lipschitz_box_map(f, np.eye(2), **k)):
        thin, thick = (np.array(make(lambda x: x, padding=p)(low, up)) for p in (0, 2))
        assert np.allclose(thin[0], low)
        assert np.allclose(thin[1], up)
        assert np.allclose(thin[0] - thick[0], 2 * (up - low))
        assert np.allclose(thick[1] - thin[1], 2 * (up - low))


def test_box_maps_evaluate_in_chunks(monkeypatch):
    sizes = []

    def watched(x):
        sizes.append(len(x))
        return x**2 - x[:, ::-1]

    bounds = CubicalGrid([-1, -1], [1, 1], (7, 5)).cell_bounds()
    whole = corner_box_map(watched)(*bounds)
    monkeypatch.setattr(box_maps, "_CHUNK", 13)
    sizes.clear()
    assert np.array_equal(corner_box_map(watched)(*bounds), whole)
    assert sizes == [13, 13, 9] * 4


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
    bounds = grid.cell_bounds()
    with pytest.raises(ValueError, match=message.replace("16", "9")):
        corner_box_map(arguments["point_map"], padding=arguments["padding"])(*bounds)
    with pytest.raises(ValueError, match=message.replace("16", "9")):
        lipschitz_box_map(arguments["point_map"], 1.0, padding=arguments["padding"])(*bounds)


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
    bounds = CubicalGrid([0, 0], [1, 1], (3, 3)).cell_bounds()
    for given_ in (bound, lambda low, up: bound):
        with pytest.raises(ValueError, match=message):
            lipschitz_box_map(lambda x: x, given_)(*bounds)


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
