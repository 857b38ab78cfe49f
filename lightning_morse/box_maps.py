"""From a map given at points to boxes that enclose, or nearly enclose, the images of cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_morse.grid import CubicalGrid

Array = NDArray[np.float64]
PointMap = Callable[[Array], Array]

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
        :func:`~lightning_morse.combinatorial_map.outer_approximation` takes them.

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
    bound = np.asarray(lipschitz, dtype=np.float64)
    d = grid.dim
    if bound.shape not in ((), (d, d), (grid.size, d, d)):
        raise ValueError(
            f"lipschitz must be a number or have shape ({d}, {d}) or ({grid.size}, {d}, {d}), "
            f"got shape {bound.shape}"
        )
    if not (np.isfinite(bound) & (bound >= 0)).all():
        raise ValueError(
            f"lipschitz must be finite and not negative, got {bound.min()} to {bound.max()}"
        )
    half = 0.5 * grid.cell_widths
    radius = np.full(d, bound * np.linalg.norm(half)) if bound.ndim == 0 else bound @ half
    # A cell may be a rounding error wider than its width and its centre off by another, and the
    # sum over j rounds at most d + 1 times: far less than this.
    largest = np.maximum(np.abs(grid.lower), np.abs(grid.upper)).max()
    slack = 8 * (d + 2) * np.finfo(np.float64).eps
    steepest = bound.sum(axis=-1) if bound.ndim else np.full(d, bound)
    radius = radius * (1 + slack) + slack * largest * steepest + pad
    middle = [0.5 * (e[:-1] + e[1:]) for e in grid.edges]
    values = _evaluate(point_map, middle).reshape(grid.size, d)
    return np.nextafter(values - radius, -np.inf), np.nextafter(values + radius, np.inf)


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
        images = np.asarray(point_map(points), dtype=np.float64)
        if images.shape != points.shape:
            raise ValueError(
                f"point_map must return one image of {d} coordinates for each of the "
                f"{len(points)} points, shape {points.shape}, got {images.shape}"
            )
        wrong = np.isnan(images).any(axis=1)
        if wrong.any():
            raise ValueError(
                f"point_map must not return NaN, but does at {points[wrong][0].tolist()}; return "
                "infinity where the map diverges, or shrink the box of the grid"
            )
        out[start : start + step] = images.reshape((*part[0].shape, d))
    return out


def _check_padding(padding: float) -> float:
    if not (np.isfinite(padding) and padding >= 0):
        raise ValueError(f"padding must be finite and not negative, got {padding!r}")
    return float(padding)
