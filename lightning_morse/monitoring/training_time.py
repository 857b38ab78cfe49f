"""Training time in units of the gradient flow: learning rates summed over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from lightning_morse._typing import Array
from lightning_morse.monitoring.snapshots import Trajectory


class TrainingTime:
    """The sum of the learning rates up to each snapshot of a trajectory.

    The sums are kept in a record of the same kind, one number per snapshot, thinned in step.

    Args:
        trajectory: The trajectory whose snapshots are timed.

    Attributes:
        rate: The learning rate of the next step; NaN if unknown.

    Example:
        >>> trajectory = Trajectory(max_snapshots=3)
        >>> time = TrainingTime(trajectory)
        >>> for step in range(6):
        ...     time.rate = 0.5
        ...     trajectory.step(lambda: torch.zeros(2))
        ...     time.step(trajectory)
        >>> time.of(trajectory).tolist()
        [0.0, 1.0, 2.0]
    """

    def __init__(self, trajectory: Trajectory) -> None:
        self.rate = math.nan
        self._start(trajectory)

    def _start(self, trajectory: Trajectory) -> None:
        self._now: float | None = None
        self._record = Trajectory(trajectory.max_snapshots, trajectory.stride, torch.float64)

    def step(self, trajectory: Trajectory) -> None:
        """Count a step, right after the trajectory has counted it.

        Args:
            trajectory: The trajectory; its record may have been started over.
        """
        if trajectory.steps == 1 or trajectory.steps != self._record.steps + 1:
            self._start(trajectory)
        # The first snapshot is taken before the first step.
        self._now = 0.0 if self._now is None else self._now + self.rate
        self._record.step(lambda: torch.tensor([self._now], dtype=torch.float64))

    @property
    def now(self) -> float:
        """The time of the last step; NaN where it is unknown."""
        return math.nan if self._now is None else self._now

    def of(self, trajectory: Trajectory) -> Array:
        """The time of each snapshot, shape ``(T,)``; NaN where rates were unknown.

        Args:
            trajectory: The trajectory.
        """
        times = self._record.snapshots()[:, 0] if len(self._record) else torch.empty(0)
        if len(times) != len(trajectory) or self._record.stride != trajectory.stride:
            times = torch.full((len(trajectory),), math.nan)
        return times.to(torch.float64).numpy().copy()

    def state_dict(self) -> dict[str, Any]:
        """The record in plain containers; numbers, since a checkpoint takes long over a tensor."""
        record = self._record.state_dict()
        record["snapshots"] = self._record.snapshots().ravel().tolist()
        return {"now": self._now, "record": record}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a record written by :meth:`state_dict`."""
        self._now = state["now"]
        # One-element tensors in checkpoints of 0.1.
        self._record.load_state_dict(
            state["record"], lambda row: torch.as_tensor(row, dtype=torch.float64).reshape(1)
        )
