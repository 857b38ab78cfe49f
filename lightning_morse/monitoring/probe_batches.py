"""Batches on which an analysis evaluates the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_morse.slices.batches import mapped
from lightning_morse.slices.copying import bare_clone

# Containers within containers: one that is nested deeper holds itself, or is no batch.
DEEPEST = 50


def copied(batch: Any) -> Any:
    """A copy independent of the batch; a view is copied without the rest of its storage."""
    return mapped(batch, lambda t: _requiring(bare_clone(t), t))


def moved(batches: Sequence[Any], device: Any) -> list[Any]:
    """The batches, with their tensors on a device."""
    return [mapped(batch, lambda t: _requiring(t.to(device), t)) for batch in batches]


def _requiring(made: Tensor, like: Tensor) -> Tensor:
    """A tensor that requires gradients, without a graph, if the one it was made from does."""
    if made is like or not like.requires_grad:
        return made
    return made.detach().requires_grad_()


def is_plain(data: Any, depth: int = 0) -> bool:
    """Whether ``torch.load(..., weights_only=True)`` can read this back.

    Not what holds itself, or is nested as deep as that.

    Example:
        >>> is_plain([{"ids": (1, "a")}]), is_plain([object()])
        (True, False)
    """
    if type(data) in (list, tuple, dict) and depth > DEEPEST:
        return False
    if type(data) in (list, tuple):
        return all(is_plain(part, depth + 1) for part in data)
    if type(data) is dict:
        return all(is_plain(part, depth + 1) for item in data.items() for part in item)
    return type(data) in (Tensor, int, float, str, bool, type(None))
