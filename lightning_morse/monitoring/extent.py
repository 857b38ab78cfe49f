"""The box: which part of the slice to look at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array

# These decide what is looked at. Soundness depends on none of them: whatever the box, claims are
# about the flow inside it.
# Half-width over the largest distance of trajectory and weights from the centre, so that they lie
# well inside.
MARGIN = 1.5
# Least half-width over the longest: a thinner box shows only its long axis.
THINNEST = 0.25
# Points nearer to the centre than this share of the natural half-widths do not tell a size.
NEGLIGIBLE_REACH = 1e-3
# Where the flow from the weights leaves the box, the box grows until it is this many times as large
# as the reach of the trajectory.
FARTHEST = 16.0


def half_widths(
    inside: ArrayLike,
    natural: ArrayLike | None = None,
    *,
    at_least: bool = False,
    margin: float = MARGIN,
) -> Array:
    """Half-widths of a box around zero with given points well inside.

    Args:
        inside: Points that must lie in the box, shape ``(k, d)``, weight-space units.
        natural: Half-widths to use if the points do not tell a size (none is further from zero
            than a thousandth of these), shape ``(d,)``.
        at_least: Use ``natural`` as a lower bound instead.
        margin: Half-width over the largest distance of the points from zero.

    Returns:
        Per axis ``margin`` times the largest distance from zero, and at least a quarter of the
        longest half-width, shape ``(d,)``.

    Raises:
        ValueError: If all points are zero and ``natural`` is not given.

    Example:
        >>> half_widths([[2.0, 0.0], [-4.0, 0.1]]).tolist()
        [6.0, 1.5]
    """
    reach = margin * np.abs(np.asarray(inside, dtype=np.float64)).max(axis=0, initial=0.0)
    if natural is not None:
        scale = np.asarray(natural, dtype=np.float64)
        if at_least:
            reach = np.maximum(reach, scale)
        elif (reach <= margin * NEGLIGIBLE_REACH * scale).all():
            reach = scale
    if not reach.max() > 0:
        raise ValueError(
            "the trajectory does not move inside the slice, so it gives the box no size; set extent"
        )
    widths: Array = np.maximum(reach, THINNEST * reach.max())
    return widths


def reach_along(inside: ArrayLike, axes: ArrayLike, *, margin: float) -> Array:
    """Half-widths along other axes, zero if the points do not move.

    Args:
        inside: As in :func:`half_widths`.
        axes: Orthonormal columns, shape ``(d, d)``.
        margin: As in :func:`half_widths`.
    """
    turned = np.asarray(inside, dtype=np.float64) @ np.asarray(axes)
    return half_widths(turned, margin=margin) if turned.any() else np.zeros(turned.shape[1])


@dataclass(frozen=True, eq=False)
class Extent:
    """The size of the box that a user asked for.

    Attributes:
        half: Half-widths in weight-space units, shape ``(d,)``; None if the trajectory sets them.
        margin: Half-width over the reach of the trajectory, per axis, if that sets them.
        grows: Whether the box may grow.
    """

    half: Array | None
    margin: float
    grows: bool


def given_extent(extent: str | float | Sequence[float], dim: int) -> Extent:
    """Read the argument ``extent`` of a monitor.

    Args:
        extent: ``"auto"``; a percentage of the reach of the trajectory such as ``"200%"``; or one
            half-width, or ``dim`` of them.
        dim: Number of axes.

    Raises:
        ValueError: If it is none of these, or not positive and finite.

    Example:
        >>> given_extent("200%", 2).margin, given_extent(3, 2).half.tolist()
        (2.0, [3.0, 3.0])
    """
    if isinstance(extent, str):
        if extent == "auto":
            return Extent(None, MARGIN, grows=True)
        share = re.fullmatch(r"\s*(\d+\.?\d*)\s*%\s*", extent)
        if share and float(share[1]) > 0:
            return Extent(None, float(share[1]) / 100, grows=False)
    try:
        half = np.array(extent, dtype=np.float64)
    except (TypeError, ValueError):
        half = np.array(np.nan)
    if half.shape not in ((), (dim,)) or not np.isfinite(half).all() or not (half > 0).all():
        raise ValueError(
            f"extent must be 'auto', a share of the trajectory such as '200%', a positive "
            f"half-width, or {dim} of them for the {dim} axes, got {extent!r}"
        )
    return Extent(np.broadcast_to(half, (dim,)), MARGIN, grows=False)
