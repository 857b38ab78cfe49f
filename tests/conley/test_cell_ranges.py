"""Products of index ranges listed as cells, against itertools."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_morse import CubicalGrid
from lightning_morse.conley.cell_ranges import list_cells


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_cells_are_listed_box_by_box_with_the_exterior_last(d, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 5, d).tolist())
    grid = CubicalGrid([0.0] * d, [1.0] * d, shape)
    first = [rng.integers(0, n, 6).astype(np.int32) for n in shape]
    width = [rng.integers(0, n - f + 1).astype(np.int32) for n, f in zip(shape, first, strict=True)]
    empty = np.any([w == 0 for w in width], axis=0)
    leaves = empty | (rng.random(6) < 0.3)
    expected, ends = [], []
    for box in range(6):
        ranges = [range(f[box], f[box] + w[box]) for f, w in zip(first, width, strict=True)]
        expected += [np.ravel_multi_index(index, shape) for index in itertools.product(*ranges)]
        expected += [grid.size] * int(leaves[box])
        ends.append(len(expected))
    found_ends, cells = list_cells(first, width, leaves, grid)
    assert cells.tolist() == [*expected, grid.size]
    assert found_ends.tolist() == ends
