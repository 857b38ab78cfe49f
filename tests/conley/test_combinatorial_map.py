"""Outer approximations on cubical grids, against naive ones."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from lightning_morse import CubicalGrid, morse_graph, outer_approximation
from lightning_morse.conley import cell_ranges
from lightning_morse.conley.box_maps import corner_images
from tests.conley.random_maps import image_boxes_on_grids


def naive_outer_approximation(lower, upper, grid, exits=None, exterior=None):
    """Closed box against closed cell, pair by pair."""
    cells = list(zip(*grid.cell_bounds(), strict=True))
    gone = np.zeros(grid.size, bool) if exterior is None else exterior
    image = np.zeros((grid.size + 1, grid.size + 1), dtype=bool)
    image[-1, -1] = True
    for i, j in itertools.product(range(grid.size), repeat=2):
        if gone[i]:
            image[i, -1] = True
        elif (lower[i] <= cells[j][1]).all() and (upper[i] >= cells[j][0]).all():
            image[i, -1 if gone[j] else j] = True
    leaves = (lower < grid.lower).any(1) | (upper > grid.upper).any(1)
    image[:-1, -1] |= leaves if exits is None else leaves | exits
    return image


@settings(max_examples=150, deadline=None)
@given(image_boxes_on_grids(), st.booleans(), st.sampled_from([1, 3, 2**14]))
def test_outer_approximation_equals_the_naive_one(case, with_masks, chunk):
    grid, lower, upper = case
    rng = np.random.default_rng(0)
    exits = rng.random(grid.size) < 0.3 if with_masks else None
    exterior = rng.random(grid.size) < 0.3 if with_masks else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_ranges, "_CHUNK", chunk)
        image = outer_approximation(lower, upper, grid, exits=exits, exterior_cells=exterior)
    assert image.has_sorted_indices
    assert np.array_equal(
        image.toarray(), naive_outer_approximation(lower, upper, grid, exits, exterior)
    )
    assert image.nnz == image.toarray().sum()  # no edge twice


def naive_periodic_map(lower, upper, grid):
    """All periodic copies of each cell against each image box; exact on dyadic numbers."""
    cells = list(zip(*grid.cell_bounds(), strict=True))
    period = grid.upper - grid.lower
    turns = [np.arange(-12, 13) if wraps else np.zeros(1) for wraps in grid.periodic]
    image = np.zeros((grid.size + 1, grid.size + 1), dtype=bool)
    image[-1, -1] = True
    for i, j in itertools.product(range(grid.size), repeat=2):
        image[i, j] = all(
            any(
                lower[i, a] <= cells[j][1][a] + t * period[a]
                and upper[i, a] >= cells[j][0][a] + t * period[a]
                for t in turns[a]
            )
            for a in range(grid.dim)
        )
    out = (lower < grid.lower) | (upper > grid.upper)
    image[:-1, -1] = (out & ~np.array(grid.periodic)).any(1)
    return image


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_periodic_axes_equal_the_naive_map(d, seed):
    """On dyadic numbers, so that contact between faces is exact as well."""
    rng = np.random.default_rng(seed)
    shape = 2 ** rng.integers(0, 3 if d < 3 else 2, d)
    grid = CubicalGrid([-0.5] * d, [1.5] * d, shape.tolist(), (rng.random(d) < 0.7).tolist())
    corners = rng.integers(-40, 40, (2, grid.size, d)) / 4
    if rng.random() < 0.7:
        corners[1] = corners[0] + rng.integers(0, 8, (grid.size, d)) / 8
    lower, upper = corners.min(0), corners.max(0)
    exterior = rng.random(grid.size) < 0.2
    image = outer_approximation(lower, upper, grid)
    expected = naive_periodic_map(lower, upper, grid)
    assert image.has_sorted_indices
    assert np.array_equal(image.toarray(), expected)
    assert image.nnz == expected.sum()
    expected[:-1, -1] |= expected[:-1, :-1][:, exterior].any(1)
    expected[:-1, :-1][:, exterior] = False
    expected[:-1][exterior] = False
    expected[:-1, -1] |= exterior
    redirected = outer_approximation(lower, upper, grid, exterior_cells=exterior)
    assert np.array_equal(redirected.toarray(), expected)


def test_images_on_a_circle():
    """Four cells on a circle: images across the seam, on the seam, and around the whole circle."""
    grid = CubicalGrid([0.0], [1.0], (4,), (True,))
    lower, upper = (
        np.array([[0.9], [1.0], [-7.3], [5.0]]),
        np.array([[1.1], [1.1], [-6.3], [np.inf]]),
    )
    image = outer_approximation(lower, upper, grid)
    rows = [row.tolist() for row in np.split(image.indices, image.indptr[1:-1])]
    assert rows == [[0, 3], [0, 3], [0, 1, 2, 3], [0, 1, 2, 3], [4]]


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (np.zeros((0, 1)), np.zeros((0, 1)), "image_lower must have one row"),
        (np.zeros((3, 1)), np.ones((4, 1)), "image_lower must have one row"),
        (np.zeros((4, 1)), np.ones((4, 2)), "image_upper must have one row"),
        (np.ones((4, 1)), np.zeros((4, 1)), "cell 0 has lower 1.0 and upper 0.0 on axis 0"),
        (np.full((4, 1), np.nan), np.ones((4, 1)), "cell 0 has lower nan"),
    ],
)
def test_bad_images_are_refused(lower, upper, message):
    with pytest.raises(ValueError, match=message):
        outer_approximation(lower, upper, CubicalGrid([0], [1], (4,)))


def test_bad_masks_and_matrices_are_refused():
    grid = CubicalGrid([0], [1], (4,))
    low, up = grid.cell_bounds()
    with pytest.raises(ValueError, match="exits must be boolean"):
        outer_approximation(low, up, grid, exits=np.zeros(4))
    with pytest.raises(ValueError, match="exterior_cells must be boolean"):
        outer_approximation(low, up, grid, exterior_cells=np.zeros(3, bool))
    with pytest.raises(ValueError, match="square matrix"):
        morse_graph(csr_array(np.ones((2, 3))))
    with pytest.raises(ValueError, match="critical must be boolean"):
        morse_graph(csr_array(np.eye(3)), critical=np.zeros(3, bool))


def test_rotation_of_a_circle_is_recurrent_everywhere():
    """An irrational rotation, given by its lift; without the periodic axis everything leaves."""
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


def test_renumbered_morse_sets_keep_their_order():
    image = csr_array(np.array([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    found = morse_graph(image)
    other = found.renumbered([2, 0, 1])
    assert [cells.tolist() for cells in other.morse_sets] == [[2], [0], [1]]
    assert sorted(other.graph.edges) == [(2, 0), (2, 1)]
    assert other.attractors == (0, 1)
    assert other.reaches(0).tolist() == found.reaches(2).tolist()
    for wrong in ([0, 1], [0, 1, 1], [1, 2, 3]):
        with pytest.raises(ValueError, match="permutation of the 3 Morse sets"):
            found.renumbered(wrong)
