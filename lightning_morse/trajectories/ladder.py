r"""Up to which confidence each attractor of a learnt map persists, by itself and with the others.

:mod:`lightning_morse.analysis.ladder` does this for a gradient flow; for a map it is simpler. The
attractors are followed through a *filtration over confidence*: each level has a band on the values
of the map (:mod:`lightning_morse.bands.value`), wider at higher levels, and so larger image boxes.
The *block* of an attractor at a level is the smallest set of cells that contains its block at the
level below and, with each cell, every cell that meets the image box of that cell. It *stands* as
long as no image of it leaves the box and it meets neither an unknown cell nor the block of another
attractor. Blocks that meet *merge* and go on as one; a block that may leave has *vanished*. The
level up to which an attractor stands is its persistence.

*Why a standing block holds an attractor.* Let :math:`|B|` be the union of the closed cells of a
block and :math:`f` any continuous map whose values lie in the boxes of these cells. All cells that
touch an image belong to the block, so :math:`f(|B|)` lies in the interior of :math:`|B|` relative
to the box. Hence :math:`\bigcap_n f^n(|B|)` is nonempty, compact and invariant, and attracts
:math:`|B|`: an attractor, which may be a periodic orbit or more. Disjoint blocks hold different
attractors. A sample path of a Matern process is continuous.

*Why a block needs the band in its own cells only.* Nothing was used about :math:`f` outside
:math:`|B|`. With :math:`N_B` corners of lattice cells in the block, the band fails there with
probability at most :math:`2 d N_B Q(c) (1 + \eta)` instead of :math:`2 d N Q(c) (1 + \eta)`: the
union bound of :mod:`lightning_morse.bands.value` over fewer points, and over as many between them
as halving these cells adds. (For a flow the boundary cells are enough. A map may jump: all cells
count.) Blocks depend on the pairs alone, so taking the best level of each costs nothing.

*What is not claimed.* That there are no further attractors: a band on values cannot tell one fixed
point from several. And at levels like :math:`1 - 10^{-8}` the premise counts for more than the
band: the hyper-parameters are fitted, and the experiments that check them
(``benchmarks/trajectory_coverage.py``) say nothing about failures as rare as that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.bands.levels import failures
from lightning_morse.bands.value import failure_bound
from lightning_morse.conley.combinatorial_map import cells_met
from lightning_morse.grids.lattice import Lattice
from lightning_morse.result import Ladder


@dataclass(frozen=True, eq=False)
class MapAtLevel:
    """The map at one level of confidence: its band, and the image boxes of cells on its event.

    Attributes:
        c: Half-width of the band, in deviations of the posterior.
        images: From ``k`` cell numbers to the lower and upper corners of their image boxes, two
            arrays of shape ``(k, d)``.
    """

    c: float
    images: Callable[[Cells], tuple[Array, Array]]


@dataclass(frozen=True, eq=False)
class MapClimb:
    """How far up the filtration the attractors of a learnt map stand.

    Attributes:
        ladder: The levels, and which blocks have merged or vanished.
        each: Confidence up to which each attractor stands, shape ``(n,)``; at least the lowest
            level.
        together: Confidence that all of them are different attractors; likewise.
        blocks: Cells of the block of each attractor at each level, ``blocks[j][i]``; empty once it
            has vanished, the whole block if it has merged.
    """

    ladder: Ladder
    each: Array
    together: float
    blocks: tuple[tuple[Cells, ...], ...]


def climb_map(
    map_at: Callable[[float], MapAtLevel],
    lattice: Lattice,
    attractors: list[Cells],
    confidence: float,
    outside: Mask,
    n_points: Callable[[Cells], int] | None = None,
) -> MapClimb:
    """Follow the attractors of a learnt map up to wider and wider bands.

    Each number returned holds by itself with the probability it states, given the premise of
    :mod:`lightning_morse.bands.value`; the reasons are in the docstring of this module.

    Args:
        map_at: The map at a given level or above; its boxes are wider for a higher one.
        lattice: The lattice of the band; its cells are those of the grid, or parts of them.
        attractors: Cells of each attractor at ``confidence``, ``n`` arrays of cell numbers.
        confidence: The lowest level.
        outside: Cells that count as exterior, shape ``(grid.size,)``.
        n_points: Number of lattice points at which the band has to hold for some cells; by default
            the number of points in the closed cells. More where several bands share the points
            (:meth:`lightning_morse.trajectories.local_map.LocalMap.n_points`).

    Returns:
        How far up they stand.
    """
    n, dim = len(attractors), lattice.dim
    count = n_points or (lambda cells: np.unique(lattice.points_of(cells)).size)
    fails = failures(confidence) if n else np.array([1 - confidence])
    levels = np.append(float(confidence), 1 - fails[1:])
    held = np.full((len(fails), n), -1, dtype=np.int64)
    # Failure bound of each attractor at each level, and of all of them where all stand.
    own, all_stand = np.ones((len(fails), n)), np.ones(len(fails))
    nobody = np.zeros(0, dtype=np.int64)
    blocks = []
    groups = [([i], cells) for i, cells in enumerate(attractors)]
    for j, level in enumerate(levels.tolist()):
        if not groups:
            blocks.append((nobody,) * n)
            continue
        at_level = map_at(level)
        closed = [(names, _closed(cells, at_level, lattice, outside)) for names, cells in groups]
        groups = _merged([(names, cells) for names, cells in closed if cells is not None])
        of = dict.fromkeys(range(n), nobody)
        for names, cells in groups:
            held[j, names] = min(names)
            of.update(dict.fromkeys(names, cells))
            if len(names) == 1:
                points = count(cells)
                own[j, names[0]] = failure_bound(at_level.c, dim, points)
        if len(groups) == n:
            points = count(np.concatenate(list(of.values())))
            all_stand[j] = failure_bound(at_level.c, dim, points)
        blocks.append(tuple(of[i] for i in range(n)))
    least = np.minimum(own.min(axis=0, initial=1.0), fails[0])
    apart = min(float(all_stand.min()), float(fails[0]))
    if n:
        best = own.argmin(axis=0)
        mine = np.concatenate([blocks[best[i]][i] for i in range(n)])
        # Blocks of different levels that do not meet hold different attractors as well.
        if (own.min(axis=0) < 1).all() and np.unique(mine).size == mine.size:
            apart = min(apart, float(own.min(axis=0).sum()))
    # Rounding must not turn a bound into certainty.
    below_one = float(np.nextafter(1.0, 0.0))
    return MapClimb(
        ladder=Ladder(levels=levels, blocks=held),
        each=np.clip(1 - least, confidence, below_one),
        together=min(max(1 - apart, float(confidence)), below_one),
        blocks=tuple(blocks),
    )


def _closed(cells: Cells, at_level: MapAtLevel, lattice: Lattice, outside: Mask) -> Cells | None:
    """The smallest set that contains some cells and all that meet its images; None if it leaves."""
    grid = lattice.grid
    inside = np.zeros(grid.size, dtype=bool)
    inside[cells] = True
    fresh = cells
    while fresh.size:
        low, up = at_level.images(fresh)
        if outside[fresh].any() or ((low < grid.lower) | (up > grid.upper)).any():
            return None
        met = np.unique(cells_met(low, up, grid)[0]).astype(np.int64)
        fresh = met[~inside[met]]
        inside[fresh] = True
    return np.flatnonzero(inside)


def _merged(groups: list[tuple[list[int], Cells]]) -> list[tuple[list[int], Cells]]:
    """Join the blocks that have a cell in common: a union of forward-closed sets is closed."""
    out: list[tuple[list[int], Cells]] = []
    for names, cells in groups:
        apart = []
        for other, held in out:
            if np.intersect1d(cells, held, assume_unique=True).size:
                names, cells = other + names, np.union1d(held, cells)
            else:
                apart.append((other, held))
        out = [*apart, (names, cells)]
    return out
