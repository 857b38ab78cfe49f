"""From a map given at points to boxes that enclose, or nearly enclose, the images of cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array
from lightning_morse.grids.cubical import CubicalGrid

PointMap = Callable[[Array], Array]
BoxMap = Callable[[Array, Array], tuple[Array, Array]]

# Points handed to a map at once: few enough that what it computes in between stays in the cache.
_CHUNK = 2**15


def corner_images(
    point_map: PointMap, grid: CubicalGrid, *, padding: float = 0.0
) -> tuple[Array, Array]:
    r"""Box around the images of the corners of each cell, widened by a part of a cell.

    This is the usual box map of computational Conley theory (Arai, Kalies, Kokubu, Mischaikow,
    Oka, Pilarczyk, "A database schema for the analysis of global dynamics of multiparameter
    systems", 2009). The box contains the image of the cell where the map is monotone in every
    coordinate on it, or where ``padding`` makes up for what the corners miss; nothing checks
    that. Where a Lipschitz bound is known, :func:`lipschitz_images` needs no such premise.

    Every corner of the grid is evaluated once, not once for each cell that shares it.

    Args:
        point_map: Takes points, shape ``(n, d)``, to their images, same shape. On a periodic axis
            it must return the lift: coordinates that are not wrapped round.
        grid: The cubical grid, ``d`` axes.
        padding: What is added on every side, in widths of a cell.

    Returns:
        Lower and upper corners of the boxes, two arrays of shape ``(grid.size, d)``, as
        :func:`~lightning_morse.conley.combinatorial_map.outer_approximation` takes them.

    Raises:
        ValueError: If ``padding`` is negative or not finite, or the map returns another shape or
            NaN.

    Example:
        >>> grid = CubicalGrid([0.0], [4.0], (4,))
        >>> lower, upper = corner_images(lambda x: x / 2, grid, padding=1)
        >>> lower[:, 0].tolist(), upper[:, 0].tolist()
        ([-1.0, -0.5, 0.0, 0.5], [1.5, 2.0, 2.5, 3.0])
    """
    pad = _check_padding(padding) * grid.cell_widths
    values = _evaluate(point_map, grid.edges)
    bounds = []
    for choose, shift in ((np.minimum, -pad), (np.maximum, pad)):
        box = values
        for axis in range(grid.dim):
            before = (slice(None),) * axis
            box = choose(box[(*before, slice(None, -1))], box[(*before, slice(1, None))])
        bounds.append((box + shift).reshape(grid.size, grid.dim))
    return bounds[0], bounds[1]


def lipschitz_images(
    point_map: PointMap,
    grid: CubicalGrid,
    lipschitz: ArrayLike,
    *,
    padding: float = 0.0,
) -> tuple[Array, Array]:
    r"""Box that contains the image of each cell, given how fast the map can vary.

    The map is evaluated at the centre of each cell. If :math:`|f_i(x) - f_i(y)| \le \sum_j L_{ij}
    |x_j - y_j|` on the cell, its image lies within :math:`\sum_j L_{ij} h_j / 2` of
    :math:`f_i(\text{centre})`, where :math:`h_j` are the widths of the cell. That premise cannot
    be checked here. The arithmetic of this function is rounded outward; that of ``point_map`` is
    not known, so give a ``padding`` (1e-9, say) if its rounding errors matter.

    Args:
        point_map: As in :func:`corner_images`.
        grid: The cubical grid, ``d`` axes.
        lipschitz: The bound: a number (then in the Euclidean norm), or entrywise bounds
            :math:`L_{ij} \ge |\partial f_i / \partial x_j|` of shape ``(d, d)``, or
            one such matrix a cell, shape ``(grid.size, d, d)``.
        padding: What is added on every side, in widths of a cell.

    Returns:
        As in :func:`corner_images`.

    Raises:
        ValueError: If ``lipschitz`` has another shape, is negative or not finite, ``padding`` is
            negative or not finite, or the map returns another shape or NaN.

    Example:
        The images of two cells under x^2, whose slope is at most 1 and 2 on them:

        >>> grid = CubicalGrid([0.0], [1.0], (2,))
        >>> lower, upper = lipschitz_images(lambda x: x**2, grid, [[[1.0]], [[2.0]]])
        >>> np.round(np.hstack([lower, upper]), 6).tolist()
        [[-0.1875, 0.3125], [0.0625, 1.0625]]
    """
    pad = _check_padding(padding) * grid.cell_widths
    bound = _check_lipschitz(lipschitz, grid.size, grid.dim)
    largest = np.maximum(np.abs(grid.lower), np.abs(grid.upper)).max()
    radius = _radius(bound, 0.5 * grid.cell_widths, largest) + pad
    middle = [0.5 * (e[:-1] + e[1:]) for e in grid.edges]
    values = _evaluate(point_map, middle).reshape(grid.size, grid.dim)
    return np.nextafter(values - radius, -np.inf), np.nextafter(values + radius, np.inf)


def corner_box_map(point_map: PointMap, *, padding: float = 0.0) -> BoxMap:
    r"""As :func:`corner_images`, for boxes of any size: the map an adaptive grid asks for.

    Each box is widened by ``padding`` of its own widths. The corners are evaluated for each box.

    Args:
        point_map: As in :func:`corner_images`.
        padding: What is added on every side, in widths of the box.

    Returns:
        Takes lower and upper corners, two arrays of shape ``(n, d)``, to those of the image boxes.

    Raises:
        ValueError: If ``padding`` is negative or not finite; when called, if the map returns
            another shape or NaN.

    Example:
        >>> images = corner_box_map(lambda x: x / 2, padding=1)
        >>> images(np.array([[0.0], [1.0]]), np.array([[1.0], [4.0]]))
        (array([[-1. ],
               [-2.5]]), array([[1.5],
               [5. ]]))
    """
    part = _check_padding(padding)

    def images(lower: Array, upper: Array) -> tuple[Array, Array]:
        n, d = lower.shape
        low, up = np.full((n, d), np.inf), np.full((n, d), -np.inf)
        for corner in itertools.product((False, True), repeat=d):
            values = _in_chunks(point_map, np.where(corner, upper, lower))
            np.minimum(low, values, out=low)
            np.maximum(up, values, out=up)
        pad = part * (upper - lower)
        return low - pad, up + pad

    return images


def lipschitz_box_map(
    point_map: PointMap,
    lipschitz: ArrayLike | Callable[[Array, Array], ArrayLike],
    *,
    padding: float = 0.0,
) -> BoxMap:
    r"""As :func:`lipschitz_images`, for boxes of any size: the map an adaptive grid asks for.

    The bound may depend on the box; the smaller the boxes, the better it then can be.

    Args:
        point_map: As in :func:`corner_images`.
        lipschitz: A number, a matrix of shape ``(d, d)``, as in :func:`lipschitz_images`; or what
            takes corners of boxes, two arrays of shape ``(n, d)``, to bounds on them, shape
            ``(n, d, d)``.
        padding: What is added on every side, in widths of the box.

    Returns:
        Takes lower and upper corners, two arrays of shape ``(n, d)``, to those of the image boxes.

    Raises:
        ValueError: If ``padding`` is negative or not finite; when called, if the bound has another
            shape, is negative or not finite, or the map returns another shape or NaN.

    Example:
        x^2, whose slope on a box in [0, 1] is at most twice the upper end:

        >>> images = lipschitz_box_map(lambda x: x**2, lambda low, up: 2 * up[:, :, None])
        >>> lower, upper = images(np.array([[0.0], [0.5]]), np.array([[0.5], [1.0]]))
        >>> np.round(np.hstack([lower, upper]), 6).tolist()
        [[-0.1875, 0.3125], [0.0625, 1.0625]]
    """
    part = _check_padding(padding)

    def images(lower: Array, upper: Array) -> tuple[Array, Array]:
        n, d = lower.shape
        given = lipschitz(lower, upper) if callable(lipschitz) else lipschitz
        bound = _check_lipschitz(given, n, d)
        width = upper - lower
        largest = np.maximum(np.abs(lower), np.abs(upper)).max(axis=1, keepdims=True)
        radius = _radius(bound, 0.5 * width, largest) + part * width
        values = _in_chunks(point_map, 0.5 * (lower + upper))
        return np.nextafter(values - radius, -np.inf), np.nextafter(values + radius, np.inf)

    return images


def time_map(field: PointMap, time: float, steps: int) -> PointMap:
    r"""Point map of the flow of a vector field after a fixed time, by Runge-Kutta steps.

    The classical method of fourth order; its error, :math:`O(\text{time} \cdot
    (\text{time}/\text{steps})^4)`, is not bounded here and has to be covered by the padding.

    Args:
        field: Right-hand side of :math:`x' = f(x)`, points of shape ``(n, d)`` to vectors of the
            same shape. A negative ``time`` gives the backward flow.
        time: How long to follow the flow.
        steps: Number of steps of equal length, at least one.

    Returns:
        A point map for :func:`corner_images` or :func:`lipschitz_images`.

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


def _evaluate(point_map: PointMap, axes: Sequence[Array]) -> Array:
    """Images of all points of a product of axes, shape ``(*lengths of the axes, d)``."""
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


def _in_chunks(point_map: PointMap, points: Array) -> Array:
    """Images of some points, shape ``(n, d)``, a part of them at a time."""
    out = np.empty(points.shape)
    for start in range(0, len(points), _CHUNK):
        part = points[start : start + _CHUNK]
        out[start : start + _CHUNK] = _checked(point_map, part)
    return out


def _checked(point_map: PointMap, points: Array) -> Array:
    """Images of some points, or what is wrong with them."""
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


def _check_lipschitz(lipschitz: ArrayLike, n: int, d: int) -> Array:
    bound = np.asarray(lipschitz, dtype=np.float64)
    if bound.shape not in ((), (d, d), (n, d, d)):
        raise ValueError(
            f"lipschitz must be a number or have shape ({d}, {d}) or ({n}, {d}, {d}), "
            f"got shape {bound.shape}"
        )
    if not (np.isfinite(bound) & (bound >= 0)).all():
        raise ValueError(
            f"lipschitz must be finite and not negative, got {bound.min()} to {bound.max()}"
        )
    return bound


def _radius(bound: Array, half: Array, largest: ArrayLike) -> Array:
    """How far the image of a box can reach from that of its centre, rounded up.

    A box may be a rounding error wider than its width and its centre off by another, and the sum
    over the axes rounds at most ``d + 1`` times: far less than what is added.

    Args:
        bound: A number, or matrices of shape ``(d, d)`` or ``(n, d, d)``.
        half: Half the widths of the boxes, shape ``(d,)`` or ``(n, d)``.
        largest: Largest coordinate of the boxes, a number or shape ``(n, 1)``.

    Returns:
        Shape ``(d,)`` or ``(n, d)``.
    """
    d = half.shape[-1]
    if bound.ndim == 0:
        length = np.linalg.norm(half, axis=-1, keepdims=True)
        radius, steepest = np.broadcast_to(bound * length, half.shape), np.full(d, bound)
    else:
        radius, steepest = (bound @ half[..., None])[..., 0], bound.sum(axis=-1)
    slack = 8 * (d + 2) * np.finfo(np.float64).eps
    return radius * (1 + slack) + slack * largest * steepest


def _check_padding(padding: float) -> float:
    if not (np.isfinite(padding) and padding >= 0):
        raise ValueError(f"padding must be finite and not negative, got {padding!r}")
    return float(padding)
