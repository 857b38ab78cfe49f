"""Chains with weight decay."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from lightning_morse import deep_linear as dl


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


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 3])
def test_no_critical_point_is_missed(depth):
    """Newton's method from a grid of starting points finds these and no others."""
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dl.chain_critical_points(2, 1.0, 0.0), "Without decay the minima form"),
        (lambda: dl.chain_critical_points(2, 1.0, 1.0), "must not be the threshold 1"),
        (lambda: dl.existence_threshold(1, 1.0), "at least 2, got 1"),
        (lambda: dl.existence_threshold(2, np.inf), "target must be finite"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
