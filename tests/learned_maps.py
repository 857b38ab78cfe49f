"""Maps learned from simulated pairs, shared by the tests."""

import numpy as np

from lightning_morse.trajectories.fit import fit_trajectory_map
from lightning_morse.trajectories.pairs import pairs_of_runs


def cubic(x):
    return x + 0.4 * (x - x**3)


def learned(n=80, noise=0.02, seed=0, point_map=cubic, dim=1, low=-1.5, up=1.5):
    """The map and the pairs it was learned from, drawn uniformly in the box."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(low, up, (n, dim))
    y = point_map(x)
    pairs = pairs_of_runs(list(np.stack([x, y + noise * rng.standard_normal(x.shape)], axis=1)))
    return fit_trajectory_map(pairs, [low] * dim, [up] * dim, rng), pairs
