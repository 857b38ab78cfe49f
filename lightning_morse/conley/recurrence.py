"""Which components of a combinatorial map can hold recurrence, and how often they come round."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from lightning_morse._typing import Cells


def period(image: csr_array, cells: ArrayLike) -> int:
    r"""Greatest common divisor of the lengths of all cycles in a strongly connected component.

    A component of period ``p`` falls into ``p`` classes of cells that the map permutes in a circle.
    If the map is an outer approximation of :math:`f`, an orbit of :math:`f` that stays in the
    component visits the classes in turn: every periodic point in it has a period divisible by
    ``p``, and with ``p > 1`` there is no fixed point among them. Period 1 says nothing: a coarse
    map has it wherever one cell maps to itself. Found from the distances to one vertex: the
    divisor of ``distance(u) + 1 - distance(v)`` over all edges ``u -> v`` (Denardo, "Periods of
    connected networks and powers of nonnegative matrices", 1977).

    Args:
        image: Adjacency of the map, square; row ``i`` is the image of vertex ``i``.
        cells: Vertices of one strongly connected component, shape ``(k,)``.

    Returns:
        The period, at least 1.

    Raises:
        ValueError: If the cells are not strongly connected, or have no edge between them.

    Example:
        >>> image = csr_array(np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]))
        >>> period(image, [0, 1, 2])
        3
    """
    chosen = np.asarray(cells, dtype=np.int64)
    if chosen.ndim != 1 or not chosen.size:
        raise ValueError(f"cells must be one or more vertices in a row, got shape {chosen.shape}")
    source, target = _edges_inside(image, chosen)
    if not source.size:
        raise ValueError(
            f"the {chosen.size} cells must be a recurrent component, got no edge between them"
        )
    k = chosen.size
    inside = csr_array((np.ones(source.size), (source, target)), shape=(k, k))
    distance = dijkstra(inside, indices=0, unweighted=True)
    back = dijkstra(inside.T.tocsr(), indices=0, unweighted=True)
    apart = ~(np.isfinite(distance) & np.isfinite(back))
    if apart.any():
        raise ValueError(
            f"the cells must be strongly connected, got cell {chosen[apart][0]} that is not on a "
            f"cycle with cell {chosen[0]}. Ask for one Morse set at a time"
        )
    steps = distance.astype(np.int64)
    return int(np.gcd.reduce(np.abs(steps[source] + 1 - steps[target])))


def drifts(lower: ArrayLike, upper: ArrayLike) -> bool:
    r"""Whether all displacements in a set certainly have a component along one direction.

    If ``v . (f(x) - x) > 0`` for all ``x`` of a compact set, ``v . x`` rises by at least some fixed
    amount with every step in it, so no orbit stays for ever, forwards or backwards: the set holds
    nothing recurrent, periodic or not. For a map this is what the absence of critical points is for
    a gradient flow. (A set mapped into itself never passes: where ``v . x`` is largest it cannot
    rise.) Tried are the axes, the mean of the middle displacements, and that of their directions;
    a direction that does not work proves nothing.

    Args:
        lower: Lower corners of boxes that hold the displacements of the set's points, one a cell,
            shape ``(k, d)``.
        upper: Upper corners, same shape.

    Raises:
        ValueError: If the shapes do not match.

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
    # Of the sum of d products each rounded once; a set that moves less than this stays.
    rounding = 8 * np.finfo(np.float64).eps * np.abs(middle).max()
    return bool((least > rounding).any())


def _edges_inside(image: csr_array, cells: Cells) -> tuple[Cells, Cells]:
    """Edges between some vertices, by their positions among these."""
    number = np.full(image.shape[0], -1, dtype=np.int64)
    number[cells] = np.arange(cells.size)
    rows = csr_array(image)[cells].tocoo()
    target = number[rows.col]
    kept = (target >= 0) & (rows.data != 0)
    return rows.row[kept].astype(np.int64), target[kept]
