"""What a person wants to know of each Morse set: where, how high, which index, how certain."""

from __future__ import annotations

import numpy as np

from lightning_morse._typing import Array, Cells
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.conley.morse_sets import MorseGraph
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.result import MorseSet


def describe(portrait: PhasePortrait, surrogate: GaussianProcess) -> list[MorseSet]:
    """Describe the Morse sets of a gradient flow, in the order they were found.

    Args:
        portrait: What was found.
        surrogate: The surrogate it was found from.

    Returns:
        One record a Morse set. Whether a set is resolved, and its index, are as certain as the
        portrait; centre and loss are estimates.
    """
    found, settled, lattice = portrait.found, portrait.settled, portrait.lattice
    if not found.morse_sets:
        return []
    grid, posterior = lattice.grid, portrait.posterior
    critical = portrait.critical
    slope = np.square(posterior.gradient * grid.cell_widths).sum(axis=1)
    starts = []
    for number, cells in enumerate(found.morse_sets):
        possible = cells[critical[cells]]
        height = posterior.mean if number in found.attractors else slope
        lowest = height[lattice.points_of(possible)].mean(axis=1).argmin()
        starts.append(possible[lowest])
    centers = _polish(_centers(grid, np.array(starts)), found, grid, surrogate)
    losses = surrogate.warp.inverse(surrogate.posterior(centers).mean)
    return [
        MorseSet(
            cells=cells,
            is_attractor=number in found.attractors,
            resolved=bool(settled.resolved[number]),
            index=int(settled.index[number]) if settled.index[number] >= 0 else None,
            center=centers[number],
            loss=float(losses[number]),
            volume=cells.size / grid.size,
        )
        for number, cells in enumerate(found.morse_sets)
    ]


def _centers(grid: CubicalGrid, cells: Cells) -> Array:
    index = np.unravel_index(cells, grid.shape)
    return np.stack(
        [(0.5 * (e[:-1] + e[1:]))[i] for e, i in zip(grid.edges, index, strict=True)], 1
    )


def _polish(
    points: Array, found: MorseGraph, grid: CubicalGrid, surrogate: GaussianProcess
) -> Array:
    """Newton steps towards a critical point of the mean, as long as they stay in the Morse set."""
    for _ in range(6):
        at = surrogate.posterior(points)
        step = -(np.linalg.pinv(at.hessian) @ at.gradient[..., None])[..., 0]
        longest = np.abs(step / grid.cell_widths).max(axis=1, keepdims=True)
        moved = points + step / np.maximum(longest, 1.0)
        better = np.square(surrogate.posterior(moved).gradient).sum(1) < np.square(at.gradient).sum(
            1
        )
        owner = grid.cell_of(moved)
        inside = [o in set(c.tolist()) for o, c in zip(owner, found.morse_sets, strict=True)]
        points = np.where((better & np.array(inside))[:, None], moved, points)
    return points
