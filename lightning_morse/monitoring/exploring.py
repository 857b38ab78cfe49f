"""The loss on a slice that has been chosen: the box that is analysed, and keeping to time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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


def explore_loss(
    loss: Loss,
    look: Look,
    settings: Settings,
    meter: Meter,
    inform: Callable[[str, str], None],
    *,
    turns: bool,
) -> tuple[Look, MorseAnalysis, float]:
    """Analyse the loss on a slice.

    Args:
        loss: The loss at points of the slice.
        look: The slice, and where the weights are in it.
        settings: What the user asked for.
        meter: Says how large the analysis is, takes its time, and says when that is up.
        inform: Takes a message that is no reason to worry, and what it is about.
        turns: Whether the picture may be turned where the question of the weights stays open.

    Returns:
        The slice as it is turned, the analysis, and the loss of the weights.

    Raises:
        OutOfTimeError: If there is not time for enough samples.
        SurrogateError: If the samples determine no surrogate.
    """
    current = look.current
    # Before any other point: what fails here is no matter of the point, and batches that the step
    # skips here are no part of the probe set.
    for _ in range(TRIES):  # the first one may have waited for something
        now = float(meter.of(loss)(current[None])[0])
        if meter.affords(FEWEST_SAMPLES) or not meter.affords(0):
            break
    meter.check(FEWEST_SAMPLES)
    half = half_widths_of(settings, look.chosen)
    start = current.numpy().clip(-half, half)
    # Up to so many reaches of the trajectory the flow is followed.
    far = np.maximum(half, FARTHEST / settings.box.margin * half)
    portion = meter.portion
    # The limit is for all evaluations. That of the weights is one of the samples at the centre.
    beside = int(bool((current != 0).any())) if portion.most > FEWEST_SAMPLES else 0
    try:
        result, axes = analyze_turning(
            meter.of(loss, (current, now)),
            start,
            -half,
            half,
            (-far, far) if settings.box.grows else None,
            portion.usual - beside,
            portion.resolution,
            settings.confidence,
            settings.seed,
            most=portion.most - beside,
            is_over=meter.is_over if meter.is_limited else None,
            turns=settings.box.grows and turns,
            reach=partial(reach_along, look.chosen.inside.numpy(), margin=FARTHEST),
        )
    except SurrogateError as error:
        if meter.was_over:
            raise OutOfTimeError("there was time for too few samples") from error
        raise
    meter.places = result.seconds.get("sampling", 0.0)
    if axes is None:
        return look, result, now
    inform(
        "where the weights are heading was open along the directions of the slice, so the "
        "picture is turned along the valley they are in",
        "turned",
    )
    return look.turned(axes), result, now
