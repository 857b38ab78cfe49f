"""Runs on disk: the records of each, in order, and its hyperparameters."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_morse.view.record import MAX_BYTES, PLUGIN, SUFFIX, ViewRecord, decode, encode

_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True, eq=False)
class Reading:
    """One record of a run.

    Attributes:
        source: The file.
        step: Its step; taken from the file name if the record cannot be read.
        record: The record, None if it cannot be read.
        error: Why it cannot be read, None if it can.
    """

    source: Path
    step: int
    record: ViewRecord | None
    error: str | None


@dataclass(frozen=True, eq=False)
class Run:
    """A run of training, or a single analysis.

    Attributes:
        name: Path of the run, starting as the caller gave it.
        readings: Its records, by step.
        hparams: Its hyperparameters; empty if there are none.
    """

    name: str
    readings: tuple[Reading, ...]
    hparams: Mapping[str, Any]

    @property
    def last(self) -> ViewRecord | None:
        """The last readable record, None if there is none."""
        return next((r.record for r in reversed(self.readings) if r.record), None)


def read_runs(path: str | os.PathLike[str]) -> list[Run]:
    """Read the run at a path, or all runs below it.

    A run is an archive written by :meth:`lightning_morse.MorseAnalysis.save`, a log directory with
    a folder ``morse`` of view records (``step-<step>.view.json``), or that folder itself. In a
    folder without view records, archives take their place. The folder of a monitor with another
    name is a run of its own. Unreadable records are kept, with the reason.

    Args:
        path: The run, or a folder of runs.

    Returns:
        At least one run, each with at least one record.

    Raises:
        FileNotFoundError: If there is nothing at the path, or no record below it.
    """
    root = Path(path)
    if root.is_file():
        return [Run(str(root), (_read(root),), {})]
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder")
    found = []
    for folder in sorted({f.parent for f in [*root.rglob(f"*{SUFFIX}"), *root.rglob("*.npz")]}):
        files = sorted(folder.glob(f"*{SUFFIX}")) or sorted(folder.glob("*.npz"))
        home = folder.parent if folder.name == PLUGIN else folder
        readings = sorted(map(_read, files), key=lambda r: r.step)
        found.append(Run(str(home), tuple(readings), _hparams(home) or _hparams(home.parent)))
    if not found:
        raise FileNotFoundError(
            f"{root}: no Morse records in it; expected step-*{SUFFIX} in a folder {PLUGIN}, which "
            "MorseMonitor() among the callbacks of the Trainer writes, or an archive of "
            "MorseAnalysis.save"
        )
    return found


def _read(path: Path) -> Reading:
    match = _STEP.match(path.name)
    step = int(match[1]) if match else 0
    try:
        if path.name.endswith(".npz"):
            from lightning_morse.result import MorseAnalysis

            record = decode(encode(MorseAnalysis.load(path), step=step, title=path.name))
        else:
            with path.open("rb") as file:
                record = decode(file.read(MAX_BYTES + 1))
    except (ValueError, OSError) as error:
        return Reading(path, step, None, f"{path.name}: {error}")
    return Reading(path, record.step, record, None)


def _hparams(folder: Path) -> dict[str, Any]:
    """Hyperparameters written by Lightning; values that are not plain are left out."""
    import yaml

    try:
        raw = yaml.safe_load((folder / "hparams.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    if not isinstance(raw, dict):
        return {}
    plain = (str, int, float, bool, type(None))
    return {str(k): v for k, v in raw.items() if isinstance(v, plain)}
