"""Analytic landscapes whose critical points and flows are known."""

import numpy as np
import torch


def himmelblau(x):
    return (x[:, 0] ** 2 + x[:, 1] - 11) ** 2 + (x[:, 0] + x[:, 1] ** 2 - 7) ** 2


def himmelblau_gradient(x):
    a, b = x[:, 0] ** 2 + x[:, 1] - 11, x[:, 0] + x[:, 1] ** 2 - 7
    return np.stack([4 * x[:, 0] * a + 2 * b, 2 * a + 4 * x[:, 1] * b], axis=1)


# Roots of the gradient, by Newton's method to machine precision; index counts unstable directions.
HIMMELBLAU_MINIMA = np.array(
    [
        [3.0, 2.0],
        [-2.805118086952745, 3.131312518250573],
        [-3.779310253377747, -3.283185991286170],
        [3.584428340330492, -1.848126526964404],
    ]
)
HIMMELBLAU_SADDLES = np.array(
    [
        [0.086677504555185, 2.884254701174985],
        [-3.073025750764009, -0.081353044287538],
        [-0.127961346730747, -1.953714980244460],
        [3.385154183607274, 0.073851879837662],
    ]
)
HIMMELBLAU_MAXIMA = np.array([[-0.270844590667160, -0.923038522213740]])


def double_well(x):
    """Sum over the axes of (x^2 - 1)^2: minima at the corners of [-1, 1]^d."""
    return ((x**2 - 1) ** 2).sum(1)


def double_well_gradient(x):
    return 4 * x * (x**2 - 1)


def bowl(x):
    return (x**2).sum(1)


def hill(x):
    return -(x**2).sum(1)


def plane(x):
    return 2 * x[:, 0]


def follow(gradient, x, *, steps, length):
    """Points reached by gradient flow, each step of RK4 at most ``length`` long."""
    x = np.array(x)
    for _ in range(steps):
        speed = np.linalg.norm(gradient(x), axis=1, keepdims=True)
        h = np.minimum(length / np.maximum(speed, 1e-12), 1e-2)
        k1 = -gradient(x)
        k2 = -gradient(x + h / 2 * k1)
        k3 = -gradient(x + h / 2 * k2)
        k4 = -gradient(x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def flat(x):
    return torch.zeros(len(x), dtype=torch.float64)
