"""The band along a line: its level, its size, and the places where its bound is attained."""

import math

import numpy as np
import pytest

from lightning_morse.barriers.band import N_CELLS, SHARES, LineBand, line_band
from lightning_morse.barriers.line import FIRST, Line
from lightning_morse.gp.kernels import MATERN_5_2


def draws(n, scale, seed):
    """Paths of the prior on the lattice, shape ``(n, N_CELLS + 1)``."""
    covariance = MATERN_5_2.derivative(SHARES, SHARES, scale, 0)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return np.random.default_rng(seed).standard_normal((n, len(SHARES))) @ root.T


@pytest.mark.parametrize("scale", [0.25, 0.6])
def test_paths_of_the_prior_stay_below_the_band(scale):
    """Were the level 0.9 and no more, 4 of 40 would leave it; it is a lower bound, and few do."""
    places = np.round(np.array([0, 1, *FIRST, 0.4, 0.6]) * N_CELLS).astype(int)
    outside = 0
    for path in draws(40, scale, 1):
        band = line_band(SHARES[places], path[places], [], 0.9)
        assert isinstance(band, LineBand)
        outside += not (path <= band.upper).all()
    assert outside <= 4


def test_few_losses_leave_the_size_of_the_process_open():
    """The same curve, more losses: the band away from all of them gets narrower."""
    widths = []
    for n in (8, 16):
        shares = np.linspace(0, 1, n)
        band = line_band(shares, np.sin(5 * shares), [], 0.95)
        widths.append(float((band.upper - band.lower).max()))
    assert widths[1] < 0.5 * widths[0]


def test_a_surprise_widens_the_band():
    shares = np.linspace(0, 1, 9)
    narrow, wide = (
        line_band(shares, np.sin(4 * shares), surprises, 0.95) for surprises in ([1.0], [9.0])
    )
    assert wide.trusted is False
    assert narrow.trusted
    assert (wide.upper - wide.mean >= 2 * (narrow.upper - narrow.mean) - 1e-9).all()
    assert narrow.surprise(0.5, math.sin(2.0)) < 1
    assert narrow.surprise(0.5, math.sin(2.0) + 1) > 10


def test_a_refuted_surrogate_gives_no_bound_from_above():
    """Spikes beside the middle, where the next evaluation falls, which nothing predicted."""
    line = Line(lambda t: t * (1 - t) + 3.0 * (0 < abs(t - 0.5) < 0.01), (0.0, 0.0), 0.95)
    line.begin()
    assert line.barrier.upper < 0.26
    line.refine()
    assert line.barrier.lower > 3
    assert line.barrier.upper == math.inf
    assert line.reason == "the losses refute the surrogate"


def test_a_line_is_never_evaluated_twice_at_one_place():
    seen = []

    def loss(t):
        seen.append(t)
        return (t - 0.3) ** 2 * (1.2 - t) + 0.01 * math.sin(9 * t)

    line = Line(loss, (0.108, 0.098), 0.95)
    line.begin()
    while len(line.shares) < 24:
        line.refine()
    assert len(set(seen)) == len(seen) == 22
    assert np.diff(np.sort(line.shares)).min() >= 1 / 256


def test_the_ends_are_no_places_to_evaluate():
    line = Line(lambda t: t * (1 - t), (0.0, 0.0), 0.95)
    line.begin()
    assert sorted(line.shares) == sorted([0, 1, *FIRST])
    assert line.barrier.lower == 0.25
    assert line.barrier.upper >= 0.25
