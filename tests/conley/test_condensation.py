"""Strongly connected components and reachability, against networkx."""

import networkx as nx
import numpy as np
from scipy.sparse import csr_array

from lightning_morse.conley.condensation import condense


def test_condensation_is_acyclic_and_in_generations():
    rng = np.random.default_rng(4)
    matrix = rng.random((60, 60)) < 0.03
    found = condense(csr_array(matrix))
    graph = nx.from_numpy_array(matrix, create_using=nx.DiGraph)
    components = list(nx.strongly_connected_components(graph))
    assert {
        frozenset(np.flatnonzero(found.component == c)) for c in np.unique(found.component)
    } == {frozenset(c) for c in components}
    source, target = np.nonzero(matrix)
    source, target = found.component[source], found.component[target]
    edges = {(s, t) for s, t in zip(source, target, strict=True) if s != t}
    assert set(zip(*found.graph.toarray().nonzero(), strict=True)) == edges
    dag = nx.DiGraph(edges)
    dag.add_nodes_from(range(found.recurrent.size))
    expected = {}
    for c in reversed(list(nx.topological_sort(dag))):
        expected[c] = max((expected[b] + 1 for b in dag[c]), default=0)
    assert found.levels.tolist() == [expected[c] for c in range(len(expected))]
    order = np.concatenate(list(found.generations()))
    assert sorted(order) == list(range(found.recurrent.size))
    assert (np.diff(found.levels[order]) >= 0).all()
    assert sorted(found.ancestors(5)) == sorted({5} | nx.ancestors(graph, 5))


def test_condensation_accumulates_over_all_paths():
    rng = np.random.default_rng(3)
    matrix = rng.random((40, 40)) < 0.04
    marks = rng.integers(0, 256, (40, 3), dtype=np.uint8)
    graph = nx.from_numpy_array(matrix, create_using=nx.DiGraph)
    expected = [np.bitwise_or.reduce(marks[[v, *nx.descendants(graph, v)]]) for v in graph]
    assert np.array_equal(condense(csr_array(matrix)).accumulate(marks), expected)


def test_reaching_is_the_union_of_ancestors():
    rng = np.random.default_rng(5)
    matrix = rng.random((60, 60)) < 0.02
    found = condense(csr_array(matrix))
    graph = nx.from_numpy_array(matrix.T, create_using=nx.DiGraph)
    for k in (0, 1, 4):
        targets = rng.choice(60, k, replace=False)
        expected = {v for t in targets for v in (t, *nx.descendants(graph, t))}
        assert set(np.flatnonzero(found.reaching(targets))) == expected
