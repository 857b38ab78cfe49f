"""Wall times of named stages, and a limit on threads that keeps them short."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from threadpoolctl import threadpool_limits


class Stopwatch:
    """Accumulates the wall time of each stage.

    Attributes:
        seconds: Time of each stage so far, in the order they were first entered.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time until the end of the ``with`` block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def one_thread() -> AbstractContextManager[object]:
    """Run linear algebra on one thread; the end of the block restores the previous setting.

    On matrices as small as those of an analysis, threads only get in each other's way: on two busy
    cores a fit of 0.5 s took 10 s.
    """
    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits
