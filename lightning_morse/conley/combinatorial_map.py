"""From image boxes of cells to the sparse combinatorial map on the grid."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.sparse import csr_array

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.grids.cubical import CubicalGrid, check_mask

# Boxes enumerated at once: what is needed on the way stays in the cache.
_CHUNK = 2**14


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
    never clipped silently. On a periodic axis of the grid nothing leaves: an image goes on past
    the seam, and one at least as long as the axis meets every cell of it.

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
            # The box of the grid is closed, so an image that only touches its boundary stays.
            leaves |= (low[:, axis] < grid.lower[axis]) | (up[:, axis] > grid.upper[axis])
    width[0][outside] = 0
    leaves |= outside
    piece_of = np.arange(grid.size + 1)  # where the pieces of each cell begin
    if any(grid.periodic):
        first, width, leaves, piece_of = _unwrapped(first, width, leaves, grid)
    ends, indices = _enumerate(first, width, leaves, grid)
    indptr = np.zeros(grid.size + 2, dtype=ends.dtype)
    indptr[1:-1] = ends[piece_of[1:] - 1]
    indptr[-1] = indices.size
    image = csr_array(
        (np.ones(indices.size, dtype=bool), indices, indptr),
        shape=(grid.size + 1, grid.size + 1),
    )
    if any(grid.periodic):
        image.sort_indices()
    return _redirect(image, outside) if outside.any() else image


def cells_met(lower: Array, upper: Array, grid: CubicalGrid) -> tuple[NDArray[np.int32], Cells]:
    """All cells that meet each of some closed boxes; no axis of the grid is periodic.

    Args:
        lower: Lower corners of the boxes, shape ``(n, d)``, coordinates of the grid's box.
        upper: Upper corners, same shape.
        grid: The cubical grid.

    Returns:
        The cells of one box after the other, ascending; how many each box meets, shape ``(n,)``.
    """
    first, width = zip(
        *(_meets(lower[:, j], upper[:, j], grid.edges[j]) for j in range(grid.dim)), strict=True
    )
    counts = math.prod(w.astype(np.int64) for w in width)
    nowhere = counts == 0  # holds the place of the exterior, which is taken out again
    _, cells = _enumerate(list(first), list(width), nowhere, grid)
    return cells[cells != grid.size], counts


def _meets(low: Array, up: Array, edges: Array) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """First cell that each closed interval meets, and how many cells it meets."""
    first = np.searchsorted(edges[1:], low, side="left").astype(np.int32)
    beyond = np.searchsorted(edges[:-1], up, side="right").astype(np.int32)
    return first, np.maximum(beyond - first, 0)


def _meets_on_circle(
    low: Array, up: Array, edges: Array
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """As :func:`_meets`, on an axis whose ends are one point; the cells may go round past it."""
    n, period = edges.size - 1, edges[-1] - edges[0]
    with np.errstate(invalid="ignore", over="ignore"):
        covers = ~(up - low < period)  # true for infinite ends as well
    low, up = np.where(covers, edges[0], low), np.where(covers, edges[0], up)
    turns = np.floor((low - edges[0]) / period)
    # An interval inside the box is compared as it is; one that touches or passes the seam is
    # moved, and widened by more than the rounding that costs.
    seam = (low <= edges[0]) | (up >= edges[-1])
    largest = np.maximum(np.abs(low), np.abs(up)) + np.abs(edges).max() + period
    slack = np.where(seam, 8 * np.finfo(np.float64).eps * largest, 0.0)
    # Three turns of edges, so that contact across the seam is contact between neighbours.
    unrolled = np.concatenate(
        [edges[:-1] - period, edges[:-1], edges[:-1] + period, [edges[-1] + period]]
    )
    first, count = _meets(low - turns * period - slack, up - turns * period + slack, unrolled)
    covers |= count >= n
    return (
        np.where(covers, 0, first % n).astype(np.int32),
        np.where(covers, n, count).astype(np.int32),
    )


_Axes = list[NDArray[np.int32]]


def _unwrapped(
    first: _Axes, width: _Axes, leaves: Mask, grid: CubicalGrid
) -> tuple[_Axes, _Axes, Mask, Cells]:
    """Cut the ranges that go round on a periodic axis in two, and say where each cell begins.

    The exterior stays with the last piece of a cell.
    """
    cell = np.arange(grid.size)
    for w in width:
        w[np.any([other == 0 for other in width], axis=0)] = 0  # an empty box stays in one piece
    for axis, n in enumerate(grid.shape):
        over = np.where(width[axis] > 0, first[axis] + width[axis] - n, 0)
        pieces = np.where(over > 0, 2, 1)
        source = np.repeat(np.arange(cell.size), pieces)
        is_last = np.ones(source.size, dtype=bool)
        is_last[:-1] = source[1:] != source[:-1]
        is_head = (pieces[source] == 2) & ~is_last
        is_tail = (pieces[source] == 2) & is_last
        first, width = [f[source] for f in first], [w[source] for w in width]
        width[axis][is_head] -= over[source][is_head]
        first[axis][is_tail], width[axis][is_tail] = 0, over[source][is_tail]
        cell, leaves = cell[source], leaves[source] & is_last
    return first, width, leaves, np.searchsorted(cell, np.arange(grid.size + 1))


def _enumerate(
    first: _Axes, width: _Axes, leaves: Mask, grid: CubicalGrid
) -> tuple[NDArray[np.integer], NDArray[np.int32]]:
    """Cells of all boxes one after the other, the exterior after the box of who leaves.

    The numbers rise by one along a run of the last axis. So they are the running sum of an array
    of ones in which only the beginnings of runs, of rows of runs and so on hold something else:
    the work and the memory of an edge are those of one addition and one int32.

    Args:
        first: First cell on each axis, ``d`` arrays with one entry a box.
        width: Number of cells on each axis, likewise.
        leaves: Boxes followed by the exterior. An empty box must be among them.
        grid: The grid.

    Returns:
        Where each box ends, and the cells.
    """
    counts = leaves.astype(np.int64)
    counts += math.prod(w.astype(np.int64) for w in width)
    n_edges = int(counts.sum()) + 1  # and the exterior's own
    index_type: DTypeLike = np.int32 if n_edges < 2**31 else np.int64
    ends = np.cumsum(counts, dtype=index_type)
    cells = np.empty(n_edges, dtype=np.int32)
    cells[-1] = grid.size
    done = 0
    for start in range(0, counts.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        upto = int(ends[part][-1])
        _fill(
            cells[done:upto],
            [f[part] for f in first],
            [w[part] for w in width],
            leaves[part],
            grid,
        )
        done = upto
    return ends, cells


def _fill(
    cells: NDArray[np.int32],
    first: _Axes,
    width: _Axes,
    leaves: Mask,
    grid: CubicalGrid,
) -> None:
    """Write the cells of some boxes into an array of the right length."""
    exterior = grid.size
    counts = math.prod(w.astype(np.int64) for w in width)
    filled = counts > 0
    begins = np.cumsum(counts + leaves) - counts - leaves
    cells[:] = 1
    strides = [math.prod(grid.shape[axis + 1 :]) for axis in range(grid.dim)]
    # How far the number falls back when the axes seen so far start again, from the last axis up,
    # and how long a run over them is.
    back = np.zeros(leaves.size, dtype=np.int32)
    length = np.ones(leaves.size, dtype=np.int64)
    for axis in range(grid.dim - 1, 0, -1):
        back += (width[axis] - 1) * np.int32(strides[axis])
        length *= width[axis]
        runs = math.prod(w.astype(np.int64) for w in width[:axis]) * filled
        # Where the runs of each box begin: its own beginning, then a run further each time.
        starts = np.cumsum(runs) - runs
        places = np.repeat(length, runs)
        places[starts[filled]] = np.diff(begins[filled], prepend=0) - (
            np.append(0, ((runs - 1) * length)[filled][:-1])
        )
        cells[np.cumsum(places)] = np.repeat(np.int32(strides[axis - 1]) - back, runs)
    back += (width[0] - 1) * np.int32(strides[0])

    # The beginning of each box, and the exterior behind it, from what stands before them.
    begin = sum(f * np.int32(s) for f, s in zip(first, strides, strict=True))
    begin = np.where(filled, begin, exterior).astype(np.int32)
    final = begin + back
    cells[(begins + counts)[leaves]] = (exterior - final)[leaves]
    final[leaves] = exterior
    cells[begins[1:]] = begin[1:] - final[:-1]
    cells[0] = begin[0]
    np.cumsum(cells, dtype=np.int32, out=cells)


def _redirect(image: csr_array, outside: Mask) -> csr_array:
    """Turn edges into cells that count as exterior into edges to the exterior."""
    column = np.append(np.where(outside, outside.size, np.arange(outside.size)), outside.size)
    indices = column[image.indices].astype(np.int32)
    merged = csr_array((image.data, indices, image.indptr.copy()), shape=image.shape)
    merged.sum_duplicates()
    return merged


def check_images(
    image_lower: ArrayLike, image_upper: ArrayLike, size: int, dim: int
) -> tuple[Array, Array]:
    """Return the corners of image boxes as float64 arrays, or say what is wrong with them.

    Args:
        image_lower: Lower corners, shape ``(size, dim)``.
        image_upper: Upper corners, same shape.
        size: Number of cells.
        dim: Number of axes.

    Raises:
        ValueError: If a shape is another, or a box is reversed or NaN.
    """
    low = np.asarray(image_lower, dtype=np.float64)
    up = np.asarray(image_upper, dtype=np.float64)
    for name, corner in (("image_lower", low), ("image_upper", up)):
        if corner.shape != (size, dim):
            raise ValueError(
                f"{name} must have one row for each of the {size} cells and one column for "
                f"each of the {dim} axes, got shape {corner.shape}"
            )
    if not (low <= up).all():  # false for NaN as well
        cell, axis = (int(i) for i in np.argwhere(~(low <= up))[0])
        raise ValueError(
            f"image_lower must not exceed image_upper, but cell {cell} has lower "
            f"{low[cell, axis]} and upper {up[cell, axis]} on axis {axis}"
        )
    return low, up
