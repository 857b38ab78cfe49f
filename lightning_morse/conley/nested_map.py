"""Outer approximation on grids inside grids: from image boxes to the sparse combinatorial map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.conley.combinatorial_map import cells_met, check_images, outer_approximation
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.nested import NestedGrid


@dataclass(frozen=True, eq=False)
class BoxImages:
    """What is known of the images of all cells of one grid, as long as they stay in its box.

    Attributes:
        lower: Lower corners of the image boxes, shape ``(grid.size, d)``.
        upper: Upper corners, same shape.
        exits: Whether a trajectory may cross each face of the box on its way, shape
            ``(grid.size, d, 2)``: axis, then lower and upper face.
        swept_lower: Lower corner of a box that contains the way within the box, shape
            ``(grid.size, d)``.
        swept_upper: Upper corner, same shape.
        exterior: Cells that count as exterior, shape ``(grid.size,)``.
    """

    lower: Array
    upper: Array
    exits: Mask
    swept_lower: Array
    swept_upper: Array
    exterior: Mask


def nested_outer_approximation(images: list[BoxImages], nested: NestedGrid) -> csr_array:
    r"""Map each cell to all cells that its trajectories may be in next.

    A trajectory that starts in a cell of a box and stays in the box is, at the end of the cell's
    flight, in the image box, hence in a cell that meets it: of that grid, or of one inside it. One
    that leaves the box first crosses a face, within what the flight sweeps; from there it goes on
    in a cell of the grid around, so the cells that meet that part of the face are in the image as
    well. If the face belongs to the outermost box, it is in the exterior. Hence the map is an outer
    approximation, with times that differ from point to point: see "Boxes inside boxes" in
    docs/mu.md for why no trajectory takes infinitely many steps in finite time.

    Args:
        images: The images on each grid; rows of covered cells are not used.
        nested: The grids.

    Returns:
        Boolean adjacency, shape ``(nested.size + 1, nested.size + 1)``; the last vertex is the
        exterior, which maps to itself. Row ``i`` is the image of cell ``i``, columns ascending.
        With one grid it is that of
        :func:`~lightning_morse.conley.combinatorial_map.outer_approximation`.

    Raises:
        ValueError: If an image box is reversed or NaN.
    """
    if len(images) == 1:
        (only,) = images
        leaves = only.exits.any(axis=(1, 2))
        return outer_approximation(
            only.lower, only.upper, nested.grids[0], exits=leaves, exterior_cells=only.exterior
        )
    rows, columns = [], []
    for k, of_box in enumerate(images):
        for row, column in _from_box(k, of_box, nested):
            rows.append(row)
            columns.append(column)
    row, column = np.concatenate(rows), np.concatenate(columns)
    outside = np.append(nested.gathered([of_box.exterior for of_box in images]), True)
    column = np.where(outside[column], nested.size, column)
    # A cell of the exterior maps there alone.
    column = np.where(outside[row], nested.size, column)
    row, column = np.append(row, nested.size), np.append(column, nested.size)
    size = nested.size + 1
    image = csr_array((np.ones(row.size, dtype=bool), (row, column)), shape=(size, size))
    image.sum_duplicates()
    return image


def _from_box(k: int, images: BoxImages, nested: NestedGrid) -> list[tuple[Cells, Cells]]:
    """Edges from the uncovered cells of one grid, as pairs of arrays: from, to."""
    grid, cells = nested.grids[k], nested.uncovered[k]
    low, up = check_images(images.lower[cells], images.upper[cells], cells.size, grid.dim)
    found = [_edges(low, up, j, nested, nested.part(k).start) for j in _inside(k, nested)]
    beyond = np.stack([low < grid.lower, up > grid.upper], axis=2)
    exits = images.exits[cells] | beyond
    root = nested.grids[0]
    for axis in range(grid.dim):
        for side, face, outermost in (
            (0, grid.lower[axis], root.lower[axis]),
            (1, grid.upper[axis], root.upper[axis]),
        ):
            leaving = np.flatnonzero(exits[:, axis, side])
            numbers = nested.part(k).start + leaving
            if face == outermost:
                found.append((numbers, np.full(numbers.size, nested.size)))
                continue
            first, last = images.swept_lower[cells[leaving]], images.swept_upper[cells[leaving]]
            first[:, axis] = last[:, axis] = face
            row, column = _edges(first, last, nested.parents[k], nested, 0)
            found.append((numbers[row], column))
    return found


def _edges(low: Array, up: Array, j: int, nested: NestedGrid, first: int) -> tuple[Cells, Cells]:
    """Uncovered cells of grid ``j`` that meet each box; boxes are numbered from ``first``."""
    met, counts = cells_met(low, up, nested.grids[j])
    row = first + np.repeat(np.arange(len(low)), counts)
    column = nested.numbers[j][met]
    kept = column >= 0
    return row[kept], column[kept]


def _inside(k: int, nested: NestedGrid) -> list[int]:
    """A grid and all grids inside it."""
    found = [k]
    for j, parent in enumerate(nested.parents):
        if parent in found:
            found.append(j)
    return found


def own_cells(grid: CubicalGrid, exterior: Mask) -> BoxImages:
    """Images of cells of which nothing is known: the cells themselves, and all that they touch."""
    low, up = grid.cell_bounds()
    exits = np.stack([low <= grid.lower, up >= grid.upper], axis=2)
    return BoxImages(low, up, exits, low.copy(), up.copy(), exterior)
