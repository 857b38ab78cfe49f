"""How far a run has come, and what is left of it."""

from __future__ import annotations

import math

from lightning_morse.callbacks._lightning import (
    Period,
    TrainerLike,
    callbacks_of,
    may_stop_early,
    time_left,
)
from lightning_morse.monitoring.budget import Budget
from lightning_morse.monitoring.pace import Ahead


class Progress:
    """Counts the batches of a run, and says how many are to come and how long these take.

    Args:
        budget: Measures the time.

    Attributes:
        epoch: Number of the epoch, from 0 on, that the last training batch was in.
        n_batches: Number of training batches so far in this run.
        ends_epoch: Whether the last one was the last of its epoch.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.epoch = self.n_batches = 0
        self.ends_epoch = False
        self._seen_step = self._first_step = self._batch_idx = 0
        self._trained_before = self._trained_first = 0.0

    def begin(self, trainer: TrainerLike) -> None:
        """Begin a run or go on with one."""
        self._seen_step = self._first_step = trainer.global_step
        self.epoch, self.n_batches = trainer.current_epoch, 0
        self._trained_before = self._budget.trained()

    def has_stepped(self, trainer: TrainerLike, batch_idx: int) -> bool:
        """Count a batch; whether the optimizer has stepped since the last, or accumulates."""
        before = self._seen_step
        # Read once: Lightning takes longer to say it than all else here.
        self._seen_step = trainer.global_step
        if not batch_idx:
            self.epoch = trainer.current_epoch
        self.n_batches += 1
        if self.n_batches == 1:
            self._trained_first = self._budget.trained() - self._trained_before
        self._batch_idx, self.ends_epoch = batch_idx, bool(trainer.is_last_batch)
        return self._seen_step != before

    def has_seen(self, trainer: TrainerLike) -> bool:
        """Whether the last step of a trainer is the last one that was counted."""
        return self._seen_step == trainer.global_step

    @property
    def seconds_per_batch(self) -> float:
        """Seconds of training per batch; the first one counts only until there is another.

        It may wait for processes to start or for a network to be compiled.
        """
        trained, n = self._budget.trained() - self._trained_before, self.n_batches
        if n > 1:
            trained, n = trained - self._trained_first, n - 1
        return max(0.0, trained) / max(1, n)

    def ahead(
        self, trainer: TrainerLike, period: Period | None = None, *, has_help: bool = False
    ) -> Ahead:
        """What is known of the rest of the run.

        Args:
            trainer: The trainer.
            period: How often analyses are due; None where that is chosen.
            has_help: Whether there is a process that could do the numerics of an analysis.
        """
        callbacks, step = callbacks_of(trainer), self.seconds_per_batch
        batches = self._batches_left(trainer)
        seconds = batches * step if math.isfinite(batches) else math.inf
        for left in map(time_left, callbacks):
            # Not quite 0: the last weights are those of the step after which training ends.
            seconds = min(seconds, max(left, step))
        dues = math.inf
        each = period.n_steps(trainer) * trainer.accumulate_grad_batches if period else math.inf
        if 0 < each < math.inf and math.isfinite(batches):
            dues = 1 + batches // each
        stops = any(map(may_stop_early, callbacks)) and bool(batches)
        return Ahead(seconds if batches else 0.0, stops, dues, step, has_help)

    def _batches_left(self, trainer: TrainerLike) -> float:
        """Training batches to come; infinite if nobody knows."""
        left, per_epoch, epochs = math.inf, trainer.num_training_batches, trainer.max_epochs
        if epochs is not None and epochs >= 0 and math.isfinite(per_epoch):
            left = (epochs - trainer.current_epoch) * per_epoch - self._batch_idx - 1
        if trainer.max_steps >= 0:
            # Not by accumulation alone: with several optimizers the counter goes up by more.
            steps = trainer.global_step - self._first_step
            each = self.n_batches / steps if steps else trainer.accumulate_grad_batches
            left = min(left, math.ceil((trainer.max_steps - trainer.global_step) * each))
        return max(0.0, left)
