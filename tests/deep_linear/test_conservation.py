"""Balancedness: conserved by the flow, changed exactly as predicted by descent."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from lightning_morse import deep_linear as dl
from tests.linear_problems import (
    SIZES,
    random_problem,
    relative,
    stack_of,
)


@pytest.mark.parametrize("sizes", SIZES[1:])
def test_conserved_along_the_flow(sizes):
    weights, x, y = random_problem(sizes)
    moments = dl.Moments.of(x, y)
    moments = moments.scaled(1 / np.linalg.norm(moments.xx, 2))
    start = dl.balance(weights)
    states = dl.integrate(weights, moments, np.linspace(0, 20, 6))
    drifts = [dl.drift(dl.balance(state), start) for state in states]
    assert max(drifts) < 1e-9
    losses = [dl.loss(state, moments) for state in states]
    assert all(a > b for a, b in pairwise(losses))
    # The test can fail: rescaling a layer does not conserve them.
    scaled = [w * s for w, s in zip(weights, (1.1, *[1.0] * 9), strict=False)]
    assert dl.drift(dl.balance(scaled), start) > 1e-3


@pytest.mark.parametrize("sizes", SIZES[1:])
@pytest.mark.parametrize("biased", [False, True])
def test_change_in_a_step_of_gradient_descent_is_exact(sizes, biased):
    weights, x, y = random_problem(sizes)
    network, eta = stack_of(weights), 0.05
    if biased:
        for layer in network:
            layer.bias = torch.nn.Parameter(torch.randn(len(layer.weight)).double() / 3)

    def parts(of):
        matrices = [of(layer.weight).detach().numpy().copy() for layer in network]
        biases = [of(layer.bias).detach().numpy().copy() for layer in network] if biased else None
        return matrices, biases

    optimizer = torch.optim.SGD(network.parameters(), lr=eta)
    for _ in range(3):
        before = dl.balance(*parts(lambda p: p))
        optimizer.zero_grad()
        residual = network(torch.from_numpy(x)) - torch.from_numpy(y)
        (residual.square().sum(1).mean() / 20).backward()
        gradients, bias_gradients = parts(lambda p: p.grad)
        optimizer.step()
        change = dl.balance_change(gradients, eta, bias_gradients)
        after = dl.balance(*parts(lambda p: p))
        assert max(np.abs(q).max() for q in change) > 1e-9
        for a, b, c in zip(after, before, change, strict=True):
            assert relative(a, b + c) < 1e-12


def test_representatives_are_balanced():
    moments = dl.Moments(np.eye(3), np.diag([3.0, 2.0, 1.0]), 14.0)
    point = dl.representative(moments, (3, 4, 5, 3), [0, 2])
    assert dl.is_balanced(point)
    assert dl.delta_balance(point) < 1e-14
    assert dl.delta_balance([np.eye(2)]) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dl.balance([np.eye(2)], []), "each of the 1 layers"),
        (lambda: dl.balance([np.eye(2)], [np.ones(3)]), r"biases\[0\] must have shape \(2,\)"),
        (lambda: dl.drift([np.eye(2)], []), "of the same network"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
