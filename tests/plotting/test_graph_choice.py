"""What is drawn of a Morse graph that is too large, against barriers that are known."""

import dataclasses
import itertools

import networkx as nx
import numpy as np
import pytest

from lightning_morse.plotting.graph_choice import MAX_ATTRACTORS, by_barrier, graph_of
from tests.plotting.test_basins_and_morse_graph import crowd, double_well, plane, ring


@pytest.mark.parametrize("make", [plane, double_well, crowd, lambda: ring(20)])
def test_every_set_has_its_place(make):
    result = make()
    assert sorted(by_barrier(result)) == list(range(result.n_morse_sets))


@pytest.mark.parametrize("make", [plane, double_well, crowd, lambda: ring(20)])
def test_no_way_out_is_lower_than_the_lowest_pass(make):
    result = make()
    for a in result.attractors:
        lowest = result.morse_sets[result.lowest_pass(a)]
        assert lowest.index in (None, 0, 1)
        assert lowest.loss - result.morse_sets[a].loss == pytest.approx(result.barrier(a))
        for i in nx.ancestors(result.graph, a):
            other = result.morse_sets[i]
            assert other.loss >= lowest.loss or (other.index or 0) > 1


def test_the_highest_barriers_come_first_and_their_passes_next():
    result = ring(20)
    order = by_barrier(result)
    first, rest = order[:MAX_ATTRACTORS], order[MAX_ATTRACTORS:]
    barriers = np.array([result.barrier(a) for a in first])
    assert (np.diff(barriers) <= 0).all()
    others = set(result.attractors) - set(first)
    assert max(result.barrier(a) for a in others) <= barriers[-1]
    passes = list(dict.fromkeys(result.lowest_pass(a) for a in first))
    assert rest[: len(passes)] == passes
    assert set(rest[len(passes) : len(passes) + len(others)]) == others


def test_what_carries_no_barrier_comes_last_and_open_sets_last_of_all():
    result = crowd(60)
    sets, order = result.morse_sets, by_barrier(result)
    passes = {result.lowest_pass(a) for a in result.attractors}
    rest = order[len(result.attractors) + len(passes) :]
    assert not passes & set(rest)
    for i, j in itertools.pairwise(rest):
        assert (not sets[i].resolved, sets[i].loss) <= (not sets[j].resolved, sets[j].loss)


def test_an_attractor_without_a_way_out_comes_before_all():
    result = plane()
    assert by_barrier(result)[0] != 1
    graph = nx.DiGraph(result.graph)
    graph.remove_edges_from(list(graph.in_edges(1)))
    closed = dataclasses.replace(result, graph=graph)
    assert np.isnan(closed.barrier(1))
    assert closed.lowest_pass(1) is None
    assert by_barrier(closed)[0] == 1


def test_paths_through_what_is_left_out_become_edges():
    result = plane()
    assert graph_of(result, range(result.n_morse_sets)) is result.graph
    shown = graph_of(result, [0, 1, 2, 6])
    assert set(shown.edges) == {(6, 0), (6, 1), (6, 2)}
