"""Where the mean flow of a tower leads, and where it may rest: guesses of where to look next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import minimum_filter

from lightning_morse._typing import Array
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.conley.reach import UNDECIDED
from lightning_morse.grids.cubical import CubicalGrid

# Length of a step in lattice cells, and steps at most: enough to cross a lattice several times. A
# descent that has not come lower for this many steps rests.
_STEP = 0.7
_MOST_STEPS = 1500
_PATIENCE = 12


@dataclass(frozen=True, eq=False)
class Descent:
    """The mean flow from a point.

    Attributes:
        path: Points on the way, shape ``(n, d)``; the last one is where it rests or leaves.
        box: Number of the box in which it ends.
        face: Axis and side (0 lower, 1 upper) of the face of the outermost box that it leaves
            through; None if it does not.
    """

    path: Array
    box: int
    face: tuple[int, int] | None = None

    @property
    def leaves(self) -> bool:
        """Whether it leaves the outermost box."""
        return self.face is not None

    @property
    def end(self) -> Array:
        """Where it ends, shape ``(d,)``."""
        end: Array = self.path[-1]
        return end


def descend(portrait: PhasePortrait, start: Array) -> Descent:
    """Follow the posterior mean of the innermost box at every point, until it rests or leaves.

    Args:
        portrait: The portrait so far.
        start: Shape ``(d,)``, inside the outermost box.
    """
    nested = portrait.nested
    point, path = np.array(start, dtype=np.float64), [np.array(start, dtype=np.float64)]
    k = int(nested.box_of(point[None])[0])
    lowest, since = np.inf, 0
    for _ in range(_MOST_STEPS):
        chart = portrait.charts[k]
        lattice, bounds = chart.lattice, chart.enclosure.bounds
        y = (point - lattice.grid.lower) / lattice.spacing
        v = bounds.velocity_at(y[None])[0]
        speed = np.abs(v).max()
        height = float(bounds.height_at(y[None])[0])
        if height < lowest:
            lowest, since, best = height, 0, len(path)
        else:
            since += 1
        if not speed > 0 or since > _PATIENCE:
            return Descent(np.array(path[:best]), k)
        ahead = point + _STEP * lattice.spacing * v / speed
        now = int(nested.box_of(ahead[None])[0])
        if now < 0:
            grid = nested.grids[0]
            path.append(np.clip(ahead, grid.lower, grid.upper))
            return Descent(np.array(path), 0, _face_crossed(point, ahead, grid))
        if now != k:
            # Heights in another box are in units of another warp.
            k, lowest, since = now, np.inf, 0
        point = ahead
        path.append(point)
    return Descent(np.array(path), k)


def undecided_minima(portrait: PhasePortrait) -> list[tuple[int, Array, float]]:
    """Minima of the posterior means in cells about which nothing is certain, the lowest first.

    Returns:
        For each the number of its box, the point, shape ``(d,)``, and the loss there.
    """
    found = []
    for k, chart in enumerate(portrait.charts):
        lattice, nested = chart.lattice, portrait.nested
        shape = tuple(n + 1 for n in lattice.cells)
        mean = chart.posterior.mean.reshape(shape)
        lowest = mean == minimum_filter(mean, size=3, mode="nearest")
        inner = np.zeros(shape, dtype=bool)
        inner[(slice(1, -1),) * lattice.dim] = True
        for index in np.argwhere(lowest & inner):
            point = np.array([axis[i] for axis, i in zip(lattice.axes, index, strict=True)])
            cell = nested.numbers[k][lattice.grid.cell_of(point[None])[0]]
            if cell >= 0 and portrait.labels[cell] == UNDECIDED:
                loss = chart.surrogate.warp.inverse(mean[tuple(index)])
                found.append((k, point, float(loss)))
    return sorted(found, key=lambda each: each[2])


def _face_crossed(point: Array, ahead: Array, grid: CubicalGrid) -> tuple[int, int]:
    """Axis and side of the face that a step out of a box crosses first."""
    beyond = np.maximum(grid.lower - ahead, ahead - grid.upper)
    axis = int(np.where(beyond > 0, beyond / np.abs(ahead - point), -np.inf).argmax())
    return axis, int(ahead[axis] > grid.upper[axis])
