"""A first guess from few samples: whether the box is large enough."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.stats import rankdata

from lightning_morse._typing import Array, Cells, Mask

# The numbers below decide how large the box becomes. No certain statement depends on them: whatever
# the box, the analysis that follows makes its claims from its own samples.

# Fraction of the way to a face beyond which a point does not count as well inside the box.
EDGE = 0.9
# Depth of a basin in ranks, as a fraction of the number of samples, below which it is filled: so
# small a dip may be an artefact of the spline.
SHALLOW = 0.05
# Points of the lattice per axis, by dimension: a hundred to five thousand points in all.
_POINTS_PER_AXIS = {1: 129, 2: 33, 3: 17}


class Held(NamedTuple):
    """Whether a box seems to contain an attractor and the saddles around its basin.

    Attributes:
        attractor: Whether the attractor lies well inside.
        saddles: Whether the saddles do.
    """

    attractor: bool
    saddles: bool


def held_by(samples: Array, losses: Array, half: Array, start: Array) -> Held:
    """Whether a box around zero seems to hold the attractor of a point and the saddles around it.

    A thin-plate spline through the ranks of the losses replaces the loss on a coarse lattice, on
    which shallow basins are filled. The attractor is the end of steepest descent from the point,
    and the saddles are the lowest passes from its basin to each neighbouring basin. If the whole
    box is one basin there are no saddles to be missed. This is a guess from few samples: it decides
    where to look, not what is found there.

    Args:
        samples: Shape ``(n, d)``, ``d`` at most 3.
        losses: Shape ``(n,)``; nonfinite values rank highest.
        half: Half-widths of the box, shape ``(d,)``.
        start: The point, shape ``(d,)``; if outside, it is replaced by the nearest point of the
            box.

    Returns:
        Whether the box holds them. Neither counts as held in the outer tenth of the box; both do if
        fewer than ``2 d + 2`` losses are finite, too few to judge from.

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
    n = _POINTS_PER_AXIS[d]
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
    # Basins that lie near faces only do not count: there the spline is unreliable.
    seen = np.unique(basin[lowest[~at_face]])
    for height, face, a, b in passes:
        ends = {int(basin[a]), int(basin[b])}
        if home in ends and len(ends) == 2:
            (other,) = ends - {int(home)}
            if other in seen:
                around.setdefault(other, (height, face))  # passes are sorted, the lowest first
    return Held(not at_face.ravel()[home], not any(face for _, face in around.values()))


def _where_descent_ends(values: Array) -> Cells:
    """The minimum that repeated steps to the lowest neighbour reach from each lattice point."""
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
    """Where basins touch: height, whether near a face, and the two minima; sorted by height."""
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
    """The minimum whose basin each minimum belongs to once shallow basins are filled."""
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
