"""Adaptive grids, against the uniform grids of each level."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_morse import AdaptiveGrid, CubicalGrid
from tests.grids.refined_grids import grown, in_order


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_leaves_cover_the_box_once(d, rounds, seed):
    """Faces are those of the uniform grids to the last bit; every point lies in its cell."""
    rng = np.random.default_rng(seed)
    lower = rng.normal(size=d)
    shape = rng.integers(1, 4, d)
    grid = CubicalGrid(lower, lower + rng.uniform(0.1, 5, d), shape.tolist())
    tree = grown(grid, rounds, rng)
    low, up = tree.cell_bounds()
    assert (low < up).all()
    assert tree.volumes.sum() == pytest.approx(1, abs=1e-12)
    assert np.allclose((up - low).prod(1), tree.volumes * (grid.upper - grid.lower).prod())
    for level in range(rounds + 1):
        edges = CubicalGrid(grid.lower, grid.upper, (shape << level).tolist()).edges
        mine = tree.levels == level
        for axis in range(d):
            assert np.isin(low[mine, axis], edges[axis]).all()
            assert np.isin(up[mine, axis], edges[axis]).all()
    points = np.concatenate([rng.uniform(grid.lower - 0.2, grid.upper + 0.2, (100, d)), low, up])
    cells = tree.cell_of(points)
    inside = ((points >= grid.lower) & (points <= grid.upper)).all(1)
    assert np.array_equal(cells >= 0, inside)
    held = cells[inside]
    assert ((low[held] <= points[inside]) & (points[inside] <= up[held])).all()
    # A point on a face belongs to the upper cell, except on the upper faces of the box.
    at_top = points[inside] == grid.upper
    assert ((points[inside] < up[held]) | at_top).all()
    assert np.array_equal(tree.cell_of(low), np.arange(tree.size))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_refining_everything_gives_the_uniform_grid(d):
    coarse = CubicalGrid([0.1] * d, [0.7] * d, (3, 2, 1)[:d])
    tree = AdaptiveGrid.of(coarse)
    for _ in range(3):
        tree = tree.refine(np.ones(tree.size, dtype=bool))
    fine, order = in_order(tree, 3)
    assert np.array_equal(np.sort(order), np.arange(fine.size))
    for mine, theirs in zip(tree.cell_bounds(), fine.cell_bounds(), strict=True):
        assert np.array_equal(mine[order], theirs)
    points = np.random.default_rng(0).choice(fine.edges[0], (200, d))
    assert np.array_equal(order[fine.cell_of(points)], tree.cell_of(points))


def test_children_take_the_place_of_their_parent():
    tree = AdaptiveGrid.of(CubicalGrid([0, 0], [3, 1], (3, 1)))
    chosen = np.array([False, True, False])
    finer = tree.refine(chosen)
    assert tree.origins(chosen).tolist() == [0, 1, 1, 1, 1, 2]
    lower, upper = finer.cell_bounds([1, 2, 3, 4])
    assert lower.tolist() == [[1, 0], [1, 0.5], [1.5, 0], [1.5, 0.5]]
    assert upper.tolist() == [[1.5, 0.5], [1.5, 1], [2, 0.5], [2, 1]]
    assert tree.size == 3, "refining leaves the original grid unchanged"
    assert tree.refine(np.zeros(3, dtype=bool)) is tree


def test_bad_refinements():
    tree = AdaptiveGrid.of(CubicalGrid([0.0], [1.0], (3,)))
    with pytest.raises(ValueError, match=r"chosen must be boolean .* each of the 3 cells"):
        tree.refine([True, False])
    with pytest.raises(ValueError, match=r"chosen must be boolean .* got int64"):
        tree.origins([0, 1, 0])
    with pytest.raises(ValueError, match=r"cannot have periodic axes, got periodic=\(True,\)"):
        AdaptiveGrid.of(CubicalGrid([0.0], [1.0], (3,), (True,)))
    with pytest.raises(ValueError, match=r"points must have shape \(n, 1\)"):
        tree.cell_of([[0.0, 1.0]])


def test_cells_too_thin_for_floating_point():
    tree = AdaptiveGrid.of(CubicalGrid([1e6], [1e6 + 1], (1,)))
    for _ in range(30):  # 2^-30 against an ulp of 2^-33
        tree = tree.refine(np.arange(tree.size) == 0)
    with pytest.raises(ValueError, match=r"cells of level 31 would be 4\.66e-10 wide on axis 0"):
        tree.refine(np.arange(tree.size) == 0)
    low, up = tree.cell_bounds()
    assert (low < up).all()
    assert (np.diff(low[:, 0]) > 0).all()


def test_more_nodes_than_can_be_numbered(monkeypatch):
    monkeypatch.setattr("lightning_morse.grids.adaptive.MAX_CELLS", 10)
    tree = AdaptiveGrid.of(CubicalGrid([0.0, 0.0], [1.0, 1.0], (2, 1)))
    tree = tree.refine([True, True])
    with pytest.raises(ValueError, match="refining 1 cells leads to 14 nodes; at most 10"):
        tree.refine(np.arange(8) == 3)
