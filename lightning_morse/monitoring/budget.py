"""Share of the wall time that the analyses may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType

# How long the next analysis is assumed to take, relative to the longest so far: its box may have to
# grow. After a single one much longer, since its first samples may have resolved it: 0.63 s were
# once followed by 4.3 s. Soundness does not depend on it.
PLANNED_OVER_LONGEST = 1.5
PLANNED_OVER_ONLY = 7.0
# Seconds below which wall time counts as none, against division by zero at the start.
SHORTEST_ELAPSED_SECONDS = 1e-9


def planned_seconds(longest: float, n_made: int) -> float:
    """How long the next analysis is assumed to take.

    Args:
        longest: Duration of the longest analysis so far, seconds.
        n_made: Number of analyses so far.

    Example:
        >>> planned_seconds(2.0, 1), planned_seconds(2.0, 2)
        (14.0, 3.0)
    """
    return longest * (PLANNED_OVER_LONGEST if n_made > 1 else PLANNED_OVER_ONLY)


class Budget:
    """Measures the share of the wall time that some work takes, and says when there is room.

    Args:
        max_overhead: Largest share of the wall time, in (0, 1]; 1 is no limit.
        clock: Seconds since an arbitrary moment.

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
        """Start the clock, or go on after :meth:`load_state_dict`; further calls change nothing."""
        if self._began is None:
            self._began = self.now() - self._before

    def _elapsed(self) -> float:
        return self._before if self._began is None else self.now() - self._began

    def work(self) -> Work:
        """Count the time inside ``with budget.work():``; nested blocks count once."""
        return Work(self)

    def overhead(self) -> float:
        """Share of the wall time since the start spent on work, including work under way."""
        spent = self._spent + (0.0 if self._working is None else self.now() - self._working)
        return spent / max(spent, self._elapsed(), SHORTEST_ELAPSED_SECONDS)

    def allows(self, seconds: float) -> bool:
        """Whether work of that length would keep the share within the limit."""
        return self.wait(seconds) <= 0

    def wait(self, seconds: float) -> float:
        """Seconds until work of that length is allowed, not counting work under way."""
        if self.max_overhead >= 1:
            return 0.0
        return max(0.0, (self._spent + seconds) / self.max_overhead - seconds - self._elapsed())

    def state_dict(self) -> dict[str, float]:
        """Time spent on work and wall time, seconds."""
        return {"spent": self._spent, "elapsed": self._elapsed()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a state; call :meth:`start` next."""
        self._spent, self._before = state["spent"], state["elapsed"]
        self._began = None


class Work:
    """Work whose time counts; see :meth:`Budget.work`.

    A class, not a generator, because training enters several at every step.
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
