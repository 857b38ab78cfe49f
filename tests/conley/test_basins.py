"""Certain basins, exits by face, and the cells between basins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from lightning_morse import CubicalGrid, morse_graph, outer_approximation
from lightning_morse.conley.basins import certain_labels, exit_volumes, reach_of_cells, separatrix
from lightning_morse.conley.box_maps import corner_images
from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from tests.conley.random_maps import image_boxes_on_grids


@settings(max_examples=100, deadline=None)
@given(image_boxes_on_grids(), st.floats(0.0, 1.0))
def test_certain_labels_survive_in_every_smaller_map(case, growth):
    """What is certain for a map holds for every map it contains."""
    grid, lower, upper = case
    large = morse_graph(outer_approximation(lower - growth, upper + growth, grid))
    small = morse_graph(outer_approximation(lower, upper, grid))
    of_large, of_small = certain_labels(large), certain_labels(small)
    assert (of_small[of_large == ESCAPES] == ESCAPES).all()
    for a in large.attractors:
        inside = {
            b for b, cells in enumerate(small.morse_sets) if set(cells) & set(large.morse_sets[a])
        }
        for b in range(len(small.morse_sets)):
            if b not in inside:
                assert not small.reaches(b)[:-1][of_large == a].any()
        assert not small.reaches(len(small.morse_sets))[:-1][of_large == a].any()


def test_a_single_reachable_terminal_is_not_enough():
    """Cell 1 reaches the attractor {0} only through {2}, which may hide another attractor."""
    #        0 attractor, 1 transient, 2 recurrent on the way, 3 transient below 2
    matrix = np.array(
        [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    )
    found = morse_graph(csr_array(matrix))
    assert certain_labels(found).tolist() == [0, UNDECIDED, UNDECIDED, 0]


def test_labels_and_exits_by_face():
    """Cells on a line: 0 leaves below, 1 maps to 0 and 2, 2 stays, 3 and 4 leave above."""
    matrix = np.zeros((6, 6), dtype=bool)
    matrix[[0, 1, 1, 2, 3, 4, 5], [5, 0, 2, 2, 4, 5, 5]] = True
    found = morse_graph(csr_array(matrix))
    labels = certain_labels(found)
    assert labels.tolist() == [ESCAPES, UNDECIDED, 0, ESCAPES, ESCAPES]
    exits = np.zeros((5, 1, 2), dtype=bool)
    exits[0, 0, 0] = exits[4, 0, 1] = True
    assert exit_volumes(found, labels, exits).tolist() == [[0.2, 0.4]]
    volumes = np.array([0.5, 0.125, 0.125, 0.125, 0.125])
    assert exit_volumes(found, labels, exits, volumes=volumes).tolist() == [[0.5, 0.25]]


@pytest.mark.parametrize("n_sets", [0, 3, 150])
def test_reach_of_cells_renumbers_the_morse_sets(n_sets):
    # Fixed cells, then cells that each map to two earlier cells or to the exterior.
    rng = np.random.default_rng(n_sets)
    n = n_sets + 60
    image = np.zeros((n + 1, n + 1), dtype=bool)
    image[range(n_sets), range(n_sets)] = True
    for cell in range(n_sets, n):
        image[cell, rng.choice([*range(cell), n], size=min(2, cell + 1), replace=False)] = True
    image[n, n] = True
    found = morse_graph(csr_array(image))
    number = dict(enumerate(rng.permutation(n_sets).tolist()))
    reach = reach_of_cells(found, number)
    assert len({row.tobytes() for row in reach.kinds}) == len(reach.kinds)
    for cell in range(n):
        expected = sorted(number[k] for k in range(n_sets) if found.reaches(k)[cell])
        assert reach.at(cell) == (tuple(expected), found.reaches(n_sets)[cell])
    renumber = np.array([*(number[k] for k in range(n_sets)), -2, -1])
    attractors = [number[a] for a in found.attractors]
    assert np.array_equal(reach.labels(attractors), renumber[certain_labels(found)])


def test_separatrix_of_a_double_well():
    """x' = x - x^3 times a contracting axis: the middle column, and nothing far from it."""
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
