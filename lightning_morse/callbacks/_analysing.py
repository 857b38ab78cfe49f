"""A process that does the numerics of analyses while the run trains: what runs inside it.

It is started by :mod:`lightning_morse.callbacks._analyst`, and reads lines of JSON. The first one
names a job, a file in the folder with what :func:`lightning_morse.analysis.turning.analyze_turning`
is given but for the loss. What the loss is at some points it asks by files beside the job, each
whole or not there, and reads from the next line. The last file is the analysis, or the error that
it ended with. Everything is pickled by and for processes of one user in a folder that only they
can read. The process ends with its input, and takes the folder along.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_morse._typing import Array
from lightning_morse.analysis.samples import BetweenBatches
from lightning_morse.analysis.turning import analyze_turning
from lightning_morse.callbacks._worker import orders_in, say
from lightning_morse.files.atomic import write_whole

if TYPE_CHECKING:
    from lightning_morse.result import MorseAnalysis

READY = "ready"


@dataclass(frozen=True, eq=False)
class Asked:
    """Asks for the loss.

    Attributes:
        points: Points of the slice, shape ``(n, d)``.
    """

    points: Array


@dataclass(frozen=True, eq=False)
class Analysed:
    """The end of a job.

    Attributes:
        result: The analysis.
        axes: How it is turned; None if it is not.
        seconds: Processor time of all of it.
    """

    result: MorseAnalysis
    axes: Array | None
    seconds: float


@dataclass(frozen=True, eq=False)
class Failed:
    """The end of a job that has failed.

    Attributes:
        error: Why.
    """

    error: Exception


class _GivenUp(Exception):
    """Nobody waits for this job any more."""


class _Loss:
    """The loss, which the process that trains evaluates."""

    def __init__(self, job: Path) -> None:
        self._job = job
        self.n_said = 0
        self.is_over = False

    def __call__(self, points: Tensor) -> Tensor:
        """Losses at points of shape ``(n, d)``."""
        self.say(Asked(points.numpy()))
        line = sys.stdin.readline()
        reply = json.loads(line) if line else {}
        if "losses" not in reply:
            raise _GivenUp
        self.is_over = reply["is_over"]
        return torch.tensor(reply["losses"], dtype=torch.float64)

    def say(self, message: Asked | Analysed | Failed) -> None:
        """Leave a message, for a process that reads it within this run."""
        say(self._job, self.n_said, message)
        self.n_said += 1


def answer(job: Path) -> None:
    """Do a job."""
    given, options = pickle.loads(job.read_bytes())
    loss, start = _Loss(job), time.process_time()
    try:
        options["is_over"] = BetweenBatches(lambda: loss.is_over)
        result, axes = analyze_turning(loss, *given, **options)
    except _GivenUp:
        return
    except Exception as error:
        loss.say(_portable(error))
        return
    loss.say(Analysed(result, axes, time.process_time() - start))


def _portable(error: Exception) -> Failed:
    """The error, or one that says the same where it cannot be pickled."""
    with suppress(Exception):
        pickle.loads(pickle.dumps(error))
        return Failed(error)
    return Failed(RuntimeError(f"{type(error).__name__}: {error}"))


def main(shared: str) -> None:
    """Do the jobs in a folder until there is no more input."""
    folder = Path(shared)
    with orders_in(folder) as lines:
        torch.set_num_threads(1)
        write_whole(folder / READY, b"", durable=False)
        for line in lines:
            if "job" in (order := json.loads(line)):
                answer(folder / order["job"])
