"""The Lightning callback for linear networks: when to look at a run, and where to report."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from lightning_morse.arguments import integer_of_at_least
from lightning_morse.callbacks._lightning import (
    Period,
    TrainerLike,
    first_learning_rate,
    is_dry_run,
    logging_step,
    publish,
)
from lightning_morse.callbacks._messages import Messages
from lightning_morse.callbacks._taken_back import taken_back
from lightning_morse.callbacks._unified import UnifiedCallback
from lightning_morse.callbacks.loggers import log_scalars
from lightning_morse.deep_linear.energy import EnergyMeter
from lightning_morse.deep_linear.linear_run import LinearRun
from lightning_morse.deep_linear.measures import weight_scalars
from lightning_morse.deep_linear.stack import LinearStack
from lightning_morse.distributed.errors import Guard
from lightning_morse.files.atomic import written_whole
from lightning_morse.files.disk import leave_room
from lightning_morse.plotting.staircase import plot_staircase
from lightning_morse.slices.isolation import unobserved

# The figure shows the whole run, so it is drawn again only when the number of reports has grown by
# this factor: the cost of drawing then stays proportional to the length of the run.
REDRAW_GROWTH = 1.25
_FIGURE_BYTES = 2**18

# Published from the start, so that callbacks that watch these keys find them.
BEFORE_FIRST = {
    "linear/score": 0.0,
    "linear/active": 0.0,
    "linear/modes_learned": 0.0,
    "linear/level": -1.0,
    "linear/escape_steps": -1.0,
    "linear/drift": 0.0,
    "linear/drift_unexplained": 0.0,
    "linear/sharpness": 0.0,
    "linear/stability": 0.0,
    "network/energy_ratio": 1.0,
    "network/energy_violations": 0.0,
}


class DeepLinearMonitor(UnifiedCallback):
    r"""Compare the training of a linear (or nearly linear) network with the closed-form theory.

    The ``nn.Linear`` layers are found by running a copy of the module on the first batch, together
    with a score: how much of the output they account for by themselves. If the score is at least
    ``linearity`` all scalars under ``linear/`` are computed, otherwise only ``linear/score``. The
    loss must be a multiple of the squared error, such as ``mse_loss``; the factor is determined
    automatically. Values appear in ``trainer.callback_metrics`` and in every logger.

    ============================= =================================================================
    ``linear/score``              share of the output that the bare linear layers account for
    ``linear/active``             1 while the scalars below are computed
    ``linear/balance/<l>``        Frobenius norm of :math:`Q_l`, hidden layer ``l`` from 1 on
    ``linear/drift``              largest change of a :math:`Q_l` since the start
    ``linear/drift_unexplained``  the same, less the exact sum of the changes made by plain gradient
                                  descent (:func:`~lightning_morse.deep_linear.balance_change`):
                                  rounding for plain SGD; momentum, Adam and decay leave more
    ``linear/loss``               loss on all training data seen, in the units of the module's loss
    ``linear/mode/<a>``           strength of mode ``a`` relative to its target, the ten strongest
    ``linear/modes_learned``      modes with at least 0.9 of their target
    ``linear/level``              number of modes of the critical level that loss, product and
                                  gradient are all near
                                  (:func:`~lightning_morse.deep_linear.progress.read`); -1 between
    ``linear/level_loss``         critical value of the level nearest in product
    ``linear/escape_steps``       steps until the next mode is half learned, by the balanced mode
                                  equation; 0 if none is missing, -1 if unknown
    ``linear/sharpness``          largest Hessian eigenvalue, in the units of the loss
    ``linear/stability``          sharpness over 2 / learning rate; above 1 descent is unstable
    ``network/strength_mean/<l>`` mean node strength of layer ``l``; its deviation is
                                  ``strength_deviation``
                                  (:func:`~lightning_morse.deep_linear.measures.node_strengths`)
    ``network/pq_weights``        PQ index of all weights
                                  (:func:`~lightning_morse.deep_linear.measures.pq_index`)
    ``network/pq_product``        PQ index of the singular values of the product
    ``network/energy_ratio``      mean over the steps sampled since the last report
                                  (:func:`~lightning_morse.deep_linear.energy.energy_ratio`)
    ``network/energy_violations`` fraction of those steps that raised the loss
    ============================= =================================================================

    The figure ``linear/staircase`` (loss against the critical levels, and the modes over time) goes
    to TensorBoard, or else to ``linear/staircase.png`` in the log directory.

    The moments of the data are summed over the first epoch, in float64, and kept. Biases: if the
    last layer has one, the moments are centred (:meth:`Moments.centred`); the conserved quantities
    include all biases. A bias in a hidden layer without one in the last is refused: give the last
    layer one, or none to any. The run is not changed, except for its wall time. Runs with several
    processes are not followed.

    Args:
        every_n_epochs: Report at the end of every n-th epoch; 1 if neither period is given.
        every_n_steps: Report every n optimizer steps.
        network: Name of the submodule that is the network, if it is neither the module itself nor
            its only child with parameters.
        target_fn: ``target_fn(batch)`` returns the targets, shape ``(m, n_L)``. Default: the second
            part of the batch, with classes one-hot encoded.
        loss_fn: ``loss_fn(module, batch)`` returns the mean loss. Default: as for
            :class:`~lightning_morse.MorseMonitor`.
        linearity: Score from which the network counts as linear, in (0, 1].
        energy_every: Measure the energy ratio every so many steps, at the cost of two forward
            passes each.

    Attributes:
        history: One row per report: ``step``, ``epoch`` and the scalars.

    Raises:
        ValueError: If an argument is of another type or out of range.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(callbacks=[DeepLinearMonitor(every_n_steps=50)], logger=False,
        ...                   enable_checkpointing=False)
    """

    def __init__(
        self,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        network: str | None = None,
        target_fn: Callable[[Any], Tensor] | None = None,
        loss_fn: Callable[[Any, Any], Any] | None = None,
        linearity: float = 0.99,
        energy_every: int = 10,
    ) -> None:
        super().__init__()
        self.period = Period.of(every_n_epochs, every_n_steps)
        integer_of_at_least("energy_every", energy_every, 1)
        for name, function in (("target_fn", target_fn), ("loss_fn", loss_fn)):
            if function is not None and not callable(function):
                raise ValueError(f"{name} must be callable, got {function!r}")
        is_number = isinstance(linearity, Real) and not isinstance(linearity, bool)
        if not is_number or not 0 < linearity <= 1:
            raise ValueError(f"linearity must be a number in (0, 1], got {linearity!r}")
        if network is not None and not (isinstance(network, str) and network):
            raise ValueError(
                f"network must be the name of a submodule, got {network!r}. Give it as in "
                "named_modules(), such as 'net', or leave it out"
            )
        self.network = network
        self.target_fn = target_fn
        self.loss_fn = loss_fn
        self.linearity = linearity
        self.energy_every = energy_every
        self._messages = Messages("DeepLinearMonitor")
        self._forget()

    @property
    def stack(self) -> LinearStack | None:
        """The layers that were found; None before the first batch."""
        return self._run.stack

    def _forget(self) -> None:
        self.history: list[dict[str, float]] = []
        self._run = LinearRun(
            self.network, self.target_fn, self.loss_fn, self.linearity, self._messages.warn
        )
        self._energy = EnergyMeter(self.loss_fn)
        self._scalars = dict(BEFORE_FIRST)
        self._first_epoch = 0
        self._last_step = self._seen_step = 0
        self._reports_drawn = 0
        self._messages.forget()

    # ------------------------------------------------------------------ hooks

    def on_train_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Publish first values, so that other callbacks find their keys."""
        with self._guarded("starting"):
            if trainer.global_step == 0:
                self._forget()
                self._first_epoch = trainer.current_epoch
            self._seen_step = trainer.global_step
            if trainer.world_size > 1:
                self._run.switch_off(
                    f"runs with {trainer.world_size} processes are not followed yet"
                )
            publish(trainer, self._scalars)

    def on_train_batch_start(
        self, trainer: TrainerLike, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Find the layers, add the batch to the moments, and note the weights."""
        with self._guarded("looking at a batch"), unobserved():
            if is_dry_run(trainer):
                return
            self._energy.cancel()
            if self.stack is None and not self._run.names:
                self._run.find(pl_module, batch)
                if self.stack is not None:
                    self._scalars["linear/score"] = self.stack.score
            if self._run.is_linear and trainer.current_epoch == self._first_epoch:
                self._run.add(pl_module, batch)
            self._run.before_step(pl_module)

    def on_before_optimizer_step(
        self, trainer: TrainerLike, pl_module: Any, optimizer: Any
    ) -> None:
        """Note the gradient of a step whose energy is measured."""
        with self._guarded("measuring a gradient"), unobserved():
            if is_dry_run(trainer) or trainer.global_step % self.energy_every:
                return
            self._energy.begin(pl_module)

    def on_train_batch_end(
        self, trainer: TrainerLike, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Account for the step; report at the end of a period."""
        with self._guarded("accounting for a step"), unobserved():
            if is_dry_run(trainer):
                return
            if trainer.global_step != self._seen_step:
                self._seen_step = trainer.global_step
                self._run.after_step(pl_module)
                if self._energy.pending:
                    self._energy.finish(pl_module, batch, first_learning_rate(trainer.optimizers))
        with self._guarded("reporting"), unobserved():
            if self.period.is_over(trainer, self._last_step):
                self._last_step = trainer.global_step
                self._report(trainer, pl_module, batch)

    def on_train_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Draw the whole run."""
        with self._guarded("drawing"):
            if self._run.is_linear and len(self.history) > self._reports_drawn:
                self._draw(trainer, logging_step(trainer))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, in tensors and plain containers."""
        with self._guarded("saving the state"):
            return {
                **self._run.state_dict(),
                "first_epoch": self._first_epoch,
                "last_step": self._last_step,
                "scalars": dict(self._scalars),
                "history": [dict(row) for row in self.history],
            }
        return {}  # no state to go on from

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint; from one that cannot be read nothing is taken over."""
        self._forget()
        with self._guarded("going on from a checkpoint"):
            try:
                self._run.load_state_dict(state_dict)
                self._first_epoch = state_dict["first_epoch"]
                self._last_step = state_dict["last_step"]
                self._scalars = {**BEFORE_FIRST, **state_dict["scalars"]}
                self.history = [dict(row) for row in state_dict["history"]]
            except Exception:
                self._forget()
                raise

    # ---------------------------------------------------------------- reports

    def _report(self, trainer: TrainerLike, module: Any, batch: Any) -> None:
        network = weight_scalars(module) | self._energy.scalars()
        found = {f"network/{name}": value for name, value in network.items()}
        if self._run.is_linear:
            found |= self._run.scalars(module, batch, first_learning_rate(trainer.optimizers))
        self._scalars.update({k: float(v) for k, v in found.items() if math.isfinite(v)})
        self._scalars["linear/active"] = float(self._run.is_linear)
        self._energy.reset()
        publish(trainer, self._scalars)
        step = logging_step(trainer)
        self.history.append({"step": step, "epoch": trainer.current_epoch, **self._scalars})
        log_scalars(trainer, self._scalars, step, self._messages.guard)
        if self._run.is_linear and len(self.history) >= REDRAW_GROWTH * self._reports_drawn:
            self._draw(trainer, step)

    def figure(self) -> Figure:
        """Draw the staircase of the run so far.

        Raises:
            RuntimeError: If there has been no report of a linear network.
        """
        rows = [row for row in self.history if "linear/loss" in row]
        levels = self._run.critical_losses()
        if not rows or levels is None:
            raise RuntimeError("there has been no report of a linear network, so nothing to draw")
        names = [k for k in rows[-1] if k.startswith("linear/mode/")]
        return plot_staircase(
            [row["step"] for row in rows],
            [row["linear/loss"] for row in rows],
            [[row.get(name, math.nan) for name in names] for row in rows],
            levels,
        )

    def _draw(self, trainer: TrainerLike, step: int) -> None:
        if self._run.critical_losses() is None:
            return
        self._reports_drawn = len(self.history)
        _log_staircase(trainer, self.figure(), step)

    def _guarded(self, action: str) -> Guard:
        """Let no failure in here end the run."""
        return self._messages.guard(action)


def _log_staircase(trainer: TrainerLike, figure: Figure, step: int) -> None:
    """Give the figure to the loggers that take figures, or write it to the log directory."""
    takers = [
        logger
        for logger in trainer.loggers
        if callable(getattr(getattr(logger, "experiment", None), "add_figure", None))
    ]
    for logger in takers:
        with taken_back(logger):
            logger.experiment.add_figure("linear/staircase", figure, step, close=False)
    if not takers:
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "linear"
        leave_room(folder, _FIGURE_BYTES)
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / "staircase.png") as file:
            figure.savefig(file, format="png")
