r"""What a linear network can learn from data: modes, critical values, the staircase of losses.

On whitened inputs the loss of a linear network is :math:`\tfrac12 (\operatorname{tr} S_{yy} -
\|M\|^2) + \tfrac12 \|M - P S_{xx}^{1/2}\|^2` with :math:`M = S_{yx} S_{xx}^{-1/2} = \sum_a \sigma_a
u_a v_a^\top`. At every critical point the network has learned some of these modes exactly and none
of the others (Baldi and Hornik 1989 for two layers; Achour, Malgouyres, Gerchinovitz, arXiv
2107.13289; Wendin and Altafini, arXiv 2511.10362):

.. math:: P S_{xx}^{1/2} = \sum_{a \in S} \sigma_a u_a v_a^\top, \qquad
          \mathcal L = \tfrac12 \Big(\operatorname{tr} S_{yy} - \sum_{a \in S} \sigma_a^2\Big)

where S has at most as many modes as the narrowest layer has units. Modes are numbered from 0, the
strongest first.

Premise: all strengths differ. If some are equal, S is a choice of directions in their common space,
a continuous family with one loss; such levels are marked ``degenerate`` and listed once for each
number of modes taken. :math:`S_{xx}` may be singular; its inverse is then the pseudo-inverse, since
nothing can be learned from inputs that do not vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as all_choices
from math import comb

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.deep_linear.moments import Moments
from lightning_morse.deep_linear.network import Weights, as_weights

# Input variances below this share of the largest count as zero, and so do strengths below its
# square root. Well above rounding, so that a direction without variance is never inverted; a mode
# this weak is missed by every statement here.
RANK_TOLERANCE = 1e-10
# Strengths closer than this, relative to the largest, count as equal. Singular vectors are accurate
# to about eps / gap, 2e-9 here. Statements about distinct strengths assume larger gaps.
TIE_TOLERANCE = 1e-7
# Most critical values that are listed; there are 2^r of them. Bounds memory only.
MAX_LEVELS = 2**16
# By Cauchy-Schwarz the targets hardly covary with inputs that hardly vary. They may exceed that
# bound by this factor, for rounding, before the moments are refused as inconsistent.
INCONSISTENCY_FACTOR = 10


@dataclass(frozen=True)
class Modes:
    r"""The singular value decomposition of :math:`M = S_{yx} S_{xx}^{-1/2}`.

    Attributes:
        strengths: :math:`\sigma_a > 0`, decreasing, shape ``(r,)``.
        left: :math:`u_a` in the columns, shape ``(n_L, r)``.
        right: :math:`v_a` in the columns, shape ``(n_0, r)``.
        whitener: :math:`S_{xx}^{-1/2}`, the pseudo-inverse where :math:`S_{xx}` is singular, shape
            ``(n_0, n_0)``.
        root: :math:`S_{xx}^{1/2}`, same shape.
    """

    strengths: Array
    left: Array
    right: Array
    whitener: Array
    root: Array

    @property
    def rank(self) -> int:
        """Number of modes."""
        return len(self.strengths)

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The modes, grouped by equal strength."""
        groups: list[list[int]] = []
        for a, strength in enumerate(self.strengths):
            tied = a > 0 and self.strengths[a - 1] - strength <= TIE_TOLERANCE * self.strengths[0]
            if tied:
                groups[-1].append(a)
            else:
                groups.append([a])
        return tuple(map(tuple, groups))


@dataclass(frozen=True)
class CriticalLevel:
    """A critical value of the loss.

    Attributes:
        modes: The modes that have been learned, in increasing order. If ``degenerate``, the first
            modes of a group of equal strength stand for any directions in their common space.
        loss: The critical value.
        degenerate: Whether some but not all modes of equal strength have been learned.
    """

    modes: tuple[int, ...]
    loss: float
    degenerate: bool


