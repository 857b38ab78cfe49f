"""The tree of blocks: it covers the grid, and only where pairs start decides on it."""

import numpy as np
import pytest

from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.partition import (
    LEAST_POINTS,
    LEAST_POINTS_FITTED,
    MOST_POINTS,
    NEVER_CUT,
    TRIED_WHOLE,
    WITH_MARGIN,
    partition,
)


def bottom(part):
    return [part] if not part.halves else [leaf for half in part.halves for leaf in bottom(half)]


def uniform(n, shape, seed=0):
    grid = CubicalGrid([0.0] * len(shape), [1.0] * len(shape), shape)
    return np.random.default_rng(seed).uniform(0, 1, (n, len(shape))), grid


@pytest.mark.parametrize("shape", [(64,), (32, 16), (8, 9, 7)])
def test_each_level_is_disjoint_and_the_bottom_covers_the_grid(shape):
    start, grid = uniform(900, shape)
    tree = partition(start, grid)
    for level in [*tree.levels(), bottom(tree)]:
        count = np.zeros(grid.shape, dtype=int)
        for part in level:
            count[part.cells] += 1
        assert count.max() == 1
    assert count.min() == 1
    assert all(part.fitted for part in bottom(tree))


def test_blocks_hold_the_pairs_that_start_in_them_and_the_nearest_around():
    start, grid = uniform(900, (32, 16))
    index = np.stack(np.unravel_index(grid.cell_of(start), grid.shape), axis=1)
    tree = partition(start, grid)
    for level in tree.levels():
        for part in level:
            inside = ((index >= part.first) & (index < part.last)).all(axis=1)
            own = part.points[part.own]
            assert own.tolist() == np.flatnonzero(inside).tolist()
            assert LEAST_POINTS <= own.size <= MOST_POINTS
            assert part.points.size == max(WITH_MARGIN * own.size, LEAST_POINTS_FITTED)
            low, up = np.array(part.first) / grid.shape, np.array(part.last) / grid.shape
            away = (np.maximum(np.maximum(low - start, start - up), 0) / (up - low)).max(axis=1)
            others = np.setdiff1d(np.arange(900), part.points)
            assert away[part.points].max() <= away[others].min()


def test_few_pairs_are_one_block_and_some_more_are_tried_as_one():
    for n, cut, whole in (
        (NEVER_CUT, False, True),
        (NEVER_CUT + 1, True, True),
        (TRIED_WHOLE, True, True),
        (TRIED_WHOLE + 1, True, False),
    ):
        tree = partition(*uniform(n, (32, 32)))
        assert (bool(tree.halves), tree.fitted) == (cut, whole)
        assert tree.points.size == n
        assert tree.own.all()


def test_many_pairs_in_one_cell_stay_together():
    start, grid = uniform(300, (16, 16))
    start = np.concatenate([start, np.full((500, 2), 0.51)])
    leaves = bottom(partition(start, grid))
    largest = max(leaves, key=lambda part: part.own.sum())
    assert largest.own.sum() >= 500
    assert np.prod(largest.shape) <= 16
    assert sum(part.own.sum() for part in leaves) == 800


def test_no_cut_where_no_edge_of_the_grid_parts_the_pairs():
    grid = CubicalGrid([0.0], [1.0], (4,))
    tree = partition(np.full((400, 1), 0.3), grid)
    assert tree.fitted
    assert not tree.halves
