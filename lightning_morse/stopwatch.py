"""Wall times of named stages, and what keeps them short."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from threadpoolctl import threadpool_limits


class Stopwatch:
    """Adds up the wall time of each stage.

    Attributes:
        seconds: Time of each stage so far, in the order they were first entered.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Take the time of a stage, to the end of the ``with`` block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def one_thread() -> AbstractContextManager[object]:
    """Linear algebra on one thread; what was set before comes back at the end of the block.

    Threads only get in each other's way in matrices as small as those of an analysis: on two busy
    cores a fit of 0.5 s took 10 s.
    """
    return threadpool_limits(limits=1, user_api="blas")
