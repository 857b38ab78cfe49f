"""What the record of an analysis consists of: Morse sets, boxes, the filtration, the way out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.conley.reach import Reach
from lightning_morse.facts import MapFacts, SurrogateFacts
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice


@dataclass(frozen=True)
class Curvature:
    """The largest curvature of the loss in the slice at a point, and what is certain of it.

    Given the surrogate; :mod:`lightning_morse.analysis.sharpness` has the premise. The unit is that
    of the loss over that of the box squared.

    Attributes:
        largest: Largest eigenvalue of the Hessian of the loss on the slice, as the surrogate
            estimates it.
        deviation: Deviation of the curvature along that eigenvector, to first order, at most.
        at_least: Lower bound at the confidence of the analysis, for this point by itself; negative
            where it is not certain that the loss curves upwards in any direction.
    """

    largest: float
    deviation: float
    at_least: float

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are."""
        return all(map(math.isfinite, (self.largest, self.deviation, self.at_least)))


@dataclass(frozen=True, eq=False)
class MorseSet:
    """One recurrent component of the outer approximation that may hold a critical point.

    Attributes:
        cells: Numbers of its grid cells, ascending, shape ``(k,)``.
        is_attractor: Whether it is minimal and no path leads from it to the exterior. On the event
            of the band at the level asked for, it then holds an attractor of the true flow.
        resolved: Whether it is certain that it hides no further attractor: for an attractor, that
            it holds exactly one; for another Morse set, that it holds none.
        index: Morse index (number of unstable directions, 0 to ``d``) shared by every critical
            point it may hold, or None where that is not certain.
        center: Best estimate of its critical point, shape ``(d,)``.
        loss: The loss at ``center`` where it was evaluated there, else the estimate of the
            surrogate, see :mod:`lightning_morse.analysis.measurement`; NaN for a learnt map.
        volume: Fraction of the box that its cells fill.
        mu: For an attractor, a lower bound on the probability that its block, grown with the band
            as long as it stands, holds an attractor of the true flow and is disjoint from the
            blocks of the others; 0 if the samples refute the surrogate. None for other Morse sets.
            See :mod:`lightning_morse.analysis.ladder`.
        loss_deviation: Deviation of ``loss``, same units: 0 where it was evaluated, else that of
            the surrogate at ``center``, to first order; None for a learnt map and for older files.
        curvature: For an attractor, that at ``center``; None for other Morse sets, where the
            samples refute the surrogate, for a learnt map and for older files.
        wall: For an attractor known by values of the loss alone, as a well: the loss is higher all
            around it, and nothing more is known of what is inside. None for all others
            (:mod:`lightning_morse.analysis.wells`).
    """

    cells: Cells
    is_attractor: bool
    resolved: bool
    index: int | None
    center: Array
    loss: float
    volume: float
    mu: float | None = None
    loss_deviation: float | None = None
    curvature: Curvature | None = None
    wall: float | None = None

    @property
    def measured(self) -> bool:
        """Whether the loss was evaluated at ``center``."""
        return self.loss_deviation == 0


@dataclass(frozen=True, eq=False)
class WayOut:
    """Where the mean flow leaves the outermost box, from a point that certainly does.

    That the point leaves is certain; the way is that of the surrogate's mean, a guess. ``faces``
    of the analysis say through which faces the true flow may leave.

    Attributes:
        start: The point, shape ``(d,)``.
        end: Where the mean flow leaves, shape ``(d,)``.
        face: Axis and side (0 lower, 1 upper) of the face.
        loss: The loss at ``end`` where it was evaluated there, else the surrogate's.
        loss_deviation: 0 where it was evaluated, else the surrogate's deviation, to first order.
    """

    start: Array
    end: Array
    face: tuple[int, int]
    loss: float
    loss_deviation: float


@dataclass(frozen=True, eq=False)
class Ladder:
    """The filtration of the attractors over confidence: which stand, have merged or have vanished.

    The number of blocks never rises along the filtration; see
    :mod:`lightning_morse.analysis.ladder`.

    Attributes:
        levels: Levels of confidence, ascending, shape ``(k,)``; the first is the one asked for.
        blocks: At each level, for each attractor, the lowest number of an attractor in the same
            block: its own if it stands alone or is the first of several that have merged, -1 once
            it has vanished; shape ``(k, n_attractors)``.
    """

    levels: Array
    blocks: Cells

    @property
    def counts(self) -> Cells:
        """Number of blocks at each level, shape ``(k,)``."""
        return np.array([np.unique(row[row >= 0]).size for row in self.blocks], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Box:
    """One box of an analysis, with a surrogate of its own.

    Attributes:
        grid: The cubical grid of the box.
        parent: Number of the box around it in ``result.boxes``; -1 for the outermost.
        labels: As in :class:`lightning_morse.MorseAnalysis`, on this grid. A cell that boxes inside
            divide has a label where all its parts have the same.
        diverged: Cells whose nearest sample has a loss that is not finite, shape ``(grid.size,)``.
        mean_loss: Surrogate mean of the loss at the vertices of the grid, in the units of the loss,
            shape ``shape + 1``.
        calibration: Factor by which the deviations of its surrogate were inflated.
        surrogate: Facts about its surrogate; None where nothing is known.
        loss_deviation: Deviation of the surrogate at the vertices, shape and units of
            ``mean_loss``; None where no loss was fitted.
        reach: Which Morse sets each cell may reach; None for older files.
        sets: Number of a Morse set that meets each cell, -1 for none, shape ``(grid.size,)``; None
            for older files.
        n_samples: Number of losses that were evaluated for this box; 0 for the cell of a point in a
            well, which is seen in parts.
        faces: Whether a trajectory from each cell may leave the outermost box through each of its
            faces, shape ``(grid.size, d, 2)``: axis, then lower and upper face; None for a learnt
            map and for older files. A trajectory that runs into a diverged cell leaves through
            none.
    """

    grid: CubicalGrid
    parent: int
    labels: NDArray[np.int32]
    diverged: Mask
    mean_loss: Array
    calibration: float
    surrogate: SurrogateFacts | MapFacts | None
    loss_deviation: Array | None = None
    reach: Reach | None = None
    sets: NDArray[np.int32] | None = None
    n_samples: int = 0
    faces: Mask | None = None

    def least_mean(self, number: int) -> float:
        """Least surrogate mean at the vertices of the cells that a Morse set meets.

        Args:
            number: Of the Morse set.

        Returns:
            Infinite if it meets none, or that is not known.
        """
        if self.sets is None:
            return math.inf
        vertices = Lattice(self.grid, (1,) * self.grid.dim).points_of(
            np.flatnonzero(self.sets == number)
        )
        return float(np.nanmin(self.mean_loss.ravel()[vertices], initial=np.inf))
