"""Outer approximations on adaptive grids, against naive ones and the cubical grid."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_morse import (
    AdaptiveGrid,
    CubicalGrid,
    adaptive_outer_approximation,
    outer_approximation,
)
from lightning_morse.conley import adaptive_map
from tests.conley.random_maps import image_boxes_on_grids
from tests.grids.refined_grids import grown


def naive_map(lower, upper, tree, exits=None):
    """Closed box against closed cell, pair by pair."""
    low, up = tree.cell_bounds()
    image = np.zeros((tree.size + 1, tree.size + 1), dtype=bool)
    image[-1, -1] = True
    for i, j in itertools.product(range(tree.size), repeat=2):
        image[i, j] = (lower[i] <= up[j]).all() and (upper[i] >= low[j]).all()
    out = ((lower < tree.coarse.lower) | (upper > tree.coarse.upper)).any(1)
    image[:-1, -1] = out if exits is None else out | exits
    return image


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 99]))
def test_the_map_equals_the_naive_one(d, rounds, seed, chunk):
    """With image boxes that often end exactly on faces, or lie outside the box of the grid."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 4 if d < 3 else 3, d)
    grid = CubicalGrid([0.1] * d, [0.1 + 0.7 * n for n in shape], shape.tolist())
    tree = grown(grid, rounds, rng, 0.3 if d < 3 else 0.1)
    faces = np.concatenate(tree.cell_bounds())
    on_face = np.stack([rng.choice(faces[:, a], (2, tree.size)) for a in range(d)], axis=-1)
    free = rng.uniform(grid.lower - 0.5, grid.upper + 0.5, (2, tree.size, d))
    corners = np.where(rng.random(free.shape) < rng.choice([0, 0.5, 1]), on_face, free)
    if rng.random() < 0.5:
        corners[1] = corners[0] + rng.choice([0.0, 0.1, 0.7], (tree.size, d))
    lower, upper = corners.min(0), corners.max(0)
    exits = rng.random(tree.size) < 0.3 if rng.random() < 0.5 else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptive_map, "_CHUNK", chunk)
        image = adaptive_outer_approximation(lower, upper, tree, exits=exits)
    expected = naive_map(lower, upper, tree, exits)
    assert image.has_sorted_indices
    assert np.array_equal(image.toarray(), expected)
    assert image.nnz == expected.sum()  # no edge twice


@settings(max_examples=100, deadline=None)
@given(image_boxes_on_grids(), st.booleans())
def test_without_refinement_the_map_is_that_of_the_cubical_grid(case, with_exits):
    grid, lower, upper = case
    exits = np.random.default_rng(0).random(grid.size) < 0.3 if with_exits else None
    ours = adaptive_outer_approximation(lower, upper, AdaptiveGrid.of(grid), exits=exits)
    theirs = outer_approximation(lower, upper, grid, exits=exits)
    for name in ("indptr", "indices", "data"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype
    assert ours.shape == theirs.shape


def test_bad_images():
    tree = AdaptiveGrid.of(CubicalGrid([0.0], [1.0], (3,))).refine([False, True, False])
    good = np.zeros((4, 1))
    with pytest.raises(ValueError, match=r"image_lower must have one row for each of the 4 cells"):
        adaptive_outer_approximation(good[:3], good, tree)
    with pytest.raises(ValueError, match=r"must not exceed image_upper, but cell 0 has lower 1"):
        adaptive_outer_approximation(good + 1, good, tree)
    with pytest.raises(ValueError, match=r"but cell 0 has lower nan"):
        adaptive_outer_approximation(good * np.nan, good, tree)
    with pytest.raises(ValueError, match=r"exits must be boolean with one entry for each of the 4"):
        adaptive_outer_approximation(good, good, tree, exits=np.zeros(3, bool))
