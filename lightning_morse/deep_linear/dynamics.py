r"""The time course of a single mode in a deep linear network.

Let the inputs be whitened, and let the layers be balanced and share the singular vectors of the
data. Then the modes decouple (Saxe, McClelland, Ganguli 2014, arXiv 1312.6120; Wendin and Altafini,
arXiv 2511.10362): the strength ``s`` of a mode with target :math:`\sigma` in the product of ``L``
layers follows

.. math:: \dot s = L \, s^{2 - 2/L} (\sigma - s).

Time is that of the gradient flow of half the mean squared error, the learning rate times the number
of steps. With ``torch.nn.functional.mse_loss`` on ``n`` outputs it runs ``2 / n`` times as fast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import digamma, expit, factorial, hyp2f1, logit, poch

from lightning_morse._typing import Array

# Logit of a relative strength that differs from 1 by rounding only.
ARRIVED_LOGIT = 37.0
# Below this relative distance from the target the hypergeometric function loses digits to
# cancellation and its expansion at 1 is used instead, whose terms fall at least as fast as powers
# of this: SERIES_TERMS of them reach rounding. The tests compare both sides with 40 digits.
SERIES_BELOW_GAP, SERIES_TERMS = 0.02, 10


def mode_velocity(strength: ArrayLike, target: float, depth: int) -> Array:
    """Right-hand side of the mode equation in the docstring of this module.

    Args:
        strength: ``s >= 0``, any shape.
        target: Strength of the mode in the data, positive.
        depth: Number ``L`` of layers.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> mode_velocity([0.0, 1.0, 3.0], target=3.0, depth=2).tolist()  # 2 s (3 - s)
        [0.0, 4.0, 0.0]
    """
    s = np.asarray(strength, dtype=np.float64)
    _check(target, depth)
    if not (s >= 0).all():
        raise ValueError("strength must not be negative, got a negative or NaN entry")
    return np.asarray(depth * s ** (2 - 2 / depth) * (target - s))


def learning_time(start: float, end: float, target: float, depth: int) -> float:
    r"""Time in which the strength of a mode grows from one value to another.

    With two layers it is
    :math:`\frac{1}{2\sigma} \ln \frac{s_1 (\sigma - s_0)}{s_0 (\sigma - s_1)}`, with four the
    difference of :math:`\frac{1}{2\sigma} \big(\sigma^{-1/2}
    \operatorname{artanh}\sqrt{s/\sigma} - s^{-1/2}\big)`, in general that of
    :math:`\frac{s^{2/L-1}}{(2-L)\sigma} \, {}_2F_1(1, \tfrac2L - 1; \tfrac2L; \tfrac s\sigma)`.

    Args:
        start: :math:`0 < s_0`.
        end: :math:`s_1` with :math:`s_0 \le s_1 < \sigma`.
        target: :math:`\sigma`.
        depth: Number ``L`` of layers.

    Raises:
        ValueError: If an argument is out of range; a mode neither leaves 0 nor reaches its target.

    Example:
        >>> round(learning_time(0.001, 0.5, target=1.0, depth=2), 5)  # ln(999) / 2
        3.45338
        >>> round(learning_time(0.001, 0.5, target=1.0, depth=4), 5)
        15.52915
    """
    _check(target, depth)
    if not 0 < start <= end < target:
        raise ValueError(
            f"start and end must satisfy 0 < start <= end < target, got {start!r}, {end!r} and "
            f"{target!r}"
        )
    if depth == 2:
        return float(logit(end / target) - logit(start / target)) / (2 * target)
    ages = [_age(s / target, (target - s) / target, target, depth) for s in (start, end)]
    return ages[1] - ages[0]


def mode_strength(
    time: ArrayLike, start: float, target: float, depth: int, imbalance: float = 0.0
) -> Array:
    r"""Strength of a mode as a function of time.

    With two layers it is explicit, even for an unbalanced mode. Let :math:`w_1, w_2` be its weights
    in the layers, :math:`s = w_2 w_1`, and :math:`\lambda = w_2^2 - w_1^2`, which is conserved.
    Then :math:`\dot s = \sqrt{\lambda^2 + 4 s^2} \, (\sigma - s)`, and :math:`y = 2 s +
    \sqrt{\lambda^2 + 4 s^2}` satisfies the Riccati equation :math:`\dot y = -\tfrac12 y^2 + 2
    \sigma y + \tfrac12 \lambda^2`, so that with :math:`\rho = \sqrt{4 \sigma^2 + \lambda^2}` and
    :math:`y_\pm = 2\sigma \pm \rho`

    .. math:: \frac{y - y_+}{y - y_-} = \frac{y_0 - y_+}{y_0 - y_-} e^{-\rho t}, \qquad
              s = \tfrac14 \big(y - \lambda^2 / y\big);

    the logistic curve if :math:`\lambda = 0`. Otherwise :func:`learning_time` is inverted.

    Args:
        time: Nonnegative times, any shape.
        start: Strength at time 0, in ``(0, target]``; any number if there is an imbalance.
        target: :math:`\sigma > 0`.
        depth: Number ``L`` of layers.
        imbalance: :math:`\lambda`; nonzero for two layers only.

    Returns:
        Strengths, in the shape of ``time``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> mode_strength([1.0, 2.0], start=0.01, target=3.0, depth=2).round(5).tolist()
        [1.723, 2.9945]
    """
    t = np.asarray(time, dtype=np.float64)
    _check(target, depth)
    if not (t >= 0).all():
        raise ValueError("time must not be negative, got a negative or NaN entry")
    if imbalance and depth != 2:
        raise ValueError(
            f"imbalance must be 0 unless there are two layers, got {imbalance!r} with {depth}. "
            "Use lightning_morse.deep_linear.integrate()"
        )
    if not np.isfinite(imbalance) or not np.isfinite(start) or (not imbalance and start <= 0):
        raise ValueError(
            f"start must be positive where imbalance is 0, both finite, got {start!r} and "
            f"{imbalance!r}: a balanced mode stays at 0"
        )
    if depth == 2:
        return _two_layers(t, start, target, abs(imbalance))
    if start > target:
        raise ValueError(
            f"start must be at most target = {target!r} for {depth} layers, got {start!r}"
        )
    return np.array([_inverted(x, start, target, depth) for x in t.ravel()]).reshape(t.shape)


def half_time(start: float, target: float, depth: int) -> float:
    """Time until a mode reaches half its strength: the escape time from the saddle without it.

    For small ``start`` it grows like ``log(1 / start)`` with two layers and like
    ``start ** (2 / L - 1)`` with more: deep networks linger at saddles.

    Args:
        start: Current strength, positive.
        target: Strength of the mode in the data.
        depth: Number ``L`` of layers.

    Returns:
        The time; 0 if the mode has half its strength already.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> round(half_time(0.001, target=1.0, depth=3), 5), half_time(0.7, target=1.0, depth=3)
        (9.14475, 0.0)
    """
    _check(target, depth)
    if not start > 0:
        raise ValueError(f"start must be positive, got {start!r}: a mode never leaves 0")
    return learning_time(start, target / 2, target, depth) if start < target / 2 else 0.0


def _age(share: float, gap: float, target: float, depth: int) -> float:
    """Antiderivative of ``1 / velocity`` at ``s / target = share = 1 - gap``.

    Only its differences are meaningful.
    """
    power = 2 / depth - 1
    if depth == 4:
        root = float(np.sqrt(share))
        # artanh without the cancellation in 1 - root
        return float((np.log1p(root) - np.log(gap) / 2 - 1 / root) / (2 * target**1.5))
    if gap > SERIES_BELOW_GAP:
        series = float(hyp2f1(1.0, power, power + 1, share))
    else:  # DLMF 15.8.10, without the cancellation in 1 - share
        n = np.arange(SERIES_TERMS)
        terms = digamma(n + 1.0) - digamma(power + n) - np.log(gap)
        series = power * float((poch(power, n) / factorial(n) * terms * gap**n).sum())
    return float((share * target) ** power * series / (depth * power * target))


def _two_layers(t: Array, start: float, target: float, imbalance: float) -> Array:
    rho = float(np.hypot(2 * target, imbalance))
    far = float(np.hypot(2 * start, imbalance))
    # (far + 2 s)(far - 2 s) = imbalance^2 avoids cancellation for s < 0.
    first = far + 2 * start if start >= 0 else imbalance**2 / (far - 2 * start)
    upper = 2 * target + rho
    lower = -(imbalance**2) / upper
    ratio = (first - upper) / (first - lower) * np.exp(-rho * t)
    y = (upper - lower * ratio) / (1 - ratio)
    return np.asarray((y - imbalance**2 / y) / 4)


def _inverted(time: float, start: float, target: float, depth: int) -> float:
    if start == target or time == 0:
        return start
    if depth == 1:
        return float(target + (start - target) * np.exp(-time))

    def age(x: float) -> float:
        return _age(float(expit(x)), float(expit(-x)), target, depth)

    low = float(logit(start / target))
    then = age(low) + time
    if low >= ARRIVED_LOGIT or age(ARRIVED_LOGIT) <= then:
        return target  # up to rounding
    end = brentq(lambda x: age(x) - then, low, ARRIVED_LOGIT, xtol=1e-14, rtol=1e-14)
    return float(target * expit(end))


def _check(target: float, depth: int) -> None:
    if not (target > 0 and np.isfinite(target)):
        raise ValueError(f"target must be positive and finite, got {target!r}")
    if type(depth) is not int or depth < 1:
        raise ValueError(f"depth must be a positive integer, got {depth!r}")
