"""Whether a barrier separates two sets of weights, as far as a few evaluations tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lightning_morse.barriers.line import Line

# "connected": certainly no barrier above the tolerance; "apart": certainly one.
Relation = Literal["connected", "apart", "undecided"]

# Most evaluations of a segment, its ends included. Where the answer is clear it takes a dozen.
MOST_EVALUATIONS = 24


@dataclass(frozen=True, eq=False)
class Segment:
    """The straight line between two sets of weights, and what counts as a barrier on it.

    Attributes:
        start: Flat weights at one end, shape ``(p,)``.
        way: From there to the other end, likewise.
        tolerance: A barrier of at most this counts as none, units of the loss.
        confidence: The level at which there is certainly none.
    """

    start: Tensor
    way: Tensor
    tolerance: float
    confidence: float

    @property
    def is_point(self) -> bool:
        """Whether both ends are the same weights."""
        return not self.way.any()

    def relation(self, loss: Callable[[float], float]) -> Relation:
        """Evaluate the loss on the line until it is decided whether there is a barrier.

        That there is one is a matter of evaluations alone. That there is none holds with
        probability at least ``confidence`` under the premise of
        :mod:`lightning_morse.barriers.band`.

        Args:
            loss: The loss at a share of the way, 0 at ``start`` and 1 at the other end.

        Example:
            >>> import torch
            >>> there = Segment(torch.tensor([-1.0]), torch.tensor([2.0]), 0.1, 0.95)
            >>> there.relation(lambda t: ((2 * t - 1) ** 2 - 1) ** 2)
            'apart'
            >>> there.relation(lambda t: (2 * t - 1) ** 2)
            'connected'
        """
        if self.is_point:
            return "connected"
        line = Line(loss, (loss(0.0), loss(1.0)), self.confidence)
        if not line.is_open:
            return "undecided"  # the ends themselves have no loss
        line.begin()
        while line.is_open and len(line.shares) < MOST_EVALUATIONS:
            if self._answer(line) != "undecided":
                break
            line.refine()
        return self._answer(line)

    def _answer(self, line: Line) -> Relation:
        lower, _, upper = line.barrier
        if lower > self.tolerance:
            return "apart"
        return "connected" if upper <= self.tolerance else "undecided"
