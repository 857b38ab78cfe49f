"""From image boxes of cells to the sparse combinatorial map on the grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from lightning_morse.grid import CubicalGrid


def outer_approximation(
    image_lower: ArrayLike,
    image_upper: ArrayLike,
    grid: CubicalGrid,
    *,
    exits: ArrayLike | None = None,
    exterior_cells: ArrayLike | None = None,
) -> csr_array:
    r"""Send each grid cell to every cell that meets the box enclosing its image.

    If the box ``[image_lower[i], image_upper[i]]`` contains :math:`f(\xi_i)` for every cell
    :math:`\xi_i`, the result is an outer approximation of :math:`f` on the box of the grid
    (Kalies, Mischaikow, Vandervorst, "An algorithmic approach to chain recurrence", 2005). That
    premise cannot be checked here; if it holds with some probability, so does the conclusion.
    Cells and image boxes are closed: an image box that touches a cell meets it. The exterior is
    what lies strictly outside the grid's box; an image that reaches it gets an edge to it, and is
    never clipped silently.

    Args:
        image_lower: Lower corners of the image boxes, shape ``(grid.size, d)``, in the
            coordinates of the grid's box.
        image_upper: Upper corners, same shape; elementwise ``>= image_lower``.
        grid: The cubical grid, ``d`` axes.
        exits: Cells known to reach the exterior whatever their image box says (a flow may leave
            and come back in the meantime), boolean, shape ``(grid.size,)``.
        exterior_cells: Cells that count as exterior (where the map is not defined), boolean,
            shape ``(grid.size,)``. They map to the exterior, and what meets them reaches it.

    Returns:
        Boolean adjacency, shape ``(grid.size + 1, grid.size + 1)``; the last vertex is the
        exterior, which maps to itself. Row ``i`` is the image of cell ``i``, columns ascending.

    Raises:
        ValueError: If a shape disagrees with the grid, or a box is reversed or NaN.

    Example:
        >>> grid = CubicalGrid(lower=[-1.0], upper=[1.0], shape=(4,))
        >>> lower, upper = grid.cell_bounds()
        >>> image = outer_approximation(lower / 2, upper / 2, grid)   # f(x) = x / 2
        >>> [row.tolist() for row in np.split(image.indices, image.indptr[1:-1])]
        [[0, 1], [1, 2], [1, 2], [2, 3], [4]]
    """
    low, up = _check_images(image_lower, image_upper, grid)
    leaves = _mask(exits, "exits", grid)
    outside = _mask(exterior_cells, "exterior_cells", grid)

    first, widths = _meets(low, up, grid)
    # The box of the grid is closed, so an image that only touches its boundary has not left.
    leaves |= np.any((low < grid.lower) | (up > grid.upper), axis=1)

    widths[outside] = 0
    leaves |= outside
    counts = widths.prod(axis=1)

    # The exterior comes last in its row.
    ends = np.cumsum(counts + leaves)
    index_type = np.int32 if ends[-1] < 2**31 else np.int64
    indptr = np.zeros(grid.size + 2, dtype=index_type)
    indptr[1:-1] = ends
    indptr[-1] = ends[-1] + 1
    indices = np.full(indptr[-1], grid.size, dtype=np.int32)
    target = _enumerate(first, widths, grid)
    slots = np.repeat(indptr[:-2] - (np.cumsum(counts) - counts), counts)
    indices[slots + np.arange(counts.sum())] = target
    image = csr_array(
        (np.ones(indices.size, dtype=bool), indices, indptr),
        shape=(grid.size + 1, grid.size + 1),
    )
    return _redirect(image, outside) if outside.any() else image


def cells_met(
    lower: NDArray[np.float64], upper: NDArray[np.float64], grid: CubicalGrid
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All cells that meet each of some closed boxes.

    Args:
        lower: Lower corners of the boxes, shape ``(n, d)``, coordinates of the grid's box.
        upper: Upper corners, same shape.
        grid: The cubical grid.

    Returns:
        The cells of one box after the other, ascending; how many each box meets, shape ``(n,)``.
    """
    first, widths = _meets(lower, upper, grid)
    return _enumerate(first, widths, grid), widths.prod(axis=1)


def _meets(
    low: NDArray[np.float64], up: NDArray[np.float64], grid: CubicalGrid
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First cell that each closed box meets, and how many from there on, along each axis."""
    first = np.empty(low.shape, dtype=np.int64)
    last = np.empty_like(first)
    for j, (edges, n) in enumerate(zip(grid.edges, grid.shape, strict=True)):
        first[:, j] = np.maximum(np.searchsorted(edges[1:], low[:, j], side="left"), 0)
        last[:, j] = np.minimum(np.searchsorted(edges[:-1], up[:, j], side="right") - 1, n - 1)
    return first, np.maximum(last - first + 1, 0)


def _enumerate(
    first: NDArray[np.int64], widths: NDArray[np.int64], grid: CubicalGrid
) -> NDArray[np.int64]:
    """Numbers of the cells of all boxes, one box after the other."""
    counts = widths.prod(axis=1)
    strides = np.cumprod((1, *grid.shape[:0:-1]))[::-1]
    position = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    target = np.repeat((first * strides).sum(axis=1), counts)
    for j in range(grid.dim - 1, -1, -1):
        position, offset = np.divmod(position, np.repeat(widths[:, j], counts))
        target += offset * strides[j]
    return target


def _redirect(image: csr_array, outside: NDArray[np.bool_]) -> csr_array:
    """Turn edges into cells that count as exterior into edges to the exterior."""
    column = np.append(np.where(outside, outside.size, np.arange(outside.size)), outside.size)
    indices = column[image.indices].astype(np.int32)
    merged = csr_array((image.data, indices, image.indptr.copy()), shape=image.shape)
    merged.sum_duplicates()
    return merged


def _check_images(
    image_lower: ArrayLike, image_upper: ArrayLike, grid: CubicalGrid
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low = np.asarray(image_lower, dtype=np.float64)
    up = np.asarray(image_upper, dtype=np.float64)
    for name, corner in (("image_lower", low), ("image_upper", up)):
        if corner.shape != (grid.size, grid.dim):
            raise ValueError(
                f"{name} must have one row for each of the {grid.size} cells and one column for "
                f"each of the {grid.dim} axes, got shape {corner.shape}"
            )
    wrong = ~(low <= up)  # true for NaN as well
    if wrong.any():
        cell, axis = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"image_lower must not exceed image_upper, but cell {cell} has lower "
            f"{low[cell, axis]} and upper {up[cell, axis]} on axis {axis}"
        )
    return low, up


def _mask(mask: ArrayLike | None, name: str, grid: CubicalGrid) -> NDArray[np.bool_]:
    if mask is None:
        return np.zeros(grid.size, dtype=bool)
    out = np.array(mask)
    if out.dtype != bool or out.shape != (grid.size,):
        raise ValueError(
            f"{name} must be boolean with one entry for each of the {grid.size} cells, "
            f"got {out.dtype} of shape {out.shape}"
        )
    return out
