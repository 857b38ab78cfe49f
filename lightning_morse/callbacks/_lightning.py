"""What the callbacks share in dealing with Lightning."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_morse._compat import batches_that_stepped
from lightning_morse.arguments import integer_of_at_least
from lightning_morse.slices.isolation import unobserved


class TrainerLike(Protocol):
    """The attributes of a Trainer that the callbacks read, as far as its class declares them."""

    @property
    def accumulate_grad_batches(self) -> int: ...
    @property
    def callback_metrics(self) -> dict[str, Tensor]: ...
    @property
    def current_epoch(self) -> int: ...
    @property
    def default_root_dir(self) -> str: ...
    @property
    def enable_validation(self) -> bool: ...
    @property
    def global_step(self) -> int: ...
    @property
    def is_global_zero(self) -> bool: ...
    @property
    def is_last_batch(self) -> bool: ...
    @property
    def log_dir(self) -> str | None: ...
    @property
    def loggers(self) -> Sequence[Any]: ...
    @property
    def max_epochs(self) -> int | None: ...
    @property
    def max_steps(self) -> int: ...
    @property
    def model(self) -> nn.Module | None: ...
    @property
    def num_training_batches(self) -> int | float: ...
    @property
    def optimizers(self) -> Sequence[Any]: ...
    @property
    def world_size(self) -> int: ...


def is_dry_run(trainer: TrainerLike) -> bool:
    """Whether the run is a ``fast_dev_run``, of which nothing is kept."""
    undeclared: Any = trainer  # Lightning sets the attribute from outside the class
    return bool(undeclared.fast_dev_run)


def resumes(trainer: TrainerLike) -> bool:
    """Whether a fit goes on from a checkpoint, once callbacks have got their states of it."""
    undeclared: Any = trainer
    return bool(undeclared.ckpt_path)


def restores_later(trainer: TrainerLike) -> bool:
    """Whether callbacks get their states of a checkpoint only after ``on_fit_start``."""
    undeclared: Any = trainer
    return bool(getattr(undeclared.strategy, "restore_checkpoint_after_setup", False))


def callbacks_of(trainer: TrainerLike) -> Sequence[Any]:
    """All callbacks of a trainer."""
    undeclared: Any = trainer  # as above
    return list(undeclared.callbacks)


def time_left(callback: Any) -> float:
    """Seconds until a callback ends the run, as Lightning's Timer does; infinite if it does not.

    Attributes of the same name may be anything in a callback of somebody else's.

    Example:
        >>> from pytorch_lightning.callbacks import Timer
        >>> time_left(Timer(duration="00:00:01:00")), time_left(object())
        (60.0, inf)
    """
    with suppress(Exception):
        left = callback.time_remaining() if hasattr(callback, "time_elapsed") else math.inf
        if isinstance(left, (int, float)) and math.isfinite(left):
            return left
    return math.inf


def may_stop_early(callback: Any) -> bool:
    """Whether a callback may end the run at any time, as Lightning's EarlyStopping does."""
    with suppress(Exception):
        return hasattr(callback, "stopped_epoch")
    return False


def logging_step(trainer: TrainerLike) -> int:
    """The step under which Lightning logs, for curves that line up with its own.

    Raises:
        RuntimeError: If this version of Lightning does not tell.
    """
    return batches_that_stepped(trainer)


def publish(trainer: TrainerLike, scalars: Mapping[str, float]) -> None:
    """Put scalars where EarlyStopping, ModelCheckpoint and Optuna look for them."""
    metrics = trainer.callback_metrics  # reading it collects what modules have logged
    for name, value in scalars.items():
        metrics[name] = torch.tensor(value)


def learning_rate(optimizers: Iterable[Any]) -> float:
    """The learning rate of a run, NaN unless all parameter groups of all optimizers agree on it.

    Rates stored on an accelerator count as unknown: reading one would make training wait for it.

    Args:
        optimizers: Optimizers with ``param_groups``, as a trainer has them.

    Example:
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> learning_rate([torch.optim.SGD([w], lr=0.1)]), learning_rate([])
        (0.1, nan)
    """
    rates = {
        rate if type(rate) is float else _number_of(rate)
        for optimizer in optimizers
        for group in getattr(optimizer, "param_groups", [])
        if (rate := group.get("lr")) is not None
    }
    return rates.pop() if len(rates) == 1 else math.nan


