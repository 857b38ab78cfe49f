"""When analyses are due where the user has not said: often in the beginning, then evenly.

A run of 20 s is worth three analyses, and the number grows with the power 0.4 of its length: seven
in two minutes, sixteen in twenty, thirty-eight in three hours. The last is always that of the final
weights. Of these a third lies at doubling times, since weights move fastest in the beginning, and
the others follow at even distances. Where nobody knows how long the run will be the distances grow
so that the number of analyses follows the same law at any time.
"""

from __future__ import annotations

import math
from functools import lru_cache

# Limits of usefulness; soundness depends on none of them.
ANALYSES, IN_SECONDS, POWER = 3, 20.0, 0.4
FEWEST_ANALYSES = 2


def n_worth(seconds: float) -> int:
    """How many analyses a run of some length is worth.

    Args:
        seconds: Length of the run without them.

    Example:
        >>> [n_worth(seconds) for seconds in (1, 20, 120, 1200, 10800)]
        [2, 3, 7, 16, 38]
    """
    worth = ANALYSES * math.pow(seconds / IN_SECONDS, POWER)
    return max(FEWEST_ANALYSES, math.ceil(worth - 1e-9))


@lru_cache(maxsize=64)
def due_shares(n: int) -> tuple[float, ...]:
    """After which shares of a run its analyses are due: doubling first, then even, the last 1.

    Args:
        n: Number of analyses.

    Example:
        >>> due_shares(3), due_shares(7)
        ((0.25, 0.5, 1.0), (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0))
    """
    doubling = n // 3
    even = n - doubling
    early = [0.5**k / even for k in range(doubling, 0, -1)]
    return (*early, *(k / even for k in range(1, even + 1)))


def due_after(n_made: int, trained: float, left: float) -> float:
    """Seconds of training, from its start, after which the next analysis is due.

    Args:
        n_made: Number of analyses so far.
        trained: Seconds of training so far.
        left: Seconds of training to come; infinite if unknown.

    Example:
        >>> due_after(1, 8.0, 12.0), due_after(7, 8.0, 12.0), due_after(2, 8.0, math.inf)
        (10.0, 20.0, 20.0)
    """
    if math.isinf(left):
        return IN_SECONDS * math.pow((n_made + 1) / ANALYSES, 1 / POWER)
    shares = due_shares(n_worth(trained + left))
    return (trained + left) * shares[min(n_made, len(shares) - 1)]


def distance(n_made: int, trained: float, left: float) -> float:
    """Seconds of training between the last due analysis and the next; arguments as above."""
    before = due_after(n_made - 1, trained, left) if n_made else 0.0
    return due_after(n_made, trained, left) - before
