"""Energy dissipated by optimizer steps, compared with the gradient flow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.subspace import AffineSubspace

# The expected decrease must be at least this many rounding errors of the loss; below that the ratio
# is dominated by rounding and the step is not counted.
MEASURABLE_ROUNDINGS = 32


def energy_ratio(
    loss_before: float, loss_after: float, step_size: float, gradient_square: float
) -> float:
    r"""Decrease of the loss in a step of descent, relative to that of the gradient flow.

    Along the gradient flow :math:`\dot{\mathcal L} = -|g|^2`. The discrete counterpart for a step
    of size :math:`\eta` is

    .. math:: \rho = \frac{\mathcal L(\theta_{k+1}) - \mathcal L(\theta_k)}{-\eta |g_k|^2}.

    It is 1 for an infinitesimal step of plain gradient descent, :math:`1 - \eta h / 2` to first
    order with curvature ``h`` along the gradient, and negative if the loss has risen, which
    violates the energy dissipation law (its discrete form after Fan et al. 2023). For an optimizer
    that rescales its gradients, :math:`\rho` measures that scaling, too.

    Args:
        loss_before: Loss before the step.
        loss_after: Loss after the step, on the same data.
        step_size: The learning rate, positive.
        gradient_square: Squared norm of the gradient.

    Returns:
        The ratio; 1 if both gradient and change are zero.

    Raises:
        ValueError: If the step size is not positive or the square is negative.

    Example:
        >>> energy_ratio(0.5, 0.125, 0.5, 1.0)  # x^2 / 2 from 1 to 0.5: 1 - 0.5 / 2
        0.75
    """
    if not step_size > 0 or not gradient_square >= 0:
        raise ValueError(
            "step_size must be positive and gradient_square not negative, got "
            f"{step_size!r} and {gradient_square!r}"
        )
    expected = step_size * gradient_square
    change = loss_before - loss_after
    if expected == 0:
        return 1.0 if change == 0 else float(np.copysign(np.inf, change))
    return change / expected


def energy_violations(ratios: Sequence[float]) -> float:
    """Fraction of steps that raised the loss, given their energy ratios; 0 if there are none.

    Example:
        >>> energy_violations([0.9, -0.1, 0.5, 1.0])
        0.25
    """
    return sum(ratio < 0 for ratio in ratios) / len(ratios) if len(ratios) else 0.0


class EnergyMeter:
    """Measures the energy ratio of single optimizer steps.

    Call :meth:`begin` between the backward pass and the step, and :meth:`finish` after it. Each
    measurement costs two forward passes and changes nothing of the run.

    Args:
        loss_fn: As :class:`~lightning_morse.LossSlice` takes it.
    """

    def __init__(self, loss_fn: Callable[[Any, Any], Tensor | None] | None) -> None:
        self._loss_fn = loss_fn
        self._ratios: list[float] = []
        self._weights: Tensor | None = None
        self._gradient_square = 0.0

    @property
    def pending(self) -> bool:
        """Whether a measurement has begun."""
        return self._weights is not None

    def begin(self, module: nn.Module) -> None:
        """Note weights and gradient before a step."""
        slopes = [p.grad for p in module.parameters() if p.grad is not None]
        self._gradient_square = sum(float(g.detach().double().square().sum()) for g in slopes)
        self._weights = flat_parameters(module)

    def cancel(self) -> None:
        """Forget a measurement that has begun."""
        self._weights = None

    def finish(self, module: nn.Module, batch: Any, rate: float) -> None:
        """Measure the step since :meth:`begin`, if it is large enough to be measured.

        Args:
            module: The module after the step.
            batch: The batch of the step.
            rate: The learning rate.
        """
        weights, self._weights = self._weights, None
        if weights is None:
            return
        step = flat_parameters(module) - weights
        length = float(step.double().norm())
        if not (length > 0 and rate > 0):
            return
        line = AffineSubspace(weights, (step / step.norm())[:, None])
        with closing(LossSlice(module, line, [batch], self._loss_fn)) as loss:
            losses = loss(torch.tensor([[0.0], [length]]))
        before, after = losses.tolist()
        rounding = torch.finfo(weights.dtype).eps * abs(before)
        if rate * self._gradient_square > MEASURABLE_ROUNDINGS * rounding:
            self._ratios.append(energy_ratio(before, after, rate, self._gradient_square))

    def scalars(self) -> dict[str, float]:
        """``energy_ratio`` and ``energy_violations`` of the steps measured since :meth:`reset`.

        Empty if there are none. The first is the mean over finite ratios, NaN without any.
        """
        if not self._ratios:
            return {}
        finite = [r for r in self._ratios if math.isfinite(r)]
        return {
            "energy_ratio": float(np.mean(finite)) if finite else math.nan,
            "energy_violations": energy_violations(self._ratios),
        }

    def reset(self) -> None:
        """Start a new period of measurement."""
        self._ratios = []
