"""The folder that a run writes to."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from lightning_morse.callbacks._lightning import TrainerLike

# Below the Trainer's ``default_root_dir``; each run without a logger has a folder in it.
RUNS_WITHOUT_A_LOGGER = "morse_runs"


def _of_one_run(root: Path, logger: Any) -> Path:
    """A folder of one run, where the logger has one for all of its runs, as W&B and MLflow do.

    It is the one in which ModelCheckpoint keeps the folder of its checkpoints. In that of all runs
    the records of several would be mixed, and MLflow takes each folder there for an experiment.
    """
    if getattr(logger, "log_dir", None):
        return root
    name, version = getattr(logger, "name", None), getattr(logger, "version", None)
    if name is None or version is None:
        return root
    return root / str(name) / (version if isinstance(version, str) else f"version_{version}")


class RunFolder:
    """Where the files of a run go: the log directory, or a folder of its own without a logger.

    Attributes:
        name: Name of the folder of its own, such as ``"run_3"``; empty where there is none yet.
        known: Whether a run has begun.
    """

    def __init__(self) -> None:
        self.name = ""
        self.known = False
        self._root = Path()
        self._own = False

    def begin(self, trainer: TrainerLike) -> None:
        """Begin a run; all processes call it."""
        log_dir = trainer.log_dir
        self.known = True
        self._own = not trainer.loggers
        root = Path(trainer.default_root_dir if self._own or not log_dir else log_dir)
        self._root = root if self._own else _of_one_run(root, trainer.loggers[0])

    @property
    def path(self) -> Path:
        """The folder, created at first use so that no two runs share it."""
        if not self._own:
            return self._root
        home = self._root / RUNS_WITHOUT_A_LOGGER
        if self.name:
            return home / self.name
        home.mkdir(parents=True, exist_ok=True)
        for number in count():
            path = home / f"run_{number}"
            try:
                path.mkdir()
            except FileExistsError:
                continue
            self.name = path.name
            return path
        raise AssertionError("numbers do not end")

    def of_state(self, name: str) -> Path | None:
        """Where the monitor of a name keeps what checkpoints refer to; None if nothing is known."""
        return self.path / name / "state" if self.known else None
