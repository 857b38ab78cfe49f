"""Maps and vector fields whose dynamics are known."""

import numpy as np


def allee(x):
    return x * np.exp(2.1 - x - 1 / (x + 0.1))


def logistic(x):
    return 3.2 * x * (1 - x)


def leslie(x):
    young, old = x.T
    return np.stack([(19.6 * young + 23.68 * old) * np.exp(-0.1 * (young + old)), 0.7 * young], 1)


def henon(x):
    return np.stack([1 - 1.4 * x[:, 0] ** 2 + x[:, 1], 0.3 * x[:, 0]], axis=1)


def van_der_pol(x):
    return np.stack([x[:, 1], (1 - x[:, 0] ** 2) * x[:, 1] - x[:, 0]], axis=1)
