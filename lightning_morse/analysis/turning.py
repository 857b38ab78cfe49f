"""An analysis that may turn its box: along the valley that the flow from a point leads into.

First the flow is followed in the box that was asked for. If a good part of the samples leaves it
open where it leads, the rest goes to a box along the axes of the valley
(:mod:`lightning_morse.analysis.valley`), and if that answers, it is the picture. A rotation is
orthogonal, so the gradient flow in turned coordinates is the gradient flow.

**Confidence.** Which of two pictures is shown depends on the samples, so each may be wrong with a
share of ``1 - confidence`` only that was fixed before, and the one that is shown is right with
probability at least ``confidence`` by the union bound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from lightning_morse._typing import Array, Loss
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.analysis.pipeline import begun
from lightning_morse.analysis.plan import Plan
from lightning_morse.analysis.question import Question
from lightning_morse.analysis.samples import Samples
from lightning_morse.analysis.valley import Valley, valley_at
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.result import MorseAnalysis

# Share of `1 - confidence` for all turned boxes, and how many there are at most.
_SHARE_OF_TURNED, _MOST_TURNED = 0.4, 2
# A question that is open is asked in a turned box after this share of the samples, and not before
# there are so many, by dimension. On two axes most questions are decided by then; on three, few.
_PATIENCE = {2: 0.6, 3: 0.2}
_AT_LEAST = {2: 112, 3: 48}
# Samples that a turned box has at least.
_FEWEST = {2: 48, 3: 64}


def analyze_turning(
    loss: Loss,
    start: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    farthest: tuple[ArrayLike, ArrayLike] | None = None,
    n_samples: int = 128,
    resolution: int | Sequence[int] = 128,
    confidence: float = 0.95,
    seed: int = 0,
    most: int | None = None,
    is_over: Callable[[], bool] | None = None,
    turns: bool = True,
) -> tuple[MorseAnalysis, Array | None]:
    """Analyse a loss around a point, in a turned box if need be.

    Args:
        loss: As in :func:`lightning_morse.analyze`.
        start: As in :func:`lightning_morse.analysis.pipeline.analyze_from`, as all others.
        lower: Lower corner of the box to begin with, shape ``(d,)``.
        upper: Upper corner, same shape.
        farthest: The two corners of the box that it may grow to.
        n_samples: Loss evaluations as a rule.
        resolution: Cells per axis.
        confidence: The level at which what is shown has to be right.
        seed: Of everything that is random.
        most: Most loss evaluations.
        is_over: Says that time is up.
        turns: Whether the box may be turned; if not, this is
            :func:`lightning_morse.analysis.pipeline.analyze_from`.

    Returns:
        The analysis, and the axes of its coordinates, orthonormal columns, shape ``(d, d)``: a
        point ``x`` of the given box has the coordinates ``axes.T @ x`` there. None unless the box
        was turned; then the point lies in a certain basin, or certainly leaves the farthest box
        or for where next to nothing is left of the loss.

    Raises:
        ValueError: As :func:`lightning_morse.analysis.pipeline.analyze_from`.
    """
    share = _SHARE_OF_TURNED * (1 - confidence)
    turns = turns and np.size(lower) in _PATIENCE
    level = confidence + share * turns
    counted = _Counted(loss)
    given = counted, start, lower, upper, farthest, n_samples, resolution, level, seed
    question = begun(*given, most, is_over)
    turned = _turned(counted, question, 1 - share / _MOST_TURNED) if turns else None
    found, axes = turned or (question.conclude(question.decide()), None)
    return dataclasses.replace(found, confidence=confidence), axes


class _Counted:
    """A loss that counts the points at which it is evaluated."""

    def __init__(self, loss: Loss) -> None:
        self._loss, self.n = loss, 0

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        self.n += len(points)
        return self._loss(points)


@dataclass(frozen=True, eq=False)
class _Stage:
    """The question in one of the boxes, and how far it is answered there.

    Attributes:
        axes: The axes of its coordinates, shape ``(d, d)``.
        question: The question.
        picture: What is known there; None if the samples determine no surrogate.
        outside: Samples of earlier stages outside of the box, in coordinates of the slice.
    """

    axes: Array
    question: Question
    picture: PhasePortrait | None
    outside: Samples

    @property
    def pool(self) -> Samples:
        """All samples so far, in coordinates of the slice."""
        own = self.question.samples
        return self.outside.followed_by(own.points @ self.axes.T, own.losses)

    @property
    def is_answered(self) -> bool:
        """Whether it is certain in which basin the point lies, or that it leaves for good."""
        return self.picture is not None and self.question.is_answered(self.picture)

    def further(self, n_samples: int) -> _Stage:
        """The same after so many more samples in the same box."""
        picture = self.question.ask(self.question.sampler.tower.n_samples + n_samples)
        return dataclasses.replace(self, picture=picture)


def _turned(loss: _Counted, question: Question, level: float) -> tuple[MorseAnalysis, Array] | None:
    """The answer in a turned box; None if there was one before, or there is none in them either."""
    dim, sampler = len(question.point), question.sampler
    whole = sampler.plan
    picture = question.ask(max(int(_PATIENCE[dim] * whole.most), _AT_LEAST[dim]))
    none = Samples(np.empty((0, dim)), np.empty(0))
    stage = _Stage(np.eye(dim), question, picture, none)
    if picture is None or picture.is_decided(question.point):
        return None
    before, left = loss.n, sampler.left(whole.most)
    # What the first box would still need to be judged and measured is kept for it.
    plan = dataclasses.replace(whole, most=sampler.tower.n_samples + left)
    try:
        return _answer(loss, stage, level, _parts(left, _FEWEST[dim]), plan)
    except SurrogateError:  # too little is known in a turned box
        return None
    finally:  # what has been spent there is not spent again
        sampler.plan = dataclasses.replace(whole, most=whole.most - (loss.n - before))


def _answer(
    loss: Loss, stage: _Stage, level: float, parts: list[int], plan: Plan
) -> tuple[MorseAnalysis, Array] | None:
    """The answer in one of the boxes that are turned one after the other; None if there is none.

    Raises:
        SurrogateError: If the samples in one of them determine no surrogate.
    """
    for n in parts:
        following = _following(loss, stage, level, n, plan)
        if following is None:
            return None
        stage = following
        if stage.is_answered:
            final = stage.question.decide()
            is_kept = stage.question.is_answered(final.portrait)
            return (stage.question.conclude(final), stage.axes) if is_kept else None
    return None


def _following(
    loss: Loss, stage: _Stage, level: float, n_samples: int, whole: Plan
) -> _Stage | None:
    """Ask further in a turned box that holds an attractor, else in the box along the valley.

    Returns:
        None if the picture shows no valley, or time is up.

    Raises:
        SurrogateError: As :func:`_answer`.
    """
    question, picture, sampler = stage.question, stage.picture, stage.question.sampler
    if picture is None or (sampler.is_over is not None and sampler.is_over()):
        return None
    is_turned = bool((stage.axes != np.eye(len(stage.axes))).any())
    if is_turned and picture.found.attractors:
        return stage.further(n_samples)
    with question.clock("sampling"):
        valley = valley_at(picture, question.point)
    if valley is None:
        return None
    return _asked_in(valley, loss, stage, level, n_samples, whole)


def _asked_in(
    valley: Valley, loss: Loss, stage: _Stage, level: float, n_samples: int, whole: Plan
) -> _Stage:
    """Ask in the box of a valley; raises as :func:`_answer`."""
    question, frame = stage.question, stage.question.frame
    axes, pool = stage.axes @ valley.axes, stage.pool
    lower, upper = frame.points_in_units(valley.lower), frame.points_in_units(valley.upper)
    points = pool.points @ axes
    inside = np.asarray(((points >= lower) & (points <= upper)).all(axis=1))
    n_known = int(inside.sum())
    far = [frame.points_in_units(corner) for corner in question.limits]
    middle, reach = 0.5 * (far[0] + far[1]), 0.5 * (far[1] - far[0])
    middle, reach = middle @ valley.axes, reach @ np.abs(valley.axes)
    most = n_known + whole.most - len(pool)
    settings = question.sampler.tower.settings
    grid = CubicalGrid(lower, upper, settings.grid.shape)
    other = Question.of(
        lambda y: loss(torch.from_numpy(y.numpy() @ axes.T)),
        frame.points_in_units(question.point) @ valley.axes,
        dataclasses.replace(settings, grid=grid, confidence=level),
        (np.minimum(middle - reach, lower), np.maximum(middle + reach, upper)),
        Plan.of(min(whole.usual, most), len(lower), most),
        question.clock,
        question.sampler.is_over,
        Samples(points[inside], pool.losses[inside]),
    )
    picture = other.ask(n_known + n_samples)
    return _Stage(axes, other, picture, pool.at(~inside))


def _parts(left: int, fewest: int) -> list[int]:
    """So many samples for a first box, which shows the valley better, and the rest for another."""
    if left < fewest:
        return []
    return [fewest, left - fewest] if left >= _MOST_TURNED * fewest else [left]
