"""Progress of a linear network in training: learned modes, critical level, escape time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.deep_linear.dynamics import half_time, mode_velocity
from lightning_morse.deep_linear.moments import Moments
from lightning_morse.deep_linear.network import as_weights, gradient, product, widths
from lightning_morse.deep_linear.network import loss as moment_loss
from lightning_morse.deep_linear.spectrum import (
    Modes,
    capacity,
    data_modes,
    mode_strengths,
    whitened,
)

# Thresholds of what is reported; nothing is proved with them.
# A mode counts as learned if it has this share of its target, and as taken into the level whose
# distance is measured if it has more than half.
LEARNED_SHARE, TAKEN_SHARE = 0.9, 0.5
# Tolerance for being near a critical level: for product and loss as a share of their change in
# learning the next mode, for the gradient as a share of its norm when that mode is half learned.
NEAR_SHARE = 0.2


@dataclass(frozen=True)
class LinearReading:
    """Progress of a network, read off its weights.

    Attributes:
        loss: Half the mean squared error, less what a bias could still remove.
        strengths: Strength of each mode relative to its target, shape ``(r,)``.
        learned: Number of modes with at least 0.9 of their target, at most as many as fit.
        level: Number of modes of the critical level that the weights are near; -1 if there is none.
        level_loss: Critical value of the level nearest in product, whether accepted or not.
        escape_time: Time until the next missing mode reaches half its strength, by the balanced
            mode equation; 0 if none is missing, -1 if it is not growing.
    """

    loss: float
    strengths: Array
    learned: int
    level: int
    level_loss: float
    escape_time: float


def read(weights: Sequence[Array], moments: Moments) -> LinearReading:
    r"""Read the progress of a network off its weights.

    The candidate level is that of the modes with more than half their strength. It is accepted only
    if three quantities are near those of the level: the whitened product (within 0.2 times the
    strength of the mode to be learned next, or learned last), the loss (within 0.2 times the
    contribution of that mode, :math:`\sigma^2 / 2`), and the norm of the gradient on whitened
    inputs (below 0.2 times its value when that mode is half learned,
    :math:`\sqrt{L} (\sigma / 2)^{2 - 1/L}`). The loss alone would not do: it passes every level on
    its way down.

    Premise of the escape time: balanced layers that share the singular vectors of the data, and
    inputs with variance :math:`v_a^\top S_{xx} v_a` along the mode that are uncorrelated with the
    other modes. Otherwise it is an estimate.

    Args:
        weights: The layers.
        moments: Moments of the data.

    Returns:
        The reading.

    Raises:
        ValueError: If the widths do not fit.

    Example:
        >>> moments = Moments(np.eye(2), np.diag([3.0, 1.0]), 10.0)
        >>> found = read([np.diag([3.0, 0.05]), np.diag([1.0, 0.05])], moments)
        >>> found.level, found.learned, found.level_loss, found.strengths.round(6).tolist()
        (1, 1, 0.5, [1.0, 0.0025])
    """
    layers, modes = as_weights(weights), data_modes(moments)
    value = moment_loss(layers, moments)
    room = capacity(modes, widths(layers))
    strengths = mode_strengths(product(layers), modes)
    taken = _taken(strengths, room)
    level_loss = (moments.yy - float(np.square(modes.strengths[taken]).sum())) / 2
    near = _is_near(layers, moments, modes, taken, room, value - level_loss)
    return LinearReading(
        value,
        strengths,
        min(int((strengths >= LEARNED_SHARE).sum()), room),
        len(taken) if near else -1,
        level_loss,
        _escape_time(strengths, moments, modes, taken, room, len(layers)),
    )


def _taken(strengths: Array, room: int) -> list[int]:
    """The strongest modes with more than half their target, as many as fit."""
    chosen = [a for a in np.argsort(-strengths, kind="stable") if strengths[a] > TAKEN_SHARE]
    return sorted(int(a) for a in chosen[:room])


def _missing(taken: list[int], rank: int, room: int) -> list[int]:
    """The modes still to be learned; none if there is no room for more."""
    return [a for a in range(rank) if a not in taken] if len(taken) < room else []


def _is_near(
    layers: tuple[Array, ...],
    moments: Moments,
    modes: Modes,
    taken: list[int],
    room: int,
    above: float,
) -> bool:
    """Whether the weights are near the critical level of the modes taken; see :func:`read`."""
    if not modes.rank:
        return True
    missing = _missing(taken, modes.rank, room)
    step = float(modes.strengths[missing[0] if missing else taken[-1]])
    have = product(whitened(layers, modes))
    target = (modes.left[:, taken] * modes.strengths[taken]) @ modes.right[:, taken].T
    first, *others = gradient(layers, moments)
    slopes = [first @ modes.whitener, *others]
    slope = float(np.sqrt(sum(float(np.square(g).sum()) for g in slopes)))
    halfway = float(np.sqrt(mode_velocity(step / 2, step, len(layers)) * step / 2))
    return bool(
        np.linalg.norm(have - target) <= NEAR_SHARE * step
        and abs(above) <= NEAR_SHARE * step**2 / 2
        and slope <= NEAR_SHARE * halfway
    )


def _escape_time(
    strengths: Array, moments: Moments, modes: Modes, taken: list[int], room: int, depth: int
) -> float:
    missing = _missing(taken, modes.rank, room)
    if not missing:
        return 0.0
    times = []
    for a in missing:
        target = float(modes.strengths[a])
        if strengths[a] > 0:
            variance = float(modes.right[:, a] @ moments.xx @ modes.right[:, a])
            waiting = half_time(float(strengths[a]) * target, target, depth)
            times.append(waiting / variance ** (1 / depth))
    return min(times, default=-1.0)
