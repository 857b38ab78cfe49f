"""The linear comparison system, against exact solutions on a fine mesh of times."""

import numpy as np
import pytest
from scipy.linalg import expm

from lightning_morse.enclosure import comparison


def systems(n, d, seed, exponent):
    """Metzler matrices of every sign pattern, scaled to ``h ||A|| = exponent`` at steps ``h``."""
    rng = np.random.default_rng(seed)
    matrix = np.abs(rng.standard_normal((d, d, n))) * (rng.random((d, d, n)) < 0.7)
    diagonal = np.arange(d)
    matrix[diagonal, diagonal] = rng.standard_normal((d, n)) * rng.choice([0.1, 1, 5], n)
    step = rng.uniform(0.1, 3, n)
    matrix *= exponent / step / np.maximum(comparison.norm(matrix), 1e-12)
    # Entries of very different size, and zeros, are the adversarial cases.
    forcing = rng.exponential(1, (d, n)) * rng.choice([0, 0.01, 1], (d, n))
    start = rng.exponential(1, (d, n)) * rng.choice([0, 0.01, 1], (d, n))
    return matrix, forcing, start, step


def exact(matrix, forcing, start, step, pieces=40):
    """Solutions at equal steps from 0 to ``h``, shape ``(pieces + 1, d, n)``."""
    d, n = start.shape
    block = np.zeros((n, d + 1, d + 1))
    block[:, :d, :d], block[:, :d, d] = np.moveaxis(matrix, 2, 0), forcing.T
    flow = expm(block * (step / pieces)[:, None, None])
    state = [np.concatenate([start, np.ones((1, n))])]
    for _ in range(pieces):
        state.append(np.einsum("nij,jn->in", flow, state[-1]))
    return np.array(state)[:, :d]


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("exponent", [0.3, 0.7, comparison.LARGEST_EXPONENT])
def test_solutions_stay_below_their_bounds_throughout_the_step(d, exponent):
    matrix, forcing, start, step = system = systems(2000, d, d, exponent)
    end = comparison.solution(*system)
    bound = comparison.largest_within(matrix, forcing, start, end, step)
    inside = exact(*system)
    assert (end >= inside[-1] * (1 - 1e-12)).all()
    assert end == pytest.approx(inside[-1], rel=1e-4, abs=1e-5 * end.max())
    assert (inside <= bound * (1 + 1e-12)).all()
    # Where the second derivative is nowhere negative at the start, nothing is added.
    assert (bound == np.maximum(start, end)).any()


def test_an_entry_may_exceed_both_its_end_values_and_the_bound_is_not_far_above():
    """The first entry follows the second, which decays, and so rises and falls within the step."""
    matrix, forcing = np.array([[-0.35, 0.35], [0.0, -0.7]])[:, :, None], np.zeros((2, 1))
    start, step = np.array([[0.75], [1.0]]), np.ones(1)
    inside = exact(matrix, forcing, start, step)
    end, inside = inside[-1], inside.max(axis=0)
    overshoot = (inside - np.maximum(start, end))[0, 0]
    bound = comparison.largest_within(matrix, forcing, start, end, step)
    allowed = (bound - np.maximum(start, end))[0, 0]
    assert 0.005 < overshoot <= allowed < 4 * overshoot


def test_one_step_may_have_several_systems():
    """Stacks over an inner axis, as boxes in several frames have them."""
    matrix, forcing, start, step = systems(40, 2, 3, 0.6)
    both = np.stack([matrix, matrix / 2], 2), np.stack([forcing] * 2, 1), np.stack([start] * 2, 1)
    ends = comparison.solution(*both, step)
    assert np.allclose(ends[:, 0], comparison.solution(matrix, forcing, start, step))
    assert np.allclose(ends[:, 1], comparison.solution(matrix / 2, forcing, start, step))
    assert np.array_equal(comparison.norm(both[0]), comparison.norm(matrix))


def test_the_mean_growth_is_an_integral():
    z = np.array([-40.0, -1.0, -1e-9, 0.0, 1e-9, 0.5, 1.0])
    middle = (np.arange(20000) + 0.5) / 20000
    assert comparison.mean_growth(z) == pytest.approx(np.exp(z[:, None] * middle).mean(1), rel=1e-6)
