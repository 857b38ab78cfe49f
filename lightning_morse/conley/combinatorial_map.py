"""Outer approximation on a cubical grid: from image boxes to the sparse combinatorial map."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.conley.cell_ranges import (
    CellIndices,
    CellNumbers,
    cut_at_seams,
    list_cells,
)
from lightning_morse.grids.cubical import CubicalGrid, check_mask

# An interval that touches the seam of a periodic axis is moved by whole turns and widened by this
# many units of rounding of the largest number involved. The move and the edges it is compared with
# take a handful of roundings, of at most half a unit each. Soundness depends on the widening:
# without it contact at the seam could be lost.
_SEAM_ROUNDING_UNITS = 8


def outer_approximation(
    image_lower: ArrayLike,
    image_upper: ArrayLike,
    grid: CubicalGrid,
    *,
    exits: ArrayLike | None = None,
    exterior_cells: ArrayLike | None = None,
) -> csr_array:
    r"""Map each grid cell to all cells that meet the box enclosing its image.

    If the box ``[image_lower[i], image_upper[i]]`` contains :math:`f(\xi_i)` for every cell
    :math:`\xi_i`, the result is an outer approximation of :math:`f` on the box of the grid
    (Kalies, Mischaikow, Vandervorst, "An algorithmic approach to chain recurrence", 2005). That
    premise cannot be checked here; if it holds with some probability, so does the conclusion.

    Cells and image boxes are closed: an image box that touches a cell meets it. The exterior is
    everything strictly outside the box of the grid; a cell whose image reaches it gets an edge to
    it, and images are never clipped silently. Nothing leaves through a periodic axis: images
    continue across the seam, and one at least as long as the axis meets all of its cells.

    Args:
        image_lower: Lower corners of the image boxes, shape ``(grid.size, d)``, in the
            coordinates of the grid's box.
        image_upper: Upper corners, same shape; elementwise ``>= image_lower``.
        grid: The cubical grid, ``d`` axes.
        exits: Cells known to reach the exterior whatever their image box says (a flow may leave
            the box and return within the time of the map), boolean, shape ``(grid.size,)``.
        exterior_cells: Cells that belong to the exterior (where the map is not defined), boolean,
            shape ``(grid.size,)``. They map to the exterior, and so does every cell whose image
            box meets one of them.

    Returns:
        Boolean adjacency, shape ``(grid.size + 1, grid.size + 1)``; the last vertex is the
        exterior, which maps to itself. Row ``i`` is the image of cell ``i``, columns ascending.

    Raises:
        ValueError: If a shape does not match the grid, or a box is reversed or NaN.

    Example:
        >>> grid = CubicalGrid(lower=[-1.0], upper=[1.0], shape=(4,))
        >>> lower, upper = grid.cell_bounds()
        >>> image = outer_approximation(lower / 2, upper / 2, grid)   # f(x) = x / 2
        >>> [row.tolist() for row in np.split(image.indices, image.indptr[1:-1])]
        [[0, 1], [1, 2], [1, 2], [2, 3], [4]]
    """
    low, up = check_images(image_lower, image_upper, grid.size, grid.dim)
    leaves = check_mask(exits, "exits", grid.size)
    outside = check_mask(exterior_cells, "exterior_cells", grid.size)

    first, width = [], []
    for axis, wraps in enumerate(grid.periodic):
        meets = _meets_on_circle if wraps else _meets
        begin, count = meets(low[:, axis], up[:, axis], grid.edges[axis])
        first.append(begin)
        width.append(count)
        if not wraps:
            # The box of the grid is closed: an image that only touches its boundary stays inside.
            leaves |= (low[:, axis] < grid.lower[axis]) | (up[:, axis] > grid.upper[axis])
    width[0][outside] = 0
    leaves |= outside
    first_piece = np.arange(grid.size + 1)  # the image of a cell is one piece, unless cut at a seam
    if any(grid.periodic):
        first, width, leaves, first_piece = cut_at_seams(first, width, leaves, grid)
    ends, indices = list_cells(first, width, leaves, grid)
    indptr = np.zeros(grid.size + 2, dtype=ends.dtype)
    indptr[1:-1] = ends[first_piece[1:] - 1]
    indptr[-1] = indices.size
    image = csr_array(
        (np.ones(indices.size, dtype=bool), indices, indptr),
        shape=(grid.size + 1, grid.size + 1),
    )
    if any(grid.periodic):
        image.sort_indices()
    return _redirect(image, outside) if outside.any() else image


def cells_met(lower: Array, upper: Array, grid: CubicalGrid) -> tuple[CellNumbers, Cells]:
    """All cells that meet each of the given closed boxes; no axis of the grid may be periodic.

    Args:
        lower: Lower corners of the boxes, shape ``(n, d)``, in the coordinates of the grid.
        upper: Upper corners, same shape.
        grid: The cubical grid.

    Returns:
        The cells box by box, ascending within each; how many cells each box meets, shape ``(n,)``.
    """
    first, width = zip(
        *(_meets(lower[:, j], upper[:, j], grid.edges[j]) for j in range(grid.dim)), strict=True
    )
    counts = math.prod(w.astype(np.int64) for w in width)
    # A box that meets no cell is listed as the exterior, which is then removed again.
    nowhere = counts == 0
    _, cells = list_cells(list(first), list(width), nowhere, grid)
    return cells[cells != grid.size], counts


def _meets(low: Array, up: Array, edges: Array) -> tuple[CellIndices, CellIndices]:
    """First cell that each closed interval meets along one axis, and how many cells it meets."""
    first = np.searchsorted(edges[1:], low, side="left").astype(np.int32)
    beyond = np.searchsorted(edges[:-1], up, side="right").astype(np.int32)
    return first, np.maximum(beyond - first, 0)


def _meets_on_circle(low: Array, up: Array, edges: Array) -> tuple[CellIndices, CellIndices]:
    """As :func:`_meets`, on a periodic axis; a range of cells may continue across the seam."""
    n, period = edges.size - 1, edges[-1] - edges[0]
    with np.errstate(invalid="ignore", over="ignore"):
        covers = ~(up - low < period)  # also true for infinite ends
    low, up = np.where(covers, edges[0], low), np.where(covers, edges[0], up)
    turns = np.floor((low - edges[0]) / period)
    # An interval that keeps clear of the seam is compared as it is. One that touches or crosses it
    # is moved by whole turns, and widened by more than the rounding errors of the move.
    seam = (low <= edges[0]) | (up >= edges[-1])
    largest = np.maximum(np.abs(low), np.abs(up)) + np.abs(edges).max() + period
    rounding = _SEAM_ROUNDING_UNITS * np.finfo(np.float64).eps * largest
    slack = np.where(seam, rounding, 0.0)
    # Three copies of the axis side by side turn contact across the seam into ordinary contact.
    unrolled = np.concatenate(
        [edges[:-1] - period, edges[:-1], edges[:-1] + period, [edges[-1] + period]]
    )
    first, count = _meets(low - turns * period - slack, up - turns * period + slack, unrolled)
    covers |= count >= n
    return (
        np.where(covers, 0, first % n).astype(np.int32),
        np.where(covers, n, count).astype(np.int32),
    )


def _redirect(image: csr_array, outside: Mask) -> csr_array:
    """Replace edges into cells of the exterior by edges to the exterior vertex."""
    column = np.append(np.where(outside, outside.size, np.arange(outside.size)), outside.size)
    indices = column[image.indices].astype(np.int32)
    merged = csr_array((image.data, indices, image.indptr.copy()), shape=image.shape)
    merged.sum_duplicates()
    return merged


def check_images(
    image_lower: ArrayLike, image_upper: ArrayLike, size: int, dim: int
) -> tuple[Array, Array]:
    """Validate the corners of image boxes and return them as float64 arrays.

    Args:
        image_lower: Lower corners, shape ``(size, dim)``.
        image_upper: Upper corners, same shape.
        size: Number of cells.
        dim: Number of axes.

    Raises:
        ValueError: If a shape is wrong, or a box is reversed or NaN.
    """
    low = np.asarray(image_lower, dtype=np.float64)
    up = np.asarray(image_upper, dtype=np.float64)
    for name, corner in (("image_lower", low), ("image_upper", up)):
        if corner.shape != (size, dim):
            raise ValueError(
                f"{name} must have one row for each of the {size} cells and one column for "
                f"each of the {dim} axes, got shape {corner.shape}"
            )
    if not (low <= up).all():  # also false for NaN
        cell, axis = (int(i) for i in np.argwhere(~(low <= up))[0])
        raise ValueError(
            f"image_lower must not exceed image_upper, but cell {cell} has lower "
            f"{low[cell, axis]} and upper {up[cell, axis]} on axis {axis}"
        )
    return low, up
