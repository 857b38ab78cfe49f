r"""Morse indices that are certain, from a band on the Hessian.

A critical point with a certified direction of negative curvature is no minimum. If every cell of a
Morse set that may hold a critical point has one, the set holds no attractor: a gradient flow's
attractor contains a minimum. If every such cell of an attractor has a positive definite Hessian and
the attractor is connected, it holds exactly one minimum: all its critical points are strict minima,
their basins are open and disjoint, and together they cover it.

The Hessian of the warped loss has the inertia of the loss's own at every critical point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from lightning_morse.grid import CubicalGrid

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Inertia:
    """What is certain of the signs of curvature in some cells.

    Attributes:
        index: Number of negative eigenvalues of every Hessian possible in the cell, -1 where that
            is not certain; shape ``(k,)``.
        descends: Whether every Hessian possible in the cell has a negative eigenvalue, same shape.
    """

    index: NDArray[np.int64]
    descends: NDArray[np.bool_]


def certain_inertia(low: Array, high: Array) -> Inertia:
    r"""Inertia shared by all symmetric matrices between two bounds, entry by entry.

    With :math:`C` the middle and :math:`R` the half-width, :math:`S = |\Lambda|^{-1/2} V^T` from
    the eigendecomposition of :math:`C` turns every such matrix into one whose distance from the
    signs of :math:`\Lambda` is at most :math:`|S| R |S|^T`. By Sylvester's law of inertia the
    signs are those of :math:`C` if the norm of that is below 1; and a negative one stays negative
    if its own diagonal entry is.

    Args:
        low: Lower bounds, shape ``(k, d, d)``.
        high: Upper bounds, same shape.

    Example:
        >>> middle, width = np.diag([1.0, -2.0])[None], np.full((1, 2, 2), 0.4)
        >>> certain_inertia(middle - width, middle + width).index.tolist()
        [1]
    """
    values, vectors = np.linalg.eigh(0.5 * (low + high))
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.abs(np.swapaxes(vectors, 1, 2)) / np.sqrt(np.abs(values))[:, :, None]
        spread = scale @ (0.5 * (high - low)) @ np.swapaxes(scale, 1, 2)
    spread = np.nan_to_num(spread, nan=np.inf)
    finite = np.isfinite(spread).all(axis=(1, 2))
    norm = np.full(len(spread), np.inf)
    norm[finite] = np.linalg.norm(spread[finite], ord=2, axis=(1, 2))
    own = np.diagonal(spread, axis1=1, axis2=2)
    return Inertia(
        index=np.where(norm < 1 - 1e-9, (values < 0).sum(axis=1), -1),
        descends=np.asarray(((values < 0) & (own < 1 - 1e-9)).any(axis=1)),
    )


def is_connected(grid: CubicalGrid, cells: NDArray[np.int64]) -> bool:
    """Whether the union of some closed cells is connected; cells that share a corner meet."""
    mask = np.zeros(grid.size, dtype=bool)
    mask[cells] = True
    _, pieces = label(mask.reshape(grid.shape), structure=np.ones((3,) * grid.dim))
    return bool(pieces == 1)
