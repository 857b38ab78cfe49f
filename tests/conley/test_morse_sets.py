"""Morse sets and their order, against networkx and by hand."""

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array

from lightning_morse import CubicalGrid, morse_graph, outer_approximation
from lightning_morse.conley import condensation
from lightning_morse.conley.basins import certain_labels
from lightning_morse.conley.reach import ESCAPES
from tests.conley.random_maps import image_boxes_on_grids


def naive_morse_sets(matrix):
    graph = nx.from_numpy_array(matrix, create_using=nx.DiGraph)
    last = len(matrix) - 1
    found = [
        sorted(c)
        for c in nx.strongly_connected_components(graph)
        if last not in c and (len(c) > 1 or matrix[min(c), min(c)])
    ]
    return graph, sorted(found)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 12).flatmap(
        lambda n: st.tuples(
            hnp.arrays(bool, (n, n), elements=st.booleans()),
            st.floats(0.05, 0.6),
            st.integers(0, 99),
        )
    )
)
def test_morse_graph_equals_networkx(case):
    matrix, density, seed = case
    matrix = matrix & (np.random.default_rng(seed).random(matrix.shape) < density)
    matrix[-1] = False
    matrix[-1, -1] = True
    graph, expected = naive_morse_sets(matrix)
    found = morse_graph(csr_array(matrix))
    assert [c.tolist() for c in found.morse_sets] == expected
    descendants = [nx.descendants(graph, v) | {v} for v in graph]
    for v, below in enumerate(descendants):
        for i, cells in enumerate(expected):
            assert found.reaches(i)[v] == bool(below & set(cells))
        assert found.reaches(len(expected))[v] == (len(matrix) - 1 in below)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(condensation, "_SEARCH_BUDGET_IN_PASSES", 0)  # by the sweep alone
        swept = morse_graph(csr_array(matrix))
        assert np.array_equal(swept.reach, found.reach)
        assert set(swept.graph.edges) == set(found.graph.edges)
        assert swept.attractors == found.attractors
    order = nx.transitive_closure(found.graph)
    for q, p in itertools.permutations(range(len(expected)), 2):
        assert order.has_edge(q, p) == (expected[p][0] in descendants[expected[q][0]])
    assert nx.transitive_reduction(found.graph).edges == found.graph.edges
    minimal = [
        i
        for i, cells in enumerate(expected)
        if len(matrix) - 1 not in descendants[cells[0]]
        and not any(order.has_edge(i, j) for j in range(len(expected)))
    ]
    assert list(found.attractors) == minimal


@settings(max_examples=60, deadline=None)
@given(image_boxes_on_grids(), st.integers(0, 99))
def test_relabelling_the_cells_does_not_matter(case, seed):
    grid, lower, upper = case
    image = outer_approximation(lower, upper, grid).toarray()
    new = np.append(np.random.default_rng(seed).permutation(grid.size), grid.size)
    shuffled = np.zeros_like(image)
    shuffled[np.ix_(new, new)] = image
    a, b = morse_graph(csr_array(image)), morse_graph(csr_array(shuffled))
    moved = [sorted(new[c].tolist()) for c in a.morse_sets]
    number = [moved.index(c.tolist()) for c in b.morse_sets]
    assert sorted(number) == list(range(len(moved)))
    assert sorted(number[i] for i in b.attractors) == list(a.attractors)
    assert {(number[q], number[p]) for q, p in b.graph.edges} == set(a.graph.edges)


@settings(max_examples=100, deadline=None)
@given(image_boxes_on_grids(), st.floats(0.0, 1.0))
def test_larger_boxes_only_add_edges_and_never_attractors(case, growth):
    grid, lower, upper = case
    small = outer_approximation(lower, upper, grid)
    large = outer_approximation(lower - growth, upper + growth, grid)
    assert (large.toarray() >= small.toarray()).all()
    assert len(morse_graph(large).attractors) <= len(morse_graph(small).attractors)


def test_more_than_64_morse_sets():
    """A chain of 100 fixed cells, each leading to the next, and the last one to the exterior."""
    n = 100
    image = np.eye(n + 1, dtype=bool)
    image[np.arange(n), np.arange(1, n + 1)] = True
    found = morse_graph(csr_array(image))
    assert len(found.morse_sets) == n
    assert found.attractors == ()
    assert sorted(found.graph.edges) == [(i, i + 1) for i in range(n - 1)]
    assert all(found.reaches(j)[i] == (j >= i) for i in range(n) for j in range(n))


def test_hundreds_of_attractors():
    """Each of 700 fixed cells is an attractor, with the cell after it as its basin."""
    n = 1400
    image = csr_array(
        (np.ones(n + 1, bool), (np.arange(n + 1), np.append(np.arange(n) // 2 * 2, n))),
        shape=(n + 1, n + 1),
    )
    found = morse_graph(image)
    assert found.attractors == tuple(range(700))
    assert np.array_equal(certain_labels(found), np.arange(n) // 2)


def test_a_long_path_and_a_map_recurrent_everywhere():
    n = 200_000
    path = csr_array(
        (np.ones(n + 1, bool), (np.arange(n + 1), np.append(np.arange(1, n + 1), n))),
        shape=(n + 1, n + 1),
    )
    found = morse_graph(path[-2001:, -2001:])  # a path of 2,000 cells
    assert found.morse_sets == ()
    assert found.reaches(0).all()
    cycle = csr_array(
        (np.ones(n + 1, bool), (np.arange(n + 1), np.append(np.roll(np.arange(n), 1), n))),
        shape=(n + 1, n + 1),
    )
    found = morse_graph(cycle)
    assert len(found.morse_sets) == 1
    assert found.morse_sets[0].size == n
    assert found.attractors == (0,)


def test_components_without_critical_points_are_no_morse_sets_but_count_for_the_order():
    """0 -> 1 -> 2: all recurrent, but the middle one cannot contain a critical point."""
    image = csr_array(np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    found = morse_graph(image, critical=np.array([True, False, True]))
    assert [c.tolist() for c in found.morse_sets] == [[0], [2]]
    assert list(found.graph.edges) == [(0, 1)]
    assert found.attractors == (1,)


def test_explicit_zeros_are_no_edges():
    data, indices, indptr = np.array([0, 1, 0, 1]), np.array([0, 1, 0, 2]), np.array([0, 2, 3, 4])
    image = csr_array((data, indices, indptr), shape=(3, 3))  # only 0 -> 1 and the exterior
    found = morse_graph(image)
    assert found.morse_sets == ()
    assert image.nnz == 4


def test_a_grid_of_one_cell():
    grid = CubicalGrid([0.0], [1.0], (1,))
    stays = morse_graph(outer_approximation([[0.2]], [[0.3]], grid))
    assert stays.attractors == (0,)
    leaves = morse_graph(outer_approximation([[0.2]], [[1.3]], grid))
    assert [c.tolist() for c in leaves.morse_sets] == [[0]]
    assert leaves.attractors == ()
    wraps = CubicalGrid([0.0], [1.0], (1,), (True,))
    assert morse_graph(outer_approximation([[0.2]], [[1.3]], wraps)).attractors == (0,)


def test_all_images_outside():
    grid = CubicalGrid([0, 0], [1, 1], (3, 3))
    image = outer_approximation(np.full((9, 2), 5.0), np.full((9, 2), 6.0), grid)
    found = morse_graph(image)
    assert found.morse_sets == ()
    assert found.attractors == ()
    assert (certain_labels(found) == ESCAPES).all()
