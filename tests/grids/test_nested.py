"""Grids inside grids: which cells there are, and which of them contains a point."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.nested import NestedGrid


def tower(dim: int) -> NestedGrid:
    """Three boxes inside each other, and one beside the second."""
    root = CubicalGrid([0.0] * dim, [1.0] * dim, (16,) * dim)
    nested = NestedGrid.of(root).around([0.1] * dim, [0.4] * dim, 0, 12)
    nested = nested.around([0.2] * dim, [0.3] * dim, 1, 6)
    return nested.around([0.6] * dim, [1.0] * dim, 0, 10)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_every_point_lies_in_the_cell_it_is_given(dim):
    nested = tower(dim)
    points = np.random.default_rng(0).random((2000, dim)) * 1.2 - 0.1
    cells = nested.cell_of(points)
    outside = ((points < 0) | (points > 1)).any(axis=1)
    assert ((cells == -1) == outside).all()
    lower = np.concatenate(
        [g.cell_bounds()[0][c] for g, c in zip(nested.grids, nested.uncovered, strict=True)]
    )
    upper = np.concatenate(
        [g.cell_bounds()[1][c] for g, c in zip(nested.grids, nested.uncovered, strict=True)]
    )
    inside = ~outside
    assert (points[inside] >= lower[cells[inside]]).all()
    assert (points[inside] <= upper[cells[inside]]).all()
    # They fill the box without overlap, and the innermost box that contains a point has its cell.
    assert nested.volumes.sum() == pytest.approx(1)
    boxes = nested.box_of(points)
    for k, grid in enumerate(nested.grids):
        mine = boxes == k
        assert ((cells[mine] >= nested.starts[k]) & (cells[mine] < nested.starts[k + 1])).all()
        assert (grid.cell_of(points[mine]) >= 0).all()


def test_faces_of_boxes_inside_are_edges_of_the_grid_around():
    nested = tower(2)
    for grid, parent in zip(nested.grids[1:], nested.parents[1:], strict=True):
        around = nested.grids[parent]
        for j in range(2):
            assert grid.lower[j] in around.edges[j]
            assert grid.upper[j] in around.edges[j]
            # A cell lies between, unless the face is one of the outermost box.
            assert grid.lower[j] > around.lower[j]
            assert grid.upper[j] < around.upper[j] or grid.upper[j] == nested.grids[0].upper[j]


def test_values_of_finer_cells_are_combined():
    nested = tower(2)
    values = np.random.default_rng(1).random(nested.size)
    on_root = nested.on_grid(0, values, np.maximum)
    expected = np.zeros(nested.grids[0].size)
    cells = nested.grids[0].cell_of(nested.cell_centers())
    np.maximum.at(expected, cells, values)
    assert np.array_equal(on_root, expected)


def test_boxes_that_would_touch_are_refused():
    nested = tower(2)
    with pytest.raises(ValueError, match="must lie a cell apart"):
        nested.around([0.3, 0.3], [0.6, 0.6], 0, 8)
    small = NestedGrid.of(CubicalGrid([0.0], [1.0], (8,))).around([0.3], [0.4], 0, 4)
    with pytest.raises(ValueError, match="must leave some of the one around it"):
        NestedGrid.of(CubicalGrid([0.0, 0.0], [1.0, 2.0], (8, 4))).around([0, 0], [1, 2], 0, 8)
    with pytest.raises(ValueError, match="needs cells around it along axis 0"):
        small.around([0.25], [0.26], 1, 4).around([0.3], [0.31], 2, 4)
