"""Blocks of attractors: sets of cells closed under the map of each band of a filtration.

The bands are ordered by level of confidence, so their images only grow. The block of an attractor
at a level is the smallest set of cells that contains its block at the level below and, with each
cell, every cell that meets the image of that cell (:mod:`lightning_morse.analysis.ladder` says what
such a block is good for). All levels are closed together, so that a cell in several blocks is
followed once per level.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.conley.combinatorial_map import cells_met
from lightning_morse.enclosure.flow_map import BandsBetween
from lightning_morse.grids.cubical import CubicalGrid

# Cells followed in a round, those of lower levels first, and the most rounds there may be. A block
# that still grows after the last round counts as vanished, so neither number bears on soundness.
_CELLS_PER_ROUND = 1024
_MOST_ROUNDS = 24

# Holder of an attractor whose block has reached the exterior.
VANISHED = -1


class Blocks:
    """Blocks of ``n`` attractors at each level, and the flights of their cells.

    A cell of a block is stored as the number ``(level * n + attractor) * grid.size + cell``.

    Attributes:
        n: Number of attractors.
        grid: The grid.
        inside: The cells of all blocks, sorted numbers as above.
        leaks: Whether a block may reach the exterior, or was given up, shape ``(n_levels, n)``.
    """

    def __init__(self, n: int, grid: CubicalGrid, n_levels: int) -> None:
        self.n, self.grid = n, grid
        self.inside: Cells = np.zeros(0, dtype=np.int64)
        self.leaks: Mask = np.zeros((n_levels, n), dtype=bool)
        self._pairs: list[Cells] = []
        self._swept: list[Cells] = []

    def add_flights(self, pairs: Cells, swept: Cells) -> None:
        """Note what the flights of cells at levels, ``level * grid.size + cell``, have swept."""
        self._pairs.append(pairs)
        self._swept.append(swept)

    def mark_leaks(self, owners: Cells) -> None:
        """Mark blocks, numbers ``level * n + attractor``, as leaking, there and at wider bands."""
        self.leaks.ravel()[owners] = True
        np.logical_or.accumulate(self.leaks, axis=0, out=self.leaks)

    def cells(self, level: int, attractor: int) -> Cells:
        """Cells of a block, ascending."""
        first = (level * self.n + attractor) * self.grid.size
        a, b = np.searchsorted(self.inside, [first, first + self.grid.size])
        return self.inside[a:b] - first

    def swept(self, level: int, cells: Cells) -> Cells:
        """Boxes of lattice cells swept by the flights of some cells, shape ``(k, d, 2)``."""
        pairs = np.concatenate(self._pairs)
        order = np.argsort(pairs, kind="stable")
        row = order[np.searchsorted(pairs, level * self.grid.size + cells, sorter=order)]
        boxes: Cells = np.concatenate(self._swept)[row]
        return boxes

    def holders(self) -> Cells:
        """Which block holds each attractor, as the lowest number of an attractor in that block.

        Returns:
            Shape ``(n_levels, n)``; ``VANISHED`` once the block has reached the exterior. Blocks
            that have merged stay merged.
        """
        n_levels = len(self.leaks)
        out = np.full((n_levels, self.n), VANISHED, dtype=np.int64)
        holder = np.arange(self.n)
        for j in range(n_levels):
            leaking = np.isin(holder, holder[self.leaks[j]])
            holder = np.where(leaking, VANISHED, holder)
            standing = np.flatnonzero(holder != VANISHED)
            cells = [self.cells(j, int(i)) for i in standing]
            owner = np.repeat(holder[standing], [len(c) for c in cells])
            # Blocks with a common cell are joined through it.
            cell = np.concatenate([*cells, np.zeros(0, dtype=np.int64)])
            _, cell = np.unique(cell, return_inverse=True)
            size = self.n + (int(cell.max()) + 1 if cell.size else 0)
            links = coo_array((np.ones(cell.size), (owner, self.n + cell)), shape=(size, size))
            _, piece = connected_components(links, directed=False)
            first = np.full(piece.size, self.n)
            np.minimum.at(first, piece[holder[standing]], standing)
            out[j, standing] = first[piece[holder[standing]]]
            holder = out[j].copy()
        return out


def close_blocks(
    between: BandsBetween, shares: Array, attractors: list[Cells], outside: Mask
) -> Blocks:
    """Close the cells of each attractor under the map of each level, and each level over the last.

    Args:
        between: The enclosure of the flow for the bands of the filtration.
        shares: Where each band lies between the narrowest and the widest, shape ``(n_levels,)``.
        attractors: Cells of each attractor, ``n`` arrays.
        outside: Cells that count as exterior, shape ``(grid.size,)``.
    """
    grid = between.lattice.grid
    n, n_levels, size = len(attractors), len(shares), grid.size
    blocks = Blocks(n, grid, n_levels)
    base = np.concatenate([i * size + cells for i, cells in enumerate(attractors)])
    waiting = (np.arange(n_levels)[:, None] * (n * size) + np.sort(base)).ravel()
    for _ in range(_MOST_ROUNDS):
        # They are sorted by level: the lower ones come first.
        fresh, waiting = waiting[:_CELLS_PER_ROUND], waiting[_CELLS_PER_ROUND:]
        blocks.inside = np.union1d(blocks.inside, fresh)
        owner, met = _follow(between, shares, fresh, blocks, outside)
        hit = np.setdiff1d(owner * size + met, blocks.inside)
        # A cell met at one level also belongs to the blocks of all higher levels.
        above = (hit + np.arange(n_levels)[:, None] * (n * size)).ravel()
        above = np.setdiff1d(above[above < n_levels * n * size], blocks.inside)
        waiting = np.union1d(waiting, above)
        waiting = waiting[~blocks.leaks.ravel()[waiting // size]]
        if not waiting.size:
            return blocks
    blocks.mark_leaks(waiting // size)
    return blocks


def _follow(
    between: BandsBetween, shares: Array, fresh: Cells, blocks: Blocks, outside: Mask
) -> tuple[Cells, Cells]:
    """Enclose the flights of some cells of blocks; note what they swept and which blocks leak.

    Returns:
        Each cell that is met by a block that does not leak: the block, ``level * n + attractor``,
        and the cell.
    """
    grid, n = blocks.grid, blocks.n
    level, cell = fresh // (n * grid.size), fresh % grid.size
    pairs, of_pair = np.unique(level * grid.size + cell, return_inverse=True)
    images = between.images(pairs % grid.size, shares[pairs // grid.size])
    blocks.add_flights(pairs, images.swept)
    met, counts = cells_met(images.lower, images.upper, grid)
    leaves = images.exits.any(axis=(1, 2)) | outside[pairs % grid.size]
    leaves |= np.any((images.lower < grid.lower) | (images.upper > grid.upper), axis=1)
    owner = fresh // grid.size
    blocks.mark_leaks(owner[leaves[of_pair]])

    # A block that leaks is not followed any further, so its images are of no interest.
    goes_on = ~blocks.leaks.ravel()[owner]
    owner, of_pair = owner[goes_on], of_pair[goes_on]
    starts = np.cumsum(counts) - counts
    taken = counts[of_pair]
    within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    return np.repeat(owner, taken), met[np.repeat(starts[of_pair], taken) + within]
