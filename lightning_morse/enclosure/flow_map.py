r"""Image boxes of grid cells under the gradient flow, for every field inside the band.

How a cell is followed is described in :mod:`lightning_morse.enclosure.integrate`, and how the box
around it grows in :mod:`lightning_morse.enclosure.boxes`. The time of flight differs from cell to
cell: fixed points are fixed for every time, and a set of cells that is closed under the map traps
the flow whatever the times (see :func:`image_boxes`). All cells are followed as boxes along the
axes; those that turn out to be recurrent are followed again with the sharper enclosure.

*What is guaranteed.* On the event of the band, every trajectory that starts in a cell and stays in
the box lies in the cell's image box at the cell's time; one that leaves the box is announced by
``exits``. Growth of the boxes and the path of the centre within a step are bounded by proof.

*What is not.* The integrator's error is estimated by an embedded pair and added to the radius; the
ranges of :math:`m` and :math:`H` inside a lattice cell are estimated to second order; exits are
looked for at the ends of steps, so that a trajectory which leaves and returns within one step goes
unnoticed; rounding is covered by a small inflation. None of the four is a proof.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.bands.gradient import GradientBand
from lightning_morse.enclosure.bounds import FlowBounds, spread
from lightning_morse.enclosure.boxes import AxisBoxes, FramedBoxes, MakeBoxes
from lightning_morse.enclosure.integrate import FARTHEST, Inclusion, follow
from lightning_morse.gp.process import Posterior
from lightning_morse.grids.lattice import Lattice

# A cell is left once a step changes its box by less than this many grid cells; among many bands,
# and in a sketch, by less than the second number. Sound at any value, because times are free.
AT_REST, NEARLY_AT_REST = 0.001, 0.01
# Cells followed together: bounds the memory, never the result.
_CHUNK = 65536
# Inflation of image boxes against rounding, relative to the coordinates of the box: thousands of
# times the rounding of one coordinate, far below the width of a cell. Soundness depends on it.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class FlowImages:
    """Enclosures of the images of grid cells under the gradient flow, one row per cell.

    Attributes:
        lower: Lower corners of the image boxes, shape ``(n, d)``, units of ``x``.
        upper: Upper corners, same shape.
        exits: Whether a trajectory from the cell may cross each face of the box on its way, shape
            ``(n, d, 2)``: axis, then lower and upper face.
        times: Time of flight of each cell under the flow of the warped loss, shape ``(n,)``.
        swept: First and last lattice cell, along each axis, of a box that contains every lattice
            cell over which the field was bounded on the way, shape ``(n, d, 2)``. The row of a cell
            depends on the band in that box alone.
    """

    lower: Array
    upper: Array
    exits: Mask
    times: Array
    swept: Cells

    def at(self, rows: Cells) -> FlowImages:
        """Some of the rows."""
        return FlowImages(**{name: values[rows] for name, values in self._arrays})

    def replaced(self, rows: Cells, by: FlowImages) -> FlowImages:
        """A copy with some rows taken from ``by``."""
        new = FlowImages(**{name: values.copy() for name, values in self._arrays})
        new.put(rows, by)
        return new

    def put(self, rows: Cells, by: FlowImages) -> None:
        """Overwrite some rows."""
        for name, values in self._arrays:
            values[rows] = getattr(by, name)

    @property
    def _arrays(self) -> list[tuple[str, NDArray[Any]]]:
        return [(f.name, getattr(self, f.name)) for f in dataclasses.fields(self)]


def critical_cells(lattice: Lattice, posterior: Posterior, band: GradientBand) -> Mask:
    """Lattice cells that may contain a critical point on the event of the band.

    A cell is excluded iff some entry of the gradient cannot vanish anywhere in it.

    Returns:
        Shape ``(n_lattice_cells,)``.
    """
    (found,) = critical_cells_of(lattice, posterior, [band])
    return found


def critical_cells_of(
    lattice: Lattice, posterior: Posterior, bands: Sequence[GradientBand]
) -> list[Mask]:
    """:func:`critical_cells` for each of several bands."""
    low, high = lattice.cell_range(posterior.gradient)
    may_vanish = [(low <= band.radius) & (high >= -band.radius) for band in bands]
    return [np.asarray(mask.all(axis=1)) for mask in may_vanish]


def image_boxes(lattice: Lattice, posterior: Posterior, band: GradientBand) -> FlowImages:
    """Enclose the image of every grid cell under the gradient flow, each at its own time.

    A cell is followed until it has moved about 3 cells, its enclosure would exceed 2.5 cells in
    half-width, it has left the box, or the steps are used up.

    Individual times are sound: let ``S`` be a set of cells whose images lie in ``S``. A trajectory
    that starts in ``S`` is in ``S`` again at the end of each flight, so its limit points, which are
    critical points, lie in ``S`` (cells are closed). A cell from which no path leads to the
    exterior never lets a trajectory out of the box, because every flight that may cross the
    boundary is announced.

    Args:
        lattice: The lattice of the grid.
        posterior: The posterior at its points.
        band: The band on its cells.

    Returns:
        Image boxes and the faces that may be crossed.
    """
    return FlowEnclosure.of(lattice, posterior).images(band)


@dataclass(frozen=True, eq=False)
class FlowEnclosure:
    """Encloses the flow for any band; prepared once, from the posterior alone.

    Attributes:
        bounds: The posterior mean of the gradient between the lattice points.
        at_rest: A cell is left once a step changes its box by less than this, in grid cells. More
            is faster, but what is followed less far may be recurrent.
    """

    bounds: FlowBounds
    at_rest: float = AT_REST

    @classmethod
    def of(cls, lattice: Lattice, posterior: Posterior, at_rest: float = AT_REST) -> FlowEnclosure:
        """Prepare the enclosure.

        Args:
            lattice: The lattice of the grid.
            posterior: The posterior at its points.
            at_rest: When a cell is left, in grid cells.
        """
        widest = math.ceil(FARTHEST * max(lattice.refinement))
        return cls(FlowBounds.of(lattice, posterior, widest), at_rest)

    @property
    def lattice(self) -> Lattice:
        """The lattice."""
        return self.bounds.lattice

    def images(
        self, band: GradientBand, cells: Cells | None = None, sharp: bool = False
    ) -> FlowImages:
        """Enclose the images of grid cells for one band; see :func:`image_boxes`.

        Args:
            band: The band.
            cells: Numbers of grid cells, shape ``(n,)``; all of them if left out.
            sharp: Whether to use the sharper enclosure, which takes several times as long.

        Returns:
            One row per cell of ``cells``.
        """
        numbers = np.arange(self.lattice.grid.size) if cells is None else np.asarray(cells)
        inclusion = Inclusion(self.bounds, self._forcing(band), self.at_rest)
        return _images(inclusion, numbers, None, sharp)

    def between(self, narrow: GradientBand, wide: GradientBand) -> BandsBetween:
        """Prepare for all bands between two; see :class:`BandsBetween`.

        Args:
            narrow: The narrowest band.
            wide: The widest band.

        Raises:
            ValueError: If ``wide`` is narrower than ``narrow`` somewhere.
        """
        if not (wide.radius >= narrow.radius).all():
            cell = int(np.argwhere(~(wide.radius >= narrow.radius))[0][0])
            raise ValueError(
                f"wide must be at least as wide as narrow everywhere, but in lattice cell {cell} "
                f"its radius is {wide.radius[cell]} against {narrow.radius[cell]}; were the two "
                "bands swapped?"
            )
        first, last = self._forcing(narrow), self._forcing(wide)
        inclusion = Inclusion(self.bounds, first, NEARLY_AT_REST, last - first)
        return BandsBetween(narrow, wide, inclusion)

    def _forcing(self, band: GradientBand) -> Array:
        # The centre follows the interpolated mean, whose error is part of the forcing.
        own = (band.radius / self.lattice.spacing).T + self.bounds.interpolation
        return spread(self.lattice, own, self.bounds.reaches)


@dataclass(frozen=True, eq=False)
class BandsBetween:
    """Enclosures for many bands at once, each cell with its own band.

    A band lies at ``share`` in [0, 1] if its radius is nowhere larger than ``(1 - share)`` times
    that of the narrow band plus ``share`` times that of the wide one. The largest value over a
    window is a convex function of the band, so the same mixture of the two bounds covers it, and
    two bounds are enough for any number of bands. A cell is also left once its enclosure is at
    rest: a cell with a critical point would otherwise use up all steps, and times are free.

    Attributes:
        narrow: The band at share 0.
        wide: The band at share 1.
    """

    narrow: GradientBand
    wide: GradientBand
    _inclusion: Inclusion

    @property
    def lattice(self) -> Lattice:
        """The lattice of the bands."""
        return self._inclusion.bounds.lattice

    def share(self, band: GradientBand) -> float:
        """Smallest share at which a band lies.

        Raises:
            ValueError: If it does not lie between the two.
        """
        room = self.wide.radius - self.narrow.radius
        above = band.radius - self.narrow.radius
        if (above > room).any():
            raise ValueError(
                "band must be nowhere wider than the wide one, but in "
                f"{int((above > room).any(axis=1).sum())} lattice cells it is; choose a wider one"
            )
        least = np.divide(above, room, out=np.zeros_like(room), where=room > 0).max()
        return float(np.clip(least * (1 + _ROUNDING), 0.0, 1.0))

    def images(self, cells: Cells, shares: Array) -> FlowImages:
        """Enclose the images of grid cells, each for the band at its share.

        Args:
            cells: Numbers of grid cells, shape ``(n,)``; repetitions are allowed.
            shares: Shape ``(n,)``.

        Returns:
            One row per entry of ``cells``.
        """
        return _images(self._inclusion, cells, shares)


def _images(
    inclusion: Inclusion, cells: Cells, shares: Array | None, sharp: bool = False
) -> FlowImages:
    lattice = inclusion.bounds.lattice
    kind: MakeBoxes = FramedBoxes if sharp else AxisBoxes
    flown = [
        follow(
            inclusion,
            kind,
            cells[i : i + _CHUNK],
            None if shares is None else shares[i : i + _CHUNK],
        )
        for i in range(0, max(len(cells), 1), _CHUNK)
    ]
    low, spacing = lattice.grid.lower, lattice.spacing
    rounding = _ROUNDING * (np.abs(lattice.grid.lower) + np.abs(lattice.grid.upper))
    return FlowImages(
        lower=np.concatenate([low + (f.center - f.radius) * spacing - rounding for f in flown]),
        upper=np.concatenate([low + (f.center + f.radius) * spacing + rounding for f in flown]),
        exits=np.concatenate([f.exits for f in flown]),
        times=np.concatenate([f.times for f in flown]),
        swept=np.concatenate([f.swept for f in flown]),
    )
