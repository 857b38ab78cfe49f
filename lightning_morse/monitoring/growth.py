"""What the state of the monitor adds to the time that writing a checkpoint takes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch


class Growth:
    """Estimates how long a state takes to write, which happens after it has been handed over.

    Args:
        clock: Seconds since an arbitrary moment.

    Example:
        >>> now = iter([0.0, 0.25, 1.0, 1.5]).__next__
        >>> growth = Growth(now)
        >>> [growth.seconds({"w": torch.ones(3)}) for _ in range(3)]
        [0.25, 0.5, 0.5]
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._n = 0
        self._took = 0.0

    def seconds(self, state: Any) -> float:
        """What writing a state takes: measured at the first, second, fourth ... call, in memory.

        Args:
            state: Tensors and plain containers.
        """
        self._n += 1
        if not self._n & (self._n - 1):
            start = self._clock()
            torch.save(state, io.BytesIO())
            self._took = self._clock() - start
        return self._took
