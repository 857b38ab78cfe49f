"""Image boxes of cells, from a map that can be evaluated at points."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array
from lightning_morse.conley.point_maps import PointMap, images_of, images_on_product
from lightning_morse.grids.cubical import CubicalGrid

BoxMap = Callable[[Array, Array], tuple[Array, Array]]

# Allowance for rounding in the radius of a Lipschitz box, in units of rounding per axis. The sum
# over ``d`` axes takes ``d + 1`` roundings, width and centre of the box one each, all of at most
# half a unit. Soundness of the Lipschitz boxes depends on it being more than that.
_ROUNDING_UNITS_PER_AXIS = 8


def corner_images(
    point_map: PointMap, grid: CubicalGrid, *, padding: float = 0.0
) -> tuple[Array, Array]:
    r"""Bounding box of the images of the corners of each cell, padded by a multiple of its widths.

    This is the usual box map of computational Conley theory (Arai, Kalies, Kokubu, Mischaikow,
    Oka, Pilarczyk, "A database schema for the analysis of global dynamics of multiparameter
    systems", 2009). The box contains the image of the cell if the map is monotone in each
    coordinate on the cell, or if ``padding`` makes up for what the corners miss; neither is
    checked. With a known Lipschitz bound, :func:`lipschitz_images` needs no such premise.

    Each corner of the grid is evaluated once, not once per cell that shares it.

    Args:
        point_map: Maps points, shape ``(n, d)``, to their images, same shape. On a periodic axis
            it must return the lift: coordinates that are not wrapped.
        grid: The cubical grid, ``d`` axes.
        padding: Margin on every side, in cell widths.

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
    values = images_on_product(point_map, grid.edges)
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
    r"""Box that contains the image of each cell, given a Lipschitz bound on the map.

    The map is evaluated at the centre of each cell. If :math:`|f_i(x) - f_i(y)| \le \sum_j L_{ij}
    |x_j - y_j|` on the cell, its image lies within :math:`\sum_j L_{ij} h_j / 2` of
    :math:`f_i(\text{centre})`, where :math:`h_j` are the cell widths. That premise cannot be
    checked here. The arithmetic of this function is rounded outward; that of ``point_map`` is not
    known, so give a ``padding`` (1e-9, say) if its rounding errors matter.

    Args:
        point_map: As in :func:`corner_images`.
        grid: The cubical grid, ``d`` axes.
        lipschitz: The bound: a number (a Lipschitz constant in the Euclidean norm), or entrywise
            bounds :math:`L_{ij} \ge |\partial f_i / \partial x_j|` of shape ``(d, d)``, or one
            such matrix per cell, shape ``(grid.size, d, d)``.
        padding: Margin on every side, in cell widths.

    Returns:
        As in :func:`corner_images`.

    Raises:
        ValueError: If ``lipschitz`` has another shape, is negative or not finite, ``padding`` is
            negative or not finite, or the map returns another shape or NaN.

    Example:
        The images of two cells under x^2, whose slope is at most 1 on one and 2 on the other:

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
    values = images_on_product(point_map, middle).reshape(grid.size, grid.dim)
    return np.nextafter(values - radius, -np.inf), np.nextafter(values + radius, np.inf)


def corner_box_map(point_map: PointMap, *, padding: float = 0.0) -> BoxMap:
    r"""As :func:`corner_images`, for boxes of any size, as adaptive grids need it.

    Each box is padded by a multiple of its own widths. Corners are evaluated for each box anew.

    Args:
        point_map: As in :func:`corner_images`.
        padding: Margin on every side, in widths of the box.

    Returns:
        A function from the lower and upper corners of boxes, two arrays of shape ``(n, d)``, to
        those of the image boxes.

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
    margin = _check_padding(padding)

    def images(lower: Array, upper: Array) -> tuple[Array, Array]:
        n, d = lower.shape
        low, up = np.full((n, d), np.inf), np.full((n, d), -np.inf)
        for corner in itertools.product((False, True), repeat=d):
            values = images_of(point_map, np.where(corner, upper, lower))
            np.minimum(low, values, out=low)
            np.maximum(up, values, out=up)
        pad = margin * (upper - lower)
        return low - pad, up + pad

    return images


def lipschitz_box_map(
    point_map: PointMap,
    lipschitz: ArrayLike | Callable[[Array, Array], ArrayLike],
    *,
    padding: float = 0.0,
) -> BoxMap:
    r"""As :func:`lipschitz_images`, for boxes of any size, as adaptive grids need it.

    The bound may depend on the box, and can then be sharper on smaller boxes.

    Args:
        point_map: As in :func:`corner_images`.
        lipschitz: A number or a matrix of shape ``(d, d)``, as in :func:`lipschitz_images`; or a
            function from the corners of boxes, two arrays of shape ``(n, d)``, to bounds on these
            boxes, shape ``(n, d, d)``.
        padding: Margin on every side, in widths of the box.

    Returns:
        A function from the lower and upper corners of boxes, two arrays of shape ``(n, d)``, to
        those of the image boxes.

    Raises:
        ValueError: If ``padding`` is negative or not finite; when called, if the bound has another
            shape, is negative or not finite, or the map returns another shape or NaN.

    Example:
        x^2, whose slope on an interval in [0, 1] is at most twice its upper end:

        >>> images = lipschitz_box_map(lambda x: x**2, lambda low, up: 2 * up[:, :, None])
        >>> lower, upper = images(np.array([[0.0], [0.5]]), np.array([[0.5], [1.0]]))
        >>> np.round(np.hstack([lower, upper]), 6).tolist()
        [[-0.1875, 0.3125], [0.0625, 1.0625]]
    """
    margin = _check_padding(padding)

    def images(lower: Array, upper: Array) -> tuple[Array, Array]:
        n, d = lower.shape
        given = lipschitz(lower, upper) if callable(lipschitz) else lipschitz
        bound = _check_lipschitz(given, n, d)
        width = upper - lower
        largest = np.maximum(np.abs(lower), np.abs(upper)).max(axis=1, keepdims=True)
        radius = _radius(bound, 0.5 * width, largest) + margin * width
        values = images_of(point_map, 0.5 * (lower + upper))
        return np.nextafter(values - radius, -np.inf), np.nextafter(values + radius, np.inf)

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
    """Distance of the image of a box from the image of its centre, per axis, rounded up.

    The stored width and centre of a box are each off by a rounding error, and the sum over the
    axes is rounded at most ``d + 1`` times; the allowance covers both with room to spare.

    Args:
        bound: A number, or matrices of shape ``(d, d)`` or ``(n, d, d)``.
        half: Half-widths of the boxes, shape ``(d,)`` or ``(n, d)``.
        largest: Largest absolute coordinate of the boxes, a number or shape ``(n, 1)``.

    Returns:
        Shape ``(d,)`` or ``(n, d)``.
    """
    d = half.shape[-1]
    if bound.ndim == 0:
        length = np.linalg.norm(half, axis=-1, keepdims=True)
        radius, steepest = np.broadcast_to(bound * length, half.shape), np.full(d, bound)
    else:
        radius, steepest = (bound @ half[..., None])[..., 0], bound.sum(axis=-1)
    slack = _ROUNDING_UNITS_PER_AXIS * (d + 2) * np.finfo(np.float64).eps
    rounded_up: Array = radius * (1 + slack) + slack * largest * steepest
    return rounded_up


def _check_padding(padding: float) -> float:
    if not (np.isfinite(padding) and padding >= 0):
        raise ValueError(f"padding must be finite and not negative, got {padding!r}")
    return float(padding)
