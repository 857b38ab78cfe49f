"""Which Morse sets hold no critical point, which hide no attractor, and what index they have.

Everything rests on the expected number of critical points of each index in each set
(:mod:`lightning_morse.gp.kac_rice`): a claim about a set is false with probability at most the
expected number of critical points that contradict it. Claims are made in order of safety, as long
as these numbers add up to no more than a given probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import label

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.analysis.charts import Chart, Patch
from lightning_morse.conley.morse_sets import MorseGraph
from lightning_morse.facts import LIKELY_KINKED
from lightning_morse.gp.kac_rice import expected_critical_points
from lightning_morse.grids.nested import NestedGrid

# Lattice cells counted before sets that are beyond any claim are dropped: this many at first, then
# twice as many each time, up to a limit. It trades overhead against counting in vain; the claims do
# not depend on it.
_CELLS_AT_FIRST, _CELLS_AT_ONCE = 64, 512


@dataclass(frozen=True, eq=False)
class Settled:
    """Statements about the critical points in each Morse set, certain up to some probability.

    Attributes:
        resolved: Whether the set hides no further attractor: an attractor's set holds exactly one
            minimum and no other critical point, any other set holds no minimum; shape
            ``(n_sets,)``.
        index: Morse index of every critical point the set may hold, -1 where that is not certain;
            same shape.
        failure: Probability that any of this is false.
    """

    resolved: Mask
    index: Cells
    failure: float

    def renumbered(self, order: ArrayLike) -> Settled:
        """The same with the Morse sets in another order, or without some of them.

        Args:
            order: The present number of the set that comes first, second, ...
        """
        chosen = np.asarray(order, dtype=np.int64)
        return Settled(self.resolved[chosen], self.index[chosen], self.failure)


def that_count(charts: Sequence[Chart]) -> Mask:
    """In which charts critical points may be counted, shape ``(n_charts,)``.

    Where the samples do not refute the surrogate, from the smoothest box on as long as it is
    unlikely that the loss has kinks in any of them.
    """
    kinked = np.array([c.kinked if c.trusted else math.inf for c in charts])
    return safest(kinked, LIKELY_KINKED)


def expected_in_sets(
    found: MorseGraph,
    nested: NestedGrid,
    patches: Sequence[tuple[int, Patch]],
    failure: float,
    counts: Mask,
) -> Array:
    """Expected number of critical points of each index in each Morse set.

    Where they may not be counted anything is expected. A set about which no claim can be made any
    more is not counted to the end: in a box where little is decided it may fill most of the box.

    Args:
        found: The Morse graph.
        nested: The grids whose cells it is of.
        patches: What is known on each part of each grid, with the number of the grid. Lattice cells
            that cannot hold a critical point do not count.
        failure: The probability with which claims may be false.
        counts: In which of them critical points may be counted, shape ``(n_patches,)``.

    Returns:
        Shape ``(n_sets, d + 1)``; only lower bounds for sets that are :func:`hopeless`.
    """
    owner = np.full(nested.size + 1, -1)
    for number, cells in enumerate(found.morse_sets):
        owner[cells] = number
    total = np.zeros((len(found.morse_sets), nested.dim + 1))
    for (k, patch), may_count in zip(patches, counts, strict=True):
        here = owner[nested.numbers[k][patch.cells]]
        if may_count:
            _add_expected(total, found, here, patch, failure)
        else:
            within = np.unique(here)
            total[within[within >= 0]] += 1.0
    return total


def _add_expected(
    total: Array, found: MorseGraph, here: Cells, patch: Patch, failure: float
) -> None:
    """Add what is expected in the cells of a part of a grid; ``here`` says their Morse sets."""
    chart = patch.chart
    lattice, cells = chart.lattice, np.flatnonzero(chart.candidates)
    owner = np.full(lattice.grid.size, -1)
    owner[patch.inside] = here
    owner = owner[lattice.grid_cell_of(cells)]
    cells, owner = cells[owner >= 0], owner[owner >= 0]
    # In random order, so that the first batches tell something about every set.
    left, n_cells = np.random.default_rng(0).permutation(cells.size), cells.size
    left = left[~hopeless(found, total, failure)[owner[left]]]
    at_once = _CELLS_AT_FIRST
    while left.size:
        now, left = left[:at_once], left[at_once:]
        at_once = min(2 * at_once, _CELLS_AT_ONCE)
        centers = lattice.cell_centers(cells[now])
        expected = expected_critical_points(chart.surrogate, centers, lattice.spacing, n_cells)
        np.add.at(total, owner[now], expected)
        left = left[~hopeless(found, total, failure)[owner[left]]]


def hopeless(found: MorseGraph, expected: Array, failure: float) -> Mask:
    """Whether nothing can be claimed about a set, whatever else is expected in it.

    Args:
        found: The Morse graph.
        expected: Expected numbers of critical points, or lower bounds, shape ``(n_sets, d + 1)``.
        failure: The probability with which claims may be false.

    Returns:
        Shape ``(n_sets,)``. True where it can be claimed neither that all critical points (if any)
        have the same index, nor that a set which is no attractor holds no minimum.
    """
    return (_contradicting(expected) > failure) & (_minima(found, expected) > failure)


def _contradicting(expected: Array) -> Array:
    """Expected number of critical points whose index is not the likeliest one."""
    contradicting: Array = expected.sum(axis=1) - expected.max(axis=1, initial=0.0)
    return contradicting


def _minima(found: MorseGraph, expected: Array) -> Array:
    """Expected number of minima where there should be none; infinite for attractors."""
    minima = expected[:, 0].copy()
    minima[list(found.attractors)] = np.inf
    return minima


def safest(doubts: ArrayLike, failure: float) -> Mask:
    """The largest number of claims whose doubts add up to at most ``failure``.

    Args:
        doubts: Probability that each claim is false, shape ``(n,)``.
        failure: Largest sum of the doubts of the claims made.

    Returns:
        Which claims to make, shape ``(n,)``.

    Example:
        >>> safest([0.03, 0.001, 0.5, 0.002], 0.01).tolist()
        [False, True, False, True]
    """
    doubt = np.asarray(doubts, dtype=np.float64)
    order = np.argsort(doubt, kind="stable")
    chosen = np.zeros(doubt.shape, dtype=bool)
    chosen[order] = np.cumsum(doubt[order]) <= failure
    return chosen


def settle(found: MorseGraph, nested: NestedGrid, expected: Array, failure: float) -> Settled:
    """Settle as many Morse sets as a probability of failure allows.

    Args:
        found: The Morse graph.
        nested: The grids whose cells it is of.
        expected: Expected number of critical points, from :func:`expected_in_sets`.
        failure: Probability with which any of the claims may be false.
    """
    attractor = np.zeros(len(expected), dtype=bool)
    attractor[list(found.attractors)] = True
    likely = expected.argmax(axis=1)
    contradicting = _contradicting(expected)
    certain = safest(contradicting, failure)
    spent = float(contradicting[certain].sum())
    # The index may be more than is needed: a set that is no attractor only must not hold a minimum.
    minima = np.where(certain, np.inf, _minima(found, expected))
    harmless = safest(minima, failure - spent)
    whole = np.array([is_connected(nested, cells) for cells in found.morse_sets], dtype=bool)
    resolved = np.where(attractor, certain & (likely == 0) & whole, certain & (likely > 0))
    return Settled(
        resolved=resolved | harmless,
        index=np.where(certain, likely, -1),
        failure=spent + float(minima[harmless].sum()),
    )


def shadows(found: MorseGraph, nested: NestedGrid, settled: Settled) -> Mask:
    r"""Morse sets that hold no critical point because the only one belongs to the attractor beside.

    A minimum near a face of a cell often leaves a second recurrent set on the other side, which may
    hold a minimum as far as the numbers of each set tell. Let ``M`` be all cells that such a set
    ``C`` leads to. If these lead to no Morse set but an attractor ``A`` and not to the exterior,
    every trajectory from ``M`` ends in a critical point in ``M``. If all of those in ``C`` and in
    ``A`` are minima, their basins are open, disjoint and cover ``M``; if ``M`` is connected, there
    is one. ``A`` holds a minimum, so ``C`` holds none.

    Args:
        found: The Morse graph.
        nested: The grids whose cells it is of.
        settled: What is certain about its sets; nothing is claimed here that is not there.

    Returns:
        Shape ``(n_sets,)``.
    """
    out = np.zeros(len(found.morse_sets), dtype=bool)
    resolved = {a for a in found.attractors if settled.resolved[a]}
    for number in np.flatnonzero((settled.index == 0) & ~settled.resolved):
        below = nx.descendants(found.graph, number)
        if len(below) != 1 or not below <= resolved:
            continue
        first = int(found.members[number])
        cells = np.sort(found.condensation.descendants(first)).astype(np.int64)
        leaves = cells[-1] == nested.size
        out[number] = not leaves and is_connected(nested, cells)
    return out


def is_connected(nested: NestedGrid, cells: Cells) -> bool:
    """Whether the union of some closed cells is connected; cells that share a corner meet.

    A set that spans several grids counts as connected only if a single grid holds all of it:
    nothing is claimed of a connected set that is not recognised as one.
    """
    for k, grid in enumerate(nested.grids):
        part = nested.part(k)
        if part.start <= cells[0] and cells[-1] < part.stop:
            mask = np.zeros(grid.size, dtype=bool)
            mask[nested.uncovered[k][cells - part.start]] = True
            _, pieces = label(mask.reshape(grid.shape), structure=np.ones((3,) * grid.dim))
            return bool(pieces == 1)
    return False
