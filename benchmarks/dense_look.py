"""All minima of a loss on a rectangle and the widths of their wells, by looking everywhere.

The loss is evaluated on a lattice, and each lattice point that is no higher than those around it is
followed to a minimum by a search on circles: where the lowest point of a circle is lower than its
centre, go there, else halve it. Gradients play no part, so kinks do not matter. The minima
are the attractors of the flow of the negative gradient (with kinks: of the subgradient flow), and
the steepest descent on the lattice shows their basins. The *well* of a minimum is the part of its
basin below the lowest pass to another one: what has to be sampled to show that it is there.

What is overlooked: minima whose basins are narrower than about two steps of the lattice, and some
in ravines with kinked walls if a step leads over the lip of their basin. So there are at least as
many minima as are found. What is merged: minima within a thousandth of the half-width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.ndimage import distance_transform_edt, label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Values = Callable[[np.ndarray], np.ndarray]

# Angles of a circle, and halvings of an arc by which the lowest ones are refined: the floor of a
# valley with kinked walls is met only there.
_ANGLES, _REFINEMENTS = 48, 30
# Smallest circle, in half-widths, and the rounds after which the search has failed.
_SMALLEST, _MOST_ROUNDS = 1e-6, 3000
# Minima as close as this are one, in half-widths.
_ONE = 1e-3
# Steps of the lattice outside the rectangle at which a search has left it.
_OUTSIDE = 2.0
# Halvings of the range of the loss by which a pass is found.
_LEVELS = 32
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, eq=False)
class Minima:
    """The minima inside a rectangle.

    Attributes:
        places: Shape ``(n, 2)``, the lowest first.
        widths: Diameter of the largest disc in the well of each within the rectangle, as a share
            of its side (of unequal sides: after scaling to a square), shape ``(n,)``. The well of
            the only minimum is its basin.
    """

    places: np.ndarray
    widths: np.ndarray


def all_minima(values: Values, half: np.ndarray, points: int) -> Minima:
    """Look everywhere in the rectangle from ``-half`` to ``half``.

    Args:
        values: The loss at points of shape ``(n, 2)``; also asked a little outside.
        half: Half-widths, shape ``(2,)``.
        points: Lattice points per axis.

    Raises:
        RuntimeError: If a search does not come to rest.
    """
    axis = np.linspace(-1, 1, points)
    lattice = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    losses = _in_chunks(values, lattice * half).reshape(points, points)
    sinks, sink_of = descents(losses, half)
    step = float(axis[1] - axis[0])
    ends = rest_points(lambda u: values(u * half), lattice[sinks], step, 1 + _OUTSIDE * step)
    inside = (np.abs(ends) < 1).all(axis=1)
    group = _groups(ends[inside], _ONE)
    number = np.full(len(sinks), -1)
    number[inside] = group
    places = np.array([ends[inside][group == g][0] for g in range(group.max(initial=-1) + 1)])
    places = places.reshape(-1, 2) * half
    order = np.argsort(values(places)) if len(places) else np.zeros(0, dtype=int)
    heights = losses.ravel()[sinks]
    lowest = [sinks[number == g][heights[number == g].argmin()] for g in order]
    if len(lowest) == 1:
        parts = [(number == 0)[sink_of]]
    else:
        parts = [_well(losses, i, np.setdiff1d(lowest, [i])) for i in lowest]
    return Minima(places[order], np.array([_largest_disc(part) for part in parts]))


def descents(losses: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the steepest descent from each lattice point ends.

    Args:
        losses: Shape ``(n, n)``.
        half: Half-widths of the rectangle that the lattice fills, shape ``(2,)``.

    Returns:
        Numbers of the points that no neighbour is lower than, ascending, and for each point the
        place of its end in that list, shape ``(n, n)``.
    """
    n = len(losses)
    numbers = np.arange(n * n).reshape(n, n)
    padded = np.pad(losses, 1, constant_values=np.inf)
    padded_numbers = np.pad(numbers, 1)
    best, to = np.zeros((n, n)), numbers.copy()
    for i, j in product((0, 1, 2), repeat=2):
        if (i, j) == (1, 1):
            continue
        length = float(np.linalg.norm(np.array([i - 1, j - 1]) * half))
        slope = (losses - padded[i : i + n, j : j + n]) / length
        steeper = slope > best
        best = np.where(steeper, slope, best)
        to = np.where(steeper, padded_numbers[i : i + n, j : j + n], to)
    to = to.ravel()
    while (to[to] != to).any():
        to = to[to]
    sinks, sink_of = np.unique(to, return_inverse=True)
    return sinks, sink_of.reshape(n, n)


