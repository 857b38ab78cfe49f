"""How much of the wall time the analyses may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType


class Budget:
    """Measures the share of the wall time that some work takes, and says when there is room.

    Args:
        max_overhead: Largest share of the wall time, in (0, 1]; 1 is no limit.
        clock: Seconds since some moment.

    Example:
        >>> now = iter([0.0, 0.0, 2.0, 10.0, 38.0]).__next__
        >>> budget = Budget(0.1, now)
        >>> budget.start()
        >>> with budget.work():  # takes 2 s
        ...     pass
        >>> budget.allows(2.0), budget.allows(2.0)  # after 10 s and after 38 s
        (False, True)
    """

    def __init__(self, max_overhead: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.max_overhead = max_overhead
        self.now = clock
        self._began: float | None = None
        self._before = 0.0
        self._spent = 0.0
        self._working: float | None = None
        self._depth = 0

    def start(self) -> None:
        """Begin to count the wall time, or go on after :meth:`load_state_dict`; once."""
        if self._began is None:
            self._began = self.now() - self._before

    def _elapsed(self) -> float:
        return self._before if self._began is None else self.now() - self._began

    def work(self) -> Work:
        """Count the time inside of ``with budget.work():``; what is nested counts once."""
        return Work(self)

    def overhead(self) -> float:
        """Share of the wall time since the start that the work took, work under way included."""
        spent = self._spent + (0.0 if self._working is None else self.now() - self._working)
        return spent / max(spent, self._elapsed(), 1e-9)

    def allows(self, seconds: float) -> bool:
        """Whether the share is still within the limit after work that takes so long."""
        return self.wait(seconds) <= 0

    def wait(self, seconds: float) -> float:
        """How long until work that takes so long is allowed; work under way does not count."""
        if self.max_overhead >= 1:
            return 0.0
        return max(0.0, (self._spent + seconds) / self.max_overhead - seconds - self._elapsed())

    def state_dict(self) -> dict[str, float]:
        """Time spent and time passed."""
        return {"spent": self._spent, "elapsed": self._elapsed()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a state; to be followed by :meth:`start`."""
        self._spent, self._before = state["spent"], state["elapsed"]
        self._began = None


class Work:
    """Some work whose time counts; see :meth:`Budget.work`.

    A class and no generator: training enters some with every step.
    """

    __slots__ = ("_budget",)

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def __enter__(self) -> None:
        budget = self._budget
        if not budget._depth:
            budget._working = budget.now()
        budget._depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        budget = self._budget
        budget._depth -= 1
        if not budget._depth and budget._working is not None:
            budget._spent += budget.now() - budget._working
            budget._working = None
        return None
