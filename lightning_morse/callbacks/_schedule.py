"""When a monitor analyses: after which steps, and whether there is time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from lightning_morse.callbacks._decisions import Told
from lightning_morse.callbacks._lightning import Period, TrainerLike
from lightning_morse.callbacks._messages import Messages
from lightning_morse.callbacks._progress import Progress
from lightning_morse.distributed.processes import Processes
from lightning_morse.monitoring.batch_parts import Part
from lightning_morse.monitoring.budget import Budget
from lightning_morse.monitoring.costs import Timing
from lightning_morse.monitoring.machine import slowness
from lightning_morse.monitoring.meter import Meter
from lightning_morse.monitoring.pace import Ahead, Decision, Pace
from lightning_morse.monitoring.settings import Settings
from lightning_morse.monitoring.timetable import distance

# What a step takes longer because of the callback, beside what that measures of itself: Lightning
# calls its hooks, and memory has to be fetched again. 20 to 23 microseconds on a machine twice as
# quick as the one on which costs were measured, 33 there (benchmarks/bench_hooks.py): memory does
# not get quicker as arithmetic does.
CALLING_SECONDS, CALLING_POWER = 35e-6, 0.7
# Of what analyses may take, hooks not counted, so much is kept for what cannot be measured from
# within, 1 to 1.5 % of training from the first analysis on: beside processes that draw and do
# numerics steps take up to 3 % longer, and caches are cold (benchmarks/bench_monitor.py --whole).
SHARE_KEPT_BACK = 0.45
# Share of the time to an analysis after which to look again: that time is an estimate.
LOOK_AGAIN_AFTER = 0.5


class Schedule:
    """Counts the steps of a run and the time that the monitor takes of it.

    Whatever the clock says is decided in the first process, for all of them. They look together,
    at batches that all of them know beforehand.

    Args:
        asked: The period that the user asked for.
        settings: What else the user asked for.
        automatic: Whether the user left the period open, so that the schedule chooses.

    Attributes:
        period: The period of this run.
        chooses: Whether it chooses when an analysis is due.
        budget: Measures the time.
        has_help: Whether there is a process that could do the numerics of an analysis.
    """

    def __init__(self, asked: Period, settings: Settings, automatic: bool) -> None:
        self._asked = self.period = asked
        self._settings = settings
        self.budget = Budget(settings.max_overhead, grace=settings.grace)
        # Without a limit nothing depends on the clock, so that two machines do the same.
        self.chooses = automatic and self.budget.is_limited
        self._pace = Pace(settings, self.budget, self.chooses)
        self._progress = Progress(self.budget)
        self._last_step = self._look_at = 0
        self._analysed_step = -1
        self._calling = 0.0
        self.has_help = False

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0 on, that the last training batch was in."""
        return self._progress.epoch

    # ------------------------------------------------------------------ counting

    def begin(self, trainer: TrainerLike, messages: Messages, is_new: bool) -> None:
        """Begin a run or go on with one."""
        self._progress.begin(trainer)
        self._look_at = 0
        if is_new:
            self._last_step = trainer.global_step
        self.period = self._asked.that_ends(trainer)
        if self.period != self._asked and not self.chooses:
            each = "step" if self.period.steps == 1 else f"{self.period.steps} steps"
            steps = f"there is an analysis every {each}"
            asked = "one epoch" if self._asked.epochs == 1 else f"{self._asked.epochs} epochs"
            said = f"a period of {asked} does not end in this run; {steps}"
            if self.period.epochs is not None:
                said = f"nobody knows how long an epoch is; until one has ended {steps}"
            messages.inform(said, "MorseMonitor")

    def expect(self, n_weights: int, most_snapshots: int, n_derivatives: int) -> None:
        """Learn before the first analysis what slices will be made of.

        Args:
            n_weights: Number of trainable weights.
            most_snapshots: Number of snapshots that there may be.
            n_derivatives: Derivatives of the loss that choosing directions takes.
        """
        self._pace.costs.most_snapshots = most_snapshots
        self._pace.costs.n_derivatives = n_derivatives
        if self.budget.is_limited:
            slower = self._pace.expect(n_weights, partial(slowness, self.budget.now))
            self._calling = CALLING_SECONDS * math.pow(slower, CALLING_POWER)

    def has_stepped(self, trainer: TrainerLike, batch_idx: int = 0) -> bool:
        """Count a batch; whether the optimizer has stepped since the last, or accumulates."""
        self.budget.charge(self._calling)
        return self._progress.has_stepped(trainer, batch_idx)

    def has_seen(self, trainer: TrainerLike) -> bool:
        """Whether the last step of a trainer is the last one that was counted."""
        return self._progress.has_seen(trainer)

    @property
    def may_be_due(self) -> bool:
        """Whether something may be due after the last batch that was counted."""
        progress = self._progress
        if progress.ends_epoch:
            return True
        return progress.n_batches >= self._look_at if self.chooses else bool(self.period.steps)

    def is_due(self, trainer: TrainerLike) -> bool:
        """Whether a period is over, or it is time to look; the same in every process."""
        if self.chooses:
            return self.may_be_due and trainer.global_step > max(0, self._analysed_step)
        over = self.period.is_over(trainer, self._last_step)
        if over:
            self._last_step = trainer.global_step
        return over

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
        if self._asked.steps is not None or not self._progress.ends_epoch:
            return f"step {trainer.global_step}"
        return f"epoch {self._progress.epoch + 1}"

    # ------------------------------------------------------------------ deciding

    def decide(
        self,
        trainer: TrainerLike,
        processes: Processes,
        n_made: int,
        n_snapshots: int,
        time_one: Callable[[Part | None, float], Timing],
        *,
        ended: bool,
    ) -> Decision:
        """Whether to analyse, the same in every process.

        Args:
            trainer: The trainer.
            processes: The processes.
            n_made: Number of analyses so far.
            n_snapshots: Number of snapshots of the trajectory.
            time_one: Says what the loss takes on one probe batch or a part of it, in which copying
                the network ends after so many seconds; called in every process.
            ended: Whether training has ended.
        """
        self._pace.costs.n_snapshots = max(1, n_snapshots)
        self._keep_back()
        decision, self._look_at = processes.share(self._decided(trainer, n_made, ended))
        while decision.must_time:  # on the whole batch, then on ever smaller parts
            part, start = decision.part, self.budget.now()
            timing = time_one(part, decision.limit)
            # Like an analysis, it does not recur.
            self._pace.analysed(self.budget.now() - start, given_up=math.isinf(timing.seconds))
            self._timed(trainer, timing, part, n_made, ended)
            decision, self._look_at = processes.share(self._decided(trainer, n_made, ended))
        return decision

    def _keep_back(self) -> None:
        """Plan with less than is allowed: what processes do to training is not seen from within."""
        if self.budget.is_limited:
            for_analyses = self._settings.max_overhead - self._pace.rate_around()
            self.budget.kept_share = SHARE_KEPT_BACK * max(0.0, for_analyses)

    def _decided(self, trainer: TrainerLike, n_made: int, ended: bool) -> tuple[Decision, int]:
        ahead = self._ahead(trainer, ended)
        final = ended or ahead.seconds <= 0
        decision = self._pace.decide(n_made, ahead, final=final)
        seconds = max(decision.due_in, decision.wait)
        if math.isinf(seconds):  # an estimate: there may be more time than it seems
            seconds = ahead.seconds
        look_at = self._progress.n_batches + 1
        if not self._epochs_are_short(trainer, n_made, ahead):
            batches = LOOK_AGAIN_AFTER * seconds / max(self._progress.seconds_per_batch, 1e-9)
            look_at = self._progress.n_batches + max(1, int(min(batches, 1e9)))
        elif not decision.must_time:
            look_at += int(trainer.num_training_batches)
            if not self._progress.ends_epoch and not ended:  # within an epoch that turned out short
                due_in = max(seconds, self._progress.seconds_per_batch)
                decision = Decision(due_in=max(due_in, 1e-9), overhead=decision.overhead)
        return decision, look_at

    def _timed(
        self, trainer: TrainerLike, timing: Timing, part: Part | None, n_made: int, ended: bool
    ) -> None:
        """Note what the loss takes on one probe batch or a part of it."""
        ahead = self._ahead(trainer, ended)
        if not math.isfinite(timing.seconds):  # a step takes longer
            timing = replace(timing, seconds=self._progress.seconds_per_batch)
        final = ended or ahead.seconds <= 0
        self._pace.timed(timing, n_made, ahead, final=final, part=part)

    def forget_part(self) -> None:
        """Choose the part of a probe batch anew: the one it was of is gone."""
        self._pace.forget_part()

    def keep_whole(self) -> None:
        """Evaluate the loss on whole probe batches in the rest of the run."""
        self._pace.portions.keep_whole()

    def meter(self, decision: Decision) -> Meter:
        """What takes the time of the analysis that was decided on."""
        assert decision.portion is not None
        if self.budget.is_limited:
            # In the other processes too.
            self._pace.portions.batches = decision.portion.batches
            self._pace.portions.part = decision.portion.part
        coarse = decision.portion.resolution < self._settings.cells
        in_background = decision.portion.in_background
        # Where training goes on in between, only the time that is taken from it counts.
        clock = self.budget.spent if in_background else self.budget.now
        costs = self._pace.costs
        kept = costs.kept(coarse, in_background), costs.kept_for_files
        start = clock()
        planned = decision.portion.seconds if in_background else decision.limit
        given = decision.portion, start + decision.limit, *kept, start + planned
        return Meter(clock, *given, costs.kept_more(coarse, in_background))

    def room_for_figures(self, *, is_first: bool) -> float:
        """Seconds that drawing may still take.

        Args:
            is_first: Whether there is no picture of the run yet. That one may take of what is
                otherwise kept back, since without it there is nothing to look at.
        """
        return self.budget.room() + is_first * self.budget.kept()

    def drew(self, first: float, figures: float) -> None:
        """Note what the first figure of an analysis takes, and all of them, seconds."""
        self._pace.costs.drew(first, figures)

    def endless_meter(self) -> Meter:
        """A meter for an analysis whose time has no end."""
        return Meter(self.budget.now, self._pace.portions.whole())

    def analysed(
        self,
        step: int,
        seconds: float,
        last: float,
        meter: Meter,
        outcome: str,
        elsewhere: float = 0.0,
    ) -> None:
        """Note an analysis that took some time.

        Args:
            step: The step of its weights, as the trainer counts.
            seconds: What it took of this process.
            last: What it took since :meth:`took` was told.
            meter: What took its time.
            outcome: ``"made"``, ``"failed"`` or ``"out of time"``.
            elsewhere: Processor time of the process that did the numerics, if not this one.
        """
        given_up = outcome == "out of time" and not meter.n_evaluations
        self._pace.analysed(last, given_up=given_up)
        if outcome != "out of time":
            self._analysed_step = step
        if outcome == "made":
            coarse = meter.portion.resolution < self._settings.cells
            stages = meter.before, meter.seconds, meter.places
            given = meter.n_evaluations, meter.portion, coarse
            beside = meter.recognising, meter.files, elsewhere
            decided = not meter.was_over and meter.n_evaluations < meter.portion.most
            self._pace.costs.measured(seconds, *stages, *given, *beside, decided=decided)
        elif not given_up:
            self._pace.costs.failed(seconds - meter.seconds, meter.before)
        if outcome == "out of time" and meter.n_evaluations:
            self._pace.costs.evaluated(meter.quickest, meter.portion.batches)

    def took(self, seconds: float) -> None:
        """Note what an analysis that goes on has taken of this process since the last time."""
        self._pace.analysed(seconds)

    # ------------------------------------------------------------------ the rest of the run

    def _ahead(self, trainer: TrainerLike, ended: bool) -> Ahead:
        if ended:
            return Ahead(0.0)
        period = None if self.chooses else self.period
        return self._progress.ahead(trainer, period, has_help=self.has_help)

    def is_worth_a_process(self, trainer: TrainerLike) -> bool:
        """Whether there may be an analysis of which another process could do the numerics."""
        return self._pace.is_worth_a_process(self._ahead(trainer, False))

    def _epochs_are_short(self, trainer: TrainerLike, n_made: int, ahead: Ahead) -> bool:
        """Whether to analyse at the ends of epochs only."""
        if not self.chooses:
            return False
        epoch = trainer.num_training_batches * self._progress.seconds_per_batch
        return epoch <= distance(n_made, self.budget.trained(), ahead.planned)

    def tell(
        self, trainer: TrainerLike, decision: Decision, messages: Messages, *, ended: bool
    ) -> None:
        """Say what was decided, where it is not as usual."""
        told = Told(self._settings, self._pace, self.chooses, messages, self.where(trainer))
        told.tell(decision, ended=ended)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "last_step": self._last_step,
            "analysed_step": self._analysed_step,
            "pace": self._pace.state_dict(),
            "budget": self.budget.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state written by :meth:`state_dict`."""
        self._last_step = state["last_step"]
        self._analysed_step = state.get("analysed_step", -1)  # not in checkpoints of 0.1
        if "pace" in state:
            self._pace.load_state_dict(state["pace"])
        else:  # a checkpoint of 0.1 has the length of the longest analysis
            self._pace.costs.failed(state["longest"] or 0.0, 0.0)
        self.budget.load_state_dict(state["budget"])
