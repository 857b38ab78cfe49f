"""Where the loss is evaluated before anything is known about it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from scipy.stats import qmc

from lightning_morse._typing import Array, Cells
from lightning_morse.grids.cubical import check_box

# With fewer samples the evidence cannot tell one surrogate from another.
FEWEST_SAMPLES = 16
# Most samples that fill a box before anything is known, by dimension.
_MOST_FIRST = {1: 32, 2: 64, 3: 192}
_MOST_FIRST_IN_HIGHER_DIMENSION = 256


def design(lower: ArrayLike, upper: ArrayLike, n_samples: int, seed: int) -> Array:
    """Centre of a box, then a scrambled Sobol sequence in it, denser towards the boundary.

    A gradient is least certain at the boundary, where all samples lie on one side, and a flow that
    cannot be told from leaving the box makes its whole basin undecided. Each coordinate therefore
    follows the mixture of the uniform and the arcsine distribution (that of Chebyshev nodes), in
    equal parts.

    The first points of a longer design are those of a shorter one with the same seed.

    Args:
        lower: Lower corner, shape ``(d,)``.
        upper: Upper corner, same shape.
        n_samples: Number of points, the centre included.
        seed: Of the scrambling.

    Returns:
        Shape ``(n_samples, d)``.

    Raises:
        ValueError: If the corners do not span a box.
    """
    low, up = check_box(lower, upper)
    inside = spread(low, up, n_samples - 1, np.random.default_rng(seed))
    return np.concatenate([0.5 * (low + up)[None], inside])


def first_samples(n_samples: int, dim: int) -> int:
    """Number of samples that fill a box before the others are placed.

    Half of them, but at least 16, and no more than show where to look closer.
    """
    most = _MOST_FIRST.get(dim, _MOST_FIRST_IN_HIGHER_DIMENSION)
    return max(min(FEWEST_SAMPLES, n_samples), min(most, n_samples // 2))


def spread(lower: Array, upper: Array, n: int, rng: np.random.Generator) -> Array:
    """Points that fill a box, denser towards its boundary.

    Args:
        lower: Lower corner, shape ``(d,)``.
        upper: Upper corner, same shape.
        n: Number of points.
        rng: Of the scrambling.

    Returns:
        Shape ``(n, d)``.
    """
    sobol = qmc.Sobol(len(lower), scramble=True, rng=rng)
    # Drawn in powers of two, which keeps the sequence balanced and the sampler from warning.
    uniform = sobol.random_base2(math.ceil(math.log2(n + 1)))[:n]
    # Mean of the two quantile functions.
    share = 0.5 * uniform + 0.25 * (1 - np.cos(np.pi * uniform))
    points: Array = lower + share * (upper - lower)
    return points


def far_apart(points: Array, widths: Array, n: int, n_taken: int = 1) -> Cells:
    """Numbers of points far from each other: each the farthest from those taken before it.

    Args:
        points: Shape ``(m, d)``.
        widths: Unit of length along each axis, shape ``(d,)``.
        n: Number of points to choose.
        n_taken: So many of the points, the first ones, are taken already.

    Returns:
        In the order they were chosen, shape ``(n,)``.
    """
    scaled = points / widths
    distance, _ = cKDTree(scaled[:n_taken]).query(scaled)
    chosen = []
    for _ in range(n):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[chosen[-1]], axis=1))
    return np.array(chosen, dtype=np.int64)
