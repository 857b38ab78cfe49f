"""The loss that a LightningModule trains on, from its own steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

_HOOK_HOMES = ("pytorch_lightning.core.", "lightning.pytorch.core.")


def loss_from_steps(module: Any, batch: Any, batch_idx: int = 0) -> Tensor:
    """The loss an ordinary LightningModule trains on, from its own steps.

    Calls ``training_step``, which is what training minimises, or ``validation_step`` where only
    that is defined. Importing lightning is not needed: a step counts as defined unless the class it
    comes from belongs to lightning's core.

    Args:
        module: A LightningModule, or any object with such steps.
        batch: What its dataloader yields, on its device.
        batch_idx: Passed on if the step takes it.

    Returns:
        The loss as the step returned it, a tensor with one element.

    Raises:
        ValueError: If the module optimises manually, defines neither step, or the step does not
            return a tensor with one element or a dict with one under ``"loss"``.

    Example:
        >>> class Model(torch.nn.Linear):
        ...     def training_step(self, batch):
        ...         return {"loss": self(batch).square().mean() + 1}
        >>> loss_from_steps(Model(2, 1, bias=False), torch.zeros(3, 2)).item()
        1.0
    """
    if not getattr(module, "automatic_optimization", True):
        raise ValueError(
            f"loss_fn must be given for a module with manual optimization, got none for "
            f"{type(module).__name__}. Pass loss_fn(module, batch) that returns the loss to look at"
        )
    name = next((n for n in ("training_step", "validation_step") if _defines(module, n)), None)
    if name is None:
        raise ValueError(
            f"module must define training_step or validation_step, got {type(module).__name__} "
            "with neither. Pass loss_fn(module, batch)"
        )
    step = getattr(module, name)
    output = step(*_step_arguments(step, batch, batch_idx))
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ValueError(
            f"{type(module).__name__}.{name} must return the loss as a tensor with one element, or "
            f"a dict with one under 'loss', got {_described(output)}. Pass loss_fn(module, batch)"
        )
    return loss


def _defines(module: Any, name: str) -> bool:
    if name in vars(module):
        return True
    homes = [cls.__module__ for cls in type(module).__mro__ if name in vars(cls)]
    return bool(homes) and not f"{homes[0]}.".startswith(_HOOK_HOMES)


def _step_arguments(step: Callable[..., Any], batch: Any, batch_idx: int) -> tuple[Any, ...]:
    """As many of ``batch, batch_idx, dataloader_idx`` as the step asks for."""
    parameters = inspect.signature(step).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return batch, batch_idx
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    return (batch, batch_idx, 0)[: max(required, min(len(positional), 2))]


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a dict with keys {list(output)}"
    return "None" if output is None else f"a {type(output).__name__}"
