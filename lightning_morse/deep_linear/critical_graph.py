"""The critical values of a deep linear network, ordered by the gradient flow."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

from lightning_morse.deep_linear.moments import Moments
from lightning_morse.deep_linear.spectrum import CriticalLevel, critical_levels, data_modes


def mode_graph(moments: Moments, sizes: Sequence[int], swaps: bool = False) -> nx.DiGraph:
    """The Morse graph of the quotient: critical values, joined where the flow leads downhill.

    Without swaps it is the graph of networks whose layers share their singular vectors, in which
    each mode is learned independently: a set of learned modes is followed by the sets with one mode
    more. If no layer is narrower than the number ``r`` of modes, that is the Boolean lattice, with
    ``2^r`` nodes and ``r 2^(r - 1)`` edges. Otherwise it is the part of it that fits; of its
    largest sets only one is a minimum of the loss.

    With ``swaps`` it is the graph of all networks, in which a stronger mode can also replace a
    weaker one: the direction of :func:`~lightning_morse.deep_linear.saddles.saddle_directions` lies
    in the invariant set of networks that send both modes through the same hidden units, where the
    flow has only the lower level to go to. More pairs are then comparable, and the graph (reduced,
    as Morse graphs are) differs: for two modes with room for both it is a chain, not a diamond.

    Args:
        moments: Moments of data whose modes differ in strength.
        sizes: Widths ``(n_0, ..., n_L)``.
        swaps: Whether modes may be swapped.

    Returns:
        Nodes are tuples of learned modes with attributes ``loss`` and ``minimum``; edges point
        downhill.

    Raises:
        ValueError: If modes have equal strength, if there are too many critical values to list, or
            if the widths do not fit.

    Example:
        >>> import numpy as np
        >>> moments = Moments(np.eye(2), np.diag([3.0, 1.0]), 10.0)
        >>> sorted(mode_graph(moments, (2, 2, 2)).edges)
        [((), (0,)), ((), (1,)), ((0,), (0, 1)), ((1,), (0, 1))]
        >>> sorted(mode_graph(moments, (2, 2, 2), swaps=True).edges)
        [((), (1,)), ((0,), (0, 1)), ((1,), (0,))]
    """
    modes = data_modes(moments)
    tied = next((group for group in modes.groups if len(group) > 1), None)
    if tied is not None:
        raise ValueError(
            f"modes must differ in strength, got {list(tied)} of {modes.strengths[tied[0]]:.6g}: "
            "their critical points form continuous families, which a finite graph cannot show"
        )
    levels = critical_levels(moments, sizes)
    graph: nx.DiGraph = nx.DiGraph()
    nodes = {level.modes for level in levels}
    for level in levels:
        graph.add_node(level.modes, loss=level.loss, minimum=level is levels[-1])
    for level in levels:
        for lower in _below(level, modes.rank, swaps) & nodes:
            graph.add_edge(level.modes, lower)
    if not swaps:
        return graph
    reduced = nx.transitive_reduction(graph)
    reduced.add_nodes_from(graph.nodes(data=True))
    return reduced


def _below(level: CriticalLevel, rank: int, swaps: bool) -> set[tuple[int, ...]]:
    """Sets of modes reached by learning one more, or by swapping one for a stronger one."""
    have = set(level.modes)
    missing = set(range(rank)) - have
    more = {tuple(sorted(have | {a})) for a in missing}
    if swaps:
        more |= {tuple(sorted(have - {b} | {a})) for a in missing for b in have if a < b}
    return more
