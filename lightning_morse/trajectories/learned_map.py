r"""A map learnt from pairs of states, and boxes that hold the images of grid cells.

What is learnt is the displacement :math:`g(x) = f(x) - x` over ``lag`` steps, one Gaussian process
a coordinate with the product Matern kernel of the loss surrogate and no warp. That a map is learnt
from pairs by Gaussian processes and enclosed on a grid is the idea of Batko et al., "Identifying
Nonlinear Dynamics with High Confidence from Sparse Data" (SIADS 23(1), 2024); Eslami et al.,
"Extracting Global Dynamics of Loss Landscape in Deep Learning Models" (2021), do so for weights. An
observed displacement is :math:`g_i(x) + \varepsilon_i` with Gaussian noise of one size a
coordinate, fitted along and reported apart: it is the scatter of single steps, not what is unknown
of :math:`f`.

On the event of the band (:mod:`lightning_morse.bands.value`) the image of a lattice cell under
:math:`f_i` lies between the smallest corner value of :math:`x_i + m_i - c s_i` and the largest of
:math:`x_i + m_i + c s_i`, widened by what the mean (a deterministic bound) and its error (a share
of the failure probability) do between the corners: the identity and the interpolations are
multilinear, and a multilinear function is between its corner values. So the boxes hold
*simultaneously* for all cells with the level of the band, given the premises stated there, and
these besides: the process is memoryless in the coordinates given (what the state leaves out,
momentum, say, or the other weights, acts like noise that the pairs do not show to be independent),
and the same all along the runs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh, solve_triangular
from scipy.linalg.blas import dtrsm
from scipy.stats import norm

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.bands.value import ValueBand, mean_remainder
from lightning_morse.gp.calibration import expected_largest
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_5_2, Matern
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.grids.lattice import Lattice
from lightning_morse.trajectories.pairs import Pairs

_EPS = float(np.finfo(np.float64).eps)
_CHUNK = 2048
# Pairs the hyper-parameters are fitted to; all of them are conditioned on.
_FITTED = 300
# No deviation is inflated by more than this.
_MOST = 10.0
# Log evidence by which a hyper-parameter may fall short of the best and still be plausible: half
# the 95 % quantile of a chi-square of one degree. Lengthscales are shortened in steps of this
# ratio, the signal variance grows up to this factor.
_PLAUSIBLE = 1.92
_STEP, _STEPS, _RATIOS, _GROWTH = 0.8, 30, 60, 100.0
# Where a posterior deviation exceeds this share of the prior one, the pairs say too little.
UNKNOWN_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class MapValues:
    """Posterior of the map at the points of a lattice.

    Attributes:
        points: The points, shape ``(n_points, d)``.
        displacement: Mean of how far each moves, same shape.
        deviation: Standard deviation of that, the noise left out, same shape.
    """

    points: Array
    displacement: Array
    deviation: Array

    @cached_property
    def mean(self) -> Array:
        """Mean of the image, shape ``(n_points, d)``."""
        return self.points + self.displacement

    @cached_property
    def largest(self) -> Array:
        """Bound on the size of the mean along each axis, shape ``(d,)``."""
        bound: Array = np.abs(self.points).max(axis=0) + np.abs(self.displacement).max(axis=0)
        return bound


@dataclass(frozen=True, eq=False)
class TrajectoryMap:
    """The map that takes a state to that ``lag`` steps later, as far as the pairs tell.

    Attributes:
        processes: Surrogate of the displacement along each axis, ``d`` of them.
        lag: Number of steps.
        factors: What the deviations of each were multiplied by, at least 1, because its
            leave-one-out residuals were larger than its own model allows (heavy tails, a kink,
            noise that is not the same everywhere); shape ``(d,)``.
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
        """Standard deviation of the noise of a single step of ``lag``, shape ``(d,)``."""
        return np.array([math.sqrt(p.variance * p.noise) for p in self.processes])

    @property
    def prior_deviation(self) -> Array:
        """Standard deviation of the displacement before any pair is seen, shape ``(d,)``."""
        return np.array([math.sqrt(p.variance) for p in self.processes])

    def step_radius(self, step_level: float) -> Array:
        """How far a single noisy step may lie from the mean image, shape ``(d,)``.

        Args:
            step_level: Probability with which *one* step stays within it in all coordinates; the
                union bound over these. Of many steps a share leaves it, so nothing that is said of
                single steps holds for ever.
        """
        return self.noise_deviation * float(norm.isf((1 - step_level) / (2 * self.dim)))

    def mean(self, points: ArrayLike) -> Array:
        """Posterior mean of the image of some states.

        Args:
            points: Shape ``(m, d)``.

        Returns:
            Same shape.
        """
        x = np.asarray(points, dtype=np.float64)
        order = (0,) * self.dim
        return x + np.stack(
            [p.mean + p.prior_correlation(x, p.x, order) @ p.weights for p in self.processes],
            axis=1,
        )

    def values(self, lattice: Lattice) -> MapValues:
        """Posterior of the map at all points of a lattice.

        Args:
            lattice: With ``d`` axes.
        """
        index = np.unravel_index(np.arange(lattice.n_points), [len(a) for a in lattice.axes])
        points = np.stack([a[i] for a, i in zip(lattice.axes, index, strict=True)], axis=1)
        found = [_values(p, lattice.axes, list(index)) for p in self.processes]
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
        """Boxes that hold the images of cells of the grid on the event of the band.

        Args:
            lattice: The lattice of the grid.
            values: The posterior on it.
            band: The band on it.
            step_level: If given, the boxes hold single noisy steps too, each with this
                probability (:meth:`step_radius`); otherwise the mean dynamics.
            cells: Numbers of ``k`` cells to look at; all ``grid.size`` of them by default.

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
    ) -> tuple[Array, Array]:
        """Boxes that hold how far the points of each cell move, on the event of the band.

        Narrower than the difference of image and cell: both are of the same point.

        Args:
            lattice: As in :meth:`image_boxes`.
            values: As there.
            band: As there.
            step_level: As there.

        Returns:
            Lower and upper corners, two arrays of shape ``(grid.size, d)``.
        """
        return self._boxes(values.displacement, lattice, values, band, step_level)

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
        # What the sums of this function round, and far more.
        wide = wide + 64 * _EPS * values.largest
        if cells is not None:
            corners = lattice.points_of(cells)
            middle, reach = center[corners], band.c * values.deviation[corners]
            return (middle - reach).min(axis=1) - wide, (middle + reach).max(axis=1) + wide
        low = -lattice.largest_corner(band.c * values.deviation - center) - wide
        up = lattice.largest_corner(center + band.c * values.deviation) + wide
        return -_largest_in_grid_cell(-low, lattice), _largest_in_grid_cell(up, lattice)

    def unknown_cells(self, lattice: Lattice, values: MapValues) -> Mask:
        """Cells about which the pairs say too little to speak of a map.

        At a corner of the cell, or of a lattice cell in it, the posterior deviation of some
        coordinate exceeds half of the prior one: less than three quarters of the prior variance is
        explained, so what the boxes say there is the prior's, not the data's.

        Args:
            lattice: The lattice of the grid.
            values: The posterior on it.

        Returns:
            Shape ``(grid.size,)``.
        """
        share = (values.deviation / self.prior_deviation).max(axis=1)
        return lattice.any_in_grid_cell(lattice.largest_corner(share) > UNKNOWN_SHARE)


def fit_trajectory_map(
    pairs: Pairs,
    lower: ArrayLike,
    upper: ArrayLike,
    rng: np.random.Generator,
    kernel: Matern = MATERN_5_2,
) -> TrajectoryMap:
    """Learn the map from pairs.

    Lengthscales and noise are those of at most 300 pairs drawn from all; mean and size of the
    displacement come in closed form from all pairs, on which the process is conditioned. Where the
    pairs are few or noisy the evidence is flat, and the lengthscales that maximise it are often too
    long: boxes at 95 % then held the images of a cubic map in 82 % of experiments. So each is taken
    as short as the evidence allows, 1.92 nats below the best (the end of its 95 % likelihood
    interval, the others held), and then the signal variance as large, with the noise held. That
    shorter lengthscales and a larger variance are the cautious choice where they are unknown is in
    Capone, Lederer, Hirche, "Gaussian process uniform error bounds with unknown hyperparameters for
    safety-critical applications" (ICML 2022); how far to go here is measured
    (``benchmarks/trajectory_coverage.py``), not proved. The
    noise is not taken to exceed the signal; where it does (steps much smaller than their scatter)
    the signal is overestimated and the boxes are wider than need be. If a residual is larger than
    to be expected, all deviations of that coordinate are multiplied by the ratio.

    Args:
        pairs: The pairs.
        lower: Lower corner of the box, shape ``(d,)``; sets the range of lengthscales.
        upper: Upper corner.
        rng: Which pairs the hyper-parameters are fitted to.
        kernel: The correlation along each axis.

    Raises:
        ValueError: If the displacements along an axis are all equal.
        SurrogateError: If there are too few pairs, or no surrogate of them can be trusted.
    """
    moved = pairs.displacement
    for i, column in enumerate(moved.T):
        if not np.ptp(column) > 64 * _EPS * max(float(np.abs(pairs.start[:, i]).max()), 1e-300):
            raise ValueError(
                f"the displacement along axis {i} is {column[0]:g} in all {len(pairs)} pairs: "
                "nothing can be learnt from it. Leave that coordinate out, or use a larger lag"
            )
    n = len(pairs)
    chosen = np.arange(n) if n <= _FITTED else np.sort(rng.choice(n, _FITTED, replace=False))
    judged = []
    for column in moved.T:
        found = fit(pairs.start[chosen], column[chosen], lower, upper, kernel, warped=False)
        judged.append(
            _judged(_conditioned(_cautious(found, column[chosen], n), pairs.start, column))
        )
    return TrajectoryMap(
        processes=tuple(process for process, _ in judged),
        lag=pairs.lag,
        factors=np.array([factor for _, factor in judged]),
    )


@dataclass(frozen=True, eq=False)
class _Hyper:
    """Hyper-parameters: lengthscales, noise over signal variance, by how much the latter grows."""

    kernel: Matern
    lengthscales: Array
    ratio: float
    growth: float


def _cautious(found: GaussianProcess, y: Array, n: int) -> _Hyper:
    """Shortest lengthscales and largest signal the pairs do not speak against.

    Args:
        found: What maximises the evidence.
        y: The displacements it was fitted to.
        n: Number of all pairs; a noise ratio below their rounding could not be trusted.
    """
    floor = max(1e-11, 200 * _EPS * n)
    ratios = np.geomspace(floor, 1.0, _RATIOS)
    best = _Spectrum.of(found, found.lengthscales, y).profile(ratios).max()
    shortest = found.lengthscales.copy()
    for axis in range(len(shortest)):
        trial = found.lengthscales.copy()
        for _ in range(_STEPS):
            trial[axis] *= _STEP
            if _Spectrum.of(found, trial, y).profile(ratios).max() < best - _PLAUSIBLE:
                break
            shortest[axis] = trial[axis]
    spectrum = _Spectrum.of(found, shortest, y)
    profile = spectrum.profile(ratios)
    ratio = float(ratios[int(np.argmax(profile))])
    growths = np.geomspace(1.0, _GROWTH, _RATIOS)
    growths = growths[ratio / growths >= floor]
    fixed = spectrum.with_signal(ratio, growths)
    return _Hyper(
        found.kernel,
        shortest,
        ratio,
        float(growths[fixed >= fixed[0] - _PLAUSIBLE].max()),
    )


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """Displacements in the eigenvectors of their prior correlation."""

    values: Array
    along: Array
    ones: Array

    @classmethod
    def of(cls, found: GaussianProcess, lengthscales: Array, y: Array) -> _Spectrum:
        correlation = np.ones((len(y), len(y)))
        for column, scale in zip(found.x.T, lengthscales.tolist(), strict=True):
            correlation *= found.kernel.derivative(column, column, scale, 0)
        values, vectors = eigh(correlation)
        return cls(np.maximum(values, 0.0), vectors.T @ y, vectors.sum(axis=0))

    def profile(self, ratios: Array) -> Array:
        """Log evidence up to a constant for each noise ratio, mean and variance at their best."""
        whole, residual = self._residual(self.values[:, None] + ratios)
        variance = (residual**2 / whole).mean(axis=0)
        return -0.5 * (len(self.along) * np.log(variance) + np.log(whole).sum(axis=0))

    def with_signal(self, ratio: float, growths: Array) -> Array:
        """The same where only the signal variance grows from its best, the noise stays."""
        whole, residual = self._residual(self.values[:, None] + ratio)
        variance = (residual**2 / whole).mean()
        whole, residual = self._residual(variance * (self.values[:, None] * growths + ratio))
        return -0.5 * ((residual**2 / whole).sum(axis=0) + np.log(whole).sum(axis=0))

    def _residual(self, whole: Array) -> tuple[Array, Array]:
        """Eigenvalues of the covariance, as given, and what the best mean leaves."""
        mean = (self.along * self.ones) @ (1 / whole) / (self.ones**2 @ (1 / whole))
        return whole, self.along[:, None] - self.ones[:, None] * mean


def _conditioned(hyper: _Hyper, x: Array, y: Array) -> GaussianProcess:
    """The process given all pairs, with the mean and the variance that fit them best."""
    trial = GaussianProcess(
        x, y, hyper.lengthscales, float(np.var(y)), hyper.ratio, 0.0, hyper.kernel
    )
    half = solve_triangular(trial.cholesky, np.stack([y, np.ones_like(y)], axis=1), lower=True)
    mean = float(half[:, 0] @ half[:, 1] / (half[:, 1] @ half[:, 1]))
    residual = half[:, 0] - mean * half[:, 1]
    return dataclasses.replace(
        trial,
        variance=hyper.growth * float(residual @ residual / len(y)),
        noise=hyper.ratio / hyper.growth,
        mean=mean,
    )


def _judged(process: GaussianProcess) -> tuple[GaussianProcess, float]:
    """Inflate the deviations if the largest leave-one-out residual calls for it."""
    largest = float(np.abs(process.leave_one_out()).max())
    factor = min(max(1.0, largest / expected_largest(len(process.y))), _MOST)
    return dataclasses.replace(process, variance=process.variance * factor**2), factor


def _values(
    process: GaussianProcess, axes: Sequence[Array], rows: Sequence[NDArray[np.intp]]
) -> tuple[Array, Array]:
    """Mean and deviation of a surrogate's value at points of a lattice, given by their indices."""
    m, n = len(rows[0]), len(process.y)
    # The kernel is evaluated once an axis.
    tables = [
        process.kernel.derivative(a, process.x[:, j], float(process.lengthscales[j]), 0)
        for j, a in enumerate(axes)
    ]
    mean, variance = np.empty(m), np.empty(m)
    for start in range(0, m, _CHUNK):
        part = slice(start, start + _CHUNK)
        cross = tables[0][rows[0][part]]
        for table, row in zip(tables[1:], rows[1:], strict=True):
            cross = cross * table[row[part]]
        mean[part] = cross @ process.weights
        reduced = dtrsm(1.0, process.cholesky, cross.T, lower=1)
        variance[part] = 1.0 - np.einsum("ij,ij->j", reduced, reduced)
    # A variance is known to about n eps of the prior one, and one of zero is a false certainty.
    variance = np.maximum(variance, 0.0) + 8 * n * _EPS
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
    return values.reshape(*split, -1).max(axis=odd).reshape(lattice.grid.size, -1)
