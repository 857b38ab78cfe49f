"""An analysis that may turn its box: along the way of the flow from a point, or along its valley.

First the flow is followed in the box that was asked for. If some of the samples leave it open where
it leads, and it seems to leave, more go to narrow boxes along its way
(:mod:`lightning_morse.analysis.corridor`); the last of them is the picture if the point certainly
leaves it, or the flow seems to rest there after all. If it seems to rest, and a good part of the
samples leaves it open where, the others go to a box along the axes of the valley
(:mod:`lightning_morse.analysis.valley`); if that does not answer either, what is left is to show
that the flow stays (:mod:`lightning_morse.analysis.wells`), on two axes before the last of the
other boxes already. The turned box that answers is the picture. A rotation is orthogonal, so the
gradient flow in turned coordinates is the gradient flow.

**Confidence.** Which picture is shown depends on the samples, so each may be wrong with no more
than a share, fixed beforehand, of ``1 - confidence``; a box that grows shares its own out. By the
union bound the one that is shown is right with probability at least ``confidence``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from lightning_morse._typing import Array, Loss
from lightning_morse.analysis.corridor import corridor_along
from lightning_morse.analysis.descent import descend
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.analysis.pipeline import begun
from lightning_morse.analysis.plan import Plan
from lightning_morse.analysis.question import Question
from lightning_morse.analysis.samples import Samples
from lightning_morse.analysis.valley import TurnedBox, valley_of
from lightning_morse.analysis.vanishing import mean_losses
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.result import MorseAnalysis

# Share of `1 - confidence` for all turned boxes, and how many there are at most: along the way of a
# flow that leaves, and otherwise, to find out where it leads. Of those that it may be shown to stay
# in there is one more in the first case, and up to two in the second.
_SHARE_OF_TURNED, _MOST_ALONG, _MOST_ASKED, _MOST_TURNED = 0.4, 3, 2, 4
# A question that is open is asked in a turned box after this share of the samples, and not before
# there are so many, by dimension: where the flow seems to leave, and where it seems to rest. On two
# axes most questions of the second kind are decided by then; on three, few.
_SOON, _SOONEST = {2: 0.25, 3: 0.2}, {2: 48, 3: 48}
_PATIENCE, _AT_LEAST = {2: 0.6, 3: 0.2}, {2: 112, 3: 48}
# Share of the samples that is kept to show that the point at least stays in a box, by dimension.
_KEPT_FOR_WALLS = {2: 0.1, 3: 0.35}
# How far that box reaches, over how far a paraboloid takes to rise to the height of the point.
_WALLS = 1.7
# Share of the samples that may go to it before other boxes have been tried, where the flow seems to
# rest in one with no walls. On three axes others come first.
_FIRST_FOR_WALLS = {2: 0.25}
# Share of the loss at the point below which a way has come far down.
_FAR_DOWN = 0.1
# So often it grows, each time by this share of its width through faces where the loss is too low.
_MOST_WALLED, _GROWTH = 3, 0.5
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
    reach: Callable[[Array], Array] | None = None,
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
        reach: How far from zero a turned box may grow along each of its axes, given these as
            orthonormal columns, shape ``(d, d)``: half-widths, shape ``(d,)``. If it is not given,
            or less, as far as the two corners allow.

    Returns:
        The analysis, and the axes of its coordinates, orthonormal columns, shape ``(d, d)``: a
        point ``x`` of the given box has the coordinates ``axes.T @ x`` there. None unless the box
        was turned. Then the point lies in a certain basin; or it certainly leaves the turned box,
        which, as far as the mean flow tells, it does at the limits or where next to nothing is left
        of the loss, unless samples or time were up before; or samples are up and it is open where
        the point leads, though the flow seems to rest there. All evaluations are among the samples,
        those in other boxes too.

    Raises:
        ValueError: As :func:`lightning_morse.analysis.pipeline.analyze_from`.
    """
    share = _SHARE_OF_TURNED * (1 - confidence)
    turns = turns and np.size(lower) in _PATIENCE
    level = confidence + share * turns
    recorded = _Recorded(loss)
    given = recorded, start, lower, upper, farthest, n_samples, resolution, level, seed
    question = begun(*given, most, is_over)
    turned = _turned(recorded, question, 1 - share / _MOST_TURNED, reach) if turns else None
    found, axes = turned or (question.conclude(question.decide(sealing=turns)), None)
    if len(recorded) > len(found.samples):  # those in boxes that are not shown count, too
        points = recorded.points if axes is None else recorded.points @ axes
        found = dataclasses.replace(found, samples=points, sample_losses=recorded.losses)
    return dataclasses.replace(found, confidence=confidence), axes


