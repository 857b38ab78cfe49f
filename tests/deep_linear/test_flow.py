"""The gradient flow, integrated numerically."""

import numpy as np
import pytest

from lightning_morse import deep_linear as dl
from tests.linear_problems import (
    random_problem,
    relative,
)


def test_integration_agrees_with_small_steps():
    weights, x, y = random_problem((2, 3, 3, 4))
    moments = dl.Moments.of(x, y)
    (found,) = dl.integrate(weights, moments, [0.05])

    def descended(n):
        layers = [w.copy() for w in weights]
        for _ in range(n):
            for w, g in zip(layers, dl.gradient(layers, moments), strict=True):
                w -= 0.05 / n * g
        return layers

    coarse, fine = descended(2000), descended(4000)
    for end, a, b in zip(found, coarse, fine, strict=True):
        extrapolated = 2 * b - a  # Euler's method is of first order
        assert relative(end, extrapolated) < 1e-6 < relative(end, a)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_failed_integration_raises():
    endless = dl.Moments([[0.0]], [[1.0]], 1.0)  # w' = w^2 for three equal weights
    with pytest.raises(RuntimeError, match=r"integration stopped at t = 0\.99"):
        dl.integrate([[[1.0]]] * 3, endless, [0.5, 0.99, 2.0])


MOMENTS = dl.Moments(np.eye(2), np.eye(2), 2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dl.integrate([np.eye(2)], MOMENTS, [1.0, 1.0]), "times must be increasing"),
        (lambda: dl.integrate([np.eye(2)], MOMENTS, [-1.0]), "not negative"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
