"""Hyper-parameters of the surrogate, fitted by maximising the evidence."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import LinAlgError
from scipy.linalg.lapack import dpotrf, dpotri, dtrtrs
from scipy.optimize import minimize

from lightning_morse._typing import Array
from lightning_morse.gp.conditioning import EPS, SurrogateError
from lightning_morse.gp.kernels import MATERN_5_2, Matern
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.gp.warp import Warp
from lightning_morse.grids.cubical import check_box

# A later starting point must gain this much log evidence, in nats, to replace an earlier one: less
# is within the tolerance of the optimiser.
_NO_GAIN = 0.05
# Scale of the warp, in ranges of the samples, that stands for no warp: it then bends by less than
# 0.1 %. A fit that ends at more than half of it is taken as unwarped.
_NO_WARP = 1e3
# Lengthscales searched, as multiples of the width of the box: shorter ones cannot be told from
# noise with some hundred samples, longer ones from each other.
_SHORTEST, _LONGEST = 0.02, 30.0
# Smallest noise, relative to the signal variance: rounding in the factorisation grows with n, and a
# noise level below it could not be trusted. Soundness of the variances depends on it.
_NOISE_FLOOR, _NOISE_FLOOR_PER_SAMPLE = 1e-11, 200
# The floor of the warp stays below the smallest sample by at least this share of their range.
_LEAST_MARGIN = 1e-12
# A spread of the losses below this many roundings is none.
_CONSTANT = 64
# Losses whose range or its inverse exceeds this are refused: its square, cube and their like have
# to be floats. Within an analysis losses are of order one (lightning_morse.result.frame).
_LARGEST_SPAN = 2.0**330
# Relative gain at which the optimiser stops: less than 1e-4 nats, far below any comparison made
# with the evidence; and its iterations at most.
_TOLERANCE, _MOST_ITERATIONS = 1e-7, 200
# Negative log evidence where the covariance cannot be factorised, so that the optimiser turns back.
_FAILED = 1e30
# None of these but the noise floor affects soundness given the fitted process: they decide which
# process is fitted, and that it is the right one is checked by experiment only (docs/mu.md).


def fit(
    x: ArrayLike,
    losses: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    kernel: Matern = MATERN_5_2,
    warped: bool = True,
    start: GaussianProcess | None = None,
    most_iterations: int = _MOST_ITERATIONS,
) -> GaussianProcess:
    r"""Fit the surrogate to losses by maximising the evidence, including over the warp.

    The evidence is that of the unwarped losses, ``sum log T'(l_i)`` included, so that warps can be
    compared. Mean and variance are maximised in closed form; lengthscales, noise and the scale of
    the warp by L-BFGS-B from fixed starting points, with exact derivatives.

    The warp's floor is kept below the smallest sample by at least the distance from there to the
    ``2 d + 1``-th smallest: near a minimum, that is several times the height at which the lowest
    sample is expected to lie above it. *The loss is assumed to stay above the floor.*

    Args:
        x: Sample points, shape ``(n, d)``.
        losses: Finite losses there, shape ``(n,)``.
        lower: Lower corner of the box, shape ``(d,)``; sets the range of lengthscales.
        upper: Upper corner of the box.
        kernel: The correlation along each axis.
        warped: Whether the loss may be warped.
        start: A surrogate of the same loss to start from, instead of the fixed points.
        most_iterations: Of the optimiser; with 0 the lengthscales, the noise ratio and the scale of
            the warp stay those of ``start``.

    Returns:
        The fitted surrogate.

    Raises:
        ValueError: If shapes disagree or a loss is not finite.
        SurrogateError: If there are too few samples, the losses are all equal, or no fit can be
            trusted.
    """
    low, up = check_box(lower, upper)
    points, loss = _checked(x, losses, len(low))
    n, d = points.shape
    origin, span = float(loss.min()), float(np.ptp(loss))
    z = (loss - origin) / span
    evidence = _Evidence(points, z, kernel)
    noise_floor = max(_NOISE_FLOOR, _NOISE_FLOOR_PER_SAMPLE * EPS * n)
    margin = max(float(np.partition(z, 2 * d)[2 * d]), _LEAST_MARGIN)
    bends = (margin, _NO_WARP) if warped else (_NO_WARP, _NO_WARP)
    bounds = [(math.log(_SHORTEST * w), math.log(_LONGEST * w)) for w in up - low]
    bounds += [(math.log(noise_floor), 0.0), (math.log(bends[0]), math.log(bends[1]))]
    if start is None:
        starts = _starting_points(up - low, noise_floor, max(np.median(z), margin))
    else:
        bend = min(start.warp.scale / span, _NO_WARP)
        starts = [[*np.log(start.lengthscales), math.log(start.noise), math.log(bend)]]
    value, parameters = _maximised(evidence, starts, bounds, most_iterations)
    lengthscales = np.exp(parameters[:d])
    noise, bend = np.exp(parameters[d:])
    warp = Warp(origin, math.inf if bend > 0.5 * _NO_WARP else float(bend) * span)
    y = warp(loss)
    mean, variance, _ = _profile(y, evidence.factor(lengthscales, float(noise)))
    return GaussianProcess(
        x=points,
        y=y,
        lengthscales=lengthscales,
        variance=variance,
        noise=float(noise),
        mean=mean,
        kernel=kernel,
        warp=warp,
        log_evidence=-value - n * math.log(span) - 0.5 * n * (1 + math.log(2 * math.pi)),
    )


def _checked(x: ArrayLike, losses: ArrayLike, d: int) -> tuple[Array, Array]:
    """The samples as arrays; raises where no surrogate can be fitted to them."""
    points = np.ascontiguousarray(x, dtype=np.float64)
    loss = np.asarray(losses, dtype=np.float64)
    n = len(loss)
    if points.shape != (n, d) or loss.shape != (n,):
        raise ValueError(
            f"x must have shape (n, {d}) and losses (n,), got {points.shape} and {loss.shape}"
        )
    if not np.isfinite(loss).all():
        raise ValueError(f"losses must be finite, got {loss[~np.isfinite(loss)][0]}")
    if n < 2 * d + 4:
        raise SurrogateError(
            f"{n} samples do not determine a surrogate on {d} axes: at least {2 * d + 4} are needed"
        )
    if not float(np.ptp(loss)) > _CONSTANT * EPS * np.abs(loss).max():
        raise SurrogateError(
            "the loss is the same at every sample: a constant has no gradient flow"
        )
    if not 1 / _LARGEST_SPAN < float(np.ptp(loss)) < _LARGEST_SPAN:
        raise SurrogateError(
            f"the losses differ by {float(np.ptp(loss)):.3g}, and no float holds the powers of "
            "that: scale them, or use a smaller box where they range over too many orders"
        )
    return points, loss


def _starting_points(widths: Array, noise_floor: float, typical: float) -> list[list[float]]:
    """A strongly warped surrogate with short lengthscales, and a hardly warped smoother one.

    Noise starts near its floor: on smooth losses the evidence is flat in it, and any excess costs
    resolution.
    """
    return [
        [*np.log(share * widths), math.log(noise), math.log(bend)]
        for share, noise, bend in ((0.3, 10 * noise_floor, typical), (1.0, 1e-4, 1.0))
    ]


def _maximised(
    evidence: _Evidence,
    starts: list[list[float]],
    bounds: list[tuple[float, float]],
    most_iterations: int,
) -> tuple[float, Array]:
    """The best local optimum: its negative log evidence up to a constant, and the parameters."""
    best: tuple[float, Array] | None = None
    for point in starts:
        begin = np.clip(point, *np.transpose(bounds))
        if most_iterations:
            found = minimize(
                evidence.negative_log,
                begin,
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxiter": most_iterations, "ftol": _TOLERANCE},
            )
            value, parameters = float(found.fun), found.x
        else:
            value, parameters = evidence.negative_log(begin)[0], begin
        if best is None or value < best[0] - _NO_GAIN:
            best = value, parameters
    assert best is not None
    if not best[0] < _FAILED:
        raise SurrogateError(
            "no covariance of the samples could be factorised; are many of them nearly equal?"
        )
    return best


class _Evidence:
    """The evidence of some losses, for any hyper-parameters.

    Pairs of samples are counted once, and all that can be prepared is: a fit asks some fifty times.

    Args:
        points: Sample points, shape ``(n, d)``.
        z: Losses above the smallest one, over their range, shape ``(n,)``.
        kernel: The correlation along each axis.
    """

    def __init__(self, points: Array, z: Array, kernel: Matern) -> None:
        n = len(z)
        self._z, self._kernel = z, kernel
        self._row, self._column = np.tril_indices(n, -1)
        # In Fortran order, as LAPACK wants its matrices.
        self._below = self._row + n * self._column
        self._apart = np.abs(points.T[:, self._row] - points.T[:, self._column])

    def negative_log(self, parameters: Array) -> tuple[float, Array]:
        """Negative log evidence up to a constant, mean and variance profiled out; its gradient.

        Args:
            parameters: Logarithms of the lengthscales, the noise ratio and the scale of the warp.
        """
        z, n, d = self._z, len(self._z), len(self._apart)
        noise, bend = np.exp(parameters[d:])
        y = bend * np.log1p(z / bend)
        steepness: list[Array] = []
        correlation = self._correlation(np.exp(parameters[:d]), steepness)
        try:
            factor = self._factor(correlation, noise)
        except LinAlgError:
            return _FAILED, np.zeros_like(parameters)
        _, variance, half = _profile(y, factor)
        if not variance > 0:
            return _FAILED, np.zeros_like(parameters)
        value = (
            0.5 * n * math.log(variance)
            + np.log(np.diag(factor)).sum()
            + np.log1p(z / bend).sum()  # minus the sum of log T'
        )
        alpha, _ = dtrtrs(factor, half, lower=1, trans=1)
        inverse, _ = dpotri(factor, lower=1, overwrite_c=1)
        # d value / dK, and then along each parameter. By the envelope theorem the profiled mean and
        # variance contribute nothing. Pairs count twice, and no sample is apart from itself.
        along = inverse.ravel(order="K").take(self._below)
        along -= alpha.take(self._row) * alpha.take(self._column) / variance
        along *= correlation
        gradient = np.empty_like(parameters)
        for j, steep in enumerate(steepness):
            gradient[j] = along @ steep
        gradient[d] = 0.5 * noise * (np.trace(inverse) - alpha @ alpha / variance)
        ratio = z / (bend + z)
        gradient[d + 1] = alpha @ (y - bend * ratio) / variance - ratio.sum()
        return value, gradient

    def factor(self, lengthscales: Array, noise: float) -> Array:
        """Lower Cholesky factor of the samples' covariance over the variance, shape ``(n, n)``.

        Raises:
            LinAlgError: If there is none.
        """
        return self._factor(self._correlation(lengthscales), noise)

    def _correlation(self, lengthscales: Array, steepness: list[Array] | None = None) -> Array:
        """Correlations of all pairs.

        Args:
            lengthscales: Shape ``(d,)``.
            steepness: Takes their logarithmic derivatives in the logarithm of each lengthscale.
        """
        total = np.zeros_like(self._apart[0])
        correlation: Array = np.ones_like(total)
        for apart, scale in zip(self._apart, lengthscales, strict=True):
            t = apart * (self._kernel.rate / scale)
            value = self._kernel.polynomial(t, 0)
            if steepness is not None:
                slope = self._kernel.polynomial(t, 1)
                slope *= t
                slope /= value
                steepness.append(np.negative(slope, out=slope))
            correlation *= value
            total += t
        correlation *= np.exp(-total)
        return correlation

    def _factor(self, correlation: Array, noise: float) -> Array:
        n = len(self._z)
        covariance = np.zeros(n * n)
        covariance[self._below] = correlation
        covariance[:: n + 1] = 1 + noise
        factor, info = dpotrf(covariance.reshape((n, n), order="F"), lower=1, overwrite_a=1)
        if info:
            raise LinAlgError(f"minor {info} is not positive definite")
        return np.asarray(factor)


def _profile(y: Array, factor: Array) -> tuple[float, float, Array]:
    """Mean and variance that maximise the evidence given the Cholesky factor; half a solution.

    Returns:
        Mean, variance, and the inverse of the factor times the losses above the mean.
    """
    half, _ = dtrtrs(factor, np.stack([y, np.ones_like(y)], axis=1), lower=1)
    mean = float(half[:, 0] @ half[:, 1] / (half[:, 1] @ half[:, 1]))
    residual = half[:, 0] - mean * half[:, 1]
    return mean, float(residual @ residual / len(y)), residual
