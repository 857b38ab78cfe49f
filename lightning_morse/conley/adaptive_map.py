"""Outer approximation on an adaptive grid: from image boxes to the sparse combinatorial map."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.sparse import csr_array

from lightning_morse._typing import Array, Cells
from lightning_morse.conley.combinatorial_map import cells_met, check_images
from lightning_morse.grids.adaptive import AdaptiveGrid
from lightning_morse.grids.cubical import check_mask

# Boxes followed down the trees at a time. This bounds memory; the result does not depend on it.
_CHUNK = 2**13


def adaptive_outer_approximation(
    image_lower: ArrayLike,
    image_upper: ArrayLike,
    grid: AdaptiveGrid,
    *,
    exits: ArrayLike | None = None,
) -> csr_array:
    r"""Map each cell of an adaptive grid to all cells that meet the box enclosing its image.

    :func:`~lightning_morse.conley.combinatorial_map.outer_approximation` for cells of several
    sizes, with the same premise, conclusion and conventions. On a grid without refinement the
    result is identical. The cost is linear in the number of pairs of a box and a node that meet.

    Args:
        image_lower: Lower corners of the image boxes, shape ``(grid.size, d)``.
        image_upper: Upper corners, same shape; elementwise ``>= image_lower``.
        grid: The adaptive grid, ``d`` axes.
        exits: Cells known to reach the exterior whatever their image box says, boolean, shape
            ``(grid.size,)``.

    Returns:
        Boolean adjacency, shape ``(grid.size + 1, grid.size + 1)``; the last vertex is the
        exterior, which maps to itself. Row ``i`` is the image of cell ``i``, columns ascending.

    Raises:
        ValueError: If a shape does not match the grid, or a box is reversed or NaN.

    Example:
        The cells [0, 1], [1, 3/2] and [3/2, 2] under x / 2:

        >>> from lightning_morse.grids.cubical import CubicalGrid
        >>> grid = AdaptiveGrid.of(CubicalGrid([0.0], [2.0], (2,))).refine([False, True])
        >>> lower, upper = grid.cell_bounds()
        >>> image = adaptive_outer_approximation(lower / 2, upper / 2, grid)
        >>> [row.tolist() for row in np.split(image.indices, image.indptr[1:-1])]
        [[0], [0], [0, 1], [3]]
    """
    low, up = check_images(image_lower, image_upper, grid.size, grid.dim)
    leaves = check_mask(exits, "exits", grid.size)
    leaves |= (low < grid.coarse.lower).any(axis=1) | (up > grid.coarse.upper).any(axis=1)

    columns, counts = [], [np.zeros(1, dtype=np.int64)]
    for start in range(0, grid.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        box, cell = leaves_met(low[part], up[part], grid)
        gone = np.flatnonzero(leaves[part])
        # The conversion from COO to CSR sorts by row in linear time, and columns within each row.
        rows = csr_array(
            (
                np.ones(box.size + gone.size, dtype=bool),
                (
                    np.concatenate([box, gone]),
                    np.concatenate([cell, np.full(gone.size, grid.size, dtype=np.int32)]),
                ),
            ),
            shape=(leaves[part].size, grid.size + 1),
        )
        columns.append(rows.indices.astype(np.int32, copy=False))
        counts.append(np.diff(rows.indptr).astype(np.int64))
    columns.append(np.array([grid.size], dtype=np.int32))
    counts.append(np.ones(1, dtype=np.int64))
    indices = np.concatenate(columns)
    index_type: DTypeLike = np.int32 if indices.size < 2**31 else np.int64
    return csr_array(
        (
            np.ones(indices.size, dtype=bool),
            indices,
            np.cumsum(np.concatenate(counts), dtype=index_type),
        ),
        shape=(grid.size + 1, grid.size + 1),
    )


def leaves_met(lower: Array, upper: Array, grid: AdaptiveGrid) -> tuple[Cells, NDArray[np.int32]]:
    """All cells that meet each of the given closed boxes.

    Along an axis, a box that meets a node meets its lower half iff the box begins at or below the
    middle of the node, and its upper half iff the box ends at or above it.

    Args:
        lower: Lower corners of the boxes, shape ``(n, d)``, in the coordinates of the grid.
        upper: Upper corners, same shape.
        grid: The adaptive grid.

    Returns:
        Pairs of a box and a cell that meet, each once, in no fixed order: box numbers and cell
        numbers, two arrays of the same length.
    """
    node, counts = cells_met(lower, upper, grid.coarse)
    box = np.repeat(np.arange(len(lower)), counts)
    halves, n_halves = _halves_met(grid.dim)
    found_box, found_cell = [], []
    while node.size:
        child = grid.first_child[node]
        inner = child >= 0
        found_box.append(box[~inner])
        found_cell.append(grid.leaf_number[node[~inner]])
        box, node, child = box[inner], node[inner], child[inner]
        code = np.zeros(node.size, dtype=np.int64)
        for axis in range(grid.dim):
            middle = grid.middles[axis, node]
            below, above = lower[box, axis] <= middle, upper[box, axis] >= middle
            code = 3 * code + below + 2 * above - 1
        many = n_halves[code]
        parent = np.repeat(np.arange(node.size), many)
        turn = np.arange(parent.size) - np.repeat(np.cumsum(many) - many, many)
        box, node = box[parent], child[parent] + halves[code[parent], turn]
    if not found_box:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32)
    return np.concatenate(found_box), np.concatenate(found_cell)


@lru_cache
def _halves_met(dim: int) -> tuple[NDArray[np.int32], Cells]:
    """Children met, for each combination of halves met per axis: lower, upper or both.

    Returns:
        Offsets of the children in C order, padded with zeros, shape ``(3^d, 2^d)``, and their
        number, shape ``(3^d,)``.
    """
    offsets = np.zeros((3**dim, 2**dim), dtype=np.int32)
    counts = np.zeros(3**dim, dtype=np.int64)
    for code, ways in enumerate(itertools.product(((0,), (1,), (0, 1)), repeat=dim)):
        for child in itertools.product(*ways):
            offsets[code, counts[code]] = np.ravel_multi_index(child, (2,) * dim)
            counts[code] += 1
    return offsets, counts
