"""The lattice of attractors: down-sets of Morse sets and their attracting blocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import networkx as nx
import numpy as np

from lightning_morse._typing import Mask
from lightning_morse.conley.morse_sets import MorseGraph


def down_sets(found: MorseGraph, *, limit: int = 1000) -> Iterator[frozenset[int]]:
    """Down-sets of Morse sets, which contain with each one all those below it.

    They represent the lattice of attractors: each stands for an attractor of every map that the
    combinatorial map encloses (Kalies, Mischaikow, Vandervorst, "Lattice structures for attractors
    I", 2014). Morse sets that can reach the exterior belong to none of them. There may be
    exponentially many; they are generated lazily, smaller ones first.

    Args:
        found: A Morse graph.
        limit: Largest number of down-sets to yield.

    Yields:
        The down-sets, each once, the empty one first.

    Raises:
        ValueError: If there are more than ``limit``, after yielding that many.

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
    # In this order every initial segment of a down-set is a down-set itself.
    waiting: deque[tuple[frozenset[int], int]] = deque([(frozenset(), 0)])
    yielded = 0
    while waiting:
        if yielded == limit:
            raise ValueError(
                f"the lattice has more than {limit} down-sets; raise limit, or take fewer of them"
            )
        chosen, place = waiting.popleft()
        yield chosen
        yielded += 1
        for later in range(place, len(order)):
            if all(p in chosen for p in graph.successors(order[later])):
                waiting.append((chosen | {order[later]}, later + 1))


def attracting_block(found: MorseGraph, members: Iterable[int]) -> Mask:
    """Largest set of cells that reach no Morse sets other than the given ones.

    No path leads out of it, so it is an attracting block for these Morse sets. It exists even
    where there is no order retraction. Intersections of down-sets correspond to those of their
    blocks; for unions this need not hold.

    Args:
        found: A Morse graph.
        members: Numbers of Morse sets that form a down-set.

    Returns:
        Cell mask, shape ``(n_cells,)``.

    Raises:
        ValueError: If ``members`` is not one of the down-sets that :func:`down_sets` yields.
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
                "members must contain with each Morse set all those below it, but "
                f"{i} leads to {what}"
            )
    others = np.zeros(8 * found.reach.shape[1], dtype=bool)
    others[[i for i in range(len(known) + 1) if i not in chosen]] = True
    mask = np.packbits(others, bitorder="little")
    block: Mask = ~np.any(found.reach & mask, axis=1)[:-1]
    return block
