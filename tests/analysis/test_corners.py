"""Where boxes are put."""

from __future__ import annotations

import numpy as np

from lightning_morse.analysis.corners import around_minimum, around_way, grown, with_room
from lightning_morse.grids.cubical import CubicalGrid

OUTER = -np.ones(2), np.ones(2)
CELL = np.full(2, 1 / 32)
SMALLEST = np.full(2, 1 / 32)


def tried(low, up, siblings=(), around=OUTER):
    """The corners tried for a box, as lists."""
    wanted = np.array(low), np.array(up)
    siblings = [(np.array(a), np.array(b)) for a, b in siblings]
    found = with_room(wanted, around, siblings, CELL, SMALLEST)
    return [(a.tolist(), b.tolist()) for a, b in found]


def test_the_last_part_of_a_way_is_held():
    path = np.array([[-0.9, 0.0], [-0.2, 0.0], [0.3, 0.1]])
    low, up = around_way(path, np.full(2, 2.0))
    assert ((low < path[1]) & (path[2] < up)).all()
    assert low[0] > -0.9


def test_a_minimum_keeps_its_distance_from_others_but_not_from_those_it_holds():
    width, point = np.full(2, 2.0), np.zeros(2)
    alone = around_minimum(point, width, [])
    assert np.array_equal(alone, [[-0.25, -0.25], [0.25, 0.25]])
    near = around_minimum(point, width, [np.array([0.3, 0.0])])
    assert np.allclose(near, [[-0.15, -0.15], [0.15, 0.15]])
    inside = around_minimum(point, width, [np.array([0.01, 0.01])])
    assert np.array_equal(inside, alone)


def test_without_others_a_box_is_as_wanted_then_smaller():
    first, second, third = tried([-0.2, -0.2], [0.2, 0.2])
    assert first == ([-0.2, -0.2], [0.2, 0.2])
    assert np.allclose(second, [[-0.1, -0.1], [0.1, 0.1]])
    assert np.allclose(third, [[-0.05, -0.05], [0.05, 0.05]])


def test_the_last_try_keeps_clear_of_another_box_by_a_cell():
    sibling = [-0.5, -0.5], [-0.125, 0.5]
    *others, (low, up) = tried([-0.2, -0.2], [0.2, 0.2], [sibling])
    assert len(others) == 3
    assert np.allclose(low, [-0.125 + 1 / 32, -0.2])
    assert low[0] > -0.125 + 1 / 32
    assert up == [0.2, 0.2]


def test_no_room_beside_a_box_that_holds_the_middle():
    assert len(tried([-0.2, -0.2], [0.2, 0.2], [([-0.5, -0.5], [0.1, 0.1])])) == 3


def test_a_box_is_neither_outside_nor_nearly_all_nor_smaller_than_allowed():
    assert tried([0.9, 0.0], [1.5, 0.5])[0][1] == [1.0, 0.5]
    assert tried([-0.9, -0.9], [0.9, 0.9]) == []
    assert tried([0.0, 0.0], [0.01, 0.01]) == []
    assert tried([1.1, 0.0], [1.5, 0.5]) == []


NO_FACE = np.zeros((2, 2), dtype=bool)
# Upper faces of the axes given.
RIGHT, UPPER_TWO = np.array([[0, 1], [0, 0]], dtype=bool), np.array([[0, 1], [0, 1]], dtype=bool)


def test_only_the_faces_asked_for_move_and_only_as_far_as_allowed():
    grid = CubicalGrid(*OUTER, (8, 8))
    assert grown(grid, NO_FACE, (4 * OUTER[0], 4 * OUTER[1])) is None
    larger = grown(grid, RIGHT, (4 * OUTER[0], 2 * OUTER[1]))
    assert larger.lower.tolist() == [-1, -1]
    assert larger.upper.tolist() == [2, 1]
    assert larger.shape == (8, 8)
    assert grown(grid, RIGHT, OUTER) is None


def test_a_face_that_may_move_next_to_nothing_stays():
    grid, nearly = CubicalGrid(*OUTER, (8, 8)), (4 * OUTER[0], np.array([1.1, 4.0]))
    assert grown(grid, RIGHT, nearly, least=0.1) is None
    corner = grown(grid, UPPER_TWO, nearly, least=0.1)
    assert corner.upper.tolist() == [1, 4]
    assert grown(grid, RIGHT, nearly, least=0.05).upper.tolist() == [1.1, 1]
