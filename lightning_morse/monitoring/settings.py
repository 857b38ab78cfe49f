"""The arguments of a monitor, checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from lightning_morse.analysis.design import FEWEST_SAMPLES
from lightning_morse.arguments import integer_of_at_least, level_of_confidence
from lightning_morse.monitoring.extent import Extent, given_extent
from lightning_morse.monitoring.memory import bytes_of
from lightning_morse.monitoring.snapshot_map import DYNAMICS
from lightning_morse.slices.batch_statistics import checked_choice
from lightning_morse.slices.directions import FEWEST_FOR_PCA

# Limits of usefulness and cost; soundness depends on none of them.
MOST_DIMENSIONS = 3
FEWEST_CELLS = 4  # per axis: a coarser grid separates nothing
FEWEST_SNAPSHOTS = FEWEST_FOR_PCA

SNAPSHOT_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Settings:
    """What a monitor was asked for; :class:`lightning_morse.MorseMonitor` explains each.

    Attributes:
        dim: Dimension of the slice.
        n_samples: Loss evaluations per analysis.
        resolution: Grid cells per axis.
        confidence: Level at which the picture has to be true.
        extent: Size of the box as the user gave it.
        probe_batches: Number of training batches to keep.
        max_snapshots: Number of weight vectors to keep along the trajectory.
        seed: Seed of every random choice.
        max_overhead: Largest share of the wall time.
        snapshot_dtype: Name of the type of the kept weights.
        on_error: ``"warn"`` or ``"raise"``.
        name: Name of the monitor.
        dynamics: Whose Morse graph to make.
        batch_norm: ``"batch"`` or ``"running"``.
        max_memory: Bytes that may be kept between analyses; None for a share of what is free.

    Raises:
        ValueError: If one is out of range.
    """

    dim: int
    n_samples: int
    resolution: int
    confidence: float
    extent: str | float | Sequence[float]
    probe_batches: int
    max_snapshots: int
    seed: int
    max_overhead: float
    snapshot_dtype: str
    on_error: str
    name: str
    dynamics: str
    batch_norm: str
    max_memory: int | str | None = None

    def __post_init__(self) -> None:
        for argument, least in (
            ("dim", 1),
            ("n_samples", FEWEST_SAMPLES),
            ("resolution", FEWEST_CELLS),
            ("probe_batches", 1),
            ("max_snapshots", FEWEST_SNAPSHOTS),
            ("seed", 0),
        ):
            integer_of_at_least(argument, getattr(self, argument), least)
        if self.dim > MOST_DIMENSIONS:
            raise ValueError(
                f"dim must be 1, 2 or 3, got {self.dim}: the cells of a grid grow with its power"
            )
        level_of_confidence(self.confidence)
        for argument, choices in (
            ("snapshot_dtype", tuple(SNAPSHOT_DTYPES)),
            ("dynamics", DYNAMICS),
        ):
            if getattr(self, argument) not in choices:
                raise ValueError(
                    f"{argument} must be one of {', '.join(map(repr, choices))}, got "
                    f"{getattr(self, argument)!r}"
                )
        if self.on_error not in ("warn", "raise"):
            raise ValueError(f"on_error must be 'warn' or 'raise', got {self.on_error!r}")
        checked_choice(self.batch_norm)
        share = self.max_overhead
        if type(share) not in (int, float) or not 0 < share <= 1:
            raise ValueError(
                "max_overhead must be a share of the wall time in (0, 1], 1 for no limit, got "
                f"{share!r}"
            )
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w.-]+", self.name):
            raise ValueError(
                f"name must be letters, digits, '_', '-' or '.', got {self.name!r}. It goes before "
                "the slash in the names of the metrics"
            )
        if self.max_memory is not None:
            bytes_of(self.max_memory)
        _ = self.box

    @cached_property
    def box(self) -> Extent:
        """The size of the box, read from ``extent``."""
        return given_extent(self.extent, self.dim)

    @property
    def dtype(self) -> torch.dtype:
        """Type in which weights are kept along the trajectory."""
        return SNAPSHOT_DTYPES[self.snapshot_dtype]
