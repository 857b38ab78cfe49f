"""A bounded record of the weights along a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Trajectory:
    """At most ``max_snapshots`` weight vectors along a run, evenly spaced.

    Snapshots are kept on the CPU: ``max_snapshots + 1`` rows of the trainable parameters in
    ``dtype`` (one row is for the current weights), however long the run. With the defaults of
    :class:`lightning_morse.MorseMonitor`, 33 rows of 4 bytes, these are 132 bytes per parameter, 66
    in half precision; fewer where memory is limited (:mod:`lightning_morse.monitoring.memory`).
    Memory is taken as the record fills. When it is full, every second snapshot
    is dropped and the stride doubles; the first one always stays. Weights of another length
    (parameters were frozen or unfrozen) start the record over.

    Args:
        max_snapshots: Number of snapshots to keep, at least 3; or 0 to count steps only.
        stride: Initial number of calls of :meth:`step` from one snapshot to the next, at least 1.
        dtype: Floating-point type of the snapshots.

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
        self._taken: list[int] = []
        self._rows = torch.empty(0, 0, dtype=dtype)

    def __len__(self) -> int:
        return self._n

    @property
    def n_parameters(self) -> int | None:
        """Length of a snapshot; None while there is none."""
        return self._rows.shape[1] if self._n else None

    @property
    def n_bytes(self) -> int:
        """Memory of a full record, bytes."""
        return self._rows.numel() * self._rows.element_size()

    @property
    def steps(self) -> int:
        """Steps counted since the record began."""
        return self._steps

    @property
    def taken(self) -> list[int]:
        """The step at which each snapshot was taken."""
        return list(self._taken)

    @property
    def is_due(self) -> bool:
        """Whether the next step is one whose weights are kept."""
        return bool(self.max_snapshots) and self._steps % self.stride == 0

    def count(self) -> None:
        """Count a step whose weights are not to be kept."""
        self._steps += 1

    def step(self, weights: Callable[[], Tensor | Sequence[Tensor]]) -> None:
        """Count a step of training, and keep its weights if a snapshot is due.

        Args:
            weights: Returns the flat weights, shape ``(p,)``, whole or in parts; called only when a
                snapshot is due.
        """
        if self.is_due:
            found = weights()
            parts = [found] if isinstance(found, Tensor) else found
            lengths = list(map(len, parts))
            self._make_room(sum(lengths))
            if self._n == self.max_snapshots:
                self._thin()
            # After thinning, the next snapshot may be due later.
            if self.is_due:
                # No copy of all the weights is made on the way.
                rooms = torch.split(self._rows[self._n], lengths)
                for room, part in zip(rooms, parts, strict=True):
                    room.copy_(part.detach())
                self._taken = [*self._taken[: self._n], self._steps]
                self._n += 1
        self._steps += 1

    def snapshots(self) -> Tensor:
        """All snapshots, oldest first, shape ``(T, p)``, on the CPU; a view, not a copy."""
        return self._rows[: self._n]

    def up_to(self, weights: Tensor) -> Tensor:
        """All snapshots and the current weights, shape ``(T + 1, p)``, on the CPU.

        A view, valid until the next call. Weights of another length become the first snapshot of a
        new record. Where no snapshots are kept these are the current weights twice.

        Args:
            weights: Flat current weights, shape ``(p,)``.
        """
        if not self.max_snapshots:
            self._rows = torch.empty(0, len(weights), dtype=self.dtype)
            return weights.detach().cpu().expand(2, -1)
        self._make_room(len(weights))
        self._rows[self._n].copy_(weights.detach())
        if not self._n:
            self._n, self._taken = 1, [self._steps]
            self._rows[1].copy_(weights.detach())
        return self._rows[: self._n + 1]

    def state_dict(self) -> dict[str, Any]:
        """The record in plain containers and tensors; the snapshots are views, one by one."""
        rows = list(self.snapshots())
        return {
            "snapshots": rows,
            "taken": self.taken,
            "stride": self.stride,
            "steps": self._steps,
        }

    def load_state_dict(
        self, state: Mapping[str, Any], fetch: Callable[[Any], Tensor] = lambda row: row
    ) -> None:
        """Go on from a record written by :meth:`state_dict`.

        Args:
            state: The state.
            fetch: Gets a snapshot from what stands for it in the state; called for one after the
                other, so that no second copy of the record is in memory.
        """
        kept = state["snapshots"]  # one tensor in checkpoints of 0.1
        self.stride = state["stride"]
        taken = list(state.get("taken", (self.stride * i for i in range(len(kept)))))
        while len(kept) > max(1, self.max_snapshots):
            kept, taken = kept[::2], taken[::2]
            self.stride *= 2
        self._n = 0
        for i in range(len(kept) if self.max_snapshots else 0):
            snapshot = fetch(kept[i])
            self._make_room(len(snapshot))
            self._rows[i].copy_(snapshot)
            self._n, self._taken = i + 1, taken[: i + 1]
        self._steps = state["steps"]  # last, since making room resets it

    def _make_room(self, n_parameters: int) -> None:
        # Compare the number of rows too: a process of a sharded run may hold no weights at all.
        if self._rows.shape != (self.max_snapshots + 1, n_parameters):
            self._n = self._steps = 0
            self._rows = torch.empty(0, 0, dtype=self.dtype)  # the old ones go before the new come
            self._rows = torch.empty(self.max_snapshots + 1, n_parameters, dtype=self.dtype)

    def _thin(self) -> None:
        """Drop every second snapshot."""
        for i in range(1, (self._n + 1) // 2):
            self._rows[i].copy_(self._rows[2 * i])
        self._n = (self._n + 1) // 2
        self._taken = self._taken[::2]
        self.stride *= 2
