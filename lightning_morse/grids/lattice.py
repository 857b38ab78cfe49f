"""The lattice of points at which the surrogate is evaluated, and ranges over its cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.grids.cubical import CubicalGrid

# Points an axis below which the lattice is finer than the grid: the allowance between its points
# falls with the 1.5th power of the spacing, and a coarse grid would pay for it with a wide band.
_FEWEST = {1: 256, 2: 128, 3: 32}


@dataclass(frozen=True, eq=False)
class Lattice:
    """Corners of the cells of a grid, or of these cells cut ``refinement`` times along each axis.

    Points and cells are numbered in C order.

    Attributes:
        grid: The grid.
        refinement: Number of lattice cells an edge of a grid cell is cut into, one an axis.
    """

    grid: CubicalGrid
    refinement: tuple[int, ...]

    @classmethod
    def of(cls, grid: CubicalGrid) -> Lattice:
        """The lattice used for a grid: its corners, refined where the grid is coarse."""
        fewest = _FEWEST.get(grid.dim, 1)
        return cls(grid, tuple(math.ceil(fewest / n) for n in grid.shape))

    @property
    def dim(self) -> int:
        """Number of axes ``d``."""
        return self.grid.dim

    @cached_property
    def cells(self) -> tuple[int, ...]:
        """Number of lattice cells on each axis."""
        return tuple(n * k for n, k in zip(self.grid.shape, self.refinement, strict=True))

    @property
    def n_points(self) -> int:
        """Number of lattice points."""
        return math.prod(n + 1 for n in self.cells)

    @cached_property
    def spacing(self) -> Array:
        """Distance of neighbours along each axis, shape ``(d,)``."""
        return self.grid.cell_widths / np.array(self.refinement)

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
        """Largest of the corner values of every cell.

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
        """Error of multilinear interpolation in every cell, estimated from second differences.

        For a function with second derivatives it is at most ``sum_j spacing_j^2 / 8`` times the
        largest of them along axis ``j`` in the cell; these are estimated at the corners.

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
            # The outermost points take over the second difference of their neighbours.
            pad = [(1, 1) if a == axis else (0, 0) for a in range(array.ndim)]
            bend += np.pad(second, pad, mode="edge") / 8
        return self.largest_corner(bend.reshape(values.shape))

    def largest_change(self, values: Array) -> Array:
        """How much multilinear interpolation changes at most over a step of one cell on all axes.

        Args:
            values: Shape ``(n_points, k)``.

        Returns:
            The change anywhere in each cell, shape ``(n_cells, k)``.
        """
        array = self._on_points(values)
        total = np.zeros((*self.cells, *values.shape[1:]))
        for axis in range(self.dim):
            # Along an axis it is a mean of the changes along the cell's edges.
            edges = np.abs(np.diff(array, axis=axis))
            for other in range(self.dim):
                if other != axis:
                    edges = np.maximum(_without(edges, other, -1), _without(edges, other, 0))
            total += edges
        return self._on_cells(total)

    def cell_range(self, values: Array) -> tuple[Array, Array]:
        """Smallest and largest value of a smooth function in every cell.

        The range of the corner values, widened by :meth:`interpolation_error`: an estimate whose
        own error is of third order in the spacing, not a proof.

        Args:
            values: Shape ``(n_points, ...)``.

        Returns:
            Two arrays of shape ``(n_cells, ...)``.
        """
        error = self.interpolation_error(values)
        return -self.largest_corner(-values) - error, self.largest_corner(values) + error

    def cell_centers(self, cells: Cells) -> Array:
        """Centres of some lattice cells, shape ``(k, d)``."""
        index = np.unravel_index(cells, self.cells)
        return np.stack(
            [0.5 * (a[i] + a[i + 1]) for a, i in zip(self.axes, index, strict=True)], axis=1
        )

    def grid_cell_of(self, cells: Cells) -> Cells:
        """Number of the grid cell that holds each of some lattice cells, same shape."""
        index = np.unravel_index(cells, self.cells)
        coarse = tuple(i // k for i, k in zip(index, self.refinement, strict=True))
        return np.ravel_multi_index(coarse, self.grid.shape)

    def points_of(self, cells: Cells) -> Cells:
        """Numbers of the lattice points in some closed grid cells.

        Args:
            cells: Numbers of grid cells, shape ``(k,)``.

        Returns:
            Shape ``(k, m)``, with ``m`` the product of ``refinement + 1`` over the axes.
        """
        shape = tuple(n + 1 for n in self.cells)
        first = np.stack(np.unravel_index(cells, self.grid.shape))
        first = first * np.array(self.refinement)[:, None]
        within = np.indices([k + 1 for k in self.refinement]).reshape(self.dim, -1)
        return np.ravel_multi_index(tuple(first[:, :, None] + within[:, None]), shape)

    def any_in_grid_cell(self, mask: Mask) -> Mask:
        """Which grid cells have a lattice cell in a mask.

        Args:
            mask: Shape ``(n_cells,)``.

        Returns:
            Shape ``(grid.size,)``.
        """
        split = [n for pair in zip(self.grid.shape, self.refinement, strict=True) for n in pair]
        odd = tuple(range(1, 2 * self.dim, 2))
        return mask.reshape(split).any(axis=odd).ravel()

    def grid_corners(self, values: Array) -> Array:
        """Values at the corners of the grid's own cells, shape ``grid.shape + 1``."""
        steps = tuple(slice(None, None, k) for k in self.refinement)
        return self._on_points(values)[steps]


def _without(array: Array, axis: int, end: int) -> Array:
    """The array without its first (0) or last (-1) entry along an axis."""
    index = [slice(None)] * array.ndim
    index[axis] = slice(1, None) if end == 0 else slice(None, -1)
    return array[tuple(index)]
