"""The training loss of a LightningModule, from its own steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor

_HOOK_HOMES = ("pytorch_lightning.core.", "lightning.pytorch.core.")


def loss_from_steps(module: Any, batch: Any, batch_idx: int = 0) -> Tensor | None:
    """The training loss of an ordinary LightningModule, from its own steps.

    Calls ``training_step``, which is what training minimises, or ``validation_step`` where only
    that is defined. Where the module optimises manually it is the other way round:
    ``training_step`` only if ``validation_step`` returns no loss, since it usually returns none
    either, and takes steps besides; the module must be a copy whose optimizers take none. Importing
    lightning is not needed: a step counts as defined unless the class it comes from belongs to
    lightning's core. ``on_train_batch_start`` is called before ``training_step``, as in training:
    it may prepare what the step uses, or skip the batch. A step that asks for ``dataloader_iter``
    gets an iterator over this one batch.

    Args:
        module: A LightningModule, or any object with such steps.
        batch: What its loader yields, on the device of the module.
        batch_idx: Passed on if the step accepts it.

    Returns:
        The loss as the step returned it, a tensor with one element; None if the step skipped the
        batch by returning None, as Lightning allows.

    Raises:
        ValueError: If there is no step to call, or it returns neither of these.

    Example:
        >>> import torch
        >>> class Model(torch.nn.Linear):
        ...     def training_step(self, batch):
        ...         return {"loss": self(batch).square().mean() + 1}
        >>> loss_from_steps(Model(2, 1, bias=False), torch.zeros(3, 2)).item()
        1.0
    """
    kind = type(module).__name__
    if not getattr(module, "automatic_optimization", True):
        for name in ("validation_step", "training_step"):
            loss = _loss_in(_output(module, name, batch, batch_idx))
            if loss is not None:
                return loss
        raise ValueError(
            "loss_fn must be given for a module with manual optimization whose steps return no "
            f"loss, got none for {kind}. Pass loss_fn(module, batch) that returns the loss to look "
            "at"
        )
    name = next((n for n in ("training_step", "validation_step") if _defines(module, n)), "")
    if not name:
        raise ValueError(
            f"module must define training_step or validation_step, got {kind} with neither. "
            "Pass loss_fn(module, batch)"
        )
    output = _output(module, name, batch, batch_idx)
    if output is None and name == "training_step":
        return None
    loss = _loss_in(output)
    if loss is None:
        raise ValueError(
            f"{kind}.{name} must return the loss as a tensor with one element, or "
            f"a dict with one under 'loss', got {described(output)}. Pass loss_fn(module, batch)"
        )
    return loss


def _output(module: Any, name: str, batch: Any, batch_idx: int) -> Any:
    """What a step returns; None if it is not defined."""
    if not _defines(module, name):
        return None
    if name == "training_step" and _skips(module, batch, batch_idx):
        return None
    step = getattr(module, name)
    return step(*_step_arguments(step, batch, batch_idx))


def _skips(module: Any, batch: Any, batch_idx: int) -> bool:
    """Call what the module does before a training step; whether it skips the batch by that."""
    name = "on_train_batch_start"
    if not _defines(module, name):
        return False
    hook = getattr(module, name)
    # One that asks the trainer for what a copy does not get is seldom needed for the loss.
    with suppress(Exception):
        return bool(hook(*_step_arguments(hook, batch, batch_idx)) == -1)
    return False


def _loss_in(output: Any) -> Tensor | None:
    """The loss in what a step returned, None if there is none."""
    loss = output.get("loss") if isinstance(output, Mapping) else output
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 else None


def _defines(module: Any, name: str) -> bool:
    if name in vars(module):
        return True
    homes = [cls.__module__ for cls in type(module).__mro__ if name in vars(cls)]
    return bool(homes) and not f"{homes[0]}.".startswith(_HOOK_HOMES)


def _step_arguments(step: Callable[..., Any], batch: Any, batch_idx: int) -> tuple[Any, ...]:
    """As many of ``batch, batch_idx, dataloader_idx`` as the step asks for."""
    function, skipped = (step.__func__, 1) if isinstance(step, MethodType) else (step, 0)
    code = _code_of_signature(function)
    known = _known.get((code, skipped)) if code is not None else None
    wants_iterator, count = known or _wanted(function, skipped)
    if code is not None:
        _known[code, skipped] = wants_iterator, count
    if wants_iterator:
        return (iter([(batch, batch_idx, 0)]),)
    return (batch, batch_idx, 0)[:count]


# By the code of a step, not by the function, which may hold a copy of its module. Looking at a
# signature takes as long as a small network does.
_known: dict[tuple[Any, int], tuple[bool, int]] = {}


def _code_of_signature(function: Callable[..., Any]) -> Any:
    """The code whose signature a function has; None if that is not to be told from code.

    One decorator has the same code around all the functions it wraps.
    """
    inner = inspect.unwrap(function, stop=lambda f: hasattr(f, "__signature__"))
    told = isinstance(inner, FunctionType) and not hasattr(inner, "__signature__")
    return inner.__code__ if told else None


def _wanted(function: Callable[..., Any], skipped: int) -> tuple[bool, int]:
    """Whether a step wants an iterator, and how many arguments it takes after the skipped ones."""
    parameters = list(inspect.signature(function).parameters.values())[skipped:]
    if parameters and parameters[0].name == "dataloader_iter":
        return True, 1
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return False, 2
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    return False, max(required, min(len(positional), 2))


def described(output: Any) -> str:
    """Describe in a few words what was returned instead of a loss."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a dict with keys {list(output)}"
    return "None" if output is None else f"a {type(output).__name__}"
