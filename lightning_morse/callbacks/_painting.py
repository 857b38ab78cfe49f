"""A process that draws the figures of a run while it trains: what runs inside it.

It is started by :mod:`lightning_morse.callbacks._painter`, makes itself ready, and reads names of
jobs, one a line. A job is a file in the folder: result, view and history, pickled, by and for
processes of one user in a folder that only they can read. The answers are files beside it, each
whole or not there: a picture as soon as it is drawn, and at the end of all what it took or what
went wrong. The process ends with its input, also when the one that trains is killed, and takes the
folder along.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from lightning_morse.callbacks._worker import orders_in, say


@dataclass(frozen=True)
class Done:
    """The end of a job.

    Attributes:
        seconds: Processor time of each figure, by its name.
        why: Why there are no others; empty if these are all.
    """

    seconds: Mapping[str, float]
    why: str = ""


def answer(job: Path) -> None:
    """Draw a job, and write the answers beside it: names and pictures, then :class:`Done`."""
    from lightning_morse.callbacks._figures import painted

    seconds: dict[str, float] = {}
    number, why = 0, ""
    try:
        start = time.process_time()
        for kind, png in painted(*pickle.loads(job.read_bytes())):
            seconds[kind] = time.process_time() - start
            say(job, number, (kind, png))
            number, start = number + 1, time.process_time()
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    say(job, number, Done(seconds, why))


def make_ready() -> None:
    """Do beforehand what takes half of the time of a first figure."""
    from lightning_morse.callbacks._figures import painted  # noqa: F401
    from lightning_morse.plotting.style import new_figure

    figure = new_figure(1, 1)
    figure.add_subplot(xscale="log", title="$1$")
    figure.savefig(BytesIO(), format="png")


def main(shared: str) -> None:
    """Draw jobs in a folder until there is no more input."""
    folder = Path(shared)
    with orders_in(folder) as lines:
        with suppress(Exception):  # what is wrong is said of the first job
            make_ready()
        for line in lines:
            answer(folder / line.strip())
