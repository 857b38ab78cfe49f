"""A question that is asked in one box after the other, each with axes of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from lightning_morse._typing import Array, Loss
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.analysis.plan import Plan
from lightning_morse.analysis.question import Question
from lightning_morse.analysis.samples import Samples
from lightning_morse.analysis.valley import TurnedBox
from lightning_morse.grids.cubical import CubicalGrid

# Samples that a turned box has at least: this share of all, within these limits, by dimension. Few
# of few still decide (docs/decisions.md).
_SHARE_OF_BOX, _FEWEST, _PLENTY = 0.15, {2: 16, 3: 64}, {2: 48, 3: 64}


def fewest(dim: int, most: int) -> int:
    """Samples that a turned box has at least, where there are so many for all boxes."""
    return min(max(_FEWEST[dim], int(_SHARE_OF_BOX * most)), _PLENTY[dim])


class Recorded:
    """A loss that keeps the points at which it was evaluated, and what it was there."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._points: list[Array] = []
        self._losses: list[torch.Tensor] = []

    def __len__(self) -> int:
        return sum(map(len, self._points))

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """The loss at some points, shape ``(n, d)``, which are noted."""
        values = self._loss(points)
        self._points.append(points.numpy().copy())
        self._losses.append(values)
        return values

    @property
    def points(self) -> Array:
        """The points, in the order in which they were evaluated, shape ``(n, d)``."""
        return np.concatenate(self._points)

    @property
    def losses(self) -> Array:
        """The losses there, shape ``(n,)``."""
        values = [v.detach().to("cpu", torch.float64).numpy() for v in self._losses]
        return np.concatenate(values)


@dataclass(frozen=True, eq=False)
class Stage:
    """The question in one of the boxes, and how far it is answered there.

    Attributes:
        axes: The axes of its coordinates, shape ``(d, d)``.
        question: The question.
        picture: What is known there; None if the samples determine no surrogate.
        outside: Samples of earlier stages outside of the box, in coordinates of the slice.
        limits: Corners of the box beyond which nothing is looked at, likewise.
        reach: How far a turned box may grow beyond them, as in :func:`analyze_turning`.
    """

    axes: Array
    question: Question
    picture: PhasePortrait | None
    outside: Samples
    limits: tuple[Array, Array]
    reach: Callable[[Array], Array] | None

    @property
    def pool(self) -> Samples:
        """All samples so far, in coordinates of the slice."""
        own = self.question.samples
        return self.outside.followed_by(own.points @ self.axes.T, own.losses)

    def limits_of(self, axes: Array, point: Array) -> tuple[Array, Array]:
        """Corners of the box along some axes that one around a point may grow to, there."""
        back, forth = to_limits(axes, axes @ point, self.limits)
        far = np.zeros(len(point)) if self.reach is None else self.reach(axes)
        return np.minimum(point - back, -far), np.maximum(point + forth, far)

    @property
    def is_turned(self) -> bool:
        """Whether its axes are others than those of the slice."""
        return bool((self.axes != np.eye(len(self.axes))).any())

    @property
    def is_answered(self) -> bool:
        """Whether it is certain in which basin the point lies, or that it leaves for good."""
        return self.picture is not None and self.question.is_answered(self.picture)

    def has_room(self, plan: Plan) -> bool:
        """Whether a plan for all boxes leaves enough samples for another one."""
        return plan.most - len(self.pool) >= fewest(len(self.axes), plan.most)

    def further(self, n_samples: int) -> Stage:
        """The same after so many more samples in the same box."""
        picture = self.question.ask(self.question.sampler.tower.n_samples + n_samples)
        return dataclasses.replace(self, picture=picture)

    def asked_in(
        self, box: TurnedBox, loss: Loss, level: float, n_samples: int, plan: Plan
    ) -> Stage:
        """Ask in a turned box.

        Args:
            box: The box, in the coordinates of this stage.
            loss: The loss, in those of the slice.
            level: The level at which the picture has to hold.
            n_samples: So many more at most, beside those that fill it.
            plan: How many there may be in all.

        Raises:
            SurrogateError: If the samples determine no surrogate.
        """
        question, frame = self.question, self.question.frame
        axes, pool = self.axes @ box.axes, self.pool
        point = frame.points_in_units(question.point) @ box.axes
        low, up = self.limits_of(axes, point)
        lower = np.maximum(frame.points_in_units(box.lower), low)
        upper = np.minimum(frame.points_in_units(box.upper), up)
        points = pool.points @ axes
        inside = np.asarray(((points >= lower) & (points <= upper)).all(axis=1))
        n_known = int(inside.sum())
        most = n_known + plan.most - len(pool)
        settings = question.sampler.tower.settings
        grid = CubicalGrid(lower, upper, settings.grid.shape)
        other = Question.of(
            lambda y: loss(torch.from_numpy(y.numpy() @ axes.T)),
            point,
            dataclasses.replace(settings, grid=grid, confidence=level),
            (low, up),
            Plan.of(min(plan.usual, most), len(lower), most),
            question.sampler.clock,
            question.sampler.is_over,
            Samples(points[inside], pool.losses[inside]),
        )
        picture = other.ask(n_known + n_samples)
        return Stage(axes, other, picture, pool.at(~inside), self.limits, self.reach)


def to_limits(axes: Array, point: Array, limits: tuple[Array, Array]) -> tuple[Array, Array]:
    """How far it is from a point to the faces of a box, back and forth along each of some axes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        to_lower = (limits[0] - point)[:, None] / axes
        to_upper = (limits[1] - point)[:, None] / axes
    forth = np.where(axes > 0, to_upper, np.where(axes < 0, to_lower, np.inf)).min(axis=0)
    back = np.where(axes > 0, -to_lower, np.where(axes < 0, -to_upper, np.inf)).min(axis=0)
    return back, forth
