"""The numerics of an analysis off the critical path: done by a process of its own.

What an analysis takes is mostly fits and pictures, which need nothing of the network. That process
asks for the loss at points of the slice whenever it needs it, and the one that trains answers
between two steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_morse.callbacks._analysing import (
    READY,
    Analysed,
    Asked,
    Failed,
)
from lightning_morse.callbacks._worker import Worker, heard, place_of, start

_PROGRAM = "lightning_morse.callbacks._analysing"
# Training calls at every step, and asking the file system takes a tenth of a millisecond.
_LOOK_AGAIN_SECONDS = 0.02


class EndedError(Exception):
    """There is no process any more, or it does not listen."""


class Analyst:
    """Has the numerics of one analysis after the other done.

    Args:
        clock: Seconds since an arbitrary moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._worker: Worker | None = None
        self._is_broken = self._has_begun = False
        self._job: Path | None = None
        self._n_jobs = self._n_heard = 0
        self._next_look = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no process of its own."""
        return {}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        Analyst.__init__(self)

    def make_ready(self) -> None:
        """Start the process if there is none: it takes a second or two to import what it needs."""
        if self._worker is None and not self._is_broken:
            try:
                self._worker = start(_PROGRAM)
            except OSError:
                self._is_broken = True

    @property
    def is_ready(self) -> bool:
        """Whether there is a process that waits for an analysis."""
        worker = self._worker
        if worker is None or self._is_broken or self._job is not None:
            return False
        with suppress(OSError):
            self._has_begun = self._has_begun or (worker.folder / READY).exists()
        return self._has_begun and worker.process.poll() is None

    def ask(self, given: Sequence[Any], options: Mapping[str, Any]) -> None:
        """Have an analysis made.

        Args:
            given: Arguments of :func:`~lightning_morse.analysis.turning.analyze_turning` after the
                loss.
            options: Its keywords.

        Raises:
            EndedError: If the process cannot be asked.
            OSError: If there is no room on its disk.
        """
        assert self._worker is not None, "only a process that is ready is asked"
        job = self._worker.give(self._n_jobs, (tuple(given), dict(options)))
        self._job, self._n_heard, self._next_look = job, 0, 0.0
        self._n_jobs += 1
        self._tell({"job": job.name})

    def heard(self) -> Asked | Analysed | Failed | None:
        """What the process says; mostly this finds nothing, and returns at once."""
        if self._job is None or self._worker is None or self._clock() < self._next_look:
            return None
        self._next_look = self._clock() + _LOOK_AGAIN_SECONDS
        try:
            found = self._said(self._job)
        except Exception as error:  # its folder is gone, or what it has left cannot be read
            self._is_broken = True
            found = Failed(EndedError(f"the process that does the numerics is lost ({error})"))
        if isinstance(found, Analysed | Failed):
            self._close()
        return found

    def _said(self, job: Path) -> Asked | Analysed | Failed | None:
        assert self._worker is not None, "there is a process as long as there is a job"
        place = place_of(job, self._n_heard)
        if place.exists():
            found: Asked | Analysed | Failed = heard(job, self._n_heard)
            place.unlink(missing_ok=True)
            self._n_heard += 1
            return found
        if self._worker.process.poll() is not None:
            raise OSError("it has ended")
        return None

    def reply(self, losses: Sequence[float], *, is_over: bool) -> None:
        """Answer what was asked.

        Args:
            losses: The loss at each of the points.
            is_over: Whether to ask for no more than there has to be.

        Raises:
            EndedError: If the process does not listen.
        """
        self._tell({"losses": list(losses), "is_over": is_over})

    def give_up(self) -> None:
        """Let the process, which waits for an answer, wait for another analysis instead."""
        with suppress(EndedError):
            self._tell({})
        self._close()

    def end(self) -> None:
        """End the process, whatever it is doing."""
        worker, self._worker = self._worker, None
        self._job, self._has_begun = None, False
        if worker is not None:
            worker.end()

    def _close(self) -> None:
        if self._job is not None:
            with suppress(OSError):
                self._job.unlink(missing_ok=True)
        self._job = None

    def _tell(self, message: Mapping[str, Any]) -> None:
        assert self._worker is not None, "there is a process as long as there is a job"
        try:
            self._worker.orders.write(json.dumps(message).encode() + b"\n")
            self._worker.orders.flush()
        except OSError as error:
            self._is_broken = True
            raise EndedError("the process that does the numerics does not listen") from error
