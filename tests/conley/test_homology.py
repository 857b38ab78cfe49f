"""Relative cubical homology, against GUDHI and sets whose homology is known."""

import gudhi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from lightning_morse import CubicalGrid
from lightning_morse.conley import homology
from lightning_morse.conley.homology import relative_betti


def reference(upper, lower, shape):
    """Betti numbers by GUDHI.

    GUDHI has no relative homology of cubical pairs. With one more axis, a full box, which is
    contractible, is glued to P_1 along P_0: P_1 on the bottom layer, P_0 above it, the box on top.
    The result has the homology of the pair, and one more point.
    """
    stack = np.stack([upper.reshape(shape), (upper & lower).reshape(shape), np.ones(shape, bool)])
    complex_ = gudhi.CubicalComplex(top_dimensional_cells=np.where(stack, 0.0, np.inf))
    pairs = complex_.persistence(homology_coeff_field=2, min_persistence=-1)
    betti = [0] * (len(shape) + 2)
    for k, (_, death) in pairs:
        betti[k] += death == np.inf
    betti[0] -= 1
    assert betti[-1] == 0
    return tuple(betti[:-1])


@st.composite
def pairs(draw):
    d = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(rng.integers(1, {1: 30, 2: 9, 3: 5}[d], d).tolist())
    upper = rng.random(shape) < draw(st.sampled_from([0.3, 0.6, 0.9, 1.0]))
    lower = rng.random(shape) < draw(st.sampled_from([0.0, 0.2, 0.5]))
    if draw(st.booleans()):
        upper = binary_dilation(upper, iterations=1)
    return upper.ravel(), lower.ravel(), shape


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(pairs(), st.sampled_from([0, 10**9]))
def test_random_pairs_have_the_homology_found_by_gudhi(case, few):
    """With all cancellations, and by elimination alone."""
    upper, lower, shape = case
    grid = CubicalGrid([0] * len(shape), [1] * len(shape), shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(homology, "_ELIMINATE_AT_ONCE_UP_TO", few)
        patch.setattr(homology, "_STOP_SLOW_SWEEPS_UP_TO", few)
        assert relative_betti(upper, lower, grid) == reference(upper, lower, shape)


@settings(max_examples=200, deadline=None)
@given(pairs(), st.integers(0, 2**32 - 1))
def test_on_periodic_axes_cancellations_and_rotations_change_nothing(case, seed):
    upper, lower, shape = case
    rng = np.random.default_rng(seed)
    wraps = (rng.random(len(shape)) < 0.6).tolist()
    grid = CubicalGrid([0] * len(shape), [1] * len(shape), shape, wraps)
    expected = relative_betti(upper, lower, grid)
    turn = tuple(int(rng.integers(n)) if w else 0 for n, w in zip(shape, wraps, strict=True))
    axes = tuple(range(len(shape)))
    upper, lower = (np.roll(m.reshape(shape), turn, axes).ravel() for m in (upper, lower))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(homology, "_ELIMINATE_AT_ONCE_UP_TO", 0)
        assert relative_betti(upper, lower, grid) == expected


@pytest.mark.parametrize("n", [1, 2, 3, 30])
def test_circles_and_tori(n):
    """Also with so few cells that both ends of a cell coincide."""
    circle = CubicalGrid([0], [1], (n,), (True,))
    everything, nothing = np.ones(n, bool), np.zeros(n, bool)
    assert relative_betti(everything, nothing, circle) == (1, 1)
    torus = CubicalGrid([0, 0], [1, 1], (n, n + 1), (True, True))
    everything, nothing = np.ones(torus.size, bool), np.zeros(torus.size, bool)
    assert relative_betti(everything, nothing, torus) == (1, 2, 1)
    solid = CubicalGrid([0, 0, 0], [1, 1, 1], (n, 2, 4), (True, False, False))
    everything = np.ones(solid.size, bool)
    assert relative_betti(everything, np.zeros(solid.size, bool), solid) == (1, 1, 0, 0)


@pytest.mark.slow
def test_large_balls_spheres_and_rings():
    grid = CubicalGrid([-1, -1], [1, 1], (400, 400))
    r = np.linalg.norm(grid.cell_centers(), axis=1)
    assert relative_betti(r < 0.9, np.zeros(grid.size, bool), grid) == (1, 0, 0)
    assert relative_betti(r < 0.9, r > 0.8, grid) == (0, 0, 1)
    ring = (r < 0.9) & (r > 0.5)
    assert relative_betti(ring, np.zeros(grid.size, bool), grid) == (1, 1, 0)
    assert relative_betti(ring, r > 0.8, grid) == (0, 0, 0)
    assert relative_betti(ring, (r > 0.8) | (r < 0.6), grid) == (0, 1, 1)
    cube = CubicalGrid([-1] * 3, [1] * 3, (40,) * 3)
    r = np.linalg.norm(cube.cell_centers(), axis=1)
    assert relative_betti((r < 0.9) & (r > 0.6), np.zeros(cube.size, bool), cube) == (1, 0, 1, 0)
    assert relative_betti(r < 0.9, r > 0.7, cube) == (0, 0, 0, 1)


def test_bad_masks_are_refused():
    grid = CubicalGrid([0], [1], (4,))
    mask = np.ones(4, bool)
    with pytest.raises(ValueError, match="upper must be boolean with one entry for each of the 4"):
        relative_betti(mask[:3], mask, grid)
    with pytest.raises(ValueError, match=r"lower must be boolean .* got int64"):
        relative_betti(mask, np.ones(4, int), grid)


def test_empty_differences_have_no_homology():
    grid = CubicalGrid([0, 0], [1, 1], (4, 4))
    mask = np.ones(16, bool)
    assert relative_betti(~mask, mask, grid) == (0, 0, 0)
    assert relative_betti(mask, mask, grid) == (0, 0, 0)
