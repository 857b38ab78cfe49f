r"""Order retractions: the partial order of the Morse sets extended to all cells, as a tiling.

Here the exterior counts as one more Morse set, below everything that can leave the box.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Cells, Mask
from lightning_morse.conley.condensation import Condensation, gather_rows
from lightning_morse.conley.morse_sets import MorseGraph, with_exterior
from lightning_morse.conley.packed_sets import unpacked


@dataclass(frozen=True, eq=False)
class OrderRetraction:
    r"""An order-preserving map from all components onto the Morse sets, or why there is none.

    Attributes:
        tiles: Number of the Morse set in whose tile each cell lies, ``n_morse_sets`` for the tile
            of the exterior, -1 for a cell left out because it can reach the exterior; shape
            ``(n_cells,)``. None if no retraction was found.
        reason: Empty if there is a retraction; otherwise the obstacle.
        impossible: Whether it is certain that no retraction exists. Otherwise the search, which
            does not backtrack, may have missed one.
    """

    tiles: NDArray[np.int32] | None
    reason: str
    impossible: bool

    def block(self, members: Iterable[int]) -> Mask:
        """Union of the tiles of the given Morse sets, boolean, shape ``(n_cells,)``.

        If ``members`` is a down-set, the union is an attracting block: no path leads out of it.
        Unions and intersections of down-sets correspond to those of their blocks.

        Args:
            members: Numbers of Morse sets.

        Raises:
            ValueError: If there is no retraction.
        """
        if self.tiles is None:
            raise ValueError(
                f"there are no tiles, because {self.reason}; attracting_block needs no retraction "
                "and gives an attracting block all the same"
            )
        return np.isin(self.tiles, list(members))


def order_retraction(found: MorseGraph, *, confined: bool = False) -> OrderRetraction:
    r"""Find an order retraction :math:`\sigma: SC(F) \to M(F)`.

    Paths define a partial order on the components of the map, and on the Morse sets among them. An
    order retraction maps every component to a Morse set, each Morse set to itself, and preserves
    the order: if a path leads from ``c`` to ``b``, then :math:`\sigma(b) \le \sigma(c)`. The
    preimages of the Morse sets then form a Morse tiling, and those of down-sets a lattice of
    attracting blocks (Kalies, Mischaikow, Vandervorst, "Lattice structures for attractors III",
    2022). A retraction need not exist: a component below two saddles and above two attractors,
    where both saddles lie above both attractors and no Morse set lies in between, cannot be
    assigned to any Morse set.

    :math:`\sigma(c)` must lie above all Morse sets that ``c`` reaches and below all that reach
    ``c``. If for some component no Morse set does, it is certain that there is no retraction.
    Otherwise components are assigned from the sinks up, each to a minimal Morse set still
    available to it; this never fails where least upper bounds exist. If it does fail, the same is
    tried from the sources down. The result is verified on every edge.

    A cell near the boundary of the box that can reach both the exterior and an attractor already
    rules out a retraction, unless some Morse set lies above both. With ``confined``, only the
    cells that cannot reach the exterior take part: no path leads out of them, so the map restricts
    to them.

    Args:
        found: A Morse graph.
        confined: Whether to leave out the cells, and the Morse sets, that can reach the exterior.

    Returns:
        The retraction, or the reason why there is none.

    Example:
        Two fixed cells, one between them that maps to both, and one that maps to the first:

        >>> from scipy.sparse import csr_array
        >>> from lightning_morse.conley.morse_sets import morse_graph
        >>> rows = [[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0]]
        >>> image = csr_array(np.array([*rows, [0, 0, 0, 0, 1]]))
        >>> order_retraction(morse_graph(image)).tiles.tolist()
        [0, 1, 2, 0]
    """
    problem = _problem(found, confined)
    condensation = found.condensation
    stuck = np.flatnonzero(~problem.choices.any(axis=1))
    if stuck.size:
        first = int(stuck[0])
        low, high = np.flatnonzero(problem.below[first]), np.flatnonzero(problem.above[first])
        return OrderRetraction(
            None,
            f"no Morse set lies above all of {low.tolist()}, which cell {problem.vertex[first]} "
            f"reaches, and below all of {high.tolist()}, which reach it",
            True,
        )
    order = problem.order
    for graph, related in ((condensation, order), (problem.reverse, order.T)):
        sigma = _assigned(graph, problem.choices, related)
        if sigma is not None and _preserves_order(condensation, sigma, order):
            component = condensation.component[:-1]
            tiles = np.where(problem.left_out[component], -1, sigma[component])
            return OrderRetraction(tiles.astype(np.int32), "", False)
    return OrderRetraction(
        None, "the search, from the sinks up and from the sources down, ran into a dead end", False
    )


@dataclass(frozen=True, eq=False)
class _Problem:
    """Which Morse sets each component may be assigned to. The exterior counts as the last one.

    Attributes:
        vertex: One vertex of each component, shape ``(n_components,)``.
        reverse: The condensation with every edge reversed.
        below: Morse sets that each component reaches, shape ``(n_components, n_sets + 1)``.
        above: Morse sets that reach each component, same shape.
        order: Whether ``p <= q``, at ``[q, p]``, shape ``(n_sets + 1, n_sets + 1)``.
        left_out: Components that take no part, shape ``(n_components,)``.
        choices: Morse sets that lie above all of ``below`` and below all of ``above``, shape
            ``(n_components, n_sets + 1)``.
    """

    vertex: Cells
    reverse: Condensation
    below: Mask
    above: Mask
    order: Mask
    left_out: Mask
    choices: Mask


def _problem(found: MorseGraph, confined: bool) -> _Problem:
    """Collect what the assignment of components depends on."""
    condensation = found.condensation
    exterior = len(found.morse_sets)
    homes = with_exterior(found.members, condensation)
    _, vertex = np.unique(condensation.component, return_index=True)
    reverse = condensation.reversed()
    below = unpacked(found.reach[vertex], exterior + 1)
    above = unpacked(reverse.reach(homes)[vertex], exterior + 1)

    order = below[condensation.component[homes]]
    left_out = below[:, exterior].copy() if confined else np.zeros(len(below), dtype=bool)
    inner = ~left_out[condensation.component[homes]]
    below &= inner
    above &= inner
    if confined:
        # What is left out is assigned to the exterior, as if that lay above everything.
        order[exterior] = True
        order[:exterior, exterior] = False
    choices = _available(below, above, order) & inner
    choices[left_out] = np.arange(exterior + 1) == exterior
    return _Problem(vertex, reverse, below, above, order, left_out, choices)


def _available(below: Mask, above: Mask, order: Mask) -> Mask:
    """Elements that lie above everything a component reaches and below everything that reaches it.

    Many components share their rows of ``below`` and ``above``, so distinct pairs are tested once.
    """
    n = len(order)
    both = np.packbits(np.hstack([below, above]), axis=1)
    pairs, pair = np.unique(both, axis=0, return_inverse=True)
    bits = np.unpackbits(pairs, axis=1)[:, : 2 * n].astype(np.float32)
    reached, reaching = bits[:, :n], bits[:, n:]
    not_below = (~order).astype(np.float32)
    fits: Mask = (reached @ not_below.T == 0) & (reaching @ not_below == 0)
    return fits[pair.ravel()]


def _assigned(graph: Condensation, choices: Mask, order: Mask) -> NDArray[np.int32] | None:
    """Assign to each component, one generation at a time, a minimal element available to it.

    Args:
        graph: The condensation; the target of an edge is assigned before its source.
        choices: Elements available to each component, shape ``(n_components, n_elements)``.
        order: ``order[q, p]`` says whether ``p <= q``.

    Returns:
        One element per component, or None at a dead end.
    """
    # With lower elements first, the first available one is minimal among those available.
    lowest_first = np.argsort(order.sum(axis=1), kind="stable")
    rank = np.empty_like(lowest_first)
    rank[lowest_first] = np.arange(rank.size)
    available = np.packbits(choices[:, lowest_first], axis=1)
    higher = np.packbits(order.T[lowest_first][:, lowest_first], axis=1)  # all elements above each
    sigma = np.zeros(len(choices), dtype=np.int32)
    for ready in graph.generations():
        below, starts, counts = gather_rows(graph.graph, ready)
        left = available[ready]
        bound = counts > 0
        if bound.any():
            settled = higher[rank[sigma[below]]]
            left[bound] &= np.bitwise_and.reduceat(settled, starts[bound], axis=0)
        left_to = np.unpackbits(left, axis=1, count=rank.size)
        if not left_to.any(axis=1).all():
            return None
        sigma[ready] = lowest_first[left_to.argmax(axis=1)]
    return sigma


def _preserves_order(condensation: Condensation, sigma: NDArray[np.int32], order: Mask) -> bool:
    """Whether sigma maps the target of every edge at or below the image of its source."""
    tile = sigma[condensation.component]
    source = np.repeat(tile, np.diff(condensation.edges.indptr))
    return bool(order[source, tile[condensation.edges.indices]].all())
