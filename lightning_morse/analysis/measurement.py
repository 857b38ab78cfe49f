"""Losses that are reported: measured where the loss is at hand, else no lower than samples support.

The surrogate's mean at a critical point is an extrapolation downwards as often as not: of a
cross-entropy it was below 0 on one slice in four. So the loss is evaluated once at each attractor
and at the lowest passes above them. What is not evaluated keeps the surrogate's mean, but

* an attractor is reported below all losses that were seen only as far as two deviations of the
  surrogate do not reach up to them. Where the surrogate is sure of a lower value, as between the
  samples of a smooth bowl, that value stays; where it is not, it says no more than the samples do;
* any other Morse set is not reported below all losses that were seen. What is lower than anything
  seen lies downhill of it.

None of this bears on what is certain: losses are estimates unless they are measured.
"""

from __future__ import annotations

import dataclasses

import networkx as nx
import numpy as np

from lightning_morse._typing import Array, Loss, Mask
from lightning_morse.analysis.descent import descend
from lightning_morse.analysis.description import CriticalPoints
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.analysis.samples import Samples, evaluate
from lightning_morse.result import WayOut

# Passes at which the loss is evaluated at most: barriers are about the lowest ones.
_MOST_PASSES = 8
# Deviations within which the surrogate does not tell a loss from another one.
_DOUBT = 2.0


def sets_to_measure(portrait: PhasePortrait, located: CriticalPoints) -> list[int]:
    """Numbers of the Morse sets whose loss is to be evaluated, the most wanted first.

    These are the attractors, then the lowest sets above one that may hold a saddle of index 1.
    """
    found, index = portrait.found, portrait.settled.index
    attractors = sorted(found.attractors, key=lambda i: located.losses[i])
    above = {i for a in attractors for i in nx.ancestors(found.graph, a)}
    passes = sorted((i for i in above if index[i] <= 1), key=lambda i: located.losses[i])
    return [*attractors, *passes[:_MOST_PASSES]]


def measured(
    loss: Loss, portrait: PhasePortrait, located: CriticalPoints, most: int
) -> tuple[CriticalPoints, Samples]:
    """Replace the losses of critical points by evaluations, the most wanted ones first.

    Args:
        loss: As in :func:`lightning_morse.analyze`.
        portrait: The portrait.
        located: Its critical points, with the losses of the surrogate.
        most: Most evaluations.

    Returns:
        The critical points, and the evaluations. Where the loss is not finite the surrogate's
        stays.
    """
    chosen = np.array(sets_to_measure(portrait, located)[: max(0, most)], dtype=np.int64)
    if not chosen.size:
        return located, Samples(np.empty((0, portrait.nested.dim)), np.empty(0))
    found = Samples(located.centers[chosen], evaluate(loss, located.centers[chosen]))
    losses, deviations = located.losses.copy(), located.deviations.copy()
    losses[chosen[found.is_finite]] = found.finite.losses
    deviations[chosen[found.is_finite]] = 0.0
    return dataclasses.replace(located, losses=losses, deviations=deviations), found


def supported(located: CriticalPoints, is_attractor: Mask, smallest: float) -> CriticalPoints:
    """Raise losses that were not measured as far as losses that were seen ask for.

    Args:
        located: The critical points.
        is_attractor: Whether each belongs to an attractor, shape ``(n_sets,)``.
        smallest: The smallest loss that was evaluated.
    """
    raised = np.minimum(smallest, located.losses + _DOUBT * located.deviations)
    least = np.where(is_attractor, raised, smallest)
    losses = np.where(located.deviations > 0, np.fmax(located.losses, least), located.losses)
    return dataclasses.replace(located, losses=losses)


def way_out(portrait: PhasePortrait, start: Array) -> WayOut | None:
    """Where the mean flow leaves from a point; None if the point does not certainly leave.

    Also None if the mean flow seems to rest all the same: then it does not tell where.
    """
    if not portrait.certainly_leaves(start):
        return None
    way = descend(portrait, start)
    if way.face is None:
        return None
    surrogate = portrait.charts[0].at(way.end).surrogate
    at = surrogate.posterior(way.end[None])
    deviation = at.deviation * surrogate.warp.inverse_slope(at.mean)
    loss = float(surrogate.warp.inverse(at.mean)[0])
    return WayOut(start, way.end, way.face, loss, float(deviation[0]))


def measured_way(loss: Loss, way: WayOut) -> tuple[WayOut, Samples]:
    """Evaluate the loss where the mean flow leaves; the surrogate's stays if it is not finite."""
    found = Samples(way.end[None], evaluate(loss, way.end[None]))
    if not found.is_finite[0]:
        return way, found
    return dataclasses.replace(way, loss=float(found.losses[0]), loss_deviation=0.0), found
