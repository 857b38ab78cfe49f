"""Losses that vanish: where a positive loss falls to as good as nothing, a box ends.

Data that a network separates have the minimum of their loss at infinity. On the way there the loss
falls by orders of magnitude, until single precision tells nothing of it any more, and what a
surrogate finds there is rounding. A box that ends before is left by the flow at a loss that is next
to nothing, and that is the answer. None of it bears on soundness: it decides which box is looked
at.
"""

from __future__ import annotations

import math

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.analysis.descent import Descent
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.analysis.samples import Samples
from lightning_morse.grids.cubical import CubicalGrid

# Share of the loss at the point of interest that counts as nothing. Means of cross-entropies in
# single precision are known to some 5e-9.
NOTHING = 1e-4
# The last part of a way, by which it is foreseen where that will be, begins here.
_BEFORE_LAST_PART = 0.75
# Shorter ways, in widths of the box, tell no rate.
_NO_WAY = 1e-6
# A face is moved to this share of the way to a sample without loss, but not nearer than this share
# of where it was.
_SHORT_OF_IT, _NEAREST = 0.8, 1 / 16


def drawn_in(grid: CubicalGrid, samples: Samples, start: Array) -> CubicalGrid:
    """The grid of a smaller box, without the places where the loss is as good as nothing.

    Args:
        grid: The grid.
        samples: Samples in its box.
        start: The point that the box has to hold, shape ``(d,)``, inside.

    Returns:
        A grid with as many cells; the same one if there is no such place, or losses are not
        positive.
    """
    known = samples.finite
    if not len(known) or known.losses.min() < 0:
        return grid
    here = known.losses[np.square(known.points - start).sum(axis=1).argmin()]
    vanished = known.points[known.losses <= NOTHING * here] - start
    below, above = start - grid.lower, grid.upper - start
    nearest = _NEAREST * below, _NEAREST * above
    if here <= 0 or not len(vanished) or not (below.min() > 0 and above.min() > 0):
        return grid
    for way in vanished[np.abs(vanished).max(axis=1).argsort()]:
        share = np.where(way < 0, -way / below, way / above)
        axis = int(share.argmax())
        if share[axis] > 1:  # no longer in the box
            continue
        if way[axis] < 0:
            below[axis] = max(nearest[0][axis], -_SHORT_OF_IT * way[axis])
        else:
            above[axis] = max(nearest[1][axis], _SHORT_OF_IT * way[axis])
    return CubicalGrid(start - below, start + above, grid.shape)


def mean_losses(portrait: PhasePortrait, points: Array) -> Array:
    """What the outermost box's mean says of the loss at some points, shape ``(n,)``.

    Args:
        portrait: The portrait so far.
        points: Shape ``(n, d)``, in that box.
    """
    root, losses = portrait.charts[0], np.empty(len(points))
    surrogates = [root.at(point).surrogate for point in points]
    for one in {id(each): each for each in surrogates}.values():
        own = np.array([each is one for each in surrogates])
        losses[own] = one.warp.inverse(one.posterior(points[own]).mean)
    return losses


def worth_following(portrait: PhasePortrait, way: Descent) -> float:
    """How far beyond the outermost box a way has something to lose, in widths of the box.

    By how much the loss has fallen along the way, or over the last part of it if it falls faster
    there, says where it will be as good as nothing.

    Args:
        portrait: The portrait so far.
        way: A way that leaves the box.

    Returns:
        Widths of the box; infinite where the loss is not positive, or does not fall at such a rate;
        0 where it is that low.
    """
    root, n = portrait.charts[0], len(way.path)
    grid = root.grid
    at = np.stack([way.path[0], way.path[int(_BEFORE_LAST_PART * (n - 1))], way.path[-1]])
    first, before, last = mean_losses(portrait, at).tolist()
    nothing = NOTHING * first
    surrogates = [root.at(point).surrogate for point in at]
    if first <= 0 or any(one.warp.inverse(one.y).min() < -nothing for one in surrogates):
        return math.inf
    if min(before, last) <= nothing:
        return 0.0
    fallen = np.log([first / min(before, last), before / last])
    moved = np.abs((at[2] - at[:2]) / (grid.upper - grid.lower)).max(axis=1)
    rate = float((fallen / np.maximum(moved, _NO_WAY)).max())
    return math.log(last / nothing) / rate if rate > 0 else math.inf
