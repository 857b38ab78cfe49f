"""Processes beside the one that trains, which take only what it leaves idle.

A new program that imports nothing of the user's, with a folder of its own that it shares with this
process, and input. It ends with its input.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import IO, Any

import lightning_morse
from lightning_morse.files.atomic import write_whole
from lightning_morse.files.disk import leave_room

# Training goes first, from the first moment: where it uses all cores, it waits at each of its steps
# for the core that another process has. So that process takes only what is idle. Niceness alone
# leaves it a part (benchmarks/bench_painter.py), and counts for nothing between sessions, among
# which Linux shares time first: it is a group of this session, which an interrupt passes by too.
# A system that does not let it step back has it draw all the same.
STEP_BACK = """import contextlib, os
with contextlib.suppress(AttributeError, OSError):
    os.setpgid(0, 0)
with contextlib.suppress(AttributeError, OSError):
    os.nice(19)
with contextlib.suppress(AttributeError, OSError):
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
"""
# This package comes from where it came from here; what is found without its folder stays first.
_PROGRAM = f"""{STEP_BACK}
import sys
folder, home, module = sys.argv[1:]
if home not in sys.path:
    sys.path.insert(0, home)
import importlib
importlib.import_module(module).main(folder)"""


@dataclass(frozen=True, eq=False)
class Worker:
    """A process beside this one, and the folder they share."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def orders(self) -> IO[bytes]:
        """Takes what it reads."""
        assert self.process.stdin is not None
        return self.process.stdin

    def give(self, number: int, given: Any) -> Path:
        """Leave a job in the folder, a file that is named by its number; the process is not told.

        Raises:
            OSError: If there is no room on the disk.
        """
        job, content = self.folder / str(number), pickle.dumps(given)
        leave_room(self.folder, len(content))
        job.write_bytes(content)
        return job

    def end(self) -> None:
        """End the process, and remove the folder."""
        self.process.kill()
        self.process.wait()
        with suppress(OSError):  # orders that it did not read
            self.orders.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def start(module: str) -> Worker:
    """Start a worker.

    Args:
        module: Name of a module of this package whose ``main`` works in the folder that it is
            given, until its input ends.

    Raises:
        OSError: If there can be none.
    """
    if not sys.executable:  # a program that embeds Python
        raise OSError("there is no Python to start")
    folder = Path(tempfile.mkdtemp(prefix="lightning_morse_"))
    home = str(Path(lightning_morse.__file__).parents[1])
    # The backend of a notebook is not that of a process.
    kept = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(folder), home, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,  # nothing of the folder in which the user works is imported
            env={**kept, "OMP_NUM_THREADS": "1"},
            creationflags=getattr(subprocess, "IDLE_PRIORITY_CLASS", 0),  # Windows
        )
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Worker(process, folder)


def place_of(job: Path, number: int) -> Path:
    """Where something that a process says of a job is, counted from 0."""
    return job.with_name(f"{job.name}.{number}.said")


def say(job: Path, number: int, message: Any) -> None:
    """Leave a message, whole or not at all, for a process that reads it within this run."""
    write_whole(place_of(job, number), pickle.dumps(message), durable=False)


def heard(job: Path, number: int) -> Any:
    """The message that is there."""
    return pickle.loads(place_of(job, number).read_bytes())


@contextmanager
def orders_in(folder: Path) -> Iterator[Iterator[str]]:
    """The lines that a worker is to read, until nobody waits any more; its folder goes with it."""
    parent = os.getppid()
    try:
        lines = iter(sys.stdin.readline, "")
        yield takewhile(lambda _: os.getppid() == parent, lines)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
