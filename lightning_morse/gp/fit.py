"""Hyper-parameters of the surrogate, by its evidence."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

from lightning_morse._typing import Array
from lightning_morse.gp.kernels import MATERN_5_2, Matern
from lightning_morse.gp.process import _EPS, GaussianProcess, SurrogateError, _product
from lightning_morse.gp.warp import Warp
from lightning_morse.grids.cubical import check_box

# A gain in log evidence that is none.
_NO_GAIN = 0.05
# Where the warp bends at more than this many times the range of the samples, it is a straight line.
_NO_WARP = 1e3


def fit(
    x: ArrayLike,
    losses: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    kernel: Matern = MATERN_5_2,
    warped: bool = True,
    start: GaussianProcess | None = None,
) -> GaussianProcess:
    r"""Fit the surrogate to losses by maximising the evidence, the warp among its parameters.

    The evidence is that of the unwarped losses, ``sum log T'(l_i)`` included, so that warps can be
    compared. Mean and variance are maximised in closed form; lengthscales, noise and the scale of
    the warp by L-BFGS-B from fixed starting points, with exact derivatives.

    The warp's floor is kept below the smallest sample by at least the distance to the
    ``2 d + 1``-th smallest: near a minimum, that is several times the distance at which the lowest
    sample is to be expected above the minimum. *The loss is assumed to stay above the floor.*

    Args:
        x: Sample points, shape ``(n, d)``.
        losses: Finite losses there, shape ``(n,)``.
        lower: Lower corner of the box, shape ``(d,)``; sets the range of lengthscales.
        upper: Upper corner of the box.
        kernel: The correlation along each axis.
        warped: Whether the loss may be warped.
        start: A surrogate of the same samples to start from, instead of the fixed points.

    Returns:
        The fitted surrogate.

    Raises:
        ValueError: If shapes disagree or a loss is not finite.
        SurrogateError: If there are too few samples, the losses are all equal, or no fit can be
            trusted.
    """
    low, up = check_box(lower, upper)
    points = np.ascontiguousarray(x, dtype=np.float64)
    loss = np.asarray(losses, dtype=np.float64)
    n, d = len(loss), len(low)
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
    origin, span = float(loss.min()), float(np.ptp(loss))
    if not span > 64 * _EPS * np.abs(loss).max():
        raise SurrogateError(
            f"the loss is {origin:g} at every sample: a constant has no gradient flow"
        )
    z = (loss - origin) / span
    differences = [np.abs(points[:, j, None] - points[None, :, j]) for j in range(d)]

    # Rounding in the factorisation grows with n; a noise floor below it could not be trusted.
    floor = max(1e-11, 200 * _EPS * n)
    margin = max(float(np.partition(z, 2 * d)[2 * d]), 1e-12)
    bounds = [(math.log(0.02 * w), math.log(30.0 * w)) for w in up - low]
    bends = (margin, _NO_WARP) if warped else (_NO_WARP, _NO_WARP)
    bounds += [(math.log(floor), 0.0), (math.log(bends[0]), math.log(bends[1]))]
    if start is None:
        # Noise first at its floor: on smooth losses the evidence is flat in it, and whatever is
        # too much of it costs resolution.
        starts = [
            [*np.log(share * (up - low)), math.log(level), math.log(bend)]
            for share, level, bend in (
                (0.3, 10 * floor, max(np.median(z), margin)),
                (1.0, 1e-4, 1.0),
            )
        ]
    else:
        bend = min(start.warp.scale / span, _NO_WARP)
        starts = [[*np.log(start.lengthscales), math.log(start.noise), math.log(bend)]]
    best: tuple[float, Array] | None = None
    for point in starts:
        found = minimize(
            _negative_log_evidence,
            np.clip(point, *np.transpose(bounds)),
            args=(z, differences, kernel),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            # A relative gain of 1e-7 is less than 1e-4 nats: nothing that anybody could tell.
            options={"maxiter": 200, "ftol": 1e-7},
        )
        if best is None or found.fun < best[0] - _NO_GAIN:
            best = (float(found.fun), found.x)
    assert best is not None
    value, parameters = best
    if not value < _FAILED:
        raise SurrogateError(
            "no covariance of the samples could be factorised; are many of them nearly equal?"
        )
    log_evidence = -value - n * math.log(span) - 0.5 * n * (1 + math.log(2 * math.pi))
    lengthscales = np.exp(parameters[:d])
    noise, bend = np.exp(parameters[d:])
    warp = Warp(origin, math.inf if bend > 0.5 * _NO_WARP else float(bend) * span)
    y = warp(loss)
    correlation = _correlation(kernel, differences, lengthscales)
    mean, variance = _profile(y, _factor(correlation, float(noise)))
    return GaussianProcess(
        x=points,
        y=y,
        lengthscales=lengthscales,
        variance=variance,
        noise=float(noise),
        mean=mean,
        kernel=kernel,
        warp=warp,
        log_evidence=log_evidence,
    )


_FAILED = 1e30


def _negative_log_evidence(
    parameters: Array, z: Array, differences: list[Array], kernel: Matern
) -> tuple[float, Array]:
    """Negative log evidence up to a constant, mean and variance profiled out, and its gradient."""
    n, d = len(z), len(differences)
    noise, bend = np.exp(parameters[d:])
    lengthscales = np.exp(parameters[:d])
    correlation = _correlation(kernel, differences, lengthscales)
    y = bend * np.log1p(z / bend)
    try:
        factor = _factor(correlation, noise)
    except LinAlgError:
        return _FAILED, np.zeros_like(parameters)
    mean, variance = _profile(y, factor)
    if not variance > 0:
        return _FAILED, np.zeros_like(parameters)
    inverse = _inverse(factor)
    alpha = inverse @ (y - mean)
    value = (
        0.5 * n * math.log(variance)
        + np.log(np.diag(factor)).sum()
        + np.log1p(z / bend).sum()  # minus the sum of log T'
    )
    # d value / dK, and then along each parameter. By the envelope theorem the profiled mean and
    # variance contribute nothing.
    along = 0.5 * (inverse - np.outer(alpha, alpha) / variance)
    gradient = np.empty_like(parameters)
    for j, (u, scale) in enumerate(zip(differences, lengthscales, strict=True)):
        t = u * (kernel.rate / scale)
        steepness = -t * kernel.scaled(t, 1) / kernel.scaled(t, 0)
        gradient[j] = np.sum(along * correlation * steepness)
    gradient[d] = noise * np.trace(along)
    ratio = z / (bend + z)
    gradient[d + 1] = alpha @ (y - bend * ratio) / variance - ratio.sum()
    return value, gradient


def _profile(y: Array, factor: Array) -> tuple[float, float]:
    """Mean and variance that maximise the evidence, given the Cholesky factor."""
    half = solve_triangular(factor, np.stack([y, np.ones_like(y)], axis=1), lower=True)
    mean = float(half[:, 0] @ half[:, 1] / (half[:, 1] @ half[:, 1]))
    residual = half[:, 0] - mean * half[:, 1]
    return mean, float(residual @ residual / len(y))


def _factor(correlation: Array, noise: float) -> Array:
    factor: Array = cholesky(
        correlation + noise * np.eye(len(correlation)), lower=True, check_finite=False
    )
    return factor


def _inverse(factor: Array) -> Array:
    inverse, _ = dpotri(factor, lower=1)
    return np.tril(inverse) + np.tril(inverse, -1).T


def _correlation(kernel: Matern, differences: list[Array], lengthscales: Array) -> Array:
    return _product(
        [
            kernel.scaled(u * (kernel.rate / scale), 0)
            for u, scale in zip(differences, lengthscales, strict=True)
        ]
    )
