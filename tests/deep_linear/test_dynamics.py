"""One mode in time, and chains with weight decay."""

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize

from lightning_morse import deep_linear as dl


def test_reference_strengths():
    found = [
        [float(s) for s in dl.mode_strength([1, 2, 3], 0.01, target, 2)] for target in (3.0, 1.0)
    ]
    expected = [[1.72300, 2.99450, 2.99999], [0.06945, 0.35546, 0.80296]]
    assert np.abs(np.subtract(found, expected)).max() < 5.1e-6


@pytest.mark.parametrize(("depth", "time"), [(2, 3.45338), (3, 9.14475), (4, 15.52915)])
def test_reference_half_times(depth, time):
    assert dl.half_time(1e-3, 1.0, depth) == pytest.approx(time, abs=5.1e-6)


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
def test_last_stretch(depth, gap):
    """Close to the target, against the same function in many digits."""
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
    """The whole network, integrated, against the closed form for each mode."""
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
def test_strengths_that_have_arrived_stay(depth):
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
        (lambda: dl.chain_critical_points(2, 1.0, 0.0), "Without decay the minima form"),
        (lambda: dl.chain_critical_points(2, 1.0, 1.0), "must not be the threshold 1"),
        (lambda: dl.existence_threshold(1, 1.0), "at least 2, got 1"),
        (lambda: dl.existence_threshold(2, np.inf), "target must be finite"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---------------------------------------------------------------- weight decay


def chain_loss(target, decay):
    def loss(w):
        return (target - w.prod()) ** 2 / 2 + decay * (w**2).sum() / 2

    return loss


@pytest.mark.parametrize(("depth", "total", "minima"), [(2, 3, 2), (3, 9, 5), (4, 17, 9)])
def test_numbers_of_critical_points(depth, total, minima):
    points = dl.chain_critical_points(depth, 1.0, 0.2)
    assert len(points) == total
    assert sum(p.index == 0 for p in points) == minima
    assert all(p.index == 1 for p in points if p.index)
    origin = next(p for p in points if not p.weights.any())
    assert origin.index == (1 if depth == 2 else 0)


def test_reference_chains():
    two, three = (dl.chain_critical_points(depth, 1.0, 0.2) for depth in (2, 3))
    assert np.abs(two[0].weights) == pytest.approx([0.894427] * 2, abs=5e-7)
    assert two[0].loss == pytest.approx(0.18)
    assert two[0].eigenvalues == pytest.approx([0.4, 1.6])
    assert np.abs(three[0].weights) == pytest.approx([0.921699] * 3, abs=5e-7)
    assert three[0].loss == pytest.approx(0.278401, abs=5e-7)
    saddles = [p for p in three if p.index == 1]
    assert len(saddles) == 4
    for p in saddles:
        assert np.abs(p.weights) == pytest.approx([0.201654] * 3, abs=5e-7)
        assert p.loss == pytest.approx(0.504033, abs=5e-7)


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize(("target", "decay"), [(1.0, 0.2), (-2.0, 0.3), (0.7, 0.05), (1.0, 5.0)])
def test_chain_points_by_autograd(depth, target, decay):
    loss = chain_loss(target, decay)
    for point in dl.chain_critical_points(depth, target, decay):
        w = torch.tensor(point.weights, requires_grad=True)
        value = loss(w)
        (slope,) = torch.autograd.grad(value, w)
        curvature = torch.autograd.functional.hessian(loss, w.detach())
        assert value.item() == pytest.approx(point.loss, abs=1e-13)
        assert slope.abs().max() < 1e-12
        assert torch.linalg.eigvalsh(curvature).tolist() == pytest.approx(
            point.eigenvalues.tolist(), abs=1e-10
        )


@pytest.mark.parametrize("depth", [2, 3])
def test_no_critical_point_is_missed(depth):
    """Newton's method from a grid of starts finds these and no others."""
    loss = chain_loss(1.0, 0.2)
    known = np.array([p.weights for p in dl.chain_critical_points(depth, 1.0, 0.2)])
    found = set()
    ticks = np.linspace(-1.2, 1.2, 12)
    for w in np.stack(np.meshgrid(*[ticks] * depth), -1).reshape(-1, depth):
        at = w.copy()
        for _ in range(60):
            others = np.array([np.delete(at, i).prod() for i in range(depth)])
            slope = -(1 - at.prod()) * others + 0.2 * at
            mixed = np.array(
                [
                    [np.delete(at, [i, j]).prod() if i != j else 0 for j in range(depth)]
                    for i in range(depth)
                ]
            )
            curvature = np.outer(others, others) - (1 - at.prod()) * mixed + 0.2 * np.eye(depth)
            at = at - np.linalg.lstsq(curvature, slope, rcond=None)[0]
        if np.abs(slope).max() < 1e-12:
            distances = np.abs(known - at).max(axis=1)
            assert distances.min() < 1e-8, at
            found.add(int(distances.argmin()))
    assert found == set(range(len(known)))
    assert loss(known[0]) == min(map(loss, known))


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
@pytest.mark.parametrize("target", [1.0, -2.5])
def test_threshold(depth, target):
    threshold = dl.existence_threshold(depth, target)
    sigma = abs(target)
    best = minimize(
        lambda w: -(sigma - w[0] ** depth) * w[0] ** (depth - 2),
        [0.5 * sigma ** (1 / depth)],
        bounds=[(0, sigma ** (1 / depth))],
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    assert threshold == pytest.approx(-best.fun, rel=1e-6)
    assert len(dl.chain_critical_points(depth, target, 0.999 * threshold)) > 1
    assert len(dl.chain_critical_points(depth, target, 1.001 * threshold)) == 1
    assert len(dl.chain_critical_points(depth, 0.0, 0.1)) == 1
