"""The phase portrait of a surrogate: band, enclosed flow, Morse graph and basins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.analysis.resolution import Settled, expected_in_sets, safest, settle
from lightning_morse.bands.gradient import GradientBand
from lightning_morse.conley.basins import certain_labels
from lightning_morse.conley.combinatorial_map import outer_approximation
from lightning_morse.conley.morse_sets import MorseGraph, morse_graph
from lightning_morse.enclosure.flow_map import FlowEnclosure, FlowImages, critical_cells
from lightning_morse.gp.process import GaussianProcess, Posterior
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.stopwatch import Stopwatch

MakeBand = Callable[[GaussianProcess, Lattice, Posterior], GradientBand]

# Share of the failure probability beside the band that may be spent on dropping components in which
# next to no critical point is expected; the rest settles Morse sets. Any split in [0, 1] is sound.
_SHARE_FOR_EMPTY = 0.5


@dataclass(frozen=True, eq=False)
class PhasePortrait:
    """The gradient flow on a grid according to a surrogate, and how certain the picture is.

    Attributes:
        surrogate: The surrogate.
        lattice: The points at which it was evaluated.
        posterior: The posterior there.
        band: The simultaneous band on the gradient.
        enclosure: The enclosure of the flow, for any band.
        images: The enclosed images of the grid's cells.
        diverged: Cells that count as exterior, shape ``(grid.size,)``.
        candidates: Lattice cells that may hold a critical point, shape ``(n_lattice_cells,)``.
        found: The Morse graph, without the components that hold no critical point.
        settled: The certain statements about its Morse sets.
        labels: The certain basins, shape ``(grid.size,)``.
        failure: Probability that any of this is false although the band holds.
    """

    surrogate: GaussianProcess
    lattice: Lattice
    posterior: Posterior
    band: GradientBand
    enclosure: FlowEnclosure
    images: FlowImages
    diverged: Mask
    candidates: Mask
    found: MorseGraph
    settled: Settled
    labels: NDArray[np.int32]
    failure: float

    @property
    def critical(self) -> Mask:
        """Cells of the grid that may hold a critical point, shape ``(grid.size,)``."""
        return self.lattice.any_in_grid_cell(self.candidates)

    @property
    def level(self) -> float:
        """Lower bound on the probability that all of this is true."""
        return max(0.0, self.band.level - self.failure)

    @property
    def is_exact(self) -> bool:
        """Whether every Morse set is resolved: the attractors found are all there are."""
        return bool(self.settled.resolved.all())

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
    surrogate: GaussianProcess,
    lattice: Lattice,
    make_band: MakeBand,
    failure: float,
    diverged: Mask,
    clock: Stopwatch,
) -> PhasePortrait:
    """Find the Morse graph and the basins of the flow of every gradient field inside the band.

    Cells found to be recurrent are followed once more by the sharper enclosure, and the Morse graph
    is that of the map with their images replaced.

    A recurrent component is no Morse set if none of its cells can hold a critical point on the
    event of the band, or if the expected number of critical points in it is close enough to zero
    to be charged to ``failure``.

    Args:
        surrogate: The fitted surrogate.
        lattice: The lattice of the grid.
        make_band: Makes the band.
        failure: The probability with which statements about the Morse sets may be false although
            the band holds.
        diverged: Cells that count as exterior, shape ``(grid.size,)``.
        clock: Takes the time of the stages.
    """
    grid = lattice.grid
    with clock("posterior"):
        posterior = surrogate.lattice_posterior(lattice.axes)
    with clock("band"):
        band = make_band(surrogate, lattice, posterior)
    with clock("enclosure"):
        enclosure = FlowEnclosure.of(lattice, posterior)
        images = enclosure.images(band)
    with clock("map"):
        image = _outer_approximation(images, grid, diverged)
    with clock("graph"):
        candidates = critical_cells(lattice, posterior, band)
        critical = lattice.any_in_grid_cell(candidates) & ~diverged
        found = morse_graph(image, critical=critical)
    if found.morse_sets:
        # Recurrent cells decide what can be claimed, and they are few.
        with clock("enclosure"):
            recurrent = np.concatenate(found.morse_sets)
            images = images.replaced(recurrent, enclosure.images(band, recurrent, sharp=True))
        with clock("map"):
            image = _outer_approximation(images, grid, diverged)
        with clock("graph"):
            found = morse_graph(image, critical=critical)
    with clock("settling"):
        expected = expected_in_sets(found, lattice, surrogate, candidates, failure)
        empty, spent = _as_good_as_empty(found, expected, _SHARE_FOR_EMPTY * failure)
        if empty.any():
            for number in np.flatnonzero(empty):
                critical[found.morse_sets[number]] = False
            found, expected = morse_graph(image, critical=critical), expected[~empty]
        settled = settle(found, grid, expected, failure - spent)
    with clock("basins"):
        labels = certain_labels(found)
    return PhasePortrait(
        surrogate=surrogate,
        lattice=lattice,
        posterior=posterior,
        band=band,
        enclosure=enclosure,
        images=images,
        diverged=diverged,
        candidates=candidates,
        found=found,
        settled=settled,
        labels=labels,
        failure=spent + settled.failure,
    )


def _as_good_as_empty(found: MorseGraph, expected: Array, failure: float) -> tuple[Mask, float]:
    """Morse sets to drop, and the probability that one of them holds a critical point after all."""
    total = expected.sum(axis=1)
    total[list(found.attractors)] = np.inf
    empty = safest(total, failure)
    return empty, float(total[empty].sum())


def _outer_approximation(images: FlowImages, grid: CubicalGrid, diverged: Mask) -> csr_array:
    return outer_approximation(
        images.lower,
        images.upper,
        grid,
        exits=images.exits.any(axis=(1, 2)),
        exterior_cells=diverged,
    )
