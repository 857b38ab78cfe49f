"""Recorded runs on disk: one NumPy archive per run, written whole or not at all."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Array, Cells
from lightning_morse.atomic import written_whole

# Version of the file layout; files of any other version are refused.
RUN_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Run:
    """The states of one training run.

    Attributes:
        run_id: Name of the run.
        steps: Number of optimizer steps taken at each state, increasing, shape ``(T,)``.
        states: Weights, or coordinates in a subspace, shape ``(T, p)``.
        losses: Training loss of the last batch before each state, NaN if there was none, shape
            ``(T,)``.
        seed: Seed of the run; None if unknown.
        hyper_parameters: Plain values by name.

    Raises:
        ValueError: If the shapes disagree or the steps do not increase.
    """

    run_id: str
    steps: Cells
    states: NDArray[np.floating]
    losses: Array
    seed: int | None = None
    hyper_parameters: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        n = len(self.steps)
        if self.states.ndim != 2 or len(self.states) != n or self.losses.shape != (n,):
            raise ValueError(
                f"states must have shape ({n}, p) and losses ({n},) for {n} steps, got "
                f"{self.states.shape} and {self.losses.shape}, in run {self.run_id!r}"
            )
        if (np.diff(self.steps) <= 0).any():
            raise ValueError(f"the steps of run {self.run_id!r} must increase, got {self.steps}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the run; an existing file is replaced only once the new one is complete.

        Args:
            path: Destination. If the process is killed meanwhile, the old file survives, and at
                most a hidden partial file is left beside it, which :func:`load_runs` ignores.
        """
        facts = {
            "format": RUN_FORMAT,
            "run_id": self.run_id,
            "seed": self.seed,
            "hyper_parameters": dict(self.hyper_parameters or {}),
        }
        with written_whole(path) as file:
            np.savez(
                file,
                facts=np.frombuffer(json.dumps(facts, default=str).encode(), dtype=np.uint8),
                steps=self.steps,
                states=self.states,
                losses=self.losses,
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Run:
        """Read a run written by :meth:`save`.

        Args:
            path: The file.

        Raises:
            ValueError: If the file does not hold a recorded run, or is of another format.
            FileNotFoundError: If there is no such file.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive.items())
            facts = json.loads(arrays.pop("facts").tobytes().decode())
            if facts["format"] != RUN_FORMAT:
                raise ValueError(
                    f"its format is {facts['format']}, this version reads {RUN_FORMAT}"
                )
            return cls(
                run_id=facts["run_id"],
                seed=facts["seed"],
                hyper_parameters=facts["hyper_parameters"],
                **arrays,
            )
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as err:
            raise ValueError(f"{path} does not hold a recorded run: {err}") from err


def load_runs(folder: str | os.PathLike[str]) -> list[Run]:
    """Read all runs in a folder, sorted by id; parts of the same run are joined by their steps.

    Args:
        folder: Every ``*.npz`` file in it is read, including those in subfolders.

    Returns:
        One entry per run. Continue with ``analyze_trajectories([r.states for r in runs], lag=...,
        run_ids=[r.run_id for r in runs], steps=[r.steps for r in runs])``.

    Raises:
        FileNotFoundError: If the folder does not exist or contains no run.
        ValueError: If a file does not hold a run, or two files share a run id without being parts
            of one run: their seeds, hyper-parameters or numbers of weights differ, or their states
            at the same step do.
    """
    place = Path(folder)
    files = sorted(place.rglob("*.npz"))
    if not files:
        raise FileNotFoundError(f"{place} must be a folder with recorded runs (*.npz), got none")
    found: dict[str, tuple[Run, Path]] = {}
    for file in files:
        run = Run.load(file)
        if run.run_id in found:
            other, where = found[run.run_id]
            run = _joined(other, run, f"{where} and {file}")
        found[run.run_id] = run, file
    return [found[run_id][0] for run_id in sorted(found)]


def _joined(a: Run, b: Run, where: str) -> Run:
    facts = [(r.seed, r.hyper_parameters, r.states.shape[1]) for r in (a, b)]
    _, first, second = np.intersect1d(a.steps, b.steps, return_indices=True)
    what = "" if facts[0] == facts[1] else f"{facts[0]} and {facts[1]}"
    for i, j in zip(first, second, strict=True):
        if not what and not np.array_equal(a.states[i], b.states[j], equal_nan=True):
            what = f"different states at step {a.steps[i]}"
    if what:
        raise ValueError(
            f"{where} must be parts of one run, since both are of run {a.run_id!r}, got {what}. "
            "Give every run a unique id"
        )
    new = np.setdiff1d(np.arange(len(b.steps)), second)
    steps = np.concatenate([a.steps, b.steps[new]])
    order = np.argsort(steps)
    return Run(
        run_id=a.run_id,
        steps=steps[order],
        states=np.concatenate([a.states, b.states[new]])[order],
        losses=np.concatenate([a.losses, b.losses[new]])[order],
        seed=a.seed,
        hyper_parameters=a.hyper_parameters,
    )
