"""What the analyses of a run have found, and how others are told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from lightning_morse.callbacks._bulletin import Bulletin
from lightning_morse.callbacks._figures import drawn, succeeded, summary_of
from lightning_morse.callbacks._lightning import TrainerLike
from lightning_morse.callbacks._messages import LOG, Messages
from lightning_morse.callbacks._painter import Painter
from lightning_morse.callbacks._run_folder import RunFolder
from lightning_morse.callbacks.loggers import (
    Report,
    log_report,
    log_run_report,
    log_scalars,
    takers_of_reports,
)
from lightning_morse.conley.reach import UNDECIDED
from lightning_morse.distributed.errors import cause, origin
from lightning_morse.monitoring.findings import Findings, View
from lightning_morse.monitoring.scalars import UNKNOWN, from_checkpoint, published
from lightning_morse.monitoring.snapshot_map import before_first
from lightning_morse.result import MorseAnalysis

# A run with shorter analyses need not be told of each; a longer one is noticed as a pause.
QUIET_BELOW_SECONDS = 1.0


@dataclass(frozen=True)
class When:
    """When in a run an analysis is.

    Attributes:
        step: The step under which Lightning logs.
        epoch: The epoch, from 0 on.
        words: The same in words.
    """

    step: int
    epoch: int
    words: str


class Account:
    """Keeps the findings of a run, and hands them to loggers and other callbacks.

    Args:
        name: Name of the monitor.
        dynamics: Whose Morse graphs are made.
        messages: Tells the user.
        bulletin: Tells other callbacks.
        folder: Where files go.

    Attributes:
        result: The last analysis, in the first process; None before.
        view: Training in its slice.
        history: One row per analysis.
        left_out: What was due and not analysed: one row for each stretch between two analyses.
        painter: Has figures drawn.
        why: Why the last analysis failed; empty if it did not.
    """

    def __init__(
        self, name: str, dynamics: str, messages: Messages, bulletin: Bulletin, folder: RunFolder
    ) -> None:
        self._name = name
        self._before_first = {**UNKNOWN, **before_first(dynamics)}
        self._messages, self._bulletin, self._folder = messages, bulletin, folder
        self.painter = Painter(messages)
        self.forget()

    def forget(self) -> None:
        """Begin a run."""
        self.result: MorseAnalysis | None = None
        self.view: View | None = None
        self.history: list[dict[str, Any]] = []
        self.left_out: list[dict[str, Any]] = []
        self._scalars: dict[str, float] = {}
        self._basins: dict[int, float] = {}
        self._loss: float | None = None
        self.why = ""

    def take_over(self, found: Findings, step: int, limit: float = 0.0) -> None:
        """Note what an analysis has found.

        Args:
            found: The findings.
            step: The step under which Lightning logs.
            limit: The sharpness beyond which the optimizer is not stable; 0 if unknown.
        """
        self._scalars.update(found.scalars, sharpness_limit=limit)
        identity = found.scalars["identity_current"]
        since = self.since(identity)
        now = float(step) if identity >= 0 else UNKNOWN["settled"]
        self._scalars["settled"] = now if since is None else float(since)
        self._basins = found.basins
        self._loss, self.why = found.loss, ""
        if found.result is not None:
            self.result, self.view = found.result, found.view

    def since(self, identity: float) -> int | None:
        """Step of the first of the latest analyses that found training nowhere else.

        Args:
            identity: Of an attractor; negative where training is in no certain basin.

        Returns:
            The step; None if the last one that was decided found training elsewhere, or there is
            none. Those that failed or were undecided say nothing and do not count.
        """
        found = None
        for row in reversed(succeeded(self._name, self.history)):
            other = row.get(f"{self._name}/identity_current")
            if identity < 0 or other not in (identity, float(UNDECIDED)):
                break
            if other == identity:
                found = int(row["step"])
        return found

    def fail(self, error: Exception, when: When, *, ends_run: bool) -> None:
        """Note that an analysis has failed, and say why."""
        self._scalars["failed"] = 1.0
        self._loss, self.why = None, cause(error)
        goes_on = "" if ends_run else ", training goes on"
        message = f"no analysis{goes_on} ({cause(error)})"
        self._messages.warn(message, when.words, about=origin(error))
        LOG.debug("the analysis that failed", exc_info=error)

    def leave_out(self, when: When, why: str) -> None:
        """Note that something was due and is not analysed."""
        before = self.left_out[-1] if self.left_out else None
        analysed = self.history[-1]["step"] if self.history else -1
        if before and before["why"] == why and before["until"] > analysed:
            # At the end of the run the last weights may be due a second time.
            count = before["count"] + (when.step > before["until"])
            before |= {"until": when.step, "count": count}
            return
        row = {"step": when.step, "epoch": when.epoch, "until": when.step, "count": 1, "why": why}
        self.left_out.append(row)

    def figures(self) -> dict[str, Figure]:
        """Draw the last analysis.

        Raises:
            RuntimeError: If there has been none in this process.
        """
        if self.result is None or self.view is None:
            raise RuntimeError("there has been no analysis yet, so there is nothing to draw")
        return dict(drawn(self.result, self.view, [*self.history, *self.left_out]))

    def draw(
        self, trainer: TrainerLike, when: When, room: Callable[[], float], *, last: bool
    ) -> None:
        """Give away records, and have figures drawn; a failure here is no failed analysis.

        Args:
            trainer: The trainer.
            when: When this is.
            room: Says for how many seconds figures may be drawn in this process, should there be no
                other.
            last: Whether no other analysis will follow.
        """
        assert self.result is not None
        assert self.view is not None
        known = {k: v for k, v in self._scalars.items() if k not in ("seconds", "overhead")}
        scalars = published(self._name, known)
        report = Report(self.result, self.view, scalars, when.step, when.epoch)
        row = {**self._begun_row(when), **scalars, "basins": self._basins}
        guard, takers = self._messages.guard, None
        with guard("logging the analysis"):
            takers = log_report(trainer, report, guard, self._folder.path, self._name)
        if takers is None:
            return
        with guard("drawing"):
            course = [*self.history, row, *self.left_out]
            given = self.result, self.view, course, takers.take
            self.painter.submit(*given, patience=room(), last=last)

    def _begun_row(self, when: When) -> dict[str, Any]:
        """What a row of the history holds beside scalars and basins."""
        return {"step": when.step, "epoch": when.epoch, "loss": self._loss, "why": self.why}

    def report(self, trainer: TrainerLike, room: float) -> None:
        """Give the report of the run to the loggers that take one; a failure ends nothing.

        Args:
            trainer: The trainer.
            room: Seconds that there are; if there are none it is left out, and one line says so.
        """
        steps = [int(row["step"]) for row in succeeded(self._name, self.history)]
        guard = self._messages.guard
        if room <= 0:
            if steps and takers_of_reports(trainer, guard):
                self._messages.inform(
                    "there is no time for the report of the run; 'lightning-morse report' makes it",
                    "MorseMonitor",
                )
            return
        with guard("making the report"):
            log_run_report(trainer, steps, guard, self._folder.path, self._name)

    def close(
        self,
        trainer: TrainerLike,
        when: When,
        seconds: float,
        overhead: float,
        why: str,
        *,
        leads: bool,
    ) -> None:
        """Add a row to the history, and publish it.

        Args:
            trainer: The trainer.
            when: When this is.
            seconds: What the analysis took.
            overhead: Share of the wall time so far.
            why: Why it failed, the same in all processes; empty if it did not.
            leads: Whether this is the first process, which writes to the loggers.
        """
        self._scalars["overhead"], self.why = overhead, why
        if not self._scalars["failed"]:
            self._scalars["seconds"] = seconds
            if seconds > QUIET_BELOW_SECONDS and self.result is not None:
                assert self.view is not None
                said = summary_of(self.result, self.view.verdict, seconds)
                self._messages.inform(said, when.words)
        self._bulletin.show(trainer, {**self._scalars, "age": 0.0})
        named = published(self._name, self._scalars)
        row = {**self._begun_row(when), **published(self._name, self._before_first), **named}
        self.history.append({**row, "basins": dict(self._basins)})
        if leads:
            log_scalars(trainer, named, when.step, self._messages.guard)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "scalars": dict(self._scalars),
            "basins": dict(self._basins),
            "history": [dict(row) for row in self.history],
            "left_out": [dict(row) for row in self.left_out],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint of this version or of 0.1."""
        self._scalars.update(from_checkpoint(state["scalars"]))
        self._basins = dict(state["basins"])
        self.history = [dict(row) for row in state["history"]]
        # Not in checkpoints of 0.1.
        self.left_out = [dict(row) for row in state.get("left_out", ())]
