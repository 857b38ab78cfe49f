"""Which Morse sets a figure shows where there is no room for all: those of the highest barriers."""

from __future__ import annotations

import math
from collections.abc import Collection

import networkx as nx

from lightning_morse.result import MorseAnalysis

# Of more attractors than this, those of the highest barriers come before all others.
MAX_ATTRACTORS = 12


def by_barrier(result: MorseAnalysis) -> list[int]:
    """Order the Morse sets by what a figure loses without them.

    First come up to 12 attractors, the highest barrier first (that without a way out of its basin
    before all); then the passes that these barriers are those of, in the same order; then the other
    attractors; then what carries no barrier, resolved sets before those that may hide a minimum,
    the least loss first.

    Args:
        result: The analysis.

    Returns:
        The numbers of all Morse sets.
    """
    sets = result.morse_sets
    barriers = {a: result.barrier(a) for a in result.attractors}
    attractors = sorted(
        barriers,
        key=lambda a: (-math.inf if math.isnan(barriers[a]) else -barriers[a], sets[a].loss),
    )
    first, others = attractors[:MAX_ATTRACTORS], attractors[MAX_ATTRACTORS:]
    passes = [i for a in first if (i := result.lowest_pass(a)) is not None]
    rest = sorted(range(len(sets)), key=lambda i: (not sets[i].resolved, sets[i].loss))
    return list(dict.fromkeys([*first, *passes, *others, *rest]))


def graph_of(result: MorseAnalysis, shown: Collection[int]) -> nx.DiGraph:
    """The Morse graph on some of the sets: paths through the others become edges.

    Args:
        result: The analysis.
        shown: Numbers of Morse sets.
    """
    if len(shown) == result.n_morse_sets:
        return result.graph
    order = nx.transitive_closure_dag(result.graph)
    order.remove_nodes_from([i for i in result.graph if i not in shown])
    return nx.transitive_reduction(order)
