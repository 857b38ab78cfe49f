r"""Fitting the learned map: Gaussian processes for the displacements of pairs.

Each coordinate of the displacement has its own process, with the product Matern kernel of the loss
surrogate, a constant mean, Gaussian noise and no warp. Hyper-parameters are chosen cautiously, at
the edge of what the evidence supports rather than at its maximum: see :func:`fit_trajectory_map`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh, solve_triangular

from lightning_morse._typing import Array
from lightning_morse.gp.calibration import expected_largest
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_5_2, Matern
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.trajectories.learned_map import EPSILON, TrajectoryMap
from lightning_morse.trajectories.pairs import Pairs

# Pairs to which hyper-parameters are fitted, to bound the cost of the fit. The process is
# conditioned on all pairs. Part of the premise that the hyper-parameters are right.
MOST_PAIRS_FITTED = 300
# A hyper-parameter may lose this much log evidence against its best and still count as plausible:
# half the 95 % quantile of a chi-square with one degree of freedom. Part of that premise too;
# benchmarks/trajectory_coverage.py measures what it buys.
PLAUSIBLE_LOSS = 1.92
# Lengthscales are shortened by this factor at a time, at most this many times (to 0.1 % of the
# fitted length). A finer factor would end a little closer to the edge of the interval.
SHORTENING, MOST_SHORTENINGS = 0.8, 30
# Points of the logarithmic grids on which noise ratio and signal growth are searched.
SEARCH_POINTS = 60
# The signal variance grows by at most this factor. Rarely reached; it ends the search.
LARGEST_GROWTH = 100.0
# Noise over signal variance is at least this, and at least a multiple of n eps: below that the
# covariance matrix of n points cannot be factorised reliably.
LEAST_NOISE_RATIO, NOISE_ROUNDING = 1e-11, 200
# Deviations are inflated by at most this factor, to keep the boxes finite in size for pictures. No
# claim depends on it: from a factor of gp.calibration.PLAINLY_WRONG on, mu is 0.
LARGEST_INFLATION = 10.0
# Displacements whose range is below this multiple of eps, relative to the states, differ by
# rounding only.
CONSTANT_ROUNDING = 64


def fit_trajectory_map(
    pairs: Pairs,
    lower: ArrayLike,
    upper: ArrayLike,
    rng: np.random.Generator,
    kernel: Matern = MATERN_5_2,
) -> TrajectoryMap:
    """Learn the map from pairs.

    Lengthscales and noise are fitted to at most 300 pairs drawn at random; the mean and the signal
    variance then follow in closed form from all pairs, on which the process is conditioned. With
    few or noisy pairs the evidence is flat, and the lengthscales that maximise it are often too
    long: with them, boxes at 95 % contained the images of a cubic map in only 82 % of experiments.
    Each lengthscale is therefore taken as short as the evidence allows, 1.92 nats below its maximum
    (the end of its 95 % likelihood interval with the others held fixed), and after that the signal
    variance as large, with the noise held fixed. That shorter lengthscales and a larger variance
    are the cautious choice when they are unknown is shown in Capone, Lederer, Hirche, "Gaussian
    process uniform error bounds with unknown hyperparameters for safety-critical applications"
    (ICML 2022); how far to go is measured here (``benchmarks/trajectory_coverage.py``), not proved.
    The noise is assumed not to exceed the signal; where it does (steps much smaller than their
    scatter) the signal is overestimated and the boxes are wider than necessary. If the largest
    leave-one-out residual exceeds its expected size, all deviations of that coordinate are
    multiplied by the ratio.

    Args:
        pairs: The pairs.
        lower: Lower corner of the box, shape ``(d,)``; the box sets the range of lengthscales.
        upper: Upper corner, shape ``(d,)``.
        rng: Draws the pairs to which hyper-parameters are fitted.
        kernel: The correlation along each axis.

    Raises:
        ValueError: If all displacements along an axis are equal.
        SurrogateError: If there are too few pairs, or no surrogate of them can be trusted.
    """
    refuse_constant(pairs)
    moved = pairs.displacement
    n = len(pairs)
    chosen = (
        np.arange(n)
        if n <= MOST_PAIRS_FITTED
        else np.sort(rng.choice(n, MOST_PAIRS_FITTED, replace=False))
    )
    inflated = []
    for column in moved.T:
        likeliest = fit(pairs.start[chosen], column[chosen], lower, upper, kernel, warped=False)
        cautious = _cautious(likeliest, column[chosen], n)
        inflated.append(_inflated(_conditioned(cautious, pairs.start, column)))
    return TrajectoryMap(
        processes=tuple(process for process, _ in inflated),
        lag=pairs.lag,
        factors=np.array([factor for _, factor in inflated]),
    )


def refuse_constant(pairs: Pairs) -> None:
    """Raise where all displacements along an axis are equal.

    Args:
        pairs: The pairs.

    Raises:
        ValueError: If they are.
    """
    for i, column in enumerate(pairs.displacement.T):
        size = max(float(np.abs(pairs.start[:, i]).max()), 1e-300)
        if not np.ptp(column) > CONSTANT_ROUNDING * EPSILON * size:
            raise ValueError(
                f"the displacement along axis {i} is the same in all {len(pairs)} pairs: "
                "nothing can be learned from it. Leave that coordinate out, or use a larger lag"
            )


@dataclass(frozen=True, eq=False)
class _Hyper:
    """Hyper-parameters of a process whose signal variance still has to be scaled to the data.

    Attributes:
        kernel: The correlation along each axis.
        lengthscales: Shape ``(d,)``.
        ratio: Noise variance over signal variance, before the signal grows.
        growth: Factor by which the signal variance grows while the noise stays.
    """

    kernel: Matern
    lengthscales: Array
    ratio: float
    growth: float


def _cautious(likeliest: GaussianProcess, y: Array, n: int) -> _Hyper:
    """Shortest lengthscales and largest signal variance that remain plausible.

    Args:
        likeliest: The process that maximises the evidence.
        y: The displacements it was fitted to.
        n: Number of all pairs; noise ratios below their rounding cannot be trusted.
    """
    floor = max(LEAST_NOISE_RATIO, NOISE_ROUNDING * EPSILON * n)
    ratios = np.geomspace(floor, 1.0, SEARCH_POINTS)
    best = _Spectrum.of(likeliest, likeliest.lengthscales, y).profile(ratios).max()
    shortest = likeliest.lengthscales.copy()
    for axis in range(len(shortest)):
        trial = likeliest.lengthscales.copy()
        for _ in range(MOST_SHORTENINGS):
            trial[axis] *= SHORTENING
            if _Spectrum.of(likeliest, trial, y).profile(ratios).max() < best - PLAUSIBLE_LOSS:
                break
            shortest[axis] = trial[axis]
    spectrum = _Spectrum.of(likeliest, shortest, y)
    profile = spectrum.profile(ratios)
    ratio = float(ratios[int(np.argmax(profile))])
    growths = np.geomspace(1.0, LARGEST_GROWTH, SEARCH_POINTS)
    growths = growths[ratio / growths >= floor]
    evidence = spectrum.with_signal(ratio, growths)
    growth = float(growths[evidence >= evidence[0] - PLAUSIBLE_LOSS].max())
    return _Hyper(likeliest.kernel, shortest, ratio, growth)


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """The data in the eigenbasis of their prior correlation matrix.

    In it the evidence of every noise ratio costs ``O(n)`` instead of a factorisation.

    Attributes:
        values: Eigenvalues of the correlation matrix, shape ``(n,)``.
        along: The displacements in the eigenbasis, shape ``(n,)``.
        ones: The constant vector in the eigenbasis, shape ``(n,)``.
    """

    values: Array
    along: Array
    ones: Array

    @classmethod
    def of(cls, process: GaussianProcess, lengthscales: Array, y: Array) -> _Spectrum:
        correlation = np.ones((len(y), len(y)))
        for column, scale in zip(process.x.T, lengthscales.tolist(), strict=True):
            correlation *= process.kernel.derivative(column, column, scale, 0)
        values, vectors = eigh(correlation)
        return cls(np.maximum(values, 0.0), vectors.T @ y, vectors.sum(axis=0))

    def profile(self, ratios: Array) -> Array:
        """Log evidence for each noise ratio, maximised over mean and variance, up to a constant."""
        covariance = self.values[:, None] + ratios
        residual = self._residual(covariance)
        variance = (residual**2 / covariance).mean(axis=0)
        evidence = len(self.along) * np.log(variance) + np.log(covariance).sum(axis=0)
        return np.asarray(-0.5 * evidence)

    def with_signal(self, ratio: float, growths: Array) -> Array:
        """Log evidence as the signal variance grows from its best value and the noise stays."""
        covariance = self.values[:, None] + ratio
        variance = (self._residual(covariance) ** 2 / covariance).mean()
        covariance = variance * (self.values[:, None] * growths + ratio)
        misfit = (self._residual(covariance) ** 2 / covariance).sum(axis=0)
        return np.asarray(-0.5 * (misfit + np.log(covariance).sum(axis=0)))

    def _residual(self, covariance: Array) -> Array:
        """Residual about the generalised least-squares mean, for each column of eigenvalues."""
        mean = (self.along * self.ones) @ (1 / covariance) / (self.ones**2 @ (1 / covariance))
        return self.along[:, None] - self.ones[:, None] * mean


def _conditioned(hyper: _Hyper, x: Array, y: Array) -> GaussianProcess:
    """The process conditioned on all pairs, with the mean and the variance that fit them best."""
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


def _inflated(process: GaussianProcess) -> tuple[GaussianProcess, float]:
    """Inflate the deviations if the largest leave-one-out residual calls for it."""
    largest = float(np.abs(process.leave_one_out()).max())
    factor = min(max(1.0, largest / expected_largest(len(process.y))), LARGEST_INFLATION)
    return dataclasses.replace(process, variance=process.variance * factor**2), factor
