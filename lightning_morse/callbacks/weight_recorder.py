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
from lightning_morse.callbacks._lightning import (
    Period,
    TrainerLike,
    is_dry_run,
    restores_later,
    resumes,
)
from lightning_morse.callbacks._messages import Messages
from lightning_morse.callbacks._recorded_weights import RecordedWeights
from lightning_morse.callbacks._unified import UnifiedCallback
from lightning_morse.slices.isolation import unobserved
from lightning_morse.slices.parameters import has_lazy_parameters
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
    Nothing in the run changes but its wall time. If a file cannot be written, or anything else in
    here fails, the cause is logged and training goes on; requests to end the run pass through. With
    several processes the first one writes.

    A file holds one run. A recorder that is used again goes on with its file where the run goes on:
    where the same Trainer trains further, or one resumes from a checkpoint. Any other fit is
    another run, such as the next fold or the next trial of a sweep: where the recorder draws the
    run ids it gets a new one, and else it is refused, for a given name stands for one run.

    The weights recorded are those trainable at the first record. Those frozen later stay in, at
    constant values; those unfrozen later are not in, which is said once. Where recorded weights are
    replaced by others, of another shape or name, the record ends, which is said too. A module with
    lazy parameters is recorded once they are initialised.

    Args:
        folder: Folder for the file, created if missing. All runs of a study belong in one folder.
        run_id: Name of the run: letters, digits, ``.``, ``_``, ``-``. Drawn by default, for each
            run (not from a global generator), and kept in checkpoints; the weights are only in the
            file.
        every_n_epochs: Record at the end of every n-th epoch; 1 if neither period is given.
        every_n_steps: Record once the optimizer has taken n steps since the last record.
        max_records: Number of records to keep, at least 3. Memory and file grow in proportion.
        subspace: Record the coordinates of the weights in this subspace; by default all trainable
            weights.
        seed: Seed of the run, at least 0, to be stored with it; by default the one given to
            ``seed_everything``.

    Raises:
        ValueError: If an argument is of another type or out of range.

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
        if seed is not None:
            integer_of_at_least("seed", seed, 0)
        if run_id is not None and not (isinstance(run_id, str) and _NAME.fullmatch(run_id)):
            raise ValueError(
                "run_id must be a name of letters, digits, '.', '_' and '-' that starts with a "
                f"letter or digit, got {run_id!r}"
            )
        self.folder = _folder(folder)
        self.subspace = _subspace(subspace)
        self._drawn = uuid.uuid4().hex  # the id of the next run that was given none
        self.run_id = run_id or self._drawn
        self.max_records = max_records
        self.seed = seed
        self._messages = Messages("WeightRecorder")
        self._resumed = self._claimed = False
        self._seen_step = 0
        self._forget()

    def _forget(self) -> None:
        self._kept: list[tuple[int, float, Tensor]] = []
        self._weights = RecordedWeights(self.subspace)
        self._ended = False
        self._stride, self._due, self._last_step, self._loss = 1, 0, 0, float("nan")

    @property
    def path(self) -> Path:
        """The file of this run."""
        return self.folder / f"{self.run_id}.npz"

    # ------------------------------------------------------------------ hooks

    def on_fit_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Draw an id for another run, or refuse to overwrite one.

        Raises:
            FileExistsError: If there is a file of this run id, and the run neither goes on nor is
                resumed from a checkpoint.
        """
        self._claimed, later = False, True
        with self._messages.guard("starting"):
            later = restores_later(trainer)
        if not later:
            self._claim(trainer)

    def on_train_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Record the weights at the start of the run.

        Raises:
            FileExistsError: As :meth:`on_fit_start`, where the strategy loads checkpoints after it.
            ValueError: If the subspace is not one of the network's number of trainable weights.
        """
        self._claim(trainer)
        misfit = ""
        with self._messages.guard("starting"):
            if is_dry_run(trainer):
                return
            self._go_on(int(trainer.global_step))
            misfit = self._weights.misfit(pl_module)
        if misfit:  # no failure, but a wrong argument
            raise ValueError(misfit)
        with self._messages.guard("recording"):
            if not self._kept:
                self._last_step = trainer.global_step
                self._record(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: TrainerLike, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss; record at the end of a period of steps."""
        with self._messages.guard("recording"):
            if self.period.steps is None:
                if trainer.is_last_batch:
                    self._loss = _loss_of(outputs)
            elif self.period.is_over(trainer, self._last_step):
                self._loss = _loss_of(outputs)
                self._record(trainer, pl_module)

    def on_train_epoch_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Record at the end of a period of epochs; write."""
        with self._messages.guard("recording"):
            if self.period.ends_with_epoch(trainer):
                self._record(trainer, pl_module)
        self._write(trainer, pl_module)

    def on_train_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Write the run."""
        self._write(trainer, pl_module)

    def on_exception(self, trainer: TrainerLike, pl_module: Any, exception: BaseException) -> None:
        """Write what has been recorded."""
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
            "weights": self._weights.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, under its run id."""
        with self._messages.guard("going on from a checkpoint"):
            run_id, last_step = state_dict["run_id"], state_dict["last_step"]
            stride, due = state_dict["stride"], state_dict["due"]
            self._forget()
            if self.run_id == self._drawn:  # so that another run after this one gets a new one
                self._drawn = run_id
            self.run_id, self._last_step = run_id, last_step
            self._stride, self._due = stride, due
            self._resumed = due > 0  # else nothing had been recorded
            if "weights" in state_dict:  # not in checkpoints of 0.1
                self._weights.load_state_dict(state_dict["weights"])

    def on_save_checkpoint(
        self, trainer: TrainerLike, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Write the run, so that one resumed from the checkpoint finds all of its past."""
        self._write(trainer, pl_module)

    # ------------------------------------------------------------------- runs

    def _claim(self, trainer: TrainerLike) -> None:
        """Find out, once in a fit, whether it is another run; then see to it that it has a file."""
        taken = False
        with self._messages.guard(f"looking for {self.path}"):
            if self._claimed or is_dry_run(trainer):
                return
            self._claimed = True
            # The counter of a Trainer that resumes is not restored yet.
            self._resumed = self._resumed and resumes(trainer)
            step = int(trainer.global_step)
            if self._resumed or (self._kept and 0 < step == self._seen_step):
                return
            if self.run_id == self._drawn and (self._kept or self.path.exists()):
                self.run_id = self._drawn = uuid.uuid4().hex
            self._forget()
            self._messages.forget()
            taken = self.path.exists()
        if taken:
            raise FileExistsError(
                f"{self.path} must not exist before run {self.run_id!r} starts, but does: two runs "
                "of one id would be taken for one. Give each run a recorder with a run_id of its "
                "own, or none, so that ids are drawn; or move the file"
            )

    def _go_on(self, step: int) -> None:
        """Keep the records up to a step: those of the file, if the run is resumed."""
        if self._resumed:
            try:
                run = Run.load(self.path)
                rows = zip(run.steps.tolist(), run.losses.tolist(), run.states, strict=True)
                self._kept = [(s, loss, torch.as_tensor(state)) for s, loss, state in rows]
            except (OSError, ValueError) as error:
                self._forget()
                self._messages.warn(f"the record starts again at step {step}: {error}")
        self._resumed = False
        # The file may hold later ones.
        self._kept = [record for record in self._kept if record[0] <= step]

    # ---------------------------------------------------------------- records

    def _record(self, trainer: TrainerLike, module: Any) -> None:
        step = int(trainer.global_step)
        if self._ended or is_dry_run(trainer) or (self._kept and step <= self._kept[-1][0]):
            return
        if has_lazy_parameters(module):
            return
        self._last_step = step
        turn = self._due % self._stride == 0
        self._due += 1
        if not turn:
            return
        with unobserved():
            state = self._state(module, step)
        if state is not None:
            self._kept.append((step, self._loss, state))
        while len(self._kept) > self.max_records:
            self._kept = self._kept[::2]
            self._stride *= 2

    def _state(self, module: Any, step: int) -> Tensor | None:
        """The weights as they are recorded; None if there are no more like those before."""
        if not self._weights.names:
            self._weights.choose(module)
        if misfit := self._weights.misfit(module):
            raise ValueError(misfit)
        before, now = self._weights.count, self._weights.count_in(module)
        if self._kept and self.subspace is None:
            before = len(self._kept[-1][2])
        if now != before:
            self._ended = True
            self._messages.warn(
                f"the recorded weights changed from {before} to {now} before step {step}; the "
                "record ends there"
            )
            return None
        if beside := self._weights.trainable_beside(module):
            self._messages.warn(
                f"{beside} weights that are trainable at step {step} were not at the first "
                f"record, which goes on with the {now} that were. Train them in a run of its own "
                "to have all of them recorded",
                about="unfrozen",
            )
        return self._weights.state(module)

    def _write(self, trainer: TrainerLike, module: Any) -> None:
        with self._messages.guard(f"writing {self.path}"):
            step = int(trainer.global_step)
            # A Trainer that is not so far has not begun yet: its run is another one.
            if is_dry_run(trainer) or not self._kept or step < self._kept[-1][0]:
                return
            self._seen_step = step  # in all processes
            if not trainer.is_global_zero:
                return
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


def _folder(given: Any) -> Path:
    try:
        return Path(given)
    except TypeError as error:
        raise ValueError(
            f"folder must be the path of a folder, got {given!r}. Give it as text or as a Path"
        ) from error


def _subspace(given: Any) -> AffineSubspace | None:
    if given is None or isinstance(given, AffineSubspace):
        return given
    shown = repr(given) if isinstance(given, str | int | float) else type(given).__name__
    raise ValueError(
        f"subspace must be an AffineSubspace, got {shown}. Make one as AffineSubspace(origin, "
        "directions), or leave it out to record all trainable weights"
    )


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
