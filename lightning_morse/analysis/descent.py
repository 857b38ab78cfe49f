"""Where the mean flow of a tower leads, and where it may rest: guesses of where to look next."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import minimum_filter

from lightning_morse._typing import Array
from lightning_morse.analysis.charts import Chart, Patch
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.conley.reach import UNDECIDED
from lightning_morse.grids.cubical import CubicalGrid

# Length of a step in lattice cells, and steps at most: enough to cross a lattice several times. A
# descent that has not come lower for this many steps rests.
_STEP = 0.7
_MOST_STEPS = 1500
_PATIENCE = 12
# Means of neighbouring boxes may send it back and forth: so often it may change boxes. Then they
# contradict each other, and the outer one, which knows that place from outside alone, is in doubt.
_MOST_MOVES = 20


@dataclass(frozen=True, eq=False)
class Descent:
    """The mean flow from a point.

    Attributes:
        path: Points on the way, shape ``(n, d)``; the last one is where it rests or leaves.
        box: Number of the box in which it ends; where it goes back and forth, of the outer one.
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


class _Field:
    """Velocity and height of the mean of a box, or of a part of one, at one point at a time."""

    def __init__(self, box: int, patch: Patch, grid: CubicalGrid) -> None:
        chart, lattice, self.box = patch.chart, patch.chart.lattice, box
        self.table = np.column_stack([*chart.enclosure.bounds.velocity, chart.posterior.mean])
        self.lower, self.spacing = lattice.grid.lower, lattice.spacing
        self.cells = lattice.cells
        self.strides = [
            math.prod(n + 1 for n in lattice.cells[j + 1 :]) for j in range(lattice.dim)
        ]
        self.corners = tuple(grid.corner(index).tolist() for index in (patch.first, patch.last))

    def at(self, point: Array) -> tuple[Array, float]:
        """Velocity in lattice cells, shape ``(d,)``, and height, by multilinear interpolation."""
        weights, rows = [1.0], [0]
        y = ((point - self.lower) / self.spacing).tolist()
        for where, n, stride in zip(y, self.cells, self.strides, strict=True):
            inside = min(max(where, 0.0), float(n))
            corner = min(int(inside), n - 1)
            share = inside - corner
            weights = [w * s for w in weights for s in (1 - share, share)]
            rows = [r + (corner + s) * stride for r in rows for s in (0, 1)]
        found = np.array(weights) @ self.table[rows]
        return found[:-1], float(found[-1])

    def holds(self, point: Array) -> bool:
        """Whether a point lies in the box, or in the part."""
        lower, upper = self.corners
        return all(a <= x <= b for a, x, b in zip(lower, point.tolist(), upper, strict=True))


def descend(portrait: PhasePortrait, start: Array) -> Descent:
    """Follow the posterior mean of the innermost box at every point, until it rests or leaves.

    Args:
        portrait: The portrait so far.
        start: Shape ``(d,)``, inside the outermost box.
    """
    fields = [
        _Field(k, patch, chart.grid)
        for k, chart in enumerate(portrait.charts)
        for patch in chart.patches
    ]

    def innermost(point: Array) -> int:
        return max((k for k, field in enumerate(fields) if field.holds(point)), default=-1)

    point = np.array(start, dtype=np.float64)
    path, k = [point], innermost(point)
    lowest, since, best, moves, before = np.inf, 0, 1, 0, k
    for _ in range(_MOST_STEPS):
        velocity, height = fields[k].at(point)
        speed = np.abs(velocity).max()
        if height < lowest:
            lowest, since, best = height, 0, len(path)
        else:
            since += 1
        if not speed > 0 or since > _PATIENCE or moves > _MOST_MOVES:
            break
        ahead = point + _STEP * fields[k].spacing * velocity / speed
        now = innermost(ahead)
        if now < 0:
            grid = portrait.nested.grids[0]
            path.append(np.clip(ahead, grid.lower, grid.upper))
            return Descent(np.array(path), 0, _face_crossed(point, ahead, grid))
        if now != k:
            # Heights in another box are in units of another warp.
            before, k, lowest, since, moves = k, now, np.inf, 0, moves + 1
        point = ahead
        path.append(point)
    ends = {innermost(path[best - 1])}
    if moves > _MOST_MOVES:
        ends |= {before, k}
    return Descent(np.array(path[:best]), min(fields[j].box for j in ends))


def undecided_part(portrait: PhasePortrait, way: Descent) -> Descent:
    """A way up to the last point whose cell is undecided, if what follows is in a certain basin.

    There a basin that is known has to grow for the start of the way to be in it.
    """
    labels = portrait.labels[portrait.nested.cell_of(way.path)]
    undecided = np.flatnonzero(labels == UNDECIDED)
    if labels[-1] < 0 or not undecided.size:
        return way
    path = way.path[: undecided[-1] + 1]
    holds = [
        k
        for k, grid in enumerate(portrait.nested.grids)
        if ((path[-1] >= grid.lower) & (path[-1] <= grid.upper)).all()
    ]
    return Descent(path, max(holds))


def undecided_minima(portrait: PhasePortrait) -> list[tuple[int, Array, float]]:
    """Minima of the posterior means in cells that are open, the lowest first.

    Returns:
        For each the number of its box, the point, shape ``(d,)``, and the loss there.
    """
    found, open_ = [], portrait.open
    nested = portrait.nested
    for k, chart in enumerate(portrait.charts):
        for patch in chart.patches:
            for point, loss in _minima(patch.chart):
                own = chart.grid.cell_of(point[None])[0]
                cell = nested.numbers[k][own]
                if cell >= 0 and open_[cell] and chart.at(point) is patch.chart:
                    found.append((k, point, loss))
    return sorted(found, key=lambda each: each[2])


def _minima(chart: Chart) -> list[tuple[Array, float]]:
    """Points inside a lattice where the mean is lower than at all beside, and the losses there."""
    lattice = chart.lattice
    shape = tuple(n + 1 for n in lattice.cells)
    mean = chart.posterior.mean.reshape(shape)
    lowest = mean == minimum_filter(mean, size=3, mode="nearest")
    inner = np.zeros(shape, dtype=bool)
    inner[(slice(1, -1),) * lattice.dim] = True
    return [
        (
            np.array([axis[i] for axis, i in zip(lattice.axes, index, strict=True)]),
            float(chart.surrogate.warp.inverse(mean[tuple(index)])),
        )
        for index in np.argwhere(lowest & inner)
    ]


def _face_crossed(point: Array, ahead: Array, grid: CubicalGrid) -> tuple[int, int]:
    """Axis and side of the face that a step out of a box crosses first."""
    beyond = np.maximum(grid.lower - ahead, ahead - grid.upper)
    axis = int(np.where(beyond > 0, beyond / np.abs(ahead - point), -np.inf).argmax())
    return axis, int(ahead[axis] > grid.upper[axis])
