"""How certain the attractors of an analysis are, each by itself and all together.

In one box the attractors are followed through a filtration (:mod:`.ladder`). Blocks in different
boxes are not compared. A tower is drawn a second time instead, with bands at a higher level: what
the second portrait says is true with the probability of that level, and it depends on the samples
alone, so the better of the two may be taken. With as many attractors as before, each of the second
portrait holds exactly one of the first: under wider bands images only grow, so its cells are
forward invariant under the first map, too, and disjoint from those of the others.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.analysis.charts import Chart
from lightning_morse.analysis.drawing import shares
from lightning_morse.analysis.ladder import Climb, climb, unclimbed
from lightning_morse.analysis.phase_portrait import PhasePortrait, phase_portrait
from lightning_morse.analysis.tower import Tower
from lightning_morse.result import Ladder
from lightning_morse.stopwatch import Stopwatch

# The second portrait of a tower may be false this much less often. Evidence from some sixty
# predictions vouches for no more than 0.98, so a much higher level would be worth little.
_RARER = 5


def confidences(portrait: PhasePortrait, tower: Tower) -> tuple[Ladder, Array, float]:
    """The ladder, the confidence of each attractor, and that of the number of attractors.

    Args:
        portrait: The final portrait.
        tower: The boxes it was drawn on.

    Returns:
        The ladder; shape ``(n_attractors,)``; a number in [0, 1). All given the model.
    """
    settings, n = tower.settings, len(portrait.found.attractors)
    nothing = unclimbed([np.zeros(0, np.int64)] * n, settings.confidence).ladder
    if not portrait.trusted:
        # A bound that rests on a model which the samples refute is worth nothing.
        return nothing, np.zeros(n), 0.0
    if not n and not portrait.is_exact:
        # Nothing is claimed.
        return nothing, np.zeros(0), 0.0
    least = max(settings.confidence, portrait.level)
    if portrait.held is not None:
        # The band on the gradient, which ladders widen, says nothing of a well.
        return nothing, np.full(n, least), least
    only = portrait.charts[0]
    if len(portrait.charts) == 1 and isinstance(only, Chart):
        attractors, exact = portrait.attracting_cells(), portrait.is_exact
        proved = settings.band == "proved"
        climbed = climb(only, attractors, settings.confidence, proved=proved, counted=exact)
        together = climbed.exact if exact else climbed.together
        return climbed.ladder, np.maximum(climbed.each, least), max(least, together)
    inside = _climb_in_one_box(portrait, tower)
    if inside is not None and not portrait.is_exact:
        return nothing, np.maximum(inside.each, least), max(least, inside.together)
    # That there are no other attractors concerns all boxes.
    least = max(least, _at_higher_level(portrait, tower))
    return nothing, np.full(n, least) if inside is None else np.maximum(inside.each, least), least


def _at_higher_level(portrait: PhasePortrait, tower: Tower) -> float:
    """The level of a second portrait if it claims the same, else 0."""
    settings = tower.settings
    if settings.band != "proved":  # simulated bands of two levels need not be nested
        return 0.0
    level = 1 - (1 - settings.confidence) / _RARER
    higher = dataclasses.replace(settings, confidence=level)
    charts = [
        one.with_band(higher.proved_bands(float(share)))
        for one, share in zip(portrait.charts, shares(tower, final=True), strict=True)
    ]
    second = phase_portrait(portrait.nested, charts, higher.failure_beside_band, Stopwatch())
    same = len(second.found.attractors) == len(portrait.found.attractors)
    return second.level if same and second.is_exact >= portrait.is_exact else 0.0


def _climb_in_one_box(portrait: PhasePortrait, tower: Tower) -> Climb | None:
    """Climb with the attractors if the cells of all of them lie in one grid.

    Blocks in different boxes are not compared, so otherwise they are not followed any higher.
    """
    attractors, settings = portrait.attracting_cells(), tower.settings
    if not attractors:
        return None
    cells = np.concatenate(attractors)
    for k, share in enumerate(shares(tower, final=True)):
        part, chart = portrait.nested.part(k), portrait.charts[k]
        if cells.min() >= part.start and cells.max() < part.stop and isinstance(chart, Chart):
            own = [portrait.nested.uncovered[k][c - part.start] for c in attractors]
            level = settings.with_share(float(share)).confidence_of_box
            proved = settings.band == "proved"
            return climb(chart, own, level, proved=proved)
    return None
