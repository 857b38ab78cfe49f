"""Wall times of named stages, and a limit on threads that keeps them short."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import OpenBLASController, ThreadpoolController


class Stopwatch:
    """Accumulates the wall time of each stage.

    Attributes:
        seconds: Time of each stage so far, in the order they were first entered. A clock that runs
            backwards, or says no number, adds nothing.
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
            passed = time.perf_counter() - start
            self.seconds[stage] = self.seconds.get(stage, 0.0) + (passed if passed > 0 else 0.0)


# From version 3.8 on, only the first thread that asks may change the pools of OpenBLAS as long as
# it lives, and what others ask for is passed over.
_ASKED_BY_ONE = hasattr(OpenBLASController, "_SHARED_STATE")


class _OneThread:
    """The limit of the process, and which threads ask for it at the moment, how deeply nested.

    Most pools of threads belong to the process. Were each block to restore what it found, the one
    that ends last of two that overlap would restore the limit of the other. So what there was
    before the first of them is kept, and restored at the end of the last. Where only one thread can
    do so, it does when it is done itself: the others are slower from then on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: list[Any] = []
        self._n_modules = 0
        self._depth: dict[int, int] = {}
        self._before: list[tuple[Any, int]] = []
        self._own: dict[int, list[tuple[Any, int]]] = {}

    def enter(self) -> None:
        with self._lock:
            me = threading.get_ident()
            if not self._depth:
                self._before = [(pool, pool.num_threads) for pool in self._found()]
            if me not in self._depth:
                self._own[me] = [(pool, pool.num_threads) for pool, _ in self._before]
                for pool, _ in self._before:
                    pool.set_num_threads(1)
            self._depth[me] = self._depth.get(me, 0) + 1

    def _found(self) -> list[Any]:
        """The pools, looked for again once modules have been imported that may bring others."""
        if len(sys.modules) != self._n_modules:
            self._pools = ThreadpoolController().select(user_api="blas").lib_controllers
            self._n_modules = len(sys.modules)
        return self._pools

    def leave(self) -> None:
        with self._lock:
            me = threading.get_ident()
            self._depth[me] -= 1
            if self._depth[me]:
                return
            del self._depth[me]
            for (pool, before), (_, own) in zip(self._before, self._own.pop(me), strict=True):
                if _has_limits_per_thread(pool):
                    pool.set_num_threads(own)
                elif _ASKED_BY_ONE or not self._depth:
                    pool.set_num_threads(before)


def _has_limits_per_thread(pool: Any) -> bool:
    return pool.internal_api == "mkl" or getattr(pool, "threading_layer", "") == "openmp"


_one_thread = _OneThread()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run linear algebra on one thread; the end of the block restores the previous setting.

    On matrices as small as those of an analysis, threads only get in each other's way: on two busy
    cores a fit of 0.5 s took 10 s. Blocks may be nested, and overlap in several threads.
    """
    _one_thread.enter()
    try:
        yield
    finally:
        _one_thread.leave()
