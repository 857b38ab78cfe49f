"""The gradient field between the points of a lattice, and bounds on it over windows.

Lengths are in lattice cells, with the lower corner of the box at 0. The *window* of reach ``k``
around a lattice cell consists of the cells within ``k`` of it along every axis, cut off at the box.

Arrays have one row per axis or entry and one column per point, so that what is done to one
coordinate of all points runs over adjacent numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.gp.process import Posterior
from lightning_morse.grids.lattice import Lattice

# Reaches that bounds are kept for grow by about this factor: fewer would make windows wider than
# a step needs, more would cost memory. The factor must stay below 3, see `spread`.
_NEXT_REACH = 1.3
_MOST_REACHES = 14


@dataclass(frozen=True, eq=False)
class FlowBounds:
    """Bounds on the posterior mean of the gradient that do not depend on the band.

    Attributes:
        lattice: The lattice, ``d`` axes.
        velocity: ``-m`` at the lattice points, shape ``(d, n_points)``.
        interpolation: Estimated error of interpolating it in each lattice cell, shape
            ``(d, n_cells)``.
        hessian: Upper triangle of the Hessian at the lattice points, row by row, in units of the
            warped loss per unit of ``x`` squared, shape ``(d (d + 1) / 2, n_points)``.
        reaches: Reaches of the windows that bounds are known for, ascending, shape
            ``(n_windows,)``.
        matrix: Upper bounds over windows of the matrix of the comparison system, ``-H_ii`` on its
            diagonal and ``|H_ij|`` off it, shape ``(d * d, n_windows, n_cells)``.
    """

    lattice: Lattice
    velocity: Array
    interpolation: Array
    hessian: Array
    reaches: Cells
    matrix: Array

    @classmethod
    def of(cls, lattice: Lattice, posterior: Posterior, widest: int) -> FlowBounds:
        """Compute the bounds.

        Args:
            lattice: The lattice.
            posterior: The posterior at its points.
            widest: The largest reach to compute bounds for.
        """
        d, spacing = lattice.dim, lattice.spacing
        velocity = -posterior.gradient / spacing
        low, high = lattice.cell_range(posterior.hessian * (spacing / spacing[:, None]))
        matrix = np.maximum(np.abs(low), np.abs(high))
        diagonal = np.arange(d)
        matrix[:, diagonal, diagonal] = -low[:, diagonal, diagonal]
        reaches = np.unique(np.ceil(_NEXT_REACH ** np.arange(_MOST_REACHES)).astype(int))
        reaches = np.append(reaches[reaches < widest], widest)
        return cls(
            lattice=lattice,
            # Adjacent in memory, or each look-up would copy the table.
            velocity=np.ascontiguousarray(velocity.T),
            interpolation=np.ascontiguousarray(lattice.interpolation_error(velocity).T),
            hessian=np.ascontiguousarray(posterior.hessian[(slice(None), *np.triu_indices(d))].T),
            reaches=reaches,
            matrix=spread(lattice, np.ascontiguousarray(matrix.reshape(-1, d * d).T), reaches),
        )

    @cached_property
    def bend(self) -> Array:
        """Upper bounds over windows of the change of `hessian` over one cell in the largest norm.

        Shape ``(d (d + 1) / 2, n_windows, n_cells)``.
        """
        return spread(self.lattice, self.lattice.largest_change(self.hessian.T).T, self.reaches)

    @cached_property
    def doubt(self) -> Array:
        """Estimated errors of interpolating `hessian`, largest over windows, shape as `bend`."""
        doubt = self.lattice.interpolation_error(self.hessian.T).T
        return spread(self.lattice, doubt, self.reaches)

    def velocity_at(self, y: Array) -> Array:
        """Velocity by multilinear interpolation, constant beyond the box.

        Args:
            y: Points, shape ``(d, n)``.

        Returns:
            The same shape.
        """
        return self._interpolated(self.velocity, y)

    def hessian_at(self, y: Array) -> Array:
        """Hessian by multilinear interpolation, constant beyond the box, shape ``(d, d, n)``."""
        return self._interpolated(self.hessian, y)[self.entry]

    @cached_property
    def entry(self) -> Cells:
        """Number in an upper triangle of each entry of a symmetric matrix, shape ``(d, d)``."""
        d = self.lattice.dim
        rows, columns = np.triu_indices(d)
        entry = np.empty((d, d), dtype=np.int64)
        entry[rows, columns] = entry[columns, rows] = np.arange(len(rows))
        return entry

    def corner(self, y: Array) -> Cells:
        """Lower corner of the lattice cell that contains each point or is nearest to it."""
        return np.clip(y, 0, self._lattice_cells[:, None] - 1).astype(np.int64)

    def beyond(self, y: Array, window: Cells) -> Mask:
        """Along which axes windows of given number may reach beyond the box, shape ``(d, n)``."""
        reach = self.reaches[window]
        return np.asarray((y - reach < 0) | (y + reach > self._lattice_cells[:, None]))

    def over(self, table: Array, cell: Cells, window: Cells) -> Array:
        """Bounds over the windows of given number around lattice cells.

        Args:
            table: The bounds, shape ``(k, n_windows, n_cells)``.
            cell: Numbers of the cells, shape ``(n,)``.
            window: Numbers of the windows, same shape.

        Returns:
            Shape ``(k, n)``.
        """
        k, _, n_cells = table.shape
        return np.asarray(table.reshape(k, -1).take(window * n_cells + cell, axis=1))

    def window_matrix(self, y: Array, cell: Cells, window: Cells) -> Array:
        """Matrix of the comparison system along the axes.

        Args:
            y: Points, shape ``(d, n)``.
            cell: Numbers of their lattice cells, shape ``(n,)``.
            window: Numbers of the windows around these cells, same shape.

        Returns:
            Upper bounds of ``-H_ii`` and of ``|H_ij|`` in the windows, in lattice cells, shape
            ``(d, d, n)``. They bound the Jacobian of :meth:`velocity_at` as well: its entries are
            means of those of ``-H`` along edges of lattice cells, or 0 beyond the box.
        """
        d, n = y.shape
        matrix = self.over(self.matrix, cell, window).reshape(d, d, n)
        # Beyond the box the field is constant, so a radius that reaches there does not contract.
        diagonal = np.arange(d)
        on = matrix[diagonal, diagonal]
        matrix[diagonal, diagonal] = np.where(self.beyond(y, window), np.maximum(on, 0), on)
        return np.asarray(matrix)

    def _interpolated(self, table: Array, y: Array) -> Array:
        """Multilinear interpolation of values at the lattice points, shape ``(k, n)``."""
        most = self._lattice_cells[:, None]
        inside = np.clip(y, 0, most)
        corner = np.minimum(inside.astype(np.int64), most - 1)
        share = inside - corner
        rest = 1 - share
        base = self._strides @ corner
        out = np.zeros((len(table), y.shape[1]))
        for bits, offset in self._corners:
            weight = share[0] if bits[0] else rest[0]
            for axis in range(1, len(bits)):
                weight = weight * (share[axis] if bits[axis] else rest[axis])
            values = table.take(base + offset, axis=1)
            values *= weight
            out += values
        return out

    @cached_property
    def _lattice_cells(self) -> Cells:
        return np.array(self.lattice.cells)

    @cached_property
    def _strides(self) -> Cells:
        """Difference in number of neighbouring lattice points along each axis."""
        return np.append(np.cumprod((self._lattice_cells + 1)[::-1])[-2::-1], 1)

    @cached_property
    def _corners(self) -> list[tuple[tuple[int, ...], int]]:
        """Corners of a cell: at which end along each axis, and how much higher in number."""
        bits = list(np.ndindex(*(2,) * self.lattice.dim))
        return [(corner, int(np.array(corner) @ self._strides)) for corner in bits]


def spread(lattice: Lattice, bounds: Array, reaches: Cells) -> Array:
    """Largest bounds over the windows of each reach, cut off at the box.

    Args:
        lattice: The lattice.
        bounds: Shape ``(k, n_cells)``.
        reaches: Ascending; each at most three times the one before plus one.

    Returns:
        Shape ``(k, n_windows, n_cells)``.
    """
    n_rows, n_cells = bounds.shape
    out = np.empty((n_rows, len(reaches), n_cells))
    array, reach = bounds.reshape(n_rows, *lattice.cells), 0
    for k, wider in enumerate(reaches):
        # Three windows of the last reach, this far apart, overlap and together make the wider one.
        step, reach = int(wider) - reach, int(wider)
        for axis in range(1, 1 + lattice.dim):
            array = _largest_of_three(array, step, axis)
        out[:, k] = array.reshape(bounds.shape)
    return out


def _largest_of_three(array: Array, step: int, axis: int) -> Array:
    """Largest of each entry and those ``step`` away; beyond the ends the outermost ones count."""
    ahead = (slice(None),) * axis
    new = array.copy()
    for into, from_ in (
        (slice(step, None), slice(None, -step)),
        (slice(None, step), slice(None, 1)),
        (slice(None, -step), slice(step, None)),
        (slice(-step, None), slice(-1, None)),
    ):
        part = new[(*ahead, into)]
        np.maximum(part, array[(*ahead, from_)], out=part)
    return new
