"""Grids inside grids: a box divided into cells that are finer in some boxes inside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.grids.cubical import CubicalGrid

# Parent of the outermost grid.
_NONE = -1


@dataclass(frozen=True, eq=False)
class NestedGrid:
    r"""A tree of cubical grids; a point belongs to the innermost grid whose box contains it.

    The *cells* are those of all grids that no grid inside covers, numbered grid by grid. With one
    grid they are its cells and have its numbers. The faces of an inner box are edges of the grid
    around it, to the last bit, so every cell is either covered or outside. An inner box keeps a
    distance of at least one cell from its siblings and from the faces of the grid around it, unless
    such a face is one of the outermost box: whatever leaves an inner box elsewhere is in a cell of
    the grid around it, and cannot leave that one at once. It never covers all of that grid.

    Build one with :meth:`of` and :meth:`around`.

    Attributes:
        grids: The grids, the outermost first; each comes after the one around it.
        parents: Number of the grid around each; -1 for the outermost.

    Example:
        Ten cells on [0, 10], of which four are divided further:

        >>> grid = NestedGrid.of(CubicalGrid([0.0], [10.0], (10,)))
        >>> grid = grid.around([2.5], [5.5], 0, 8)
        >>> grid.grids[1].lower.tolist(), grid.grids[1].upper.tolist(), grid.size
        ([2.0], [6.0], 14)
        >>> grid.cell_of([[0.5], [2.1], [9.5], [11.0]]).tolist()
        [0, 6, 5, -1]
    """

    grids: tuple[CubicalGrid, ...]
    parents: tuple[int, ...]

    @classmethod
    def of(cls, grid: CubicalGrid) -> NestedGrid:
        """One grid by itself."""
        return cls((grid,), (_NONE,))

    def around(
        self, lower: ArrayLike, upper: ArrayLike, parent: int, cells_per_axis: int
    ) -> NestedGrid:
        """The same with one more grid inside one of its grids.

        Args:
            lower: Lower corner of what the new box has to contain, shape ``(d,)``.
            upper: Upper corner, same shape.
            parent: Number of the grid around it.
            cells_per_axis: About how many cells the new grid shall have along each axis; each cell
                of the grid around it is divided into equal parts.

        Raises:
            ValueError: If there is no room for the box.
        """
        outer, root = self.grids[parent], self.grids[0]
        corners, shape = [], []
        for j, edges in enumerate(outer.edges):
            ends = _snapped(edges, float(np.ravel(lower)[j]), float(np.ravel(upper)[j]))
            first, last = ends
            # A face in common is one of the outermost box, or there is a cell between.
            if first == 0 and edges[0] != root.lower[j]:
                first = 1
            if last == len(edges) - 1 and edges[-1] != root.upper[j]:
                last -= 1
            if last <= first:
                raise ValueError(f"a box inside needs cells around it along axis {j}, found none")
            corners.append((edges[first], edges[last]))
            covered = last - first
            shape.append(covered * max(1, round(cells_per_axis / covered)))
        low, up = np.array(corners).T
        if (low == outer.lower).all() and (up == outer.upper).all():
            raise ValueError("a box inside must leave some of the one around it, found all covered")
        for other, around in zip(self.grids, self.parents, strict=True):
            if around == parent:
                gap = outer.cell_widths * 0.5
                if ((low <= other.upper + gap) & (up >= other.lower - gap)).all():
                    raise ValueError("boxes inside the same box must lie a cell apart")
        grid = CubicalGrid(low, up, shape)
        return NestedGrid((*self.grids, grid), (*self.parents, parent))

    @property
    def dim(self) -> int:
        """Number of axes ``d``."""
        return self.grids[0].dim

    @property
    def size(self) -> int:
        """Number of cells."""
        return int(self.starts[-1])

    @cached_property
    def uncovered(self) -> tuple[Cells, ...]:
        """For each grid, the numbers in it of the cells that no grid inside covers, ascending."""
        return tuple(np.flatnonzero(~mask) for mask in self._covered)

    @cached_property
    def numbers(self) -> tuple[Cells, ...]:
        """For each grid, the number here of each of its cells; -1 where it is covered."""
        out = []
        for first, grid, cells in zip(self.starts, self.grids, self.uncovered, strict=False):
            number = np.full(grid.size, -1, dtype=np.int64)
            number[cells] = first + np.arange(cells.size)
            out.append(number)
        return tuple(out)

    def part(self, k: int) -> slice:
        """The cells here that belong to grid ``k``."""
        return slice(int(self.starts[k]), int(self.starts[k + 1]))

    def mask(self, cells: Cells) -> Mask:
        """A mask of some of the cells here, shape ``(size,)``."""
        out = np.zeros(self.size, dtype=bool)
        out[cells] = True
        return out

    def gathered(self, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Values on all cells here, shape ``(size, ...)``, from those on all cells of each grid."""
        return np.concatenate([v[cells] for v, cells in zip(values, self.uncovered, strict=True)])

    @cached_property
    def volumes(self) -> Array:
        """Fraction of the outermost box that each cell fills, shape ``(size,)``."""
        width = self.grids[0].upper - self.grids[0].lower
        # In units of a power of two near each width: products of huge or tiny ones are no floats.
        unit = np.frexp(width)[1]
        whole = float(np.prod(np.ldexp(width, -unit)))
        return np.concatenate(
            [
                np.full(cells.size, float(np.prod(np.ldexp(grid.cell_widths, -unit))) / whole)
                for grid, cells in zip(self.grids, self.uncovered, strict=True)
            ]
        )

    def box_of(self, points: ArrayLike) -> Cells:
        """Number of the innermost grid whose box contains each point; -1 outside.

        Args:
            points: Shape ``(n, d)``.
        """
        out = np.full(len(np.asarray(points)), -1, dtype=np.int64)
        for k, grid in enumerate(self.grids):
            out[grid.cell_of(points) >= 0] = k
        return out

    def cell_of(self, points: ArrayLike) -> Cells:
        """Number of the cell that contains each point; -1 outside the outermost box.

        Args:
            points: Shape ``(n, d)``.

        Returns:
            Shape ``(n,)``; a point on a face that two cells share belongs to one of them.
        """
        out = np.full(len(np.asarray(points)), -1, dtype=np.int64)
        for grid, numbers in zip(self.grids, self.numbers, strict=True):
            cell = grid.cell_of(points)
            inside = cell >= 0
            out[inside] = numbers[cell[inside]]
        return out

    def cell_centers(self) -> Array:
        """Centres of all cells, shape ``(size, d)``."""
        return self.gathered([grid.cell_centers() for grid in self.grids])

    def on_grid(
        self, k: int, values: NDArray[Any], combine: Callable[[NDArray[Any], NDArray[Any]], Any]
    ) -> NDArray[Any]:
        """Values on all cells of one grid, those of finer cells combined.

        Args:
            k: Number of the grid.
            values: One row per cell here, shape ``(size, ...)``.
            combine: Combines two rows, elementwise: commutative, associative and idempotent.

        Returns:
            Shape ``(grid.size, ...)``.
        """
        grid = self.grids[k]
        out = np.zeros((grid.size, *values.shape[1:]), dtype=values.dtype)
        out[self.uncovered[k]] = values[self.part(k)]
        for child, parent in enumerate(self.parents):
            if parent == k:
                fine = self.on_grid(child, values, combine)
                cells, within = self._divided(child)
                rows = fine[within]
                total = rows[:, 0]
                for i in range(1, rows.shape[1]):
                    total = combine(total, rows[:, i])
                out[cells] = total
        return out

    @cached_property
    def starts(self) -> Cells:
        """Number here of the first cell of each grid, then the number of cells."""
        return np.cumsum([0, *(cells.size for cells in self.uncovered)])

    @cached_property
    def _covered(self) -> tuple[Mask, ...]:
        covered = [np.zeros(grid.size, dtype=bool) for grid in self.grids]
        for child, parent in enumerate(self.parents):
            if parent != _NONE:
                covered[parent][self._divided(child)[0]] = True
        return tuple(covered)

    def _divided(self, child: int) -> tuple[Cells, Cells]:
        """Cells of the grid around it that a grid covers, and the cells each is divided into."""
        inner, outer = self.grids[child], self.grids[self.parents[child]]
        ranges, parts = [], []
        for j, edges in enumerate(outer.edges):
            first, last = np.searchsorted(edges, [inner.lower[j], inner.upper[j]])
            ranges.append(np.arange(first, last))
            parts.append(inner.shape[j] // (last - first))
        cells = np.ravel_multi_index(np.meshgrid(*ranges, indexing="ij"), outer.shape).ravel()
        starts = np.indices([len(r) for r in ranges]).reshape(self.dim, -1)
        starts = starts * np.array(parts)[:, None]
        steps = np.indices(parts).reshape(self.dim, -1)
        fine = np.ravel_multi_index(tuple(starts[:, :, None] + steps[:, None]), inner.shape)
        return cells, fine


def _snapped(edges: Array, low: float, up: float) -> tuple[int, int]:
    """Numbers of the edges around an interval, at least one cell apart."""
    n = len(edges) - 1
    first = int(np.clip(np.searchsorted(edges, low, side="right") - 1, 0, n - 1))
    last = int(np.clip(np.searchsorted(edges, up, side="left"), first + 1, n))
    return first, last
