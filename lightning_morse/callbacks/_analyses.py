"""The analyses of one run: made when there is time for them, and accounted for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from lightning_morse.callbacks._account import Account, When
from lightning_morse.callbacks._analysing import Analysed, Asked, Failed
from lightning_morse.callbacks._analyst import Analyst, EndedError
from lightning_morse.callbacks._bulletin import Bulletin
from lightning_morse.callbacks._checks import check_directions_of_sharded
from lightning_morse.callbacks._lightning import TrainerLike, logging_step
from lightning_morse.callbacks._messages import Messages
from lightning_morse.callbacks._schedule import Schedule
from lightning_morse.distributed.errors import Guard
from lightning_morse.distributed.sharding import check_sharding, is_sharded
from lightning_morse.monitoring.batch_parts import Part
from lightning_morse.monitoring.costs import Timing
from lightning_morse.monitoring.findings import Findings
from lightning_morse.monitoring.in_background import InBackground, LossHasChangedError
from lightning_morse.monitoring.machine import leaves_a_core
from lightning_morse.monitoring.meter import Meter, OutOfTimeError
from lightning_morse.monitoring.one_analysis import OneAnalysis
from lightning_morse.monitoring.pace import Decision
from lightning_morse.monitoring.probed_loss import LossFn
from lightning_morse.monitoring.run_record import RunRecord
from lightning_morse.monitoring.settings import Settings
from lightning_morse.monitoring.stability import stability_limit
from lightning_morse.slices.directions import DirectionSource
from lightning_morse.slices.isolation import preserved_random_state, unobserved
from lightning_morse.slices.parameters import (
    count_of_weights,
    has_lazy_parameters,
    trainable_parameters,
)

# Snapshots per period: enough to see a curve between two analyses. Soundness does not depend on it.
SNAPSHOTS_PER_PERIOD = 8
# An analysis under way keeps ``dim + 1`` copies of so many weights beside training.
MOST_IN_BACKGROUND = 1 << 25
# Of the time there is for an analysis under way, the share after which it takes no more samples.
SHARE_FOR_SAMPLES = 0.6
TOO_SLOW = "training leaves no core to the process that does its numerics"
SPOILT = "the loss cannot be evaluated on part of a probe batch and from now on is on all of it"


@dataclass(eq=False)
class _Attempt:
    """An analysis that has been begun.

    Attributes:
        when: When in the run its weights are.
        step: Their step, as the trainer counts.
        meter: What takes its time.
        limit: The curvature at which the optimizer would be at the edge of stability.
        ended: Whether training has ended.
        begun: What is done in the background; None if nothing is.
        is_last: Whether nothing more is done in the background.
        took: Seconds that it has taken of this process.
        elsewhere: Processor time of the process that does the numerics.
        soon: Reading of the clock of the budget from which on that has to come to an end.
        until: Reading by which it has to be done.
    """

    when: When
    step: int
    meter: Meter
    limit: float
    ended: bool
    begun: InBackground | None = None
    is_last: bool = False
    took: float = 0.0
    elsewhere: float = 0.0
    soon: float = math.inf
    until: float = math.inf


@dataclass(eq=False)
class Analyses:
    """Makes the analyses of one run.

    Attributes:
        settings: What the user asked for.
        source: Where the directions come from.
        loss_fn: The loss of a batch; None for that of the module's own steps.
        run: The record of the run.
        schedule: When there is an analysis, and how large.
        account: Takes the findings.
        bulletin: Tells other callbacks.
        messages: Tells the user.
        on_error: What becomes of a failure.
    """

    settings: Settings
    source: DirectionSource
    loss_fn: LossFn | None
    run: RunRecord
    schedule: Schedule
    account: Account
    bulletin: Bulletin
    messages: Messages
    on_error: str
    # Whether the network does not have all its weights yet; whether it has been looked at.
    _waits: bool = field(default=False, init=False)
    _ready: bool = field(default=False, init=False)
    _guards: dict[str, Guard] = field(default_factory=dict, init=False)
    # Does the numerics of an analysis beside training; whether it cannot for this run.
    _analyst: Analyst = field(default_factory=Analyst, init=False)
    _helpless: bool = field(default=True, init=False)
    _under_way: _Attempt | None = field(default=None, init=False)

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no analysis under way."""
        return {**vars(self), "_under_way": None}

    def prepare(self, trainer: TrainerLike, module: Any) -> None:
        """Look at the network, once it has all its weights."""
        self._waits = has_lazy_parameters(module)
        if self._waits:
            return
        # The strategy's model too, in which the module may be wrapped.
        check_sharding(trainer.model or module, trainer.world_size)
        self.run.sharded = is_sharded(module)
        if self.run.sharded:
            check_directions_of_sharded(self.source)
        # Epochs of unknown length start with every step; the record thins itself.
        steps = self.schedule.period.n_steps(trainer)
        stride = max(1, int(steps / SNAPSHOTS_PER_PERIOD)) if math.isfinite(steps) else 1
        self.run.begin(module, stride, module.device)
        if not self.run.probe:  # a checkpoint may have a part of a batch without the batch
            self.schedule.forget_part()
        parameters = dict(trainable_parameters(module))
        self.source.bind(parameters)
        n_weights = count_of_weights(parameters.values())
        most = self.run.trajectory.max_snapshots
        self.schedule.expect(n_weights, most, self.source.n_derivatives)
        self._helpless = not self._may_have_help(n_weights, module.device)
        self._ready = True

    def _may_have_help(self, n_weights: int, device: torch.device) -> bool:
        """Whether another process may do the numerics of analyses."""
        alone = self.run.processes.size == 1 and not self.run.sharded
        of_loss = self.settings.dynamics != "trajectory"
        is_limited = self.schedule.budget.is_limited  # else nothing may depend on the clock
        small = n_weights <= MOST_IN_BACKGROUND
        return alone and of_loss and is_limited and small and leaves_a_core(device)

    def only_counts(self, *, stepped: bool) -> bool:
        """Whether there is nothing to do after a batch but to count it; then that is done.

        So it is after nearly all of them. What a hook takes then is fetching what it looks at, so
        it looks at little.

        Args:
            stepped: Whether the optimizer has stepped.
        """
        if not self._ready or self._under_way is not None or self.schedule.may_be_due:
            return False
        return not stepped or self.run.only_counts()

    def record(self, trainer: TrainerLike, module: Any, *, stepped: bool) -> None:
        """Record the weights after a batch, if the optimizer has stepped."""
        if self._waits:
            self.prepare(trainer, module)
        elif self._ready and stepped:
            self.run.add_weights(module)

    def of(self, module: Any, title: str = "", meter: Meter | None = None) -> OneAnalysis:
        """An analysis of the present weights, not made yet."""
        return OneAnalysis(
            settings=self.settings,
            source=self.source,
            module=module,
            loss_fn=self.loss_fn,
            record=self.run,
            title=title,
            warn=lambda message, about: self.messages.warn(message, about=about),
            inform=lambda message, about: self.messages.inform(message, "MorseMonitor", about),
            meter=meter or self.schedule.endless_meter(),
            since=self.account.since,
        )

    def look(self, trainer: TrainerLike, module: Any, *, ended: bool = False) -> None:
        """Analyse if there is time; all processes do the same."""
        schedule = self.schedule
        if ended:
            self.give_up()
        elif self._under_way is not None:
            if not schedule.chooses:
                with self.guard("publishing"):
                    self.account.leave_out(self._when(trainer, ended), "another is under way")
            return
        if known := self.account.painter.takes:
            schedule.drew(*known)
        schedule.has_help = not self._helpless and self._analyst.is_ready
        given = trainer, self.run.processes, len(self.account.history), len(self.run.trajectory)
        decision = schedule.decide(
            *given,
            partial(self._timed, module),
            ended=ended,
        )
        schedule.tell(trainer, decision, self.messages, ended=ended)
        if decision.portion is not None:
            # An analysis mostly leaves a core to the process that draws, training may leave none.
            if not ended and self.run.processes.leads:
                schedule.budget.disturb()  # from here on other processes are at work
                self.account.painter.make_ready()
            self._analyze_and_tell(trainer, module, decision, ended)
            return
        if not ended and not self._helpless and schedule.is_worth_a_process(trainer):
            self._analyst.make_ready()
        if decision.due_in > 0:
            return
        with self.guard("publishing"):
            why = f"no time, {self.settings.limits_of_time}"
            self.account.leave_out(self._when(trainer, ended), why)
        if ended or trainer.is_last_batch:
            age = schedule.age(trainer) or 0.0
            self.bulletin.show(trainer, {"overhead": decision.overhead, "age": age})

    def _timed(self, module: Any, part: Part | None, limit: float = math.inf) -> Timing:
        """What the loss takes on one probe batch or a part of it; all processes call it."""
        return replace(self.of(module).loss, part=part).timed(self.schedule.budget.now, limit)

    def _is_fault_of(self, part: Part | None, module: Any, in_doubt: bool) -> bool:
        """Whether the loss works on a whole probe batch, and not on the part that is used.

        All processes call it.

        Args:
            part: The part.
            module: The network.
            in_doubt: Whether something has gone wrong in this process.
        """
        if part is None or not any(self.run.processes.gather(in_doubt)):
            return False
        whole, of_part = (self._timed(module, each) for each in (None, part))
        return whole.finite and not of_part.allows(part)

    def _analyze_and_tell(
        self, trainer: TrainerLike, module: Any, decision: Decision, ended: bool
    ) -> None:
        meter, limit = self.schedule.meter(decision), stability_limit(trainer.optimizers)
        attempt = _Attempt(self._when(trainer, ended), trainer.global_step, meter, limit, ended)
        now = self.schedule.budget.now()
        attempt.soon = now + SHARE_FOR_SAMPLES * decision.within
        attempt.until = now + decision.within

        def begin() -> Findings | None:
            if not self._ready:  # what stood in the way may be gone
                self.prepare(trainer, module)
            self.run.begin_anew_if_changed(module)
            one = self.of(module, f"epoch {attempt.when.epoch + 1}", meter)
            if not meter.portion.in_background:
                return one.run()
            attempt.begun = InBackground.begun(one)
            self._analyst.ask(*attempt.begun.arguments())
            return None

        self._visit(trainer, module, attempt, begin)

    def go_on(self, trainer: TrainerLike, module: Any) -> None:
        """Go on with an analysis that is under way; mostly this finds nothing to do."""
        attempt = self._under_way
        if attempt is None:
            return
        if (said := self._analyst.heard()) is None:
            if self.schedule.budget.now() > attempt.until:
                self._helpless = True
                self.give_up(TOO_SLOW)
            return
        begun = attempt.begun
        assert begun is not None, "an analysis that is under way has begun"

        def answer() -> Findings | None:
            if isinstance(said, Failed):
                raise begun.reason_of(said.error)
            if isinstance(said, Analysed):
                attempt.elsewhere = said.seconds
                return begun.found(said.result, said.axes)
            meter = attempt.meter
            losses = begun.losses(said.points)
            soon = self.schedule.budget.now() > attempt.soon
            self._analyst.reply(losses, is_over=soon or meter.is_over())
            return None

        attempt.is_last = not isinstance(said, Asked)
        self._visit(trainer, module, attempt, answer)

    def give_up(self, why: str = "training ended before it was done") -> None:
        """Leave an analysis that is under way, and end the process that does its numerics."""
        attempt, self._under_way = self._under_way, None
        self._analyst.end()
        if attempt is not None:
            with self.guard("publishing"):
                self.account.leave_out(attempt.when, why)

    def _visit(
        self,
        trainer: TrainerLike,
        module: Any,
        attempt: _Attempt,
        work: Callable[[], Findings | None],
    ) -> None:
        """Do some of the work of an analysis, and tell of it if that was all."""
        failures: list[Exception] = []
        schedule, meter = self.schedule, attempt.meter
        start = schedule.budget.now()
        self._under_way, found = None, None
        with self.guard("publishing"), preserved_random_state(), unobserved():
            with Guard(failures.append):
                try:
                    found = work()
                except OutOfTimeError as error:
                    meter.why = str(error)
                except (LossHasChangedError, EndedError) as error:
                    self._helpless, meter.why = True, str(error)
            goes_on = attempt.begun is not None and not attempt.is_last
            if goes_on and not failures and not meter.why:
                visit = schedule.budget.now() - start
                attempt.took += visit
                schedule.took(visit)
                self._under_way = attempt
                return
            if goes_on:
                self._analyst.give_up()
            self._tell(trainer, module, attempt, found, failures, start)
        if failures and self.on_error == "raise":
            raise failures[0]

    def _tell(
        self,
        trainer: TrainerLike,
        module: Any,
        attempt: _Attempt,
        found: Findings | None,
        failures: list[Exception],
        start: float,
    ) -> None:
        schedule, processes = self.schedule, self.run.processes
        when, meter = attempt.when, attempt.meter
        in_doubt = bool(failures) or (found is not None and found.loss is None)
        spoilt = self._is_fault_of(meter.portion.part, module, in_doubt)
        if spoilt:
            failures.clear()
            found = None
        if failures:
            self.account.fail(failures[0], when, ends_run=self.on_error == "raise")
        elif found is not None:
            self.account.take_over(found, when.step, attempt.limit)
            if processes.leads:
                room = partial(schedule.room_for_figures, is_first=not self.account.painter.seconds)
                self.account.draw(trainer, when, room, last=attempt.ended)
        last = schedule.budget.now() - start
        attempt.took += last
        outcome = "failed" if failures else "made" if found else "out of time"
        schedule.analysed(attempt.step, attempt.took, last, meter, outcome, attempt.elsewhere)
        if outcome == "out of time":
            if spoilt:
                schedule.keep_whole()
            why = SPOILT if spoilt else processes.share(meter.why)
            self.account.leave_out(when, why)
            self.messages.inform(f"no analysis, {why}", when.words)
            return
        # Times and reason are those of the first process: all of them publish the same.
        known = processes.share((attempt.took, schedule.budget.overhead(), self.account.why))
        self.account.close(trainer, when, *known, leads=processes.leads)

    def _when(self, trainer: TrainerLike, ended: bool) -> When:
        # When training has ended the counts are those of the step after the last one.
        schedule = self.schedule
        step, epoch = (n - ended for n in (logging_step(trainer), schedule.epoch + ended))
        return When(step, epoch, schedule.where(trainer))

    def guard(self, what: str) -> Guard:
        """Keep failures from ending the run, unless the user wants them to."""
        if what not in self._guards:  # training asks for several at every step
            self._guards[what] = self.messages.guard(what, active=self.on_error != "raise")
        return self._guards[what]
