"""What surrogates say of the gradient flow on one grid: band, enclosed images, critical cells.

A :class:`Chart` is that of one surrogate. Several, each for a part of the grid, make up a
:class:`~lightning_morse.analysis.patchwork.Patchwork`, of which the same can be asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.bands.gradient import GradientBand
from lightning_morse.conley.nested_map import BoxImages, own_cells
from lightning_morse.enclosure.flow_map import AT_REST, FlowEnclosure, FlowImages, critical_cells
from lightning_morse.gp.process import GaussianProcess, Posterior, SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.stopwatch import Stopwatch

MakeBand = Callable[[GaussianProcess, Lattice, Posterior], GradientBand]
# Makes a band for a part of the probability that a grid may fail with.
MakeBandOf = Callable[[float], MakeBand]


@dataclass(frozen=True, eq=False)
class Patch:
    """The part of a grid of which one chart tells.

    Attributes:
        chart: The chart, on a grid of these cells and some around them.
        first: Index of the first cell along each axis of the whole grid, ``d`` of them.
        last: One past the index of the last cell.
        before: How many cells the chart's grid has before the first, along each axis.
        shape: Number of cells of the whole grid along each axis.
    """

    chart: Chart
    first: tuple[int, ...]
    last: tuple[int, ...]
    before: tuple[int, ...]
    shape: tuple[int, ...]

    @cached_property
    def cells(self) -> Cells:
        """Numbers of its cells in the whole grid, ascending."""
        return self._numbers((0,) * len(self.shape), self.shape, 0)

    @cached_property
    def inside(self) -> Cells:
        """Numbers of the same cells in the chart's grid."""
        return self._numbers(self._origin, self.chart.grid.shape, 0)

    @cached_property
    def corners(self) -> tuple[Cells, Cells]:
        """Numbers of the corners of its cells in the whole grid, and in the chart's."""
        whole, own = (tuple(n + 1 for n in s) for s in (self.shape, self.chart.grid.shape))
        zero = (0,) * len(self.shape)
        return self._numbers(zero, whole, 1), self._numbers(self._origin, own, 1)

    @property
    def _origin(self) -> tuple[int, ...]:
        return tuple(a - m for a, m in zip(self.first, self.before, strict=True))

    def _numbers(self, origin: tuple[int, ...], shape: tuple[int, ...], more: int) -> Cells:
        ranges = [
            np.arange(a - o, b - o + more)
            for a, b, o in zip(self.first, self.last, origin, strict=True)
        ]
        number: Cells = np.ravel_multi_index(np.meshgrid(*ranges, indexing="ij"), shape).ravel()
        return number


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

    @property
    def grid(self) -> CubicalGrid:
        """The grid."""
        return self.lattice.grid

    @cached_property
    def patches(self) -> tuple[Patch, ...]:
        """The one part of the grid there is: all of it."""
        zero, shape = (0,) * self.grid.dim, self.grid.shape
        return (Patch(self, zero, shape, zero, shape),)

    def at(self, point: Array) -> Chart:
        """The chart that tells of a point, shape ``(d,)``."""
        return self

    def part_of(self, points: Array) -> Cells:
        """Number of the part that each point lies in, shape ``(n,)``."""
        return np.zeros(len(points), dtype=np.int64)

    @property
    def failure(self) -> float:
        """Probability that the band fails; 0 where nothing rests on it."""
        return 1 - self.band.level if self.trusted else 0.0

    @cached_property
    def critical(self) -> Mask:
        """Cells of the grid that may hold a critical point, shape ``(grid.size,)``."""
        if not self.trusted:
            return ~self.diverged
        return self.lattice.any_in_grid_cell(self.candidates)

    @property
    def box_images(self) -> BoxImages:
        """Images of all cells, as the combinatorial map takes them."""
        return self._box_images(self.images)

    def sharpened(self, cells: Cells) -> BoxImages:
        """The same with those of some cells enclosed more sharply."""
        if not cells.size or not self.trusted:
            return self.box_images
        known, sharp = self._sharp
        new = cells[~known[cells]]
        if new.size:
            sharp.put(new, self.enclosure.images(self.band, new, sharp=True))
            known[new] = True
        return self._box_images(self.images.replaced(cells, sharp.at(cells)))

    def with_band(self, make_band_of: MakeBandOf) -> Chart:
        """The same for another band on the gradient.

        Args:
            make_band_of: Makes the band.

        Raises:
            SurrogateError: As :func:`chart`.
        """
        band = make_band_of(1.0)(self.surrogate, self.lattice, self.posterior)
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

    def _box_images(self, images: FlowImages) -> BoxImages:
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
