"""When a monitor analyses: after which steps, and whether there is time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_morse.callbacks._lightning import Period, TrainerLike
from lightning_morse.callbacks._messages import Messages
from lightning_morse.distributed.processes import Processes
from lightning_morse.monitoring.budget import Budget, planned_seconds


class Schedule:
    """Counts the steps of a run and the time that the monitor takes of it.

    Args:
        asked: The period that the user asked for.
        max_overhead: Largest share of the wall time, in (0, 1].

    Attributes:
        period: The period of this run.
        budget: Measures the time.
        epoch: Number of the epoch, from 0 on, that the last training batch was in.
    """

    def __init__(self, asked: Period, max_overhead: float) -> None:
        self._asked = self.period = asked
        self._max_overhead = max_overhead
        self.budget = Budget(max_overhead)
        self.epoch = 0
        self._last_step = self._seen_step = 0
        self._analysed_step = -1
        self._longest: float | None = None

    def begin(self, trainer: TrainerLike, messages: Messages, is_new: bool) -> None:
        """Begin a run or go on with one."""
        self._seen_step = trainer.global_step
        if is_new:
            self._last_step = trainer.global_step
        self.period = self._asked.that_ends(trainer)
        if self.period != self._asked:
            messages.inform(
                f"a period of {self._asked.epochs} epochs does not end in this run; there is "
                f"an analysis every {self.period.steps} steps",
                "MorseMonitor",
            )

    def has_stepped(self, trainer: TrainerLike) -> bool:
        """Whether the optimizer has stepped since the last batch; else gradients accumulate."""
        stepped = trainer.global_step != self._seen_step
        self._seen_step, self.epoch = trainer.global_step, trainer.current_epoch
        return stepped

    def is_due(self, trainer: TrainerLike) -> bool:
        """Whether a period is over; the next one begins if so."""
        over = self.period.is_over(trainer, self._last_step)
        if over:
            self._last_step = trainer.global_step
        return over

    def has_time(
        self, trainer: TrainerLike, processes: Processes, n_made: int, messages: Messages
    ) -> tuple[bool, float]:
        """Whether there is time for an analysis, and the overhead; the same in every process."""
        longest = self._longest
        wait = 0.0 if longest is None else self.budget.wait(planned_seconds(longest, n_made))
        wait, overhead = processes.share((wait, self.budget.overhead()))
        if longest is None or wait <= 0:
            return True, overhead
        messages.inform(
            f"no analysis, the longest so far took {longest:.2g} s and "
            f"max_overhead={self._max_overhead:g} has room for another in {wait:.2g} s; "
            "what is due until then is left out",
            self.where(trainer),
            about="budget",
        )
        return False, overhead

    def analysed(self, trainer: TrainerLike, seconds: float) -> None:
        """Note an analysis that took some time."""
        self._analysed_step = trainer.global_step
        self._longest = max(seconds, self._longest or 0.0)

    def is_analysed(self, trainer: TrainerLike) -> bool:
        """Whether the present weights have been analysed."""
        return self._analysed_step == trainer.global_step

    def age(self, trainer: TrainerLike) -> float | None:
        """Steps since the last analysis; None before the first."""
        if self._analysed_step < 0:
            return None
        return float(trainer.global_step - self._analysed_step)

    def where(self, trainer: TrainerLike) -> str:
        """When in the run this is, in words."""
        if self._asked.steps is not None:
            return f"step {trainer.global_step}"
        return f"epoch {self.epoch + 1}"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "last_step": self._last_step,
            "analysed_step": self._analysed_step,
            "longest": self._longest,
            "budget": self.budget.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state written by :meth:`state_dict`."""
        self._last_step = state["last_step"]
        self._analysed_step = state.get("analysed_step", -1)  # not in checkpoints of 0.1
        self._longest = state["longest"]
        self.budget.load_state_dict(state["budget"])
