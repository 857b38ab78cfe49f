"""A bounded record of where training has been."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Trajectory:
    """Weights along a run, evenly spread over it, at most ``max_snapshots`` of them.

    Snapshots are kept on the CPU in the precision they come in: ``max_snapshots`` times the size
    of the trainable parameters, whatever the length of the run. When the record is full every
    second snapshot is dropped and the stride doubles; the first one always stays.

    Args:
        max_snapshots: How many snapshots to keep, at least 3.
        stride: Calls of :meth:`step` between two snapshots to begin with, at least 1.

    Example:
        >>> trajectory = Trajectory(max_snapshots=3)
        >>> for step in range(10):
        ...     trajectory.step(lambda: torch.tensor([float(step)]))
        >>> trajectory.snapshots().ravel().tolist(), trajectory.stride
        ([0.0, 4.0, 8.0], 4)
    """

    def __init__(self, max_snapshots: int, stride: int = 1) -> None:
        self.max_snapshots = max_snapshots
        self.stride = stride
        self._steps = 0
        self._kept: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def n_parameters(self) -> int | None:
        """Length of the snapshots; None while there are none."""
        return len(self._kept[0]) if self._kept else None

    def step(self, weights: Callable[[], Tensor]) -> None:
        """Count one step of training and keep its weights if it is their turn.

        Args:
            weights: Returns the flat weights, shape ``(p,)``, as a copy; called only when a
                snapshot is due.
        """
        if self._steps % self.stride == 0:
            self._kept.append(weights().detach().cpu())
            if len(self._kept) > self.max_snapshots:
                self._kept = self._kept[::2]
                self.stride *= 2
        self._steps += 1

    def snapshots(self) -> Tensor:
        """All snapshots, oldest first, shape ``(T, p)``, on the CPU."""
        return torch.stack(self._kept)

    def state_dict(self) -> dict[str, Any]:
        """The record in plain containers and tensors."""
        return {"snapshots": list(self._kept), "stride": self.stride, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a record written by :meth:`state_dict`."""
        self._kept = list(state["snapshots"])
        self.stride = state["stride"]
        self._steps = state["steps"]
        while len(self._kept) > self.max_snapshots:
            self._kept = self._kept[::2]
            self.stride *= 2
