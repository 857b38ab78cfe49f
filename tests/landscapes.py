"""Analytic landscapes whose critical points and flows are known."""

import numpy as np
import torch


def himmelblau(x):
    return (x[:, 0] ** 2 + x[:, 1] - 11) ** 2 + (x[:, 0] + x[:, 1] ** 2 - 7) ** 2


def himmelblau_gradient(x):
    a, b = x[:, 0] ** 2 + x[:, 1] - 11, x[:, 0] + x[:, 1] ** 2 - 7
    return np.stack([4 * x[:, 0] * a + 2 * b, 2 * a + 4 * x[:, 1] * b], axis=1)


def _newton(x):
    """Root of Himmelblau's gradient near a rough guess."""
    for _ in range(20):
        across = 4 * (x[0] + x[1])
        hessian = np.diag(12 * x**2 + 4 * x[::-1] + [-42, -26]) + across * (1 - np.eye(2))
        x = x - np.linalg.solve(hessian, himmelblau_gradient(x[None])[0])
    return x


def _roots(*guesses):
    return np.array([_newton(np.array(g, dtype=float)) for g in guesses])


HIMMELBLAU_MINIMA = _roots([3, 2], [-2.8, 3.1], [-3.8, -3.3], [3.6, -1.8])
HIMMELBLAU_SADDLES = _roots([0.1, 2.9], [-3.1, -0.1], [-0.1, -2.0], [3.4, 0.1])
HIMMELBLAU_MAXIMA = _roots([-0.3, -0.9])


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
        k1 = -gradient(x)
        speed = np.linalg.norm(k1, axis=1, keepdims=True)
        h = np.minimum(length / np.maximum(speed, 1e-12), 1e-2)
        k2 = -gradient(x + h / 2 * k1)
        k3 = -gradient(x + h / 2 * k2)
        k4 = -gradient(x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def flat(x):
    return torch.zeros(len(x), dtype=torch.float64)


def himmelblau_critical(lower, upper):
    """Boxes that can contain a zero of the gradient, by bounds on the Hessian over each box."""
    x, y = (0.5 * (lower + upper)).T
    h, k = (0.5 * (upper - lower) * (1 + 1e-9)).T
    across = 4 * (np.abs(x + y) + h + k)
    first = np.abs(12 * x**2 + 4 * y - 42) + 12 * (2 * np.abs(x) + h) * h + 4 * k
    second = np.abs(12 * y**2 + 4 * x - 26) + 12 * (2 * np.abs(y) + k) * k + 4 * h
    reach = np.stack([first * h + across * k, across * h + second * k], axis=1)
    return (np.abs(himmelblau_gradient(0.5 * (lower + upper))) <= reach + 1e-9).all(axis=1)
