r"""Critical points of a chain of weights with weight decay.

On one example (or one mode) of strength :math:`\sigma`, the scalar network
:math:`x \mapsto w_L \cdots w_1 x` has the loss

.. math:: \tfrac12 (\sigma - w_L \cdots w_1)^2 + \tfrac\lambda2 \sum_l w_l^2 .

Multiplying the ``l``-th equation of a critical point by :math:`w_l` gives, with the product ``p``,
:math:`(\sigma - p) p = \lambda w_l^2` for every ``l``. So either all weights vanish, or all have
the same absolute value ``w``, the product has the sign of :math:`\sigma`, and

.. math:: (|\sigma| - w^L) \, w^{L-2} = \lambda .

The left side rises once and falls once (for two layers it only falls), so there are two values of
``w`` or none (one or none), each with :math:`2^{L-1}` choices of signs. Decay breaks the continuous
families of minima into points. Wendin and Altafini (arXiv 2511.10362) treat the unregularised case.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product as all_choices

import numpy as np
from scipy.optimize import brentq

from lightning_morse._typing import Array

# Relative distance from the existence threshold within which critical points count as degenerate:
# the points that merge there have a Hessian eigenvalue near zero, whose sign decides the index.
THRESHOLD_TOLERANCE = 1e-9


@dataclass(frozen=True)
class ChainPoint:
    """A critical point of a chain with weight decay.

    Attributes:
        weights: Shape ``(L,)``.
        loss: Loss at the point, including the decay term.
        eigenvalues: Eigenvalues of the Hessian, increasing, shape ``(L,)``.
    """

    weights: Array
    loss: float
    eigenvalues: Array

    @property
    def index(self) -> int:
        """Morse index: the number of negative eigenvalues."""
        return int((self.eigenvalues < 0).sum())


def chain_critical_points(depth: int, target: float, decay: float) -> tuple[ChainPoint, ...]:
    r"""All critical points of a chain, from the lowest loss to the highest.

    At a point with weights of absolute value ``w`` and product ``p`` the Hessian has the eigenvalue
    :math:`2 \lambda` with multiplicity :math:`L - 1` and the simple eigenvalue
    :math:`2 \lambda + L p (2 p - \sigma) / w^2`. At the origin all eigenvalues are
    :math:`\lambda`, or :math:`\lambda \pm \sigma` for two layers.

    Args:
        depth: Number ``L >= 2`` of layers.
        target: :math:`\sigma`, of any sign.
        decay: :math:`\lambda > 0`; without decay the minima are not isolated.

    Raises:
        ValueError: If an argument is out of range, or the decay equals
            :func:`existence_threshold`, at which degenerate critical points appear.

    Example:
        >>> [len(chain_critical_points(depth, 1.0, 0.2)) for depth in (2, 3, 4)]
        [3, 9, 17]
        >>> minimum = chain_critical_points(2, 1.0, 0.2)[0]
        >>> np.abs(minimum.weights).round(6).tolist(), round(minimum.loss, 6)
        ([0.894427, 0.894427], 0.18)
        >>> minimum.eigenvalues.round(6).tolist()
        [0.4, 1.6]
    """
    threshold = existence_threshold(depth, target)
    if not (decay > 0 and np.isfinite(decay)):
        raise ValueError(
            f"decay must be positive and finite, got {decay!r}. Without decay the minima form "
            "continuous families: see lightning_morse.deep_linear.classify"
        )
    if abs(decay - threshold) <= THRESHOLD_TOLERANCE * threshold:
        raise ValueError(
            f"decay must not be the threshold {threshold:.9g}, got {decay!r}: the points that "
            "appear there are degenerate. Choose a slightly larger or smaller decay"
        )
    origin = (
        np.array([decay - abs(target), decay + abs(target)])
        if depth == 2
        else np.full(depth, float(decay))
    )
    points = [ChainPoint(np.zeros(depth), target**2 / 2, origin)]
    for size in _sizes(depth, abs(target), decay):
        single = 2 * decay + depth * size ** (depth - 2) * (2 * size**depth - abs(target))
        values = np.sort([2 * decay] * (depth - 1) + [single])
        height = (abs(target) - size**depth) ** 2 / 2 + decay * depth * size**2 / 2
        for signs in all_choices((1.0, -1.0), repeat=depth):
            if np.prod(signs) * target > 0:
                points.append(ChainPoint(size * np.array(signs), height, values))
    return tuple(sorted(points, key=lambda point: point.loss))


def existence_threshold(depth: int, target: float) -> float:
    r"""The decay :math:`\lambda_c` above which the origin is the only critical point.

    It is the maximum of :math:`(|\sigma| - w^L) w^{L-2}`, at
    :math:`w^L = |\sigma| (L - 2) / (2 L - 2)`:

    .. math:: \lambda_c = \frac{L |\sigma|}{2 L - 2}
              \left(\frac{(L - 2) |\sigma|}{2 L - 2}\right)^{1 - 2/L},
              \qquad \lambda_c = |\sigma| \text{ for } L = 2 .

    Args:
        depth: Number ``L >= 2`` of layers.
        target: :math:`\sigma`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> existence_threshold(2, 3.0), existence_threshold(4, 3.0)  # (3 - 1) 1
        (3.0, 2.0)
    """
    if type(depth) is not int or depth < 2:
        raise ValueError(f"depth must be an integer of at least 2, got {depth!r}")
    if not np.isfinite(target):
        raise ValueError(f"target must be finite, got {target!r}")
    sigma, room = abs(float(target)), 2 * depth - 2
    return float(depth * sigma / room * ((depth - 2) * sigma / room) ** (1 - 2 / depth))


def _sizes(depth: int, sigma: float, decay: float) -> list[float]:
    """Absolute values of the weights at the nonzero critical points, at most two."""
    if decay > existence_threshold(depth, sigma):
        return []
    if depth == 2:
        return [float(np.sqrt(sigma - decay))]

    def excess(w: float) -> float:
        return (sigma - w**depth) * w ** (depth - 2) - decay

    top = (sigma * (depth - 2) / (2 * depth - 2)) ** (1 / depth)
    end = sigma ** (1 / depth)
    return [brentq(excess, low, high, xtol=1e-15) for low, high in ((0.0, top), (top, end))]
