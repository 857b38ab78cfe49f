"""What a person wants to know of each Morse set: where, how high, which index, how certain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_morse.confidence import hessian_band
from lightning_morse.curvature import certain_inertia, is_connected
from lightning_morse.grid import CubicalGrid
from lightning_morse.lattice import Lattice
from lightning_morse.morse_sets import MorseGraph
from lightning_morse.record import MorseSet
from lightning_morse.surrogate import GaussianProcess, Posterior

Array = NDArray[np.float64]


def describe(
    found: MorseGraph,
    lattice: Lattice,
    surrogate: GaussianProcess,
    posterior: Posterior,
    candidates: NDArray[np.bool_],
    failure: float,
) -> list[MorseSet]:
    """Describe the Morse sets of a gradient flow, in the order they were found.

    Args:
        found: The Morse graph.
        lattice: The lattice of the grid.
        surrogate: The fitted surrogate.
        posterior: The posterior at the points of the lattice.
        candidates: Lattice cells that may hold a critical point, shape ``(n_lattice_cells,)``.
        failure: The probability with which the Morse indices may be wrong.

    Returns:
        One record a Morse set. Whether a set is resolved, and its index, are certain up to
        ``failure``; centre and loss are estimates.
    """
    if not found.morse_sets:
        return []
    grid = lattice.grid
    inertia = _inertia_of_sets(
        found, lattice, surrogate, posterior, np.flatnonzero(candidates), failure
    )
    critical = lattice.any_in_grid_cell(candidates)
    starts = []
    for number, cells in enumerate(found.morse_sets):
        middle = _centers(grid, cells[critical[cells]])
        at = surrogate.posterior(middle)
        slope = np.square(at.gradient * grid.cell_widths).sum(axis=1)
        starts.append(middle[np.argmin(at.mean if number in found.attractors else slope)])
    centers = _polish(np.array(starts), found, grid, surrogate)
    losses = surrogate.warp.inverse(surrogate.posterior(centers).mean)
    return [
        MorseSet(
            cells=cells,
            is_attractor=number in found.attractors,
            resolved=inertia[number][0],
            index=inertia[number][1],
            center=centers[number],
            loss=float(losses[number]),
            volume=cells.size / grid.size,
        )
        for number, cells in enumerate(found.morse_sets)
    ]


def _inertia_of_sets(
    found: MorseGraph,
    lattice: Lattice,
    surrogate: GaussianProcess,
    posterior: Posterior,
    candidates: NDArray[np.int64],
    failure: float,
) -> list[tuple[bool, int | None]]:
    """For each Morse set: whether it is resolved, and the Morse index of all it may hold."""
    owner = np.full(lattice.grid.size, -1)
    for number, cells in enumerate(found.morse_sets):
        owner[cells] = number
    of_candidate = owner[lattice.grid_cell_of(candidates)]
    candidates, of_candidate = candidates[of_candidate >= 0], of_candidate[of_candidate >= 0]
    if not candidates.size:
        return [(False, None)] * len(found.morse_sets)
    low, high = lattice.cell_range(posterior.hessian)
    radius = hessian_band(surrogate, lattice, candidates, failure)
    inertia = certain_inertia(low[candidates] - radius, high[candidates] + radius)
    out: list[tuple[bool, int | None]] = []
    for number, cells in enumerate(found.morse_sets):
        mine = of_candidate == number
        indices = np.unique(inertia.index[mine])
        index = int(indices[0]) if indices.size == 1 and indices[0] >= 0 else None
        if number in found.attractors:
            resolved = index == 0 and is_connected(lattice.grid, cells)
        else:
            resolved = bool(inertia.descends[mine].all())
        out.append((resolved, index))
    return out


def _centers(grid: CubicalGrid, cells: NDArray[np.int64]) -> Array:
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
