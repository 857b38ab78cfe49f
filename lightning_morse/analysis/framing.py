"""A loss seen from the frame in which it is analysed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lightning_morse._typing import Array, Loss
from lightning_morse.analysis.samples import Samples, evaluate, evaluate_until
from lightning_morse.result.frame import Frame


def framed(loss: Loss, frame: Frame) -> Loss:
    """The loss with points and values in a frame.

    Args:
        loss: As in :func:`lightning_morse.analyze`, in units of its own.
        frame: The frame.
    """

    def inside(points: torch.Tensor) -> torch.Tensor:
        values = evaluate(loss, frame.points_in_units(points.numpy()))
        return torch.from_numpy(frame.losses(values))

    return inside


def first_in_frame(
    loss: Loss, points: Array, frame: Frame, is_over: Callable[[], bool] | None = None
) -> Samples:
    """The first samples, which together fix the exponent of the loss.

    Args:
        loss: As in :func:`lightning_morse.analyze`, in units of its own.
        points: Where to evaluate it, in the frame, shape ``(n, d)``.
        frame: The frame.
        is_over: As in :func:`lightning_morse.analysis.samples.evaluate_until`.
    """
    _, losses = evaluate_until(loss, frame.points_in_units(points), is_over)
    return Samples(points[: len(losses)], frame.losses(losses))
