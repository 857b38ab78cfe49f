"""A turned box whose faces are so high that the flow from a point certainly stays inside.

What is certain then is said by :mod:`lightning_morse.analysis.wells`; here it is looked for.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from lightning_morse._typing import Array, Loss
from lightning_morse.analysis.descent import descend
from lightning_morse.analysis.plan import Plan
from lightning_morse.analysis.samples import Samples
from lightning_morse.analysis.stages import Recorded, Stage
from lightning_morse.analysis.valley import TurnedBox, valley_of
from lightning_morse.analysis.vanishing import mean_losses
from lightning_morse.result import MorseAnalysis

# How far that box reaches, over how far a paraboloid takes to rise to the height of the point.
_WALLS = 1.7
# Share of the samples that may go to it before other boxes have been tried, where the flow seems to
# rest in one with no walls. On three axes others come first.
_FIRST_FOR_WALLS = {2: 0.25}
# Share of the loss at the point below which a way has come far down.
_FAR_DOWN = 0.1
# So often it grows, each time by this share of its width through faces where the loss is too low.
_MOST_WALLED, _GROWTH = 3, 0.5


def needs_walls(stage: Stage) -> bool:
    """Whether the flow seems to rest where no attractor is known, and the box has no walls.

    Then no samples in the box can show that it stays, but those in a larger one may. Not where
    a way that seemed to leave has come far down: a valley as long as that has no walls nearby.
    """
    point, picture = stage.question.point, stage.picture
    if len(point) not in _FIRST_FOR_WALLS or picture is None or picture.found.attractors:
        return False
    way = descend(picture, point)
    if way.leaves:
        return False
    if stage.is_turned:
        now, at_rest = mean_losses(picture, np.stack([point, way.end]))
        if at_rest < _FAR_DOWN * now:
            return False
    return math.isinf(stage.question.n_leaks)


def walls_tried(
    loss: Recorded, stage: Stage, level: float, plan: Plan
) -> tuple[tuple[MorseAnalysis, Array] | None, Stage]:
    """The answer in a box that the flow stays in, if a part of the samples shows that.

    Returns:
        None for an answer if they do not, and the stage with what has been sampled.
    """
    before, sampler = len(loss), stage.question.sampler
    most = len(stage.pool) + int(_FIRST_FOR_WALLS[len(stage.question.point)] * plan.most)
    plan = dataclasses.replace(plan, most=min(plan.most, most))
    found = sealed(loss, stage, level, plan, math.inf)
    new = Samples(loss.points[before:], loss.losses[before:])
    sampler.plan = dataclasses.replace(sampler.plan, most=sampler.plan.most - len(new))
    beside = stage.outside.followed_by(new.points, new.losses)
    return found, dataclasses.replace(stage, outside=beside)


def sealed(
    loss: Loss, stage: Stage, level: float, plan: Plan, n_leaks: float
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
        SurrogateError: As :meth:`Stage.asked_in`.
    """
    question, picture = stage.question, stage.picture
    if picture is None or question.sampler.is_out_of_time:
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


def _walled(loss: Loss, stage: Stage, level: float, plan: Plan, box: TurnedBox) -> Stage | None:
    """Ask in a turned box that grows until by the mean the loss is higher on all of its faces.

    Returns:
        None if it does not come to that, or samples run out.
    """
    level = 1 - (1 - level) / _MOST_WALLED
    for _ in range(_MOST_WALLED):
        if not stage.has_room(plan):
            return None
        stage = stage.asked_in(box, loss, level, 0, plan)
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
