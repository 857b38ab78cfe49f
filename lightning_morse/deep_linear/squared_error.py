"""Targets of a batch, and whether the loss of a module is a multiple of the squared error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from lightning_morse.deep_linear.stack import observe
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.subspace import AffineSubspace

# Relative difference up to which two ratios of loss to squared error count as equal. Losses are
# evaluated in the precision of the module, possibly with few digits; a penalty on the weights that
# changes the loss by less goes unnoticed.
FACTOR_TOLERANCE = 1e-3


def targets(batch: Any, width: int) -> Tensor:
    """The targets in a batch as rows: its second part, with classes one-hot encoded.

    Args:
        batch: A sequence of inputs and targets.
        width: Number ``n_L`` of outputs.

    Returns:
        Shape ``(m, n_L)``.

    Raises:
        ValueError: If there are none, or their width differs.

    Example:
        >>> targets((None, torch.tensor([1, 0])), 2).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    second = batch[1] if isinstance(batch, Sequence) and len(batch) > 1 else None
    if not isinstance(second, Tensor):
        raise ValueError("batches must be (inputs, targets), got no targets. Pass target_fn(batch)")
    if not second.dtype.is_floating_point and second.ndim == 1 and width > 1:
        if int(second.max()) >= width:
            raise ValueError(
                f"classes must be below the {width} outputs, got {int(second.max())}. Pass "
                "target_fn(batch)"
            )
        return torch.nn.functional.one_hot(second.long(), width).double()
    rows = second.reshape(len(second), -1) if second.ndim else second.reshape(1, 1)
    if rows.shape[1] != width:
        raise ValueError(
            f"targets must have the width {width} of the outputs, got shape {tuple(second.shape)}. "
            "Pass target_fn(batch)"
        )
    return rows


def squared_error_factors(
    module: nn.Module,
    batch: Any,
    y: Tensor,
    loss_fn: Callable[[Any, Any], Tensor | None] | None = None,
    network: str | None = None,
) -> list[float]:
    """Ratio of the loss of a module to half its mean squared error, at two points of weight space.

    The points are the current weights and half as large again. Equal ratios indicate that the loss
    is that multiple of half the squared error: 1 for half of it, 2 over the width of the output for
    ``mse_loss``. Other losses, and penalties on the weights, give different ratios.

    Args:
        module: A module.
        batch: A batch.
        y: Its targets, shape ``(m, n_L)``.
        loss_fn: As :class:`~lightning_morse.LossSlice` takes it.
        network: As in :func:`~lightning_morse.deep_linear.stack.linear_stack`.

    Returns:
        The two ratios; infinite or NaN where the squared error is zero.

    Example:
        >>> net, batch = nn.Linear(1, 2, bias=False), (torch.ones(1, 1), torch.ones(1, 2))
        >>> def loss(net, batch):
        ...     return nn.functional.mse_loss(net(batch[0]), batch[1])
        >>> [round(r, 6) for r in squared_error_factors(net, batch, batch[1], loss)]
        [1.0, 1.0]
    """
    weights = flat_parameters(module)
    size = float(weights.double().norm())
    direction = weights / weights.norm() if size > 0 else torch.eye(1, len(weights)).to(weights)[0]
    line = AffineSubspace(weights, direction[:, None])
    points = torch.tensor([[0.0], [size / 2 or 1.0]], dtype=torch.float64)

    def half(copy: nn.Module, given: Any) -> Tensor:
        wrong = observe(copy, given, network).outputs.double() - y.double().to(weights.device)
        return wrong.square().sum(1).mean() / 2

    with (
        closing(LossSlice(module, line, [batch], loss_fn)) as above,
        closing(LossSlice(module, line, [batch], half)) as below,
    ):
        return [float(r) for r in above(points) / below(points)]


def usual_factor(factor: float, width: int) -> float:
    """Replace a measured factor by that of a common loss if it is close to one, else return it.

    Args:
        factor: Loss over half the mean squared error.
        width: Number ``n_L`` of outputs, over which some losses average.

    Example:
        >>> usual_factor(0.1999999, 10), usual_factor(0.3, 10)
        (0.2, 0.3)
    """
    usual = (2 / width, 1 / width, 2.0, 1.0)
    return next((u for u in usual if abs(factor - u) <= FACTOR_TOLERANCE * u), factor)
