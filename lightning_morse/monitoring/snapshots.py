"""A bounded record of where training has been."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Trajectory:
    """Weights along a run, evenly spread over it, at most ``max_snapshots`` of them.

    Snapshots are kept on the CPU: ``max_snapshots + 1`` rows of the trainable parameters (one is
    for the weights at hand) of the size of ``dtype``, whatever the length of the run. With the
    defaults of :class:`lightning_morse.MorseMonitor`, 33 rows of 4 bytes, that is 132 bytes a
    parameter, and 66 in half precision. Memory is taken as the record fills. When it is full every
    second snapshot is dropped and the stride doubles; the first one always stays. Weights of
    another length (parameters frozen or unfrozen) start the record over.

    Args:
        max_snapshots: How many snapshots to keep, at least 3.
        stride: Calls of :meth:`step` between two snapshots to begin with, at least 1.
        dtype: Floating point type to keep them in.

    Example:
        >>> trajectory = Trajectory(max_snapshots=3)
        >>> for step in range(10):
        ...     trajectory.step(lambda: torch.tensor([float(step)]))
        >>> trajectory.snapshots().ravel().tolist(), trajectory.stride
        ([0.0, 4.0, 8.0], 4)
    """

    def __init__(
        self, max_snapshots: int, stride: int = 1, dtype: torch.dtype = torch.float32
    ) -> None:
        self.max_snapshots = max_snapshots
        self.stride = stride
        self.dtype = dtype
        self._steps = 0
        self._n = 0
        self._rows = torch.empty(0, 0, dtype=dtype)

    def __len__(self) -> int:
        return self._n

    @property
    def n_parameters(self) -> int | None:
        """Length of the snapshots; None while there are none."""
        return self._rows.shape[1] if self._n else None

    @property
    def n_bytes(self) -> int:
        """Memory of a full record."""
        return self._rows.numel() * self._rows.element_size()

    @property
    def steps(self) -> int:
        """Steps counted since the record began."""
        return self._steps

    def step(self, weights: Callable[[], Tensor]) -> None:
        """Count one step of training and keep its weights if it is their turn.

        Args:
            weights: Returns the flat weights, shape ``(p,)``; called only when a snapshot is due.
        """
        if self._steps % self.stride == 0:
            flat = weights()
            self._make_room(len(flat))
            if self._n == self.max_snapshots:
                self._thin()
            # After thinning the turn may be that of a later step.
            if self._steps % self.stride == 0:
                self._rows[self._n].copy_(flat.detach())
                self._n += 1
        self._steps += 1

    def snapshots(self) -> Tensor:
        """All snapshots, oldest first, shape ``(T, p)``, on the CPU; a view, not a copy."""
        return self._rows[: self._n]

    def up_to(self, weights: Tensor) -> Tensor:
        """All snapshots and the weights at hand, shape ``(T + 1, p)``, on the CPU.

        A view that holds until the next call. Where the weights have another length, they are the
        first snapshot of a new record.

        Args:
            weights: Flat weights, shape ``(p,)``.
        """
        self._make_room(len(weights))
        self._rows[self._n].copy_(weights.detach())
        if not self._n:
            self._n = 1
            self._rows[1].copy_(weights.detach())
        return self._rows[: self._n + 1]

    def state_dict(self) -> dict[str, Any]:
        """The record in plain containers and tensors."""
        # A copy: with a view the unused rows would go to the checkpoint as well.
        kept = self.snapshots().clone()
        return {"snapshots": kept, "stride": self.stride, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a record written by :meth:`state_dict`."""
        kept = state["snapshots"]
        self.stride = state["stride"]
        while len(kept) > self.max_snapshots:
            kept = kept[::2]
            self.stride *= 2
        self._n = 0
        if len(kept):
            self._make_room(kept.shape[1])
            self._n = len(kept)
            self._rows[: self._n].copy_(kept)
        self._steps = state["steps"]  # last: making room begins a record

    def _make_room(self, n_parameters: int) -> None:
        # The number of rows too: a process of several may have no weights at all.
        if self._rows.shape != (self.max_snapshots + 1, n_parameters):
            self._n = self._steps = 0
            self._rows = torch.empty(self.max_snapshots + 1, n_parameters, dtype=self.dtype)

    def _thin(self) -> None:
        """Drop every second snapshot."""
        for i in range(1, (self._n + 1) // 2):
            self._rows[i].copy_(self._rows[2 * i])
        self._n = (self._n + 1) // 2
        self.stride *= 2
