"""Evaluations of the loss: the samples a surrogate is fitted to, and those held out to judge it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from lightning_morse._typing import Array, Cells, Loss, Mask
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.slices.isolation import preserved_settings

# One directional derivative is held out per this many samples: enough that a surrogate which is
# wrong about gradients is noticed, few enough that the evaluations are not missed elsewhere. The
# threshold for the largest error allows for their number, so soundness does not depend on it.
_SAMPLES_PER_DERIVATIVE = 32
# Length of the step of a held-out difference, in widths of the box: short against any lengthscale
# that can be fitted, long against rounding. The judge takes the difference for a derivative at its
# midpoint; a longer step would make it harsher or milder, but is no part of any bound.
_STEP = 1e-3
# One evaluation is kept for a loss that is reported per this many samples, and this many at most:
# enough for the attractors of most pictures. More are missed elsewhere: with 8 of 128 kept, a bent
# valley was resolved for one of three seeds, with 2 for two, with 1 for all.
_SAMPLES_PER_MEASUREMENT, _MOST_MEASUREMENTS = 64, 8
# Keeps the random numbers of held-out samples apart from the other streams of a seed.
_STREAM = 3


@dataclass(frozen=True, eq=False)
class Samples:
    """Points and the losses there.

    Attributes:
        points: Shape ``(n, d)``.
        losses: Shape ``(n,)``; not finite where the loss diverged.
    """

    points: Array
    losses: Array

    def __len__(self) -> int:
        return len(self.points)

    @property
    def is_finite(self) -> Mask:
        """Where the loss is finite, shape ``(n,)``."""
        return np.isfinite(self.losses)

    @property
    def finite(self) -> Samples:
        """The samples at which the loss is finite."""
        return self.at(self.is_finite)

    def at(self, rows: Mask | Cells) -> Samples:
        """Some of the samples."""
        return Samples(self.points[rows], self.losses[rows])

    def followed_by(self, points: Array, losses: Array) -> Samples:
        """These samples, then others."""
        return Samples(np.concatenate([self.points, points]), np.concatenate([self.losses, losses]))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Samples close to others: their differences are directional derivatives.

    A surrogate is judged by them before it is fitted to them.

    Attributes:
        partners: Number of the sample each one lies beside, shape ``(k,)``.
        points: Shape ``(k, d)``.
        losses: Shape ``(k,)``; not finite where the loss diverged.
    """

    partners: Cells
    points: Array
    losses: Array

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def none(cls, dim: int) -> HeldOut:
        """No held-out samples in ``dim`` dimensions."""
        return cls(np.zeros(0, dtype=np.int64), np.empty((0, dim)), np.empty(0))

    @property
    def finite(self) -> HeldOut:
        """Those at which the loss is finite."""
        kept = np.isfinite(self.losses)
        return HeldOut(self.partners[kept], self.points[kept], self.losses[kept])


def n_held_out(n_samples: int) -> int:
    """How many of the samples are held out as directional derivatives."""
    return n_samples // _SAMPLES_PER_DERIVATIVE


