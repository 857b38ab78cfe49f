"""Description of each Morse set: its centre, loss, Morse index, and how certain they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array, Cells
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.conley.morse_sets import MorseGraph
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.result import MorseSet

# Newton steps towards a critical point of the mean, from a cell's centre: a few are enough where
# they converge. A centre is an estimate, and nothing certain depends on it.
_NEWTON_STEPS = 6


@dataclass(frozen=True, eq=False)
class CriticalPoints:
    """Best estimate of the critical point in each Morse set.

    Attributes:
        centers: Shape ``(n_sets, d)``.
        losses: Surrogate losses there, in the units of the loss, shape ``(n_sets,)``.
    """

    centers: Array
    losses: Array

    def renumbered(self, order: Sequence[int]) -> CriticalPoints:
        """The same with the Morse sets in another order.

        Args:
            order: The present number of the set that comes first, second, ...
        """
        chosen = np.asarray(order, dtype=np.int64)
        return CriticalPoints(self.centers[chosen], self.losses[chosen])


def critical_points(portrait: PhasePortrait) -> CriticalPoints:
    """Estimate the critical point in each Morse set, from the posterior mean."""
    found, lattice = portrait.found, portrait.lattice
    grid, posterior, surrogate = lattice.grid, portrait.posterior, portrait.surrogate
    if not found.morse_sets:
        return CriticalPoints(np.empty((0, grid.dim)), np.empty(0))
    critical = portrait.critical
    slope = np.square(posterior.gradient * grid.cell_widths).sum(axis=1)
    starts = []
    for number, cells in enumerate(found.morse_sets):
        possible = cells[critical[cells]]
        height = posterior.mean if number in found.attractors else slope
        lowest = height[lattice.points_of(possible)].mean(axis=1).argmin()
        starts.append(possible[lowest])
    centers = _polish(_centers_of(grid, np.array(starts)), found, grid, surrogate)
    return CriticalPoints(centers, surrogate.warp.inverse(surrogate.posterior(centers).mean))


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
        portrait; centre and loss are estimates.
    """
    found, settled = portrait.found, portrait.settled
    bounds = dict(zip(found.attractors, np.asarray(mu, dtype=np.float64).tolist(), strict=True))
    return tuple(
        MorseSet(
            cells=cells,
            is_attractor=number in bounds,
            resolved=bool(settled.resolved[number]),
            index=int(settled.index[number]) if settled.index[number] >= 0 else None,
            center=located.centers[number],
            loss=float(located.losses[number]),
            volume=cells.size / portrait.lattice.grid.size,
            mu=bounds.get(number),
        )
        for number, cells in enumerate(found.morse_sets)
    )


def _centers_of(grid: CubicalGrid, cells: Cells) -> Array:
    index = np.unravel_index(cells, grid.shape)
    return np.stack(
        [(0.5 * (e[:-1] + e[1:]))[i] for e, i in zip(grid.edges, index, strict=True)], 1
    )


def _polish(
    points: Array, found: MorseGraph, grid: CubicalGrid, surrogate: GaussianProcess
) -> Array:
    """Newton steps towards a critical point of the mean, as long as they stay in the Morse set."""
    members = [set(cells.tolist()) for cells in found.morse_sets]
    for _ in range(_NEWTON_STEPS):
        at = surrogate.posterior(points)
        step = -(np.linalg.pinv(at.hessian) @ at.gradient[..., None])[..., 0]
        # At most one cell width per step.
        longest = np.abs(step / grid.cell_widths).max(axis=1, keepdims=True)
        moved = points + step / np.maximum(longest, 1.0)
        slope, slope_there = at.gradient, surrogate.posterior(moved).gradient
        better = np.square(slope_there).sum(axis=1) < np.square(slope).sum(axis=1)
        owner = grid.cell_of(moved)
        inside = [cell in cells for cell, cells in zip(owner, members, strict=True)]
        points = np.where((better & np.array(inside))[:, None], moved, points)
    return points
