"""What an analysis of a run looks at, and what it finds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_morse._typing import Array
from lightning_morse.result import MorseAnalysis
from lightning_morse.slices.directions import Coverage, Slice
from lightning_morse.slices.subspace import AffineSubspace


@dataclass(frozen=True, eq=False)
class View:
    """Training as seen in the slice of an analysis: what figures and records show beside it.

    Attributes:
        trajectory: Snapshots of the run, oldest first, slice coordinates, shape ``(T, d)``.
        current: The weights at the analysis, shape ``(d,)``.
        axis_labels: One label per axis.
        title: When this was.
        identities: Identity of each attractor, by the number of its Morse set.
        verdict: What becomes of the weights, in a sentence.
        loss_of: What the loss is evaluated on, in words; empty if that is whole probe batches.
    """

    trajectory: Array
    current: Array
    axis_labels: list[str]
    title: str
    identities: dict[int, int]
    verdict: str = ""
    loss_of: str = ""


@dataclass(frozen=True, eq=False)
class Findings:
    """What an analysis of a run found.

    Attributes:
        scalars: Its scalars, by bare name.
        basins: Share of the box of each certain basin, by identity, largest first.
        result: The analysis; None in any process but the first.
        view: Training in its slice; None likewise.
        loss: The loss of the weights; None if unknown.
    """

    scalars: dict[str, float]
    basins: dict[int, float]
    result: MorseAnalysis | None = None
    view: View | None = None
    loss: float | None = None


@dataclass(frozen=True, eq=False)
class Look:
    """The slice of an analysis, and training projected onto it.

    Attributes:
        chosen: The slice.
        current: The current weights, slice coordinates, shape ``(d,)``.
        trajectory: Snapshots of the run, likewise, shape ``(T, d)``.
        coverage: How much of the trajectory the slice shows.
    """

    chosen: Slice
    current: Tensor
    trajectory: Tensor
    coverage: Coverage

    @property
    def subspace(self) -> AffineSubspace:
        """The affine subspace of the slice."""
        return self.chosen.subspace

    def turned(self, axes: Array) -> Look:
        """The same in other coordinates of the slice.

        Args:
            axes: Orthonormal columns, shape ``(d, d)``: a point ``x`` has the coordinates
                ``axes.T @ x`` there.
        """
        columns = torch.from_numpy(axes)
        trajectory = self.trajectory @ columns
        along = (trajectory - self.current @ columns).square().sum(dim=0)
        share = self.coverage.explained / float(along.sum()) if along.any() else 0.0
        shares = tuple((share * along).tolist())
        coverage = dataclasses.replace(self.coverage, shares=shares)
        return Look(self.chosen.turned(columns), self.current @ columns, trajectory, coverage)


@dataclass(frozen=True, eq=False)
class Explored:
    """What the slice of an analysis shows.

    Attributes:
        look: The slice, turned as the analysis is.
        result: The analysis.
        loss_now: The loss at the current weights; NaN if it was not evaluated.
        training: Scalars that compare training with the flow of the slice.
        loss_before: The loss where training began, seen in the slice; None if it is not known, or
            the weights are in a basin.
    """

    look: Look
    result: MorseAnalysis
    loss_now: float
    training: dict[str, float]
    loss_before: float | None = None
