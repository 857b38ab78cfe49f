"""A training run of a linear network, compared step by step with the theory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_morse._typing import Array
from lightning_morse.deep_linear.conservation import balance, drift
from lightning_morse.deep_linear.measures import pq_index
from lightning_morse.deep_linear.moment_sums import MomentSums
from lightning_morse.deep_linear.network import product, widths
from lightning_morse.deep_linear.progress import LinearReading, read
from lightning_morse.deep_linear.sharpness import sharpness
from lightning_morse.deep_linear.spectrum import staircase
from lightning_morse.deep_linear.squared_error import (
    FACTOR_TOLERANCE,
    squared_error_factors,
    targets,
    usual_factor,
)
from lightning_morse.deep_linear.stack import LinearStack, layers_at, linear_stack

# Modes logged individually, the strongest first; keeps the number of scalars bounded.
MOST_MODES = 10
# Factor that stands for a loss that is not a multiple of the squared error.
NOT_SQUARED_ERROR = 0.0


@dataclass(eq=False)
class LinearRun:
    r"""What is known about the linear network that a run trains.

    Call :meth:`find` on the first batch, :meth:`add` on every batch whose examples count as data,
    and :meth:`before_step` and :meth:`after_step` around optimizer steps. If the network turns out
    not to be linear, :attr:`off` says why and the methods do nothing more.

    Attributes:
        network: Name of the submodule that is the network; None to search for it.
        target_fn: Returns the targets of a batch, shape ``(m, n_L)``; None for its second part.
        loss_fn: As :class:`~lightning_morse.LossSlice` takes it.
        linearity: Score from which the network counts as linear.
        warn: Takes messages about what is left out, and why.
        stack: The layers found; None before the first batch.
        names: Names of the layers; empty before the first batch.
        off: Why the run is not followed as that of a linear network; empty while it is.
    """

    network: str | None
    target_fn: Callable[[Any], Tensor] | None
    loss_fn: Callable[[Any, Any], Tensor | None] | None
    linearity: float
    warn: Callable[[str], None]
    stack: LinearStack | None = field(default=None, init=False)
    names: tuple[str, ...] = field(default=(), init=False)
    off: str = field(default="", init=False)
    _sizes: tuple[int, ...] = field(default=(), init=False)
    _biased: bool = field(default=False, init=False)
    _factor: float | None = field(default=None, init=False)
    _sums: MomentSums = field(default_factory=MomentSums, init=False)
    _start: tuple[Array, ...] = field(default=(), init=False)
    _explained: list[Array] = field(default_factory=list, init=False)
    _before: tuple[list[Array], list[Array | None]] | None = field(default=None, init=False)

    @property
    def is_linear(self) -> bool:
        """Whether the network was found and is followed as a linear one."""
        return bool(self.names) and not self.off

    def switch_off(self, reason: str) -> None:
        """Stop following the run as that of a linear network."""
        self.off = reason
        self.warn(f"not followed as a linear network: {reason}")

    def find(self, module: nn.Module, batch: Any) -> None:
        """Find the layers and note the conserved quantities; switch off if it is not linear."""
        self.stack = linear_stack(module, batch, self.network)
        self.names = self.stack.names
        if self.stack.reason:
            return self.switch_off(self.stack.reason)
        if self.stack.score < self.linearity:
            return self.switch_off(
                f"its linear layers account for {self.stack.score:.3f} of the output, less than "
                f"{self.linearity:g}"
            )
        weights, biases = layers_at(module, self.names)
        if biases[-1] is None and any(b is not None for b in biases):
            return self.switch_off(
                "a hidden layer has a bias and the last layer has none: give the last layer one, "
                "or none to any"
            )
        self._biased, self._sizes = biases[-1] is not None, widths(weights)
        self._start = balance(weights, biases)
        self._explained = [np.zeros_like(q) for q in self._start]

    def add(self, module: nn.Module, batch: Any) -> None:
        """Add the examples of a batch to the moments of the data."""
        stack = linear_stack(module, batch, self.network)
        self._sums.add(stack.inputs, self._targets(batch, stack))

    def before_step(self, module: nn.Module) -> None:
        """Note the weights before an optimizer step."""
        self._before = layers_at(module, self.names) if self.is_linear else None

    def after_step(self, module: nn.Module) -> None:
        """Add what plain gradient descent would change in every conserved quantity in this step."""
        if self._before is None or not self.is_linear:
            return
        (old, old_offsets), (new, new_offsets) = self._before, layers_at(module, self.names)
        moved = [b - a for a, b in zip(old, new, strict=True)]
        offsets = [
            None if a is None or b is None else b - a
            for a, b in zip(old_offsets, new_offsets, strict=True)
        ]
        # The displacement of the weights is eta G, whatever eta was.
        change = balance(moved, offsets)
        self._explained = [e + c for e, c in zip(self._explained, change, strict=True)]

    def scalars(self, module: nn.Module, batch: Any, rate: float) -> dict[str, float]:
        """Everything the theory says about the current weights, by the names that are logged.

        Args:
            module: The module.
            batch: A batch, on which linearity and loss are checked again.
            rate: The learning rate.
        """
        stack = linear_stack(module, batch, self.network)
        found = {"linear/score": stack.score}
        if stack.reason or stack.score < self.linearity:
            self.switch_off(stack.reason or f"its linearity score fell to {stack.score:.3f}")
            return found
        weights, biases = layers_at(module, self.names)
        conserved = balance(weights, biases)
        explained = [s + e for s, e in zip(self._start, self._explained, strict=True)]
        found |= {
            "linear/drift": drift(conserved, self._start),
            "linear/drift_unexplained": drift(conserved, explained),
            "network/pq_product": pq_index(np.linalg.svd(product(weights), compute_uv=False)),
        }
        for k, q in enumerate(conserved, 1):
            found[f"linear/balance/{k}"] = float(np.linalg.norm(q))
        factor = self._loss_factor(module, batch, stack)
        if factor is None:
            return found
        reading = read(weights, self._sums.moments(centred=self._biased))
        raw = self._sums.moments()
        x_mean, y_mean = (m.numpy() for m in self._sums.means())
        sharp, _ = sharpness(weights, biases, raw.xx, raw.yx, x_mean, y_mean)
        found |= _progress_scalars(reading, factor, rate)
        found["linear/sharpness"] = factor * sharp
        found["linear/stability"] = factor * sharp * rate / 2
        return found

    def critical_losses(self) -> list[float] | None:
        """Losses of the staircase in the units of the module's loss; None if they are unknown."""
        if not self._factor:
            return None
        moments = self._sums.moments(centred=self._biased)
        return [self._factor * level.loss for level in staircase(moments, self._sizes)]

    def _targets(self, batch: Any, stack: LinearStack) -> Tensor:
        if self.target_fn is not None:
            return self.target_fn(batch)
        return targets(batch, stack.outputs.shape[1])

    def _loss_factor(self, module: nn.Module, batch: Any, stack: LinearStack) -> float | None:
        """The module's loss over half the squared error; None if they are not proportional."""
        if self._factor == NOT_SQUARED_ERROR:
            return None
        y = self._targets(batch, stack)
        found = squared_error_factors(module, batch, y, self.loss_fn, self.network)
        if not all(map(math.isfinite, found)):
            return self._factor  # a squared error of zero tells nothing
        width = stack.outputs.shape[1]
        known = usual_factor(found[0], width) if self._factor is None else self._factor
        if any(abs(f - known) > FACTOR_TOLERANCE * known for f in found):
            self.warn(
                "the loss must be a multiple of the squared error, got one that is "
                f"{found[0]:.6g} times half of it here and {found[1]:.6g} times at larger weights: "
                "modes, levels and sharpness are left out"
            )
            self._factor = NOT_SQUARED_ERROR
            return None
        self._factor = known
        return known

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, in tensors and plain containers."""
        return {
            "names": list(self.names),
            "biased": self._biased,
            "sizes": list(self._sizes),
            "off": self.off,
            "factor": self._factor,
            "sums": self._sums.state_dict(),
            "start": [torch.from_numpy(q) for q in self._start],
            "explained": [torch.from_numpy(q) for q in self._explained],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state written by :meth:`state_dict`."""
        self.names = tuple(state["names"])
        self._biased, self._sizes = state["biased"], tuple(state["sizes"])
        self.off = state["off"]
        self._factor = state["factor"]
        self._sums.load_state_dict(state["sums"])
        self._start = tuple(q.numpy() for q in state["start"])
        self._explained = [q.numpy() for q in state["explained"]]


def _progress_scalars(reading: LinearReading, factor: float, rate: float) -> dict[str, float]:
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
    for a, strength in enumerate(reading.strengths[:MOST_MODES]):
        found[f"linear/mode/{a}"] = float(strength)
    return found
