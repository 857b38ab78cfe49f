"""The Lightning callback that records where a run goes, for an analysis of many runs."""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_morse.arguments import integer_of_at_least
from lightning_morse.slices.parameters import flat_parameters, trainable_parameters
from lightning_morse.slices.subspace import AffineSubspace
from lightning_morse.trajectories.runs import Run

try:  # the same Lightning under its other name: a Trainer from there wants its own Callback
    from lightning.pytorch import Callback as _UnifiedCallback
except ImportError:

    class _UnifiedCallback:  # type: ignore[no-redef]
        """Stands in for it."""


_log = logging.getLogger("lightning_morse")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class WeightRecorder(_UnifiedCallback, pl.Callback):
    """Record the weights of a run in one file, for :func:`lightning_morse.analyze_trajectories`.

    States are evenly spaced: when ``max_records`` of them are kept, every second one is dropped and
    the distance doubles; the first one stays. The file ``<run_id>.npz`` is written at the end of
    every epoch, of training, with every checkpoint, and when training ends with an exception, in
    whole or not at all: a process that is killed loses at most the epoch it was in. Nothing of the
    run is changed but its wall time. What cannot be written is logged, and training goes on. With
    several processes the first one writes.

    Args:
        folder: Where the file goes; made if need be. All runs of one study belong in one folder.
        run_id: Name of the run: letters, digits, ``.``, ``_``, ``-``. Drawn by default (not from a
            global generator), and kept in checkpoints; the states are not, they are in the file.
        every_n_epochs: Record at the end of every so many epochs; 1 if neither period is given.
        every_n_steps: Record when the optimizer has made so many steps since the last record.
        max_records: How many states to keep; at least 3. Memory and file take so many times the
            size of the state.
        subspace: Record the coordinates of the weights in it; all trainable weights by default.
        seed: Seed of the run, to be kept with it. By default what ``seed_everything`` was given.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> WeightRecorder("runs", run_id="first", every_n_steps=10).path.name
        'first.npz'
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        run_id: str | None = None,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        max_records: int = 1000,
        subspace: AffineSubspace | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if every_n_epochs is not None and every_n_steps is not None:
            raise ValueError(
                f"every_n_epochs and every_n_steps exclude each other, got {every_n_epochs!r} and "
                f"{every_n_steps!r}. Leave one of them out"
            )
        if every_n_steps is None and every_n_epochs is None:
            every_n_epochs = 1
        for name, value, least in (
            ("every_n_epochs", every_n_epochs, 1),
            ("every_n_steps", every_n_steps, 1),
            ("max_records", max_records, 3),
        ):
            if value is not None:
                integer_of_at_least(name, value, least)
        if run_id is not None and not (isinstance(run_id, str) and _NAME.fullmatch(run_id)):
            raise ValueError(
                "run_id must be a name of letters, digits, '.', '_' and '-' that starts with a "
                f"letter or digit, got {run_id!r}"
            )
        self.folder = Path(folder)
        self.run_id = run_id or uuid.uuid4().hex
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.max_records = max_records
        self.subspace = subspace
        self.seed = seed
        self._said: set[str] = set()
        self._resumed = False
        self._forget()

    def _forget(self) -> None:
        self._kept: list[tuple[int, float, Tensor]] = []
        self._stride, self._due, self._last_step, self._loss = 1, 0, 0, float("nan")

    @property
    def path(self) -> Path:
        """The file of this run."""
        return self.folder / f"{self.run_id}.npz"

    # ------------------------------------------------------------------ hooks

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse to write over another run, and a subspace of another network.

        Raises:
            FileExistsError: If there is a file of that run id and this run does not go on from a
                checkpoint of it.
            ValueError: If the subspace is not one of as many weights as the network has.
        """
        n_weights = sum(p.numel() for _, p in trainable_parameters(pl_module))
        if self.subspace is not None and self.subspace.n_parameters != n_weights:
            raise ValueError(
                f"subspace must be one of the {n_weights} trainable weights of "
                f"{type(pl_module).__name__}, got one of {self.subspace.n_parameters}. Make it "
                "from runs of the same network"
            )
        going_on = self._resumed or bool(self._kept)
        if self.path.exists() and not going_on and not trainer.fast_dev_run:
            raise FileExistsError(
                f"{self.path} must not exist before run {self.run_id!r} starts, but does: two runs "
                "of one id would be taken for one. Give another run_id, or move the file"
            )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Record where the run starts."""
        if trainer.global_step == 0:
            self._forget()
        elif self._resumed:
            self._read(int(trainer.global_step))
        self._resumed = False
        if not self._kept:
            self._last_step = trainer.global_step
            self._record(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record if the period is one of steps and over."""
        if self.every_n_steps is None:
            if trainer.is_last_batch:
                self._loss = _loss_of(outputs)
        elif trainer.global_step >= self._last_step + self.every_n_steps:
            self._loss = _loss_of(outputs)
            self._record(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Record if the period is one of epochs and over; write."""
        period = self.every_n_epochs
        if period is not None and (trainer.current_epoch + 1) % period == 0:
            self._record(trainer, pl_module)
        self._write(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the run."""
        self._write(trainer, pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Write what there is."""
        if self._kept:
            self._write(trainer, pl_module)

    # ------------------------------------------------------------------ state

    @cached_property  # the trainer asks for it before every hook
    def state_key(self) -> str:
        """Tells the states of several recorders in one checkpoint apart."""
        return self._generate_state_key(
            every_n_epochs=self.every_n_epochs,
            every_n_steps=self.every_n_steps,
            max_records=self.max_records,
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, in tensors and plain containers."""
        return {
            "run_id": self.run_id,
            "stride": self._stride,
            "due": self._due,
            "last_step": self._last_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, under the run id it was written with."""
        self.run_id = state_dict["run_id"]
        self._stride, self._due = state_dict["stride"], state_dict["due"]
        self._last_step = state_dict["last_step"]
        self._resumed = True

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Write the run, so that whoever goes on from the checkpoint finds all of it."""
        self._write(trainer, pl_module)

    # ---------------------------------------------------------------- records

    def _record(self, trainer: Any, module: Any) -> None:
        step = int(trainer.global_step)
        if trainer.fast_dev_run or (self._kept and step <= self._kept[-1][0]):
            return
        self._last_step = step
        turn = self._due % self._stride == 0
        self._due += 1
        if not turn:
            return
        try:
            weights = flat_parameters(module)
            state = weights if self.subspace is None else self.subspace.project(weights)
            self._kept.append((step, self._loss, state.cpu()))
        except Exception as error:
            self._say_once(f"recording failed: {type(error).__name__}: {error}")
        while len(self._kept) > self.max_records:
            self._kept = self._kept[::2]
            self._stride *= 2

    def _read(self, step: int) -> None:
        """Take up the file of the run up to the checkpoint; it may have gone on before it ended."""
        try:
            run = Run.load(self.path)
            rows = zip(run.steps.tolist(), run.losses.tolist(), run.states, strict=True)
            self._kept = [(s, loss, torch.as_tensor(state)) for s, loss, state in rows if s <= step]
        except (OSError, ValueError) as error:
            self._say_once(f"the record starts again at step {step}: {error}")

    def _write(self, trainer: Any, module: Any) -> None:
        if not (trainer.is_global_zero and self._kept) or trainer.fast_dev_run:
            return
        try:
            run = Run(
                run_id=self.run_id,
                steps=np.array([step for step, _, _ in self._kept], dtype=np.int64),
                states=torch.stack([state for _, _, state in self._kept]).numpy(),
                losses=np.array([loss for _, loss, _ in self._kept], dtype=np.float64),
                seed=_global_seed() if self.seed is None else self.seed,
                hyper_parameters=_plain(dict(getattr(module, "hparams", {}) or {})),
            )
            self.folder.mkdir(parents=True, exist_ok=True)
            run.save(self.path)
        except Exception as error:
            self._say_once(f"writing {self.path} failed: {type(error).__name__}: {error}")

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            _log.warning("WeightRecorder: %s", message)


def _loss_of(outputs: Any) -> float:
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return float(loss.detach()) if isinstance(loss, Tensor) and loss.numel() == 1 else float("nan")


def _global_seed() -> int | None:
    seed = os.environ.get("PL_GLOBAL_SEED", "")
    return int(seed) if seed.isdigit() else None


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold as it is, everything else as text."""
    kinds = (str, int, float, bool, type(None))
    return {str(k): v if isinstance(v, kinds) else str(v) for k, v in values.items()}
