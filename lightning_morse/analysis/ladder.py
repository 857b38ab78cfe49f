r"""Up to which confidence each attractor persists, by itself and together with the others.

The attractors are followed through a *filtration over confidence*: each level of confidence has a
band, wider at higher levels, so images only grow from one level to the next. The *block* of an
attractor at a level is the smallest set of cells that contains its block at the level below and,
with each cell, every cell that meets the image of that cell; so blocks only grow. An attractor
*stands* as long as its block neither reaches the exterior nor meets the block of another one.
Blocks that meet *merge* and go on as one; a block that reaches the exterior *vanishes* and takes no
other with it. The level up to which an attractor stands is its persistence.

*Why a standing block holds an attractor.* Let :math:`|B|` be the union of the closed cells of a
block, on the event of its band. (1) A critical point in :math:`|B|` lies in its interior: it is in
the image box of each cell that contains it, so all cells around it meet an image and belong to the
block; and on a face of the box an exit would have been reported. (2) A trajectory that starts in
:math:`|B|` is in :math:`|B|` again after each flight, so it has limit points there. They are
critical, hence interior; the limit set is connected, so it lies in the interior as a whole. (3) The
minimum of the loss over :math:`|B|` is attained at a critical point, since the flow returns to
:math:`|B|` at a lower loss; by (1) it is a local minimum. The flights from :math:`|B|` fill a
compact forward-invariant set, whose omega-limit set is an attractor. By (2) disjoint blocks lead to
different limit points: their attractors are different. Each level has a map of its own, so it does
not matter that its flights took their own times, nor that other levels used other times; starting
from the block of the level below only adds cells.

*Why a block needs the band in a few cells only.* A trajectory that leaves :math:`|B|` does so from
a point of its boundary, which lies in a *boundary cell*: a cell of the block that shares a corner
with a cell outside it, or touches a face of the box. The flight of that cell begins there, passes
through the windows over which the field was bounded, and ends in :math:`|B|`; nothing need be known
in the interior of :math:`|B|`, and (1) is needed at the boundary alone. (A cell that could not be
followed has all its neighbours as its image and reports every face, so it is no boundary cell.)
Hence everything above holds on the event that the band holds in the lattice cells swept by the
flights of the boundary cells. With :math:`N_B` corners of these cells, it fails there with
probability at most :math:`2 d N_B Q(c) (1 + \eta)` instead of :math:`2 d N Q(c) (1 + \eta)`
(:func:`lightning_morse.bands.gradient.failure_bound`). Blocks, windows and the choice of the level
depend on the samples alone, so taking the best level costs nothing.

*Exactly n.* The claim that there is no further attractor concerns the whole box. It holds at a
level if all attractors stand, no critical point outside their blocks is a minimum, the critical
points in each block lie in one connected piece of it, and all of them are minima: strict ones,
whose basins, open and disjoint, cover the piece, which several could not. (It would not do to ask
that the cells which may hold a critical point are connected: such a set can be bent and hold two
minima.) On the event of the band, all critical points lie in the cells where the band leaves room
for one. The expected number of critical points there that contradict the claim is known
(:mod:`lightning_morse.gp.kac_rice`) and is added to the failure probability of the level's band.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion, label

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.analysis.blocks import VANISHED, Blocks, close_blocks
from lightning_morse.analysis.charts import Chart
from lightning_morse.bands.gradient import (
    CellDeviations,
    GradientBand,
    failure_bound,
    gradient_band,
)
from lightning_morse.bands.levels import LEVELS_PER_DECADE, failures
from lightning_morse.enclosure.flow_map import critical_cells_of
from lightning_morse.gp.kac_rice import expected_critical_points
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.result import Ladder

# Half as many levels where the attractors take more cells together than this: large blocks take
# time at each level. Fewer levels can only lower the confidence reported.
_MANY_CELLS = 200
# Share of the failure probability reserved for claims beside the band (that sets are empty or
# resolved, that a count is exact). Any share in (0, 1) is sound; the band needs most of it.
BESIDE_BAND = 0.1
# Rounding must not turn a bound into certainty.
_BELOW_ONE = float(np.nextafter(1.0, 0.0))


@dataclass(frozen=True, eq=False)
class Climb:
    """How far up the filtration the attractors of an analysis stand.

    Attributes:
        ladder: The levels, and which blocks have merged or vanished.
        each: Confidence up to which each attractor stands, shape ``(n,)``; at least the lowest
            level.
        together: Confidence that all of them are different attractors.
        exact: Confidence that there are no others besides; the lowest level unless more was
            verified.
        blocks: Cells of the block of each attractor at each level, ``blocks[j][i]``; empty once it
            has vanished, that of this attractor alone if it has merged.
    """

    ladder: Ladder
    each: Array
    together: float
    exact: float
    blocks: tuple[tuple[Cells, ...], ...]


def unclimbed(attractors: list[Cells], confidence: float) -> Climb:
    """Claim about attractors only what the analysis has found at its own level.

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
    chart: Chart,
    attractors: list[Cells],
    confidence: float,
    proved: bool = True,
    counted: bool = False,
) -> Climb:
    r"""Follow the attractors of an analysis up to wider and wider bands.

    The claims hold under the premise of :mod:`lightning_morse.bands.gradient`, each number by
    itself with the probability it states; the reasons are in the docstring of this module.

    Args:
        chart: The chart; its lattice counts.
        attractors: Cells of each attractor at ``confidence``, ``n`` arrays of cell numbers.
        confidence: The lowest level, at which the attractors are known to stand.
        proved: Whether the chart's band is that of :func:`gradient_band`. If not, the attractors
            stand at the lowest level without a block of their own.
        counted: Whether it is certain at ``confidence`` that there are no further attractors.

    Returns:
        How far up they stand.
    """
    many = sum(len(cells) for cells in attractors) > _MANY_CELLS
    fails = failures(confidence, LEVELS_PER_DECADE // 2 if many else LEVELS_PER_DECADE)
    n, start = len(attractors), 0 if proved else 1
    if n == 0 or len(fails) == start:
        return unclimbed(attractors, confidence)

    filtration = _filtration(chart, attractors, fails[start:], proved)
    certificates = _certificates(filtration)
    own = certificates.failure.min(axis=0)
    least = np.minimum(own, fails[0])
    apart, exact = float(fails[0]), confidence
    standing = np.flatnonzero(filtration.alone.all(axis=1))
    if standing.size:
        top = int(standing[-1])
        apart = min(apart, certificates.of_all(top))
        if certificates.best_are_disjoint():
            apart = min(apart, float(least.sum()))
        if counted:
            exact = max(exact, _exactly(chart, filtration, top))
    # At the lowest level the analysis itself says that they stand.
    holders = np.concatenate([np.arange(n)[None], filtration.holders[1 - start :]])
    blocks = filtration.blocks if proved else [tuple(attractors), *filtration.blocks]
    return Climb(
        ladder=Ladder(levels=1 - fails, blocks=holders.astype(np.int64)),
        each=np.minimum(np.maximum(1 - least, confidence), _BELOW_ONE),
        together=min(max(1 - apart, confidence), _BELOW_ONE),
        exact=exact,
        blocks=tuple(blocks),
    )


@dataclass(frozen=True, eq=False)
class _Filtration:
    """The bands of some levels and the blocks of the attractors under each of them.

    Attributes:
        chart: The chart.
        bands: The bands, ``k`` of them, from narrow to wide.
        closed: The blocks and the flights of their cells.
        holders: Block that holds each attractor, see :meth:`Blocks.holders`, shape ``(k, n)``.
        blocks: Cells of each block, ``blocks[j][i]``; empty once it has vanished.
    """

    chart: Chart
    bands: list[GradientBand]
    closed: Blocks
    holders: Cells
    blocks: list[tuple[Cells, ...]]

    @property
    def alone(self) -> Mask:
        """Which attractors have a block to themselves, shape ``(k, n)``."""
        same = self.holders[:, :, None] == self.holders[:, None, :]
        alone: Mask = (self.holders != VANISHED) & (same.sum(axis=2) == 1)
        return alone


def _filtration(chart: Chart, attractors: list[Cells], fails: Array, proved: bool) -> _Filtration:
    """Close the attractors' cells under the bands that fail with given probabilities."""
    surrogate, lattice, posterior = chart.surrogate, chart.lattice, chart.posterior
    deviations = CellDeviations(surrogate, lattice, posterior.gradient_deviation)
    bands = [
        gradient_band(surrogate, lattice, posterior, 1 - (1 - BESIDE_BAND) * fail, deviations)
        for fail in fails
    ]
    if proved:
        bands[0] = chart.band
    between = chart.enclosure.between(bands[0], bands[-1])
    shares = np.array([between.share(band) for band in bands])
    closed = close_blocks(between, shares, attractors, chart.diverged)
    holders = closed.holders()
    nobody = np.zeros(0, dtype=np.int64)
    blocks = [
        tuple(
            closed.cells(j, i) if holder != VANISHED else nobody for i, holder in enumerate(holding)
        )
        for j, holding in enumerate(holders)
    ]
    return _Filtration(chart, bands, closed, holders, blocks)


@dataclass(frozen=True, eq=False)
class _Certificates:
    """With which probability the band fails where a block needs it.

    Attributes:
        filtration: Bands and blocks, ``k`` levels and ``n`` attractors.
        failure: That probability for each attractor at each level, 1 where it has no block to
            itself; shape ``(k, n)``.
        boxes: Boxes of lattice cells in which the band is needed, by level and attractor.
    """

    filtration: _Filtration
    failure: Array
    boxes: dict[tuple[int, int], Cells]

    def of_all(self, level: int) -> float:
        """The same for all attractors at once, at a level at which all of them stand."""
        n = self.failure.shape[1]
        union = np.concatenate([self.boxes[level, i] for i in range(n)])
        return _local_failure(self.filtration, level, union)

    def best_are_disjoint(self) -> bool:
        """Whether the blocks of the best level of each attractor have no cell in common.

        Then their attractors are different, also where the levels are.
        """
        best = self.failure.argmin(axis=0)
        cells = np.concatenate([self.filtration.blocks[j][i] for i, j in enumerate(best)])
        alone = self.filtration.alone[best, np.arange(len(best))].all()
        return bool(alone) and len(np.unique(cells)) == len(cells)


def _certificates(filtration: _Filtration) -> _Certificates:
    """Bound the failure of each block that stands."""
    grid, alone = filtration.chart.lattice.grid, filtration.alone
    failure = np.ones(alone.shape)
    boxes: dict[tuple[int, int], Cells] = {}
    for j, i in np.argwhere(alone).tolist():
        boxes[j, i] = filtration.closed.swept(j, _boundary(grid, filtration.blocks[j][i]))
        failure[j, i] = _local_failure(filtration, j, boxes[j, i])
    return _Certificates(filtration, failure, boxes)


def _local_failure(filtration: _Filtration, level: int, boxes: Cells) -> float:
    """Bound the probability that the band of a level fails in some boxes of lattice cells."""
    band = filtration.bands[level]
    points = _count_corners(boxes)
    return failure_bound(band.c, filtration.chart.lattice, points, band.halvings)


def _exactly(chart: Chart, filtration: _Filtration, top: int) -> float:
    """Confidence that the blocks hold all attractors, from the levels up to ``top``."""
    bands = filtration.bands[: top + 1]
    contradicting = _contradicting(chart, bands, filtration.blocks)
    fails = np.array([1 - band.level for band in bands])
    return float((1 - fails - contradicting).max())


def _boundary(grid: CubicalGrid, cells: Cells) -> Cells:
    """Cells that share a corner with a cell outside the set, or touch a face of the box."""
    mask = np.zeros(grid.size, dtype=bool)
    mask[cells] = True
    inner = binary_erosion(mask.reshape(grid.shape), np.ones((3,) * grid.dim)).ravel()
    boundary: Cells = cells[~inner[cells]]
    return boundary


def _count_corners(boxes: Cells) -> int:
    """Number of lattice points that are corners of a lattice cell in at least one box.

    Args:
        boxes: First and last lattice cell along each axis, shape ``(k, d, 2)``.
    """
    k, d, _ = boxes.shape
    if not k:
        return 0
    origin = boxes[..., 0].min(axis=0)
    low, past = boxes[..., 0] - origin, boxes[..., 1] - origin + 2
    # The number of boxes that cover a point is the running sum, along all axes, of +1 and -1 at
    # their corners.
    change = np.zeros(past.max(axis=0) + 1, dtype=np.int64)
    for ends in np.ndindex(*(2,) * d):
        corner = np.where(ends, past, low)
        np.add.at(change, tuple(corner.T), -1 if sum(ends) % 2 else 1)
    for axis in range(d):
        np.cumsum(change, axis=axis, out=change)
    return int((change > 0).sum())


def _contradicting(
    chart: Chart, bands: list[GradientBand], blocks: list[tuple[Cells, ...]]
) -> Array:
    """Expected critical points against the claim that blocks hold one attractor each, and no other.

    Args:
        chart: The chart.
        bands: The bands of the levels to look at, from narrow to wide.
        blocks: Cells of the blocks at each level; all attractors stand.

    Returns:
        One number per level.
    """
    lattice, surrogate = chart.lattice, chart.surrogate
    masks = critical_cells_of(lattice, chart.posterior, bands)
    # A wider band rules out fewer cells, so the last mask contains the others.
    candidates = np.flatnonzero(masks[-1])
    cell = lattice.grid_cell_of(candidates)
    inside = ~chart.diverged[cell]
    candidates, cell = candidates[inside], cell[inside]
    expected = expected_critical_points(
        surrogate, lattice.cell_centers(candidates), lattice.spacing
    )
    any_index, minima = expected.sum(axis=1), expected[:, 0]
    out = np.zeros(len(bands))
    for level, possible in enumerate(mask[candidates] for mask in masks):
        owner = _owner(lattice.grid, blocks[level])[cell]
        out[level] = minima[possible & (owner < 0)].sum()
        for i, cells in enumerate(blocks[level]):
            mine = np.flatnonzero(possible & (owner == i))
            piece = _pieces(lattice.grid, cells)[cell[mine]]
            # All critical points are to lie where a minimum is most likely.
            likely = np.bincount(piece, weights=minima[mine], minlength=1).argmax()
            against = np.where(piece == likely, any_index[mine] - minima[mine], any_index[mine])
            out[level] += against.sum()
    return out


def _owner(grid: CubicalGrid, blocks: tuple[Cells, ...]) -> Cells:
    """Number of the block that holds each cell, -1 for none."""
    out = np.full(grid.size, -1)
    for i, cells in enumerate(blocks):
        out[cells] = i
    return out


def _pieces(grid: CubicalGrid, cells: Cells) -> Cells:
    """Connected piece of a block that holds each cell; cells that touch are connected."""
    mask = np.zeros(grid.size, dtype=bool)
    mask[cells] = True
    piece, _ = label(mask.reshape(grid.shape), structure=np.ones((3,) * grid.dim))
    return np.asarray(piece).ravel()
