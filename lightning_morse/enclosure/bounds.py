"""The gradient field between the points of a lattice, and how much it changes over windows of it.

Lengths are in lattice cells here, with the lower corner of the box at 0. A *window* of reach ``k``
around a lattice cell is made up of the cells within ``k`` of it along every axis, cut off at the
box.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.gp.process import Posterior
from lightning_morse.grids.lattice import Lattice


@dataclass(frozen=True, eq=False)
class FlowBounds:
    """What is known of the posterior mean of the gradient, whatever the band.

    Attributes:
        lattice: The lattice, ``d`` axes.
        velocity: ``-m`` at the lattice points, shape ``(n_points, d)``.
        interpolation: Error of interpolating it in each lattice cell, shape ``(n_cells, d)``.
        hessian: Upper triangle of the Hessian at the lattice points, row by row, in units of the
            warped loss over units of the box squared, shape ``(n_points, d (d + 1) / 2)``.
        reaches: Reaches of the windows that bounds are known for, ascending, shape
            ``(n_windows,)``.
        matrix: Upper bounds over windows of the matrix of the comparison system, ``-H_ii`` on and
            ``|H_ij|`` off its diagonal, shape ``(n_windows, n_cells, d * d)``.
    """

    lattice: Lattice
    velocity: Array
    interpolation: Array
    hessian: Array
    reaches: Cells
    matrix: Array

    @classmethod
    def of(cls, lattice: Lattice, posterior: Posterior, widest: int) -> FlowBounds:
        """Find the bounds.

        Args:
            lattice: The lattice.
            posterior: The posterior at its points.
            widest: The largest reach to know bounds for.
        """
        d, spacing = lattice.dim, lattice.spacing
        velocity = -posterior.gradient / spacing
        low, high = lattice.cell_range(posterior.hessian * (spacing / spacing[:, None]))
        matrix = np.maximum(np.abs(low), np.abs(high))
        diagonal = np.arange(d)
        matrix[:, diagonal, diagonal] = -low[:, diagonal, diagonal]
        reaches = np.unique(np.ceil(1.3 ** np.arange(0, 14)).astype(int))
        reaches = np.append(reaches[reaches < widest], widest)
        return cls(
            lattice=lattice,
            velocity=velocity,
            interpolation=lattice.interpolation_error(velocity),
            hessian=posterior.hessian[(slice(None), *np.triu_indices(d))],
            reaches=reaches,
            matrix=spread(lattice, matrix.reshape(-1, d * d), reaches),
        )

    @cached_property
    def bend(self) -> Array:
        """Upper bounds over windows of what a step of one cell along all axes changes `hessian` by.

        Shape ``(n_windows, n_cells, d (d + 1) / 2)``.
        """
        return spread(self.lattice, self.lattice.largest_change(self.hessian), self.reaches)

    @cached_property
    def doubt(self) -> Array:
        """Upper bounds over windows of the error of interpolating `hessian`, shape as `bend`."""
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
        """Lattice cell that holds each point, or is next to it, by its lower corner."""
        return np.clip(y, 0, np.array(self.lattice.cells) - 1).astype(np.int64)

    def beyond(self, y: Array, window: Cells) -> Mask:
        """Along which axes a window of given number may reach beyond the box, shape ``(n, d)``."""
        reach = self.reaches[window][:, None]
        return np.asarray((y - reach < 0) | (y + reach > np.array(self.lattice.cells)))

    def _interpolated(self, table: Array, y: Array) -> Array:
        cells = np.array(self.lattice.cells)
        inside = np.clip(y, 0, cells)
        corner = np.minimum(inside.astype(np.int64), cells - 1)
        share = inside - corner
        strides = np.append(np.cumprod((cells + 1)[::-1])[-2::-1], 1)
        base = corner @ strides
        out = np.zeros((len(y), table.shape[1]))
        for bits in np.ndindex(*(2,) * y.shape[1]):
            weight = np.prod(np.where(bits, share, 1 - share), axis=1)
            out += weight[:, None] * table[base + np.array(bits) @ strides]
        return out


def spread(lattice: Lattice, bounds: Array, reaches: Cells) -> Array:
    """Largest bounds over the windows of cells within each reach, cut off at the box.

    Args:
        lattice: The lattice.
        bounds: Shape ``(n_cells, k)``.
        reaches: Ascending; each at most three times the one before it, plus one.

    Returns:
        Shape ``(n_windows, n_cells, k)``.
    """
    out = np.empty((len(reaches), *bounds.shape))
    array, reach = bounds.reshape(*lattice.cells, -1), 0
    for k, wider in enumerate(reaches):
        # Three windows of the last reach, this far apart, overlap and make up the wider one.
        step, reach = int(wider) - reach, int(wider)
        for axis in range(lattice.dim):
            array = _largest_of_three(array, step, axis)
        out[k] = array.reshape(bounds.shape)
    return out


def _largest_of_three(array: Array, step: int, axis: int) -> Array:
    """Largest of each entry and those ``step`` away; the outermost ones stand in beyond the end."""
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
