"""Morse sets of a combinatorial map, their partial order, and which of them each cell reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from lightning_morse._typing import Cells, Mask
from lightning_morse.conley.condensation import Condensation, condense
from lightning_morse.conley.packed_sets import PackedSets


@dataclass(frozen=True, eq=False)
class MorseGraph:
    """Morse sets of a combinatorial map and the partial order on them.

    Attributes:
        morse_sets: Cell numbers of each Morse set, ascending, arrays of shape ``(k_i,)``; the sets
            are ordered by their first cell.
        graph: Directed graph on ``range(len(morse_sets))``: an edge ``q -> p`` means that a path
            of the map leads from ``q`` down to ``p``; transitively reduced.
        attractors: Numbers of the minimal Morse sets with no path to the exterior.
        condensation: Strongly connected components of the map and the edges between them.
        members: A vertex of the component of each Morse set, shape ``(n_sets,)``.
    """

    morse_sets: tuple[Cells, ...]
    graph: nx.DiGraph
    attractors: tuple[int, ...]
    condensation: Condensation
    members: Cells

    @cached_property
    def reach(self) -> PackedSets:
        """The Morse sets that each vertex can reach, and whether it can reach the exterior.

        One packed set per vertex (:mod:`~lightning_morse.conley.packed_sets`), shape
        ``(n_vertices, n_sets // 8 + 1)``: bit ``i`` stands for Morse set ``i``, the bit after the
        last Morse set for the exterior. A vertex of a Morse set reaches that set. Computed on
        first use.
        """
        return self.condensation.reach(with_exterior(self.members, self.condensation))

    def reaches(self, target: int) -> Mask:
        """Vertices with a path to a Morse set, boolean, shape ``(n_vertices,)``.

        Args:
            target: Number of a Morse set, or ``len(morse_sets)`` for the exterior.
        """
        found: Mask = (self.reach[:, target // 8] >> (target % 8)) & 1 == 1
        return found

    def renumbered(self, order: Sequence[int]) -> MorseGraph:
        """The same Morse sets and order between them, numbered differently.

        Args:
            order: The present number of the set that comes first, second, ...: a permutation of
                ``range(len(morse_sets))``.

        Raises:
            ValueError: If ``order`` is no such permutation.
        """
        if sorted(order) != list(range(len(self.morse_sets))):
            raise ValueError(
                f"order must be a permutation of the {len(self.morse_sets)} Morse sets' numbers, "
                f"got {list(order)}"
            )
        number = {old: new for new, old in enumerate(order)}
        graph = nx.DiGraph()
        graph.add_nodes_from(range(len(self.morse_sets)))
        graph.add_edges_from((number[q], number[p]) for q, p in self.graph.edges)
        return MorseGraph(
            morse_sets=tuple(self.morse_sets[old] for old in order),
            graph=graph,
            attractors=tuple(sorted(number[a] for a in self.attractors)),
            condensation=self.condensation,
            members=self.members[np.asarray(order, dtype=np.int64)],
        )


def morse_graph(image: csr_array, *, critical: ArrayLike | None = None) -> MorseGraph:
    r"""Find the Morse sets of a combinatorial map and the partial order on them.

    A Morse set is a strongly connected component with at least one edge inside (a single cell
    needs a self-loop). If ``image`` is an outer approximation of a continuous map, every
    chain-recurrent point whose orbit stays inside the grid lies in one of these components
    (Kalies, Mischaikow, Vandervorst, "An algorithmic approach to chain recurrence", 2005). A
    gradient flow has no recurrence without a critical point: with ``critical`` given, a component
    none of whose cells can contain a critical point is not a Morse set; paths through it still
    count for the order.

    Args:
        image: Adjacency of the map, square; row ``i`` is the image of vertex ``i``. The last
            vertex is the exterior and never a Morse set.
        critical: Cells that can contain a critical point, boolean, shape ``(n_vertices - 1,)``.
            Without it every recurrent component is a Morse set.

    Returns:
        The Morse sets and their order. Which of them each vertex reaches is computed on first use.

    Raises:
        ValueError: If ``image`` is not square or has no cell, or ``critical`` is not a boolean
            mask of the cells.

    Example:
        Two fixed cells, and one between them that maps to itself and to both:

        >>> image = csr_array(np.array([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
        >>> found = morse_graph(image)
        >>> [cells.tolist() for cells in found.morse_sets], found.attractors
        ([[0], [1], [2]], (0, 2))
        >>> sorted(found.graph.edges)
        [(1, 0), (1, 2)]
    """
    image = csr_array(image)
    n = image.shape[0]
    if image.ndim != 2 or image.shape[1] != n or n < 2:
        raise ValueError(
            "image must be a square matrix with one row per cell and a last one for the exterior, "
            f"got shape {image.shape}"
        )
    condensation = condense(image)
    chosen = condensation.recurrent.copy()
    if critical is not None:
        may_hold = np.asarray(critical)
        if may_hold.dtype != bool or may_hold.shape != (n - 1,):
            raise ValueError(
                f"critical must be boolean with one entry for each of the {n - 1} cells, "
                f"got {may_hold.dtype} of shape {may_hold.shape}"
            )
        filtered = np.zeros_like(chosen)
        filtered[condensation.component[:-1][may_hold]] = True
        chosen &= filtered
    chosen[condensation.component[-1]] = False

    # Morse sets are numbered by their first cells, so that the result does not depend on the order
    # in which the components were found.
    inside = np.flatnonzero(chosen[condensation.component])
    component, first = np.unique(condensation.component[inside], return_index=True)
    rank = np.empty(component.size, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(component.size)
    owner = rank[np.searchsorted(component, condensation.component[inside])]
    n_sets = component.size
    by_set = inside[np.argsort(owner, kind="stable")]
    sets = np.split(by_set, np.cumsum(np.bincount(owner, minlength=n_sets))[:-1]) if n_sets else []

    members = np.array([cells[0] for cells in sets], dtype=np.int64)
    reached = condensation.between(with_exterior(members, condensation))[:-1]
    below = reached[:, :n_sets] & ~np.eye(n_sets, dtype=bool)
    minimal = ~below.any(axis=1) & ~reached[:, n_sets]
    return MorseGraph(
        morse_sets=tuple(sets),
        graph=_reduced(below),
        attractors=tuple(int(i) for i in np.flatnonzero(minimal)),
        condensation=condensation,
        members=members,
    )


def with_exterior(members: ArrayLike, condensation: Condensation) -> Cells:
    """The given vertices, then the exterior."""
    return np.append(np.asarray(members, dtype=np.int64), condensation.component.size - 1)


def _reduced(below: Mask) -> nx.DiGraph:
    """Covering relation of a strict partial order given as a transitively closed matrix."""
    order = below.astype(np.float32)
    covers = below & ~(order @ order > 0)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(below)))
    graph.add_edges_from((int(q), int(p)) for q, p in np.argwhere(covers))
    return graph
