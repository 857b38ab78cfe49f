"""The levels of confidence of the filtration: attractors are followed as the band widens."""

from __future__ import annotations

import math

import numpy as np

from lightning_morse._typing import Array

# Failure probability of the highest level, and number of levels per factor of ten on the way. Sound
# at any value: beyond 1e-6 the premise, not the band, limits a claim (docs/mu.md), and more levels
# only place the confidence of an attractor more finely.
_LEAST_FAILURE = 1e-6
LEVELS_PER_DECADE = 2


def failures(confidence: float, levels_per_decade: int = LEVELS_PER_DECADE) -> Array:
    """Failure probabilities of the levels, from ``1 - confidence`` down to 1e-6 in equal factors.

    Args:
        confidence: The lowest level, in (0, 1).
        levels_per_decade: Number of levels per factor of ten.

    Returns:
        Descending, shape ``(n_levels,)``; a single entry if ``1 - confidence`` is at most 1e-6.

    Example:
        >>> [float(f"{p:.1e}") for p in failures(0.99)]
        [0.01, 0.0032, 0.001, 0.00032, 0.0001, 3.2e-05, 1e-05, 3.2e-06, 1e-06]
    """
    most = 1 - confidence
    decades = math.log10(most / _LEAST_FAILURE) if most > _LEAST_FAILURE else 0.0
    return np.geomspace(most, _LEAST_FAILURE, 1 + math.ceil(levels_per_decade * decades - 1e-9))
