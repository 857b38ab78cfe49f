"""Batches on which an analysis evaluates the loss."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor


def copied(batch: Any) -> Any:
    """A copy independent of the batch; a view is copied without the rest of its storage."""
    clone = apply_to_collection(batch, Tensor, lambda t: t.detach().clone(), allow_frozen=True)
    return deepcopy(clone)


def moved(batches: Sequence[Any], device: Any) -> list[Any]:
    """The batches, with their tensors on a device."""
    return [
        apply_to_collection(b, Tensor, lambda t: t.to(device), allow_frozen=True) for b in batches
    ]


def is_plain(data: Any) -> bool:
    """Whether ``torch.load(..., weights_only=True)`` can read this back.

    Example:
        >>> is_plain([{"ids": (1, "a")}]), is_plain([object()])
        (True, False)
    """
    if type(data) in (list, tuple):
        return all(map(is_plain, data))
    if type(data) is dict:
        return all(map(is_plain, data)) and all(map(is_plain, data.values()))
    return type(data) in (Tensor, int, float, str, bool, type(None))
