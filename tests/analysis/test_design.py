"""Where the loss is evaluated before anything is known about it."""

import numpy as np
import pytest

from lightning_morse import analyze
from lightning_morse.analysis.design import design, first_samples, spread
from tests.landscapes import bowl, himmelblau


def test_the_design_starts_in_the_centre_and_longer_ones_continue_it():
    short, long = design([0, 2], [1, 4], 20, 7), design([0, 2], [1, 4], 50, 7)
    assert short[0].tolist() == [0.5, 3]
    assert np.array_equal(long[:20], short)
    assert ((long >= [0, 2]) & (long <= [1, 4])).all()


def test_coordinates_follow_half_uniform_half_arcsine():
    """Shares below some points, against the mixture's distribution function."""
    x = spread(np.array([-1.0]), np.array([1.0]), 1000, np.random.default_rng(0))[:, 0]
    uniform = np.linspace(0.05, 0.95, 19)
    quantile = 0.5 * (2 * uniform - 1) - 0.5 * np.cos(np.pi * uniform)
    shares = (x[:, None] <= quantile).mean(axis=0)
    assert shares == pytest.approx(uniform, abs=0.005)


def test_a_box_turned_inside_out_is_refused():
    with pytest.raises(ValueError, match="lower"):
        design([1.0], [0.0], 16, 0)


@pytest.mark.slow
def test_half_of_the_samples_fill_the_box_and_the_others_follow():
    result = analyze(himmelblau, [-5, -5], [5, 5], n_samples=96, resolution=64)
    assert len(result.samples) == 96
    assert (result.samples[:48] == design([-5, -5], [5, 5], 48, 0)).all()
    assert (np.abs(result.samples) <= 5).all()
    again = analyze(himmelblau, [-5, -5], [5, 5], n_samples=96, resolution=64)
    assert (result.samples == again.samples).all()
    assert (result.labels == again.labels).all()
    other = analyze(himmelblau, [-5, -5], [5, 5], n_samples=96, resolution=64, seed=1)
    assert not (result.samples[48:] == other.samples[48:]).any()


def test_small_budgets_go_into_the_design():
    assert [first_samples(n, 2) for n in (16, 20, 32, 33, 128)] == [16, 16, 16, 16, 64]
    assert [first_samples(1024, d) for d in (1, 2, 3)] == [32, 64, 192]
    result = analyze(bowl, [-1], [1], n_samples=16, resolution=64)
    assert len(result.samples) == 16
