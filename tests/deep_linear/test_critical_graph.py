"""The Morse graph of the critical values."""

import networkx as nx
import numpy as np
import pytest

from lightning_morse import deep_linear as dl
from tests.linear_problems import (
    THREE,
    TWO,
)


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_boolean_lattice(rank):
    strengths = np.arange(rank, 0, -1.0)
    moments = dl.Moments(np.eye(rank), np.diag(strengths), float(np.square(strengths).sum()))
    graph = dl.mode_graph(moments, (rank, rank, rank + 1, rank))
    assert graph.number_of_nodes() == 2**rank
    assert graph.number_of_edges() == rank * 2 ** (rank - 1)
    cube = nx.hypercube_graph(rank)
    assert nx.is_isomorphic(graph.to_undirected(), cube)
    losses = nx.get_node_attributes(graph, "loss")
    assert all(losses[a] > losses[b] for a, b in graph.edges)
    assert [n for n, m in graph.nodes(data="minimum") if m] == [tuple(range(rank))]


def test_narrow_networks_swap_until_the_strongest_modes_are_in():
    plain = dl.mode_graph(THREE, (3, 2, 3))
    assert sum(plain.out_degree(n) == 0 for n in plain) == 3  # one of them a minimum
    assert [n for n, m in plain.nodes(data="minimum") if m] == [(0, 1)]
    swapped = dl.mode_graph(THREE, (3, 2, 3), swaps=True)
    assert [n for n in swapped if swapped.out_degree(n) == 0] == [(0, 1)]
    assert sorted(dl.mode_graph(TWO, (2, 1, 2), swaps=True).edges) == [((), (1,)), ((1,), (0,))]