def data_modes(moments: Moments) -> Modes:
    r"""The modes of the data.

    Args:
        moments: Moments of the data.

    Returns:
        The decomposition, without modes of strength zero.

    Raises:
        ValueError: If the targets covary with inputs that do not vary, so that the loss is
            unbounded below; this cannot happen for moments of data.

    Example:
        >>> modes = data_modes(Moments(np.diag([4.0, 1.0]), [[0.0, 1.0], [6.0, 0.0]], 10.0))
        >>> modes.strengths.tolist()  # 6 / sqrt(4), 1
        [3.0, 1.0]
        >>> np.abs(modes.left).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    values, vectors = np.linalg.eigh(moments.xx)
    largest = max(float(values.max(initial=0.0)), 0.0)
    kept = values > RANK_TOLERANCE * largest if largest > 0 else np.zeros(len(values), dtype=bool)
    # |E[y v^T x]|^2 <= E|y|^2 E(v^T x)^2 for every unit vector v.
    outside = float(np.square(moments.yx @ vectors[:, ~kept]).sum())
    bound = INCONSISTENCY_FACTOR * len(values) * RANK_TOLERANCE * max(largest, 1e-300)
    if outside > bound * abs(moments.yy):
        raise ValueError(
            f"yx must vanish on inputs that do not vary, got {outside**0.5:.3g} there: the loss "
            "has no minimum. Take xx, yx and yy from the same data"
        )
    basis, roots = vectors[:, kept], np.sqrt(values[kept])
    whitened = moments.yx @ basis / roots
    left, strengths, right = np.linalg.svd(whitened, full_matrices=False)
    rank = int((strengths > RANK_TOLERANCE**0.5 * strengths.max(initial=0.0)).sum())
    return Modes(
        strengths[:rank],
        left[:, :rank],
        basis @ right[:rank].T,
        (basis / roots) @ basis.T,
        (basis * roots) @ basis.T,
    )


def mode_strengths(product: Array, modes: Modes) -> Array:
    r"""Strength of each mode in a linear map, relative to its target.

    Args:
        product: :math:`P`, shape ``(n_L, n_0)``.
        modes: Modes of the data.

    Returns:
        :math:`u_a^\top P S_{xx}^{1/2} v_a / \sigma_a`, shape ``(r,)``; 0 is not learned, 1 learned.

    Example:
        >>> modes = data_modes(Moments(np.eye(2), np.diag([3.0, 1.0]), 10.0))
        >>> mode_strengths(np.diag([3.0, 0.5]), modes).tolist()
        [1.0, 0.5]
    """
    found = np.einsum("ia,ij,ja->a", modes.left, product @ modes.root, modes.right)
    return np.asarray(found / modes.strengths)


def capacity(modes: Modes, sizes: Sequence[int]) -> int:
    """Number of modes a network of given widths can learn: ``min(rank, narrowest width)``.

    Args:
        modes: Modes of the data.
        sizes: Widths ``(n_0, ..., n_L)``.

    Raises:
        ValueError: If the widths do not fit the data.

    Example:
        >>> capacity(data_modes(Moments(np.eye(3), np.eye(3), 3.0)), (3, 2, 3))
        2
    """
    if len(sizes) < 2 or (sizes[0], sizes[-1]) != (len(modes.right), len(modes.left)):
        raise ValueError(
            f"sizes must be the widths from {len(modes.right)} inputs to {len(modes.left)} "
            f"outputs, got {tuple(sizes)}"
        )
    return min(modes.rank, *sizes)


def n_critical_values(modes: Modes, sizes: Sequence[int]) -> int:
    r"""Number of critical values, counted separately for different sets of modes.

    :math:`\sum_{k \le m} \binom{r}{k}` for ``r`` modes of different strengths and capacity ``m``.

    Example:
        >>> n_critical_values(data_modes(Moments(np.eye(3), np.diag([3.0, 2, 1]), 14.0)), (3, 2, 3))
        7
    """
    room = capacity(modes, sizes)
    if len(modes.groups) == modes.rank:
        return sum(comb(modes.rank, k) for k in range(room + 1))
    # Ways to take k modes when only the number taken from each group of equal ones matters.
    ways = np.zeros(room + 1, dtype=object)
    ways[0] = 1
    for group in modes.groups:
        ways = np.array(
            [sum(ways[k - j] for j in range(min(len(group), k) + 1)) for k in range(room + 1)],
            dtype=object,
        )
    return int(ways.sum())


def critical_levels(moments: Moments, sizes: Sequence[int]) -> tuple[CriticalLevel, ...]:
    """All critical values of the loss, from the highest (nothing learned) to the global minimum.

    Args:
        moments: Moments of the data.
        sizes: Widths ``(n_0, ..., n_L)``.

    Returns:
        One level per set of modes that fits through the narrowest layer; among modes of equal
        strength only their number counts.

    Raises:
        ValueError: If there are more than 65,536 levels, or the widths do not fit.

    Example:
        >>> moments = Moments(np.eye(2), np.diag([3.0, 1.0]), 10.0)
        >>> [(level.modes, level.loss) for level in critical_levels(moments, (2, 2, 2))]
        [((), 5.0), ((1,), 4.5), ((0,), 0.5), ((0, 1), 0.0)]
        >>> [level.modes for level in critical_levels(moments, (2, 1, 2))]
        [(), (1,), (0,)]
    """
    modes = data_modes(moments)
    room, count = capacity(modes, sizes), n_critical_values(modes, sizes)
    if count > MAX_LEVELS:
        raise ValueError(
            f"there must be at most {MAX_LEVELS} critical values to list them, got {count} for "
            f"{modes.rank} modes. Use staircase(), which has {room + 1}"
        )
    levels = []
    for taken in all_choices(*(range(len(group) + 1) for group in modes.groups)):
        if sum(taken) <= room:
            chosen = zip(taken, modes.groups, strict=True)
            levels.append(_level(moments, modes, [a for k, g in chosen for a in g[:k]]))
    return tuple(sorted(levels, key=lambda level: (-level.loss, level.modes)))


def staircase(moments: Moments, sizes: Sequence[int]) -> tuple[CriticalLevel, ...]:
    """The critical values met when modes are learned in order of strength.

    From small weights the gradient flow passes near saddles of these levels, learning one mode
    after the other (Saxe, McClelland, Ganguli 2014, arXiv 1312.6120).

    Args:
        moments: Moments of the data.
        sizes: Widths ``(n_0, ..., n_L)``.

    Returns:
        The levels with nothing learned, with the strongest mode, and so on to the global minimum.

    Example:
        >>> moments = Moments(np.eye(2), np.diag([3.0, 1.0]), 10.0)
        >>> [level.loss for level in staircase(moments, (2, 2, 2))]
        [5.0, 0.5, 0.0]
    """
    modes = data_modes(moments)
    steps = range(capacity(modes, sizes) + 1)
    return tuple(_level(moments, modes, list(range(k))) for k in steps)


def global_minimum(moments: Moments, sizes: Sequence[int]) -> float:
    """The smallest loss that a linear network of given widths can reach.

    Example:
        >>> global_minimum(Moments(np.eye(2), np.diag([3.0, 1.0]), 10.0), (2, 1, 2))
        0.5
    """
    return staircase(moments, sizes)[-1].loss


def _level(moments: Moments, modes: Modes, chosen: list[int]) -> CriticalLevel:
    taken = set(chosen)
    partly = any(0 < len(taken.intersection(group)) < len(group) for group in modes.groups)
    value = (moments.yy - float(np.square(modes.strengths[chosen]).sum())) / 2
    return CriticalLevel(tuple(chosen), value, partly)


def whitened(weights: Weights, modes: Modes) -> tuple[Array, ...]:
    r"""The same network on whitened inputs: :math:`W_1 S_{xx}^{1/2}` in place of :math:`W_1`.

    The loss depends on :math:`W_1` only through this product. If :math:`S_{xx}` is invertible it is
    a linear change of coordinates, which preserves critical points and indices; otherwise
    directions in which the loss is constant drop out.
    """
    first, *others = as_weights(weights)
    return (first @ modes.root, *others)
