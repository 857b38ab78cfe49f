r"""A learned map, and boxes that enclose the images of grid cells under it.

The displacement :math:`g(x) = f(x) - x` over ``lag`` steps is modelled by one Gaussian process per
coordinate (:mod:`lightning_morse.trajectories.fit`). Learning a map from pairs by Gaussian
processes and enclosing it on a grid is the idea of Batko et al., "Identifying Nonlinear Dynamics
with High Confidence from Sparse Data" (SIADS 23(1), 2024); Eslami et al., "Extracting Global
Dynamics of Loss Landscape in Deep Learning Models" (2021), apply it to weights. An observed
displacement is :math:`g_i(x) + \varepsilon_i` with Gaussian noise of constant variance per
coordinate. The noise is fitted jointly and reported separately: it is the scatter of single steps,
not uncertainty about :math:`f`.

On the event of the band (:mod:`lightning_morse.bands.value`) the image of a lattice cell under
:math:`f_i` lies between the smallest corner value of :math:`x_i + m_i - c s_i` and the largest of
:math:`x_i + m_i + c s_i`, widened by what the mean (a deterministic bound) and its error (a share
of the failure probability) can do between the corners: the identity and the interpolants are
multilinear, and a multilinear function lies between its corner values. The boxes therefore hold
*simultaneously* for all cells at the band's level of confidence, under the premises stated there
and two more: the process is Markov in the given coordinates (whatever the state omits, such as
momentum or the other weights, acts like noise whose independence the pairs cannot establish), and
it does not change along the runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.blas import dtrsm
from scipy.stats import norm

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.bands.value import ValueBand, mean_remainder
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.grids.lattice import Lattice

EPSILON = float(np.finfo(np.float64).eps)
# Lattice points evaluated at once. Bounds memory only.
POINTS_AT_ONCE = 2048
# Posterior variances carry a rounding error of about n eps times the prior variance. This multiple
# is added to every one, so that rounding never yields a deviation of zero. Soundness depends on it.
VARIANCE_ROUNDING = 8
# Boxes are widened by this multiple of eps times the largest value that enters them: well above
# the rounding of the handful of sums they are computed by. Soundness depends on it.
BOX_ROUNDING = 64
# Where the posterior deviation exceeds this share of the prior one, at most three quarters of the
# variance are explained and the boxes reflect the prior, not the data. Such cells count as
# exterior. A choice of what to report: the boxes are as sound there as elsewhere.
UNKNOWN_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class MapValues:
    """Posterior of the map at the points of a lattice.

    Attributes:
        points: The points, shape ``(n_points, d)``.
        displacement: Posterior mean of their displacements, shape ``(n_points, d)``.
        deviation: Posterior standard deviation of the displacement, noise excluded, shape
            ``(n_points, d)``.
    """

    points: Array
    displacement: Array
    deviation: Array

    @cached_property
    def mean(self) -> Array:
        """Posterior mean of the image, shape ``(n_points, d)``."""
        return self.points + self.displacement

    @cached_property
    def largest(self) -> Array:
        """Bound on the absolute value of the mean along each axis, shape ``(d,)``."""
        bound: Array = np.abs(self.points).max(axis=0) + np.abs(self.displacement).max(axis=0)
        return bound


@dataclass(frozen=True, eq=False)
class TrajectoryMap:
    """The map from a state to the state ``lag`` steps later, as learned from pairs.

    Attributes:
        processes: Surrogate of the displacement along each axis, ``d`` of them.
        lag: Number of steps.
        factors: Factor by which the deviations of each surrogate were inflated because its
            leave-one-out residuals exceeded what the model allows (heavy tails, a kink,
            heteroscedastic noise); at least 1, shape ``(d,)``.
    """

    processes: tuple[GaussianProcess, ...]
    lag: int
    factors: Array

    @property
    def dim(self) -> int:
        """Number of coordinates ``d``."""
        return len(self.processes)

    @property
    def noise_deviation(self) -> Array:
        """Standard deviation of the noise of a single application of the map, shape ``(d,)``."""
        return np.array([math.sqrt(p.variance * p.noise) for p in self.processes])

    @property
    def prior_deviation(self) -> Array:
        """Prior standard deviation of the displacement, shape ``(d,)``."""
        return np.array([math.sqrt(p.variance) for p in self.processes])

    def step_radius(self, step_level: float) -> Array:
        """Distance within which a single noisy step stays of the mean image, shape ``(d,)``.

        Args:
            step_level: Probability that *one* step stays within the radius in all coordinates,
                by the union bound over coordinates. Over many steps some leave it, so nothing
                said of single steps holds forever.
        """
        return self.noise_deviation * float(norm.isf((1 - step_level) / (2 * self.dim)))

    def mean(self, points: ArrayLike) -> Array:
        """Posterior mean of the images of some states.

        Args:
            points: Shape ``(m, d)``.

        Returns:
            Shape ``(m, d)``.
        """
        x = np.asarray(points, dtype=np.float64)
        order = (0,) * self.dim
        return x + np.stack(
            [p.mean + p.prior_correlation(x, p.x, order) @ p.weights for p in self.processes],
            axis=1,
        )

    def values(self, lattice: Lattice, axes: Sequence[Array] | None = None) -> MapValues:
        """Posterior of the map at all points of a lattice.

        Args:
            lattice: A lattice with ``d`` axes.
            axes: Coordinates of its points along each axis, where they are given more exactly than
                by the lattice itself: those of a part of a box are slices of those of the whole.
        """
        along = lattice.axes if axes is None else axes
        index = np.unravel_index(np.arange(lattice.n_points), [len(a) for a in along])
        points = np.stack([a[i] for a, i in zip(along, index, strict=True)], axis=1)
        found = [_values(p, along, list(index)) for p in self.processes]
        return MapValues(
            points=points,
            displacement=np.stack([mean for mean, _ in found], axis=1),
            deviation=np.stack([deviation for _, deviation in found], axis=1),
        )

    def image_boxes(
        self,
        lattice: Lattice,
        values: MapValues,
        band: ValueBand,
        step_level: float | None = None,
        cells: Cells | None = None,
    ) -> tuple[Array, Array]:
        """Boxes that contain the images of grid cells on the event of the band.

        Args:
            lattice: The lattice of the grid.
            values: The posterior on it.
            band: The band on it.
            step_level: If given, each box also contains a single noisy step with this probability
                (:meth:`step_radius`); otherwise the boxes enclose the mean dynamics.
            cells: Indices of ``k`` grid cells; by default all ``grid.size`` cells.

        Returns:
            Lower and upper corners, two arrays of shape ``(k, d)``.
        """
        return self._boxes(values.mean, lattice, values, band, step_level, cells)

    def displacement_boxes(
        self,
        lattice: Lattice,
        values: MapValues,
        band: ValueBand,
        step_level: float | None = None,
        cells: Cells | None = None,
    ) -> tuple[Array, Array]:
        """Boxes that contain the displacements of the points of each cell on the event of the band.

        Tighter than the difference of image box and cell, because image and point are paired.

        Args:
            lattice: As in :meth:`image_boxes`.
            values: As in :meth:`image_boxes`.
            band: As in :meth:`image_boxes`.
            step_level: As in :meth:`image_boxes`.
            cells: As in :meth:`image_boxes`.

        Returns:
            Lower and upper corners, two arrays of shape ``(k, d)``.
        """
        return self._boxes(values.displacement, lattice, values, band, step_level, cells)

    def _boxes(
        self,
        center: Array,
        lattice: Lattice,
        values: MapValues,
        band: ValueBand,
        step_level: float | None,
        cells: Cells | None = None,
    ) -> tuple[Array, Array]:
        wide = band.between + np.array([mean_remainder(p, lattice) for p in self.processes])
        if step_level is not None:
            wide = wide + self.step_radius(step_level)
        wide = wide + BOX_ROUNDING * EPSILON * values.largest
        if cells is not None:
            corners = lattice.points_of(cells)
            middle, reach = center[corners], band.c * values.deviation[corners]
            return (middle - reach).min(axis=1) - wide, (middle + reach).max(axis=1) + wide
        low = -lattice.largest_corner(band.c * values.deviation - center) - wide
        up = lattice.largest_corner(center + band.c * values.deviation) + wide
        return -_largest_in_grid_cell(-low, lattice), _largest_in_grid_cell(up, lattice)

    def unknown_cells(self, lattice: Lattice, values: MapValues) -> Mask:
        """Cells in which the pairs do not determine the map.

        At a corner of the cell, or of a lattice cell inside it, the posterior deviation of some
        coordinate exceeds half the prior one: less than three quarters of the prior variance is
        explained, so the boxes there reflect the prior rather than the data.

        Args:
            lattice: The lattice of the grid.
            values: The posterior on it.

        Returns:
            Shape ``(grid.size,)``.
        """
        share = (values.deviation / self.prior_deviation).max(axis=1)
        return lattice.any_in_grid_cell(lattice.largest_corner(share) > UNKNOWN_SHARE)


def _values(
    process: GaussianProcess, axes: Sequence[Array], rows: Sequence[NDArray[np.intp]]
) -> tuple[Array, Array]:
    """Posterior mean and deviation of a surrogate at lattice points, given by their indices."""
    m, n = len(rows[0]), len(process.y)
    # The kernel is a product over axes, so it is evaluated once per axis.
    tables = [
        process.kernel.derivative(a, process.x[:, j], float(process.lengthscales[j]), 0)
        for j, a in enumerate(axes)
    ]
    mean, variance = np.empty(m), np.empty(m)
    for start in range(0, m, POINTS_AT_ONCE):
        part = slice(start, start + POINTS_AT_ONCE)
        cross = tables[0][rows[0][part]]
        for table, row in zip(tables[1:], rows[1:], strict=True):
            cross = cross * table[row[part]]
        mean[part] = cross @ process.weights
        reduced = dtrsm(1.0, process.cholesky, cross.T, lower=1)
        variance[part] = 1.0 - np.einsum("ij,ij->j", reduced, reduced)
    variance = np.maximum(variance, 0.0) + VARIANCE_ROUNDING * n * EPSILON
    return process.mean + mean, np.sqrt(process.variance * variance)


def _largest_in_grid_cell(values: Array, lattice: Lattice) -> Array:
    """Largest value over the lattice cells of each grid cell.

    Args:
        values: Shape ``(n_lattice_cells, d)``.
        lattice: The lattice.

    Returns:
        Shape ``(grid.size, d)``.
    """
    pairs = zip(lattice.grid.shape, lattice.refinement, strict=True)
    split = [n for pair in pairs for n in pair]
    odd = tuple(range(1, 2 * lattice.dim, 2))
    largest: Array = values.reshape(*split, -1).max(axis=odd)
    return largest.reshape(lattice.grid.size, -1)
