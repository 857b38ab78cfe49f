"""Image boxes from maps given at points."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_morse import CubicalGrid
from lightning_morse.conley.box_maps import (
    corner_box_map,
    corner_images,
    lipschitz_box_map,
    lipschitz_images,
)


def naive_corner_images(point_map, grid, padding):
    """Cell by cell, corner by corner."""
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
def test_lipschitz_images_contain_the_image_of_every_point(d, seed, kind):
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
    # The boxes are no larger than the bound requires.
    assert np.allclose(upper - lower, (upper - lower)[:1])
    widest = np.abs(matrix) @ grid.cell_widths
    if kind == "number":
        widest = np.full(d, bound * np.linalg.norm(grid.cell_widths))
    assert np.allclose(upper - lower, widest, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1), st.sampled_from([0, 0.5, 1]))
def test_box_maps_agree_with_the_images_on_a_grid(d, seed, padding):
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
def test_lipschitz_box_maps_contain_the_image_of_every_point(d, seed, size):
    """Boxes of very different sizes, some far from the origin, with one bound per box."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-1, 1, (30, d)) * 10 ** rng.uniform(-3, 3, (30, 1))
    up = low + size * rng.random((30, d)) * 10 ** rng.uniform(-4, 0, (30, 1))
    matrix = rng.normal(0, 2, (d, d))
    shift = rng.normal(size=d)
    # sin(y) + y with y = matrix @ x has a slope of at most 2.
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
    """The image box contains the images of the corners, with hardly any room to spare."""
    rng = np.random.default_rng(seed)
    low = rng.integers(-64, 64, (20, d)) / 8.0
    up = low + rng.integers(1, 32, (20, d)) / 8.0
    matrix = rng.integers(-9, 10, (d, d)).astype(float)  # exact in binary
    lower, upper = lipschitz_box_map(lambda x: x @ matrix.T, np.abs(matrix))(low, up)
    corners = [np.where(c, up, low) @ matrix.T for c in itertools.product((0, 1), repeat=d)]
    least, most = np.min(corners, axis=0), np.max(corners, axis=0)
    assert (lower < least).all()
    assert (upper > most).all()
    assert np.allclose(lower, least, rtol=0, atol=1e-10)
    assert np.allclose(upper, most, rtol=0, atol=1e-10)


def test_box_maps_pad_each_box_by_its_own_size():
    low, up = np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([[1.0, 4.0], [1.5, 2.25]])
    for make in (corner_box_map, lambda f, **k: lipschitz_box_map(f, np.eye(2), **k)):
        thin, thick = (np.array(make(lambda x: x, padding=p)(low, up)) for p in (0, 2))
        assert np.allclose(thin[0], low)
        assert np.allclose(thin[1], up)
        assert np.allclose(thin[0] - thick[0], 2 * (up - low))
        assert np.allclose(thick[1] - thin[1], 2 * (up - low))


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
