"""Checks of a monitor's arguments that need the Trainer or the network."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_morse.slices.directions import DirectionSource


def check_name(name: str, others: Sequence[str]) -> None:
    """Refuse a monitor whose metrics would be named like those of another of the same Trainer.

    Raises:
        ValueError: If the name is taken.
    """
    if name in others:
        raise ValueError(
            f"name must differ between the monitors of one Trainer, got {name!r} twice. "
            "Give one of them another name; its metrics then start with that"
        )


def check_directions_of_sharded(source: DirectionSource) -> None:
    """Refuse directions that no process can hold.

    Raises:
        ValueError: If they are neither principal nor random.
    """
    if source.kind not in ("pca", "random"):
        raise ValueError(
            "directions must be 'pca' or 'random' where weights are sharded, got "
            f"{source.kind!r}: no process holds directions as long as all the weights"
        )
