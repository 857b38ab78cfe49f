"""What is said, once, about the loss that analyses see."""

from __future__ import annotations

from collections.abc import Callable

from lightning_morse.distributed.errors import cause, origin
from lightning_morse.slices.batch_statistics import Statistics
from lightning_morse.slices.loss_slice import LossSlice

# Takes a message, and what it is about or what identifies its cause.
Tell = Callable[[str, str], None]

# Names listed of what a step writes to: the first ones tell what it is about.
_MOST_NAMES = 5


def tell_of_steps(loss: LossSlice, warn: Tell) -> None:
    """Say what the steps did that the run did not get to see.

    Args:
        loss: The loss, evaluated.
        warn: Takes a warning.
    """
    if loss.kept_away:
        names = ", ".join(loss.kept_away[:_MOST_NAMES])
        warn(f"the step writes to {names}; analyses keep that away from the run", "writes")
    if loss.conceded:
        warn(
            f"the loss can only be evaluated {' and '.join(loss.conceded)}; so it is in analyses",
            "conceded",
        )
    if loss.fault is not None:
        warn(
            "at some points of the slice the loss cannot be evaluated, and counts as diverged "
            f"({cause(loss.fault)})",
            origin(loss.fault),
        )


def tell_of_statistics(found: Statistics, batch_norm: str, warn: Tell, inform: Tell) -> None:
    """Say which statistics the loss is evaluated with.

    Args:
        found: What layers use.
        batch_norm: What the user asked for.
        warn: Takes a warning.
        inform: Takes a message that is no reason to worry.
    """
    if found.layers:
        inform(
            f"{len(found.of_batch)} of {len(found.layers)} layers that keep running statistics "
            f"use those of the batch in analyses (batch_norm={batch_norm!r})",
            "statistics",
        )
    for layers, why in (
        (found.too_few, "a probe batch has only one value per channel"),
        (found.exchanging, "they would exchange statistics with other processes"),
    ):
        if layers:
            names = ", ".join(list(layers)[:_MOST_NAMES])
            warn(f"analyses use the running statistics of {names}: {why}", why)
