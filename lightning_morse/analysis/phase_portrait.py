"""The phase portrait of a tower of boxes: Morse graph and basins from the charts of its boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.analysis.charts import Patch
from lightning_morse.analysis.patchwork import AnyChart
from lightning_morse.analysis.resolution import (
    Settled,
    expected_in_sets,
    safest,
    settle,
    shadows,
    that_count,
)
from lightning_morse.analysis.wells import Well
from lightning_morse.conley.basins import certain_labels
from lightning_morse.conley.morse_sets import MorseGraph, morse_graph
from lightning_morse.conley.nested_map import BoxImages, nested_outer_approximation
from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from lightning_morse.grids.nested import NestedGrid
from lightning_morse.grids.shares import share_of_box
from lightning_morse.stopwatch import Stopwatch

# Share of the failure probability beside the band that may be spent on dropping components in which
# next to no critical point is expected; the rest settles Morse sets. Any split in [0, 1] is sound.
_SHARE_FOR_EMPTY = 0.5


@dataclass(frozen=True, eq=False)
class PhasePortrait:
    """The gradient flow on boxes inside boxes, and how certain the picture is.

    Attributes:
        nested: The grids of the boxes.
        charts: What the surrogate of each box says, in the same order.
        images: The images of the cells of each, those of recurrent cells sharper.
        found: The Morse graph, without the components that hold no critical point.
        settled: The certain statements about its Morse sets.
        labels: The certain basins, shape ``(nested.size,)``.
        failure: Probability that any of this is false although all bands hold.
        kinked: Probability that the loss has kinks in a box where critical points were counted, or
            would have been but for that.
        well: The well that is one of the attractors (:mod:`lightning_morse.analysis.wells`); None
            where none was looked for, or found.
        held: Cells that are held in it, shape ``(nested.size,)``.
    """

    nested: NestedGrid
    charts: tuple[AnyChart, ...]
    images: tuple[BoxImages, ...]
    found: MorseGraph
    settled: Settled
    labels: NDArray[np.int32]
    failure: float
    kinked: float = 0.0
    well: Well | None = None
    held: Mask | None = None

    @property
    def critical(self) -> Mask:
        """Cells that may hold a critical point, shape ``(nested.size,)``."""
        return self.nested.gathered([c.critical for c in self.charts])

    @property
    def diverged(self) -> Mask:
        """Cells that count as exterior, shape ``(nested.size,)``."""
        return self.nested.gathered([c.diverged for c in self.charts])

    @property
    def level(self) -> float:
        """Lower bound on the probability that all of this is true."""
        return max(0.0, 1 - sum(c.failure for c in self.charts) - self.failure)

    @property
    def trusted(self) -> bool:
        """Whether at least one surrogate is not refuted by its samples."""
        return any(c.trusted for c in self.charts)

    @property
    def is_exact(self) -> bool:
        """Whether every Morse set is resolved: the attractors found are all there are."""
        return bool(self.settled.resolved.all())

    @cached_property
    def open(self) -> Mask:
        """Cells about which samples may still tell: undecided, or in an unresolved Morse set."""
        mask: Mask = self.labels == UNDECIDED
        for cells, resolved in zip(self.found.morse_sets, self.settled.resolved, strict=True):
            mask[cells] |= not resolved
        return mask

    def open_volume(self, k: int) -> float:
        """Fraction of the outermost box about which samples for box ``k`` may tell.

        In the outermost box itself only what is undecided counts. Where a set is unresolved and all
        around it certain, samples for it are those of a box inside: the outermost one needs a
        process for all of it.
        """
        part = self.nested.part(k)
        mask = np.zeros(self.nested.size, dtype=bool)
        mask[part] = self.open[part] if k else self.labels[part] == UNDECIDED
        return share_of_box(mask, self.nested.volumes)

    def label_at(self, point: Array) -> int:
        """The label of a point, shape ``(d,)``: that of its cell, if it is not known better."""
        if self.well is not None and self.well.holds(point):
            return self.well_number
        return int(self.labels[self.nested.cell_of(point[None])[0]])

    def is_decided(self, point: Array) -> bool:
        """Whether it is certain what becomes of a point, shape ``(d,)``."""
        return self.label_at(point) != UNDECIDED

    def certainly_leaves(self, point: Array) -> bool:
        """Whether it is certain that a point, shape ``(d,)``, leaves the outermost box."""
        return self.label_at(point) == ESCAPES

    def is_certain_in(self, boxes: Sequence[int]) -> bool:
        """Whether a certain basin reaches into one of some boxes, or nothing stays in them."""
        recurrent, parts = _recurrent(self.found, self.nested), list(map(self.nested.part, boxes))
        passed = not any(recurrent[part].any() for part in parts)
        return passed or any((self.labels[part] >= 0).any() for part in parts)

    @property
    def well_number(self) -> int:
        """Number of the Morse set that is the attractor in the well; -1 if there is none."""
        return -1 if self.held is None else int(self.labels[self.held.argmax()])

    def attracting_cells(self) -> list[Cells]:
        """Cells to follow each attractor from: the Morse set, and what may be critical around it.

        The cells in its certain basin that may hold a critical point are included, so that every
        cell in which a wider band leaves room for a minimum there is among them.
        """
        critical = self.critical
        return [
            np.union1d(self.found.morse_sets[a], np.flatnonzero(critical & (self.labels == a)))
            for a in self.found.attractors
        ]

    def renumbered(self, order: Sequence[int]) -> PhasePortrait:
        """The same with the Morse sets in another order.

        Args:
            order: The present number of the set that comes first, second, ...; a permutation.
        """
        number = np.argsort(np.asarray(order, dtype=np.int64)).astype(np.int32)
        labels = self.labels.copy()
        labels[labels >= 0] = number[labels[labels >= 0]]
        return dataclasses.replace(
            self,
            found=self.found.renumbered(order),
            settled=self.settled.renumbered(order),
            labels=labels,
        )


def phase_portrait(
    nested: NestedGrid,
    charts: Sequence[AnyChart],
    failure: float,
    clock: Stopwatch,
    most_sharp: float = 1.0,
) -> PhasePortrait:
    """Find the Morse graph and the basins of the flow of every gradient field inside the bands.

    Cells found to be recurrent are followed once more by the sharper enclosure, and the Morse graph
    is that of the map with their images replaced.

    A recurrent component is no Morse set if none of its cells can hold a critical point on the
    event of the bands, if the expected number of critical points in it is close enough to zero to
    be charged to ``failure``, or if the only one belongs to the attractor beside it.

    Args:
        nested: The grids of the boxes.
        charts: One for each of them.
        failure: The probability with which statements about the Morse sets may be false although
            the bands hold.
        clock: Takes the time of the stages.
        most_sharp: Largest share of the cells of a grid that are followed once more. Where more
            are recurrent little is known yet, and following them takes long; sound at any value.
    """
    with clock("map"):
        images = [c.box_images for c in charts]
        image = nested_outer_approximation(images, nested)
    with clock("graph"):
        critical = nested.gathered([c.critical & ~c.diverged for c in charts])
        found = morse_graph(image, critical=critical)
    if found.morse_sets:
        # Recurrent cells decide what can be claimed, and they are few.
        with clock("enclosure"):
            recurrent = np.concatenate(found.morse_sets)
            for k, c in enumerate(charts):
                mine = _of_grid(nested, k, recurrent)
                if mine.size <= most_sharp * nested.grids[k].size:
                    images[k] = c.sharpened(mine)
        with clock("map"):
            image = nested_outer_approximation(images, nested)
    return _portrait(nested, charts, images, image, critical, failure, clock)


def with_well(
    portrait: PhasePortrait, well: Well, failure: float, clock: Stopwatch
) -> PhasePortrait:
    """The portrait with a well as an attractor, whatever else is known in it.

    For the map its inner cells are absorbing: where their trajectories stay is known. They may rest
    in any cell of the well that may hold a critical point. So these cells make up the Morse set of
    the attractor, which may hold several, and in the map they lead to it besides wherever else they
    may lead. Recurrent sets among them stay Morse sets of their own: not all that starts in these
    cells stays in the well.

    Args:
        portrait: A portrait without a well.
        well: The well.
        failure: As in :func:`phase_portrait`, the well not counted.
        clock: Takes the time of the stages.

    Returns:
        The same portrait where the loss diverged in the well.
    """
    nested = portrait.nested
    cell = nested.grids[well.box].cell_of(nested.cell_centers())
    cells, held = ((cell >= 0) & mask[cell] for mask in (well.cells, well.inside))
    if well.held.all():  # all parts of the cell of the point
        held[nested.cell_of(well.near.lattice.grid.cell_centers())] = True
    if (cells & portrait.diverged).any():  # as the samples of a box inside show
        return portrait
    with clock("map"):
        possible = np.flatnonzero(portrait.critical & cells)
        image = nested_outer_approximation(list(portrait.images), nested)
        image = _absorbing(image, held, possible)
    given = nested, portrait.charts, list(portrait.images), image
    critical = portrait.critical & ~portrait.diverged
    found = _portrait(*given, critical, failure, clock, possible, held)
    return dataclasses.replace(found, failure=found.failure + well.failure, well=well)


def _absorbing(image: csr_array, held: Mask, possible: Cells) -> csr_array:
    """The map with one of the cells that are held as the image of all of them.

    Args:
        image: The map.
        held: The cells, shape ``(n_cells,)``.
        possible: Cells that may lead there besides, numbers.
    """
    inside = np.flatnonzero(held)
    row, column = image.nonzero()
    stays = ~np.append(held, False)[row]
    more = np.union1d(inside, possible)
    row = np.concatenate([row[stays], more])
    column = np.concatenate([column[stays], np.full(more.size, inside[0])])
    out = csr_array((np.ones(row.size, dtype=bool), (row, column)), shape=image.shape)
    out.sum_duplicates()
    return out


def _portrait(
    nested: NestedGrid,
    charts: Sequence[AnyChart],
    images: list[BoxImages],
    image: csr_array,
    may_rest: Mask,
    failure: float,
    clock: Stopwatch,
    possible: Cells | None = None,
    held: Mask | None = None,
) -> PhasePortrait:
    """What the map says; with cells of a well that may be critical, and those that are held."""
    critical = may_rest.copy()
    member = -1 if held is None else int(held.argmax())
    with clock("graph"):
        if held is not None:
            critical[member] = True
        found = morse_graph(image, critical=critical)
    with clock("settling"):
        patches = [(k, patch) for k, c in enumerate(charts) for patch in c.patches]
        counts = that_count([patch.chart for _, patch in patches])
        expected = expected_in_sets(found, nested, patches, failure, counts)
        kinked = _kinked(found, nested, patches, counts)
        expected[found.members == member] += 1.0  # nothing has been counted in a well
        empty, spent = _as_good_as_empty(found, expected, _SHARE_FOR_EMPTY * failure)
        found, critical = _without(found, empty, image, critical)
        settled = settle(found, nested, expected[~empty], failure - spent)
        shadow = shadows(found, nested, settled)
        found, critical = _without(found, shadow, image, critical)
        settled = settled.renumbered(np.flatnonzero(~shadow))
    with clock("basins"):
        labels = certain_labels(found)
    if possible is not None:
        found = _holding(found, member, possible, may_rest)
    return PhasePortrait(
        nested=nested,
        charts=tuple(charts),
        images=tuple(images),
        found=found,
        settled=settled,
        labels=labels,
        failure=spent + settled.failure,
        kinked=kinked,
        held=held,
    )


def _holding(found: MorseGraph, member: int, possible: Cells, critical: Mask) -> MorseGraph:
    """The graph with the cells in a well that may be critical as the Morse set of its attractor.

    Sets that may hold a critical point elsewhere as well are listed without the cells in the well.
    """
    sets = []
    for own, cells in zip(found.members.tolist(), found.morse_sets, strict=True):
        elsewhere = np.setdiff1d(cells, possible)
        others = elsewhere if critical[elsewhere].any() else cells
        sets.append(np.union1d(possible, [member]) if own == member else others)
    return dataclasses.replace(found, morse_sets=tuple(sets))


def _recurrent(found: MorseGraph, nested: NestedGrid) -> Mask:
    """The cells of all Morse sets, shape ``(nested.size + 1,)``; the last one is no cell."""
    mask = np.zeros(nested.size + 1, dtype=bool)
    mask[np.concatenate([np.zeros(0, np.int64), *found.morse_sets])] = True
    return mask


def _kinked(
    found: MorseGraph, nested: NestedGrid, patches: Sequence[tuple[int, Patch]], counts: Mask
) -> float:
    """Probability of kinks around recurrent cells; in those left out, if there are any."""
    recurrent = _recurrent(found, nested)
    asked = np.array([recurrent[nested.numbers[k][patch.cells]].any() for k, patch in patches])
    charts = [patch.chart for _, patch in patches]
    left_out = asked & ~counts & np.array([c.trusted for c in charts])
    chosen = left_out if left_out.any() else asked & counts
    return min(1.0, sum(c.kinked for c, is_one in zip(charts, chosen, strict=True) if is_one))


def _as_good_as_empty(found: MorseGraph, expected: Array, failure: float) -> tuple[Mask, float]:
    """Morse sets to drop, and the probability that one of them holds a critical point after all."""
    total = expected.sum(axis=1)
    total[list(found.attractors)] = np.inf
    empty = safest(total, failure)
    return empty, float(total[empty].sum())


def _without(
    found: MorseGraph, dropped: Mask, image: csr_array, critical: Mask
) -> tuple[MorseGraph, Mask]:
    """The Morse graph without sets that hold no critical point, and the cells that may hold one."""
    if not dropped.any():
        return found, critical
    critical = critical.copy()
    critical[np.concatenate([found.morse_sets[i] for i in np.flatnonzero(dropped)])] = False
    return morse_graph(image, critical=critical), critical


def _of_grid(nested: NestedGrid, k: int, cells: Cells) -> Cells:
    """Numbers in grid ``k`` of those of the given cells that belong to it."""
    part = nested.part(k)
    mine = cells[(cells >= part.start) & (cells < part.stop)]
    return np.asarray(nested.uncovered[k][mine - part.start])
