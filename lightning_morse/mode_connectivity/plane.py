"""The plane through three sets of weights: in which basins of the flow they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lightning_morse._typing import Array
from lightning_morse.analysis.pipeline import analyze
from lightning_morse.mode_connectivity.point_loss import LossAtWeights
from lightning_morse.mode_connectivity.weights import GivenWeights
from lightning_morse.plotting.basins import plot_basins
from lightning_morse.result import MorseAnalysis
from lightning_morse.slices.subspace import AffineSubspace, plane_through

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Room around the three points on each side, as a share of the longer extent of the triangle: the
# minima that weights are on their way to may well lie outside it.
_MARGIN = 0.5


@dataclass(frozen=True, eq=False)
class PlaneOfThree:
    """The analysis of the plane through three sets of weights.

    Attributes:
        analysis: Morse graph and basins of the gradient flow in the plane.
        subspace: The plane.
        sets: Numbers of the three.
        corners: Their coordinates in the plane, shape ``(3, 2)``.
        names: What they are called.
    """

    analysis: MorseAnalysis
    subspace: AffineSubspace
    sets: tuple[int, int, int]
    corners: Array
    names: tuple[str, str, str]

    @property
    def basins(self) -> tuple[int, int, int]:
        """As :meth:`MorseAnalysis.basin_of` at each: -1 undecided, -2 where the flow leaves."""
        first, second, third = self.analysis.basin_of(self.corners).tolist()
        return first, second, third

    def in_one_basin(self, a: int, b: int) -> bool | None:
        """Whether two of the sets certainly lie in one basin of the flow in the plane.

        Args:
            a: Number of one of :attr:`sets`.
            b: Number of another.

        Returns:
            None where that is not certain.
        """
        first, second = (self.basins[self.sets.index(n)] for n in (a, b))
        return first == second if min(first, second) >= 0 else None

    def figure(self) -> Figure:
        """Draw the basins, with the three sets as corners of a path."""
        start, end, star = self.names
        title = f"path: {start} to {end}, star: {star}"
        return plot_basins(self.analysis, self.corners[:2], self.corners[2], title=title)


@dataclass(frozen=True, eq=False)
class Landscape:
    """The loss of a network, and sets of its weights.

    Attributes:
        loss: The loss at flat weights.
        given: The sets.
    """

    loss: LossAtWeights
    given: GivenWeights

    def on_line(self, i: int, j: int, share: float) -> float:
        """The loss at a share of the way from one set to another."""
        return self.loss(torch.lerp(self.given.flats[i], self.given.flats[j], share))

    def plane(
        self,
        sets: tuple[int, int, int],
        confidence: float,
        n_samples: int,
        resolution: int,
        seed: int,
    ) -> PlaneOfThree:
        """As :meth:`Connectivity.plane`."""
        chosen = [self.given.flats[n] for n in sets]
        subspace = plane_through(chosen)
        corners = subspace.project(torch.stack(chosen)).numpy()
        margin = _MARGIN * np.ptp(corners, axis=0).max()

        def loss(x: Tensor) -> Tensor:
            return torch.tensor([self.loss(subspace.point(row)) for row in x], dtype=torch.float64)

        analysis = analyze(
            loss,
            corners.min(axis=0) - margin,
            corners.max(axis=0) + margin,
            n_samples=n_samples,
            resolution=resolution,
            confidence=confidence,
            seed=seed,
        )
        return PlaneOfThree(analysis, subspace, sets, corners, _three(self.given.names, sets))


def _three(names: Sequence[str], sets: Sequence[int]) -> tuple[str, str, str]:
    first, second, third = (names[n] for n in sets)
    return first, second, third
