"""Description of each Morse set: its centre, loss, Morse index, and how certain they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array, Cells
from lightning_morse.analysis.charts import Chart, Patch
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.analysis.wells import Well
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.nested import NestedGrid
from lightning_morse.grids.shares import share_of_box
from lightning_morse.result import MorseSet

# Newton steps towards a critical point of the mean, from a cell's centre: a few are enough where
# they converge. A centre is an estimate, and nothing certain depends on it.
_NEWTON_STEPS = 6


@dataclass(frozen=True, eq=False)
class CriticalPoints:
    """Best estimate of the critical point in each Morse set.

    Attributes:
        centers: Shape ``(n_sets, d)``.
        losses: Losses there, of the surrogate unless measured, shape ``(n_sets,)``.
        deviations: Deviations of these in the units of the loss, to first order, same shape; 0
            where the loss was measured.
    """

    centers: Array
    losses: Array
    deviations: Array

    def renumbered(self, order: Sequence[int]) -> CriticalPoints:
        """The same with the Morse sets in another order.

        Args:
            order: The present number of the set that comes first, second, ...
        """
        chosen = np.asarray(order, dtype=np.int64)
        return CriticalPoints(self.centers[chosen], self.losses[chosen], self.deviations[chosen])


def critical_points(portrait: PhasePortrait) -> CriticalPoints:
    """Estimate the critical point in each Morse set, from the posterior mean of its finest box."""
    dim = portrait.nested.dim
    if not portrait.found.morse_sets:
        return CriticalPoints(np.empty((0, dim)), np.empty(0), np.empty(0))
    patches = [(k, patch) for k, chart in enumerate(portrait.charts) for patch in chart.patches]
    numbers, starts = _starts(portrait, patches)
    centers = np.empty((numbers.size, dim))
    losses, deviations = np.empty(numbers.size), np.empty(numbers.size)
    for number in np.unique(numbers):
        mine = np.flatnonzero(numbers == number)
        members = [portrait.found.morse_sets[i] for i in mine]
        k, patch = patches[number]
        grid, surrogate = portrait.nested.grids[k], patch.chart.surrogate
        points = _centers_of(grid, starts[mine])
        polished = _polish(points, members, portrait.nested, grid.cell_widths, surrogate)
        # In a well the nearest critical point need not be the lowest.
        is_well = mine == portrait.well_number
        points = np.where(is_well[:, None], points, polished)
        centers[mine] = points
        at = surrogate.posterior(points)
        losses[mine] = surrogate.warp.inverse(at.mean)
        deviations[mine] = at.deviation * surrogate.warp.inverse_slope(at.mean)
    return CriticalPoints(centers, losses, deviations)


def _starts(portrait: PhasePortrait, patches: Sequence[tuple[int, Patch]]) -> tuple[Cells, Cells]:
    """For each Morse set the part in which its critical point is looked for, and a cell of it.

    That is the part with most cells of the set that may hold one, of the finest grid with any;
    among them the lowest cell for an attractor, else the flattest. In a well it is the lowest of
    all cells that are held in it.
    """
    nested, found = portrait.nested, portrait.found
    critical = portrait.critical
    numbers, starts = [], []
    for number, cells in enumerate(found.morse_sets):
        if portrait.well is not None and number == portrait.well_number:
            numbers.append([k for k, _ in patches].index(portrait.well.box))
            starts.append(_lowest(portrait, portrait.well))
            continue
        possible = cells[critical[cells]]
        k = int(np.searchsorted(nested.starts, possible.max(), side="right")) - 1
        within = nested.uncovered[k][possible[possible >= nested.part(k).start] - nested.starts[k]]
        mine = [
            (i, *np.intersect1d(p.cells, within, True, True))
            for i, (j, p) in enumerate(patches)
            if j == k
        ]
        i, own, in_patch, _ = max(mine, key=lambda each: each[1].size)
        patch = patches[i][1]
        chart = patch.chart
        posterior = chart.posterior
        slope = np.square(posterior.gradient * chart.lattice.grid.cell_widths).sum(axis=1)
        height = posterior.mean if number in found.attractors else slope
        lowest = height[chart.lattice.points_of(patch.inside[in_patch])].mean(axis=1).argmin()
        numbers.append(i)
        starts.append(own[lowest])
    return np.array(numbers), np.array(starts)


def _lowest(portrait: PhasePortrait, well: Well) -> int:
    """The cell where the mean of the box of a well is lowest among those held in it."""
    chart, cells = portrait.charts[well.box], np.flatnonzero(well.inside)
    assert isinstance(chart, Chart), "wells lie in boxes with one process"
    means = chart.posterior.mean[chart.lattice.points_of(cells)].mean(axis=1)
    return int(cells[means.argmin()])


def reading_order(portrait: PhasePortrait, losses: Array) -> list[int]:
    """Numbers of the Morse sets in the order they are reported: attractors first, then by loss."""
    attractors = portrait.found.attractors
    return sorted(range(len(losses)), key=lambda i: (i not in attractors, losses[i]))


def describe(
    portrait: PhasePortrait, located: CriticalPoints, mu: ArrayLike
) -> tuple[MorseSet, ...]:
    """Describe the Morse sets of a gradient flow.

    Args:
        portrait: The portrait, its Morse sets in the order to be reported.
        located: Their critical points.
        mu: Lower bound on the probability that each attractor is one, in the order of
            ``portrait.found.attractors``.

    Returns:
        One record per Morse set. Whether a set is resolved, and its index, are as certain as the
        portrait; centres are estimates, and so are losses that were not measured.
    """
    found, settled, nested = portrait.found, portrait.settled, portrait.nested
    bounds = dict(zip(found.attractors, np.asarray(mu, dtype=np.float64).tolist(), strict=True))
    return tuple(
        MorseSet(
            cells=outer_cells(nested, cells),
            is_attractor=number in bounds,
            resolved=bool(settled.resolved[number]),
            index=int(settled.index[number]) if settled.index[number] >= 0 else None,
            center=located.centers[number],
            loss=float(located.losses[number]),
            volume=share_of_box(nested.mask(cells), nested.volumes),
            mu=bounds.get(number),
            loss_deviation=float(located.deviations[number]),
            wall=portrait.well.wall if portrait.well and number == portrait.well_number else None,
        )
        for number, cells in enumerate(found.morse_sets)
    )


def _centers_of(grid: CubicalGrid, cells: Cells) -> Array:
    index = np.unravel_index(cells, grid.shape)
    return np.stack(
        [(0.5 * (e[:-1] + e[1:]))[i] for e, i in zip(grid.edges, index, strict=True)], 1
    )


def outer_cells(nested: NestedGrid, cells: Cells) -> Cells:
    """Cells of the outermost grid that hold some of the given cells, ascending."""
    if len(nested.grids) == 1:
        return cells
    return np.flatnonzero(nested.on_grid(0, nested.mask(cells), np.logical_or))


def _polish(
    points: Array,
    members: Sequence[Cells],
    nested: NestedGrid,
    widths: Array,
    surrogate: GaussianProcess,
) -> Array:
    """Newton steps towards a critical point of the mean, as long as they stay in the Morse set."""
    own = [set(cells.tolist()) for cells in members]
    for _ in range(_NEWTON_STEPS):
        at = surrogate.posterior(points)
        step = -(np.linalg.pinv(at.hessian) @ at.gradient[..., None])[..., 0]
        # At most one cell width per step.
        longest = np.abs(step / widths).max(axis=1, keepdims=True)
        moved = points + step / np.maximum(longest, 1.0)
        slope, slope_there = at.gradient, surrogate.posterior(moved).gradient
        better = np.square(slope_there).sum(axis=1) < np.square(slope).sum(axis=1)
        owner = nested.cell_of(moved)
        inside = [cell in cells for cell, cells in zip(owner.tolist(), own, strict=True)]
        points = np.where((better & np.array(inside))[:, None], moved, points)
    return points
