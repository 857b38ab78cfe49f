"""Maps given by their values at points: the time map of a flow, and evaluation in chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from lightning_morse._typing import Array

PointMap = Callable[[Array], Array]

# Points passed to a map at once, few enough for its intermediate arrays to stay in the cache. The
# result does not depend on it.
_CHUNK = 2**15


def time_map(field: PointMap, time: float, steps: int) -> PointMap:
    r"""Time-``time`` map of the flow of a vector field, by Runge-Kutta steps.

    The classical method of fourth order. Its error, :math:`O(\text{time} \cdot
    (\text{time}/\text{steps})^4)`, is not bounded here and has to be covered by the padding.

    Args:
        field: Right-hand side of :math:`x' = f(x)`; maps points, shape ``(n, d)``, to vectors, same
            shape.
        time: How long to follow the flow; a negative time gives the backward flow.
        steps: Number of steps of equal length, at least one.

    Returns:
        A point map, for instance for :func:`~lightning_morse.conley.box_maps.corner_images`.

    Raises:
        ValueError: If ``time`` is zero or not finite, or ``steps`` is not a positive integer.

    Example:
        >>> halve = time_map(lambda x: -x, np.log(2.0), 20)
        >>> halve(np.array([[1.0], [-3.0]])).round(6).tolist()
        [[0.5], [-1.5]]
    """
    if not np.isfinite(time) or time == 0:
        raise ValueError(f"time must be finite and not zero, got {time!r}")
    if steps != int(steps) or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps!r}")
    h = time / steps

    def after(points: Array) -> Array:
        x = np.asarray(points, dtype=np.float64)
        for _ in range(int(steps)):
            k1 = field(x)
            k2 = field(x + h / 2 * k1)
            k3 = field(x + h / 2 * k2)
            k4 = field(x + h * k3)
            x = x + h / 6 * (k1 + 2 * (k2 + k3) + k4)
        return x

    return after


def images_on_product(point_map: PointMap, axes: Sequence[Array]) -> Array:
    """Images of all points of a product of coordinate axes, evaluated in chunks.

    Args:
        point_map: Maps points, shape ``(n, d)``, to their images, same shape.
        axes: Coordinates per axis, ``d`` vectors.

    Returns:
        Shape ``(*lengths of the axes, d)``.

    Raises:
        ValueError: If the map returns another shape or NaN.
    """
    d = len(axes)
    shape = tuple(len(a) for a in axes)
    out = np.empty((*shape, d))
    step = max(1, _CHUNK // math.prod(shape[1:]))
    for start in range(0, shape[0], step):
        part = np.meshgrid(axes[0][start : start + step], *axes[1:], indexing="ij")
        points = np.stack([a.ravel() for a in part], axis=1)
        images = _checked(point_map, points)
        out[start : start + step] = images.reshape((*part[0].shape, d))
    return out


def images_of(point_map: PointMap, points: Array) -> Array:
    """Images of points, evaluated in chunks.

    Args:
        point_map: Maps points, shape ``(n, d)``, to their images, same shape.
        points: Shape ``(n, d)``.

    Returns:
        Shape ``(n, d)``.

    Raises:
        ValueError: If the map returns another shape or NaN.
    """
    out = np.empty(points.shape)
    for start in range(0, len(points), _CHUNK):
        part = points[start : start + _CHUNK]
        out[start : start + _CHUNK] = _checked(point_map, part)
    return out


def _checked(point_map: PointMap, points: Array) -> Array:
    """Evaluate a point map and validate what it returns."""
    images = np.asarray(point_map(points), dtype=np.float64)
    if images.shape != points.shape:
        raise ValueError(
            f"point_map must return one image of {points.shape[1]} coordinates for each of the "
            f"{len(points)} points, shape {points.shape}, got {images.shape}"
        )
    wrong = np.isnan(images).any(axis=1)
    if wrong.any():
        raise ValueError(
            f"point_map must not return NaN, but does at {points[wrong][0].tolist()}; return "
            "infinity where the map diverges, or shrink the box of the grid"
        )
    return images
