r"""Where a linear network stands: modes, level, time to the next mode.

Functions of weights and moments; what a monitor says of a run is put together here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_morse.deep_linear.dynamics import half_time, mode_velocity
from lightning_morse.deep_linear.network import (
    Array,
    Moments,
    as_weights,
    gradient,
    product,
    widths,
)
from lightning_morse.deep_linear.network import loss as moment_loss
from lightning_morse.deep_linear.spectrum import (
    Modes,
    capacity,
    data_modes,
    mode_strengths,
    whitened,
)

# A mode counts as learned from this share of its target on.
LEARNED = 0.9
# How near to a critical level: product and loss in shares of what the next step changes, and the
# gradient in shares of what it is halfway through that step.
NEAR = 0.2


@dataclass(frozen=True)
class LinearReading:
    """What the weights say.

    Attributes:
        loss: Half the mean squared error, without what a bias could still change.
        strengths: Strength of each mode relative to its target, shape ``(r,)``.
        learned: Number of modes with at least 0.9 of their target, of those there is room for.
        level: Number of modes of the critical level that the weights are near; -1 if near none.
        level_loss: Critical value of the level nearest in product, accepted or not.
        escape_time: Time until the next missing mode has half its strength, by the balanced mode
            equation; 0 if none is missing, -1 if it is not growing.
    """

    loss: float
    strengths: Array
    learned: int
    level: int
    level_loss: float
    escape_time: float


def read(weights: Sequence[Array], moments: Moments) -> LinearReading:
    r"""Read the position of a network off its weights.

    The level is that of the modes with more than half their strength. It is accepted only if three
    things are near at once: the whitened product (within 0.2 of the strength of the mode that is
    learned next, or was last), the loss (within 0.2 of what that mode is worth, :math:`\sigma^2 /
    2`), and the gradient (on whitened inputs, its norm within 0.2 of what it is when that mode is
    half learned, :math:`\sqrt{L} (\sigma / 2)^{2 - 1/L}`). A loss alone passes every level on its
    way down, and says nothing.

    Premise of the escape time: balanced layers that share the singular vectors of the data, inputs
    with variance :math:`v_a^\top S_{xx} v_a` along the mode and no correlation with others. It is
    an estimate on other data.

    Args:
        weights: The layers.
        moments: Of the data.

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
        min(int((strengths >= LEARNED).sum()), room),
        len(taken) if near else -1,
        level_loss,
        _escape_time(strengths, moments, modes, taken, room, len(layers)),
    )


def _taken(strengths: Array, room: int) -> list[int]:
    chosen = [a for a in np.argsort(-strengths, kind="stable") if strengths[a] > 0.5]
    return sorted(int(a) for a in chosen[:room])


def _missing(taken: list[int], rank: int, room: int) -> list[int]:
    return [a for a in range(rank) if a not in taken] if len(taken) < room else []


def _is_near(
    layers: tuple[Array, ...],
    moments: Moments,
    modes: Modes,
    taken: list[int],
    room: int,
    above: float,
) -> bool:
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
        np.linalg.norm(have - target) <= NEAR * step
        and abs(above) <= NEAR * step**2 / 2
        and slope <= NEAR * halfway
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
