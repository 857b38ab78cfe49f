"""Periods of recurrent components, and sets that contain no recurrence."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from lightning_morse.conley.recurrence import drifts, period


def graph(n, edges):
    image = np.zeros((n, n), dtype=bool)
    for a, b in edges:
        image[a, b] = True
    return csr_array(image)


def naive_period(image, cells):
    part = nx.from_numpy_array(image.toarray()[np.ix_(cells, cells)], create_using=nx.DiGraph)
    return int(np.gcd.reduce([len(c) for c in nx.simple_cycles(part)]))


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ([(0, 0)], 1),
        ([(0, 1), (1, 0)], 2),
        ([(0, 1), (1, 0), (0, 0)], 1),
        ([(0, 1), (1, 2), (2, 3), (3, 0), (3, 4), (4, 0), (1, 5), (5, 3)], 1),
        ([(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 2)], 3),
        ([(0, 1), (1, 2), (2, 3), (3, 0), (1, 0)], 2),
    ],
)
def test_period(edges, expected):
    cells = sorted({v for e in edges for v in e})
    assert period(graph(7, edges), cells) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=12))
def test_period_is_the_greatest_common_divisor_of_all_cycle_lengths(edges):
    image = graph(7, edges)
    whole = nx.from_numpy_array(image.toarray(), create_using=nx.DiGraph)
    for component in nx.strongly_connected_components(whole):
        cells = sorted(component)
        if len(cells) > 1 or image[cells[0], cells[0]]:
            assert period(image, cells) == naive_period(image, cells)


def test_edges_that_leave_the_component_do_not_count():
    image = graph(4, [(0, 1), (1, 0), (1, 2), (2, 3), (3, 3)])
    assert period(image, [0, 1]) == 2


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([0, 2], "strongly connected, got cell 2"),
        ([1], "no edge between them"),
        ([], "at least one vertex"),
    ],
)
def test_cells_that_form_no_component_are_refused(cells, message):
    image = graph(3, [(0, 1), (1, 0), (0, 2), (2, 2)])
    with pytest.raises(ValueError, match=message):
        period(image, cells)


def test_a_set_that_rotates_does_not_drift():
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert not drifts(around - 0.01, around + 0.01)
    half = around[:5]
    assert drifts(half - 0.01, half + 0.01)


def test_a_set_that_may_contain_a_fixed_point_does_not_drift():
    assert not drifts([[-0.01, -0.01], [0.5, 0.5]], [[0.01, 0.01], [0.6, 0.6]])
    assert not drifts([[0.0]], [[0.1]])


def test_oblique_drift_is_found_although_no_coordinate_has_a_fixed_sign():
    moved = np.array([[1.0, -0.1], [-0.1, 1.0]])
    assert drifts(moved - 0.05, moved + 0.05)


@pytest.mark.parametrize(
    ("low", "up"), [([1.0], [2.0]), ([[1.0]], [[1.0, 2.0]]), (np.zeros((0, 2)),) * 2]
)
def test_displacements_of_other_shapes_are_refused(low, up):
    with pytest.raises(ValueError, match=r"shape \(k, d\)"):
        drifts(low, up)
