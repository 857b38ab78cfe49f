"""Products of index ranges, one range per axis, listed as cell numbers at the cost of a cumsum."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lightning_morse._typing import Cells, Mask
from lightning_morse.grids.cubical import CubicalGrid

# Boxes listed at a time, few enough for the intermediate arrays to stay in the cache. The result
# does not depend on it.
_CHUNK = 2**14

CellNumbers = NDArray[np.int32]
CellIndices = NDArray[np.int32]
# One array per axis, with one entry per box.
Ranges = list[CellIndices]


def cut_at_seams(
    first: Ranges, width: Ranges, leaves: Mask, grid: CubicalGrid
) -> tuple[Ranges, Ranges, Mask, Cells]:
    """Cut each range that crosses the seam of a periodic axis in two.

    Args:
        first: First cell of each box per axis, one box per cell of the grid.
        width: Number of cells of each box per axis, likewise.
        leaves: Boxes that also reach the exterior.
        grid: The grid.

    Returns:
        First cells, widths and exits of the pieces, and the number of the first piece of each box,
        shape ``(grid.size + 1,)``. The exit stays with the last piece of a box.
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


def list_cells(
    first: Ranges, width: Ranges, leaves: Mask, grid: CubicalGrid
) -> tuple[NDArray[np.integer], CellNumbers]:
    """Cells of all boxes, concatenated; the exterior follows the cells of each box that leaves.

    Cell numbers increase by one along a run of the last axis. They are therefore the cumulative
    sum of an array of ones in which only the starts of runs, of rows of runs and so on differ from
    one: an edge costs one addition and one int32.

    Args:
        first: First cell of each box per axis.
        width: Number of cells of each box per axis.
        leaves: Boxes followed by the exterior. Every empty box must be among them.
        grid: The grid.

    Returns:
        Where each box ends in the list, and the list of cells, followed by one more exterior: the
        image of the exterior itself.
    """
    counts = leaves.astype(np.int64)
    counts += math.prod(w.astype(np.int64) for w in width)
    n_edges = int(counts.sum()) + 1  # one more for the exterior, which maps to itself
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
    cells: CellNumbers,
    first: Ranges,
    width: Ranges,
    leaves: Mask,
    grid: CubicalGrid,
) -> None:
    """Write the cells of the boxes of one chunk into an array of the right length."""
    exterior = grid.size
    counts = math.prod(w.astype(np.int64) for w in width)
    filled = counts > 0
    begins = np.cumsum(counts + leaves) - counts - leaves
    cells[:] = 1
    strides = [math.prod(grid.shape[axis + 1 :]) for axis in range(grid.dim)]
    # From the last axis up: how far the cell number falls back when the axes seen so far start
    # over, and the length of a run over these axes.
    back = np.zeros(leaves.size, dtype=np.int32)
    length = np.ones(leaves.size, dtype=np.int64)
    for axis in range(grid.dim - 1, 0, -1):
        back += (width[axis] - 1) * np.int32(strides[axis])
        length *= width[axis]
        runs = math.prod(w.astype(np.int64) for w in width[:axis]) * filled
        # Distances between the starts of successive runs: one run within a box; from box to box
        # whatever separates them.
        starts = np.cumsum(runs) - runs
        places = np.repeat(length, runs)
        places[starts[filled]] = np.diff(begins[filled], prepend=0) - (
            np.append(0, ((runs - 1) * length)[filled][:-1])
        )
        cells[np.cumsum(places)] = np.repeat(np.int32(strides[axis - 1]) - back, runs)
    back += (width[0] - 1) * np.int32(strides[0])

    # Increments at the start of each box and at the exterior behind it, from the entry before.
    begin = sum(f * np.int32(s) for f, s in zip(first, strides, strict=True))
    begin = np.where(filled, begin, exterior).astype(np.int32)
    final = begin + back
    cells[(begins + counts)[leaves]] = (exterior - final)[leaves]
    final[leaves] = exterior
    cells[begins[1:]] = begin[1:] - final[:-1]
    cells[0] = begin[0]
    np.cumsum(cells, dtype=np.int32, out=cells)
