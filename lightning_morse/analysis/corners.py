"""Corners of boxes: inside others around a way or a minimum, and around what there is.

None of it bears on soundness; a box is opened where samples are expected to tell most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lightning_morse._typing import Array, Mask
from lightning_morse.grids.cubical import CubicalGrid

Corners = tuple[Array, Array]

# A box inside is this much smaller along an axis, unless the way of the flow takes more; the way is
# followed back from its end within this share of the box, with this much room on both sides.
_SHRINK, _NEAR, _ROOM = 4.0, 0.3, 0.5
# Share of a box that one inside it may fill at most: a larger one would tell little more.
_LARGEST = 0.5
# A face moves outwards by this many widths of the box.
_GROWTH = 1.5
# A box for which there is no room is tried at these shares of its size.
_SMALLER = 0.5, 0.25
# Boxes keep clear of each other by a cell, and by so much of a cell more for rounding.
_ROUNDING = 1e-6


def around_way(path: Array, width: Array) -> Corners:
    """A box that holds the last part of a way along each axis.

    Args:
        path: The way, shape ``(n, d)``.
        width: Widths of the box in which it ends, shape ``(d,)``.
    """
    near = path[np.all(np.abs(path - path[-1]) <= _NEAR * width, axis=1)]
    low, up = near.min(axis=0), near.max(axis=0)
    room = np.maximum(_ROOM * (up - low), 0.5 * (width / _SHRINK - (up - low)))
    return low - room, up + room


def around_minimum(point: Array, width: Array, others: Sequence[Array]) -> Corners:
    """A box around a minimum that keeps its distance from others.

    Others that it holds are its own affair: many are artefacts of a valley that is oblique to the
    lattice.

    Args:
        point: The minimum, shape ``(d,)``.
        width: Widths of the box in which it lies, shape ``(d,)``.
        others: Other minima in that box.
    """
    half = 0.5 * width / _SHRINK
    far = [float(np.abs((other - point) / half).max()) for other in others]
    half = half * min([1.0, *(0.5 * distance for distance in far if distance > 1)])
    return point - half, point + half


def with_room(
    wanted: Corners, around: Corners, siblings: Sequence[Corners], cell: Array, smallest: Array
) -> Iterator[Corners]:
    """A box inside another one as wanted; then, in case there is no room, smaller, or to one side.

    Args:
        wanted: The corners.
        around: Those of the box around it.
        siblings: Those of other boxes inside that one.
        cell: Widths of a cell there, by which boxes keep clear of each other.
        smallest: Widths of the smallest box.
    """
    low, up = wanted
    middle, half = 0.5 * (low + up), 0.5 * (up - low)
    smaller = [(middle - share * half, middle + share * half) for share in _SMALLER]
    for lower, upper in (wanted, *smaller, *_beside(wanted, siblings, cell * (1 + _ROUNDING))):
        lower, upper = np.maximum(lower, around[0]), np.minimum(upper, around[1])
        filled = np.prod(np.maximum(upper - lower, 0) / (around[1] - around[0]))
        if ((upper - lower) < smallest).all() or (upper <= lower).any() or filled > _LARGEST:
            return
        yield lower, upper


def grown(
    grid: CubicalGrid, faces: Mask, farthest: Corners, most: float = np.inf, least: float = 0.0
) -> CubicalGrid | None:
    """The grid with some faces moved outwards.

    Args:
        grid: The grid.
        faces: Which ones, shape ``(d, 2)``: axis, then lower and upper face.
        farthest: Corners of the box beyond which no face may move.
        most: How far a face may move, in widths of the box.
        least: A face that may not move as far as this, in widths of the box, stays.

    Returns:
        The grid of the larger box with as many cells; None if no face moves.
    """
    width = grid.upper - grid.lower
    step = min(_GROWTH, most) * width
    low, up = np.maximum(farthest[0], grid.lower - step), np.minimum(farthest[1], grid.upper + step)
    goes_down = faces[:, 0] & (grid.lower - low >= least * width)
    goes_up = faces[:, 1] & (up - grid.upper >= least * width)
    low = np.where(goes_down, low, grid.lower)
    up = np.where(goes_up, up, grid.upper)
    if (low == grid.lower).all() and (up == grid.upper).all():
        return None
    return CubicalGrid(low, up, grid.shape)


def _beside(wanted: Corners, siblings: Sequence[Corners], gap: Array) -> list[Corners]:
    """What is left of a box where it keeps clear of others.

    Returns:
        Its corners, if there are others in the way and it holds the middle; else nothing.
    """
    lower, upper = wanted[0].copy(), wanted[1].copy()
    middle = 0.5 * (lower + upper)
    for low, up in siblings:
        if (lower > up + gap).any() or (upper < low - gap).any():
            continue
        # How much room there is on each side, between the middle and the other box.
        above, below = middle - up - gap, low - gap - middle
        j = int(np.maximum(above, below).argmax())
        if above[j] > 0:
            lower[j] = max(lower[j], up[j] + gap[j])
        elif below[j] > 0:
            upper[j] = min(upper[j], low[j] - gap[j])
        else:
            return []
    moved = (lower != wanted[0]).any() or (upper != wanted[1]).any()
    return [(lower, upper)] if moved else []
