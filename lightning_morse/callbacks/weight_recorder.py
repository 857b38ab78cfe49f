"""The Lightning callback that records the weights along a run, for an analysis of many runs."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_morse.arguments import integer_of_at_least
from lightning_morse.callbacks._lightning import Period, TrainerLike, is_dry_run
from lightning_morse.callbacks._messages import Messages
from lightning_morse.callbacks._unified import UnifiedCallback
from lightning_morse.slices.parameters import flat_parameters, trainable_parameters
from lightning_morse.slices.subspace import AffineSubspace
from lightning_morse.trajectories.runs import Run

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Thinning drops every second record, and a run needs two to have moved.
FEWEST_RECORDS = 3


class WeightRecorder(UnifiedCallback):
    """Record the weights of a run in one file, for :func:`lightning_morse.analyze_trajectories`.

    Records are evenly spaced: when there are more than ``max_records``, every second one is dropped
    and the spacing doubles; the first one always stays. The file ``<run_id>.npz`` is written at the
    end of every epoch, at the end of training, with every checkpoint, and when an exception ends
    training, whole or not at all: a process that is killed loses at most the epoch it was in.
    Nothing in the run changes but its wall time. If a file cannot be written, the cause is logged
    and training goes on; requests to end the run pass through. With several processes the first one
    writes.

    Args:
        folder: Folder for the file, created if missing. All runs of a study belong in one folder.
        run_id: Name of the run: letters, digits, ``.``, ``_``, ``-``. Drawn by default (not from a
            global generator) and kept in checkpoints; the weights are only in the file.
        every_n_epochs: Record at the end of every n-th epoch; 1 if neither period is given.
        every_n_steps: Record once the optimizer has taken n steps since the last record.
        max_records: Number of records to keep, at least 3. Memory and file grow in proportion.
        subspace: Record the coordinates of the weights in this subspace; by default all trainable
            weights.
        seed: Seed of the run, to be stored with it; by default the one given to
            ``seed_everything``.

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
        self.period = Period.of(every_n_epochs, every_n_steps)
        integer_of_at_least("max_records", max_records, FEWEST_RECORDS)
        if run_id is not None and not (isinstance(run_id, str) and _NAME.fullmatch(run_id)):
            raise ValueError(
                "run_id must be a name of letters, digits, '.', '_' and '-' that starts with a "
                f"letter or digit, got {run_id!r}"
            )
        self.folder = Path(folder)
        self.run_id = run_id or uuid.uuid4().hex
        self.max_records = max_records
        self.subspace = subspace
        self.seed = seed
        self._messages = Messages("WeightRecorder")
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

    def on_fit_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Refuse to overwrite another run, and refuse the subspace of another network.

        Raises:
            FileExistsError: If there is a file of this run id and the run is not resumed from a
                checkpoint.
            ValueError: If the subspace is not one of the network's number of trainable weights.
        """
        n_weights = sum(p.numel() for _, p in trainable_parameters(pl_module))
        if self.subspace is not None and self.subspace.n_parameters != n_weights:
            raise ValueError(
                f"subspace must be one of the {n_weights} trainable weights of "
                f"{type(pl_module).__name__}, got one of {self.subspace.n_parameters}. Make it "
                "from runs of the same network"
            )
        going_on = self._resumed or bool(self._kept)
        if self.path.exists() and not going_on and not is_dry_run(trainer):
            raise FileExistsError(
                f"{self.path} must not exist before run {self.run_id!r} starts, but does: two runs "
                "of one id would be taken for one. Give another run_id, or move the file"
            )

    def on_train_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Record the weights at the start of the run."""
        if trainer.global_step == 0:
            self._forget()
        elif self._resumed:
            self._read(int(trainer.global_step))
        self._resumed = False
        if not self._kept:
            self._last_step = trainer.global_step
            self._record(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: TrainerLike, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss; record at the end of a period of steps."""
        if self.period.steps is None:
            if trainer.is_last_batch:
                self._loss = _loss_of(outputs)
        elif self.period.is_over(trainer, self._last_step):
            self._loss = _loss_of(outputs)
            self._record(trainer, pl_module)

    def on_train_epoch_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Record at the end of a period of epochs; write."""
        if self.period.ends_with_epoch(trainer):
            self._record(trainer, pl_module)
        self._write(trainer, pl_module)

    def on_train_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Write the run."""
        self._write(trainer, pl_module)

    def on_exception(self, trainer: TrainerLike, pl_module: Any, exception: BaseException) -> None:
        """Write what has been recorded."""
        if self._kept:
            self._write(trainer, pl_module)

    # ------------------------------------------------------------------ state

    @cached_property  # the trainer asks for it before every hook
    def state_key(self) -> str:
        """Tells the states of several recorders in one checkpoint apart."""
        return self._generate_state_key(
            every_n_epochs=self.period.epochs,
            every_n_steps=self.period.steps,
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
        """Go on from a checkpoint, under its run id."""
        self.run_id = state_dict["run_id"]
        self._stride, self._due = state_dict["stride"], state_dict["due"]
        self._last_step = state_dict["last_step"]
        self._resumed = True

    def on_save_checkpoint(
        self, trainer: TrainerLike, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Write the run, so that one resumed from the checkpoint finds all of its past."""
        self._write(trainer, pl_module)

    # ---------------------------------------------------------------- records

    def _record(self, trainer: TrainerLike, module: Any) -> None:
        step = int(trainer.global_step)
        if is_dry_run(trainer) or (self._kept and step <= self._kept[-1][0]):
            return
        self._last_step = step
        turn = self._due % self._stride == 0
        self._due += 1
        if not turn:
            return
        with self._messages.guard("recording"):
            weights = flat_parameters(module)
            state = weights if self.subspace is None else self.subspace.project(weights)
            self._kept.append((step, self._loss, state.cpu()))
        while len(self._kept) > self.max_records:
            self._kept = self._kept[::2]
            self._stride *= 2

    def _read(self, step: int) -> None:
        """Load the records up to the checkpoint; the file may hold later ones."""
        try:
            run = Run.load(self.path)
            rows = zip(run.steps.tolist(), run.losses.tolist(), run.states, strict=True)
            self._kept = [(s, loss, torch.as_tensor(state)) for s, loss, state in rows if s <= step]
        except (OSError, ValueError) as error:
            self._messages.warn(f"the record starts again at step {step}: {error}")

    def _write(self, trainer: TrainerLike, module: Any) -> None:
        if not (trainer.is_global_zero and self._kept) or is_dry_run(trainer):
            return
        with self._messages.guard(f"writing {self.path}"):
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


def _loss_of(outputs: Any) -> float:
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return float(loss.detach()) if isinstance(loss, Tensor) and loss.numel() == 1 else float("nan")


def _global_seed() -> int | None:
    seed = os.environ.get("PL_GLOBAL_SEED", "")
    return int(seed) if seed.isdigit() else None


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values in a form that JSON holds: those of other types as text."""
    kinds = (str, int, float, bool, type(None))
    return {str(k): v if isinstance(v, kinds) else str(v) for k, v in values.items()}
