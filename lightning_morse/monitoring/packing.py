"""Small tensors of a state in one.

Writing a tensor into a checkpoint takes some 30 microseconds whatever its size, and there may be a
checkpoint every second: 40 small ones take longer than all else that a monitor keeps.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_morse.monitoring.containers import replaced

_MARK, _TENSORS = "lightning_morse/packed", "tensors"


def packed(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state whose tensors are the bytes of a single one.

    Args:
        state: Plain containers and tensors; without a key ``"tensors"``.

    Returns:
        The state with references in place of tensors, and under ``"tensors"`` what they refer to,
        independent of those that were given; for :func:`unpacked`.

    Example:
        >>> small = packed({"w": torch.ones(3), "n": 2})
        >>> small["w"], unpacked(small)
        ({'lightning_morse/packed': 0}, {'w': tensor([1., 1., 1.]), 'n': 2})
    """
    tensors: list[Tensor] = []

    def put(value: Any) -> Any:
        if isinstance(value, Tensor):
            # A view would be written with all of what it is a view of.
            tensors.append(value.detach().cpu().clone())
            return {_MARK: len(tensors) - 1}
        return value

    small, buffer = replaced(state, put), io.BytesIO()
    torch.save(tensors, buffer)
    content = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
    return {**small, _TENSORS: torch.from_numpy(content.copy())}


def unpacked(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state that :func:`packed` was given; one that has not been packed as it is."""
    if _TENSORS not in state:  # not in checkpoints before 0.2
        return dict(state)
    content = io.BytesIO(state[_TENSORS].cpu().numpy().tobytes())
    tensors = torch.load(content, weights_only=True)

    def get(value: Any) -> Any:
        is_reference = type(value) is dict and list(value) == [_MARK]
        return tensors[value[_MARK]] if is_reference else value

    return {k: replaced(v, get) for k, v in state.items() if k != _TENSORS}
