import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_morse import CubicalGrid
from lightning_morse.analysis import analyze_samples, design
from lightning_morse.curvature import certain_inertia, is_connected


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1), st.floats(0.01, 2))
def test_certain_inertia_holds_for_matrices_between_the_bounds(dim, seed, width):
    rng = np.random.default_rng(seed)
    # Badly scaled on purpose: axes of a slice can differ by orders of magnitude.
    scale = np.diag(10.0 ** rng.uniform(-2, 2, dim))
    middle = rng.normal(size=(dim, dim))
    middle = scale @ (middle + middle.T) @ scale
    half = width * scale @ np.abs(rng.normal(size=(dim, dim))) @ scale
    half = 0.5 * (half + half.T)
    found = certain_inertia((middle - half)[None], (middle + half)[None])
    corners = rng.choice([-1.0, 1.0], size=(300, dim, dim))
    corners = np.triu(corners) + np.swapaxes(np.triu(corners, 1), 1, 2)
    values = np.linalg.eigvalsh(middle + corners * half)
    if found.index[0] >= 0:
        assert ((values < 0).sum(axis=1) == found.index[0]).all()
    if found.descends[0]:
        assert (values[:, 0] < 0).all()


def test_inertia_of_matrices_known_exactly():
    exact = np.array([np.diag([1.0, 2.0]), np.diag([-1e-6, 1e6]), -np.eye(2)])
    found = certain_inertia(exact, exact)
    assert found.index.tolist() == [0, 1, 2]
    assert found.descends.tolist() == [False, True, True]


def test_singular_or_wide_matrices_are_not_certain():
    middle = np.array([np.diag([0.0, 1.0]), np.diag([1.0, 1.0]), np.diag([-5.0, 0.1])])
    half = np.array([0.1, 1.1, 1.0])[:, None, None] * np.ones((3, 2, 2))
    found = certain_inertia(middle - half, middle + half)
    assert found.index.tolist() == [-1, -1, -1]
    assert found.descends.tolist() == [False, False, True]


def test_connected_cells():
    grid = CubicalGrid([0, 0], [1, 1], (3, 3))
    assert is_connected(grid, np.array([0, 4, 8]))  # corner to corner
    assert not is_connected(grid, np.array([0, 2]))


@pytest.mark.parametrize("seed", range(4))
def test_two_minima_in_one_morse_set_are_never_counted_as_exactly_one(seed):
    """Wells so close that few samples cannot part them: never exactly one."""
    exact = 0
    for depth in (0.01, 0.05, 0.3):
        for n in (20, 40, 80):
            x = design([-1, -1], [1, 1], n, seed)
            loss = (x[:, 0] ** 2 - depth) ** 2 + 0.3 * x[:, 1] ** 2
            result = analyze_samples(x, loss, [-1, -1], [1, 1], 48)
            if result.n_unresolved == 0:
                exact += 1
                assert result.n_attractors == 2
    assert exact > 0, "no count was exact, so this test shows nothing"
