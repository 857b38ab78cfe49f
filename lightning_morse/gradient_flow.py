r"""Image boxes of grid cells under the gradient flow, for every field inside the band.

On the event of the band, the gradient flow of the warped loss solves the differential inclusion
:math:`x' \in -m(x) + [-w(x), w(x)]`, with :math:`m` the posterior mean of the gradient and
:math:`w` the half-width of the band. Each cell is enclosed by a box :math:`y(t) \pm r(t)`: the
centre :math:`y` follows :math:`-m`, and by the comparison theorem of Kamke and Mueller (Walter,
"Differential and Integral Inequalities", 1970, section 12) the radius may follow

.. math:: r_i' = -\min H_{ii}\, r_i + \sum_{j \ne i} \max |H_{ij}|\, r_j + \max w_i,

:math:`H` the Jacobian of :math:`m`, extrema over a box that holds :math:`y \pm r` for the whole
step. The time of flight differs from cell to cell: fixed points are fixed for every time, and a set
of cells that is closed under the map traps the flow whatever the times (docs of
:func:`image_boxes`).

*What is guaranteed.* On the event of the band, every trajectory that starts in a cell and stays in
the box is in the cell's image box at the cell's time; one that leaves is announced by ``exits``.
*What is not.* The integrator's error is estimated by an embedded pair and added to the radius, the
ranges of :math:`m` and :math:`H` inside a lattice cell are estimated to second order, rounding is
covered by a small inflation; none of the three is a proof.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_morse.confidence import GradientBand
from lightning_morse.lattice import Lattice
from lightning_morse.surrogate import Posterior

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Stop once a cell has moved so many cells, or its image has grown to so many (half-widths).
_MOVED = 3.0
_GROWN = 2.5
# A step moves at most this many cells and lets the radius grow by about a factor e^this.
_STRIDE = 0.75
_GROWTH = 0.7
_MAX_STEPS = 48
# Among many bands a cell is also left where a step changes its box by less than this, in cells.
_AT_REST = 0.01
# Contact with the boundary that is only rounding, in lattice cells.
_TOUCH = 1e-9
_CHUNK = 8192


@dataclass(frozen=True, eq=False)
class FlowImages:
    """Enclosures of grid cells under the gradient flow, one row each.

    Attributes:
        lower: Lower corners of the image boxes, shape ``(n, d)``, units of the box.
        upper: Upper corners, same shape.
        exits: Whether a trajectory from the cell may cross each face of the box on its way, shape
            ``(n, d, 2)``: axis, then lower and upper face.
        times: Time of flight of each cell under the flow of the warped loss, shape ``(n,)``.
        swept: First and last lattice cell, on each axis, of a box that holds every lattice cell
            over which the field was bounded on the way, shape ``(n, d, 2)``. What is said of a cell
            rests on the band in that box alone.
    """

    lower: Array
    upper: Array
    exits: Mask
    times: Array
    swept: NDArray[np.int64]


def critical_cells(lattice: Lattice, posterior: Posterior, band: GradientBand) -> Mask:
    """Lattice cells that can hold a critical point on the event of the band.

    A cell is left out iff some entry of the gradient cannot be zero anywhere in it.

    Returns:
        Shape ``(n_lattice_cells,)``.
    """
    (found,) = critical_cells_of(lattice, posterior, [band])
    return found


def critical_cells_of(
    lattice: Lattice, posterior: Posterior, bands: Sequence[GradientBand]
) -> list[Mask]:
    """:func:`critical_cells` for each of several bands."""
    low, high = lattice.cell_range(posterior.gradient)
    may_vanish = [(low <= band.radius) & (high >= -band.radius) for band in bands]
    return [np.asarray(mask.all(axis=1)) for mask in may_vanish]


def image_boxes(lattice: Lattice, posterior: Posterior, band: GradientBand) -> FlowImages:
    """Enclose the image of every grid cell under the gradient flow, each at a time of its own.

    A cell is followed until it has moved about 3 cells, its enclosure has grown beyond 2.5 cells,
    it is out of the box, or a number of steps is used up.

    Why a time of its own for each cell is sound: let ``S`` be a set of cells whose images lie in
    ``S``. A trajectory that starts in ``S`` is in ``S`` again at the end of each flight, so its
    limit points, which are critical points, lie in ``S`` (cells are closed). A cell from which no
    path leads to the exterior never lets a trajectory out of the box, because every flight that
    may cross the boundary is announced.

    Args:
        lattice: The lattice of the grid.
        posterior: The posterior at its points.
        band: The band on its cells.

    Returns:
        Image boxes and the faces that may be crossed.
    """
    return FlowEnclosure.of(lattice, posterior).images(band)


@dataclass(frozen=True, eq=False)
class FlowEnclosure:
    """What encloses the flow at every level of confidence, since it depends on the posterior alone.

    Lengths are in lattice cells, with the lower corner of the box at 0.

    Attributes:
        lattice: The lattice.
        velocity: ``-m`` at the lattice points, shape ``(n_points, d)``.
        interpolation: Error of interpolating it in each lattice cell, shape ``(n_cells, d)``.
        reaches: Half-widths of the windows that bounds are known for, shape ``(n_windows,)``.
        matrix: Upper bounds over windows of the matrix of the comparison system, ``-H_ii`` on and
            ``|H_ij|`` off its diagonal, shape ``(n_windows, n_cells, d * d)``.
    """

    lattice: Lattice
    velocity: Array
    interpolation: Array
    reaches: NDArray[np.int64]
    matrix: Array

    @classmethod
    def of(cls, lattice: Lattice, posterior: Posterior) -> FlowEnclosure:
        """Prepare the enclosure.

        Args:
            lattice: The lattice of the grid.
            posterior: The posterior at its points.
        """
        d, spacing = lattice.dim, lattice.spacing
        velocity = -posterior.gradient / spacing
        low, high = lattice.cell_range(posterior.hessian * (spacing / spacing[:, None]))
        matrix = np.maximum(np.abs(low), np.abs(high))
        diagonal = np.arange(d)
        matrix[:, diagonal, diagonal] = -low[:, diagonal, diagonal]
        widest = math.ceil((_GROWN + _STRIDE + 1) * max(lattice.refinement))
        reaches = np.unique(np.ceil(1.3 ** np.arange(0, 14)).astype(int))
        reaches = np.append(reaches[reaches < widest], widest)
        return cls(
            lattice=lattice,
            velocity=velocity,
            interpolation=lattice.interpolation_error(velocity),
            reaches=reaches,
            matrix=_spread(lattice, matrix.reshape(-1, d * d), reaches),
        )

    def images(self, band: GradientBand, cells: NDArray[np.int64] | None = None) -> FlowImages:
        """Enclose the images of grid cells for one band; see :func:`image_boxes`.

        Args:
            band: The band.
            cells: Numbers of grid cells, shape ``(n,)``; all of them if left out.

        Returns:
            One row for each of ``cells``.
        """
        numbers = np.arange(self.lattice.grid.size) if cells is None else np.asarray(cells)
        return _images(_Field(self, self._forcing(band)), numbers, None)

    def between(self, narrow: GradientBand, wide: GradientBand) -> BandsBetween:
        """Prepare for all the bands between two; see :class:`BandsBetween`.

        Args:
            narrow: The narrowest of the bands.
            wide: The widest one.

        Raises:
            ValueError: If ``wide`` is narrower than ``narrow`` somewhere.
        """
        if not (wide.radius >= narrow.radius).all():
            cell = int(np.argwhere(~(wide.radius >= narrow.radius))[0][0])
            raise ValueError(
                f"wide must be at least as wide as narrow, but in lattice cell {cell} it has "
                f"{wide.radius[cell]} against {narrow.radius[cell]}"
            )
        first, last = self._forcing(narrow), self._forcing(wide)
        return BandsBetween(narrow, wide, _Field(self, first, last - first, _AT_REST))

    def _forcing(self, band: GradientBand) -> Array:
        # The centre follows the interpolated mean, whose error is part of the forcing.
        own = band.radius / self.lattice.spacing + self.interpolation
        return _spread(self.lattice, own, self.reaches)


@dataclass(frozen=True, eq=False)
class BandsBetween:
    """Enclosures for many bands at once, each cell at a band of its own.

    A band lies at ``share`` in [0, 1] if its radius is nowhere larger than ``(1 - share)`` times
    that of the narrow band plus ``share`` times that of the wide one. Largest values over windows
    are convex, so the same mixture of the bounds for the two covers it; only two bounds are kept,
    however many bands there are. A cell is also left once its enclosure is at rest: flights of a
    cell that holds a critical point would go on for all steps, and times are free.

    Attributes:
        narrow: The band at share 0.
        wide: The band at share 1.
    """

    narrow: GradientBand
    wide: GradientBand
    _field: _Field

    @property
    def lattice(self) -> Lattice:
        """The lattice of the bands."""
        return self._field.enclosure.lattice

    def share(self, band: GradientBand) -> float:
        """Smallest share at which a band lies.

        Raises:
            ValueError: If it does not lie between the two.
        """
        room = self.wide.radius - self.narrow.radius
        above = band.radius - self.narrow.radius
        if (above > room).any():
            raise ValueError("band must be nowhere wider than the wide one")
        least = np.divide(above, room, out=np.zeros_like(room), where=room > 0).max()
        return float(np.clip(least * (1 + 1e-12), 0.0, 1.0))

    def images(self, cells: NDArray[np.int64], shares: Array) -> FlowImages:
        """Enclose the images of grid cells, each for the band at its share.

        Args:
            cells: Numbers of grid cells, shape ``(n,)``; they may repeat.
            shares: Shape ``(n,)``.

        Returns:
            One row for each of ``cells``.
        """
        return _images(self._field, cells, shares)


def _images(field: _Field, cells: NDArray[np.int64], shares: Array | None) -> FlowImages:
    lattice = field.enclosure.lattice
    starts = range(0, max(len(cells), 1), _CHUNK)
    parts = [
        _follow(field, cells[i : i + _CHUNK], None if shares is None else shares[i : i + _CHUNK])
        for i in starts
    ]
    center, radius, exits, times, swept = (np.concatenate(a) for a in zip(*parts, strict=True))
    low, spacing = lattice.grid.lower, lattice.spacing
    rounding = 1e-12 * (np.abs(lattice.grid.lower) + np.abs(lattice.grid.upper))
    return FlowImages(
        lower=low + (center - radius) * spacing - rounding,
        upper=low + (center + radius) * spacing + rounding,
        exits=exits,
        times=times,
        swept=swept,
    )


@dataclass(frozen=True, eq=False)
class _Field:
    """The inclusion for one band, or for the bands between two.

    Attributes:
        enclosure: What does not depend on the band.
        forcing: Upper bounds of the forcing over windows, shape ``(n_windows, n_cells, d)``.
        widening: What is added to it at share 1, same shape; None for one band.
        at_rest: Stop a cell when a step changes its box by less, in grid cells.
    """

    enclosure: FlowEnclosure
    forcing: Array
    widening: Array | None = None
    at_rest: float = 0.0

    def at(self, y: Array) -> Array:
        """Velocity by multilinear interpolation, constant beyond the box."""
        cells = np.array(self.enclosure.lattice.cells)
        inside = np.clip(y, 0, cells)
        corner = np.minimum(inside.astype(np.int64), cells - 1)
        share = inside - corner
        strides = np.append(np.cumprod((cells + 1)[::-1])[-2::-1], 1)
        base = corner @ strides
        out = np.zeros_like(y)
        for bits in np.ndindex(*(2,) * y.shape[1]):
            weight = np.prod(np.where(bits, share, 1 - share), axis=1)
            out += weight[:, None] * self.enclosure.velocity[base + np.array(bits) @ strides]
        return out

    def over(
        self, corner: NDArray[np.int64], y: Array, window: NDArray[np.int64], shares: Array | None
    ) -> tuple[Array, Array]:
        """Comparison matrix and forcing over the windows of given number around lattice cells."""
        d, known = y.shape[1], self.enclosure
        cell = np.ravel_multi_index(tuple(corner.T), known.lattice.cells)
        matrix = known.matrix[window, cell].reshape(-1, d, d)
        forcing = self.forcing[window, cell]
        if self.widening is not None and shares is not None:
            forcing = forcing + shares[:, None] * self.widening[window, cell]
        # Beyond the box the field is constant, so a radius reaching there does not contract.
        beyond = known.reaches[window][:, None]
        out = (y - beyond < 0) | (y + beyond > np.array(known.lattice.cells))
        diagonal = np.arange(d)
        on = matrix[:, diagonal, diagonal]
        matrix[:, diagonal, diagonal] = np.where(out, np.maximum(on, 0), on)
        return matrix, forcing


def _spread(lattice: Lattice, bounds: Array, reaches: NDArray[np.int64]) -> Array:
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


def _follow(
    field: _Field, cells: NDArray[np.int64], shares: Array | None
) -> tuple[Array, Array, Mask, Array, NDArray[np.int64]]:
    """Centres and radii, in lattice units, of the images of some grid cells; faces; times; swept.

    Args:
        field: The inclusion.
        cells: Numbers of the grid cells.
        shares: Which of the bands between two holds for each cell; None for one band.
    """
    lattice, reaches = field.enclosure.lattice, field.enclosure.reaches
    per_cell = np.array(lattice.refinement, dtype=np.float64)
    extent = np.array(lattice.cells, dtype=np.float64)
    last = np.array(lattice.cells) - 1
    index = np.stack(np.unravel_index(cells, lattice.grid.shape), axis=1)
    used = np.stack([index, index + 1], axis=2) * np.array(lattice.refinement)[:, None]
    used[..., 1] -= 1
    start = (index + 0.5) * per_cell
    center, radius = start.copy(), np.tile(per_cell / 2, (len(cells), 1))
    exits = np.zeros((len(cells), lattice.dim, 2), dtype=bool)
    times = np.zeros(len(cells))
    caution = np.ones(len(cells))
    speed = field.at(center)
    active = np.arange(len(cells))
    for _ in range(_MAX_STEPS):
        if not active.size:
            break
        y, r, v = center[active], radius[active], speed[active]
        pace = np.maximum((np.abs(v) / per_cell).max(axis=1), 1e-300)
        # Plan: the window holds the box and a stride, if the growth stays as planned.
        room = np.ceil((1.2 * r + _STRIDE * per_cell).max(axis=1) + 1e-9)
        window = np.minimum(np.searchsorted(reaches, room), reaches.size - 1)
        corner = np.clip(y, 0, last).astype(np.int64)
        matrix, forcing = field.over(corner, y, window, None if shares is None else shares[active])
        norm = np.abs(matrix).sum(axis=2).max(axis=1)
        step = caution[active] * np.minimum(_STRIDE / pace, _GROWTH / np.maximum(norm, 1e-300))
        ahead, v_ahead, error = _advance(field, y, v, step)
        grown = _compare(matrix, forcing, r, step) + error
        # In between, a radius can exceed both its ends, by second order in the step.
        swept = np.maximum(r, grown) + 0.1 * np.abs(grown - r).max(axis=1, keepdims=True)
        held = (np.abs(ahead - y) + swept <= reaches[window][:, None]).all(axis=1)
        caution[active] = np.where(
            held, np.minimum(1.0, 1.5 * caution[active]), 0.5 * caution[active]
        )

        # A box grown too large is not taken: the one before it says more.
        large = (grown > _GROWN * per_cell).any(axis=1) & held
        go = held & ~large
        moved = active[go]
        exits[moved, :, 0] |= (ahead - grown < -_TOUCH)[go]
        exits[moved, :, 1] |= (ahead + grown > extent + _TOUCH)[go]
        center[moved], radius[moved], speed[moved] = ahead[go], grown[go], v_ahead[go]
        times[moved] += step[go]
        reach = reaches[window[go]][:, None]
        used[moved, :, 0] = np.minimum(used[moved, :, 0], np.maximum(corner[go] - reach, 0))
        used[moved, :, 1] = np.maximum(used[moved, :, 1], np.minimum(corner[go] + reach, last))

        change = np.abs(ahead - y) + np.abs(grown - r)
        rests = go & (change < field.at_rest * per_cell).all(axis=1)
        at, r = center[active], radius[active]
        gone = (np.abs(at - start[active]) >= _MOVED * per_cell).any(axis=1)
        outside = ((at + r < 0) | (at - r > extent)).any(axis=1)
        stuck = caution[active] < 1e-3
        active = active[~(rests | gone | outside | large | stuck)]
    # A cell that could not be followed at all is its own image, and may leave wherever it touches.
    still = (times == 0)[:, None]
    exits[..., 0] |= still & (center - radius <= 0)
    exits[..., 1] |= still & (center + radius >= extent)
    return center, radius, exits, times, used


def _advance(field: _Field, y: Array, v: Array, step: Array) -> tuple[Array, Array, Array]:
    """One Bogacki-Shampine step: new centre, velocity there, and the size of its error."""
    h = step[:, None]
    k2 = field.at(y + 0.5 * h * v)
    k3 = field.at(y + 0.75 * h * k2)
    ahead = y + h * (2 * v + 3 * k2 + 4 * k3) / 9
    k4 = field.at(ahead)
    error = np.abs(h * (-5 * v / 72 + k2 / 12 + k3 / 9 - k4 / 8))
    return ahead, k4, error


def _compare(matrix: Array, forcing: Array, r: Array, step: Array) -> Array:
    """Solution of ``r' = A r + b`` after a step, rounded up.

    ``r(h) = r + h phi(h A)(A r + b)`` with ``phi(z) = (e^z - 1) / z`` as a power series.
    """
    h = step[:, None]
    term = h * (np.einsum("nij,nj->ni", matrix, r) + forcing)
    total = r + term
    for k in range(2, 10):
        term = h * np.einsum("nij,nj->ni", matrix, term) / k
        total += term
    # The rest of the series is below the last term for h ||A|| <= 1, and rounding below both.
    return np.maximum(total + np.abs(term), 0.0) * (1 + 1e-12)
