"""What a surrogate says of the gradient flow on one grid: band, enclosed images, critical cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Cells, Mask
from lightning_morse.bands.gradient import GradientBand
from lightning_morse.conley.nested_map import BoxImages, own_cells
from lightning_morse.enclosure.flow_map import AT_REST, FlowEnclosure, FlowImages, critical_cells
from lightning_morse.gp.process import GaussianProcess, Posterior, SurrogateError
from lightning_morse.grids.lattice import Lattice
from lightning_morse.stopwatch import Stopwatch

MakeBand = Callable[[GaussianProcess, Lattice, Posterior], GradientBand]


@dataclass(frozen=True, eq=False)
class Chart:
    """The gradient flow in one box according to its surrogate.

    Attributes:
        surrogate: The surrogate.
        lattice: The points at which it was evaluated.
        posterior: The posterior there.
        band: The simultaneous band on the gradient.
        enclosure: The enclosure of the flow, for any band.
        images: The enclosed images of the grid's cells.
        diverged: Cells that count as exterior, shape ``(grid.size,)``.
        candidates: Lattice cells that may hold a critical point, shape ``(n_lattice_cells,)``.
        trusted: Whether the samples do not refute the surrogate. If they do, nothing is known of
            the cells: a trajectory may stay in each, or go on to any that touches it.
        kinked: Probability that the loss has kinks (:mod:`lightning_morse.gp.kinks`).
    """

    surrogate: GaussianProcess
    lattice: Lattice
    posterior: Posterior
    band: GradientBand
    enclosure: FlowEnclosure
    images: FlowImages
    diverged: Mask
    candidates: Mask
    trusted: bool = True
    kinked: float = 0.0

    @cached_property
    def critical(self) -> Mask:
        """Cells of the grid that may hold a critical point, shape ``(grid.size,)``."""
        if not self.trusted:
            return ~self.diverged
        return self.lattice.any_in_grid_cell(self.candidates)

    def sharpened(self, cells: Cells) -> FlowImages:
        """The images with those of some cells enclosed more sharply."""
        if not cells.size or not self.trusted:
            return self.images
        known, sharp = self._sharp
        new = cells[~known[cells]]
        if new.size:
            sharp.put(new, self.enclosure.images(self.band, new, sharp=True))
            known[new] = True
        return self.images.replaced(cells, sharp.at(cells))

    def with_band(self, make_band: MakeBand) -> Chart:
        """The same for another band on the gradient.

        Args:
            make_band: Makes the band.

        Raises:
            SurrogateError: As :func:`chart`.
        """
        band = make_band(self.surrogate, self.lattice, self.posterior)
        images = self.enclosure.images(band)
        _refuse_overflow(band.radius, band.c, images.lower, images.upper)
        candidates = critical_cells(self.lattice, self.posterior, band)
        return dataclasses.replace(self, band=band, images=images, candidates=candidates)

    @cached_property
    def _sharp(self) -> tuple[Mask, FlowImages]:
        """Which cells have been enclosed more sharply so far, and their images among others."""
        none = np.zeros(0, dtype=np.int64)
        copy = self.images.replaced(none, self.images.at(none))
        return np.zeros(self.lattice.grid.size, dtype=bool), copy

    def box_images(self, images: FlowImages) -> BoxImages:
        """Images of all cells, as the combinatorial map takes them."""
        grid = self.lattice.grid
        if not self.trusted:
            return own_cells(grid, self.diverged)
        first, last = images.swept[..., 0], images.swept[..., 1]
        axes = self.lattice.axes
        return BoxImages(
            lower=images.lower,
            upper=images.upper,
            exits=images.exits,
            swept_lower=np.stack([a[i] for a, i in zip(axes, first.T, strict=True)], axis=1),
            swept_upper=np.stack([a[i + 1] for a, i in zip(axes, last.T, strict=True)], axis=1),
            exterior=self.diverged,
        )


def chart(
    surrogate: GaussianProcess,
    lattice: Lattice,
    make_band: MakeBand,
    diverged: Mask,
    clock: Stopwatch,
    trusted: bool = True,
    at_rest: float = AT_REST,
    kinked: float = 0.0,
) -> Chart:
    """Enclose the flow of every gradient field inside the band of a surrogate.

    Args:
        surrogate: The fitted surrogate.
        lattice: The lattice of the grid.
        make_band: Makes the band.
        diverged: Cells that count as exterior, shape ``(grid.size,)``.
        clock: Takes the time of the stages.
        trusted: Whether the samples do not refute the surrogate.
        at_rest: When a cell is left (:class:`lightning_morse.enclosure.flow_map.FlowEnclosure`).
        kinked: Probability that the loss has kinks.

    Raises:
        SurrogateError: If a number that claims would rest on has left the range of floats.
    """
    with clock("posterior"):
        posterior = surrogate.lattice_posterior(lattice.axes)
    with clock("band"):
        band = make_band(surrogate, lattice, posterior)
        # A deviation of zero is an overflow too: a certainty that no sample gives.
        with np.errstate(divide="ignore"):
            largest_certainty = 1 / posterior.gradient_deviation.min()
        of_posterior = posterior.mean, posterior.gradient, posterior.hessian
        _refuse_overflow(
            *of_posterior, posterior.gradient_deviation, largest_certainty, band.radius, band.c
        )
    with clock("enclosure"):
        enclosure = FlowEnclosure.of(lattice, posterior, at_rest)
        bounds = enclosure.bounds
        _refuse_overflow(bounds.velocity, bounds.interpolation, bounds.matrix)
        images = enclosure.images(band)
        _refuse_overflow(images.lower, images.upper)
    with clock("graph"):
        candidates = critical_cells(lattice, posterior, band)
    known = surrogate, lattice, posterior, band, enclosure, images
    return Chart(*known, diverged, candidates, trusted, kinked)


def _refuse_overflow(*numbers: ArrayLike) -> None:
    """Refuse numbers from which a claim would be drawn although they have overflowed."""
    if not all(np.isfinite(values).all() for values in numbers):
        raise SurrogateError(
            "numbers behind the claims have left the range of floats, so nothing is certain: the "
            "loss ranges over too many orders on the box, or its axes differ too much"
        )
