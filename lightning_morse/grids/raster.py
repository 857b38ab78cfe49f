"""Sets of cells of an adaptive grid, drawn on a uniform grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lightning_morse._typing import Mask
from lightning_morse.grids.adaptive import AdaptiveGrid
from lightning_morse.grids.cubical import CubicalGrid

# Most cells a drawing may have: a mask of as many takes 64 MiB. Beyond it drawing is refused, never
# coarsened, so soundness does not depend on it.
MAX_RASTER_CELLS = 2**26


def raster(
    grid: AdaptiveGrid, cells: Mask, masks: Sequence[Mask]
) -> tuple[CubicalGrid, list[Mask]]:
    """Draw sets of cells on a uniform grid that covers given cells and a margin around them.

    The cells of the uniform grid are as small as the smallest cell drawn, so within the window the
    sets are represented exactly. The margin is one such small cell wide.

    Args:
        grid: The adaptive grid.
        cells: Cells to cover, boolean, shape ``(grid.size,)``, at least one.
        masks: Sets of cells to draw, likewise.

    Returns:
        The uniform grid, with cells of unit width, and the masks of the sets on it.

    Raises:
        ValueError: If the uniform grid would have more than 2^26 cells.

    Example:
        >>> grid = AdaptiveGrid.of(CubicalGrid([0.0], [3.0], (3,))).refine([False, True, False])
        >>> middle, left = np.arange(4) == 1, np.arange(4) == 0
        >>> window, (drawn, covered) = raster(grid, middle, [left, middle])
        >>> drawn.tolist(), covered.tolist()
        ([True, False, False], [False, True, False])
    """
    level, index = grid.levels.astype(np.int64), grid.node_index[grid.leaves]
    drawn = np.any([cells, *masks], axis=0)
    finest = int(level[drawn].max())
    scale = (1 << (finest - np.minimum(level, finest)))[:, None]
    first, last = index * scale, (index + 1) * scale
    begin = np.maximum(first[cells].min(axis=0) - 1, 0)
    end = np.minimum(last[cells].max(axis=0) + 1, np.array(grid.coarse.shape) << finest)
    shape = tuple(int(n) for n in end - begin)
    if math.prod(shape) > MAX_RASTER_CELLS:
        raise ValueError(
            f"the cells span {shape} cells of level {finest}, more than {MAX_RASTER_CELLS} in all; "
            "refine them less, or ask for a smaller set"
        )
    out = []
    for mask in masks:
        picture = np.zeros(shape, dtype=bool)
        low = np.clip(first[mask] - begin, 0, shape)
        high = np.clip(last[mask] - begin, 0, shape)
        seen = (low < high).all(axis=1)
        small = seen & (scale[mask][:, 0] == 1)
        picture[tuple(low[small].T)] = True
        for a, b in zip(low[seen & ~small], high[seen & ~small], strict=True):
            picture[tuple(slice(i, j) for i, j in zip(a, b, strict=True))] = True
        out.append(picture.ravel())
    return CubicalGrid(np.zeros(grid.dim), np.array(shape, dtype=float), shape), out
