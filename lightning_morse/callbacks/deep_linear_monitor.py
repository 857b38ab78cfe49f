"""The Lightning callback for linear networks: when to look, and what to tell the trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_morse.arguments import integer_of_at_least
from lightning_morse.callbacks._lightning import (
    Period,
    TrainerLike,
    UnifiedCallback,
    first_learning_rate,
    is_dry_run,
    logging_step,
    publish,
)
from lightning_morse.callbacks._messages import Messages
from lightning_morse.callbacks.loggers import log_scalars
from lightning_morse.deep_linear.conservation import balance, drift
from lightning_morse.deep_linear.measures import (
    energy_ratio,
    energy_violations,
    node_strengths,
    pq_index,
)
from lightning_morse.deep_linear.moments import MomentSums
from lightning_morse.deep_linear.network import Array, product, widths
from lightning_morse.deep_linear.progress import LinearReading, read
from lightning_morse.deep_linear.spectrum import staircase
from lightning_morse.deep_linear.stack import (
    LinearStack,
    layers_at,
    linear_stack,
    sharpness,
    squared_error_factors,
    targets,
)
from lightning_morse.distributed.errors import Guard
from lightning_morse.plotting.staircase import plot_staircase
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.subspace import AffineSubspace

MAX_MODES = 10  # logged one by one
# Relative difference up to which the module's loss is a multiple of the squared error.
SAME_LOSS = 1e-3
# A loss has to change by so many of its rounding errors for an energy ratio.
MEASURABLE = 32
# The figure is drawn again when there are so many times as many reports.
REDRAW = 1.25

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
    r"""Hold a run of a linear (or nearly linear) network against what is known in closed form.

    The ``nn.Linear`` layers are found by running a copy of the module on the first batch, and with
    them a score: how much of the output they account for by themselves. From ``linearity`` on the
    scalars under ``linear/`` are computed, else only ``linear/score``. The loss has to be a
    multiple of the squared error, ``mse_loss`` for example; which multiple is found out. Values are
    in ``trainer.callback_metrics`` and in every logger.

    ============================= =================================================================
    ``linear/score``              share of the output that the bare linear layers account for
    ``linear/active``             1 while the scalars below are computed
    ``linear/balance/<l>``        Frobenius norm of :math:`Q_l`, hidden layer ``l`` from 1 on
    ``linear/drift``              how far a :math:`Q_l` has moved since the start
    ``linear/drift_unexplained``  the same less the exact sum over steps that plain gradient descent
                                  gives (:func:`~lightning_morse.deep_linear.balance_change`):
                                  rounding for plain SGD; momentum, Adam and decay leave more
    ``linear/loss``               the loss on all training data seen, in the units of the module's
    ``linear/mode/<a>``           strength of mode ``a`` relative to its target, the ten strongest
    ``linear/modes_learned``      modes with at least 0.9 of their target
    ``linear/level``              number of modes of the critical level that loss, product and
                                  gradient are all near (:func:`linear_reading.read`); -1 between
    ``linear/level_loss``         critical value of the level that the product is nearest to
    ``linear/escape_steps``       steps until the next mode is half learned, by the balanced mode
                                  equation; 0 if none is missing, -1 if unknown
    ``linear/sharpness``          largest Hessian eigenvalue, units of the loss
    ``linear/stability``          sharpness over 2 / learning rate: descent is unstable above 1
    ``network/strength_mean/<l>`` mean strength of the units of layer ``l``, and the deviation
                                  ``strength_deviation`` (:func:`network_measures.node_strengths`)
    ``network/pq_weights``        PQ index of all weights (:func:`network_measures.pq_index`)
    ``network/pq_product``        PQ index of the singular values of the product
    ``network/energy_ratio``      mean over the sampled steps since the last report
                                  (:func:`network_measures.energy_ratio`)
    ``network/energy_violations`` share of those steps that raised the loss
    ============================= =================================================================

    The figure ``linear/staircase`` (loss against the critical levels, modes in time) goes to
    TensorBoard, else to ``linear/staircase.png`` under the log directory.

    The moments of the data are summed over the first epoch, in float64, and kept. Biases: where the
    last layer has one, the moments are taken about the means (:meth:`Moments.centred`); the
    conserved quantities take in every bias. A bias in a hidden layer but none in the last is
    refused: give the last layer one, or none to any. Nothing of the run is changed but its wall
    time. One process only.

    Args:
        every_n_epochs: Report at the end of every so many epochs; 1 if neither period is given.
        every_n_steps: Report after every so many optimizer steps.
        network: Name of the submodule that is the network, if it is not the module itself or its
            only child with parameters.
        target_fn: ``target_fn(batch)`` returns the targets, shape ``(m, n_L)``. Default: the second
            part of the batch, classes as unit vectors.
        loss_fn: ``loss_fn(module, batch)`` returns the mean loss. Default: as
            :class:`~lightning_morse.MorseMonitor`.
        linearity: Score from which on the network counts as linear, in (0, 1].
        energy_every: Measure the energy ratio at every so many steps; it costs two forward passes.

    Attributes:
        history: One row a report: ``step``, ``epoch`` and the scalars.
        stack: The layers that were found; None before the first batch.

    Raises:
        ValueError: If an argument is out of range.

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
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        linearity: float = 0.99,
        energy_every: int = 10,
    ) -> None:
        super().__init__()
        self.period = Period.of(every_n_epochs, every_n_steps)
        integer_of_at_least("energy_every", energy_every, 1)
        for name, function in (("target_fn", target_fn), ("loss_fn", loss_fn)):
            if function is not None and not callable(function):
                raise ValueError(f"{name} must be callable, got {function!r}")
        if not isinstance(linearity, int | float) or not 0 < linearity <= 1:
            raise ValueError(f"linearity must lie in (0, 1], got {linearity!r}")
        self.network = network
        self.target_fn = target_fn
        self.loss_fn = loss_fn
        self.linearity = linearity
        self.energy_every = energy_every
        self._messages = Messages("DeepLinearMonitor")
        self._forget()

    def _forget(self) -> None:
        self.history: list[dict[str, float]] = []
        self.stack: LinearStack | None = None
        self._scalars = dict(BEFORE_FIRST)
        self._sums = MomentSums()
        self._names: tuple[str, ...] = ()
        self._first_epoch = 0
        self._factor: float | None = None
        self._off = ""
        self._start: tuple[Array, ...] = ()
        self._explained: list[Array] = []
        self._ratios: list[float] = []
        self._biased = False
        self._sizes: tuple[int, ...] = ()
        self._last_step = self._seen_step = self._drawn = 0
        self._before: Any = None
        self._gradient_square: float | None = None
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
                self._switch_off(f"runs with {trainer.world_size} processes are not followed yet")
            publish(trainer, self._scalars)

    def on_train_batch_start(
        self, trainer: TrainerLike, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look for the layers, sum the data, and note the weights."""
        if is_dry_run(trainer):
            return
        with self._guarded("looking at a batch"):
            if self.stack is None and not self._names:
                self._find(pl_module, batch)
            if self._is_linear and trainer.current_epoch == self._first_epoch:
                self._sum(pl_module, batch)
            self._gradient_square = None
            self._before = layers_at(pl_module, self._names) if self._is_linear else None

    def on_before_optimizer_step(
        self, trainer: TrainerLike, pl_module: Any, optimizer: Any
    ) -> None:
        """Note the gradient of a step whose energy is measured."""
        if is_dry_run(trainer) or trainer.global_step % self.energy_every:
            return
        with self._guarded("measuring a gradient"):
            slopes = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self._gradient_square = sum(float(g.detach().double().square().sum()) for g in slopes)
            self._flat = flat_parameters(pl_module)

    def on_train_batch_end(
        self, trainer: TrainerLike, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Account for the step; report when a period is over."""
        if is_dry_run(trainer):
            return
        if trainer.global_step != self._seen_step:
            self._seen_step = trainer.global_step
            with self._guarded("accounting for a step"):
                self._account(pl_module)
                self._measure_energy(trainer, pl_module, batch)
        if self.period.is_over(trainer, self._last_step):
            self._last_step = trainer.global_step
            with self._guarded("reporting"):
                self._report(trainer, pl_module, batch)

    def on_train_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Draw the whole run."""
        with self._guarded("drawing"):
            if self._is_linear and len(self.history) > self._drawn:
                self._draw(trainer, logging_step(trainer))

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, in tensors and plain containers."""
        return {
            "names": list(self._names),
            "biased": self._biased,
            "sizes": list(self._sizes),
            "off": self._off,
            "factor": self._factor,
            "first_epoch": self._first_epoch,
            "last_step": self._last_step,
            "sums": self._sums.state_dict(),
            "start": [torch.from_numpy(q) for q in self._start],
            "explained": [torch.from_numpy(q) for q in self._explained],
            "scalars": dict(self._scalars),
            "history": [dict(row) for row in self.history],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._forget()
        self._names = tuple(state_dict["names"])
        self._biased, self._sizes = state_dict["biased"], tuple(state_dict["sizes"])
        self._off = state_dict["off"]
        self._factor = state_dict["factor"]
        self._first_epoch = state_dict["first_epoch"]
        self._last_step = state_dict["last_step"]
        self._sums.load_state_dict(state_dict["sums"])
        self._start = tuple(q.numpy() for q in state_dict["start"])
        self._explained = [q.numpy() for q in state_dict["explained"]]
        self._scalars = {**BEFORE_FIRST, **state_dict["scalars"]}
        self.history = [dict(row) for row in state_dict["history"]]

    # ---------------------------------------------------------------- reading

    @property
    def _is_linear(self) -> bool:
        return bool(self._names) and not self._off

    def _find(self, module: Any, batch: Any) -> None:
        self.stack = linear_stack(module, batch, self.network)
        self._scalars["linear/score"] = self.stack.score
        self._names = self.stack.names
        if self.stack.reason:
            return self._switch_off(self.stack.reason)
        if self.stack.score < self.linearity:
            return self._switch_off(
                f"its linear layers account for {self.stack.score:.3f} of the output, less than "
                f"{self.linearity:g}"
            )
        weights, biases = layers_at(module, self._names)
        if biases[-1] is None and any(b is not None for b in biases):
            return self._switch_off(
                "a hidden layer has a bias and the last layer has none: give the last layer one, "
                "or none to any"
            )
        self._biased, self._sizes = biases[-1] is not None, widths(weights)
        self._start = balance(weights, biases)
        self._explained = [np.zeros_like(q) for q in self._start]

    def _sum(self, module: Any, batch: Any) -> None:
        stack = linear_stack(module, batch, self.network)
        width = stack.outputs.shape[1]
        y = targets(batch, width) if self.target_fn is None else self.target_fn(batch)
        self._sums.add(stack.inputs, y)

    def _account(self, module: Any) -> None:
        """Add what this step changes in every conserved quantity, were it plain descent."""
        if self._before is None or not self._is_linear:
            return
        (old, old_offsets), (new, new_offsets) = self._before, layers_at(module, self._names)
        moved = [b - a for a, b in zip(old, new, strict=True)]
        offsets = [
            None if a is None or b is None else b - a
            for a, b in zip(old_offsets, new_offsets, strict=True)
        ]
        # eta G is how far the weights have moved, whatever eta was.
        change = balance(moved, offsets)
        self._explained = [e + c for e, c in zip(self._explained, change, strict=True)]

    def _measure_energy(self, trainer: TrainerLike, module: Any, batch: Any) -> None:
        if self._gradient_square is None:
            return
        step = flat_parameters(module) - self._flat
        length = float(step.double().norm())
        rate = first_learning_rate(trainer.optimizers)
        if not (length > 0 and rate > 0):
            return
        line = AffineSubspace(self._flat, (step / step.norm())[:, None])
        losses = LossSlice(module, line, [batch], self.loss_fn)(torch.tensor([[0.0], [length]]))
        before, after = losses.tolist()
        expected = rate * self._gradient_square
        if expected <= MEASURABLE * torch.finfo(self._flat.dtype).eps * abs(before):
            return  # the loss is not known so exactly
        self._ratios.append(energy_ratio(before, after, rate, self._gradient_square))

    def _report(self, trainer: TrainerLike, module: Any, batch: Any) -> None:
        found = self._network_scalars(module)
        if self._is_linear:
            found |= self._linear_scalars(trainer, module, batch)
        self._scalars.update({k: float(v) for k, v in found.items() if math.isfinite(v)})
        self._scalars["linear/active"] = float(self._is_linear)
        self._ratios = []
        publish(trainer, self._scalars)
        step = logging_step(trainer)
        self.history.append({"step": step, "epoch": trainer.current_epoch, **self._scalars})
        log_scalars(trainer, self._scalars, step, self._messages.guard)
        # Each figure shows the whole run so far: draw anew when it has something to add.
        if self._is_linear and len(self.history) >= REDRAW * self._drawn:
            self._draw(trainer, step)

    def _network_scalars(self, module: Any) -> dict[str, float]:
        found = {}
        matrices = [
            (part, p)
            for part in module.modules()
            for name, p in part.named_parameters(recurse=False)
            if name == "weight" and p.ndim > 1
        ]
        for k, (part, weight) in enumerate(matrices, 1):
            values = weight.detach().cpu().double().numpy()
            bias = getattr(part, "bias", None)
            fits = isinstance(bias, Tensor) and bias.shape == weight.shape[:1]
            offset = bias.detach().cpu().double().numpy() if fits and bias is not None else None
            mean, deviation = node_strengths(values, offset)
            found[f"network/strength_mean/{k}"] = mean
            found[f"network/strength_deviation/{k}"] = deviation
        if matrices:
            flat = [p.detach().cpu().double().numpy().ravel() for _, p in matrices]
            found["network/pq_weights"] = pq_index(np.concatenate(flat))
        if self._ratios:
            finite = [r for r in self._ratios if math.isfinite(r)]
            found["network/energy_ratio"] = float(np.mean(finite)) if finite else math.nan
            found["network/energy_violations"] = energy_violations(self._ratios)
        return found

    def _linear_scalars(self, trainer: TrainerLike, module: Any, batch: Any) -> dict[str, float]:
        stack = linear_stack(module, batch, self.network)
        self._scalars["linear/score"] = stack.score
        if stack.reason or stack.score < self.linearity:
            self._switch_off(stack.reason or f"its linearity score fell to {stack.score:.3f}")
            return {}
        weights, biases = layers_at(module, self._names)
        conserved = balance(weights, biases)
        explained = [s + e for s, e in zip(self._start, self._explained, strict=True)]
        found = {
            "linear/drift": drift(conserved, self._start),
            "linear/drift_unexplained": drift(conserved, explained),
            "network/pq_product": pq_index(np.linalg.svd(product(weights), compute_uv=False)),
        }
        for k, q in enumerate(conserved, 1):
            found[f"linear/balance/{k}"] = float(np.linalg.norm(q))
        factor = self._loss_factor(module, batch, stack)
        if factor is None:
            return found
        moments = self._sums.moments(centred=self._biased)
        reading = read(weights, moments)
        raw = self._sums.moments()
        x_mean, y_mean = (m.numpy() for m in self._sums.means())
        sharp, _ = sharpness(weights, biases, raw.xx, raw.yx, x_mean, y_mean)
        rate = first_learning_rate(trainer.optimizers)
        found |= _reading_scalars(reading, factor, rate)
        found["linear/sharpness"] = factor * sharp
        found["linear/stability"] = factor * sharp * rate / 2
        return found

    def _loss_factor(self, module: Any, batch: Any, stack: LinearStack) -> float | None:
        """The module's loss over half the squared error; None if that is not one number."""
        if self._factor == 0.0:
            return None
        width = stack.outputs.shape[1]
        y = targets(batch, width) if self.target_fn is None else self.target_fn(batch)
        found = squared_error_factors(module, batch, y, self.loss_fn, self.network)
        if not all(map(math.isfinite, found)):
            return self._factor  # nothing to tell from a squared error of zero
        known = _usual_factor(found[0], width) if self._factor is None else self._factor
        if any(abs(f - known) > SAME_LOSS * known for f in found):
            self._messages.warn(
                "the loss must be a multiple of the squared error, got one that is "
                f"{found[0]:.6g} times half of it here and {found[1]:.6g} times at larger weights: "
                "modes, levels and sharpness are left out"
            )
            self._factor = 0.0
            return None
        self._factor = known
        return known

    # ---------------------------------------------------------------- telling

    def figure(self) -> Figure:
        """Draw the staircase of the run so far.

        Raises:
            RuntimeError: If there has been no report of a linear network.
        """
        rows = [row for row in self.history if "linear/loss" in row]
        if not rows or not self._factor:
            raise RuntimeError("there has been no report of a linear network, so nothing to draw")
        biased, sizes = self._biased, self._sizes
        moments = self._sums.moments(centred=biased)
        levels = [self._factor * level.loss for level in staircase(moments, sizes)]
        names = [k for k in rows[-1] if k.startswith("linear/mode/")]
        return plot_staircase(
            [row["step"] for row in rows],
            [row["linear/loss"] for row in rows],
            [[row.get(name, math.nan) for name in names] for row in rows],
            levels,
        )

    def _draw(self, trainer: TrainerLike, step: int) -> None:
        if not self._factor:
            return
        self._drawn = len(self.history)
        figure = self.figure()
        writers = [
            logger.experiment
            for logger in trainer.loggers
            if callable(getattr(getattr(logger, "experiment", None), "add_figure", None))
        ]
        for writer in writers:
            writer.add_figure("linear/staircase", figure, step, close=False)
        if not writers:
            folder = Path(trainer.log_dir or trainer.default_root_dir) / "linear"
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(folder / "staircase.png")

    def _switch_off(self, reason: str) -> None:
        self._off = reason
        self._messages.warn(f"not followed as a linear network: {reason}")

    def _guarded(self, what: str) -> Guard:
        return self._messages.guard(what)


def _reading_scalars(reading: LinearReading, factor: float, rate: float) -> dict[str, float]:
    steps = reading.escape_time
    if steps > 0:
        steps = steps / (factor * rate) if rate > 0 else -1.0
    found = {
        "linear/loss": factor * reading.loss,
        "linear/modes_learned": float(reading.learned),
        "linear/level": float(reading.level),
        "linear/level_loss": factor * reading.level_loss,
        "linear/escape_steps": steps,
    }
    for a, strength in enumerate(reading.strengths[:MAX_MODES]):
        found[f"linear/mode/{a}"] = float(strength)
    return found


def _usual_factor(factor: float, width: int) -> float:
    """The factor itself, made exact where it is that of a usual loss."""
    usual = (2 / width, 1 / width, 2.0, 1.0)
    return next((u for u in usual if abs(factor - u) <= SAME_LOSS * u), factor)