def _number_of(rate: Any) -> float:
    if not isinstance(rate, Tensor):
        return float(rate)
    with unobserved():
        return math.nan if rate.device.type != "cpu" else float(rate)


def first_learning_rate(optimizers: Sequence[Any]) -> float:
    """The learning rate of the first parameter group of the first optimizer, wherever it is stored.

    Args:
        optimizers: At least one optimizer.

    Example:
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> first_learning_rate([torch.optim.SGD([w], lr=0.1)])
        0.1
    """
    return float(optimizers[0].param_groups[0]["lr"])


# Steps between two analyses of a run that says neither how long an epoch is nor how long it is.
STEPS_OF_ENDLESS_EPOCHS = 1000
# Steps between two analyses of a run whose length is known but whose epochs do not end. Neither
# number has a part in soundness.
SHORT_PERIOD = 100


@dataclass(frozen=True)
class Period:
    """How often a callback acts: every few epochs or every few optimizer steps.

    Attributes:
        epochs: Number of epochs; None if the period is one of steps.
        steps: Number of optimizer steps; None if the period is one of epochs. With both, whichever
            is over first, until an epoch has ended.
    """

    epochs: int | None
    steps: int | None

    @classmethod
    def of(cls, every_n_epochs: int | None, every_n_steps: int | None) -> Period:
        """The period given by two arguments of a callback; every epoch if neither is given.

        Raises:
            ValueError: If both are given, or one is not a positive integer.

        Example:
            >>> Period.of(None, None), Period.of(None, 50)
            (Period(epochs=1, steps=None), Period(epochs=None, steps=50))
        """
        if every_n_epochs is not None and every_n_steps is not None:
            raise ValueError(
                f"every_n_epochs and every_n_steps exclude each other, got {every_n_epochs!r} and "
                f"{every_n_steps!r}. Leave one of them out"
            )
        if every_n_steps is not None:
            return cls(None, integer_of_at_least("every_n_steps", every_n_steps, 1))
        if every_n_epochs is None:
            every_n_epochs = 1
        return cls(integer_of_at_least("every_n_epochs", every_n_epochs, 1), None)

    def that_ends(self, trainer: TrainerLike) -> Period:
        """This period, or one of steps where a period of epochs might never end.

        It does not where the run has fewer steps than the period. Where nobody knows how long an
        epoch is, a stream of data may have no end: then it is one of steps as well, until the first
        epoch has ended. The period of steps is ``SHORT_PERIOD``, but no less than a twentieth and
        no more than a quarter of the run.

        Args:
            trainer: The trainer, when training starts.
        """
        steps, left = self.n_steps(trainer), math.inf
        if trainer.max_steps >= 0:
            left = max(1, trainer.max_steps - trainer.global_step)
        if self.epochs is None or (math.isfinite(steps) and steps <= left):
            return self
        n = STEPS_OF_ENDLESS_EPOCHS
        if math.isfinite(left):
            n = max(math.ceil(left / 20), min(math.ceil(left / 4), SHORT_PERIOD))
        return Period(self.epochs if math.isinf(steps) else None, n)

    def ends_with_epoch(self, trainer: TrainerLike) -> bool:
        """Whether the period is one of epochs and the current epoch is its last."""
        return self.epochs is not None and (trainer.current_epoch + 1) % self.epochs == 0

    def is_over(self, trainer: TrainerLike, last_step: int) -> bool:
        """Whether the period is over, asked when a training batch ends.

        Args:
            trainer: The trainer.
            last_step: Its ``global_step`` when the callback last acted.
        """
        steps = self.steps if self.epochs is None or trainer.current_epoch == 0 else None
        # Not modulo: with several optimizers the counter goes up by more than one.
        if steps is not None and trainer.global_step >= last_step + steps:
            return True
        ends = trainer.is_last_batch and self.ends_with_epoch(trainer)
        return ends and trainer.global_step != last_step

    def n_steps(self, trainer: TrainerLike) -> float:
        """Optimizer steps in a period; infinite where epochs have no known length."""
        if self.epochs is None:
            return self.steps or 0
        return self.epochs * trainer.num_training_batches / trainer.accumulate_grad_batches
