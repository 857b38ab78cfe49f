"""The gradient field between the points of a lattice, and bounds on it over windows.

Lengths are in lattice cells, with the lower corner of the box at 0. The *window* of reach ``k``
around a lattice cell consists of the cells within ``k`` of it along every axis, cut off at the box.
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
        velocity: ``-m`` at the lattice points, shape ``(n_points, d)``.
        height: Posterior mean of the warped loss there, shape ``(n_points, 1)``.
        interpolation: Estimated error of interpolating it in each lattice cell, shape
            ``(n_cells, d)``.
        hessian: Upper triangle of the Hessian at the lattice points, row by row, in units of the
            warped loss per unit of ``x`` squared, shape ``(n_points, d (d + 1) / 2)``.
        reaches: Reaches of the windows that bounds are known for, ascending, shape
            ``(n_windows,)``.
        matrix: Upper bounds over windows of the matrix of the comparison system, ``-H_ii`` on its
            diagonal and ``|H_ij|`` off it, shape ``(n_windows, n_cells, d * d)``.
    """

    lattice: Lattice
    velocity: Array
    height: Array
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
        velocity = np.ascontiguousarray(-posterior.gradient / spacing)
        low, high = lattice.cell_range(posterior.hessian * (spacing / spacing[:, None]))
        matrix = np.maximum(np.abs(low), np.abs(high))
        diagonal = np.arange(d)
        matrix[:, diagonal, diagonal] = -low[:, diagonal, diagonal]
        reaches = np.unique(np.ceil(_NEXT_REACH ** np.arange(_MOST_REACHES)).astype(int))
        reaches = np.append(reaches[reaches < widest], widest)
        return cls(
            lattice=lattice,
            velocity=velocity,
            height=posterior.mean[:, None],
            interpolation=lattice.interpolation_error(velocity),
            # Adjacent in memory, or each look-up would copy the table.
            hessian=np.ascontiguousarray(posterior.hessian[(slice(None), *np.triu_indices(d))]),
            reaches=reaches,
            matrix=spread(lattice, matrix.reshape(-1, d * d), reaches),
        )

    @cached_property
    def bend(self) -> Array:
        """Upper bounds over windows of the change of `hessian` over one cell in the largest norm.

        Shape ``(n_windows, n_cells, d (d + 1) / 2)``.
        """
        return spread(self.lattice, self.lattice.largest_change(self.hessian), self.reaches)

    @cached_property
    def doubt(self) -> Array:
        """Estimated errors of interpolating `hessian`, largest over windows, shape as `bend`."""
        return spread(self.lattice, self.lattice.interpolation_error(self.hessian), self.reaches)

    def velocity_at(self, y: Array) -> Array:
        """Velocity by multilinear interpolation, constant beyond the box, shape ``(n, d)``."""
        return self._interpolated(self.velocity, y)

    def hessian_at(self, y: Array) -> Array:
        """Hessian by multilinear interpolation, constant beyond the box, shape ``(n, d, d)``."""
        d = self.lattice.dim
        rows, columns = np.triu_indices(d)
        out = np.empty((len(y), d, d))
        out[:, rows, columns] = out[:, columns, rows] = self._interpolated(self.hessian, y)
        return out

    def corner(self, y: Array) -> Cells:
        """Lower corner of the lattice cell that contains each point or is nearest to it."""
        return np.clip(y, 0, np.array(self.lattice.cells) - 1).astype(np.int64)

    def beyond(self, y: Array, window: Cells) -> Mask:
        """Along which axes windows of given number may reach beyond the box, shape ``(n, d)``."""
        reach = self.reaches[window][:, None]
        return np.asarray((y - reach < 0) | (y + reach > np.array(self.lattice.cells)))

    def window_matrix(self, y: Array, cell: Cells, window: Cells) -> Array:
        """Matrix of the comparison system along the axes.

        Args:
            y: Points, shape ``(n, d)``.
            cell: Numbers of their lattice cells, shape ``(n,)``.
            window: Numbers of the windows around these cells, same shape.

        Returns:
            Upper bounds of ``-H_ii`` and of ``|H_ij|`` in the windows, in lattice cells, shape
            ``(n, d, d)``. They bound the Jacobian of :meth:`velocity_at` as well: its entries are
            means of those of ``-H`` along edges of lattice cells, or 0 beyond the box.
        """
        d = y.shape[1]
        matrix = self.matrix[window, cell].reshape(-1, d, d)
        # Beyond the box the field is constant, so a radius that reaches there does not contract.
        diagonal = np.arange(d)
        on = matrix[:, diagonal, diagonal]
        matrix[:, diagonal, diagonal] = np.where(self.beyond(y, window), np.maximum(on, 0), on)
        return np.asarray(matrix)

    def _interpolated(self, table: Array, y: Array) -> Array:
        """Multilinear interpolation of values at the lattice points, shape ``(n, k)``."""
        # One row per axis, so that what is done to a coordinate runs over adjacent numbers.
        most = self._lattice_cells[:, None]
        inside = np.clip(y.T, 0, most)
        corner = np.minimum(inside.astype(np.int64), most - 1)
        share = inside - corner
        rest = 1 - share
        base = self._strides @ corner
        out = np.zeros((len(y), table.shape[1]))
        for bits, offset in self._corners:
            weight = share[0] if bits[0] else rest[0]
            for axis in range(1, len(bits)):
                weight = weight * (share[axis] if bits[axis] else rest[axis])
            values = table.take(base + offset, axis=0)
            values *= weight[:, None]
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
        bounds: Shape ``(n_cells, k)``.
        reaches: Ascending; each at most three times the one before plus one.

    Returns:
        Shape ``(n_windows, n_cells, k)``.
    """
    out = np.empty((len(reaches), *bounds.shape))
    array, reach = bounds.reshape(*lattice.cells, -1), 0
    for k, wider in enumerate(reaches):
        # Three windows of the last reach, this far apart, overlap and together make the wider one.
        step, reach = int(wider) - reach, int(wider)
        for axis in range(lattice.dim):
            array = _largest_of_three(array, step, axis)
        out[k] = array.reshape(bounds.shape)
    return out


def _largest_of_three(array: Array, step: int, axis: int) -> Array:
    """Largest of each entry and those ``step`` away; beyond the ends the outermost ones count."""
    old = np.moveaxis(array, axis, 0)
    new = old.copy()
    for into, from_ in (
        (new[step:], old[:-step]),
        (new[:step], old[:1]),
        (new[:-step], old[step:]),
        (new[-step:], old[-1:]),
    ):
        np.maximum(into, from_, out=into)
    return np.moveaxis(new, 0, axis)
