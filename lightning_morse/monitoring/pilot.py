"""What a first look at the loss says about the size of the box."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.stats import rankdata

from lightning_morse._typing import Array, Cells, Mask

# What lies beyond this share of the way to a face may as well lie outside.
EDGE = 0.9
# Basins that are less deep than this share of the samples has ranks are no basins.
SHALLOW = 0.05
# Points of the lattice on each axis, by the number of axes.
_POINTS = {1: 129, 2: 33, 3: 17}


class Held(NamedTuple):
    """What a box seems to hold.

    Attributes:
        attractor: Whether the attractor of a point lies well inside.
        saddles: Whether the saddles around it do.
    """

    attractor: bool
    saddles: bool


def held_by(samples: Array, losses: Array, half: Array, start: Array) -> Held:
    """Whether a box around zero seems to hold the attractor of a point and the saddles around it.

    A thin-plate spline through the ranks of the losses stands in for the loss on a coarse lattice,
    where basins that are hardly deep are filled. The attractor is where steepest descent from the
    point ends, the saddles are the lowest passes from its basin to each basin it borders on. Where
    the whole box is one basin there are none to wait for. This is a guess from few samples, and
    decides where to look, not what is found there.

    Args:
        samples: Shape ``(n, d)``, ``d`` at most 3.
        losses: Shape ``(n,)``; what is not finite counts as the highest.
        half: Half-widths of the box, shape ``(d,)``.
        start: The point, shape ``(d,)``; one outside of the box counts as the closest in it.

    Returns:
        Neither counts as held in the outer tenth of the box; both do where fewer than ``2 d + 2``
        of the losses are finite, which show nothing.

    Example:
        >>> x = np.linspace(-1, 1, 30)[:, None]
        >>> [held_by(x, (x[:, 0] - c) ** 2, np.ones(1), np.zeros(1))[0] for c in (0.5, 1.5)]
        [True, False]
    """
    d = samples.shape[1]
    finite = np.isfinite(losses)
    if finite.sum() < 2 * d + 2:
        return Held(True, True)
    ranks = rankdata(np.where(finite, losses, np.inf))
    n = _POINTS[d]
    axis = np.linspace(-1, 1, n)
    lattice = np.stack(np.meshgrid(*[axis] * d, indexing="ij"), axis=-1)
    spline = RBFInterpolator(samples / half, ranks, kernel="thin_plate_spline")
    values = spline(lattice.reshape(-1, d)).reshape([n] * d)
    at_face = np.abs(lattice).max(axis=-1) > EDGE
    lowest = _where_descent_ends(values)
    nearest = np.rint((np.clip(start / half, -1, 1) + 1) / 2 * (n - 1)).astype(int)
    passes = _passes(values, lowest, at_face)
    basin = _merged(values.ravel(), lowest, passes, SHALLOW * len(ranks))
    home = basin[lowest[tuple(nearest)]]
    around: dict[int, tuple[float, bool]] = {}
    seen = np.unique(basin[lowest[~at_face]])  # others are nowhere but at faces, where splines bend
    for height, face, a, b in passes:
        ends = {int(basin[a]), int(basin[b])}
        if home in ends and len(ends) == 2:
            (other,) = ends - {int(home)}
            if other in seen:
                around.setdefault(other, (height, face))  # the lowest comes first
    return Held(not at_face.ravel()[home], not any(face for _, face in around.values()))


def _where_descent_ends(values: Array) -> Cells:
    """For each lattice point the minimum that steps to the lowest neighbour lead to."""
    index = np.arange(values.size).reshape(values.shape)
    padded = np.pad(values, 1, constant_values=np.inf)
    numbers = np.pad(index, 1)
    best, target = values.copy(), index.copy()
    for offset in product(range(3), repeat=values.ndim):
        window = tuple(slice(o, o + n) for o, n in zip(offset, values.shape, strict=True))
        lower = padded[window] < best
        best[lower], target[lower] = padded[window][lower], numbers[window][lower]
    while not np.array_equal(further := target.ravel()[target], target):
        target = further
    return target


def _passes(values: Array, lowest: Cells, at_face: Mask) -> list[tuple[float, bool, int, int]]:
    """Where basins touch: height, whether close to a face, and their minima; the lowest first."""
    found: list[tuple[float, bool, int, int]] = []
    for k in range(values.ndim):
        ahead, behind = (
            tuple(part if j == k else slice(None) for j in range(values.ndim))
            for part in (slice(1, None), slice(None, -1))
        )
        borders = lowest[ahead] != lowest[behind]
        heights = np.maximum(values[ahead], values[behind])[borders].tolist()
        faces = (at_face[ahead] & at_face[behind])[borders].tolist()
        sides = lowest[ahead][borders].tolist(), lowest[behind][borders].tolist()
        found += zip(heights, faces, *sides, strict=True)
    return sorted(found)


def _merged(
    values: Array,
    lowest: Cells,
    passes: list[tuple[float, bool, int, int]],
    shallow: float,
) -> Cells:
    """For each minimum the one whose basin it belongs to when shallow ones are filled."""
    parent = np.arange(values.size)

    def root(i: int) -> int:
        while parent[i] != i:
            i = int(parent[i])
        return i

    for height, _, a, b in passes:
        low, high = sorted((root(a), root(b)), key=lambda i: values[i])
        if low != high and height - values[high] < shallow:
            parent[high] = low
    return np.array([root(i) for i in range(values.size)])
