"""Second moments accumulated over batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_morse.deep_linear.moments import Moments


class MomentSums:
    """Running sums of products over examples, in float64 on the CPU.

    Up to rounding, the result does not depend on how the examples are split into batches; memory
    does not grow with their number.

    Attributes:
        count: Number of examples added so far.

    Example:
        >>> sums = MomentSums()
        >>> sums.add(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
        >>> sums.add(torch.tensor([[-1.0]]), torch.tensor([[-1.0]]))
        >>> sums.count, sums.moments().yx.item(), sums.moments(centred=True).yy  # 10 / 2 - 1
        (2, 2.0, 4.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add the examples of a batch.

        Args:
            x: Inputs, shape ``(m, n_0)``.
            y: Targets, shape ``(m, n_L)``.

        Raises:
            ValueError: If the shapes are inconsistent with each other or with earlier batches, or
                an entry is not finite.
        """
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
            raise ValueError(
                "x must have shape (m, n_0) and y (m, n_L) with the same m, got "
                f"{tuple(x.shape)} and {tuple(y.shape)}"
            )
        a, b = (t.detach().cpu().double() for t in (x, y))
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise ValueError("examples must be finite, got NaN or infinity in a batch")
        new = [a.T @ a, b.T @ a, b.square().sum(), a.sum(0), b.sum(0)]
        if self._sums and [t.shape for t in new] != [t.shape for t in self._sums]:
            raise ValueError(
                f"examples must all have {len(self._sums[3])} inputs and {len(self._sums[4])} "
                f"targets, got {a.shape[1]} and {b.shape[1]}"
            )
        self._sums = [s + t for s, t in zip(self._sums, new, strict=True)] if self._sums else new
        self.count += len(a)

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean input and mean target, shapes ``(n_0,)`` and ``(n_L,)``."""
        self._check()
        return self._sums[3] / self.count, self._sums[4] / self.count

    def moments(self, centred: bool = False) -> Moments:
        """The moments of all examples so far.

        Args:
            centred: Whether to take the moments about the means, as they govern a network with
                biases.

        Raises:
            ValueError: If there are no examples.
        """
        self._check()
        xx, yx, yy = (t.numpy() / self.count for t in self._sums[:3])
        moments = Moments((xx + xx.T) / 2, yx, float(yy))
        x, y = self.means()
        return moments.centred(x.numpy(), y.numpy()) if centred else moments

    def _check(self) -> None:
        if not self.count:
            raise ValueError("there must be examples to have moments, got none. Call add() first")

    def state_dict(self) -> dict[str, Any]:
        """The sums, in plain containers and tensors."""
        return {"count": self.count, "sums": list(self._sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the sums written by :meth:`state_dict`."""
        self.count, self._sums = int(state["count"]), list(state["sums"])