class _Recorded:
    """A loss that keeps the points at which it was evaluated, and what it was there."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._points: list[Array] = []
        self._losses: list[torch.Tensor] = []

    def __len__(self) -> int:
        return sum(map(len, self._points))

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
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
class _Stage:
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
        back, forth = _to_limits(axes, axes @ point, self.limits)
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

    @property
    def needs_walls(self) -> bool:
        """Whether the flow seems to rest where no attractor is known, and the box has no walls.

        Then no samples in the box can show that it stays, but those in a larger one may. Not where
        a way that seemed to leave has come far down: a valley as long as that has no walls nearby.
        """
        point, picture = self.question.point, self.picture
        if len(point) not in _FIRST_FOR_WALLS or picture is None or picture.found.attractors:
            return False
        way = descend(picture, point)
        if way.leaves:
            return False
        if self.is_turned:
            now, at_rest = mean_losses(picture, np.stack([point, way.end]))
            if at_rest < _FAR_DOWN * now:
                return False
        return math.isinf(self.question.n_leaks)

    def further(self, n_samples: int) -> _Stage:
        """The same after so many more samples in the same box."""
        picture = self.question.ask(self.question.sampler.tower.n_samples + n_samples)
        return dataclasses.replace(self, picture=picture)


def _turned(
    loss: _Recorded,
    question: Question,
    level: float,
    reach: Callable[[Array], Array] | None,
) -> tuple[MorseAnalysis, Array] | None:
    """The answer in a turned box; None if the first box answers already, or no turned one does."""
    dim, sampler = len(question.point), question.sampler
    whole = sampler.plan
    picture = _open_after_a_while(question)
    if picture is None:
        return None
    leaves = descend(picture, question.point).leaves
    none = Samples(np.empty((0, dim)), np.empty(0))
    low, up = (question.frame.points_in_units(corner) for corner in question.limits)
    stage = _Stage(np.eye(dim), question, picture, none, (low, up), reach)
    before, left = len(loss), sampler.left(whole.most)
    # What the first box would still need to be judged and measured is kept for it.
    plan = dataclasses.replace(whole, most=sampler.tower.n_samples + left)
    # Where the flow seems to leave nothing is kept to show that it stays.
    kept = 0 if leaves else int(_KEPT_FOR_WALLS[dim] * whole.most)
    parts = _parts(max(0, left - kept), _FEWEST[dim], even=leaves)
    try:
        found, stage = _answer(loss, stage, level, parts, plan)
        if found is not None:
            return found
        if leaves:
            return _as_far_as_it_is_known(stage)
        return _sealed(loss, stage, level, plan, question.n_leaks)
    except (ValueError, np.linalg.LinAlgError):
        return None  # too little is known in a turned box, or it is no box; the first one stands
    finally:  # what has been spent there is not spent again
        sampler.plan = dataclasses.replace(whole, most=whole.most - (len(loss) - before))


def _open_after_a_while(question: Question) -> PhasePortrait | None:
    """The picture of the first box once it is time to turn; None if it answers, or is none."""
    point, most = question.point, question.sampler.plan.most
    dim = len(point)
    picture = question.ask(max(int(_SOON[dim] * most), _SOONEST[dim]))
    if picture is None or question.is_answered(picture):
        return None
    if descend(picture, point).leaves:
        return picture
    picture = question.ask(max(int(_PATIENCE[dim] * most), _AT_LEAST[dim]))
    return None if picture is None or question.is_answered(picture) else picture


def _answer(
    loss: _Recorded, stage: _Stage, level: float, parts: list[int], plan: Plan
) -> tuple[tuple[MorseAnalysis, Array] | None, _Stage]:
    """The answer in one of the boxes that are turned one after the other, and the last of them.

    Returns:
        None for an answer if there is none.

    Raises:
        SurrogateError: If the samples in one of them determine no surrogate.
    """
    for k, n in enumerate(parts, start=1):
        if k == len(parts) and stage.needs_walls:
            found, stage = _walls_tried(loss, stage, level, plan)
            if found is not None:
                return found, stage
        following = _following(loss, stage, level, n, plan)
        if following is None:
            return None, stage
        stage, question = following, following.question
        if stage.is_answered:
            final = question.decide()
            # Where time is up this has been the last picture.
            if question.is_answered(final.portrait) or question.sampler.is_out_of_time:
                return (question.conclude(final), stage.axes), stage
            return None, stage
    return None, stage


def _as_far_as_it_is_known(stage: _Stage) -> tuple[MorseAnalysis, Array] | None:
    """The last turned box of a flow that seems to leave, though it does not answer.

    Returns:
        None unless the point certainly leaves that box, or the flow now seems to rest there. If so,
        that it certainly leaves the first box says nothing of where it goes.
    """
    question, picture = stage.question, stage.picture
    if not stage.is_turned or picture is None:
        return None
    seems_to_rest = not descend(picture, question.point).leaves
    if not (seems_to_rest or picture.is_decided(question.point)):
        return None
    final = question.decide()
    if not (seems_to_rest or final.portrait.is_decided(question.point)):
        return None
    return question.conclude(final), stage.axes


def _walls_tried(
    loss: _Recorded, stage: _Stage, level: float, plan: Plan
) -> tuple[tuple[MorseAnalysis, Array] | None, _Stage]:
    """The answer in a box that the flow stays in, if a part of the samples shows that.

    Returns:
        None for an answer if they do not, and the stage with what has been sampled.
    """
    before, sampler = len(loss), stage.question.sampler
    most = len(stage.pool) + int(_FIRST_FOR_WALLS[len(stage.question.point)] * plan.most)
    plan = dataclasses.replace(plan, most=min(plan.most, most))
    found = _sealed(loss, stage, level, plan, math.inf)
    new = Samples(loss.points[before:], loss.losses[before:])
    sampler.plan = dataclasses.replace(sampler.plan, most=sampler.plan.most - len(new))
    beside = stage.outside.followed_by(new.points, new.losses)
    return found, dataclasses.replace(stage, outside=beside)


def _sealed(
    loss: Loss, stage: _Stage, level: float, plan: Plan, n_leaks: float
) -> tuple[MorseAnalysis, Array] | None:
    """A box along the valley that the flow from the point certainly stays in.

    Args:
        loss: The loss.
        stage: The last stage.
        level: The level for this box.
        plan: How many samples there may be in all.
        n_leaks: Through how many cells the flow may leave the first box; infinite if it seems to.

    Returns:
        None if there is no such box, or it seems easier to show that the flow stays in the first.

    Raises:
        SurrogateError: As :func:`_answer`.
    """
    question, picture = stage.question, stage.picture
    if picture is None or question.sampler.is_out_of_time:
        return None
    if plan.most - len(stage.pool) < _FEWEST[len(question.point)]:
        return None
    with question.sampler.clock("sampling"):
        valley = valley_of(picture, descend(picture, question.point), _WALLS)
    other = None if valley is None else _walled(loss, stage, level, plan, valley)
    if other is None or other.question.n_leaks >= n_leaks:
        return None
    final = other.question.decide(sealing=True)
    if not final.portrait.label_at(other.question.point) >= 0:
        return None
    return other.question.conclude(final), other.axes


def _walled(loss: Loss, stage: _Stage, level: float, plan: Plan, box: TurnedBox) -> _Stage | None:
    """Ask in a turned box that grows until by the mean the loss is higher on all of its faces.

    Returns:
        None if it does not come to that.
    """
    level = 1 - (1 - level) / _MOST_WALLED
    for _ in range(_MOST_WALLED):
        stage = _asked_in(box, loss, stage, level, 0, plan)
        question = stage.question
        survey = question.sampler.survey(question.point)
        if survey is None:
            return None
        open_faces = survey.open_faces()
        if not open_faces.any():
            return stage
        grid = question.sampler.tower.settings.grid
        beyond = _GROWTH * (grid.upper - grid.lower)
        lower = grid.lower - open_faces[:, 0] * beyond
        upper = grid.upper + open_faces[:, 1] * beyond
        box = TurnedBox(np.eye(len(beyond)), lower, upper)
    return None


def _following(
    loss: Loss, stage: _Stage, level: float, n_samples: int, whole: Plan
) -> _Stage | None:
    """Ask further in a turned box that holds an attractor, else in one along the way or the valley.

    Returns:
        None if the picture shows neither, samples have run out, or time is up.

    Raises:
        SurrogateError: As :func:`_answer`.
    """
    question, picture = stage.question, stage.picture
    if picture is None or question.sampler.is_out_of_time:
        return None
    if stage.is_turned and picture.found.attractors:
        return stage.further(n_samples)
    if whole.most - len(stage.pool) < _FEWEST[len(question.point)]:
        return None
    with question.sampler.clock("sampling"):
        way = descend(picture, question.point)
        if way.leaves:
            box: TurnedBox | None = corridor_along(picture, way)
        else:
            box = valley_of(picture, way)
    if box is None:
        return None
    return _asked_in(box, loss, stage, level, n_samples, whole)


def _asked_in(
    box: TurnedBox, loss: Loss, stage: _Stage, level: float, n_samples: int, whole: Plan
) -> _Stage:
    """Ask in a turned box; raises as :func:`_answer`."""
    question, frame = stage.question, stage.question.frame
    axes, pool = stage.axes @ box.axes, stage.pool
    point = frame.points_in_units(question.point) @ box.axes
    low, up = stage.limits_of(axes, point)
    lower = np.maximum(frame.points_in_units(box.lower), low)
    upper = np.minimum(frame.points_in_units(box.upper), up)
    points = pool.points @ axes
    inside = np.asarray(((points >= lower) & (points <= upper)).all(axis=1))
    n_known = int(inside.sum())
    most = n_known + whole.most - len(pool)
    settings = question.sampler.tower.settings
    grid = CubicalGrid(lower, upper, settings.grid.shape)
    other = Question.of(
        lambda y: loss(torch.from_numpy(y.numpy() @ axes.T)),
        point,
        dataclasses.replace(settings, grid=grid, confidence=level),
        (low, up),
        Plan.of(min(whole.usual, most), len(lower), most),
        question.sampler.clock,
        question.sampler.is_over,
        Samples(points[inside], pool.losses[inside]),
    )
    picture = other.ask(n_known + n_samples)
    return _Stage(axes, other, picture, pool.at(~inside), stage.limits, stage.reach)


def _to_limits(axes: Array, point: Array, limits: tuple[Array, Array]) -> tuple[Array, Array]:
    """How far it is from a point to the faces of a box, back and forth along each of some axes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        to_lower = (limits[0] - point)[:, None] / axes
        to_upper = (limits[1] - point)[:, None] / axes
    forth = np.where(axes > 0, to_upper, np.where(axes < 0, to_lower, np.inf)).min(axis=0)
    back = np.where(axes > 0, -to_lower, np.where(axes < 0, -to_upper, np.inf)).min(axis=0)
    return back, forth


def _parts(left: int, fewest: int, *, even: bool) -> list[int]:
    """So many samples for each turned box.

    Args:
        left: Samples there are.
        fewest: Those that a box has at least.
        even: Whether all boxes have as many; else a first one, which shows the valley better, has
            few, and another one the rest.
    """
    if left < fewest:
        return []
    if even:
        n = min(_MOST_ALONG, left // fewest)
        return [left // n] * n
    return [fewest, left - fewest] if left >= _MOST_ASKED * fewest else [left]
