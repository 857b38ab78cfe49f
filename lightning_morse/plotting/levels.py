"""Losses at which contours are drawn: round numbers that share the page evenly."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from lightning_morse._typing import Array

# Quantiles of the loss that get a contour. The page is shared evenly among them, however steep the
# loss outside and flat inside; the extremes would be specks and the rim of the box.
_LOWEST, _HIGHEST = 0.01, 0.97
_STEPS = (5, 2, 1)  # times a power of ten


def contour_levels(losses: Array, count: int) -> Array:
    """Choose losses at which to draw contours.

    Each is the roundest number that is closer to one of ``count`` evenly spread quantiles than to
    the next one, so that the page stays shared evenly.

    Args:
        losses: Losses on a uniform lattice, any shape; those that are not finite do not count.
        count: Most contours.

    Returns:
        Ascending, each strictly between the least and the largest loss; shape ``(k,)`` with ``k``
        at most ``count``.

    Example:
        >>> contour_levels(np.linspace(0.013, 1.02, 100), 5).tolist()
        [0.1, 0.2, 0.5, 0.8, 0.9]
    """
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        return np.empty(0)
    low, high = float(finite.min()), float(finite.max())
    at = np.unique(np.quantile(finite, np.linspace(_LOWEST, _HIGHEST, count)))
    between = [at[0], *0.5 * (at[1:] + at[:-1]), at[-1]]
    levels = [roundest(float(a), float(b)) for a, b in pairwise(between) if a < b]
    chosen: Array = np.unique(levels)
    inside: Array = chosen[(chosen > low) & (chosen < high)]
    return inside


def roundest(low: float, high: float) -> float:
    """Return the roundest number between two.

    It is a multiple of the largest of 1, 2 and 5 times a power of ten that has one there.

    Args:
        low: Least value.
        high: Largest value, above it.

    Example:
        >>> roundest(0.0132, 0.0178), roundest(-1.0, 3.0), roundest(1.26, 1.29), roundest(97, 240)
        (0.015, 0.0, 1.26, 200.0)
    """
    if low <= 0 <= high:
        return 0.0
    power = math.floor(math.log10(max(abs(low), abs(high))))
    while True:
        for digit in _STEPS:
            # Through the text: 3 * 0.1 is to be 0.3.
            first = math.ceil(float(f"{low / 10.0**power / digit:.12g}")) * digit
            value = float(f"{first}e{power}")
            if low <= value <= high:
                return value
        power -= 1
        if power < -300 or value in (low, high):
            return 0.5 * (low + high)
