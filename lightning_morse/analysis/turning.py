"""An analysis that may turn its box: along the way of the flow from a point, or along its valley.

First the flow is followed in the box that was asked for. If some of the samples leave it open where
it leads, or the last picture takes back that it leaves, and it seems to leave, more go to narrow
boxes along its way (:mod:`lightning_morse.analysis.corridor`); the last of them is the picture if
the point certainly leaves it, or the flow seems to rest there after all. If it seems to rest, and a
good part of the samples leaves it open where, the others go to a box along the axes of the valley
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
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array, Loss
from lightning_morse.analysis.conclusion import Final
from lightning_morse.analysis.corridor import corridor_along
from lightning_morse.analysis.descent import descend
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.analysis.pipeline import begun
from lightning_morse.analysis.plan import ENOUGH, Plan
from lightning_morse.analysis.question import Question
from lightning_morse.analysis.samples import Samples
from lightning_morse.analysis.stages import Recorded, Stage, fewest
from lightning_morse.analysis.valley import TurnedBox, valley_of
from lightning_morse.analysis.walls import needs_walls, sealed, walls_tried
from lightning_morse.result import MorseAnalysis

# Share of `1 - confidence` for all turned boxes, and how many there are at most: along the way of a
# flow that leaves, and otherwise, to find out where it leads. Of those that it may be shown to stay
# in there is one more in the first case, and up to two in the second.
_SHARE_OF_TURNED, _MOST_ALONG, _MOST_ASKED, _MOST_TURNED = 0.4, 3, 2, 4
# A question that is open is asked in a turned box after this share of the samples, by dimension:
# where the flow seems to leave, and where it seems to rest. On two axes most questions of the
# second kind are decided by then; on three, few. Not before there are so many samples; and what is
# enough for one process is enough to wait for.
_SOON, _PATIENCE, _AT_LEAST = {2: 0.25, 3: 0.2}, {2: 0.7, 3: 0.2}, 48
# Share of the samples that is kept to show that the point at least stays in a box, by dimension.
_KEPT_FOR_WALLS = {2: 0.1, 3: 0.35}


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
    recorded = Recorded(loss)
    given = recorded, start, lower, upper, farthest, n_samples, resolution, level, seed
    question = begun(*given, most, is_over)
    answer = _answered(recorded, question, 1 - share / _MOST_TURNED, reach) if turns else None
    found, axes = answer or (question.conclude(question.decide(sealing=turns)), None)
    if len(recorded) > len(found.samples):  # those in boxes that are not shown count, too
        points = recorded.points if axes is None else recorded.points @ axes
        found = dataclasses.replace(found, samples=points, sample_losses=recorded.losses)
    return dataclasses.replace(found, confidence=confidence), axes


def _answered(
    loss: Recorded,
    question: Question,
    level: float,
    reach: Callable[[Array], Array] | None,
) -> tuple[MorseAnalysis, Array | None] | None:
    """The answer in the first box if there is one, else in a turned one; None if none answers."""
    dim, sampler = len(question.point), question.sampler
    whole = sampler.plan
    picture = _in_the_first_box(question)
    if picture is None:
        return None
    if isinstance(picture, Final):
        return question.conclude(picture), None
    leaves = descend(picture, question.point).leaves
    none = Samples(np.empty((0, dim)), np.empty(0))
    low, up = (question.frame.points_in_units(corner) for corner in question.limits)
    stage = Stage(np.eye(dim), question, picture, none, (low, up), reach)
    before, left = len(loss), sampler.left(whole.most)
    # What the first box would still need to be judged and measured is kept for it.
    plan = dataclasses.replace(whole, most=sampler.tower.n_samples + left)
    # Where the flow seems to leave nothing is kept to show that it stays.
    kept = 0 if leaves else int(_KEPT_FOR_WALLS[dim] * whole.most)
    parts = _parts(max(0, left - kept), fewest(dim, whole.most), even=leaves)
    try:
        found, stage = _answer(loss, stage, level, parts, plan)
        if found is not None:
            return found
        if leaves:
            return _as_far_as_it_is_known(stage)
        return sealed(loss, stage, level, plan, question.n_leaks)
    except (ValueError, np.linalg.LinAlgError):
        return None  # too little is known in a turned box, or it is no box; the first one stands
    finally:  # what has been spent there is not spent again
        sampler.plan = dataclasses.replace(whole, most=whole.most - (len(loss) - before))


def _in_the_first_box(question: Question) -> Final | PhasePortrait | None:
    """The last picture of the first box if it answers, else what is known once it is time to turn.

    Returns:
        None if the samples determine no surrogate.
    """
    point, most = question.point, question.sampler.plan.most
    dim = len(point)
    picture = question.ask(max(int(_SOON[dim] * most), _AT_LEAST))
    if picture is None:
        return None
    if not (question.is_answered(picture) or descend(picture, point).leaves):
        picture = question.ask(max(min(int(_PATIENCE[dim] * most), ENOUGH[dim]), _AT_LEAST))
    if picture is None or not question.is_answered(picture):
        return picture
    final = question.decide(once=picture.certainly_leaves(point))
    is_lost = not question.is_answered(final.portrait) and question.sampler.left(most)
    return final.portrait if is_lost else final


def _answer(
    loss: Recorded, stage: Stage, level: float, parts: list[int], plan: Plan
) -> tuple[tuple[MorseAnalysis, Array] | None, Stage]:
    """The answer in one of the boxes that are turned one after the other, and the last of them.

    Returns:
        None for an answer if there is none.

    Raises:
        SurrogateError: If the samples in one of them determine no surrogate.
    """
    for k, n in enumerate(parts, start=1):
        if k == len(parts) and needs_walls(stage):
            found, stage = walls_tried(loss, stage, level, plan)
            if found is not None:
                return found, stage
        following = _following(loss, stage, level, n, plan)
        if following is None:
            return None, stage
        stage, question = following, following.question
        if stage.picture is not None and stage.is_answered:
            leaves = stage.picture.certainly_leaves(question.point)
            final = question.decide(once=leaves and k < len(parts))
            # Where time is up this has been the last picture.
            if question.is_answered(final.portrait) or question.sampler.is_out_of_time:
                return (question.conclude(final), stage.axes), stage
            stage = dataclasses.replace(stage, picture=final.portrait)
    return None, stage


def _as_far_as_it_is_known(stage: Stage) -> tuple[MorseAnalysis, Array] | None:
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


def _following(loss: Loss, stage: Stage, level: float, n_samples: int, whole: Plan) -> Stage | None:
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
    if not stage.has_room(whole):
        return None
    with question.sampler.clock("sampling"):
        way = descend(picture, question.point)
        if way.leaves:
            box: TurnedBox | None = corridor_along(picture, way)
        else:
            box = valley_of(picture, way)
    if box is None:
        return None
    return stage.asked_in(box, loss, level, n_samples, whole)


def _parts(left: int, least: int, *, even: bool) -> list[int]:
    """So many samples for each turned box.

    Args:
        left: Samples there are.
        least: Those that a box has at least.
        even: Whether all boxes have as many; else a first one, which shows the valley better, has
            few, and another one the rest.
    """
    if left < least:
        return []
    if even:
        n = min(_MOST_ALONG, left // least)
        return [left // n] * n
    return [least, left - least] if left >= _MOST_ASKED * least else [left]
