"""Corridors: narrow boxes along a way that leaves the box.

What a network separates has its minimum at infinity. The flow goes down a crease of the logarithm
of the loss, straight on, and whether it goes on is decided within a few per cent of its length on
either side. In a box as wide as it is long most samples tell of the slopes. None of it bears on
soundness: it decides which box is looked at.
"""

from __future__ import annotations

import math

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.analysis.descent import Descent
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.analysis.valley import TurnedBox
from lightning_morse.analysis.vanishing import NOTHING, mean_losses, worth_following

# The direction is that of what comes after this share of the way: it begins with a bend.
_AFTER_THE_BEND = 1 / 3
# How far it reaches behind the beginning of the way, and at most beyond its end, in lengths of the
# way. What is foreseen is prolonged by this factor.
_BEHIND, _AHEAD, _PROLONGED = 0.1, 1.0, 1.2
# On both sides of the middle it reaches this many times as far as the way takes up across, and at
# least this share of its length.
_ROOM, _NARROWEST = 1.6, 0.06


def corridor_along(portrait: PhasePortrait, way: Descent) -> TurnedBox:
    """A narrow box along a way, to where the loss seems to be as good as nothing.

    Args:
        portrait: The portrait so far.
        way: A way that leaves the box.

    Returns:
        The box; its first axis is the direction of the way.
    """
    ahead, losses = worth_following(portrait, way), mean_losses(portrait, way.path)
    gone = np.flatnonzero(losses[1:] <= NOTHING * losses[0])
    ends = bool(gone.size) and math.isfinite(ahead)
    path = way.path[: gone[0] + 2] if ends else way.path
    straight = path[int(_AFTER_THE_BEND * (len(path) - 1)) :]
    axes: Array = np.linalg.svd(straight - straight.mean(axis=0))[2].T
    axes = axes * np.where(axes.T @ (path[-1] - path[0]) < 0, -1.0, 1.0)
    low, up = (path @ axes).min(axis=0), (path @ axes).max(axis=0)
    length = up[0] - low[0]
    half = np.maximum(0.5 * _ROOM * (up - low), _NARROWEST * length)
    lower, upper = 0.5 * (low + up) - half, 0.5 * (low + up) + half
    lower[0], upper[0] = low[0] - _BEHIND * length, up[0]
    if not ends:
        root = portrait.nested.grids[0]
        foreseen = ahead * float((root.upper - root.lower) @ abs(axes[:, 0]))
        upper[0] += min(_PROLONGED * foreseen, _AHEAD * length)
    return TurnedBox(axes, lower, upper)
