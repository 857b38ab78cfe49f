"""Pictures off the critical path: drawn by a process of their own, given away once they are there.

Drawing takes a second, handing over a record some milliseconds. The process gets the record of an
analysis, never the network, through a folder of its own. It is started with the first analysis,
which leaves it a core where training does not, as a new program that imports nothing of the user's.
Where there can be none, pictures are drawn here and now. Each is given away by itself, that of the
basins first: at the end of a run there may be no time for the others.
"""

from __future__ import annotations

import math
import pickle
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lightning_morse.callbacks._figures import KINDS, kinds_of, painted
from lightning_morse.callbacks._messages import Messages
from lightning_morse.callbacks._painting import Done
from lightning_morse.callbacks._worker import Worker, heard, place_of, start
from lightning_morse.distributed.errors import cause

if TYPE_CHECKING:
    from lightning_morse.monitoring.findings import View
    from lightning_morse.result import MorseAnalysis

# Records that may wait for the painter; they wait on disk. A run that makes analyses faster than
# figures are drawn would fall behind by more and more.
MOST_WAITING = 32
# How long the end of a fit waits for pictures where there is no limit on its time.
PATIENCE_SECONDS = 20.0
# Training calls at every step, and asking the file system takes a tenth of a millisecond.
_LOOK_AGAIN_SECONDS = 0.05
# Steps of that waiting, and what ending the process takes after it.
_WAIT_SECONDS = 0.01
_END_SECONDS = 0.03
# What a figure is taken to cost before one has been drawn.
_FIGURE_SECONDS = 0.3
_PROGRAM = "lightning_morse.callbacks._painting"
# Why figures are left out.
NO_TIME = "there was no more time for them"
BROKEN_OFF = "the run has been broken off"
_LEFT_OUT = "'lightning-morse report' shows what is in the records"

Pictures = Mapping[str, bytes]


@dataclass(eq=False)
class _Job:
    path: Path
    deliver: Callable[[Pictures], None]
    n_delivered: int = 0


