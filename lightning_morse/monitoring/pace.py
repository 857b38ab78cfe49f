"""Whether to analyse now, and how large an analysis: the budget and the timetable together.

The rule, at each look:

1. At any time the callback has taken at most ``grace + max_overhead * trained`` seconds,
   where ``trained`` are seconds of training alone.
2. Time for an analysis of the final weights is kept back: out of what will have come together by
   then where the end of the run is known, else out of what there is. One that would be due shortly
   before it is left to it, where nobody has asked for it. Figures of the last one are waited for as
   long as there is time: it is planned for, but goes after analyses.
3. What is left is shared out over the analyses that the run is worth. An analysis gets smaller
   before one is given up, and is waited for until the smallest one is affordable.
4. Where there would be none in all of the run, since the loss is too dear on a single probe batch,
   it is evaluated on half of its examples, on half of those, and so on. Once there has been an
   analysis, that does not change any more: all of a run see the same loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning_morse.monitoring.batch_parts import Part
from lightning_morse.monitoring.budget import Budget
from lightning_morse.monitoring.costs import (
    PLANNED_OVER_MEASURED,
    Costs,
    Portion,
    Timing,
)
from lightning_morse.monitoring.portions import Portions
from lightning_morse.monitoring.settings import FEWEST_AUTO, Settings
from lightning_morse.monitoring.timetable import distance, due_after, n_worth

# Share of what is allowed at a time that one analysis should take, while others are to follow.
SHARE_OF_ROOM = 0.5
# No analysis follows another at less than this share of the distance that is planned.
_CLOSEST = 0.5
# Numerics that another process does should be done within this share of what is to come, and within
# so many times what they would take here: else it has too little of a core.
_SHARE_FOR_BACKGROUND, _SLOWER_IN_BACKGROUND = 0.35, 15
# A process that does the numerics of analyses takes some seconds of a core to start. The last
# analysis is made without it, so it is of no use where there is time for no other: the loss is
# taken to be so much of a step as the forward pass usually is.
WORTH_A_PROCESS_SECONDS, _FORWARD_OF_STEP = 4.0, 1 / 3
# Telling the speed of the machine takes 18 ms: only where the run has become so many times as long.
_GUESS_AFTER = 2.0


@dataclass(frozen=True)
class Ahead:
    """What is known of the rest of a run.

    Attributes:
        seconds: Seconds of training to come; infinite if unknown.
        ends_by_surprise: Whether it may end earlier.
        dues: Number of analyses that are due in it, the final one included; infinite if unknown.
        step: Seconds of training per batch.
        has_help: Whether there is a process that could do the numerics of an analysis.
    """

    seconds: float = math.inf
    ends_by_surprise: bool = False
    dues: float = math.inf
    step: float = 0.0
    has_help: bool = False

    @property
    def known(self) -> float:
        """Seconds of training that certainly come."""
        return 0.0 if self.ends_by_surprise or math.isinf(self.seconds) else self.seconds

    @property
    def planned(self) -> float:
        """Seconds of training to come; infinite unless the end is certain."""
        return math.inf if self.ends_by_surprise else self.seconds


@dataclass(frozen=True)
class Decision:
    """What to do.

    Attributes:
        portion: How large an analysis to make now; None to make none.
        limit: Seconds within which all of it has to be done, or the network copied to time an
            evaluation; infinite for no limit.
        must_time: Whether to time an evaluation first, and then to decide again.
        part: The part of a probe batch to time it on; None for all of it.
        due_in: Seconds of training until an analysis is due; 0 if one is.
        wait: Seconds of training until there is time for one; infinite if there will be none before
            the end of the run.
        overhead: Share of the wall time so far.
        within: Seconds in which another process has to have done the numerics, if one does.
    """

    portion: Portion | None = None
    limit: float = math.inf
    must_time: bool = False
    part: Part | None = None
    due_in: float = 0.0
    wait: float = 0.0
    overhead: float = 0.0
    within: float = math.inf


class Pace:
    """Decides, from measured times, whether to analyse.

    Args:
        settings: What the user asked for.
        budget: Measures the time.
        automatic: Whether it also decides when an analysis is due.

    Attributes:
        costs: What analyses cost.
        portions: How large they may be.
    """

    def __init__(self, settings: Settings, budget: Budget, automatic: bool) -> None:
        self._budget = budget
        self._automatic = automatic
        self._needs_loss = settings.dynamics != "trajectory"
        self._timed = False
        # Analyses there were when the probe set was gathered; None if that is open.
        self._before: int | None = 0
        self._analysing = 0.0
        self._looked = -math.inf  # seconds of training before the last analysis
        self._start: tuple[float, float] | None = None
        self._again: Callable[[], float] | None = None  # guesses costs
        self._guessed = 0.0
        self.costs = Costs()
        self.portions = Portions(settings, self.costs)

    def expect(self, n_weights: int, slowness: Callable[[], float]) -> float:
        """Guess costs: now and, until some are measured, as the run gets longer.

        Machines get slower within a run, and what is kept for the last weights has to suffice.

        Args:
            n_weights: Number of trainable weights.
            slowness: Says how many times slower the machine is at present.

        Returns:
            What that said.
        """
        start = self._budget.now()
        slower = slowness()
        self.costs.expect(n_weights, slower)
        self.analysed(self._budget.now() - start)  # like an analysis, it does not recur
        self._again = partial(self.expect, n_weights, slowness)
        self._guessed = self._budget.elapsed()
        return slower

    def decide(self, n_made: int, ahead: Ahead, *, final: bool) -> Decision:
        """Decide; in the first process.

        Args:
            n_made: Number of analyses so far.
            ahead: What is known of the rest of the run.
            final: Whether these are the final weights.
        """
        budget, overhead = self._budget, self._budget.overhead()
        if not budget.is_limited:
            return Decision(self.portions.whole(), overhead=overhead)
        if self._start is None:  # what was spent before then comes once
            self._start = self._around_and_trained()
        if self._automatic and not final and (due_in := self._due_in(n_made, ahead)) > 0:
            return Decision(due_in=due_in, overhead=overhead)
        is_old = budget.elapsed() > _GUESS_AFTER * self._guessed
        if is_old and self._again is not None and not self.costs.is_measured:
            self._again()
        limit, aim = self._limit(n_made, ahead, final), self._aim(n_made, ahead, final)
        background = self._background(ahead, final)
        if self._needs_loss and not self._timed:
            # So much of it is kept for the analysis; copying the network may take the rest.
            kept = self.portions.least(final=final, in_background=background > 0)
            # A step of training takes longer than the evaluation that is to be timed.
            if limit <= kept + ahead.step:
                return Decision(wait=self._wait(ahead, final), overhead=overhead)
            return Decision(limit=limit - kept, must_time=True, overhead=overhead)
        portion = self.portions.choose(limit, aim, final=final, background=background)
        if portion is None and (part := self._part_to_time(n_made, ahead, final)) is not None:
            return Decision(must_time=True, part=part, overhead=overhead)
        if portion is None:
            return Decision(wait=self._wait(ahead, final), overhead=overhead)
        self._looked = budget.trained()
        # The first costs are guesses, and after the last nothing follows: then it may take what
        # there is.
        if self.costs.is_measured and not final and not portion.in_background:
            limit = min(limit, portion.seconds)
        return Decision(portion, limit, overhead=overhead, within=background or math.inf)

    def is_worth_a_process(self, ahead: Ahead) -> bool:
        """Whether there may be an analysis of which another process could do the numerics."""
        of_loss = FEWEST_AUTO * _FORWARD_OF_STEP * ahead.step
        lasts = ahead.seconds > WORTH_A_PROCESS_SECONDS
        return lasts and self._room_at_end(ahead.known) > of_loss

    def _background(self, ahead: Ahead, final: bool) -> float:
        """Seconds in which another process should have done the numerics; 0 if none can."""
        # What is known of a part of a probe batch may turn out wrong within an analysis.
        if not ahead.has_help or final or not self._needs_loss or self.portions.part is not None:
            return 0.0
        here = self.portions.numerics()
        within = min(_SHARE_FOR_BACKGROUND * ahead.planned, _SLOWER_IN_BACKGROUND * here)
        return within if here < within else 0.0

    def timed(
        self,
        timing: Timing,
        n_made: int,
        ahead: Ahead,
        *,
        final: bool,
        part: Part | None = None,
    ) -> None:
        """Learn what the loss takes on one probe batch, and choose the probe set for the run.

        Args:
            timing: What it took.
            n_made: As in :meth:`decide`.
            ahead: As there.
            final: As there.
            part: The part of the batch that it took so long on, as that asked for.
        """
        if part is not None:
            self.portions.use(part, timing)
            return
        self._timed = True
        self.costs.timed(timing)
        self.portions.of_whole = timing
        self.portions.choose_batches(self._aim(n_made, ahead, final))

    def forget_part(self) -> None:
        """Time and choose anew: the probe set is another one."""
        if self.portions.part is not None:
            self.portions.part = self.portions.of_whole = None
            self._timed, self._before, self.costs.per_batch = False, None, None

    def _part_to_time(self, n_made: int, ahead: Ahead, final: bool) -> Part | None:
        """A part of the probe batch without which there will be no analysis at all.

        Where it is not known how long the run lasts, there may be time for one on all of it.
        """
        if self._before is None:
            self._before = n_made
        if n_made > self._before or not self._needs_loss:
            return None
        if final:
            return self.portions.next_part(self._limit(n_made, ahead, final), at_end=False)
        at_end = self._room_at_end(ahead.known) if ahead.known else math.inf
        return self.portions.next_part(at_end, at_end=True)

    def analysed(self, seconds: float, *, given_up: bool = False) -> None:
        """Note how long an analysis took, or an evaluation to time it; whatever came of it.

        Args:
            seconds: What it took.
            given_up: Whether copying the network alone would have taken longer.
        """
        self._analysing += seconds
        if given_up:
            self.costs.gave_up(seconds)

    # ------------------------------------------------------------------ seconds

    def _limit(self, n_made: int, ahead: Ahead, final: bool) -> float:
        """Seconds that an analysis may take."""
        now = self._budget.room()
        if final:
            # An answer without figures is better than figures without one. But a run of which there
            # is no picture at all leaves nothing to look at.
            enough = self.portions.last() if n_made else self.portions.least(final=False)
            figure = PLANNED_OVER_MEASURED * self.costs.first_figure
            return now - figure if now - figure > enough + ahead.step else now
        return min(now, self._room_at_end(ahead.known) - self.portions.last())

    def _due_in(self, n_made: int, ahead: Ahead) -> float:
        """Seconds of training until the next analysis is due; at most 0 if it is.

        One that had to wait is not followed by the next at once, and what is due shortly before the
        end of the run is left to the end.
        """
        trained, left = self._budget.trained(), ahead.planned
        due = due_after(n_made, trained, left)
        due = max(due, self._looked + _CLOSEST * distance(n_made, trained, left)) - trained
        if math.isinf(left):
            return due
        last = n_worth(trained + left) - 1
        is_late = left - due < _CLOSEST * distance(last, trained, left)
        return left if is_late else due

    def _aim(self, n_made: int, ahead: Ahead, final: bool) -> float:
        """Seconds that an analysis should take."""
        figures = PLANNED_OVER_MEASURED * self.costs.figures
        if final:  # so that there is time for all figures; but an answer is worth more
            limit = self._limit(n_made, ahead, final)
            usual = self.portions.seconds_of_usual(limit)
            return min(limit, max(self._budget.room() - figures, usual))
        trained = self._budget.trained()
        # A run that has lasted so long lasts as long again, where nobody knows.
        to_come = trained if math.isinf(ahead.planned) else ahead.planned
        n_left = max(1, min(n_worth(trained + to_come) - n_made, ahead.dues))
        # The first ones leave something of the grace to those that soon follow.
        room = self._room_at_end(to_come) - figures
        return min(room / n_left, SHARE_OF_ROOM * self._budget.room())

    def _room_at_end(self, to_come: float) -> float:
        """What analyses may still take in all, after so many seconds of training."""
        around, trained = self._around_and_trained()
        start = self._start or (around, trained)
        since = trained - start[1]
        rate = max(0.0, around - start[0]) / since if since > 0 else 0.0
        return self._budget.room(to_come) - min(rate, 1.0) * to_come

    def rate_around(self) -> float:
        """Seconds that go into hooks and records per second of training, of which there is one."""
        around, trained = self._around_and_trained()
        return around / max(trained, 1.0)

    def _around_and_trained(self) -> tuple[float, float]:
        """Seconds spent beside analyses, and seconds of training."""
        return max(0.0, self._budget.spent() - self._analysing), self._budget.trained()

    def _wait(self, ahead: Ahead, final: bool) -> float:
        """Seconds of training until the smallest analysis is affordable."""
        in_background = self._background(ahead, final) > 0
        smallest = self.portions.smallest(in_background=in_background).seconds
        kept = self.portions.last()
        if self._needs_loss and not self._timed:
            smallest += ahead.step  # the evaluation that is to be timed
        if final or (ahead.known and self._room_at_end(ahead.known) < smallest + kept):
            return math.inf
        return self._budget.wait(smallest if ahead.known else smallest + kept)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "costs": self.costs.state_dict(),
            **self.portions.state_dict(),
            "analysing": self._analysing,
            "looked": self._looked,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state written by :meth:`state_dict`."""
        self.costs.load_state_dict(state["costs"])
        self.portions.load_state_dict(state)
        self._analysing = state["analysing"]
        self._looked = state.get("looked", -math.inf)  # not in earlier checkpoints
        self._timed = state["batches"] is not None
