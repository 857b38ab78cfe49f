"""The arguments of a monitor, checked."""

from __future__ import annotations

import math
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
# Samples of an analysis that is to find their number by itself: fewer decide too little, and more
# of one process tell less and less (of 60 analyses of separable data 7 are open with 320, 6 with
# 512).
FEWEST_AUTO, USUAL_SAMPLES = 48, 112
MOST_AUTO = {1: 320, 2: 320, 3: 512}
# Those of the last analysis of a run, where there is no time for more. Time is kept for three times
# as many: so few seldom answer, and what surrounds them may take longer than it did.
FEWEST_LAST, FEWEST_KEPT = 32, 96
# Cells per axis where the user has not said, and where there is little time.
USUAL_CELLS, COARSE_CELLS = 128, 64
AUTO = "auto"

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
        n_samples: Most loss evaluations per analysis, or ``"auto"``.
        resolution: Grid cells per axis, or ``"auto"``.
        confidence: Level at which the picture has to be true.
        extent: Size of the box as the user gave it.
        probe_batches: Number of training batches to keep.
        max_snapshots: Number of weight vectors to keep along the trajectory.
        seed: Seed of every random choice.
        max_overhead: Largest share of the time that training takes.
        grace: Seconds that are allowed whatever the share.
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
    n_samples: int | str
    resolution: int | str
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
    grace: float = 2.0
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
            value = getattr(self, argument)
            if not (_is_auto(value) and argument in ("n_samples", "resolution")):
                integer_of_at_least(argument, value, least)
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
                "max_overhead must be a share of the time of training in (0, 1], 1 for no limit, "
                f"got {share!r}"
            )
        if type(self.grace) not in (int, float) or not 0 <= self.grace < math.inf:
            raise ValueError(
                f"grace must be a number of seconds of at least 0, got {self.grace!r}. It is what "
                "the callback may take in all whatever max_overhead"
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
    def most_samples(self) -> int | None:
        """The hard limit on evaluations; None if the monitor chooses."""
        return None if isinstance(self.n_samples, str) else self.n_samples

    @property
    def most_wanted(self) -> int:
        """Evaluations of an analysis where time does not matter, at most."""
        return self.most_samples or MOST_AUTO[self.dim]

    @property
    def cells(self) -> int:
        """Grid cells per axis where time does not matter."""
        return USUAL_CELLS if isinstance(self.resolution, str) else self.resolution

    @property
    def may_coarsen(self) -> bool:
        """Whether the grid may be coarser where there is little time."""
        return _is_auto(self.resolution)

    @property
    def coarse_cells(self) -> int:
        """Grid cells per axis where there is little time."""
        return COARSE_CELLS if self.may_coarsen else self.cells

    @property
    def limits_of_time(self) -> str:
        """What limits the time of the monitor, as the user may change it."""
        return f"max_overhead={self.max_overhead:g} with grace={self.grace:g}"

    @property
    def dtype(self) -> torch.dtype:
        """Type in which weights are kept along the trajectory."""
        return SNAPSHOT_DTYPES[self.snapshot_dtype]


def _is_auto(value: object) -> bool:
    return isinstance(value, str) and value == AUTO
