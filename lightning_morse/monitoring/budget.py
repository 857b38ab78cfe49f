"""What the analyses may take, as a share of the time that training takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from types import TracebackType

# Seconds below which wall time counts as none, against division by zero at the start.
SHORTEST_ELAPSED_SECONDS = 1e-9
# A clock that has moved further than this between two looks has been set, or the machine slept.
LONGEST_STEP_SECONDS = 3600.0


class SteadyClock:
    """Seconds that only ever go on, whatever the clock below does.

    A step backwards, to NaN, or by more than an hour at once counts as none.

    Args:
        clock: Seconds since an arbitrary moment.

    Example:
        >>> now = SteadyClock(iter([5.0, 6.0, 2.0, 4.0, float("nan"), 90000.0, 90001.0]).__next__)
        >>> [now() for _ in range(7)]
        [0.0, 1.0, 1.0, 3.0, 3.0, 3.0, 4.0]
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen = math.nan
        self._seconds = 0.0

    def __call__(self) -> float:
        """Seconds since the first call."""
        reading = self._clock()
        step = reading - self._seen
        if 0 < step <= LONGEST_STEP_SECONDS:
            self._seconds += step
        if math.isfinite(reading):
            self._seen = reading
        return self._seconds


class Budget:
    """Measures what some work takes beside training, and says when there is room for more.

    At any time work may have taken ``grace + max_overhead * trained`` seconds, so that a run lasts
    at most ``1 + max_overhead`` times as long as it would without, and ``grace`` seconds.

    Args:
        max_overhead: Largest share of the time of training, in (0, 1]; 1 is no limit.
        clock: Seconds since an arbitrary moment.
        grace: Seconds that are allowed in all whatever the share.

    Attributes:
        kept_share: Share of the time of training since :meth:`disturb` that is not to be spent.

    Example:
        >>> now = iter([0.0, 0.0, 2.0, 10.0, 42.0]).__next__
        >>> budget = Budget(0.1, now)
        >>> budget.start()
        >>> with budget.work():  # takes 2 s
        ...     pass
        >>> budget.allows(2.0), budget.allows(2.0)  # after 8 s of training and after 40 s
        (False, True)
    """

    def __init__(
        self,
        max_overhead: float,
        clock: Callable[[], float] = time.perf_counter,
        grace: float = 0.0,
    ) -> None:
        self.max_overhead = max_overhead
        self.grace = grace
        self.kept_share = 0.0
        self._kept_from = math.inf
        self.now = SteadyClock(clock)
        self._began: float | None = None
        self._before = 0.0
        self._spent = 0.0
        self._working: float | None = None
        self._depth = 0

    def start(self) -> None:
        """Start the clock, or go on after :meth:`load_state_dict`; further calls change nothing."""
        if self._began is None:
            self._began = self.now() - self._before

    def stop(self) -> None:
        """Stop the clock until :meth:`start`: what comes between two fits is no training."""
        self._before, self._began = self.elapsed(), None

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.max_overhead < 1

    def elapsed(self) -> float:
        """Wall time since the start, seconds."""
        return self._before if self._began is None else self.now() - self._began

    def spent(self) -> float:
        """Time spent on work, seconds, including work under way."""
        return self._spent + (0.0 if self._working is None else self.now() - self._working)

    def trained(self) -> float:
        """Wall time since the start that was not spent on work, seconds."""
        return max(0.0, self.elapsed() - self.spent())

    def work(self) -> Work:
        """Count the time inside ``with budget.work():``; nested blocks count once."""
        return Work(self)

    def charge(self, seconds: float) -> None:
        """Count time that others take for the work, outside of it."""
        self._spent += seconds

    def disturb(self) -> None:
        """From now on training may be slowed down in ways that are not measured."""
        self._kept_from = min(self._kept_from, self.trained())

    def kept(self) -> float:
        """Seconds that are not to be spent because of that."""
        return self._kept_after(self.trained(), 0.0)

    def _kept_after(self, trained: float, ahead: float) -> float:
        """The same, read at a moment, after so many more seconds of training, which all count."""
        return self.kept_share * (trained + ahead - min(self._kept_from, trained))

    def overhead(self) -> float:
        """Share of the wall time since the start spent on work, in [0, 1]."""
        spent = self.spent()
        return spent / max(spent, self.elapsed(), SHORTEST_ELAPSED_SECONDS)

    def room(self, ahead: float = 0.0) -> float:
        """The longest work that is allowed, seconds; negative if too much has been done.

        Args:
            ahead: Seconds of training until then.
        """
        if not self.is_limited:
            return math.inf
        trained = self.trained()  # a clock is read once
        allowed = self.grace + self.max_overhead * (trained + ahead)
        return allowed - self._kept_after(trained, ahead) - self.spent()

    def allows(self, seconds: float) -> bool:
        """Whether there is room for work of that length."""
        return self.wait(seconds) <= 0

    def wait(self, seconds: float) -> float:
        """Seconds of training until work of that length is allowed."""
        if not self.is_limited:
            return 0.0
        missing, rate = seconds - self.room(), self.max_overhead - self.kept_share
        if missing <= 0:
            return 0.0
        return missing / rate if rate > 0 else math.inf

    def state_dict(self) -> dict[str, float]:
        """Seconds: of work, of wall time, and of training before it was disturbed, if it was."""
        return {
            "spent": self.spent(),
            "elapsed": self.elapsed(),
            "kept_from": self._kept_from,
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a state; call :meth:`start` next."""
        spent, elapsed = (float(state[key]) for key in ("spent", "elapsed"))
        known = math.isfinite(spent) and math.isfinite(elapsed)
        self._before = max(0.0, elapsed) if known else 0.0
        self._spent = min(max(0.0, spent), self._before) if known else 0.0
        self._kept_from = float(state.get("kept_from", 0.0))  # not in earlier checkpoints
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
