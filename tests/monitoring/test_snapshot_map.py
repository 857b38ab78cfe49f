"""The map learnt from the snapshots of a run: what it certifies is true; it may be nothing."""

import numpy as np
import pytest

from lightning_morse.monitoring.extent import half_widths
from lightning_morse.monitoring.snapshot_map import analyze_snapshots


def well(z):
    """Gradient descent of (x^2 - 1)^2 / 4 + 0.2 y^2, steps of 0.3: minima at x = 1 and -1."""
    x, y = z.T
    return np.stack([x + 0.3 * (x - x**3), 0.88 * y], axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_what_one_run_without_noise_certifies_is_true(seed):
    z = np.random.default_rng(seed).uniform(-1.6, 1.6, (1, 2))
    states = [z]
    for _ in range(24):
        states.append(well(states[-1]))
    path = np.concatenate(states) - states[-1]
    result = analyze_snapshots(path, half_widths(path), 48)
    assert result.n_attractors == 1
    assert result.diverged.any()
    low, up = result.grid.cell_bounds()
    centers = 0.5 * (low + up)[result.labels == 0] + states[-1]
    for _ in range(300):
        centers = well(centers)
    assert centers == pytest.approx(np.broadcast_to(states[-1].round(), centers.shape), abs=0.1)


def test_one_run_with_noise_certifies_nothing():
    rng = np.random.default_rng(0)
    states = [np.array([[0.4, 1.0]])]
    for _ in range(24):
        states.append(well(states[-1]) + 1e-3 * rng.standard_normal((1, 2)))
    path = np.concatenate(states) - states[-1]
    result = analyze_snapshots(path, half_widths(path), 48)
    assert result.n_attractors == 0
    assert not (result.labels >= 0).any()


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_run_that_comes_to_rest_at_a_saddle_certifies_no_attractor(noise):
    """It slides down the ridge and never sees what lies beside it."""
    rng = np.random.default_rng(0)
    states = [np.array([1.0, 1e-4])]
    for _ in range(15):
        states.append(states[-1] * [0.6, 1.1] + noise * rng.standard_normal(2))
    turned = np.array(states) @ np.array([[0.8, 0.6], [-0.6, 0.8]])
    assert analyze_snapshots(turned, [1.2, 0.9], 48).n_attractors == 0