class Painter:
    """Has the figures of a run drawn.

    Args:
        messages: Tells people.
        clock: Seconds since an arbitrary moment.

    Attributes:
        seconds: What figures have last taken, by name; processor time where another process has
            drawn them.
    """

    def __init__(self, messages: Messages, clock: Callable[[], float] = time.monotonic) -> None:
        self._messages = messages
        self._clock = clock
        self.seconds: dict[str, float] = {}
        self._worker: Worker | None = None
        self._jobs: deque[_Job] = deque()
        self._n_jobs = 0
        self._here = False
        self._next_look = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no process of its own."""
        return {"messages": self._messages}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        Painter.__init__(self, state["messages"])

    @property
    def takes(self) -> tuple[float, float] | None:
        """Seconds of the first figure of an analysis, and of all; None if they are not known.

        Where this process draws them they are part of the analysis, and nothing beside it.
        """
        if self._here:
            return 0.0, 0.0
        first = self.seconds.get(KINDS[0])
        return None if first is None else (first, sum(self.seconds.values()))

    @property
    def is_idle(self) -> bool:
        """Whether no pictures are still to come."""
        return not self._jobs

    def make_ready(self) -> None:
        """Start the process, if there is none: it takes a second to import what it needs."""
        if self._worker is None and not self._here:
            try:
                self._worker = start(_PROGRAM)
            except OSError as error:
                self._draw_here(error)

    def submit(
        self,
        result: MorseAnalysis,
        view: View,
        history: Sequence[Mapping[str, Any]],
        deliver: Callable[[Pictures], None],
        *,
        patience: float = math.inf,
        last: bool = False,
    ) -> None:
        """Have an analysis drawn.

        Args:
            result: The analysis.
            view: Training in its slice.
            history: Rows of all analyses, and of those that were left out.
            deliver: Takes some of the pictures, now or in a later call of :meth:`collect` or
                :meth:`finish`; called several times.
            patience: How long drawing may take here, seconds, where there is no process for it;
                what is not expected to be done by then is left out.
            last: Whether there will be no other; then no process is started for it.
        """
        if len(self._jobs) >= MOST_WAITING:
            self._messages.warn(
                f"the figures of an analysis are left out, {MOST_WAITING} others wait to be drawn; "
                f"{_LEFT_OUT}",
                about="waiting",
            )
            return
        # Of a class that unpickles without torch.
        job = (result, SimpleNamespace(**vars(view)), [dict(row) for row in history])
        if self._hand_over(job, deliver, last):
            return
        if not self._painted_here((result, view, history), deliver, self._clock() + patience):
            self._tell_left_out(1, NO_TIME)

    def _hand_over(self, job: Any, deliver: Callable[[Pictures], None], last: bool) -> bool:
        """Give a job to the worker; whether there is one."""
        if self._here or (last and self._worker is None):
            return False
        try:
            if self._worker is None:
                self._worker = start(_PROGRAM)
            path = self._worker.give(self._n_jobs, job)
            self._worker.orders.write(f"{path.name}\n".encode())
            self._worker.orders.flush()
        except Exception as error:  # no space, no process, nothing that can be pickled
            self._draw_here(error)
            return False
        self._n_jobs += 1
        self._jobs.append(_Job(path, deliver))
        return True

    def _draw_here(self, error: Exception) -> None:
        """Draw in this process from now on."""
        self._here = True
        self._messages.inform(
            f"figures are drawn in the process that trains ({cause(error)})",
            "MorseMonitor",
            about="painter",
        )

    def collect(self) -> None:
        """Give away the pictures that are there; mostly this does nothing and returns at once."""
        if not self._jobs or self._clock() < self._next_look:
            return
        self._next_look = self._clock() + _LOOK_AGAIN_SECONDS
        self._deliver()

    def _deliver(self) -> None:
        while self._jobs:
            job = self._jobs[0]
            place = place_of(job.path, job.n_delivered)
            if not place.exists():
                return
            found = heard(job.path, job.n_delivered)
            place.unlink(missing_ok=True)
            if isinstance(found, Done):
                self._jobs.popleft()
                job.path.unlink(missing_ok=True)
                self.seconds.update(found.seconds)
                if found.why:
                    self._messages.warn(f"drawing failed: {found.why}")
            else:
                job.n_delivered += 1
                job.deliver(dict([found]))

    def finish(self, patience: float = PATIENCE_SECONDS, *, why: str = NO_TIME) -> None:
        """Wait for the pictures that are still to come, and end the process.

        Where the process has died, they are drawn here.

        Args:
            patience: How long all of it may take, seconds; what is not there by then is left out,
                and one line says so.
            why: What that line says of the cause.
        """
        if self._worker is None:
            return
        until = self._clock() + min(patience, PATIENCE_SECONDS) - _END_SECONDS
        try:
            self._deliver()
            while self._jobs and self._clock() < until:
                if self._worker.process.poll() is None:
                    time.sleep(_WAIT_SECONDS)
                elif not self._next_painted_here(until):
                    break
                self._deliver()
            if self._jobs:
                self._tell_left_out(len(self._jobs), why)
        finally:
            self._jobs.clear()
            worker, self._worker = self._worker, None
            worker.end()

    def _next_painted_here(self, until: float) -> bool:
        """Draw the next job of a worker that has died; whether there was time for all of it."""
        self._deliver()  # what it may have left behind
        if not self._jobs:
            return True
        job = self._jobs[0]
        self._messages.inform(
            "the process that draws has ended, figures are drawn here",
            "MorseMonitor",
            about="painter",
        )
        given = pickle.loads(job.path.read_bytes())
        whole = self._painted_here(given, job.deliver, until, job.n_delivered)
        if whole:
            self._jobs.popleft()
        return whole

    def _painted_here(
        self, given: Any, deliver: Callable[[Pictures], None], until: float, after: int = 0
    ) -> bool:
        """Draw one figure after the other; whether there was time for all."""
        start, pictures = self._clock(), painted(*given, after=after)
        for kind in kinds_of(given[2])[after:]:
            if start + self.seconds.get(kind, _FIGURE_SECONDS) > until:
                return False
            deliver(dict([next(pictures)]))
            self.seconds[kind], start = self._clock() - start, self._clock()
        return True

    def _tell_left_out(self, n: int, why: str) -> None:
        whose = "the last analysis" if n == 1 else f"the last {n} analyses"
        said = f"some figures of {whose} are left out, {why}; {_LEFT_OUT}"
        self._messages.inform(said, "MorseMonitor")
