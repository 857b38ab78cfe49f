"""The gradient flow of a deep linear network, integrated numerically."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from lightning_morse._typing import Array
from lightning_morse.deep_linear.moments import Moments
from lightning_morse.deep_linear.network import Weights, fitting, gradient


def integrate(
    weights: Weights,
    moments: Moments,
    times: ArrayLike,
    rtol: float = 1e-12,
    atol: float = 1e-13,
) -> list[tuple[Array, ...]]:
    """Integrate the gradient flow with SciPy's DOP853.

    Args:
        weights: The layers at time 0.
        moments: Moments of the data.
        times: Output times, shape ``(k,)``, nonnegative and increasing.
        rtol: Relative tolerance per step.
        atol: Absolute tolerance per step.

    Returns:
        The layers at each time, to the accuracy that the tolerances give: the solution is not
        projected back onto the conserved quantities.

    Raises:
        ValueError: If the times do not increase, or the widths do not fit.
        RuntimeError: If the integrator fails.

    Example:
        >>> (w,), = integrate([[[0.0]]], Moments.of([[1.0]], [[1.0]]), [np.log(2.0)])
        >>> round(w.item(), 9)  # 1 - exp(-t)
        0.5
    """
    layers = fitting(weights, moments)
    shapes = [w.shape for w in layers]
    ends = np.cumsum([w.size for w in layers])[:-1]
    when = np.asarray(times, dtype=np.float64)
    if when.ndim != 1 or not when.size or not (when >= 0).all() or not (np.diff(when) > 0).all():
        raise ValueError(f"times must be increasing and not negative, got {times!r}")

    def cut(flat: Array) -> tuple[Array, ...]:
        parts = np.split(flat, ends)
        return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))

    def flow(_: float, flat: Array) -> Array:
        return -np.concatenate([g.ravel() for g in gradient(cut(flat), moments)])

    start = np.concatenate([w.ravel() for w in layers])
    span = (0.0, max(float(when[-1]), np.finfo(float).tiny))
    found = solve_ivp(flow, span, start, "DOP853", when, rtol=rtol, atol=atol)
    if not found.success:
        raise RuntimeError(
            f"the integration stopped at t = {found.t[-1] if len(found.t) else 0.0:.6g}: "
            f"{found.message} Integrate over a shorter time or loosen the tolerances"
        )
    return [cut(flat) for flat in found.y.T]
