"""A process that draws the figures of a run while it trains: what runs inside it.

It is started by :mod:`lightning_morse.callbacks._painter` and reads names of jobs, one a line. A
job is a file in the folder: result, view and history, pickled, by and for processes of one user in
a folder that only they can read. The answer is a file beside it: the pictures by name, or what went
wrong. It ends with its input, also when the process that trains is killed, and takes the folder
along.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

from lightning_morse.atomic import write_whole

ANSWER = ".painted"
# Training goes first.
_NICENESS = 10


def answer(path: Path) -> None:
    """Draw a job, and write the answer beside it."""
    from lightning_morse.callbacks._figures import painted

    found: dict[str, bytes] | str
    try:
        found = painted(*pickle.loads(path.read_bytes()))
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    write_whole(path.with_name(path.name + ANSWER), pickle.dumps(found))


def read_answer(path: Path) -> Any:
    """The answer to a job: pictures by name, or what went wrong as text."""
    return pickle.loads(path.with_name(path.name + ANSWER).read_bytes())


def main(shared: str) -> None:
    """Draw jobs in a folder until there is no more input."""
    folder = Path(shared)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    parent = os.getppid()
    try:
        for line in sys.stdin:
            if os.getppid() != parent:  # nobody waits
                break
            answer(folder / line.strip())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
