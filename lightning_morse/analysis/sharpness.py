r"""The largest curvature of the loss in a slice at a point, with a lower bound.

The loss is :math:`l = T^{-1}(f)`, :math:`f` the field that the surrogate models and :math:`S` the
scale of its warp :math:`T`. Along a unit vector :math:`v` of the slice

.. math:: v^T \nabla^2 l\, v = e^{f / S} \bigl( v^T \nabla^2 f\, v + (v^T \nabla f)^2 / S \bigr).

This is a Rayleigh quotient of the Hessian in weight space, since the axes of a slice are
orthonormal there; so what bounds it from below bounds the sharpness of the network, the largest
eigenvalue of the full Hessian (Cohen et al. 2021), from below as well.

*The bound.* :math:`v` is the top eigenvector of the estimated Hessian, a function of the samples.
With :math:`m` the posterior mean of :math:`v^T \nabla f`, the square is at least its tangent
:math:`2 m\, v^T \nabla f - m^2`. In its place the bracket is Gaussian, and at least a quantile of
it; :math:`f` is likewise. Each may fail with half of the probability that is left.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from scipy.special import ndtri

from lightning_morse._typing import Array
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.result.parts import Curvature, MorseSet


def curvature_at(portrait: PhasePortrait, point: Array, confidence: float) -> Curvature | None:
    """The largest curvature in the slice at a point, by the surrogate of the finest box around it.

    Args:
        portrait: The portrait.
        point: Shape ``(d,)``.
        confidence: The level of the bound, in (0, 1).

    Returns:
        None outside of all boxes, and where the samples refute the surrogate.
    """
    k = int(portrait.nested.box_of(point[None])[0])
    if k < 0:
        return None
    chart = portrait.charts[k].at(point)
    return largest_curvature(chart.surrogate, point, confidence) if chart.trusted else None


def with_curvatures(
    portrait: PhasePortrait, sets: Iterable[MorseSet], confidence: float
) -> tuple[MorseSet, ...]:
    """Morse sets, those that are attractors with the curvature at their centre."""
    return tuple(
        dataclasses.replace(m, curvature=curvature_at(portrait, m.center, confidence))
        if m.is_attractor
        else m
        for m in sets
    )


def largest_curvature(
    surrogate: GaussianProcess, point: Array, confidence: float
) -> Curvature | None:
    """The largest curvature of the loss at a point, and a lower bound on it.

    The bound holds with probability at least ``confidence``, given that the warped loss is a sample
    path of the surrogate; for this point by itself.

    Args:
        surrogate: The fitted surrogate, its deviations calibrated.
        point: Shape ``(d,)``.
        confidence: The level of the bound, in (0, 1).

    Returns:
        None if a number leaves the range of floats.

    Example:
        Samples of ``x^2 / 2``, whose curvature is 1:

        >>> x = np.linspace(-2, 2, 9)[:, None]
        >>> gp = GaussianProcess(
        ...     x=x, y=0.5 * x[:, 0] ** 2, lengthscales=np.array([4.0]), variance=10.0, noise=1e-8,
        ...     mean=0.0,
        ... )
        >>> found = largest_curvature(gp, np.array([0.5]), 0.95)
        >>> round(found.largest, 1), found.at_least < 1
        (1.0, True)
    """
    bend = 1 / surrogate.warp.scale
    rows, columns = np.triu_indices(len(point))
    with np.errstate(over="ignore", invalid="ignore"):
        value = surrogate.posterior(point[None])
        mean, covariance = (found[0] for found in surrogate.derivative_distribution(point[None]))
        slope, total = slope_and_curvature(mean, len(point), bend)
        if not (np.isfinite(total).all() and np.isfinite(covariance).all()):
            return None
        values, vectors = np.linalg.eigh(total)
        v = vectors[:, -1]
        # The bracket as a linear function of gradient and Hessian, the square by its tangent.
        twice = np.where(rows == columns, 1.0, 2.0)
        weights = np.concatenate([2 * bend * (slope @ v) * v, twice * v[rows] * v[columns]])
        deviation = math.sqrt(weights @ covariance @ weights)
        f, doubt, inverse = value.mean[0], value.deviation[0], surrogate.warp.inverse_slope
        failure = 1 - confidence
        quantile = -float(ndtri(failure / 2 if bend else failure))
        least = values[-1] - quantile * deviation
        # Where the bracket may be negative, it is most so where the loss is steepest in `f`.
        lowest = f - math.copysign(quantile, least) * doubt if bend else f
        found = Curvature(
            largest=float(inverse(f) * values[-1]),
            deviation=float(inverse(f) * (deviation + bend * abs(values[-1]) * doubt)),
            at_least=float(inverse(lowest) * least),
        )
    return found if found.is_finite else None


def slope_and_curvature(derivatives: Array, dim: int, bend: float) -> tuple[Array, Array]:
    """Gradient of a warped loss, and the Hessian of the loss itself divided by the warp's slope.

    Args:
        derivatives: Those of the warped loss: the gradient, then the upper triangle of the Hessian.
        dim: Number of axes ``d``.
        bend: Curvature of the inverse warp over its slope: 1 over the scale of the warp.

    Returns:
        Shapes ``(d,)`` and ``(d, d)``.
    """
    slope, hessian = derivatives[:dim], np.empty((dim, dim))
    rows, columns = np.triu_indices(dim)
    hessian[rows, columns] = hessian[columns, rows] = derivatives[dim:]
    return slope, hessian + bend * np.outer(slope, slope)
