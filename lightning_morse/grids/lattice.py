"""The lattice of points where the surrogate is evaluated, and ranges of values over its cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.grids.cubical import CubicalGrid

# Lattice cells per axis, by dimension; a coarser grid is subdivided until it has at least as many.
# The band needs an allowance for what happens between lattice points. It falls with the 1.5th power
# of the spacing, so on a coarse grid the band would be wide. Soundness of the band does not depend
# on these numbers, since the allowance is computed for the spacing there is; the interpolation
# errors estimated below are the more accurate the finer the lattice.
_MIN_CELLS_PER_AXIS = {1: 256, 2: 128, 3: 32}
# The same for a sketch, which only shows where to look next.
_MIN_CELLS_OF_SKETCH = {1: 128, 2: 64, 3: 16}


@dataclass(frozen=True, eq=False)
class Lattice:
    """Corners of the cells of a grid, each cell subdivided ``refinement`` times per axis.

    Points and cells are numbered in C order.

    Attributes:
        grid: The grid.
        refinement: Number of lattice cells along each edge of a grid cell, one integer per axis.
    """

    grid: CubicalGrid
    refinement: tuple[int, ...]

    @classmethod
    def of(cls, grid: CubicalGrid) -> Lattice:
        """The lattice used for a grid: its corners, subdivided where the grid is coarse."""
        return cls._of(grid, _MIN_CELLS_PER_AXIS)

    @classmethod
    def of_sketch(cls, grid: CubicalGrid) -> Lattice:
        """The coarser lattice that is enough to see where to look next."""
        return cls._of(grid, _MIN_CELLS_OF_SKETCH)

    @classmethod
    def _of(cls, grid: CubicalGrid, least: dict[int, int]) -> Lattice:
        return cls(grid, tuple(math.ceil(least.get(grid.dim, 1) / n) for n in grid.shape))

    @property
    def dim(self) -> int:
        """Number of axes ``d``."""
        return self.grid.dim

    @cached_property
    def cells(self) -> tuple[int, ...]:
        """Number of lattice cells per axis."""
        return tuple(n * k for n, k in zip(self.grid.shape, self.refinement, strict=True))

    @property
    def n_points(self) -> int:
        """Number of lattice points."""
        return math.prod(n + 1 for n in self.cells)

    @cached_property
    def spacing(self) -> Array:
        """Distance between neighbouring points per axis, shape ``(d,)``."""
        spacing: Array = self.grid.cell_widths / np.array(self.refinement)
        return spacing

    @cached_property
    def axes(self) -> list[Array]:
        """Coordinates of the points along each axis."""
        return [
            np.linspace(low, up, n + 1)
            for low, up, n in zip(self.grid.lower, self.grid.upper, self.cells, strict=True)
        ]

    def _on_points(self, values: Array) -> Array:
        return values.reshape(*(n + 1 for n in self.cells), *values.shape[1:])

    def _on_cells(self, array: Array) -> Array:
        return array.reshape(math.prod(self.cells), *array.shape[self.dim :])

    def largest_corner(self, values: Array) -> Array:
        """Maximum of the corner values of each cell.

        Args:
            values: Shape ``(n_points, ...)``.

        Returns:
            Shape ``(n_cells, ...)``.
        """
        array = self._on_points(values)
        for axis in range(self.dim):
            array = np.maximum(_without(array, axis, -1), _without(array, axis, 0))
        return self._on_cells(array)

    def interpolation_error(self, values: Array) -> Array:
        """Error of multilinear interpolation in each cell, estimated from second differences.

        For a twice differentiable function the error is at most the sum over the axes ``j`` of
        ``spacing_j^2 / 8`` times the maximum of the second derivative along axis ``j`` over the
        cell. These maxima are estimated from second differences at the corners.

        Args:
            values: Shape ``(n_points, ...)``.

        Returns:
            Shape ``(n_cells, ...)``.
        """
        array = self._on_points(values)
        bend = np.zeros_like(array)
        for axis in range(self.dim):
            if array.shape[axis] < 3:
                continue
            second = np.abs(np.diff(array, n=2, axis=axis))
            # The outermost points have no second difference; they take that of their neighbours.
            pad = [(1, 1) if a == axis else (0, 0) for a in range(array.ndim)]
            bend += np.pad(second, pad, mode="edge") / 8
        return self.largest_corner(bend.reshape(values.shape))

    def largest_change(self, values: Array) -> Array:
        """Bound on how much the multilinear interpolant changes across a cell, all axes together.

        Args:
            values: Shape ``(n_points, k)``.

        Returns:
            The bound for each cell, shape ``(n_cells, k)``.
        """
        array = self._on_points(values)
        total = np.zeros((*self.cells, *values.shape[1:]))
        for axis in range(self.dim):
            # Along one axis the change is a mean of the changes along the edges of the cell.
            edges = np.abs(np.diff(array, axis=axis))
            for other in range(self.dim):
                if other != axis:
                    edges = np.maximum(_without(edges, other, -1), _without(edges, other, 0))
            total += edges
        return self._on_cells(total)

    def cell_range(self, values: Array) -> tuple[Array, Array]:
        """Minimum and maximum of a smooth function over each cell, estimated.

        The range of the corner values, widened by :meth:`interpolation_error`. This is an estimate
        with an error of third order in the spacing, not a proof.

        Args:
            values: Shape ``(n_points, ...)``.

        Returns:
            Two arrays of shape ``(n_cells, ...)``.
        """
        error = self.interpolation_error(values)
        return -self.largest_corner(-values) - error, self.largest_corner(values) + error

    def cell_centers(self, cells: Cells) -> Array:
        """Centres of the given lattice cells, shape ``(k, d)``."""
        index = np.unravel_index(cells, self.cells)
        return np.stack(
            [0.5 * (a[i] + a[i + 1]) for a, i in zip(self.axes, index, strict=True)], axis=1
        )

    def grid_cell_of(self, cells: Cells) -> Cells:
        """Number of the grid cell that contains each of the given lattice cells, same shape."""
        index = np.unravel_index(cells, self.cells)
        coarse = tuple(i // k for i, k in zip(index, self.refinement, strict=True))
        number: Cells = np.ravel_multi_index(coarse, self.grid.shape)
        return number

    def points_of(self, cells: Cells) -> Cells:
        """Numbers of the lattice points in the given closed grid cells.

        Args:
            cells: Numbers of grid cells, shape ``(k,)``.

        Returns:
            Shape ``(k, m)``, with ``m`` the product of ``refinement + 1`` over the axes.
        """
        shape = tuple(n + 1 for n in self.cells)
        first = np.stack(np.unravel_index(cells, self.grid.shape))
        first = first * np.array(self.refinement)[:, None]
        within = np.indices([k + 1 for k in self.refinement]).reshape(self.dim, -1)
        number: Cells = np.ravel_multi_index(tuple(first[:, :, None] + within[:, None]), shape)
        return number

    def any_in_grid_cell(self, mask: Mask) -> Mask:
        """Which grid cells contain a lattice cell of a mask.

        Args:
            mask: Shape ``(n_cells,)``.

        Returns:
            Shape ``(grid.size,)``.
        """
        found: Mask = self.largest_in_grid_cell(mask)
        return found

    def largest_in_grid_cell(self, values: NDArray[Any]) -> NDArray[Any]:
        """Maximum over the lattice cells of each grid cell.

        Args:
            values: Shape ``(n_cells,)``.

        Returns:
            Shape ``(grid.size,)``.
        """
        split = [n for pair in zip(self.grid.shape, self.refinement, strict=True) for n in pair]
        odd = tuple(range(1, 2 * self.dim, 2))
        out: NDArray[Any] = values.reshape(split).max(axis=odd).ravel()
        return out

    def grid_corners(self, values: Array) -> Array:
        """Values at the corners of the grid cells, ``n + 1`` along an axis of ``n`` cells."""
        steps = tuple(slice(None, None, k) for k in self.refinement)
        return self._on_points(values)[steps]


def _without(array: Array, axis: int, end: int) -> Array:
    """The array without its first (``end=0``) or last (``end=-1``) entry along an axis."""
    index = [slice(None)] * array.ndim
    index[axis] = slice(1, None) if end == 0 else slice(None, -1)
    return array[tuple(index)]
