"""Order retractions, attracting blocks and separatrices, against exhaustive search."""

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from lightning_morse import CubicalGrid, morse_graph, outer_approximation
from lightning_morse.conley import condensation
from lightning_morse.conley.box_maps import corner_images, time_map
from lightning_morse.conley.retraction import (
    attracting_block,
    down_sets,
    order_retraction,
    separatrix,
)
from tests.conley.test_against_cmgdb import leslie


@st.composite
def maps(draw, largest=9):
    n = draw(st.integers(2, largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    matrix = rng.random((n, n)) < draw(st.sampled_from([0.1, 0.2, 0.4]))
    if draw(st.booleans()):  # no cycles but fixed cells: many Morse sets, few of them trivial
        matrix = np.tril(matrix, -1) | np.diag(rng.random(n) < 0.6)
    idle = ~matrix.any(axis=1)
    matrix[idle, -1] = True
    matrix[-1] = False
    matrix[-1, -1] = True
    return matrix


def image_of(edges, n):
    matrix = np.zeros((n + 1, n + 1), dtype=bool)
    matrix[tuple(np.array(edges).T)] = True
    matrix[-1, -1] = True
    return csr_array(matrix)


def exhaustive(matrix, found):
    """Whether any map from the cells to the Morse sets and the exterior keeps the order."""
    n = len(matrix) - 1
    exterior = len(found.morse_sets)
    closure = np.linalg.matrix_power(matrix.astype(float) + np.eye(n + 1), n + 1) > 0
    homes = [cells[0] for cells in found.morse_sets] + [n]
    order = closure[np.ix_(homes, homes)]
    fixed = dict.fromkeys([n], exterior)
    for number, cells in enumerate(found.morse_sets):
        fixed.update(dict.fromkeys(cells.tolist(), number))
    # Depth first with every choice: vertex by vertex, checked against those before it.
    sigma = []
    options = [[fixed[v]] if v in fixed else list(range(exterior + 1)) for v in range(n + 1)]

    def fits(v, m):
        return all(
            (not closure[v, w] or order[m, sigma[w]]) and (not closure[w, v] or order[sigma[w], m])
            for w in range(v)
        )

    def search(v):
        if v == n + 1:
            return True
        for m in options[v]:
            if fits(v, m):
                sigma.append(m)
                if search(v + 1):
                    return True
                sigma.pop()
        return False

    return search(0), order


@settings(max_examples=500, deadline=None)
@given(maps())
def test_retractions_keep_the_order_and_exist_where_they_are_not_called_impossible(matrix):
    found = morse_graph(csr_array(matrix))
    exists, order = exhaustive(matrix, found)
    result = order_retraction(found)
    if result.tiles is None:
        assert result.reason
        assert not (exists and result.impossible)
        return
    assert exists
    assert not result.impossible
    assert result.reason == ""
    sigma = np.append(result.tiles, len(found.morse_sets))
    for source, target in np.argwhere(matrix):
        assert order[sigma[source], sigma[target]]
    for number, cells in enumerate(found.morse_sets):
        assert (sigma[cells] == number).all()
    for members in down_sets(found):
        block = result.block(members)
        assert not matrix[:-1][block][:, np.append(~block, True)].any()  # no edge leads out


@settings(max_examples=100, deadline=None)
@given(maps())
def test_with_many_morse_sets_nothing_changes(matrix):
    found = morse_graph(csr_array(matrix))
    expected = order_retraction(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(condensation, "_PASSES", 0)
        result = order_retraction(morse_graph(csr_array(matrix)))
    assert np.array_equal(result.tiles, expected.tiles)
    assert result.reason == expected.reason


@settings(max_examples=300, deadline=None)
@given(maps())
def test_confined_to_cells_that_cannot_leave_it_is_that_of_the_map_on_them(matrix):
    whole = morse_graph(csr_array(matrix))
    stays = np.flatnonzero(~whole.reaches(len(whole.morse_sets))[:-1])
    kept = np.append(stays, len(matrix) - 1)
    part = matrix[np.ix_(kept, kept)]
    result = order_retraction(whole, confined=True)
    if not stays.size:
        assert (result.tiles == -1).all()
        return
    found = morse_graph(csr_array(part))
    exists, order = exhaustive(part, found)
    if result.tiles is None:
        assert not (exists and result.impossible)
        return
    assert exists
    outside = np.setdiff1d(np.arange(len(matrix) - 1), stays)
    assert (result.tiles[outside] == -1).all()
    number = {cells[0]: n for n, cells in enumerate(whole.morse_sets)}
    rename = {number[stays[cells[0]]]: n for n, cells in enumerate(found.morse_sets)}
    sigma = np.array([rename[t] for t in result.tiles[stays]])
    for source, target in np.argwhere(part[:-1, :-1]):
        assert order[sigma[source], sigma[target]]
    for n, cells in enumerate(found.morse_sets):
        assert (sigma[cells] == n).all()


def test_no_retraction_between_two_saddles_and_two_attractors():
    """2 and 3 lead through 4 to 0 and 1: cell 4 would have to lie on both and below both."""
    edges = [(0, 0), (1, 1), (2, 2), (3, 3), (2, 4), (3, 4), (4, 0), (4, 1)]
    result = order_retraction(morse_graph(image_of(edges, 5)))
    assert result.tiles is None
    assert result.impossible
    assert "above all of [0, 1], which cell 4 reaches, and below all of [2, 3]" in result.reason
    with pytest.raises(ValueError, match="there are no tiles, because no Morse set lies above"):
        result.block([0])


def test_few_retractions_are_missed():
    """The search does not go back on a choice; 600 maps, and almost always it need not."""
    rng = np.random.default_rng(0)
    missed = seen = 0
    for _ in range(600):
        n = int(rng.integers(6, 12))
        matrix = np.tril(rng.random((n, n)) < 0.3, -1) | np.diag(rng.random(n) < 0.6)
        matrix[~matrix.any(axis=1), -1] = True
        matrix[-1] = np.arange(n) == n - 1
        found = morse_graph(csr_array(matrix))
        result = order_retraction(found)
        exists, _ = exhaustive(matrix, found)
        seen += exists
        missed += exists and result.tiles is None
    assert seen > 200
    assert missed <= 0.01 * seen


def test_choices_and_dead_ends():
    """Attractors 0 and 1 below each of the saddles 4 and 5; 6 is above 4 and 2, 7 above 5 and 3.

    Cell 8 leads to 0 and 1 and may go to either saddle.
    """
    fixed = [(i, i) for i in range(8)]
    edges = [*fixed, (4, 0), (4, 1), (5, 0), (5, 1), (6, 4), (6, 2), (7, 5), (7, 3), (8, 0), (8, 1)]
    assert order_retraction(morse_graph(image_of(edges, 9))).tiles[8] in (4, 5)
    # From above 8, a cell that also leads to 2 has to be in tile 6, one that leads to 3 in tile 7.
    left, right = [(9, 8), (9, 2)], [(9, 8), (9, 3)]
    for more, tiles in ((left, ([4, 6], [6, 6])), (right, ([5, 7], [7, 7]))):
        found = order_retraction(morse_graph(image_of([*edges, *more], 10)))
        assert found.tiles[8:].tolist() in tiles
    result = order_retraction(morse_graph(image_of([*edges, *left, (10, 8), (10, 3)], 11)))
    assert result.tiles is None
    assert "dead end" in result.reason
    assert not result.impossible


def test_a_cell_lies_above_all_it_leads_to_and_no_higher_than_it_must():
    """Attractors 0 and 1, saddles 2 and 3 above both, 4 above everything.

    Cells 5 and 6 lie below one saddle each, 7 leads to both of them, 8 to the attractors only.
    """
    edges = [(i, i) for i in range(5)] + [(4, 2), (4, 3), (2, 0), (2, 1), (3, 0), (3, 1)]
    edges += [(2, 5), (5, 0), (5, 1), (3, 6), (6, 0), (6, 1), (7, 5), (7, 6), (8, 0), (8, 1)]
    tiles = order_retraction(morse_graph(image_of(edges, 9))).tiles
    assert tiles[5:8].tolist() == [2, 3, 4]
    assert tiles[8] in (2, 3)


def test_leslie_map():
    """The published case, 2^16 boxes: 3 Morse sets; checked on every edge, one by one."""
    grid = CubicalGrid([-0.001, -0.001], [90, 70], (256, 256))
    image = outer_approximation(*corner_images(leslie, grid, padding=1), grid)
    found = morse_graph(image)
    result = order_retraction(found)
    assert len(found.morse_sets) == 3
    assert result.tiles is not None
    sigma = np.append(result.tiles, 3)
    below = np.eye(4, dtype=bool)
    for q in range(3):
        below[q, list(nx.descendants(found.graph, q))] = True
        below[q, 3] = found.reaches(3)[found.morse_sets[q][0]]
    source, target = image.nonzero()
    assert below[sigma[source], sigma[target]].all()
    for number, cells in enumerate(found.morse_sets):
        assert (result.tiles[cells] == number).all()


@settings(max_examples=200, deadline=None)
@given(maps())
def test_down_sets_are_all_of_them_and_their_blocks_the_largest(matrix):
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


def test_van_der_pol_needs_to_be_confined():
    """Cells at the edge may leave or fall to the cycle, and nothing is above both."""
    flow = time_map(lambda y: np.stack([y[:, 1], (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1), 1, 20)
    grid = CubicalGrid([-4, -4], [4, 4], (128, 128))
    found = morse_graph(outer_approximation(*corner_images(flow, grid, padding=0.5), grid))
    result = order_retraction(found)
    assert result.impossible
    assert "and below all of []" in result.reason
    confined = order_retraction(found, confined=True)
    leaves = found.reaches(len(found.morse_sets))[:-1]
    assert np.array_equal(confined.tiles == -1, leaves)
    (cycle,) = found.attractors
    (origin,) = grid.cell_of([[0.01, 0.01]])
    assert cycle != confined.tiles[origin] != -1
    assert confined.block([cycle])[found.morse_sets[cycle]].all()


def test_down_sets_come_one_at_a_time():
    """2^40 of them, of which five are taken."""
    n = 40
    found = morse_graph(csr_array(np.eye(n + 1, dtype=bool)))
    first = list(itertools.islice(down_sets(found), 5))
    assert first == [frozenset(), *(frozenset({i}) for i in range(4))]
    with pytest.raises(ValueError, match="more than 10 down-sets"):
        list(down_sets(found, limit=10))
    few = morse_graph(csr_array(np.eye(3, dtype=bool)))
    assert len(list(down_sets(few, limit=4))) == 4


def test_separatrix_of_a_double_well():
    """x' = x - x^3 beside a neutral axis: the middle column, and nothing far from it."""
    grid = CubicalGrid([-2, -1], [2, 1], (41, 5))
    step = lambda x: np.stack([x[:, 0] + 0.3 * (x[:, 0] - x[:, 0] ** 3), 0.5 * x[:, 1]], 1)  # noqa: E731
    found = morse_graph(outer_approximation(*corner_images(step, grid), grid))
    left, right = found.attractors[0], found.attractors[-1]
    cells = separatrix(found, left, right)
    x = np.abs(grid.cell_centers()[:, 0])
    assert cells[x < 0.05].all()
    assert not cells[x > 0.3].any()
    with pytest.raises(ValueError, match="two of the attractors"):
        separatrix(found, left, left)
    with pytest.raises(ValueError, match="two of the attractors"):
        separatrix(found, left, len(found.morse_sets))


def test_no_recurrent_cells_and_nothing_but_recurrent_cells():
    n = 20_000
    out = csr_array((np.ones(n + 1, bool), (np.arange(n + 1), np.full(n + 1, n))))
    result = order_retraction(morse_graph(out))
    assert (result.tiles == 0).all()  # that of the exterior
    assert [sorted(s) for s in down_sets(morse_graph(out))] == [[]]
    assert not attracting_block(morse_graph(out), []).any()
    cycle = csr_array(
        (np.ones(n + 1, bool), (np.arange(n + 1), np.append(np.roll(np.arange(n), 1), n)))
    )
    found = morse_graph(cycle)
    assert (order_retraction(found).tiles == 0).all()
    assert attracting_block(found, [0]).all()


def test_bad_members_are_refused():
    edges = [(0, 0), (1, 1), (1, 0), (2, 2), (2, 3)]
    found = morse_graph(image_of(edges, 3))
    with pytest.raises(ValueError, match="among the Morse sets 0 to 2, got 7"):
        attracting_block(found, [7])
    with pytest.raises(ValueError, match="1 leads to Morse set 0"):
        attracting_block(found, [1])
    with pytest.raises(ValueError, match="2 leads to the exterior"):
        attracting_block(found, [0, 2])
