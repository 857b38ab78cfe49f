"""How large a piece of the slice to look at, and the loss samples in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lightning_morse.sampling import design

Array = NDArray[np.float64]

# Trajectory and weights lie within 1 / MARGIN of the box.
MARGIN = 1.5
# The shortest axis is at least this share of the longest: a thinner box shows only its long axis.
THINNEST = 0.25
# Points closer to the centre than this share of the natural half-widths say nothing of the size.
NOTHING = 1e-3
# A lowest sample beyond this share of the way to a face means that the minimum may lie outside.
EDGE = 0.9
MOST_DOUBLINGS = 2


def half_widths(
    inside: ArrayLike, natural: ArrayLike | None = None, *, at_least: bool = False
) -> Array:
    """Half-widths of a box around zero that holds given points well inside.

    Args:
        inside: Points that must lie in the box, shape ``(k, d)``, weight-space units.
        natural: Half-widths to take where the points say nothing (none of them is further from
            zero than a thousandth of these), shape ``(d,)``.
        at_least: Take ``natural`` as a lower bound instead.

    Returns:
        Per axis 1.5 times the largest distance from zero, at least a part of the longest half
        axis, shape ``(d,)``.

    Raises:
        ValueError: If all points are zero and there is no ``natural`` half-width.

    Example:
        >>> half_widths([[2.0, 0.0], [-4.0, 0.1]]).tolist()
        [6.0, 1.5]
    """
    reach = MARGIN * np.abs(np.asarray(inside, dtype=np.float64)).max(axis=0, initial=0.0)
    if natural is not None:
        scale = np.asarray(natural, dtype=np.float64)
        if at_least:
            reach = np.maximum(reach, scale)
        elif (reach <= MARGIN * NOTHING * scale).all():
            reach = scale
    if not reach.max() > 0:
        raise ValueError(
            "the trajectory does not move inside the slice, so it gives the box no size; set extent"
        )
    return np.maximum(reach, THINNEST * reach.max())


def given_half_widths(extent: str | float | Sequence[float], dim: int) -> Array | None:
    """Half-widths a user gave.

    Args:
        extent: ``"auto"``, a number, or ``dim`` of them.
        dim: Number of axes.

    Returns:
        Shape ``(dim,)``; None for ``"auto"``.

    Raises:
        ValueError: If they are not positive and finite, or there is another number of them.
    """
    if isinstance(extent, str) and extent == "auto":
        return None
    try:
        half = np.array(extent, dtype=np.float64)
    except (TypeError, ValueError):
        half = np.array(np.nan)
    if half.shape not in ((), (dim,)) or not np.isfinite(half).all() or not (half > 0).all():
        raise ValueError(
            f"extent must be 'auto', a positive half-width, or {dim} of them for the {dim} axes, "
            f"got {extent!r}"
        )
    return np.broadcast_to(half, (dim,))


def sample_box(
    loss: Callable[[Tensor], Tensor], half: Array, n_samples: int, seed: int, *, grow: bool
) -> tuple[Array, Array, Array]:
    """Evaluate the loss on a box around zero; grow the box if its minimum may lie outside.

    The first half of the design decides: while the lowest finite loss in it lies in the outer
    tenth of the box, the box is doubled, at most twice. The half is part of the final design, so
    that a box that does not grow costs no evaluation more.

    Args:
        loss: Maps points of shape ``(n, d)``, float64, to losses of shape ``(n,)``.
        half: Half-widths to begin with, shape ``(d,)``.
        n_samples: Size of the design, the centre included.
        seed: Of the design.
        grow: Whether the box may grow.

    Returns:
        Half-widths, shape ``(d,)``; the design, shape ``(n_samples, d)``, the centre first; its
        losses, shape ``(n_samples,)``, not finite where the loss diverged.
    """
    part = n_samples // 2 + 1
    for doublings in range(MOST_DOUBLINGS + 1):
        samples = design(-half, half, n_samples, seed)
        first = _values(loss, samples[:part])
        if not grow or doublings == MOST_DOUBLINGS or not _lowest_at_edge(samples, first, half):
            break
        half = 2 * half
    return half, samples, np.concatenate([first, _values(loss, samples[part:])])


def _lowest_at_edge(samples: Array, losses: Array, half: Array) -> bool:
    finite = np.isfinite(losses)
    if not finite.any():
        return False
    lowest = np.argmin(np.where(finite, losses, np.inf))
    return bool((np.abs(samples[lowest]) > EDGE * half).any())


def _values(loss: Callable[[Tensor], Tensor], points: Array) -> Array:
    return loss(torch.from_numpy(points)).detach().to("cpu", torch.float64).numpy()
