"""The frame of an analysis: box and losses of order one, whatever units they are given in.

Squares, products and determinants of what is very large or very small leave the range of floats,
and what is computed from an infinity or a zero is no claim. So everything is computed in a frame,
and what is found is brought back to the units there were.

Frames differ from the units by powers of two. Multiplying by one changes the exponent of a float
and no other bit, so losses and boxes that differ by powers of two have the same analysis but for
the units, to the last bit. All axes have the same factor: other factors would belong to another
metric, and the gradient flow of another metric has other basins. Nothing is shifted: a shift would
round.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array
from lightning_morse.facts import Facts, SurrogateFacts
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid, check_box
from lightning_morse.result.parts import Box, Curvature, MorseSet, WayOut
from lightning_morse.result.record import MorseAnalysis

# Widths of a box may differ by this power of two: the fourth power, as in the covariance of second
# derivatives, is then a float.
_LARGEST_RATIO = 200
# Most losses are of order one in the frame, unless the largest would then exceed this power of two,
# whose square and cube are floats. A loss that is found later may exceed it by the slack.
_LARGEST_LOSS, _SLACK = 256, 64

_Kind = TypeVar("_Kind", Box, MorseAnalysis)


@dataclass
class Frame:
    """Powers of two between the units of an analysis and the frame in which it is made.

    What has the value ``v`` in its units has ``v / 2**e`` in the frame. The exponent of the loss is
    not known before losses are; those that are 0 or not finite say nothing.

    Attributes:
        box: Exponent of lengths.
        loss: Exponent of losses; None as long as none was seen that tells it.
    """

    box: int = 0
    loss: int | None = None

    @classmethod
    def of(cls, lower: ArrayLike, upper: ArrayLike) -> Frame:
        """The frame in which the widths of a box lie around 2 to 4; that of its loss is open.

        Raises:
            ValueError: If the corners do not span a box, or its widths differ so much that their
                powers are no floats.
        """
        low, up = check_box(lower, upper)
        mantissa, exponent = np.frexp(up - low)
        # Widths in (2, 4], so that boxes such as [-2, 2] are their own frames.
        exponents = exponent - np.where(mantissa == 0.5, 3, 2)
        least, most = int(exponents.min()), int(exponents.max())
        if most - least > _LARGEST_RATIO:
            raise ValueError(
                f"the widths of the box, {(up - low).tolist()}, differ by more than a factor of "
                f"2**{_LARGEST_RATIO}: no float holds the powers of both. Scale the axes"
            )
        return cls((least + most) // 2)

    def grid(self, grid: CubicalGrid) -> CubicalGrid:
        """A grid in the frame."""
        return self._scaled_grid(grid, -self.box)

    def points(self, points: ArrayLike) -> Array:
        """Points or corners, any shape, in the frame; what is too far for a float is infinite."""
        with np.errstate(over="ignore"):
            return np.ldexp(np.asarray(points, dtype=np.float64), -self.box)

    def points_in_units(self, points: Array) -> Array:
        """Points of the frame in the units of the box, any shape."""
        return _scaled(points, self.box)

    def losses(self, losses: Array) -> Array:
        """Losses, any shape, in the frame. The first ones that tell its exponent fix it.

        Raises:
            SurrogateError: If a finite one is too large beside those that fixed it.
        """
        telling = losses[np.isfinite(losses) & (losses != 0)]
        if telling.size:
            exponents = np.sort(np.frexp(telling)[1])
            largest = int(exponents[-1])
            if self.loss is None:
                typical = int(exponents[(len(exponents) - 1) // 2])
                self.loss = max(typical, largest - _LARGEST_LOSS)
            if largest - self.loss > _LARGEST_LOSS + _SLACK:
                raise SurrogateError(
                    f"the loss is about 2**{largest} at a point of the box, where most of the "
                    f"first ones were at most about 2**{self.loss}: no surrogate spans both. Use a "
                    "smaller box, or return infinity where the loss has diverged"
                )
        return np.ldexp(losses, -(self.loss or 0))

    # ------------------------------------------------------------------ back

    def losses_in_units(self, losses: Array) -> Array:
        """Losses of the frame in their own units, any shape."""
        return _scaled(losses, self.loss or 0)

    def in_units(self, found: _Kind) -> _Kind:
        """An analysis, or a box of one, in the units of the box and the loss.

        Raises:
            SurrogateError: If a number of it is too large for a float in these units.
        """
        deviation = found.loss_deviation
        common = dataclasses.replace(
            found,
            grid=self._scaled_grid(found.grid, self.box),
            mean_loss=self.losses_in_units(found.mean_loss),
            loss_deviation=None if deviation is None else self.losses_in_units(deviation),
            surrogate=self._facts(found.surrogate),
        )
        if isinstance(common, Box):
            return common
        return dataclasses.replace(
            common,
            morse_sets=tuple(self._morse_set(m) for m in common.morse_sets),
            samples=self.points_in_units(common.samples),
            sample_losses=self.losses_in_units(common.sample_losses),
            inner=tuple(self.in_units(box) for box in common.inner),
            way_out=None if common.way_out is None else self._way(common.way_out),
            curvature=self._curvature(common.curvature),
        )

    def _one_loss(self, loss: float) -> float:
        return float(self.losses_in_units(np.array(loss)))

    def _one_length(self, length: float) -> float:
        return float(_scaled(np.array(length), self.box))

    def _morse_set(self, found: MorseSet) -> MorseSet:
        deviation = found.loss_deviation
        return dataclasses.replace(
            found,
            center=self.points_in_units(found.center),
            loss=self._one_loss(found.loss),
            loss_deviation=None if deviation is None else self._one_loss(deviation),
            curvature=self._curvature(found.curvature),
            wall=None if found.wall is None else self._one_loss(found.wall),
        )

    def _curvature(self, found: Curvature | None) -> Curvature | None:
        """In units; None where a float cannot hold it, which is no reason to refuse the rest."""
        if found is None:
            return None
        exponent = (self.loss or 0) - 2 * self.box
        with np.errstate(over="ignore"):
            numbers = np.ldexp([found.largest, found.deviation, found.at_least], exponent).tolist()
        scaled = Curvature(*numbers)
        return scaled if scaled.is_finite else None

    def _way(self, way: WayOut) -> WayOut:
        return dataclasses.replace(
            way,
            start=self.points_in_units(way.start),
            end=self.points_in_units(way.end),
            loss=self._one_loss(way.loss),
            loss_deviation=self._one_loss(way.loss_deviation),
        )

    def _facts(self, facts: Facts | None) -> Facts | None:
        if facts is None:
            return None
        if isinstance(facts, SurrogateFacts):
            floor = facts.loss_floor
            return dataclasses.replace(
                facts,
                lengthscales=tuple(map(self._one_length, facts.lengthscales)),
                mean=self._one_loss(facts.mean),
                deviation=self._one_loss(facts.deviation),
                noise_deviation=self._one_loss(facts.noise_deviation),
                loss_origin=self._one_loss(facts.loss_origin),
                loss_floor=None if floor is None else self._one_loss(floor),
                # A density per unit of each loss.
                log_evidence=facts.log_evidence - facts.n * (self.loss or 0) * math.log(2),
            )
        return dataclasses.replace(
            facts,
            lengthscales=tuple(tuple(map(self._one_length, row)) for row in facts.lengthscales),
            mean=tuple(map(self._one_length, facts.mean)),
            deviation=tuple(map(self._one_length, facts.deviation)),
            noise_deviation=tuple(map(self._one_length, facts.noise_deviation)),
            band_between=tuple(map(self._one_length, facts.band_between)),
        )

    def _scaled_grid(self, grid: CubicalGrid, exponent: int) -> CubicalGrid:
        lower, upper = _scaled(grid.lower, exponent), _scaled(grid.upper, exponent)
        return CubicalGrid(lower, upper, grid.shape, grid.periodic)


def _scaled(values: Array, exponent: int) -> Array:
    """``values * 2**exponent``; refuses what only an infinity would hold."""
    with np.errstate(over="ignore"):
        out: Array = np.ldexp(values, exponent)
    if np.isinf(out).any() and not np.array_equal(np.isinf(out), np.isinf(values)):
        raise SurrogateError(
            "a number of the analysis is too large for a float in the units of the box and the "
            "loss: scale them down, or return infinity where the loss has diverged"
        )
    return out
