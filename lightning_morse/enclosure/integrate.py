"""Cells followed along the flow, step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.enclosure.bounds import FlowBounds
from lightning_morse.enclosure.boxes import _STRIDE, MakeBoxes, Place, Stride

# Stop once a cell has moved so many cells, or its image has grown to so many (half-widths).
_MOVED = 3.0
_GROWN = 2.5
_GROWTH = 0.7
_MAX_STEPS = 48
# A flight looks no further than so many cells around its centre.
FARTHEST = _GROWN + _STRIDE + 1
# Contact with the boundary that is only rounding, in lattice cells.
_TOUCH = 1e-9


@dataclass(frozen=True, eq=False)
class Inclusion:
    """The differential inclusion of one band, or of the bands between two.

    Attributes:
        bounds: What does not depend on the band.
        forcing: Upper bounds of the forcing over windows, shape ``(n_windows, n_cells, d)``.
        widening: What is added to it at share 1, same shape; None for one band.
        at_rest: Stop a cell when a step changes its box by less, in grid cells.
    """

    bounds: FlowBounds
    forcing: Array
    widening: Array | None = None
    at_rest: float = 0.0

    def over(self, cell: Cells, window: Cells, shares: Array | None) -> Array:
        """Forcing over the windows of given number around lattice cells, shape ``(n, d)``."""
        forcing = self.forcing[window, cell]
        if self.widening is not None and shares is not None:
            forcing = forcing + shares[:, None] * self.widening[window, cell]
        return np.asarray(forcing)


@dataclass(frozen=True, eq=False)
class Flown:
    """Where the flights have ended, one row a cell.

    Attributes:
        center: Centres of the boxes, shape ``(n, d)``.
        radius: Their half-widths, same shape.
        exits: Whether a trajectory may cross each face of the box, shape ``(n, d, 2)``.
        times: Time of flight, shape ``(n,)``.
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
    """Follow some grid cells.

    Args:
        inclusion: The inclusion.
        kind: Makes the boxes to follow, from centres and half-widths.
        cells: Cells of the grid cells.
        shares: Which of the bands between two holds for each cell; None for one band.
    """
    bounds = inclusion.bounds
    lattice, reaches = bounds.lattice, bounds.reaches
    per_cell = np.array(lattice.refinement, dtype=np.float64)
    extent = np.array(lattice.cells, dtype=np.float64)
    last = np.array(lattice.cells) - 1
    index = np.stack(np.unravel_index(cells, lattice.grid.shape), axis=1)
    used = np.stack([index, index + 1], axis=2) * np.array(lattice.refinement)[:, None]
    used[..., 1] -= 1
    start = (index + 0.5) * per_cell
    center = start.copy()
    boxes = kind(bounds, start, np.tile(per_cell / 2, (len(cells), 1)))
    exits = np.zeros((len(cells), lattice.dim, 2), dtype=bool)
    times = np.zeros(len(cells))
    caution = np.ones(len(cells))
    speed = bounds.velocity_at(center)
    active = np.arange(len(cells))
    for _ in range(_MAX_STEPS):
        if not active.size:
            break
        y, r, v = center[active], boxes.radius(active), speed[active]
        pace = np.maximum((np.abs(v) / per_cell).max(axis=1), 1e-300)
        # Plan: the window holds the box and a stride, if the growth stays as planned.
        room = np.ceil((1.2 * r + _STRIDE * per_cell).max(axis=1) + 1e-9)
        window = np.minimum(np.searchsorted(reaches, room), reaches.size - 1)
        corner = bounds.corner(y)
        cell = np.ravel_multi_index(tuple(corner.T), lattice.cells)
        forcing = inclusion.over(cell, window, None if shares is None else shares[active])
        growth = boxes.growth(active, Place(y, cell, window, forcing))
        longest = np.minimum(_STRIDE / pace, _GROWTH / np.maximum(growth.norm, 1e-300))
        stride = _advance(bounds, y, v, caution[active] * longest)
        ahead, grown = stride.ahead, growth.after(stride)
        reach = reaches[window][:, None]
        held = grown.sound & (np.abs(ahead - y) + grown.swept <= reach).all(axis=1)
        caution[active] = np.where(
            held, np.minimum(1.0, 1.5 * caution[active]), 0.5 * caution[active]
        )

        # A box grown too large is not taken: the one before it says more.
        large = (grown.radius > _GROWN * per_cell).any(axis=1) & held
        go = held & ~large
        moved = active[go]
        exits[moved, :, 0] |= (ahead - grown.radius < -_TOUCH)[go]
        exits[moved, :, 1] |= (ahead + grown.radius > extent + _TOUCH)[go]
        center[moved], boxes.size[moved] = ahead[go], grown.size[go]
        speed[moved] = stride.velocity[go]
        times[moved] += stride.time[go]
        used[moved, :, 0] = np.minimum(used[moved, :, 0], np.maximum((corner - reach)[go], 0))
        used[moved, :, 1] = np.maximum(used[moved, :, 1], np.minimum((corner + reach)[go], last))

        change = np.abs(ahead - y) + np.abs(grown.radius - r)
        rests = go & (change < inclusion.at_rest * per_cell).all(axis=1)
        at, r = center[active], np.where(go[:, None], grown.radius, r)
        gone = (np.abs(at - start[active]) >= _MOVED * per_cell).any(axis=1)
        outside = ((at + r < 0) | (at - r > extent)).any(axis=1)
        stuck = caution[active] < 1e-3
        active = active[~(rests | gone | outside | large | stuck)]
    # A cell that could not be followed at all is its own image, and may leave wherever it touches.
    still = (times == 0)[:, None]
    radius = np.where(still, per_cell / 2, boxes.radius(np.arange(len(cells))))
    exits[..., 0] |= still & (center - radius <= 0)
    exits[..., 1] |= still & (center + radius >= extent)
    return Flown(center, radius, exits, times, used)


def _advance(bounds: FlowBounds, y: Array, v: Array, step: Array) -> Stride:
    """One Bogacki-Shampine step of the centres; its error is estimated."""
    h = step[:, None]
    k2 = bounds.velocity_at(y + 0.5 * h * v)
    k3 = bounds.velocity_at(y + 0.75 * h * k2)
    ahead = y + h * (2 * v + 3 * k2 + 4 * k3) / 9
    k4 = bounds.velocity_at(ahead)
    error = np.abs(h * (-5 * v / 72 + k2 / 12 + k3 / 9 - k4 / 8))
    fastest = np.abs(np.concatenate([v, k2, k3, k4], axis=1)).max(axis=1)
    return Stride(step, ahead, k4, error, 1.1 * step * fastest)
