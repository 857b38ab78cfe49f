"""Order retractions, against exhaustive search."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.sparse import csr_array

from lightning_morse import CubicalGrid, morse_graph, order_retraction, outer_approximation
from lightning_morse.conley.attractor_lattice import attracting_block, down_sets
from lightning_morse.conley.box_maps import corner_images
from lightning_morse.conley.point_maps import time_map
from tests.conley.known_maps import leslie
from tests.conley.random_maps import adjacency_matrices, image_of


def exhaustive(matrix, found):
    """Whether some map from the cells to the Morse sets and the exterior preserves the order."""
    n = len(matrix) - 1
    exterior = len(found.morse_sets)
    closure = np.linalg.matrix_power(matrix.astype(float) + np.eye(n + 1), n + 1) > 0
    homes = [cells[0] for cells in found.morse_sets] + [n]
    order = closure[np.ix_(homes, homes)]
    fixed = dict.fromkeys([n], exterior)
    for number, cells in enumerate(found.morse_sets):
        fixed.update(dict.fromkeys(cells.tolist(), number))
    # Depth-first search over all choices, vertex by vertex.
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


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(adjacency_matrices())
def test_retractions_preserve_the_order_and_are_impossible_only_where_none_exists(matrix):
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


@settings(max_examples=300, deadline=None)
@given(adjacency_matrices())
def test_a_confined_retraction_is_one_of_the_map_restricted_to_cells_that_cannot_leave(matrix):
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
    """2 and 3 lead through 4 to 0 and 1: the tile of 4 would lie above 0 and 1, below 2 and 3."""
    edges = [(0, 0), (1, 1), (2, 2), (3, 3), (2, 4), (3, 4), (4, 0), (4, 1)]
    result = order_retraction(morse_graph(image_of(edges, 5)))
    assert result.tiles is None
    assert result.impossible
    assert "above all of [0, 1], which cell 4 reaches, and below all of [2, 3]" in result.reason
    with pytest.raises(ValueError, match="there are no tiles, because no Morse set lies above"):
        result.block([0])


def test_few_retractions_are_missed():
    """The search does not backtrack; on 600 random maps it almost never would have to."""
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
    # A cell above 8 that also leads to 2 has to be in tile 6, one that leads to 3 in tile 7.
    left, right = [(9, 8), (9, 2)], [(9, 8), (9, 3)]
    for more, tiles in ((left, ([4, 6], [6, 6])), (right, ([5, 7], [7, 7]))):
        found = order_retraction(morse_graph(image_of([*edges, *more], 10)))
        assert found.tiles[8:].tolist() in tiles
    result = order_retraction(morse_graph(image_of([*edges, *left, (10, 8), (10, 3)], 11)))
    assert result.tiles is None
    assert "dead end" in result.reason
    assert not result.impossible


def test_a_cell_is_assigned_a_minimal_morse_set_above_all_it_reaches():
    """Attractors 0 and 1, saddles 2 and 3 above both, 4 above everything.

    Cells 5 and 6 lie below one saddle each, 7 leads to both of them, 8 to the attractors only.
    """
    edges = [(i, i) for i in range(5)] + [(4, 2), (4, 3), (2, 0), (2, 1), (3, 0), (3, 1)]
    edges += [(2, 5), (5, 0), (5, 1), (3, 6), (6, 0), (6, 1), (7, 5), (7, 6), (8, 0), (8, 1)]
    tiles = order_retraction(morse_graph(image_of(edges, 9))).tiles
    assert tiles[5:8].tolist() == [2, 3, 4]
    assert tiles[8] in (2, 3)


def test_leslie_map():
    """The published case, 2^16 boxes and 3 Morse sets, verified on every edge."""
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


def test_van_der_pol_has_a_retraction_only_if_confined():
    """Cells near the boundary reach the exterior and the cycle; no Morse set is above both."""
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


def test_no_recurrent_cells_and_only_recurrent_cells():
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
