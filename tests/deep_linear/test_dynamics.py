"""The time course of a single mode."""

import mpmath
import numpy as np
import pytest
from scipy.integrate import quad

from lightning_morse import deep_linear as dl


def test_reference_strengths():
    found = [
        [float(s) for s in dl.mode_strength([1, 2, 3], 0.01, target, 2)] for target in (3.0, 1.0)
    ]
    expected = [[1.72300, 2.99450, 2.99999], [0.06945, 0.35546, 0.80296]]
    assert np.abs(np.subtract(found, expected)).max() < 5.1e-6


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 7])
def test_learning_time_is_the_integral(depth):
    for start, end, target in ((0.01, 0.3, 0.7), (0.2, 2.99, 3.0), (1e-3, 0.5, 1.0)):
        expected, _ = quad(
            lambda s, t=target: 1 / float(dl.mode_velocity(s, t, depth)),
            start,
            end,
            epsrel=1e-11,
            limit=500,
            points=[10 * start],
        )
        assert dl.learning_time(start, end, target, depth) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("depth", [3, 4, 5, 8])
@pytest.mark.parametrize("gap", [0.021, 0.019, 1e-3, 1e-6, 1e-9, 1e-13])
def test_near_the_target(depth, gap):
    """Close to the target, compared with the same function in 40 digits."""
    with mpmath.workdps(40):
        power, target = mpmath.mpf(2) / depth - 1, mpmath.mpf(1.5)

        def age(s):
            series = mpmath.hyp2f1(1, power, power + 1, s / target)
            return s**power * series / (depth * power * target)

        end = float(target) * (1 - gap)
        expected = age(mpmath.mpf(end)) - age(mpmath.mpf(1))
    found = dl.learning_time(1.0, end, 1.5, depth)
    assert found == pytest.approx(float(expected), rel=1e-12)
    assert dl.mode_strength(found, 1.0, 1.5, depth) == pytest.approx(end, rel=1e-13)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_balanced_networks_follow_the_mode_equation(depth):
    """The whole network, integrated, compared with the closed form for each mode."""
    moments = dl.Moments(np.eye(2), np.diag([3.0, 1.0]), 10.0)
    start = np.array([0.05, 0.02])
    layers = [np.diag(start ** (1 / depth))] * depth
    times = [0.5, 1.0, 3.0]
    for t, state in zip(times, dl.integrate(layers, moments, times), strict=True):
        expected = [
            float(dl.mode_strength(t, s, target, depth))
            for s, target in zip(start, (3.0, 1.0), strict=True)
        ]
        assert np.diag(dl.product(state)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("w1", "w2"), [(0.1, 0.8), (1.5, 0.0), (-0.3, 0.9), (2.0, 1e-6), (-2, 2)])
def test_unbalanced_modes(w1, w2):
    moments = dl.Moments([[1.0]], [[1.3]], 1.69)
    times = [0.2, 1.0, 4.0]
    if abs(w1) == abs(w2):
        with pytest.raises(ValueError, match="start must be positive where imbalance is 0"):
            dl.mode_strength(times, w1 * w2, 1.3, 2, w2**2 - w1**2)
        return
    states = dl.integrate([[[w1]], [[w2]]], moments, times)
    found = dl.mode_strength(times, w1 * w2, 1.3, 2, imbalance=w2**2 - w1**2)
    assert found == pytest.approx([dl.product(s).item() for s in states], abs=1e-9)


def test_small_imbalance_is_no_imbalance():
    balanced = dl.mode_strength([1.0, 2.0], 0.1, 1.0, 2)
    for imbalance in (1e-3, 1e-6, 1e-12, -1e-12):
        found = dl.mode_strength([1.0, 2.0], 0.1, 1.0, 2, imbalance)
        assert np.abs(found - balanced).max() < 100 * imbalance**2 + 1e-14


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_learned_modes_stay(depth):
    assert dl.mode_strength([0.0, 5.0], 2.0, 2.0, depth).tolist() == [2.0, 2.0]
    assert dl.mode_strength(1e4, 0.1, 2.0, depth) == pytest.approx(2.0, abs=1e-12)
    assert dl.mode_strength(0.0, 0.1, 2.0, depth) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dl.mode_velocity(-1.0, 1.0, 2), "strength must not be negative"),
        (lambda: dl.mode_velocity(1.0, 0.0, 2), "target must be positive"),
        (lambda: dl.mode_velocity(1.0, 1.0, 0), "depth must be a positive integer"),
        (lambda: dl.learning_time(0.0, 0.5, 1.0, 2), "0 < start <= end < target"),
        (lambda: dl.learning_time(0.1, 1.0, 1.0, 2), "0 < start <= end < target"),
        (lambda: dl.mode_strength(-1.0, 0.1, 1.0, 2), "time must not be negative"),
        (lambda: dl.mode_strength(1.0, 0.1, 1.0, 3, 0.5), "0 unless there are two layers"),
        (lambda: dl.mode_strength(1.0, 2.0, 1.0, 3), "at most target"),
        (lambda: dl.half_time(0.0, 1.0, 2), "a mode never leaves 0"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
