"""One line between two sets of weights: evaluations where they say most about its barrier."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.barriers.band import SHARES, LineBand, line_band

# Shares of the way at which every line is evaluated first: the middle, quarters, and close to the
# ends, where a barrier between two minima rises. With the ends they determine a first surrogate.
FIRST = (0.5, 0.25, 0.75, 0.08, 0.92)
# No closer to an earlier evaluation than this: its loss is known from that one.
_LEAST_DISTANCE = 1 / 256


class Barrier(NamedTuple):
    """What is known of the barrier on a line, in units of the loss.

    Attributes:
        lower: Largest excess over the straight line that was evaluated, at least 0.
        estimate: Largest excess of the surrogate's mean, within the bounds.
        upper: Bound from above; infinite where there is none.
    """

    lower: float
    estimate: float
    upper: float


class Line:
    """Losses on a line, and the bounds on its barrier that they give.

    Args:
        loss: The loss at a share of the way.
        ends: The losses at the ends, finite.
        confidence: The level at which the upper bound is to hold.
        same: Whether both ends are the same weights: then the barrier is 0, without evaluations.

    Attributes:
        shares: Where the loss was evaluated, ascending in time, shape ``(n,)``.
        losses: The losses there.
        band: The band they give; None where there is none.
        reason: Why there is no bound from above; empty if there is one.
    """

    def __init__(
        self,
        loss: Callable[[float], float],
        ends: tuple[float, float],
        confidence: float,
        same: bool = False,
    ) -> None:
        self._loss = loss
        self._confidence = confidence
        self._same = same
        self.shares: Array = np.array([0.0, 1.0])
        self.losses: Array = np.array(ends)
        self.band: LineBand | None = None
        self.reason = ""
        self._surprises: list[float] = []

    @property
    def barrier(self) -> Barrier:
        """The bounds, from the evaluations so far."""
        if self._same:
            return Barrier(0.0, 0.0, 0.0)
        excess = self.losses - self._chord(self.shares)
        if not np.isfinite(excess).all():
            return Barrier(math.inf, math.inf, math.inf)
        lower = max(0.0, float(excess.max()))
        if self.band is None:
            return Barrier(lower, lower, math.inf)
        chord = self._chord(SHARES)
        estimate = max(lower, float((self.band.mean - chord).max()))
        upper = max(lower, float((self.band.upper - chord).max()))
        return Barrier(lower, min(estimate, upper), upper if self.band.trusted else math.inf)

    @property
    def is_open(self) -> bool:
        """Whether further evaluations could say more."""
        return not self._same and bool(np.isfinite(self.losses).all())

    def begin(self) -> None:
        """Evaluate the line where every line is evaluated first."""
        for share in FIRST:
            if self.is_open:
                self._add(share)
        self._judge()

    def refine(self) -> None:
        """Evaluate the line once more: where the bound on the excess is largest."""
        gaps = np.abs(SHARES[:, None] - self.shares).min(axis=1)
        if self.band is None:
            score = gaps
        else:
            with np.errstate(invalid="ignore"):
                score = np.nan_to_num(self.band.upper - self._chord(SHARES), nan=math.inf)
        score = np.where(gaps < _LEAST_DISTANCE, -math.inf, score)
        # Of several infinite bounds the one farthest from what is known.
        best = np.flatnonzero(score == score.max())
        self._add(float(SHARES[best[np.argmax(gaps[best])]]))
        if self.band is not None and self.is_open:
            share, loss = float(self.shares[-1]), float(self.losses[-1])
            self._surprises.append(self.band.surprise(share, loss))
        self._judge()

    def _chord(self, shares: Array) -> Array:
        start, end = self.losses[:2]
        return np.asarray((1 - shares) * start + shares * end)

    def _add(self, share: float) -> None:
        self.shares = np.append(self.shares, share)
        self.losses = np.append(self.losses, self._loss(share))

    def _judge(self) -> None:
        if not self.is_open:
            self.reason = "" if self._same else "the loss is not finite on the line"
            return
        # The later half: the surrogate that was wrong before knew much less than this one.
        recent = self._surprises[len(self._surprises) // 2 :]
        found = line_band(self.shares, self.losses, recent, self._confidence)
        if isinstance(found, str):
            self.band, self.reason = None, found
            return
        self.band = found
        self.reason = "" if found.trusted else "the losses refute the surrogate"
