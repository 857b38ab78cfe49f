"""Takes the time of an analysis while it runs, and says when it is up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lightning_morse._typing import Loss
from lightning_morse.analysis.samples import n_held_out, n_kept_to_measure
from lightning_morse.monitoring.costs import FLAT, Portion

# Evaluations after the last sample that are in no other count: beside one in each box inside.
_IN_BOXES = 3
# What takes less than this share of an analysis is no matter of time.
_NEXT_TO_NOTHING = 0.01


class OutOfTimeError(RuntimeError):
    """An analysis cannot be made in the time it has."""


class Meter:
    """Times the evaluations of an analysis.

    Args:
        clock: Seconds since an arbitrary moment.
        portion: How large the analysis is.
        end: Reading of the clock at which all has to be done; infinite for no limit.
        kept: Seconds that are needed once the last sample has been taken.
        kept_for_files: The part of them that is needed once attractors have been recognised.
        planned_end: Reading at which sampling should end, where it may go on for a little.
        kept_more: Seconds that each sample but the first 112 adds to ``kept``.

    Attributes:
        n_evaluations: Number of evaluations so far, but for those by which attractors are
            recognised.
        seconds: What they took.
        quickest: Seconds of the quickest; infinite before the first.
        was_over: Whether sampling had to end; it does not begin again.
        before: Seconds before the first evaluation.
        places: Seconds spent on choosing places, which whoever knows them puts here.
        recognising: Seconds spent on recognising attractors.
        why: Why there is no analysis, where the time did not do for one.

    Example:
        >>> now = iter([0.0, 0.0, 1.0, 1.0]).__next__
        >>> meter = Meter(now, Portion(64, 64, 1, 128), end=8.5, kept=2.0)
        >>> _ = meter.of(lambda x: x[:, 0])(torch.zeros(1, 2))  # takes 1 s; 6 more are kept
        >>> meter.n_evaluations, meter.is_over()
        (1, True)
    """

    def __init__(
        self,
        clock: Callable[[], float],
        portion: Portion,
        end: float = math.inf,
        kept: float = 0.0,
        kept_for_files: float = 0.0,
        planned_end: float = math.inf,
        kept_more: float = 0.0,
    ) -> None:
        self.portion = portion
        self.n_evaluations = 0
        self.before = self.seconds = self.places = self.recognising = 0.0
        self.why = ""
        self._clock = clock
        self._end, self._planned_end = end, min(end, planned_end)
        self._kept, self._kept_more, self._kept_for_files = kept, kept_more, kept_for_files
        self._recognised = math.nan
        self._began = clock()
        self._last = 0.0
        self.quickest = math.inf
        self.was_over = False
        self._evaluations_kept = (
            n_held_out(portion.usual) + n_kept_to_measure(portion.most) + _IN_BOXES
        )

    def of(self, loss: Loss, known: tuple[Tensor, float] | None = None) -> Loss:
        """The loss, whose evaluations are timed from now on.

        Args:
            loss: The loss.
            known: A point, shape ``(d,)``, and the loss there, which is not evaluated again.
        """

        def timed(points: Tensor) -> Tensor:
            found = torch.full((len(points),), math.nan, dtype=torch.float64)
            new = torch.ones(len(points), dtype=torch.bool)
            if known is not None:
                new = (points != known[0].to(points)).any(dim=1)
                found[~new] = known[1]
            if new.any():
                found[new] = self._timed(loss, points[new]).to("cpu", torch.float64)
            return found

        return timed

    def _timed(self, loss: Loss, points: Tensor) -> Tensor:
        start = self._clock()
        if not self.n_evaluations:
            self.before = start - self._began
        values = loss(points)
        took = self._clock() - start
        self.seconds += took
        self.n_evaluations += len(points)
        self._last = took / len(points)
        self.quickest = min(self.quickest, self._last)
        return values

    @contextmanager
    def recognises(self) -> Iterator[None]:
        """The time in which attractors are recognised: last fit and picture have been made."""
        start, before = self._clock(), (self.n_evaluations, self.seconds)
        self._kept, self._kept_more = self._kept_for_files, 0.0
        try:
            yield
        finally:
            self.n_evaluations, self.seconds = before
            self._recognised = self._clock()
            self.recognising = self._recognised - start

    @property
    def files(self) -> float:
        """Seconds since attractors have been recognised; 0 before."""
        return 0.0 if math.isnan(self._recognised) else self._clock() - self._recognised

    @property
    def is_limited(self) -> bool:
        """Whether the time has an end."""
        return math.isfinite(self._end)

    def is_over(self) -> bool:
        """Whether sampling has to end now, so that what comes after it is done in time.

        An evaluation is taken to last as long as the last one.
        """
        more = max(0, self.n_evaluations - FLAT) * self._kept_more
        needed = self._kept + more + self._evaluations_kept * self._last
        self.was_over = self.was_over or self._clock() + needed > self._planned_end
        return self.was_over

    def keep_to_time(self) -> None:
        """Check that there is time for what comes after the samples, if for none of them.

        Raises:
            OutOfTimeError: If there is not.
        """
        if self.is_limited and self._clock() + self._kept > self._end:
            raise OutOfTimeError("copying the network takes longer than was planned")

    def affords(self, n: int) -> bool:
        """Whether there is time for so many evaluations as long as the last one, and the rest."""
        return self._clock() + self._kept + n * self._last <= self._end

    def makes_light_of(self, n: int) -> bool:
        """Whether so many evaluations take next to nothing of what the analysis has taken."""
        return n * self._last <= _NEXT_TO_NOTHING * (self._clock() - self._began)

    def check(self, n: int) -> None:
        """Check that there is time for so many evaluations.

        Raises:
            OutOfTimeError: If there is not; it says what has taken the time.
        """
        if not self.affords(n):
            long = "choosing the slice has taken longer than was planned"
            dear = "the loss has become too dear for what was planned"
            raise OutOfTimeError(long if self.before > self.seconds + n * self._last else dear)
