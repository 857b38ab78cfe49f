r"""Tiles, attracting blocks, separatrices: the order of the Morse sets carried over to all cells.

The exterior counts as one more Morse set here, below everything that can leave the box.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Mask
from lightning_morse.conley.condensation import Condensation, gather_rows
from lightning_morse.conley.morse_sets import MorseGraph


@dataclass(frozen=True, eq=False)
class OrderRetraction:
    r"""An order-preserving map from all components onto the Morse sets, or why there is none.

    Attributes:
        tiles: For each cell the number of the Morse set in whose tile it lies, ``n_morse_sets``
            for the tile of the exterior, -1 for a cell left out because it may leave; shape
            ``(n_cells,)``. None if no retraction was found.
        reason: Empty if there is one; otherwise what stands in its way.
        impossible: Whether it is certain that there is none. Otherwise the search, which does not
            go back on a choice, may have missed it.
    """

    tiles: NDArray[np.int32] | None
    reason: str
    impossible: bool

    def block(self, members: Iterable[int]) -> Mask:
        """Union of the tiles of some Morse sets, shape ``(n_cells,)``.

        If with each Morse set all those below it are members, no path leads out of the union, and
        unions and intersections of members become those of cells.

        Raises:
            ValueError: If there is no retraction.
        """
        if self.tiles is None:
            raise ValueError(
                f"there are no tiles, because {self.reason}; attracting_block without a retraction "
                "gives an attracting block all the same"
            )
        return np.isin(self.tiles, list(members))


def order_retraction(found: MorseGraph, *, confined: bool = False) -> OrderRetraction:
    r"""Find an order retraction :math:`\sigma: SC(F) \to M(F)`.

    The components of the map and the Morse sets among them are partially ordered by paths. An
    order retraction sends every component to a Morse set, each Morse set to itself, and keeps the
    order: if a path leads from ``c`` to ``b`` then :math:`\sigma(b) \le \sigma(c)`. The preimages
    of Morse sets then are a Morse tiling, those of down-sets a lattice of attracting blocks
    (Kalies, Mischaikow, Vandervorst, "Lattice structures for attractors III", 2022). It does not
    always exist: two attractors below the same two saddles, and a component between the two pairs,
    leave that component nowhere to go.

    :math:`\sigma(c)` must lie above all Morse sets that ``c`` reaches and below all that reach
    ``c``. If for some component no Morse set does, there is no retraction, which is then certain.
    Otherwise components are settled from the sinks up, each on a lowest Morse set that is left to
    it; where least upper bounds exist that never fails. If it fails the same is tried from the
    sources down. What comes out is checked on every edge.

    A cell at the edge of the box that may leave or fall to an attractor, with no Morse set above
    both, already rules a retraction out. With ``confined`` only the cells from which the exterior
    cannot be reached take part: no path leads out of them, so they are a map of their own.

    Args:
        found: A Morse graph.
        confined: Whether to leave out the cells, and the Morse sets, that can reach the exterior.

    Returns:
        The retraction, or the reason why there is none.

    Example:
        Two cells at rest, one between them that goes either way, one more that falls to the left:

        >>> from scipy.sparse import csr_array
        >>> from lightning_morse.conley.morse_sets import morse_graph
        >>> rows = [[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0]]
        >>> image = csr_array(np.array([*rows, [0, 0, 0, 0, 1]]))
        >>> order_retraction(morse_graph(image)).tiles.tolist()
        [0, 1, 2, 0]
    """
    condensation = found.condensation
    n_cells = condensation.component.size - 1
    exterior = len(found.morse_sets)
    homes = np.array([*(cells[0] for cells in found.morse_sets), n_cells], dtype=np.int64)
    _, vertex = np.unique(condensation.component, return_index=True)  # one for each component
    up = condensation
    down = condensation.reversed()
    below = _unpack(found.reach[vertex], exterior + 1)
    above = _unpack(down.reach(homes)[vertex], exterior + 1)

    order = below[condensation.component[homes]]  # order[q, p]: p <= q
    left_out = below[:, exterior].copy() if confined else np.zeros(len(below), dtype=bool)
    inner = ~left_out[condensation.component[homes]]
    below &= inner
    above &= inner
    if confined:
        # What is left out goes to the exterior, as if that lay above everything.
        order[exterior] = True
        order[:exterior, exterior] = False

    both = np.packbits(np.hstack([below, above]), axis=1)
    pairs, pair = np.unique(both, axis=0, return_inverse=True)
    bits = np.unpackbits(pairs, axis=1)[:, : 2 * (exterior + 1)].astype(np.float32)
    reached, reaching = bits[:, : exterior + 1], bits[:, exterior + 1 :]
    # m may take a component if it lies above all it reaches and below all that reach it.
    strange = (~order).astype(np.float32)
    may = (reached @ strange.T == 0) & (reaching @ strange == 0) & inner
    choices = may[pair.ravel()]
    choices[left_out] = np.arange(exterior + 1) == exterior
    stuck = np.flatnonzero(~choices.any(axis=1))
    if stuck.size:
        first = int(stuck[0])
        low, high = np.flatnonzero(below[first]), np.flatnonzero(above[first])
        return OrderRetraction(
            None,
            f"no Morse set lies above all of {low.tolist()}, which cell {vertex[first]} reaches, "
            f"and below all of {high.tolist()}, which reach it",
            True,
        )
    for graph, related in ((up, order), (down, order.T)):
        sigma = _settle(graph, choices, related)
        if sigma is not None and _keeps_order(up, sigma, order):
            tiles = sigma[condensation.component[:-1]]
            return OrderRetraction(
                np.where(left_out[condensation.component[:-1]], -1, tiles).astype(np.int32),
                "",
                False,
            )
    return OrderRetraction(
        None, "the search, from the sinks up and from the sources down, ran into a dead end", False
    )


def _unpack(bits: NDArray[np.uint8], count: int) -> Mask:
    return np.unpackbits(bits, axis=1, count=count, bitorder="little") == 1


def _settle(graph: Condensation, choices: Mask, order: Mask) -> NDArray[np.int32] | None:
    """Choose for each component, a generation at a time, a lowest element that is left to it.

    Args:
        graph: The condensation; what an edge leads to is settled before.
        choices: Elements open to each component, shape ``(n_components, n_elements)``.
        order: ``order[q, p]`` says whether ``p <= q``.

    Returns:
        One element a component, or None at a dead end.
    """
    # Lower elements first: then the first one that is open is a lowest one.
    lowest_first = np.argsort(order.sum(axis=1), kind="stable")
    rank = np.empty_like(lowest_first)
    rank[lowest_first] = np.arange(rank.size)
    open_ = np.packbits(choices[:, lowest_first], axis=1)
    higher = np.packbits(order.T[lowest_first][:, lowest_first], axis=1)  # all above an element
    sigma = np.zeros(len(choices), dtype=np.int32)
    for ready in graph.generations():
        below, starts, counts = gather_rows(graph.graph, ready)
        left = open_[ready]
        bound = counts > 0
        if bound.any():
            settled = higher[rank[sigma[below]]]
            left[bound] &= np.bitwise_and.reduceat(settled, starts[bound], axis=0)
        left_to = np.unpackbits(left, axis=1, count=rank.size)
        if not left_to.any(axis=1).all():
            return None
        sigma[ready] = lowest_first[left_to.argmax(axis=1)]
    return sigma


def _keeps_order(condensation: Condensation, sigma: NDArray[np.int32], order: Mask) -> bool:
    """Whether the images of the two ends of every edge are ordered as the edge is."""
    tile = sigma[condensation.component]
    source = np.repeat(tile, np.diff(condensation.edges.indptr))
    return bool(order[source, tile[condensation.edges.indices]].all())


def down_sets(found: MorseGraph, *, limit: int = 1000) -> Iterator[frozenset[int]]:
    """Sets of Morse sets that hold with each one all below it: the lattice of attractors.

    Each stands for an attractor of every map that the combinatorial one encloses (Kalies,
    Mischaikow, Vandervorst, "Lattice structures for attractors I", 2014). Morse sets from which the
    exterior can be reached are in none of them. There may be exponentially many; they come one at
    a time, smaller ones first.

    Args:
        found: A Morse graph.
        limit: How many may come.

    Yields:
        The sets, each once, the empty one first.

    Raises:
        ValueError: When there are more than ``limit``, after that many have come.

    Example:
        Two attractors below a saddle:

        >>> from scipy.sparse import csr_array
        >>> from lightning_morse.conley.morse_sets import morse_graph
        >>> image = csr_array(np.array([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
        >>> [sorted(s) for s in down_sets(morse_graph(image))]
        [[], [0], [2], [0, 2], [0, 1, 2]]
    """
    leaves = found.reaches(len(found.morse_sets))
    inner = [i for i, cells in enumerate(found.morse_sets) if not leaves[cells[0]]]
    graph = found.graph.subgraph(inner)
    downhill = nx.lexicographical_topological_sort(graph, key=lambda i: -i)
    order = list(downhill)[::-1]
    # Read in this order, every beginning of a down-set is a down-set.
    waiting: deque[tuple[frozenset[int], int]] = deque([(frozenset(), 0)])
    come = 0
    while waiting:
        if come == limit:
            raise ValueError(
                f"the lattice has more than {limit} down-sets; raise limit, or take fewer of them"
            )
        chosen, place = waiting.popleft()
        yield chosen
        come += 1
        for later in range(place, len(order)):
            if all(p in chosen for p in graph.successors(order[later])):
                waiting.append((chosen | {order[later]}, later + 1))


def attracting_block(found: MorseGraph, members: Iterable[int]) -> Mask:
    """Largest set of cells that reaches no other Morse sets than some given ones.

    No path leads out of it, so it is an attracting block for its Morse sets. It exists without an
    order retraction; intersections of members become those of cells, unions need not.

    Args:
        found: A Morse graph.
        members: Numbers of Morse sets; with each one all below it.

    Returns:
        Cell mask, shape ``(n_cells,)``.

    Raises:
        ValueError: If ``members`` is not one of the sets that :func:`down_sets` gives.
    """
    chosen = frozenset(int(i) for i in members)
    known = range(len(found.morse_sets))
    for i in sorted(chosen):
        if i not in known:
            raise ValueError(f"members must be among the Morse sets 0 to {len(known) - 1}, got {i}")
        missing = set(found.graph.successors(i)) - chosen
        leaves = found.reaches(len(known))[found.morse_sets[i][0]]
        if missing or leaves:
            what = "the exterior" if leaves else f"Morse set {min(missing)}"
            raise ValueError(
                f"members must hold with each Morse set all below it, but {i} leads to {what}"
            )
    others = np.zeros(8 * found.reach.shape[1], dtype=bool)
    others[[i for i in range(len(known) + 1) if i not in chosen]] = True
    mask = np.packbits(others, bitorder="little")
    reaches_others = np.any(found.reach & mask, axis=1)
    return ~reaches_others[:-1]


def separatrix(found: MorseGraph, one: int, other: int) -> Mask:
    """Cells from which two attractors can both be reached.

    Every cell that holds points of both basins is among them.

    Args:
        found: A Morse graph.
        one: Number of an attractor.
        other: Number of another attractor.

    Returns:
        Cell mask, shape ``(n_cells,)``.

    Raises:
        ValueError: If the two are not different attractors.
    """
    if one == other or not {one, other} <= set(found.attractors):
        raise ValueError(
            f"one and other must be two of the attractors {found.attractors}, got {one} and {other}"
        )
    return (found.reaches(one) & found.reaches(other))[:-1]
