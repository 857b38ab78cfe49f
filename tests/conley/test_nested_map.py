"""The combinatorial map on grids inside grids, against a search over all pairs of cells."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_morse.conley.combinatorial_map import outer_approximation
from lightning_morse.conley.nested_map import BoxImages, nested_outer_approximation, own_cells
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.nested import NestedGrid
from tests.grids.test_nested import tower


def random_images(grid: CubicalGrid, rng: np.random.Generator) -> BoxImages:
    low, up = grid.cell_bounds()
    moved = rng.normal(0, 1.5, low.shape) * grid.cell_widths
    room = rng.random(low.shape) * grid.cell_widths
    lower, upper = low + moved - room, up + moved + room
    swept_lower = np.clip(np.minimum(low, lower), grid.lower, grid.upper)
    swept_upper = np.clip(np.maximum(up, upper), grid.lower, grid.upper)
    exits = np.stack([lower < grid.lower, upper > grid.upper], axis=2)
    exits |= rng.random(exits.shape) < 0.02
    # An exit that was found on the way lies within what was swept.
    swept_lower = np.where(exits[..., 0], grid.lower, swept_lower)
    swept_upper = np.where(exits[..., 1], grid.upper, swept_upper)
    exterior = rng.random(grid.size) < 0.02
    return BoxImages(lower, upper, exits, swept_lower, swept_upper, exterior)


def naive(images: list[BoxImages], nested: NestedGrid) -> set[tuple[int, int]]:
    """Edges, one pair of cells at a time."""
    cells = [(k, c) for k, cs in enumerate(nested.uncovered) for c in cs.tolist()]
    bounds = [grid.cell_bounds() for grid in nested.grids]
    exterior = [bool(images[k].exterior[c]) for k, c in cells]
    root, size, edges = nested.grids[0], nested.size, {(nested.size, nested.size)}

    def inside(j: int, k: int) -> bool:
        while j not in (k, -1):
            j = nested.parents[j]
        return j == k

    def meets(j: int, c: int, low: np.ndarray, up: np.ndarray) -> bool:
        return bool((bounds[j][0][c] <= up).all() and (bounds[j][1][c] >= low).all())

    for a, (k, c) in enumerate(cells):
        if exterior[a]:
            edges.add((a, size))
            continue
        of, grid = images[k], nested.grids[k]
        targets = {
            b
            for b, (j, t) in enumerate(cells)
            if inside(j, k) and meets(j, t, of.lower[c], of.upper[c])
        }
        for axis in range(nested.dim):
            for side, face in enumerate((grid.lower[axis], grid.upper[axis])):
                beyond = (of.lower[c, axis] < face, of.upper[c, axis] > face)[side]
                if not (of.exits[c, axis, side] or beyond):
                    continue
                if face == (root.lower[axis], root.upper[axis])[side]:
                    targets.add(size)
                    continue
                low, up = of.swept_lower[c].copy(), of.swept_upper[c].copy()
                low[axis] = up[axis] = face
                targets |= {
                    b
                    for b, (j, t) in enumerate(cells)
                    if j == nested.parents[k] and meets(j, t, low, up)
                }
        edges |= {(a, size if b == size or exterior[b] else b) for b in targets}
    return edges


@pytest.mark.parametrize("dim", [1, 2])
def test_edges_are_those_of_a_search_over_all_pairs(dim):
    nested, rng = tower(dim), np.random.default_rng(dim)
    images = [random_images(grid, rng) for grid in nested.grids]
    image = nested_outer_approximation(images, nested).tocoo()
    assert set(zip(image.row.tolist(), image.col.tolist(), strict=True)) == naive(images, nested)


def test_with_one_grid_it_is_the_ordinary_map():
    grid = CubicalGrid([0.0, 0.0], [1.0, 1.0], (12, 12))
    images = random_images(grid, np.random.default_rng(5))
    expected = outer_approximation(
        images.lower,
        images.upper,
        grid,
        exits=images.exits.any(axis=(1, 2)),
        exterior_cells=images.exterior,
    )
    found = nested_outer_approximation([images], NestedGrid.of(grid))
    assert (found != expected).nnz == 0


def test_of_unknown_cells_all_neighbours_are_possible():
    grid = CubicalGrid([0.0, 0.0], [1.0, 1.0], (5, 5))
    images = own_cells(grid, np.zeros(25, dtype=bool))
    image = nested_outer_approximation([images], NestedGrid.of(grid))
    assert np.diff(image.indptr)[12] == 9
    assert np.diff(image.indptr)[0] == 5  # three neighbours, itself and the exterior