def rest_points(
    values: Values, starts: np.ndarray, step: float, half: np.ndarray | float = np.inf
) -> np.ndarray:
    """Follow points down to minima by a search on circles, shape ``(n, 2)``.

    With small circles the paths are those of steepest descent, sliding along kinks included.

    Args:
        values: The loss at points of shape ``(n, 2)``.
        starts: Shape ``(n, 2)``.
        step: Radius of the largest circles: no barrier that is wider is jumped over.
        half: Half-widths of a rectangle; a path ends where it leaves it.

    Raises:
        RuntimeError: If a search does not come to rest.
    """
    x, radius = starts.astype(float).copy(), np.full(len(starts), step / 2)
    height = values(x)
    for _ in range(_MOST_ROUNDS):
        active = np.flatnonzero(radius > _SMALLEST)
        if not active.size:
            return x
        beside, lowest = _lowest_on_circles(values, x[active], radius[active])
        lower = lowest < height[active]
        moved = active[lower]
        x[moved], height[moved] = beside[lower], lowest[lower]
        radius[moved] = np.minimum(1.5 * radius[moved], step)
        radius[active[~lower]] /= 2
        radius[(np.abs(x) > half).any(axis=1)] = 0
    raise RuntimeError(f"{active.size} searches did not come to rest in {_MOST_ROUNDS} rounds")


def _lowest_on_circles(
    values: Values, centers: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The lowest point of each circle, shape ``(n, 2)``, and its value."""

    def at(who: np.ndarray, angle: np.ndarray) -> np.ndarray:
        return centers[who] + radius[who, None] * np.stack([np.cos(angle), np.sin(angle)], 1)

    n, spacing = len(centers), 2 * np.pi / _ANGLES
    who, place = (i.ravel() for i in np.indices((n, _ANGLES)))
    around = values(at(who, place * spacing)).reshape(n, _ANGLES)
    # An arc is refined around every local minimum on the circle: several valleys may leave a point.
    dips = (around <= np.roll(around, 1, axis=1)) & (around <= np.roll(around, -1, axis=1))
    who, place = np.nonzero(dips)
    left, right = (place - 1) * spacing, (place + 1) * spacing
    for _ in range(_REFINEMENTS):
        a, b = right - _GOLDEN * (right - left), left + _GOLDEN * (right - left)
        both = values(np.concatenate([at(who, a), at(who, b)]))
        first = both[: len(who)] < both[len(who) :]
        left, right = np.where(first, left, a), np.where(first, b, right)
    angle = 0.5 * (left + right)
    found = at(who, angle)
    heights = values(found)
    order = np.lexsort((heights, who))
    first = order[np.unique(who[order], return_index=True)[1]]
    return found[first], heights[first]


def groups_within(points: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Number of the group of each point, chained by neighbours within a distance on each axis."""
    return _groups(points / distance, 1.0)


def _groups(points: np.ndarray, distance: float) -> np.ndarray:
    """Number of the group of each point."""
    if not len(points):
        return np.zeros(0, dtype=int)
    near = np.abs(points[:, None] - points[None]).max(axis=2) <= distance
    return connected_components(coo_array(near), directed=False)[1]


def _well(losses: np.ndarray, place: int, others: np.ndarray) -> np.ndarray:
    """The lattice points around one that are connected with it below all passes to some others.

    It ends where the rectangle does, whatever passes there may be on its edge: rather too wide.

    Args:
        losses: Shape ``(n, n)``.
        place: Number of a lattice point.
        others: Numbers of the others.

    Returns:
        Shape ``(n, n)``.
    """

    def around(level: float) -> np.ndarray:
        below = losses < level
        below.ravel()[place] = True
        parts, _ = label(below, structure=np.ones((3, 3)))
        return parts == parts.ravel()[place]

    low, high = float(losses.ravel()[place]), float(losses[np.isfinite(losses)].max())
    for _ in range(_LEVELS):
        level = 0.5 * (low + high)
        meets = around(level).ravel()[others].any()
        low, high = (low, level) if meets else (level, high)
    return around(low)


def _largest_disc(basin: np.ndarray) -> float:
    """Diameter of the largest disc in a set of lattice points, as a share of the lattice."""
    # From its centre to the nearest point outside it is half a step more than the radius.
    return float((2 * distance_transform_edt(np.pad(basin, 1)).max() - 1) / len(basin))


def _in_chunks(values: Values, points: np.ndarray, size: int = 1 << 15) -> np.ndarray:
    return np.concatenate(
        [values(part) for part in np.array_split(points, len(points) // size + 1)]
    )
