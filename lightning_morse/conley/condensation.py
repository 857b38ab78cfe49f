"""Strongly connected components of a directed graph, and reachability between its vertices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from lightning_morse._typing import Cells, Mask
from lightning_morse.conley.packed_sets import PackedSets, unpacked

# Reachability of several targets is found by one breadth-first search per target, until together
# the searches have visited this many times the number of vertices. A single sweep over the
# condensation graph, whose cost hardly depends on the number of targets, does the rest. Both give
# the same answer: these two numbers decide speed alone.
_SEARCH_BUDGET_IN_PASSES = 48
# Fixed cost of one search, as a fraction of a visit to all vertices.
_SEARCH_OVERHEAD_IN_PASSES = 1 / 16


@dataclass(frozen=True, eq=False)
class Condensation:
    """Strongly connected components of a directed graph and the edges between them.

    The condensation graph and everything derived from it are computed on first use.

    Attributes:
        component: Component of each vertex, shape ``(n_vertices,)``.
        recurrent: Whether each component has at least one edge inside, shape ``(n_components,)``.
        edges: The directed graph itself: square adjacency without explicit zeros.
    """

    component: NDArray[np.int32]
    recurrent: Mask
    edges: csr_array

    @cached_property
    def graph(self) -> csr_array:
        """Condensation graph: adjacency of the components, acyclic.

        Parallel edges are kept, because removing them costs more than they do.
        """
        n = self.recurrent.size
        by_component = np.argsort(self.component, kind="stable")
        rows = self.edges[by_component]
        ends = np.cumsum(np.bincount(self.component, minlength=n))
        indptr = np.zeros(n + 1, dtype=rows.indptr.dtype)
        indptr[1:] = rows.indptr[ends]
        target = self.component[rows.indices]
        leaves = target != np.repeat(np.arange(n, dtype=np.int32), np.diff(indptr))
        kept = np.zeros(target.size + 1, dtype=indptr.dtype)
        np.cumsum(leaves, out=kept[1:])
        target = target[leaves]
        return csr_array((np.ones(target.size, dtype=bool), target, kept[indptr]), shape=(n, n))

    @cached_property
    def _backward(self) -> csr_array:
        """The reversed edges, prepared for SciPy's searches."""
        return _searchable(self.edges.T.tocsr())

    def ancestors(self, vertex: int) -> NDArray[np.int32]:
        """Vertices from which a path leads to a given vertex, itself included, in no fixed order.

        The cost is linear in the number of edges between them.

        Args:
            vertex: Number of a vertex.
        """
        found: NDArray[np.int32] = breadth_first_order(
            self._backward, int(vertex), return_predecessors=False
        )
        return found

    def descendants(self, vertex: int) -> NDArray[np.int32]:
        """Vertices to which a path leads from a given vertex, itself included, in no fixed order.

        Args:
            vertex: Number of a vertex.
        """
        forward = _searchable(self.edges)
        found: NDArray[np.int32] = breadth_first_order(
            forward, int(vertex), return_predecessors=False
        )
        return found

    def reaching(self, vertices: NDArray[np.integer]) -> Mask:
        """Vertices from which a path leads to at least one of the given vertices, these included.

        A single backward search, from an auxiliary vertex connected to all of them.

        Args:
            vertices: Numbers of vertices, shape ``(k,)``.

        Returns:
            Boolean, shape ``(n_vertices,)``.
        """
        n, backward = self.component.size, self._backward
        indices = np.concatenate([backward.indices, np.asarray(vertices, backward.indices.dtype)])
        # The search ignores the values, so a single stored one stands for all of them.
        extended = csr_array(
            (
                np.broadcast_to(np.float64(1), indices.shape),
                indices,
                np.append(backward.indptr, indices.size),
            ),
            shape=(n + 1, n + 1),
            copy=False,
        )
        found = np.zeros(n + 1, dtype=bool)
        found[breadth_first_order(extended, n, return_predecessors=False)] = True
        return found[:-1]

    def reversed(self) -> Condensation:
        """The same components with every edge reversed."""
        return Condensation(self.component, self.recurrent, self.edges.T.tocsr())

    def reach(self, targets: NDArray[np.integer]) -> PackedSets:
        """Which of the given targets each vertex can reach; a vertex reaches itself.

        Args:
            targets: Numbers of vertices, shape ``(k,)``.

        Returns:
            One set of targets per vertex (:mod:`~lightning_morse.conley.packed_sets`), shape
            ``(n_vertices, ceil(k / 8))``.
        """
        bits = np.zeros((self.component.size, -(-len(targets) // 8)), dtype=np.uint8)
        passes = 0.0
        for number, vertex in enumerate(targets):
            rows: int | NDArray[np.int32] = vertex
            if passes < _SEARCH_BUDGET_IN_PASSES:
                rows = self.ancestors(vertex)
                passes += _SEARCH_OVERHEAD_IN_PASSES + rows.size / self.component.size
            bits[rows, number // 8] |= np.uint8(1 << number % 8)
        return bits if passes < _SEARCH_BUDGET_IN_PASSES else self.accumulate(bits)

    def between(self, vertices: NDArray[np.integer]) -> Mask:
        """Reachability among the given vertices.

        One forward search per vertex: only what lies downstream of them is ever visited.

        Args:
            vertices: Numbers of ``k`` distinct vertices.

        Returns:
            Boolean, shape ``(k, k)``: whether the vertex of the row can reach that of the column;
            true on the diagonal.
        """
        k = len(vertices)
        number = np.full(self.component.size, k, dtype=np.int32)
        number[vertices] = np.arange(k)
        forward = _searchable(self.edges)
        reached = np.zeros((k, k + 1), dtype=bool)
        passes = 0.0
        for row, vertex in enumerate(vertices):
            seen = breadth_first_order(forward, int(vertex), return_predecessors=False)
            reached[row, number[seen]] = True
            passes += _SEARCH_OVERHEAD_IN_PASSES + seen.size / self.component.size
            if passes >= _SEARCH_BUDGET_IN_PASSES:
                return unpacked(self.reach(vertices)[vertices], k)
        return reached[:, :k]

    @cached_property
    def levels(self) -> NDArray[np.int32]:
        """Length of the longest path from each component to a sink, shape ``(n_components,)``."""
        graph = self.graph
        backward = graph.T.tocsr()
        level = np.zeros(self.recurrent.size, dtype=np.int32)
        waiting = np.diff(graph.indptr)
        ready = np.flatnonzero(waiting == 0)
        number = 0
        while ready.size:
            level[ready] = number
            above, _, _ = gather_rows(backward, ready)
            np.subtract.at(waiting, above, 1)
            ready = above[waiting[above] == 0]
            waiting[ready] = -1  # listed once per edge; the duplicates are dropped next
            ready = np.sort(ready)
            ready = ready[np.append(True, ready[1:] != ready[:-1])] if ready.size else ready
            number += 1
        return level

    def generations(self) -> Iterator[Cells]:
        """Components grouped by level, sinks first: every edge leads to an earlier generation."""
        order = np.argsort(self.levels, kind="stable")
        yield from np.split(order, np.cumsum(np.bincount(self.levels))[:-1])

    def accumulate(self, marks: PackedSets) -> PackedSets:
        """Union of the sets of all vertices that each vertex can reach, itself included.

        Components are processed from the sinks up, a whole generation at a time: the cost is linear
        in the number of edges, the number of array operations linear in the length of the longest
        path.

        Args:
            marks: One set per vertex, shape ``(n_vertices, n_bytes)``.

        Returns:
            The unions, same shape and packing.
        """
        order = np.argsort(self.component, kind="stable")
        sizes = np.bincount(self.component, minlength=self.recurrent.size)
        reach = np.bitwise_or.reduceat(marks[order], np.cumsum(sizes) - sizes, axis=0)
        for ready in self.generations():
            below, starts, counts = gather_rows(self.graph, ready)
            branching = counts > 0
            if branching.any():
                union = np.bitwise_or.reduceat(reach[below], starts[branching], axis=0)
                reach[ready[branching]] |= union
        return reach[self.component]


def condense(graph: csr_array) -> Condensation:
    """Find the strongly connected components of a directed graph and the edges between them.

    Args:
        graph: Square adjacency; every nonzero entry is an edge.

    Example:
        >>> found = condense(csr_array(np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0]])))
        >>> found.component[0] == found.component[1] != found.component[2]
        np.True_
        >>> int(found.recurrent.sum())
        1
    """
    if not graph.data.all():
        graph = graph.copy()
        graph.eliminate_zeros()
    n_components, component = connected_components(_searchable(graph), connection="strong")
    # A component of several vertices always has an edge inside; a single vertex only if it has a
    # self-loop.
    recurrent = np.bincount(component, minlength=n_components) > 1
    recurrent[component[graph.astype(bool, copy=False).diagonal()]] = True
    return Condensation(component=component, recurrent=recurrent, edges=graph)


def _searchable(graph: csr_array) -> csr_array:
    """Replace the values by float64 ones, the type SciPy's graph routines convert to.

    The searches ignore the values, so a single stored one in place of all saves 8 bytes per edge.
    """
    ones = np.broadcast_to(np.float64(1), graph.indices.shape)
    return csr_array((ones, graph.indices, graph.indptr), shape=graph.shape, copy=False)


def gather_rows(
    graph: csr_array, rows: NDArray[np.integer]
) -> tuple[NDArray[np.int32], Cells, Cells]:
    """Column indices of the given rows, concatenated.

    Args:
        graph: A sparse matrix.
        rows: Numbers of rows, shape ``(k,)``.

    Returns:
        The indices, where each row starts among them, and how many there are per row.
    """
    begin = graph.indptr[rows].astype(np.int64)
    counts = graph.indptr[rows + 1] - begin
    starts = np.cumsum(counts) - counts
    return (
        graph.indices[np.repeat(begin - starts, counts) + np.arange(counts.sum())],
        starts,
        counts,
    )
