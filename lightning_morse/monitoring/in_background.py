"""An analysis whose numerics are done elsewhere, while training goes on.

Each visit evaluates the loss anew on copies of the network that are gone when it ends, as the
timing of an evaluation does, so training does not see that an analysis is under way. What the loss
depends on beside the weights may change meanwhile: a weight that is turned up with the epochs, say.
The samples would then be of several functions. So the loss of the weights that the analysis is of
is evaluated once more at the end, and an analysis during which it has changed counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lightning_morse._typing import Array
from lightning_morse.gp.process import SurrogateError
from lightning_morse.monitoring.exploring import Exploration
from lightning_morse.monitoring.findings import Findings, Look
from lightning_morse.monitoring.meter import OutOfTimeError
from lightning_morse.monitoring.one_analysis import OneAnalysis
from lightning_morse.result import MorseAnalysis

# Losses that differ by no more than this, of themselves or of those sampled, are the same: another
# copy of the network lies elsewhere in memory, and the last digits depend on that.
_SAME, _SAME_OF_USUAL = 1e-4, 1e-6


class LossHasChangedError(RuntimeError):
    """The loss is not a function of the weights alone."""


@dataclass(eq=False)
class InBackground:
    """An analysis under way, in a single process.

    Attributes:
        one: The analysis.
        exploration: What is asked.
        times: When the snapshots were taken.
        along_last: The sharpness along the last displacement of the weights.
    """

    one: OneAnalysis
    exploration: Exploration
    times: Array
    along_last: float

    @classmethod
    def begun(cls, one: OneAnalysis) -> InBackground:
        """Choose the slice, and do all that needs the network as it is now.

        Raises:
            OutOfTimeError: If there is not time for enough samples.
        """
        with closing(one.loss):
            subspace, look = one.choose()
            assert look is not None, "there is one process, which has chosen the slice"
            loss = one.loss.on(subspace)
            exploration = Exploration.of(loss, look, one.settings, one.meter, turns=one.turns(look))
            one.tell_of(loss)
            along_last = one.critical_sharpness()
        return cls(one, exploration, one.record.time.of(one.record.trajectory), along_last)

    @property
    def look(self) -> Look:
        """The slice, and training in it."""
        return self.exploration.look

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """As :meth:`Exploration.arguments`."""
        return self.exploration.arguments()

    def losses(self, points: Array) -> Sequence[float]:
        """The loss at points of the slice, shape ``(n, d)``.

        Raises:
            OutOfTimeError: If the time is up before all of them have been evaluated.
        """
        meter = self.one.meter
        found: list[float] = []
        with closing(self.one.loss):
            loss = self.exploration.loss(self.one.loss.on(self.look.subspace))
            for point in torch.from_numpy(points)[:, None]:
                if found and not meter.affords(1):
                    raise OutOfTimeError("the loss has become too dear for what was planned")
                found.append(float(loss(point)[0]))
        return found

    def found(self, result: MorseAnalysis, axes: Array | None) -> Findings:
        """What has been found.

        Args:
            result: The analysis.
            axes: How it is turned; None if it is not.

        Raises:
            LossHasChangedError: If the loss of the same weights is another one than at first.
        """
        one = self.one
        with closing(one.loss):
            loss = one.loss.on(self.look.subspace)
            self._check(float(one.meter.of(loss)(self.look.current[None])[0]), result)
            explored = one.explored(loss, self.exploration, result, axes, self.times)
            return one.found(explored, self.along_last)

    def reason_of(self, error: Exception) -> Exception:
        """Why there is no result, if the numerics have ended with an error."""
        if isinstance(error, SurrogateError):
            return self.exploration.reason_of(error)
        return error

    def _check(self, now: float, result: MorseAnalysis) -> None:
        then, losses = self.exploration.now, np.abs(result.sample_losses)
        usual = float(np.median(losses[np.isfinite(losses)])) if np.isfinite(losses).any() else 0.0
        same = math.isclose(now, then, rel_tol=_SAME, abs_tol=_SAME_OF_USUAL * usual)
        if not same and not (math.isnan(now) and math.isnan(then)):
            raise LossHasChangedError(
                f"the loss of the same weights was {then:g} and is {now:g} by now: it depends on "
                "more than them"
            )
