"""Strongly connected components of a directed graph, and what leads to and from where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from lightning_morse._typing import Cells, Mask

# What leads to some vertices is searched for one vertex after the other, until the searches have
# seen so many times as many vertices as there are; a sweep over all generations does the rest.
_PASSES = 48
# What a search costs however little it finds, as a part of such a pass.
_START = 1 / 16


@dataclass(frozen=True, eq=False)
class Condensation:
    """Strongly connected components of a directed graph and the edges between them.

    What is expensive is worked out when it is first asked for.

    Attributes:
        component: Component of each vertex, shape ``(n_vertices,)``.
        recurrent: Components with at least one edge inside, shape ``(n_components,)``.
        edges: The directed graph itself: square adjacency without stored zeros.
    """

    component: NDArray[np.int32]
    recurrent: Mask
    edges: csr_array

    @cached_property
    def graph(self) -> csr_array:
        """Adjacency of the components, acyclic.

        An edge is stored as often as the graph has it: finding the doubles costs more than they do.
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
        """The edges turned round, for SciPy's searches."""
        return _searchable(self.edges.T.tocsr())

    def ancestors(self, vertex: int) -> NDArray[np.int32]:
        """Vertices from which a path leads to a vertex, itself included, in no special order.

        The work is linear in the edges between them.

        Args:
            vertex: Number of a vertex.
        """
        return breadth_first_order(self._backward, int(vertex), return_predecessors=False)

    def reaching(self, vertices: NDArray[np.integer]) -> Mask:
        """From which vertices a path leads to any of some vertices; these included.

        One search backwards, from a vertex added above all of them.

        Args:
            vertices: Numbers of vertices, shape ``(k,)``.

        Returns:
            Shape ``(n_vertices,)``.
        """
        n, backward = self.component.size, self._backward
        indices = np.concatenate([backward.indices, np.asarray(vertices, backward.indices.dtype)])
        # One stored entry stands for all: the search looks at the structure alone.
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
        """The same components with every edge turned round."""
        return Condensation(self.component, self.recurrent, self.edges.T.tocsr())

    def reach(self, targets: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Which of some vertices can be reached from each vertex, itself included.

        Args:
            targets: Numbers of vertices, shape ``(k,)``.

        Returns:
            Bit ``i`` of a row for target ``i``, packed little-endian into bytes, shape
            ``(n_vertices, ceil(k / 8))``.
        """
        bits = np.zeros((self.component.size, -(-len(targets) // 8)), dtype=np.uint8)
        passes = 0.0
        for number, vertex in enumerate(targets):
            rows: int | NDArray[np.int32] = vertex
            if passes < _PASSES:
                rows = self.ancestors(vertex)
                passes += _START + rows.size / self.component.size
            bits[rows, number // 8] |= np.uint8(1 << number % 8)
        return bits if passes < _PASSES else self.accumulate(bits)

    def between(self, vertices: NDArray[np.integer]) -> Mask:
        """Which of some vertices can be reached from which of them.

        Searched forwards, from one vertex after the other: what lies above them is never seen.

        Args:
            vertices: Numbers of ``k`` different vertices.

        Returns:
            Shape ``(k, k)``, true where the vertex of the column can be reached from that of the
            row; true on the diagonal.
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
            passes += _START + seen.size / self.component.size
            if passes >= _PASSES:
                bits = self.reach(vertices)[vertices]
                return np.unpackbits(bits, axis=1, count=k, bitorder="little") == 1
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
            waiting[ready] = -1  # found as often as it has edges down
            ready = np.sort(ready)
            ready = ready[np.append(True, ready[1:] != ready[:-1])] if ready.size else ready
            number += 1
        return level

    def generations(self) -> Iterator[Cells]:
        """Components by level, the sinks first: every edge leads to an earlier generation."""
        order = np.argsort(self.levels, kind="stable")
        yield from np.split(order, np.cumsum(np.bincount(self.levels))[:-1])

    def accumulate(self, marks: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Union of the marks of everything each vertex can reach, itself included.

        Components are settled from the sinks up, a whole generation at a time: the work is linear
        in the edges, the number of array operations in the length of the longest path.

        Args:
            marks: Bits of each vertex, packed into bytes, shape ``(n_vertices, n_bytes)``.

        Returns:
            Same shape and packing.
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
        graph: Square adjacency; an edge is a stored entry that is not zero.

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
    # An edge stays inside a component of several vertices, and inside one of a single vertex
    # if the vertex has an edge to itself.
    recurrent = np.bincount(component, minlength=n_components) > 1
    recurrent[component[graph.astype(bool, copy=False).diagonal()]] = True
    return Condensation(component=component, recurrent=recurrent, edges=graph)


def _searchable(graph: csr_array) -> csr_array:
    """Turn the entries into what SciPy's graph routines would otherwise make of them, float64.

    They look at the structure alone, so a single one in the place of all saves 8 bytes an edge.
    """
    ones = np.broadcast_to(np.float64(1), graph.indices.shape)
    return csr_array((ones, graph.indices, graph.indptr), shape=graph.shape, copy=False)


def gather_rows(
    graph: csr_array, rows: NDArray[np.integer]
) -> tuple[NDArray[np.int32], Cells, Cells]:
    """Column indices of some rows, one row after the other.

    Args:
        graph: A sparse matrix.
        rows: Numbers of rows, shape ``(k,)``.

    Returns:
        The indices, where each row starts among them, and how many each row has.
    """
    begin = graph.indptr[rows].astype(np.int64)
    counts = graph.indptr[rows + 1] - begin
    starts = np.cumsum(counts) - counts
    return (
        graph.indices[np.repeat(begin - starts, counts) + np.arange(counts.sum())],
        starts,
        counts,
    )
