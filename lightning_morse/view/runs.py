"""Runs on disk: where the records of each are, in order, and its hyper-parameters.

A record is read when it is asked for and not kept, so that many runs take little memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_morse.files.regular import files_below, open_regular
from lightning_morse.view.encoding import encode
from lightning_morse.view.hparams import read_hparams
from lightning_morse.view.record import (
    HEAD_BYTES,
    MAX_BYTES,
    PLUGIN,
    SUFFIX,
    ViewRecord,
    decode,
    read_summary,
)

_ZIP = b"PK\x03\x04"  # how archives begin, whatever they are called
_STEP = re.compile(r"step-([0-9]{1,18})\b")


@dataclass(frozen=True, eq=False)
class Reading:
    """One record of a run.

    Attributes:
        source: The file.
        step: Its step, by the name of the file, else by the head of the record, else 0.
    """

    source: Path
    step: int

    def read(self) -> ViewRecord:
        """Read the record.

        Raises:
            ValueError: If it is damaged (:class:`~lightning_morse.DamagedFile`), or cannot be
                shown.
            OSError: If the file cannot be read.
        """
        with open_regular(self.source) as file:
            head = file.read(len(_ZIP))
            if head != _ZIP and not self.source.name.endswith(".npz"):
                return decode(head + file.read(MAX_BYTES + 1))
        from lightning_morse.result import MorseAnalysis

        result = MorseAnalysis.load(self.source)
        return decode(encode(result, step=self.step, title=self.source.name))

    def tried(self) -> tuple[ViewRecord | None, str]:
        """The record, or None and why it cannot be read."""
        try:
            return self.read(), ""
        except (ValueError, OSError) as error:
            return None, f"{self.source.name}: {error}"


@dataclass(frozen=True, eq=False)
class Run:
    """A run of training, or a single analysis.

    Attributes:
        name: Path of the run, starting as the caller gave it.
        readings: Its records, by step.
        hparams: Its hyper-parameters; empty if there are none.
    """

    name: str
    readings: tuple[Reading, ...]
    hparams: Mapping[str, Any]

    def last(self, failed: Callable[[str], None] | None = None) -> ViewRecord | None:
        """Read the last readable record.

        Args:
            failed: Takes a line for each later one that cannot be read.

        Returns:
            The record; None if there is none.
        """
        for reading in reversed(self.readings):
            record, error = reading.tried()
            if record is not None:
                return record
            if failed is not None:
                failed(error)
        return None


def read_runs(
    path: str | os.PathLike[str], left_out: Callable[[str], None] | None = None
) -> list[Run]:
    """Find the run at a path, or all runs below it; no record is read yet.

    A run is an archive written by :meth:`lightning_morse.MorseAnalysis.save`, a log directory with
    a folder ``morse`` of view records (``step-<step>.view.json``), or that folder itself. In a
    folder without view records, archives take their place. The folder of a monitor with another
    name is a run of its own.

    Args:
        path: The run, or a folder of runs.
        left_out: Takes a line for each file that is no regular one, or a link to somewhere else.

    Returns:
        At least one run, each with at least one record.

    Raises:
        FileNotFoundError: If there is nothing at the path, or no record below it.
    """
    root = Path(path)
    if root.is_file():
        return [Run(str(root), (_reading(root),), {})]
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder")
    files: dict[Path, list[Path]] = {}
    for file in files_below(root, _is_record, left_out or (lambda line: None)):
        files.setdefault(file.parent, []).append(file)
    found = []
    for folder in sorted(files):
        views = [file for file in files[folder] if file.name.endswith(SUFFIX)]
        home = folder.parent if folder.name == PLUGIN else folder
        readings = sorted(map(_reading, views or files[folder]), key=lambda r: r.step)
        hparams = read_hparams(home) or read_hparams(home.parent)
        found.append(Run(str(home), tuple(readings), hparams))
    if not found:
        raise FileNotFoundError(
            f"{root}: no Morse records in it; expected step-*{SUFFIX} in a folder {PLUGIN}, which "
            "MorseMonitor() among the callbacks of the Trainer writes, or an archive of "
            "MorseAnalysis.save"
        )
    return found


def _is_record(name: str) -> bool:
    return not name.startswith(".") and name.endswith((SUFFIX, ".npz"))


def _reading(path: Path) -> Reading:
    match = _STEP.match(path.name)
    if match is None and path.name.endswith(SUFFIX):
        return Reading(path, _step_at_the_head(path))
    return Reading(path, int(match[1]) if match else 0)


def _step_at_the_head(path: Path) -> int:
    try:
        with open_regular(path) as file:
            head = file.read(HEAD_BYTES)
            file.seek(-1, os.SEEK_END)
            found = read_summary(head, file.read(1))
    except OSError:
        return 0
    return 0 if found is None else int(found["step"])


def by_step(run: Run) -> Iterator[tuple[int, list[Reading]]]:
    """The records of a run at each step, those that are preferred first: the later by name."""
    steps: dict[int, list[Reading]] = {}
    for reading in run.readings:
        steps.setdefault(reading.step, []).insert(0, reading)
    yield from sorted(steps.items())
