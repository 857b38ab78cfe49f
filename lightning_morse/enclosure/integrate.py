r"""Cells followed along the flow, step by step.

On the event of the band, the gradient flow of the warped loss solves the differential inclusion
:math:`x' \in -m(x) + [-w(x), w(x)]`, with :math:`m` the posterior mean of the gradient and
:math:`w` the half-width of the band. The centre :math:`y` of a cell follows :math:`-m`, and a box
around it encloses every solution that starts in the cell (:mod:`lightning_morse.enclosure.boxes`).

A step is taken only if its tube, meaning the path of the centre with the largest box around it,
stays in the window over which the field was bounded. That assumption is checked by the bounds it
leads to, which suffices: were a trajectory to leave the window, it would do so at a first time, and
up to then all bounds hold and keep it inside. If the path of the centre along an axis is no longer
than :math:`\ell` and its ends are :math:`\delta` apart, no point of it is further than
:math:`(\ell + \delta) / 2` from its start. A step that fails is tried again at half the length.

*What is not proved.* The error of the integrator, estimated by an embedded pair and added to the
box; and exits, which are looked for at the ends of steps only.

Lengths are in lattice cells, with the lower corner of the box at 0. Arrays have one row per axis
and one column per flight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.enclosure.bounds import FlowBounds
from lightning_morse.enclosure.boxes import LONGEST_STRIDE, Grown, MakeBoxes, Place, Stride

# A cell is followed until it has moved this many grid cells, or until the half-width of its image
# exceeds this many. Every time is sound; further on, an image says less about the flow.
_FAR_ENOUGH = 3.0
_LARGEST_RADIUS = 2.5
# Longest step times the norm of the comparison matrix. Soundness depends on its being at most
# `comparison.LARGEST_EXPONENT`; below that it trades time against sharpness.
_LONGEST_EXPONENT = 0.7
# Steps at most. A cell that has used them up keeps the image it has.
_MOST_STEPS = 48
# Distance from the centre, in grid cells, that windows are prepared for. A step that needs more is
# refused.
FARTHEST = _LARGEST_RADIUS + LONGEST_STRIDE + 1
# A window is chosen for a box that grows by this factor in the step. Only a guess: the step is
# checked against the window.
_PLANNED_GROWTH = 1.2
# Added before rounding up to whole cells, so that a plan on the edge gets the wider window.
_ROOM = 1e-9
# A failed step is halved, and steps recover by this factor; a cell whose steps have become shorter
# than this share of what is allowed is given up and keeps the image it has. Sound at any value.
_RECOVERY = 1.5
_GIVE_UP = 1e-3
# Contact with the boundary of the box, in lattice cells, that is only rounding: a cell on the
# boundary starts with a face on it. Far above the rounding of a position, far below a cell.
_TOUCH = 1e-9
# Cells that take a step together: more would not fit into a cache. It never bears on the result.
_TOGETHER = 8192
# Stands in for a speed or a norm of zero where one divides by it.
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Inclusion:
    """The differential inclusion of one band, or of the bands between two.

    Attributes:
        bounds: Bounds that do not depend on the band.
        forcing: Upper bounds of the forcing over windows, shape ``(d, n_windows, n_cells)``.
        at_rest: Stop a cell when a step changes its box by less than this, in grid cells.
        widening: What is added to the forcing at share 1, same shape; None for one band.
    """

    bounds: FlowBounds
    forcing: Array
    at_rest: float
    widening: Array | None = None

    def over(self, cell: Cells, window: Cells, shares: Array | None) -> Array:
        """Forcing over the windows of given number around lattice cells, shape ``(d, n)``."""
        forcing = self.bounds.over(self.forcing, cell, window)
        if self.widening is not None and shares is not None:
            forcing += shares * self.bounds.over(self.widening, cell, window)
        return forcing


@dataclass(frozen=True, eq=False)
class Flown:
    """Where the flights have ended, one row per cell.

    Attributes:
        center: Centres of the boxes, shape ``(n, d)``.
        radius: Their half-widths, same shape.
        exits: Whether a trajectory may cross each face of the box, shape ``(n, d, 2)``.
        times: Times of flight, shape ``(n,)``.
        swept: First and last lattice cell along each axis, shape ``(n, d, 2)``.
    """

    center: Array
    radius: Array
    exits: Mask
    times: Array
    swept: Cells


def follow(
    inclusion: Inclusion,
    kind: MakeBoxes,
    cells: Cells,
    shares: Array | None,
) -> Flown:
    """Follow some grid cells along the flow.

    Args:
        inclusion: The inclusion.
        kind: Makes the boxes to carry along, from centres and half-widths.
        cells: Numbers of the grid cells, shape ``(n,)``.
        shares: Which of the bands between two holds for each cell, same shape; None for one band.
    """
    flights = _Flights(inclusion, kind, cells, shares)
    active = np.arange(len(cells))
    for _ in range(_MOST_STEPS):
        if not active.size:
            break
        parts = [active[i : i + _TOGETHER] for i in range(0, active.size, _TOGETHER)]
        active = np.concatenate([flights.step(part) for part in parts])
    return flights.landed()


class _Taken(NamedTuple):
    """A step as it was tried: from where, to where, and over which windows."""

    y: Array
    radius: Array
    corner: Cells
    reach: Cells
    stride: Stride
    grown: Grown


class _Flights:
    """The state of all flights, one column per cell."""

    def __init__(
        self, inclusion: Inclusion, kind: MakeBoxes, cells: Cells, shares: Array | None
    ) -> None:
        lattice = inclusion.bounds.lattice
        n = len(cells)
        self.inclusion, self.bounds, self.lattice = inclusion, inclusion.bounds, lattice
        self.shares = shares
        self.per_cell = np.array(lattice.refinement, dtype=np.float64)[:, None]
        self.extent = np.array(lattice.cells, dtype=np.float64)[:, None]
        index = np.stack(np.unravel_index(cells, lattice.grid.shape))
        self.first = index * np.array(lattice.refinement)[:, None]
        self.last = (index + 1) * np.array(lattice.refinement)[:, None] - 1
        self.start = (index + 0.5) * self.per_cell
        self.center = self.start.copy()
        self.boxes = kind(self.bounds, self.start, np.tile(self.per_cell / 2, (1, n)))
        self.velocity = self.bounds.velocity_at(self.center)
        self.exits = np.zeros((2, lattice.dim, n), dtype=bool)
        self.times = np.zeros(n)
        # Share of the longest step allowed that is tried next.
        self.caution = np.ones(n)

    def step(self, active: Cells) -> Cells:
        """Try one step of the given flights.

        Returns:
            Those that go on.
        """
        tried = self._tried(active)
        held = self._held(active, tried)
        # A box grown too large is not taken: the one before it says more.
        large = (tried.grown.radius > _LARGEST_RADIUS * self.per_cell).any(axis=0) & held
        go = held & ~large
        self._take(active, tried, go)
        return active[~(large | self._finished(active, tried, go))]

    def landed(self) -> Flown:
        """The flights as they stand."""
        # A cell that could not be followed is its own image, and may leave wherever it touches.
        still = self.times == 0
        radius = np.where(still, self.per_cell / 2, self.boxes.radius(np.arange(len(still))))
        self.exits[0] |= still & (self.center - radius <= 0)
        self.exits[1] |= still & (self.center + radius >= self.extent)
        swept = np.stack([self.first, self.last])
        return Flown(self.center.T, radius.T, self.exits.T, self.times, swept.T)

    def _tried(self, active: Cells) -> _Taken:
        """A step in a window planned for it; whether it stays there is checked by `_held`."""
        bounds, reaches = self.bounds, self.bounds.reaches
        y, v = self.center.take(active, axis=1), self.velocity.take(active, axis=1)
        radius = self.boxes.radius(active)
        room = np.ceil(
            (_PLANNED_GROWTH * radius + LONGEST_STRIDE * self.per_cell).max(axis=0) + _ROOM
        )
        window = np.minimum(np.searchsorted(reaches, room), reaches.size - 1)
        corner = bounds.corner(y)
        cell = np.ravel_multi_index(tuple(corner), self.lattice.cells)
        shares = None if self.shares is None else self.shares[active]
        forcing = self.inclusion.over(cell, window, shares)
        growth = self.boxes.growth(active, Place(y, v, cell, window, forcing))
        pace = np.maximum((np.abs(v) / self.per_cell).max(axis=0), _TINY)
        longest = np.minimum(
            LONGEST_STRIDE / pace, _LONGEST_EXPONENT / np.maximum(growth.norm, _TINY)
        )
        stride = _advance(bounds, y, v, self.caution[active] * longest)
        return _Taken(y, radius, corner, reaches[window], stride, growth.after(stride))

    def _held(self, active: Cells, tried: _Taken) -> Mask:
        """Whether each step stayed in its window; adapts the length of the next one."""
        stride, grown = tried.stride, tried.grown
        apart = np.abs(stride.ahead - tried.y) + stride.error
        away = 0.5 * (grown.path + apart)
        held = np.asarray(grown.sound & (away + grown.swept <= tried.reach).all(axis=0))
        caution = self.caution[active]
        self.caution[active] = np.where(held, np.minimum(1.0, _RECOVERY * caution), 0.5 * caution)
        return held

    def _take(self, active: Cells, tried: _Taken, go: Mask) -> None:
        """Move the flights whose step is taken."""
        ahead, grown = tried.stride.ahead, tried.grown
        last_cell = np.array(self.lattice.cells)[:, None] - 1
        first = np.maximum(tried.corner - tried.reach, 0)
        last = np.minimum(tried.corner + tried.reach, last_cell)
        below = ahead - grown.radius < -_TOUCH
        above = ahead + grown.radius > self.extent + _TOUCH
        size, velocity, time = grown.size, tried.stride.velocity, tried.stride.time
        moved = active
        if not go.all():
            taken = np.flatnonzero(go)
            moved, time = active[taken], time[taken]
            first, last = (each.take(taken, axis=1) for each in (first, last))
            below, above = (each.take(taken, axis=1) for each in (below, above))
            ahead, velocity = (each.take(taken, axis=1) for each in (ahead, velocity))
            size = size.take(taken, axis=-1)
        self.first[:, moved] = np.minimum(self.first.take(moved, axis=1), first)
        self.last[:, moved] = np.maximum(self.last.take(moved, axis=1), last)
        self.exits[0][:, moved] |= below
        self.exits[1][:, moved] |= above
        self.center[:, moved], self.boxes.size[..., moved] = ahead, size
        self.velocity[:, moved] = velocity
        self.times[moved] += time

    def _finished(self, active: Cells, tried: _Taken, go: Mask) -> Mask:
        """Which flights are at rest, far enough, out of the box, or stuck."""
        at, grown = self.center.take(active, axis=1), tried.grown.radius
        change = np.abs(tried.stride.ahead - tried.y) + np.abs(grown - tried.radius)
        rests = go & (change < self.inclusion.at_rest * self.per_cell).all(axis=0)
        radius = np.where(go, grown, tried.radius)
        moved = np.abs(at - self.start.take(active, axis=1))
        gone = (moved >= _FAR_ENOUGH * self.per_cell).any(axis=0)
        outside = ((at + radius < 0) | (at - radius > self.extent)).any(axis=0)
        stuck = self.caution[active] < _GIVE_UP
        return np.asarray(rests | gone | outside | stuck)


def _advance(bounds: FlowBounds, y: Array, v: Array, step: Array) -> Stride:
    """One Bogacki-Shampine step of the centres (1989); its error is estimated."""
    k2 = bounds.velocity_at(y + 0.5 * step * v)
    k3 = bounds.velocity_at(y + 0.75 * step * k2)
    ahead = y + step * (2 * v + 3 * k2 + 4 * k3) / 9
    k4 = bounds.velocity_at(ahead)
    error = np.abs(step * (-5 * v / 72 + k2 / 12 + k3 / 9 - k4 / 8))
    return Stride(step, ahead, k4, error)
