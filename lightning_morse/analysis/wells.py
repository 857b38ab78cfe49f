r"""Wells: what no trajectory leaves, because all around it the loss is higher.

A band on the gradient says where the flow goes. Where it is too wide for that (kinks, many scales,
few samples for so many axes), the values of the loss may still say that a trajectory cannot get
out: it never rises. Of all that is said of the gradient nothing is needed here, and the loss need
not be differentiable.

**Theorem.** Let the loss :math:`l` lie between a lower bound :math:`L_c` and an upper bound
:math:`U_c` on each closed cell :math:`c` of one box. Take a level :math:`h`, let
:math:`N` be a connected component of the cells with :math:`L_c \le h`, where cells that share a
corner meet, and let none of its cells touch a face of the box or count as exterior. Then every
trajectory of the flow that starts in a cell of :math:`N` with :math:`U_c \le h` stays in :math:`N`
for ever, and :math:`\{x \in N : l(x) \le h\}` holds an attractor to which it belongs.

*Proof.* Along the trajectory :math:`l` does not rise, so it stays at most :math:`h`. To leave
:math:`N` it has to pass a point of the boundary of :math:`N`, which belongs to a cell outside that
shares a corner with one inside. That cell is not in the component, so its lower bound is above
:math:`h`, and so is the value at the point: a contradiction. The set :math:`\{x \in N : l(x)
\le h\}` is thus compact and forward invariant, and the maximal invariant set in it is an attractor
that attracts all of it. QED

The cell of the point that is asked about is divided once more: it is enough that the bound on the
part around the point is at most :math:`h`.

What attractors it has inside is open: it is one attractor of a coarser Morse decomposition, which
may consist of several minima and what connects them. So it counts as unresolved, and no count that
includes it is exact.

*The bounds* hold in the whole box simultaneously with a given probability: the band of
:func:`lightning_morse.bands.value.reach_in_cells` around the mean, whose range in a cell of the
lattice is estimated from second differences at its corners. A loss with kinks is no path of the
surrogate, whose bounds on values fail there at a few samples by many deviations. So a rougher
process is fitted as well (Matern-3/2, as in :mod:`lightning_morse.gp.kinks`), and of the two bounds
the wider one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label, minimum_filter

from lightning_morse._typing import Array, Mask
from lightning_morse.bands.value import reach_in_cells
from lightning_morse.gp.process import GaussianProcess, Values
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice

# Parts of the cell of a point along each axis, as long as they are not more in all.
_PARTS, _MOST_PARTS = 8, 4096


@dataclass(frozen=True, eq=False)
class Relief:
    """What processes say of the values of the loss in one box.

    Attributes:
        lattice: The points at which they were evaluated.
        diverged: Cells of the grid that count as exterior, shape ``(grid.size,)``.
        views: Each process and its posterior there. The first is the surrogate, which the samples
            do not refute.
    """

    lattice: Lattice
    diverged: Mask
    views: tuple[tuple[GaussianProcess, Values], ...]

    @property
    def ways_out(self) -> Mask:
        """Cells that touch a face of the box, or count as exterior, shape ``(grid.size,)``."""
        grid = self.lattice.grid
        inner = np.zeros(grid.shape, dtype=bool)
        inner[(slice(1, -1),) * grid.dim] = True
        found: Mask = ~inner.ravel() | self.diverged
        return found


@dataclass(frozen=True, eq=False)
class Heights:
    """Bounds on the loss in each cell of a grid, which hold at once.

    Attributes:
        lower: Shape ``(grid.size,)``; minus infinity where the loss diverged.
        upper: Same shape.
        mean: Estimate of the largest value of the surrogate's mean there, same shape.
        failure: Probability that one of the bounds does not hold.
    """

    lower: Array
    upper: Array
    mean: Array
    failure: float


def heights(relief: Relief, failure: float) -> Heights:
    """Bound the loss in each cell of a grid, by the most careful of the processes at each.

    Args:
        relief: What is known of the loss there.
        failure: Probability with which the bounds may be false.
    """
    lattice = relief.lattice
    bounds = [_bounds(*view, lattice, failure) for view in relief.views]
    lower, upper, mean = map(np.array, zip(*bounds, strict=True))
    lowest, highest = lower.min(axis=0), upper.max(axis=0)
    # What is no number is no bound.
    lowest[relief.diverged | np.isnan(lowest)] = -np.inf
    highest[np.isnan(highest)] = np.inf
    return Heights(lowest, highest, mean[0], failure)


def _bounds(
    process: GaussianProcess, posterior: Values, lattice: Lattice, failure: float
) -> tuple[Array, Array, Array]:
    """Lower and upper bound on the loss in each grid cell by one process, and its largest mean."""
    reach = reach_in_cells(process, posterior, lattice, failure)
    low, up = lattice.cell_range(posterior.mean)
    lower = -lattice.largest_in_grid_cell(reach - low)
    upper, mean = (lattice.largest_in_grid_cell(values) for values in (up + reach, up))
    with np.errstate(over="ignore"):  # an infinite bound is none
        inverse = process.warp.inverse
        return inverse(lower), inverse(upper), inverse(mean)


@dataclass(frozen=True, eq=False)
class Survey:
    """The loss in a box, and more closely in the cell of a point.

    Attributes:
        point: The point, shape ``(d,)``.
        relief: What is known of the loss in the box.
        bounds: Bounds on it in the cells of the box.
        near: What is known of it in the cell of the point, divided.
        bounds_near: Bounds on it in the parts of that cell.
    """

    point: Array
    relief: Relief
    bounds: Heights
    near: Relief
    bounds_near: Heights

    @classmethod
    def of(
        cls,
        views: Sequence[tuple[GaussianProcess, Values]],
        lattice: Lattice,
        diverged: Mask,
        point: Array,
        failure: float,
        finest: CubicalGrid | None = None,
    ) -> Survey:
        """Look at a box and a point in it.

        Args:
            views: The surrogate of the box, and others whose bounds count as well, each with its
                posterior.
            lattice: The points of the box that these are at.
            diverged: Cells of its grid that count as exterior, shape ``(grid.size,)``.
            point: Shape ``(d,)``, in the box.
            failure: Probability with which the bounds may be false.
            finest: The grid whose cell is the cell of the point, if it is not that of the box.
        """
        grid = _divided(lattice.grid if finest is None else finest, point)
        finer = Lattice(grid, (1,) * grid.dim)
        nowhere = np.zeros(grid.size, dtype=bool)
        relief = Relief(lattice, diverged, tuple(views))
        closer = tuple((one, one.lattice_values(finer.axes)) for one, _ in views)
        near = Relief(finer, nowhere, closer)
        bounds, bounds_near = (heights(one, 0.5 * failure) for one in (relief, near))
        return cls(point, relief, bounds, near, bounds_near)

    @property
    def _cell(self) -> int:
        return int(self.relief.lattice.grid.cell_of(self.point[None])[0])

    @property
    def _part(self) -> int:
        return int(self.near.lattice.grid.cell_of(self.point[None])[0])

    def _connected(self, mask: Mask) -> Mask:
        """The cells that are connected to that of the point, which is taken to be one."""
        shape, own = self.relief.lattice.grid.shape, np.arange(mask.size) == self._cell
        pieces, _ = label((mask | own).reshape(shape), structure=np.ones((3,) * len(shape)))
        found: Mask = pieces.ravel() == pieces.ravel()[self._cell]
        return found

    def well(self, k: int) -> Well | None:
        """A well around the point that is certain; None if the point lies in none.

        Of those in which the mean has no more minima than in the smallest it is the largest.

        Args:
            k: Number of the box.
        """
        bounds, ways_out = self.bounds, self.relief.ways_out
        level = float(self.bounds_near.upper[self._part])
        cells = self._connected(bounds.lower <= level)
        if (cells & ways_out).any():
            return None
        # No way out, nor into another well.
        shape = self.relief.lattice.grid.shape
        forbidden = ways_out | (_minima(shape, bounds.mean) & ~cells)
        levels = np.unique(bounds.lower[bounds.lower > level])
        first, last = 0, len(levels)  # so many of them are certainly low enough, or may be
        while first < last:
            middle = (first + last + 1) // 2
            larger = self._connected(bounds.lower <= levels[middle - 1])
            if (larger & forbidden).any():
                last = middle - 1
            else:
                first, level, cells = middle, float(levels[middle - 1]), larger
        inside, held = cells & (bounds.upper <= level), self.bounds_near.upper <= level
        if not inside.any():
            return None
        failure = bounds.failure + self.bounds_near.failure
        return Well(k, cells, inside, level, self.near, held, failure)

    def leaks(self) -> Array | None:
        """Where a well around the point may leak by the bounds, but not by the mean.

        Returns:
            Centres of cells, shape ``(n, d)``, none if the well is certain; None if by the mean
            itself there is none.
        """
        bounds, ways_out = self.bounds, self.relief.ways_out
        if (self._connected(bounds.mean <= self.bounds_near.mean[self._part]) & ways_out).any():
            return None
        open_ = self._connected(bounds.lower <= self.bounds_near.upper[self._part]) & ways_out
        if (open_ & self.relief.diverged).any():
            return None
        return self.relief.lattice.grid.cell_centers()[open_]

    def open_faces(self) -> Mask:
        """Faces of the box that the well around the point reaches by the mean, shape ``(d, 2)``."""
        shape = self.relief.lattice.grid.shape
        level = self.bounds_near.mean[self._part]
        cells = self._connected(self.bounds.mean <= level).reshape(shape)
        sides = [[cells.take(i, axis=j).any() for i in (0, -1)] for j in range(len(shape))]
        return np.array(sides, dtype=bool)

    def unknown_bottom(self) -> Array | None:
        """Where the mean is lowest in the well around the point, if no cell certainly lies in it.

        Returns:
            The centre of a cell, shape ``(d,)``; None where some cell is, or there is no well.
        """
        level = self.bounds_near.upper[self._part]
        cells = self._connected(self.bounds.lower <= level)
        if self.well(0) is not None or (cells & self.relief.ways_out).any():
            return None
        lowest = np.where(cells, self.bounds.mean, np.inf).argmin()
        center: Array = self.relief.lattice.grid.cell_centers()[lowest]
        return center


@dataclass(frozen=True, eq=False)
class Well:
    """A well in one of the boxes of a tower, and the place in it that was asked about.

    Attributes:
        box: Number of the box.
        cells: Cells of its grid that hold the well, shape ``(grid.size,)``.
        inside: Those of them that lie in it to the last point, same shape: trajectories that start
            there stay in ``cells``.
        wall: The loss is higher than this all around it.
        near: What is known around the point.
        held: Parts of the cell of the point that lie in the well, shape ``(near.grid.size,)``.
        failure: Probability that this is false.
    """

    box: int
    cells: Mask
    inside: Mask
    wall: float
    near: Relief
    held: Mask
    failure: float

    def holds(self, point: Array) -> bool:
        """Whether a point, shape ``(d,)``, is in a part that lies in the well."""
        part = self.near.lattice.grid.cell_of(point[None])[0]
        return bool(part >= 0 and self.held[part])


def _minima(shape: tuple[int, ...], values: Array) -> Mask:
    """Cells than which none beside them is lower, shape ``(grid.size,)``."""
    around = minimum_filter(values.reshape(shape), size=3, mode="nearest").ravel()
    lowest: Mask = values <= around
    return lowest


def _divided(grid: CubicalGrid, point: Array) -> CubicalGrid:
    """The cell of a point, divided into equal parts."""
    index = np.unravel_index(grid.cell_of(point[None])[0], grid.shape)
    low, up = (
        np.array([edges[i + side] for edges, i in zip(grid.edges, index, strict=True)])
        for side in (0, 1)
    )
    parts = max(2, min(_PARTS, int(_MOST_PARTS ** (1 / grid.dim) + 1e-9)))
    return CubicalGrid(low, up, (parts,) * grid.dim)