def n_kept_to_measure(n_samples: int) -> int:
    """How many of the samples are kept to measure losses that are reported."""
    return min(n_samples // _SAMPLES_PER_MEASUREMENT, _MOST_MEASUREMENTS)


def beside_samples(grid: CubicalGrid, samples: Samples, n: int, seed: int) -> tuple[Cells, Array]:
    """Points close to some of the samples, in random directions.

    Args:
        grid: The grid of the analysis.
        samples: The samples; only those with a finite loss are chosen.
        n: Number of points.
        seed: Of the choice and the directions.

    Returns:
        The chosen samples, shape ``(k,)`` with ``k <= n``, and the points, shape ``(k, d)``, inside
        the box.
    """
    rng = np.random.default_rng([seed, _STREAM])
    chosen = rng.permutation(np.flatnonzero(samples.is_finite))[:n]
    direction = rng.standard_normal((len(chosen), grid.dim))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    width = grid.upper - grid.lower
    start = samples.points[chosen]
    # Towards the inner half of the box, so that no point lies outside.
    inward = np.where(start < 0.5 * (grid.lower + grid.upper), 1.0, -1.0)
    return chosen, start + _STEP * width * np.abs(direction) * inward


def hold_out(loss: Loss, samples: Samples, grid: CubicalGrid, n: int, seed: int) -> HeldOut:
    """Evaluate the loss close to some of the samples.

    Args:
        loss: As in :func:`lightning_morse.analyze`.
        samples: The samples to lie beside.
        grid: The grid of the analysis.
        n: Number of evaluations, fewer where fewer samples are finite.
        seed: Of the choice and the directions.

    Raises:
        ValueError: If the loss does not return one number per point.
    """
    partners, points = beside_samples(grid, samples, n, seed)
    if not len(partners):
        return HeldOut.none(grid.dim)
    return HeldOut(partners, points, evaluate(loss, points))


def evaluate(loss: Loss, points: Array) -> Array:
    """Losses at some points, shape ``(n,)``, whatever dtype and device they come in.

    Raises:
        ValueError: If the loss does not return one real number per point, in a dense tensor.
    """
    n = len(points)
    with preserved_settings():
        values = loss(torch.from_numpy(points.copy()))
    if not isinstance(values, torch.Tensor):
        raise ValueError(
            f"loss must return a tensor of shape ({n},) for {n} points, got {type(values).__name__}"
        )
    if (unfit := _unfit(values)) is not None:
        raise ValueError(
            f"loss must return a dense tensor of real floating or integer numbers, got {unfit}"
        )
    if values.shape != (n,):
        raise ValueError(
            f"loss must return one number for each of the {n} points, shape ({n},), got "
            f"{tuple(values.shape)}; reduce over all axes but the first"
        )
    losses: Array = values.detach().to("cpu", torch.float64).numpy()
    return losses


def _unfit(values: torch.Tensor) -> str | None:
    """What a tensor is that does not hold dense real numbers; None for one that does."""
    if values.is_nested or values.is_quantized or values.layout != torch.strided or values.is_meta:
        kind = "nested" if values.is_nested else "quantized" if values.is_quantized else None
        kind = kind or ("meta" if values.is_meta else str(values.layout).removeprefix("torch."))
        return f"a {kind} tensor of {values.dtype}"
    if values.is_complex() or values.dtype == torch.bool:
        return str(values.dtype)
    return None


@dataclass(frozen=True)
class BetweenBatches:
    """Says whether the time is up, but not within a batch: its points are evaluated together.

    Attributes:
        is_over: Says whether it is.
    """

    is_over: Callable[[], bool]

    def __call__(self) -> bool:
        """Whether the time is up."""
        return self.is_over()


def evaluate_until(
    loss: Loss, points: Array, is_over: Callable[[], bool] | None
) -> tuple[Array, Array]:
    """Evaluate the loss at points one by one until the time is up, but at one point at least.

    All at once where that is asked between batches only.

    Args:
        loss: As in :func:`lightning_morse.analyze`.
        points: Shape ``(n, d)``.
        is_over: Whether the time is up; None if there is no end to it.

    Returns:
        The points that were evaluated, shape ``(k, d)``, and the losses, shape ``(k,)``.
    """
    if is_over is None or isinstance(is_over, BetweenBatches) or not len(points):
        return points, evaluate(loss, points)
    losses = [evaluate(loss, points[:1])]
    while len(losses) < len(points) and not is_over():
        losses.append(evaluate(loss, points[len(losses) : len(losses) + 1]))
    return points[: len(losses)], np.concatenate(losses)


def nearest_diverged(grid: CubicalGrid, samples: Samples) -> Mask:
    """Cells whose nearest sample, distances in widths of the box, has a loss that is not finite."""
    finite = samples.is_finite
    if finite.all():
        return np.zeros(grid.size, dtype=bool)
    width = grid.upper - grid.lower
    _, nearest = cKDTree(samples.points / width).query(grid.cell_centers() / width)
    diverged: Mask = ~finite[nearest]
    return diverged
