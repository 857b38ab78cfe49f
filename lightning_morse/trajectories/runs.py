"""Recorded runs on disk: one NumPy archive per run, written whole or not at all."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Array, Cells
from lightning_morse.files import archive
from lightning_morse.files.regular import files_below
from lightning_morse.files.schema import Check, DamagedFile, Member, Relation

# Version of the file layout; files of any other version are refused.
RUN_FORMAT = 1
WHAT = "a recorded run"

FACTS = (
    Member("run_id", "text", "name of the run"),
    Member("seed", "integer", "seed of the run", null=True),
    Member("hyper_parameters", "plain", "hyper-parameters by name", null=True),
)
ARRAYS = (
    Member("steps", "integer", "optimizer steps taken at each state", ("T",)),
    Member("states", "number", "weights, or coordinates in a subspace", ("T", "p")),
    Member("losses", "number", "loss before each state, NaN if there was none", ("T",)),
)


def _increase(steps: NDArray[Any]) -> bool:
    # Differences of unsigned numbers would never fall.
    return bool((steps[1:] > steps[:-1]).all())


RELATIONS = (Relation("the steps increase", lambda m: _increase(m["steps"])),)


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
        if np.asarray(self.steps).dtype.kind not in "iu" or not _increase(self.steps):
            raise ValueError(f"the steps of run {self.run_id!r} must increase, got {self.steps}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the run; an existing file is replaced only once the new one is complete.

        Args:
            path: Destination. If the process is killed meanwhile, the old file survives, and at
                most a hidden partial file is left beside it, which :func:`load_runs` ignores.
        """
        facts = {
            "run_id": self.run_id,
            "seed": None if self.seed is None else int(self.seed),
            "hyper_parameters": dict(self.hyper_parameters or {}),
        }
        arrays = {"steps": self.steps, "states": self.states, "losses": self.losses}
        archive.write(path, facts, arrays, version=RUN_FORMAT, packed=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Run:
        """Read a run written by :meth:`save`.

        Args:
            path: The file.

        Raises:
            DamagedFile: A ``ValueError``, if the file does not hold a recorded run, is damaged, or
                is of another format.
            FileNotFoundError: If there is no such file.
        """
        with archive.opened(path, WHAT) as file:
            check = Check(WHAT)
            facts = check.facts(file.facts(RUN_FORMAT), FACTS)
            arrays = file.arrays(ARRAYS, check)
            check.relations(RELATIONS, arrays)
            return cls(
                run_id=facts["run_id"],
                steps=arrays["steps"],
                states=arrays["states"],
                losses=arrays["losses"],
                seed=facts["seed"],
                hyper_parameters=facts["hyper_parameters"],
            )


def load_runs(folder: str | os.PathLike[str]) -> list[Run]:
    """Read all runs in a folder, sorted by id; parts of the same run are joined by their steps.

    Files that are damaged or hold no run are left out, each with a warning, and so are links out of
    the folder and what is no regular file.

    Args:
        folder: Every ``*.npz`` file in it is read, including those in subfolders.

    Returns:
        One entry per run. Continue with ``analyze_trajectories([r.states for r in runs], lag=...,
        run_ids=[r.run_id for r in runs], steps=[r.steps for r in runs])``.

    Raises:
        FileNotFoundError: If the folder does not exist or contains no run.
        ValueError: If no file holds a run (then :class:`~lightning_morse.DamagedFile`), or two
            files share a run id without being parts of one run: their seeds, hyper-parameters or
            numbers of weights differ, or their states at the same step do.
    """
    place = Path(folder)
    left_out: list[str] = []
    files = sorted(files_below(place, lambda name: name.endswith(".npz"), left_out.append))
    if not files:
        raise FileNotFoundError(
            f"{place} must be a folder with recorded runs (*.npz), got none"
            + "".join(f"; left out: {line}" for line in left_out)
        )
    found: dict[str, tuple[Run, Path]] = {}
    damage: DamagedFile | None = None
    for file in files:
        try:
            run = Run.load(file)
        except (DamagedFile, OSError) as error:  # one bad file takes no other with it
            damage = damage or (error if isinstance(error, DamagedFile) else None)
            left_out.append(str(error))
            continue
        if run.run_id in found:
            other, where = found[run.run_id]
            run = _joined(other, run, f"{where} and {file}")
        found[run.run_id] = run, file
    if not found:
        raise damage or FileNotFoundError(f"{place} holds no run: {'; '.join(left_out)}")
    _warn(left_out)
    return [found[run_id][0] for run_id in sorted(found)]


def _warn(left_out: Iterable[str]) -> None:
    for line in left_out:
        warnings.warn(f"left out: {line}", stacklevel=3)


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
