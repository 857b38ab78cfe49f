"""Sets of cells of an adaptive grid, drawn on a uniform one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_morse import AdaptiveGrid, CubicalGrid
from lightning_morse.conley.homology import relative_betti
from lightning_morse.grids.raster import raster
from tests.grids.refined_grids import grown, in_order


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_drawn_pairs_have_the_homology_of_the_pair_on_the_uniform_grid(d, rounds, seed):
    """A random pair of sets, drawn around its difference and on the whole uniform grid."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 4 if d < 3 else 3, d).tolist()
    tree = grown(CubicalGrid([0.0] * d, [1.0] * d, shape), rounds, rng, 0.3 if d < 3 else 0.15)
    upper = rng.random(tree.size) < 0.6
    lower = upper & (rng.random(tree.size) < 0.5)
    cells = upper & ~lower
    if not cells.any():
        return
    fine, around = in_order(tree, rounds)
    expected = relative_betti(upper[around], lower[around], fine)
    window, (p1, p0) = raster(tree, cells, [upper, lower])
    assert window.size <= fine.size
    assert relative_betti(p1, p0, window) == expected


def test_drawings_that_would_be_too_large_are_refused(monkeypatch):
    monkeypatch.setattr("lightning_morse.grids.raster.MAX_RASTER_CELLS", 63)
    tree = AdaptiveGrid.of(CubicalGrid([0.0, 0.0], [1.0, 1.0], (4, 4)))
    tree = tree.refine(np.arange(16) == 5)
    with pytest.raises(ValueError, match=r"span \(8, 8\) cells of level 1, more than 63"):
        raster(tree, np.ones(tree.size, dtype=bool), [])
    small, _ = raster(tree, np.arange(tree.size) == 5, [])
    assert small.shape == (3, 3)
