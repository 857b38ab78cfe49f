"""Periods of recurrent components, and a test that a component contains no recurrence at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from lightning_morse._typing import Cells

# The component of a displacement along a direction, a sum of ``d`` products, counts as positive
# only above this many units of rounding of the largest displacement. Soundness depends on it, since
# the sign of a smaller sum could be that of its rounding error. Sized for directions of at most
# about unit length.
_ROUNDING_UNITS = 8


def period(image: csr_array, cells: ArrayLike) -> int:
    r"""Greatest common divisor of the lengths of all cycles in a strongly connected component.

    A component of period ``p`` splits into ``p`` classes of cells that the map permutes
    cyclically. If the map is an outer approximation of :math:`f`, an orbit of :math:`f` that stays
    in the component visits the classes in turn: the period of every periodic point in it is
    divisible by ``p``, and if ``p > 1`` it contains no fixed point. Period 1 carries no
    information: a coarse map has it wherever a cell maps to itself. Computed from the distances
    from one vertex, as the greatest common divisor of ``distance(u) + 1 - distance(v)`` over all
    edges ``u -> v`` (Denardo, "Periods of connected networks and powers of nonnegative matrices",
    1977).

    Args:
        image: Adjacency of the map, square; row ``i`` is the image of vertex ``i``.
        cells: Vertices of one strongly connected component, shape ``(k,)``.

    Returns:
        The period, at least 1.

    Raises:
        ValueError: If ``cells`` is not a nonempty vector, the cells are not strongly connected, or
            there is no edge between them.

    Example:
        >>> image = csr_array(np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]))
        >>> period(image, [0, 1, 2])
        3
    """
    chosen = np.asarray(cells, dtype=np.int64)
    if chosen.ndim != 1 or not chosen.size:
        raise ValueError(f"cells must be a vector of at least one vertex, got shape {chosen.shape}")
    source, target = _edges_inside(image, chosen)
    if not source.size:
        raise ValueError(
            f"the {chosen.size} cells must form a recurrent component, got no edge between them"
        )
    k = chosen.size
    inside = csr_array((np.ones(source.size), (source, target)), shape=(k, k))
    distance = dijkstra(inside, indices=0, unweighted=True)
    back = dijkstra(inside.T.tocsr(), indices=0, unweighted=True)
    apart = ~(np.isfinite(distance) & np.isfinite(back))
    if apart.any():
        raise ValueError(
            f"the cells must be strongly connected, got cell {chosen[apart][0]}, which is on no "
            f"cycle with cell {chosen[0]}. Pass the cells of one Morse set at a time"
        )
    steps = distance.astype(np.int64)
    return int(np.gcd.reduce(np.abs(steps[source] + 1 - steps[target])))


def drifts(lower: ArrayLike, upper: ArrayLike) -> bool:
    r"""Whether all displacements in a set certainly have a positive component along one direction.

    If ``v . (f(x) - x) > 0`` for all ``x`` in a compact set and a continuous ``f``, then ``v . x``
    increases by at least a fixed amount with every step inside the set. No orbit stays in it for
    ever, forwards or backwards: the set contains no invariant set, periodic or not. For maps this
    plays the part that the absence of critical points plays for gradient flows. (A set mapped into
    itself never passes: at the maximum of ``v . x`` it cannot increase.) The directions tried are
    the axes, the mean of the central displacements, and the mean of their normalised directions.
    If none of them works, nothing is proved either way.

    Args:
        lower: Lower corners of boxes that contain the displacements of the points of each cell,
            shape ``(k, d)``.
        upper: Upper corners, same shape.

    Returns:
        True if one of the directions proves that nothing in the set recurs.

    Raises:
        ValueError: If the shapes are not ``(k, d)`` or do not match.

    Example:
        >>> drifts([[0.1, -1.0], [0.2, 0.0]], [[0.3, 1.0], [0.3, 1.0]])  # always to the right
        True
        >>> drifts([[0.1], [-0.3]], [[0.3], [-0.1]])  # there and back
        False
    """
    low, up = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
    if low.ndim != 2 or low.shape != up.shape or not low.size:
        raise ValueError(
            "lower and upper must both have shape (k, d) with k, d >= 1, got "
            f"{low.shape} and {up.shape}"
        )
    middle = 0.5 * (low + up)
    length = np.linalg.norm(middle, axis=1, keepdims=True)
    headings = middle / np.where(length > 0, length, 1.0)
    axes = np.eye(low.shape[1])
    tried = np.concatenate([axes, -axes, middle.mean(axis=0)[None], headings.mean(axis=0)[None]])
    least = np.minimum(tried[:, None] * low, tried[:, None] * up).sum(axis=2).min(axis=1)
    rounding = _ROUNDING_UNITS * np.finfo(np.float64).eps * np.abs(middle).max()
    return bool((least > rounding).any())


def _edges_inside(image: csr_array, cells: Cells) -> tuple[Cells, Cells]:
    """Edges between the given vertices, as pairs of positions among these."""
    number = np.full(image.shape[0], -1, dtype=np.int64)
    number[cells] = np.arange(cells.size)
    rows = csr_array(image)[cells].tocoo()
    target = number[rows.col]
    kept = (target >= 0) & (rows.data != 0)
    return rows.row[kept].astype(np.int64), target[kept]
