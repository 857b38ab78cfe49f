"""The levels of confidence at which attractors are followed to wider and wider bands."""

from __future__ import annotations

import math

import numpy as np

from lightning_morse._typing import Array

# Failure probability of the highest level, and levels for each factor of ten on the way.
_LEAST_FAILURE = 1e-6
RUNGS_PER_DECADE = 2


def failures(confidence: float, rungs_per_decade: int = RUNGS_PER_DECADE) -> Array:
    """Failure probabilities of the rungs, from ``1 - confidence`` down to 1e-6 in equal factors.

    Args:
        confidence: Level of the lowest rung.
        rungs_per_decade: Rungs for each factor of ten.

    Returns:
        Descending, shape ``(n_rungs,)``; the lowest rung alone if it is that high already.

    Example:
        >>> [float(f"{p:.1e}") for p in failures(0.99)]
        [0.01, 0.0032, 0.001, 0.00032, 0.0001, 3.2e-05, 1e-05, 3.2e-06, 1e-06]
    """
    most = 1 - confidence
    decades = math.log10(most / _LEAST_FAILURE) if most > _LEAST_FAILURE else 0.0
    return np.geomspace(most, _LEAST_FAILURE, 1 + math.ceil(rungs_per_decade * decades - 1e-9))
