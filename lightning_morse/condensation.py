"""The acyclic graph of strongly connected components, and unions over all that can be reached."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True, eq=False)
class Condensation:
    """Strongly connected components of a directed graph and the edges between them.

    Attributes:
        component: Component of each vertex, shape ``(n_vertices,)``.
        recurrent: Components with at least one edge inside, shape ``(n_components,)``.
        graph: Adjacency of the components, acyclic, each edge once.
    """

    component: NDArray[np.int32]
    recurrent: NDArray[np.bool_]
    graph: csr_array

    def accumulate(self, marks: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Union of the marks of everything each vertex can reach, itself included.

        Components are settled from the sinks up, a whole generation at a time: the work is linear
        in the edges, the number of array operations in the length of the longest path.

        Args:
            marks: Bits of each vertex, packed into bytes, shape ``(n_vertices, n_bytes)``.

        Returns:
            Same shape and packing.
        """
        n_components = self.recurrent.size
        reach = np.zeros((n_components, marks.shape[1]), dtype=np.uint8)
        np.bitwise_or.at(reach, self.component, marks)
        backward = self.graph.T.tocsr()
        waiting = np.diff(self.graph.indptr)
        ready = np.flatnonzero(waiting == 0)
        while ready.size:
            successors, starts, counts = _rows(self.graph, ready)
            branching = counts > 0
            if branching.any():
                union = np.bitwise_or.reduceat(reach[successors], starts[branching], axis=0)
                reach[ready[branching]] |= union
            predecessors, _, _ = _rows(backward, ready)
            ready, edges = np.unique(predecessors, return_counts=True)
            waiting[ready] -= edges
            ready = ready[waiting[ready] == 0]
        return reach[self.component]


def condense(graph: csr_array) -> Condensation:
    """Find the strongly connected components of a directed graph and the edges between them.

    Args:
        graph: Square adjacency; an edge is a stored entry that is not zero.

    Example:
        >>> found = condense(csr_array(np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0]])))
        >>> found.component[0] == found.component[1] != found.component[2]
        np.True_
        >>> int(found.recurrent.sum())
        1
    """
    n_components, component = connected_components(graph, connection="strong")
    stored = graph.data.astype(bool)
    source = np.repeat(component, np.diff(graph.indptr))[stored]
    target = component[graph.indices][stored]
    inner = source == target
    recurrent = np.zeros(n_components, dtype=bool)
    recurrent[source[inner]] = True
    between = csr_array(
        (np.ones((~inner).sum(), dtype=bool), (source[~inner], target[~inner])),
        shape=(n_components, n_components),
    )
    return Condensation(component=component, recurrent=recurrent, graph=between)


def _rows(
    graph: csr_array, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Column indices of some rows one after the other, where each starts, how many it has."""
    begin = graph.indptr[rows].astype(np.int64)
    counts = graph.indptr[rows + 1] - begin
    starts = np.cumsum(counts) - counts
    return (
        graph.indices[np.repeat(begin - starts, counts) + np.arange(counts.sum())],
        starts,
        counts,
    )
