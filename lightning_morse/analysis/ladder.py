r"""Up to which confidence each attractor stands, alone and all together.

A *rung* is a band of some level; higher rungs have wider bands and larger images. The *block* of an
attractor at a rung is the smallest set of cells that holds its block at the rung below and, with
each cell, all cells that meet its image: it only grows. An attractor *stands* as long as its block
neither reaches the exterior nor meets that of another. Blocks that meet go on as one; a block that
reaches the exterior has *vanished*, and drags no other along.

*Why a standing block holds an attractor.* Let :math:`|B|` be the union of the closed cells of a
block, on the event of its band. (1) A critical point of :math:`|B|` lies in its interior: it is in
the image box of each of its cells, so all cells around it meet an image and belong to the block;
and on a face of the box an exit would have been announced. (2) A trajectory that starts in
:math:`|B|` is in :math:`|B|` again after each flight, so it has limit points there. They are
critical, hence inside; the limit set is connected, so all of it is inside. (3) The smallest value
of the loss on :math:`|B|` is taken at a critical point, since the flow leads back to :math:`|B|`
with less; by (1) that is a local minimum. The flights from :math:`|B|` make up a compact set that
the flow does not leave, and what remains of it in the end is an attractor. By (2) two blocks
without a common cell lead to different limit points: their attractors are different. Each rung is a
map of its own, so it does not matter that its flights took times of their own, nor that other rungs
used other times; starting from the block below only adds cells.

*Why a block needs the band in a few cells only.* A trajectory that leaves :math:`|B|` does so from
a point of its boundary, which lies in a *boundary cell*: a cell of the block that shares a corner
with a cell outside it, or touches a face of the box. From there the flight of that cell begins,
through the windows over which the field was bounded, and ends in :math:`|B|`; inside :math:`|B|`
nothing need be known, and (1) is needed at the boundary alone. (A cell that could not be followed
has all its neighbours for an image and announces every face, so it is no boundary cell.) Hence
everything above holds on the event that the band holds in the lattice cells that the flights of the
boundary cells swept. With :math:`N_B` corners it fails there with probability at most :math:`2 d
N_B Q(c) (1 + \eta)` instead of :math:`2 d N Q(c) (1 + \eta)`
(:func:`lightning_morse.bands.gradient.failure_bound`). Blocks, windows and the choice of the rung
depend on the samples alone, so choosing the best costs nothing.

*Exactly n.* For the claim that there is no further attractor the whole box counts. It holds at a
rung if all attractors stand, no critical point outside their blocks is a minimum, each block's
critical points lie in one connected piece of it, and all of them are minima: strict ones, whose
basins, open and disjoint, cover the piece, which cannot be covered by several. (That the cells
which may hold a critical point connect would not do: such a set can be bent and hold two minima.)
On the event of the band, all critical points lie in the cells where the band leaves room for one.
How many there contradict the claim is to be expected is known
(:mod:`lightning_morse.gp.kac_rice`); this number adds to the failure probability of the rung's
band.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion, label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.bands.gradient import (
    CellDeviations,
    GradientBand,
    failure_bound,
    gradient_band,
)
from lightning_morse.bands.levels import RUNGS_PER_DECADE, failures
from lightning_morse.conley.combinatorial_map import cells_met
from lightning_morse.enclosure.flow_map import BandsBetween, FlowEnclosure, critical_cells_of
from lightning_morse.gp.kac_rice import expected_critical_points
from lightning_morse.gp.process import GaussianProcess, Posterior
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.result import Ladder

# Half as many rungs where the attractors take more cells together than this.
_MANY_CELLS = 200
# Share of the failure probability that is left for what is claimed beside the band.
BESIDE_BAND = 0.1
# Cells to follow in a round, lower rungs first, and rounds; a block that still grows is given up.
_A_ROUND = 1024
_ROUNDS = 24


@dataclass(frozen=True, eq=False)
class Climb:
    """How far up the attractors of an analysis stand.

    Attributes:
        ladder: The levels and which blocks have merged or vanished.
        each: Confidence up to which each attractor stands, shape ``(n,)``; at least that of the
            lowest rung.
        together: Confidence that all of them are different attractors.
        exact: Confidence that there are no others besides; that of the lowest rung unless more was
            verified.
        blocks: Cells of the block of each attractor at each rung, ``blocks[j][i]``; empty once it
            has vanished, that of this attractor alone if it has merged.
    """

    ladder: Ladder
    each: Array
    together: float
    exact: float
    blocks: tuple[tuple[Cells, ...], ...]


def unclimbed(attractors: list[Cells], confidence: float) -> Climb:
    """Say of attractors only what the analysis has found at its own level.

    Args:
        attractors: Cells of each attractor, ``n`` arrays of cell numbers.
        confidence: The level.
    """
    n = len(attractors)
    return Climb(
        ladder=Ladder(levels=np.array([confidence]), blocks=np.arange(n)[None]),
        each=np.full(n, confidence),
        together=confidence,
        exact=confidence,
        blocks=(tuple(attractors),),
    )


def climb(
    surrogate: GaussianProcess,
    posterior: Posterior,
    enclosure: FlowEnclosure,
    attractors: list[Cells],
    confidence: float,
    lowest: GradientBand | None = None,
    outside: Mask | None = None,
    counted: bool = False,
) -> Climb:
    r"""Follow the attractors of an analysis up to wider and wider bands.

    What is said holds under the premise of :mod:`lightning_morse.bands.gradient`, each number by
    itself with the probability it states; the reasons are in the docstring of this module.

    Args:
        surrogate: The fitted surrogate.
        posterior: The posterior at the points of the lattice.
        enclosure: The enclosure of the flow; its lattice counts.
        attractors: Cells of each attractor at ``confidence``, ``n`` arrays of cell numbers.
        confidence: Level of the lowest rung, at which the attractors are known to stand.
        lowest: Band of the lowest rung if it comes from :func:`gradient_band`; left out if it does
            not: the attractors then stand on that rung without a block of their own.
        outside: Cells that count as exterior, shape ``(grid.size,)``.
        counted: Whether it is certain at ``confidence`` that there are no further attractors.

    Returns:
        How far up they stand.
    """
    lattice = enclosure.lattice
    many = sum(len(cells) for cells in attractors) > _MANY_CELLS
    fails = failures(confidence, RUNGS_PER_DECADE // 2 if many else RUNGS_PER_DECADE)
    n, n_rungs = len(attractors), len(fails)
    levels = 1 - fails
    nobody = np.zeros(0, dtype=np.int64)
    start = 0 if lowest is not None else 1
    if n == 0 or n_rungs == start:
        return unclimbed(attractors, confidence)

    deviations = CellDeviations(surrogate, lattice, posterior.gradient_deviation)
    bands = [
        gradient_band(surrogate, lattice, posterior, 1 - (1 - BESIDE_BAND) * fail, deviations)
        for fail in fails[start:]
    ]
    if lowest is not None:
        bands[0] = lowest
    between = enclosure.between(bands[0], bands[-1])
    shares = np.array([between.share(band) for band in bands])
    grid = lattice.grid
    if outside is None:
        outside = np.zeros(grid.size, dtype=bool)
    closures = _close(between, shares, attractors, outside)
    held = _held_by(closures, n, grid)
    climbed = held
    # On the lowest rung the analysis itself says that they stand.
    held = np.concatenate([np.arange(n)[None], held[1 - start :]])
    blocks = [
        tuple(closures.block(j, i) if climbed[j, i] >= 0 else nobody for i in range(n))
        for j in range(len(bands))
    ]

    alone = _alone(climbed)
    own = np.ones((len(bands), n))
    boxes: dict[tuple[int, int], Cells] = {}
    for j, i in np.argwhere(alone):
        boxes[j, i] = closures.swept(j, _boundary(grid, blocks[j][i]))
        points = _count_corners(boxes[j, i])
        own[j, i] = failure_bound(bands[j].c, lattice, points, bands[j].halvings)
    least = np.minimum(own.min(axis=0), fails[0])

    all_stand = np.flatnonzero(alone.all(axis=1))
    apart, exact = float(fails[0]), confidence
    if all_stand.size:
        top = int(all_stand[-1])
        union = np.concatenate([boxes[top, i] for i in range(n)])
        points = _count_corners(union)
        apart = min(apart, failure_bound(bands[top].c, lattice, points, bands[top].halvings))
        best = own.argmin(axis=0)
        mine = np.concatenate([blocks[best[i]][i] for i in range(n)])
        if alone[best, np.arange(n)].all() and len(np.unique(mine)) == len(mine):
            apart = min(apart, float(least.sum()))
        if counted:
            wrong = _contradicting(
                surrogate, posterior, enclosure, bands[: top + 1], blocks, outside
            )
            fails_of_bands = np.array([1 - band.level for band in bands[: top + 1]])
            exact = max(exact, float((1 - fails_of_bands - wrong).max()))
    if start:
        blocks = [tuple(attractors), *blocks]
    return Climb(
        ladder=Ladder(levels=levels, blocks=held.astype(np.int64)),
        each=np.minimum(np.maximum(1 - least, confidence), _below_one()),
        together=min(max(1 - apart, confidence), _below_one()),
        exact=exact,
        blocks=tuple(blocks),
    )


def _below_one() -> float:
    """The largest number below 1: rounding must not turn a bound into certainty."""
    return float(np.nextafter(1.0, 0.0))


class _Closures:
    """Blocks as sorted numbers ``(rung * n + attractor) * grid.size + cell``, and their flights."""

    def __init__(self, n: int, grid: CubicalGrid, n_rungs: int) -> None:
        self.n, self.grid = n, grid
        self.inside = np.zeros(0, dtype=np.int64)
        self.leaks = np.zeros((n_rungs, n), dtype=bool)
        self._pairs: list[Cells] = []
        self._swept: list[Cells] = []

    def add_flights(self, pairs: Cells, swept: Cells) -> None:
        """Note what the flights of cells at rungs, ``rung * grid.size + cell``, have swept."""
        self._pairs.append(pairs)
        self._swept.append(swept)

    def block(self, rung: int, attractor: int) -> Cells:
        """Cells of a block, ascending."""
        first = (rung * self.n + attractor) * self.grid.size
        a, b = np.searchsorted(self.inside, [first, first + self.grid.size])
        return self.inside[a:b] - first

    def swept(self, rung: int, cells: Cells) -> Cells:
        """Boxes of lattice cells swept from some cells at a rung, shape ``(k, d, 2)``."""
        pairs = np.concatenate(self._pairs)
        order = np.argsort(pairs, kind="stable")
        row = order[np.searchsorted(pairs, rung * self.grid.size + cells, sorter=order)]
        return np.concatenate(self._swept)[row]


def _close(
    between: BandsBetween, shares: Array, attractors: list[Cells], outside: Mask
) -> _Closures:
    """Close the cells of each attractor under the map of each rung, and each rung over the last."""
    grid = between.lattice.grid
    n, n_rungs, size = len(attractors), len(shares), grid.size
    out = _Closures(n, grid, n_rungs)
    base = np.concatenate([i * size + cells for i, cells in enumerate(attractors)])
    waiting = (np.arange(n_rungs)[:, None] * (n * size) + np.sort(base)).ravel()
    for _ in range(_ROUNDS):
        # They are sorted by rungs: the lower ones come first.
        fresh, waiting = waiting[:_A_ROUND], waiting[_A_ROUND:]
        out.inside = np.union1d(out.inside, fresh)
        rung, cell = fresh // (n * size), fresh % size
        pairs, of_pair = np.unique(rung * size + cell, return_inverse=True)
        images = between.images(pairs % size, shares[pairs // size])
        out.add_flights(pairs, images.swept)
        met, counts = cells_met(images.lower, images.upper, grid)
        leaves = images.exits.any(axis=(1, 2)) | outside[pairs % size]
        leaves |= np.any((images.lower < grid.lower) | (images.upper > grid.upper), axis=1)
        owner = fresh // size
        out.leaks.ravel()[owner[leaves[of_pair]]] = True
        np.logical_or.accumulate(out.leaks, axis=0, out=out.leaks)

        # A block that leaks is not followed any further, so its images are of no interest.
        goes_on = ~out.leaks.ravel()[owner]
        owner, of_pair = owner[goes_on], of_pair[goes_on]
        starts = np.cumsum(counts) - counts
        taken = counts[of_pair]
        within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
        hit = np.repeat(owner * size, taken) + met[np.repeat(starts[of_pair], taken) + within]
        hit = np.setdiff1d(hit, out.inside)
        above = (hit + np.arange(n_rungs)[:, None] * (n * size)).ravel()
        above = np.setdiff1d(above[above < n_rungs * n * size], out.inside)
        waiting = np.union1d(waiting, above)
        waiting = waiting[~out.leaks.ravel()[waiting // size]]
        if not waiting.size:
            return out
    out.leaks.ravel()[waiting // size] = True
    np.logical_or.accumulate(out.leaks, axis=0, out=out.leaks)
    return out


def _held_by(closures: _Closures, n: int, grid: CubicalGrid) -> Cells:
    """The first attractor of the block that holds each attractor at each rung; -1 once vanished."""
    n_rungs = len(closures.leaks)
    out = np.full((n_rungs, n), -1, dtype=np.int64)
    group = np.arange(n)
    for j in range(n_rungs):
        leaking = np.isin(group, group[closures.leaks[j]])
        group = np.where(leaking, -1, group)
        standing = np.flatnonzero(group >= 0)
        cells = [closures.block(j, int(i)) for i in standing]
        owner = np.repeat(group[standing], [len(c) for c in cells])
        # Blocks with a common cell are joined through it.
        cell = np.concatenate([*cells, np.zeros(0, dtype=np.int64)])
        _, cell = np.unique(cell, return_inverse=True)
        size = n + (int(cell.max()) + 1 if cell.size else 0)
        links = coo_array((np.ones(cell.size), (owner, n + cell)), shape=(size, size))
        _, piece = connected_components(links, directed=False)
        first = np.full(piece.size, n)
        np.minimum.at(first, piece[group[standing]], standing)
        out[j, standing] = first[piece[group[standing]]]
        group = out[j].copy()
    return out


def _alone(held: Cells) -> Mask:
    """Which attractors have a block to themselves, shape ``(n_rungs, n)``."""
    same = held[:, :, None] == held[:, None, :]
    return (held >= 0) & (same.sum(axis=2) == 1)


def _boundary(grid: CubicalGrid, cells: Cells) -> Cells:
    """Cells that share a corner with a cell outside the set, or touch a face of the box."""
    mask = np.zeros(grid.size, dtype=bool)
    mask[cells] = True
    inner = binary_erosion(mask.reshape(grid.shape), np.ones((3,) * grid.dim)).ravel()
    return cells[~inner[cells]]


def _count_corners(boxes: Cells) -> int:
    """Number of lattice points that are corners of a lattice cell in some of the boxes.

    Args:
        boxes: First and last lattice cell along each axis, shape ``(k, d, 2)``.
    """
    k, d, _ = boxes.shape
    if not k:
        return 0
    origin = boxes[..., 0].min(axis=0)
    low, past = boxes[..., 0] - origin, boxes[..., 1] - origin + 2
    # How many boxes cover a point is the running sum along all axes of +1 and -1 at their corners.
    change = np.zeros(past.max(axis=0) + 1, dtype=np.int64)
    for ends in np.ndindex(*(2,) * d):
        corner = np.where(ends, past, low)
        np.add.at(change, tuple(corner.T), -1 if sum(ends) % 2 else 1)
    for axis in range(d):
        np.cumsum(change, axis=axis, out=change)
    return int((change > 0).sum())


def _contradicting(
    surrogate: GaussianProcess,
    posterior: Posterior,
    enclosure: FlowEnclosure,
    bands: list[GradientBand],
    blocks: list[tuple[Cells, ...]],
    outside: Mask,
) -> Array:
    """Expected critical points against the claim that blocks hold one attractor each, and no other.

    Args:
        surrogate: The fitted surrogate.
        posterior: The posterior at the points of the lattice.
        enclosure: The enclosure of the flow.
        bands: The bands of the rungs to look at.
        blocks: Cells of the blocks at each rung; all attractors stand.
        outside: Cells that count as exterior.

    Returns:
        One number a rung.
    """
    lattice = enclosure.lattice
    masks = critical_cells_of(lattice, posterior, bands)
    # A wider band leaves out fewer cells: the last ones are all that matter.
    candidates = np.flatnonzero(masks[-1])
    cell = lattice.grid_cell_of(candidates)
    candidates, cell = candidates[~outside[cell]], cell[~outside[cell]]
    expected = expected_critical_points(
        surrogate, lattice.cell_centers(candidates), lattice.spacing
    )
    any_index, minima = expected.sum(axis=1), expected[:, 0]
    out = np.zeros(len(bands))
    for rung, possible in enumerate(mask[candidates] for mask in masks):
        owner = _owner(lattice.grid, blocks[rung])[cell]
        out[rung] = minima[possible & (owner < 0)].sum()
        for i, cells in enumerate(blocks[rung]):
            mine = np.flatnonzero(possible & (owner == i))
            piece = _pieces(lattice.grid, cells)[cell[mine]]
            # All critical points are to lie where a minimum is most likely.
            likely = np.bincount(piece, weights=minima[mine], minlength=1).argmax()
            against = np.where(piece == likely, any_index[mine] - minima[mine], any_index[mine])
            out[rung] += against.sum()
    return out


def _owner(grid: CubicalGrid, blocks: tuple[Cells, ...]) -> Cells:
    """Number of the block that holds each cell, -1 for none."""
    out = np.full(grid.size, -1)
    for i, cells in enumerate(blocks):
        out[cells] = i
    return out


def _pieces(grid: CubicalGrid, cells: Cells) -> Cells:
    """Number of the connected piece that holds each cell of a block; cells that touch connect."""
    mask = np.zeros(grid.size, dtype=bool)
    mask[cells] = True
    piece, _ = label(mask.reshape(grid.shape), structure=np.ones((3,) * grid.dim))
    return np.asarray(piece).ravel()
