"""One pass over a surrogate: its band, the enclosed flow, the Morse graph, certain basins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from lightning_morse._typing import Mask
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


@dataclass(frozen=True, eq=False)
class PhasePortrait:
    """What the surrogate says of the gradient flow on a grid, and how sure it is.

    Attributes:
        lattice: The points the surrogate was asked at.
        posterior: Its answer.
        band: The simultaneous band on the gradient.
        enclosure: The enclosure of the flow, for any band.
        images: The enclosed images of the grid's cells.
        candidates: Lattice cells that may hold a critical point, shape ``(n_lattice_cells,)``.
        found: The Morse graph, without the components that hold no critical point.
        settled: What is certain of its Morse sets.
        labels: The certain basins, shape ``(grid.size,)``.
        failure: Probability that anything of this is false beside the band.
    """

    lattice: Lattice
    posterior: Posterior
    band: GradientBand
    enclosure: FlowEnclosure
    images: FlowImages
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
        """Lower bound on the probability that all of it is true."""
        return max(0.0, self.band.level - self.failure)


def phase_portrait(
    surrogate: GaussianProcess,
    lattice: Lattice,
    make_band: MakeBand,
    failure: float,
    diverged: Mask,
    clock: Stopwatch,
) -> PhasePortrait:
    """Find the Morse graph and the basins of the flow of every gradient field inside the band.

    Cells found recurrent are followed once more by the sharper enclosure, and the Morse graph is
    that of the images so replaced.

    A recurrent component is no Morse set if none of its cells can hold a critical point on the
    event of the band, or if the expected number of critical points in it is as good as zero.

    Args:
        surrogate: The fitted surrogate.
        lattice: The lattice of the grid.
        make_band: Makes the band.
        failure: The probability with which what is said of the Morse sets, beside the band, may
            be false.
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
        # What is recurrent decides what can be claimed, and these cells are few.
        with clock("enclosure"):
            recurrent = np.concatenate(found.morse_sets)
            images = images.replaced(recurrent, enclosure.images(band, recurrent, sharp=True))
        with clock("map"):
            image = _outer_approximation(images, grid, diverged)
        with clock("graph"):
            found = morse_graph(image, critical=critical)
    with clock("settling"):
        expected = expected_in_sets(found, lattice, surrogate, candidates, failure)
        total = expected.sum(axis=1)
        total[list(found.attractors)] = np.inf
        empty = safest(total, 0.5 * failure)
        spent = float(total[empty].sum())
        if empty.any():
            for number in np.flatnonzero(empty):
                critical[found.morse_sets[number]] = False
            found, expected = morse_graph(image, critical=critical), expected[~empty]
        settled = settle(found, grid, expected, failure - spent)
    with clock("basins"):
        labels = certain_labels(found)
    return PhasePortrait(
        lattice=lattice,
        posterior=posterior,
        band=band,
        enclosure=enclosure,
        images=images,
        candidates=candidates,
        found=found,
        settled=settled,
        labels=labels,
        failure=spent + settled.failure,
    )


def _outer_approximation(images: FlowImages, grid: CubicalGrid, diverged: Mask) -> csr_array:
    return outer_approximation(
        images.lower,
        images.upper,
        grid,
        exits=images.exits.any(axis=(1, 2)),
        exterior_cells=diverged,
    )
