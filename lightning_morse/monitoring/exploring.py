"""The loss on a slice that has been chosen: the box that is analysed, and keeping to time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lightning_morse._typing import Array, Loss
from lightning_morse.analysis.design import FEWEST_SAMPLES
from lightning_morse.analysis.turning import analyze_turning
from lightning_morse.gp.process import SurrogateError
from lightning_morse.monitoring.extent import FARTHEST, half_widths, reach_along
from lightning_morse.monitoring.findings import Look
from lightning_morse.monitoring.meter import Meter, OutOfTimeError
from lightning_morse.monitoring.settings import Settings
from lightning_morse.result import MorseAnalysis
from lightning_morse.slices.directions import Slice

# Evaluations at the current weights before the loss counts as too dear.
TRIES = 3


def half_widths_of(settings: Settings, chosen: Slice) -> Array:
    """Half-widths of the box in which a slice is analysed first, shape ``(d,)``."""
    box = settings.box
    if box.half is not None:
        return box.half
    natural = None if chosen.natural is None else chosen.natural.numpy()
    at_least = chosen.kind == "random"
    return half_widths(chosen.inside.numpy(), natural, at_least=at_least, margin=box.margin)


@dataclass(frozen=True, eq=False)
class Exploration:
    """The question what becomes of the current weights, put to the loss on a slice.

    Attributes:
        look: The slice, and where the weights are in it.
        settings: What the user asked for.
        meter: Says how large the analysis is, takes its time, and says when that is up.
        turns: Whether the picture may be turned where the question stays open.
        now: The loss of the weights.
    """

    look: Look
    settings: Settings
    meter: Meter
    turns: bool
    now: float

    @classmethod
    def of(
        cls, loss: Loss, look: Look, settings: Settings, meter: Meter, *, turns: bool
    ) -> Exploration:
        """Evaluate the loss of the weights.

        Raises:
            OutOfTimeError: If there is not time for enough samples.
        """
        # Before any other point: what fails here is no matter of the point, and batches that the
        # step skips here are no part of the probe set.
        for _ in range(TRIES):  # the first one may have waited for something
            now = float(meter.of(loss)(look.current[None])[0])
            if meter.affords(FEWEST_SAMPLES) or not meter.affords(0):
                break
        meter.check(FEWEST_SAMPLES)
        return cls(look, settings, meter, turns, now)

    def loss(self, loss: Loss) -> Loss:
        """The loss as it is to be sampled: timed, and not at the weights again."""
        return self.meter.of(loss, (self.look.current, self.now))

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What :func:`analyze_turning` is given after the loss, but for when to end."""
        look, settings, portion = self.look, self.settings, self.meter.portion
        half = half_widths_of(settings, look.chosen)
        # Up to so many reaches of the trajectory the flow is followed.
        far = np.maximum(half, FARTHEST / settings.box.margin * half)
        # The limit is for all evaluations. That of the weights is one of the samples at the centre.
        moved = bool((look.current != 0).any())
        beside = int(moved) if portion.most > FEWEST_SAMPLES else 0
        given = (
            look.current.numpy().clip(-half, half),
            -half,
            half,
            (-far, far) if settings.box.grows else None,
            portion.usual - beside,
            portion.resolution,
            settings.confidence,
            settings.seed,
        )
        return given, {
            "most": portion.most - beside,
            "turns": settings.box.grows and self.turns,
            "reach": partial(reach_along, look.chosen.inside.numpy(), margin=FARTHEST),
        }

    def explored(self, loss: Loss) -> tuple[MorseAnalysis, Array | None]:
        """Analyse the slice: what is found, and how it is turned.

        Raises:
            OutOfTimeError: If there is not time for enough samples.
            SurrogateError: If the samples determine no surrogate.
        """
        given, options = self.arguments()
        options["is_over"] = self.meter.is_over if self.meter.is_limited else None
        try:
            return analyze_turning(self.loss(loss), *given, **options)
        except SurrogateError as error:
            raise self.reason_of(error) from error

    def reason_of(self, error: SurrogateError) -> Exception:
        """The error, or that there was no time for more samples."""
        too_few = OutOfTimeError("there was time for too few samples")
        return too_few if self.meter.was_over else error

    def turned(
        self, result: MorseAnalysis, axes: Array | None, inform: Callable[[str, str], None]
    ) -> Look:
        """The slice as it was turned.

        Args:
            result: What was found.
            axes: How it is turned; None if it is not.
            inform: Takes a message that is no reason to worry, and what it is about.
        """
        self.meter.places = result.seconds.get("sampling", 0.0)
        if axes is None:
            return self.look
        inform(
            "where the weights are heading was open along the directions of the slice, so the "
            "picture is turned along the valley they are in",
            "turned",
        )
        return self.look.turned(axes)
