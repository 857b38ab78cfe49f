"""Fitting the learned map block by block: finer where the pairs ask for it.

From the top of the tree (:mod:`lightning_morse.grids.partition`) down, a block gets
processes of its own (:mod:`lightning_morse.trajectories.fit`), with its own hyper-parameters and
its own inflation. If no residual exceeds what they allow, that is the map in this block. Otherwise
its halves are tried, and theirs. They replace the block if its pairs refute it, or if they stand
and give its pairs a higher density, each pair left out in turn: where the map has several scales
they do by far; where single pairs are off or the noise has heavy tails they mostly do not. The
entire box, where it is tried (up to 384 pairs), gives way only if it is refuted: with so few pairs
the processes of smaller blocks are the bolder ones. What remains refuted at the bottom is void, and
nothing is claimed there.

That the pairs decide which blocks are used costs no soundness, because the bands of *all* blocks of
the tree hold together: see :mod:`lightning_morse.trajectories.local_map`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpotri

from lightning_morse._typing import Mask
from lightning_morse.gp.calibration import PLAINLY_WRONG
from lightning_morse.gp.process import GaussianProcess, SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.grids.partition import Part, partition
from lightning_morse.trajectories.fit import fit_trajectory_map, refuse_constant
from lightning_morse.trajectories.learned_map import TrajectoryMap
from lightning_morse.trajectories.local_map import LocalMap
from lightning_morse.trajectories.pairs import Pairs


@dataclass(frozen=True, eq=False)
class _Leaf:
    """A block, its map (None if none could be fitted) and the log density of its pairs."""

    part: Part
    model: TrajectoryMap | None
    density: float

    @property
    def stands(self) -> bool:
        return self.model is not None and float(self.model.factors.max()) < PLAINLY_WRONG


def fit_local_map(pairs: Pairs, lattice: Lattice, rng: np.random.Generator) -> LocalMap:
    """Learn the map from pairs, block by block.

    With at most 128 pairs there is one block, and the map is that of
    :func:`lightning_morse.trajectories.fit.fit_trajectory_map`, to the bit.

    Args:
        pairs: The pairs, all of which start in the box of the grid.
        lattice: The lattice of the grid.
        rng: Draws the pairs to which hyper-parameters are fitted, in blocks with more than 300.

    Raises:
        ValueError: If all displacements along an axis are equal.
        SurrogateError: If there are too few pairs, or no surrogate of them can be trusted anywhere.
    """
    refuse_constant(pairs)
    tree = partition(pairs.start, lattice.grid)
    if not tree.halves:
        model = fit_trajectory_map(pairs, lattice.grid.lower, lattice.grid.upper, rng)
        return LocalMap(lattice, tree, (tree,), (model,))
    whole = _fitted(pairs, tree, lattice.grid, rng) if tree.fitted else None
    if whole is not None and whole.stands:
        leaves = [whole]
    else:
        leaves = [leaf for half in tree.halves for leaf in _leaves(pairs, half, lattice.grid, rng)]
    if all(leaf.model is None for leaf in leaves):
        raise SurrogateError(
            f"no surrogate of the {len(pairs)} pairs can be trusted, in none of the "
            f"{len(leaves)} parts of the box"
        )
    return LocalMap(
        lattice, tree, tuple(leaf.part for leaf in leaves), tuple(leaf.model for leaf in leaves)
    )


def _leaves(pairs: Pairs, part: Part, grid: CubicalGrid, rng: np.random.Generator) -> list[_Leaf]:
    """The leaves that make up a block, with their maps."""
    whole = _fitted(pairs, part, grid, rng) if part.fitted else None
    if whole is not None and (not part.halves or _uncontradicted(whole)):
        return [whole]
    finer = [leaf for half in part.halves for leaf in _leaves(pairs, half, grid, rng)]
    if whole is None or not whole.stands:
        return finer
    better = all(leaf.stands for leaf in finer) and (
        sum(leaf.density for leaf in finer) > whole.density
    )
    return finer if better else [whole]


def _uncontradicted(leaf: _Leaf) -> bool:
    """Whether no residual exceeds what the model allows."""
    return leaf.model is not None and bool((leaf.model.factors == 1.0).all())


def _fitted(pairs: Pairs, part: Part, grid: CubicalGrid, rng: np.random.Generator) -> _Leaf:
    inside = pairs.chosen(part.points)
    corners = grid.corner(part.first), grid.corner(part.last)
    low = np.minimum(corners[0], inside.start.min(axis=0))
    up = np.maximum(corners[1], inside.start.max(axis=0))
    try:
        model = fit_trajectory_map(inside, low, up, rng)
    except ValueError:  # SurrogateError among them: nothing can be learnt here
        return _Leaf(part, None, -math.inf)
    density = sum(_log_density(process, part.own) for process in model.processes)
    return _Leaf(part, model, density)


def _log_density(process: GaussianProcess, some: Mask) -> float:
    """Sum of the log densities of some samples, each given all others."""
    inverse, _ = dpotri(process.cholesky, lower=1)
    variance = process.variance / np.diag(inverse)
    each = process.leave_one_out() ** 2 + np.log(2 * math.pi * variance)
    return float(-0.5 * each[some].sum())
