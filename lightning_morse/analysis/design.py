"""Where the loss is evaluated before anything is known of it."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from scipy.stats import qmc

from lightning_morse._typing import Array, Cells, Loss, Mask
from lightning_morse.grids.cubical import CubicalGrid, check_box

# With fewer there is no telling a surrogate from another.
FEWEST_SAMPLES = 16
# One derivative is held back for so many samples; its step, in widths of the box.
_PER_CHECK = 32
_STEP = 1e-3


def design(lower: ArrayLike, upper: ArrayLike, n_samples: int, seed: int) -> Array:
    """Centre of a box, then a scrambled Sobol sequence in it, drawn towards the boundary.

    A gradient is known worst at the boundary, where samples lie on one side only, and a flow that
    cannot be told from leaving the box makes its whole basin undecided. Each coordinate is
    therefore spread by the mean of the uniform and the arcsine law (that of Chebyshev nodes).

    The first points of a longer design are those of a shorter one with the same seed.

    Args:
        lower: Lower corner, shape ``(d,)``.
        upper: Upper corner, same shape.
        n_samples: Number of points, the centre included.
        seed: Of the scrambling.

    Returns:
        Shape ``(n_samples, d)``.
    """
    low, up = check_box(lower, upper)
    inside = _spread(low, up, n_samples - 1, np.random.default_rng(seed))
    return np.concatenate([0.5 * (low + up)[None], inside])


def first_samples(n_samples: int) -> int:
    """How many of the samples fill the box before the others are placed: half, but at least 16."""
    return max(min(FEWEST_SAMPLES, n_samples), n_samples // 2)


def beside_samples(
    grid: CubicalGrid, samples: Array, losses: Array, n: int, seed: int
) -> tuple[Cells, Array]:
    """Points close to some of the samples, in any direction.

    Args:
        grid: The grid of the analysis.
        samples: Shape ``(m, d)``.
        losses: Shape ``(m,)``; only samples with a finite one are chosen.
        n: How many.
        seed: Of the choice and the directions.

    Returns:
        Which samples, shape ``(n,)`` or less; the points, shape ``(n, d)``, inside the box.
    """
    rng = np.random.default_rng([seed, 3])
    finite = np.flatnonzero(np.isfinite(losses))
    chosen = rng.permutation(finite)[:n]
    direction = rng.standard_normal((len(chosen), grid.dim))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    width = grid.upper - grid.lower
    start = samples[chosen]
    # Towards the inner half of the box, so that no point lies outside.
    inward = np.where(start < 0.5 * (grid.lower + grid.upper), 1.0, -1.0)
    return chosen, start + _STEP * width * np.abs(direction) * inward


def n_held_back(n_samples: int) -> int:
    """How many of the samples are held back as directional derivatives."""
    return n_samples // _PER_CHECK


def evaluate(loss: Loss, samples: Array) -> Array:
    """Losses at the samples, shape ``(n,)``, whatever dtype and device they come in.

    Raises:
        ValueError: If the loss does not return one number a point.
    """
    n = len(samples)
    values = loss(torch.from_numpy(samples.copy()))
    if not isinstance(values, torch.Tensor):
        raise ValueError(
            f"loss must return a tensor of shape ({n},) for {n} points, got {type(values).__name__}"
        )
    if values.shape != (n,):
        raise ValueError(
            f"loss must return one number for each of the {n} points, shape ({n},), got "
            f"{tuple(values.shape)}; reduce over all axes but the first"
        )
    return values.detach().to("cpu", torch.float64).numpy()


def nearest_diverged(grid: CubicalGrid, samples: Array, finite: Mask) -> Mask:
    """Cells whose nearest sample, in widths of the box, has a loss that is not finite."""
    if finite.all():
        return np.zeros(grid.size, dtype=bool)
    width = grid.upper - grid.lower
    _, nearest = cKDTree(samples / width).query(grid.cell_centers() / width)
    return ~finite[nearest]


def _spread(low: Array, up: Array, n: int, rng: np.random.Generator) -> Array:
    """Points that fill a box, drawn towards its boundary."""
    sobol = qmc.Sobol(len(low), scramble=True, rng=rng)
    # Drawn in powers of two, which keeps the sequence balanced and the sampler from warning.
    uniform = sobol.random_base2(math.ceil(math.log2(n + 1)))[:n]
    return low + (0.5 * uniform + 0.25 * (1 - np.cos(np.pi * uniform))) * (up - low)
