"""Down-sets of Morse sets and their attracting blocks, against enumeration."""

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.sparse import csr_array

from lightning_morse import morse_graph
from lightning_morse.conley.attractor_lattice import attracting_block, down_sets
from tests.conley.random_maps import adjacency_matrices, image_of


@settings(max_examples=200, deadline=None)
@given(adjacency_matrices())
def test_down_sets_are_complete_and_their_blocks_maximal(matrix):
    found = morse_graph(csr_array(matrix))
    k = len(found.morse_sets)
    if k > 7:
        return
    graph = nx.from_numpy_array(matrix, create_using=nx.DiGraph)
    reached = [nx.descendants(graph, v) | {v} for v in graph]
    homes = [cells[0] for cells in found.morse_sets]
    below = [{j for j in range(k) if homes[j] in reached[h]} for h in homes]
    out = [len(matrix) - 1 in reached[h] for h in homes]
    expected = {
        frozenset(s)
        for r in range(k + 1)
        for s in itertools.combinations(range(k), r)
        if all(below[i] <= set(s) and not out[i] for i in s)
    }
    sets = list(down_sets(found))
    assert set(sets) == expected
    assert len(sets) == len(expected)
    assert [len(s) for s in sets] == sorted(len(s) for s in sets)
    for members in sets:
        block = attracting_block(found, members)
        others = {homes[j] for j in range(k) if j not in members} | {len(matrix) - 1}
        assert block.tolist() == [not reached[v] & others for v in range(len(matrix) - 1)]
        assert not matrix[:-1][block][:, np.append(~block, True)].any()


def test_down_sets_are_generated_lazily():
    """There are 2^40 of them, of which five are taken."""
    n = 40
    found = morse_graph(csr_array(np.eye(n + 1, dtype=bool)))
    first = list(itertools.islice(down_sets(found), 5))
    assert first == [frozenset(), *(frozenset({i}) for i in range(4))]
    with pytest.raises(ValueError, match="more than 10 down-sets"):
        list(down_sets(found, limit=10))
    few = morse_graph(csr_array(np.eye(3, dtype=bool)))
    assert len(list(down_sets(few, limit=4))) == 4


def test_bad_members_are_refused():
    edges = [(0, 0), (1, 1), (1, 0), (2, 2), (2, 3)]
    found = morse_graph(image_of(edges, 3))
    with pytest.raises(ValueError, match="among the Morse sets 0 to 2, got 7"):
        attracting_block(found, [7])
    with pytest.raises(ValueError, match="1 leads to Morse set 0"):
        attracting_block(found, [1])
    with pytest.raises(ValueError, match="2 leads to the exterior"):
        attracting_block(found, [0, 2])
