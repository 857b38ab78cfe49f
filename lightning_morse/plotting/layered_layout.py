"""Layered layout of an acyclic graph: rows from the top down, edges routed between the nodes.

After Sugiyama, Tagawa, Toda, "Methods for visual understanding of hierarchical system structures"
(1981): layers by longest paths, a dummy node wherever an edge crosses a row, order within the rows
by barycentres.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TypeAlias

import networkx as nx
import numpy as np

Node: TypeAlias = int | tuple[int, int, int]  # a node of the graph, or (u, v, row): edge uv crosses
Rows: TypeAlias = list[list[Node]]
Chains: TypeAlias = dict[tuple[int, int], list[Node]]

# Inches between the boxes of two neighbours in a row, and between an edge and anything else.
BOX_GAP, EDGE_GAP = 0.2, 0.1
_ORDERING_SWEEPS = 12  # down and up in turn; the order rarely changes after a few of them
_PLACING_SWEEPS = 3  # straighten the edges once the order stands


def rows_of(
    graph: nx.DiGraph,
    loss: Mapping[int, float],
    bottom: frozenset[int],
    box_width: float,
    least_span: float,
) -> tuple[Rows, Chains]:
    """Assign nodes to rows by longest paths; a layer too wide for the page takes several rows.

    Args:
        graph: Acyclic, edges downwards.
        loss: Of each node; decides how a wide layer is cut into rows, the highest first.
        bottom: Nodes that stand in the lowest layer wherever their paths end.
        box_width: Of a node, inches.
        least_span: Inches that a row may always take.

    Returns:
        The rows from the top, with a node wherever an edge crosses one; the nodes of each edge.
    """
    layer: dict[int, int] = {}
    for i in reversed(list(nx.topological_sort(graph))):
        above = 1 + max((layer[j] for j in graph.successors(i)), default=0)
        layer[i] = 0 if i in bottom else above
    max_per_row = max(1, int(least_span / (box_width + BOX_GAP)))
    rows: Rows = []
    for level in sorted(set(layer.values()), reverse=True):
        nodes = sorted((i for i in graph if layer[i] == level), key=lambda i: -loss[i])
        pieces = -(-len(nodes) // max_per_row)
        rows += [sorted(piece.tolist()) for piece in np.array_split(nodes, pieces)]
    row_of = {n: r for r, row in enumerate(rows) for n in row}
    chains: Chains = {}
    for u, v in graph.edges:
        crossings: list[Node] = [(u, v, r) for r in range(row_of[u] + 1, row_of[v])]
        chains[u, v] = [u, *crossings, v]
        for r, n in enumerate(crossings, start=row_of[u] + 1):
            rows[r].append(n)
    return rows, chains


def placed(
    rows: Rows, chains: Chains, box_width: float, least_span: float
) -> tuple[dict[Node, float], float]:
    """Order the rows by barycentres, for few crossings, and place their nodes without overlap.

    Args:
        rows: As from :func:`rows_of`; sorted in place.
        chains: As from :func:`rows_of`.
        box_width: Of a node of the graph, inches.
        least_span: As from :func:`rows_of`.

    Returns:
        The horizontal position of the centre of each node, in inches, and the width they span.
    """
    above: dict[Node, list[Node]] = {n: [] for row in rows for n in row}
    below: dict[Node, list[Node]] = {n: [] for row in rows for n in row}
    for chain in chains.values():
        for u, v in pairwise(chain):
            below[u].append(v)
            above[v].append(u)
    half = {n: box_width / 2 if isinstance(n, int) else 0.0 for n in above}
    # Every order of a row must fit: at most all its boxes stand side by side.
    gaps = {n: BOX_GAP if isinstance(n, int) else EDGE_GAP for n in above}
    needs = [sum(2 * half[n] + gaps[n] for n in row) for row in rows]
    span = max(least_span, *needs)
    x = {n: span * (k + 0.5) / len(row) for row in rows for k, n in enumerate(row)}
    for sweep in range(_ORDERING_SWEEPS):
        near, order = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        for row in order:
            wish = {n: float(np.mean([x[m] for m in near[n]])) if near[n] else x[n] for n in row}
            row.sort(key=wish.__getitem__)
            x.update(_spread(row, wish, half, span))
    for row in rows * _PLACING_SWEEPS:
        both = {n: [x[m] for m in above[n] + below[n]] or [x[n]] for n in row}
        wish = {n: float(np.mean(both[n])) for n in row}
        x.update(_spread(row, wish, half, span))
    return x, span


def _spread(
    row: list[Node], wish: Mapping[Node, float], half: Mapping[Node, float], span: float
) -> dict[Node, float]:
    """Positions near those wished for, in the order of the row and far enough apart."""
    steps = [_distance(a, b, half) for a, b in pairwise(row)]
    at = np.concatenate([[0.0], np.cumsum(steps)])
    slack = np.array([wish[n] for n in row]) - at
    # Pushing to the right and pushing to the left both keep nodes apart, hence so does the mean.
    right = np.maximum.accumulate(slack)
    left = np.minimum.accumulate(slack[::-1])[::-1]
    low, high = half[row[0]], span - half[row[-1]] - at[-1]
    return dict(zip(row, np.clip((left + right) / 2, low, high) + at, strict=True))


def _distance(a: Node, b: Node, half: Mapping[Node, float]) -> float:
    """Least distance between the centres of neighbours in a row."""
    gap = BOX_GAP if isinstance(a, int) and isinstance(b, int) else EDGE_GAP
    return half[a] + half[b] + gap
