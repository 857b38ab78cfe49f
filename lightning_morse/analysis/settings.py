"""What is asked of an analysis, apart from the loss: the grid, the level, and how it is reached."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse.analysis.charts import MakeBandOf
from lightning_morse.analysis.design import FEWEST_SAMPLES
from lightning_morse.analysis.ladder import BESIDE_BAND
from lightning_morse.arguments import integer_of_at_least, level_of_confidence
from lightning_morse.bands.gradient import GradientBand, gradient_band, simulated_band
from lightning_morse.gp.process import GaussianProcess, Posterior
from lightning_morse.grids.cubical import CubicalGrid, check_box, check_resolved
from lightning_morse.grids.lattice import Lattice
from lightning_morse.result.frame import Frame

# With fewer cells per axis every cell touches the boundary or its neighbour does: no picture.
_FEWEST_CELLS = 4
# Share of what may fail beside the band for the bounds on the loss around a well.
SHARE_FOR_WELL = 0.5
# Keeps the random numbers of the simulation apart from the other streams of a seed.
_SIMULATION_STREAM = 1


@dataclass(frozen=True, eq=False)
class Settings:
    """The arguments of an analysis that do not depend on the loss, checked.

    Attributes:
        grid: The cubical grid of the outermost box.
        confidence: The level at which everything has to hold, in (0, 1).
        seed: Of everything that is random.
        band: ``"proved"`` or ``"simulated"``.
        share: Share of ``1 - confidence`` with which the band of one box may fail.
    """

    grid: CubicalGrid
    confidence: float
    seed: int
    band: str = "proved"
    share: float = 1.0

    @property
    def failure_beside_band(self) -> float:
        """Probability with which claims may be false although all bands hold."""
        return BESIDE_BAND * (1 - self.confidence)

    @property
    def failure_of_well(self) -> float:
        """The part of it for the bounds on the loss around a well, where one is looked for."""
        return SHARE_FOR_WELL * self.failure_beside_band

    @property
    def confidence_of_box(self) -> float:
        """Level at which the statements on one box have to hold."""
        return self.confidence if self.share == 1 else 1 - self.share * (1 - self.confidence)

    def with_share(self, share: float) -> Settings:
        """The same for a box whose band may fail with another share of the probability."""
        return dataclasses.replace(self, share=share)

    def within(self, frame: Frame) -> Settings:
        """The same with the grid in a frame."""
        return dataclasses.replace(self, grid=frame.grid(self.grid))

    def proved_band(
        self, surrogate: GaussianProcess, lattice: Lattice, posterior: Posterior
    ) -> GradientBand:
        """Band on the gradient that leaves room for the claims beside it."""
        return gradient_band(surrogate, lattice, posterior, self._level_of_band)

    def make_band(
        self, surrogate: GaussianProcess, lattice: Lattice, posterior: Posterior
    ) -> GradientBand:
        """The same, of the kind asked for."""
        if self.band == "proved":
            return self.proved_band(surrogate, lattice, posterior)
        rng = np.random.default_rng([self.seed, _SIMULATION_STREAM])
        return simulated_band(surrogate, lattice, posterior, self._level_of_band, rng)

    def bands(self, share: float) -> MakeBandOf:
        """Makes bands for a share of the probability of failure, or for a part of that share."""
        return lambda part: self.with_share(share * part).make_band

    def proved_bands(self, share: float) -> MakeBandOf:
        """The same, proved ones."""
        return lambda part: self.with_share(share * part).proved_band

    @property
    def _level_of_band(self) -> float:
        level = self.confidence_of_box
        return level + BESIDE_BAND * (1 - level)


def checked_settings(
    lower: ArrayLike,
    upper: ArrayLike,
    n_samples: int,
    resolution: int | Sequence[int],
    confidence: float,
    seed: int,
    band: str,
) -> Settings:
    """Check what does not depend on the loss.

    Raises:
        ValueError: If an argument is out of range, or floats do not resolve the cells.
    """
    low, up = check_box(lower, upper)
    integer_of_at_least("n_samples", n_samples, FEWEST_SAMPLES)
    integer_of_at_least("seed", seed, 0)
    given: Any = resolution
    many = isinstance(given, Sequence) or (isinstance(given, np.ndarray) and given.ndim == 1)
    shape = tuple(given) if many else (given,) * len(low)
    if len(shape) != len(low) or not all(
        isinstance(n, SupportsIndex) and n.__index__() >= _FEWEST_CELLS for n in shape
    ):
        raise ValueError(
            f"resolution must be an integer of at least {_FEWEST_CELLS}, or {len(low)} of them for "
            f"the {len(low)} axes of the box, got {resolution!r}"
        )
    level = level_of_confidence(confidence)
    if band not in ("proved", "simulated"):
        raise ValueError(f"band must be 'proved' or 'simulated', got {band!r}")
    grid = CubicalGrid(low, up, tuple(int(n) for n in shape))
    check_resolved(grid)
    return Settings(grid, level, seed, band)
