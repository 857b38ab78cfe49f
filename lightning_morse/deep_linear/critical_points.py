r"""Kind and index of the critical points of deep linear networks.

Let :math:`W` be a critical point that has learned the modes in S, ``r`` of them, and let :math:`E =
M - P S_{xx}^{1/2}` be the whitened residual (:mod:`lightning_morse.deep_linear.spectrum`). Achour,
Malgouyres and Gerchinovitz (arXiv 2107.13289) classify it by ranks:

- If S are the strongest modes and the network has no room for more: a global minimum.
- If S are not the strongest modes: a strict saddle (exchanging a mode for a stronger one is a
  direction of negative curvature).
- If S are the strongest modes, consider each pair of layers :math:`i > j` (a pivot). It is called
  tightened if one of the blocks

  .. math:: W_{i-1} \cdots W_{j+1}, \qquad
            W_{j-1} \cdots W_1 \, \Sigma_{xy} \, W_L \cdots W_{i+1}

  has rank r. The saddle is non-strict if all pivots are tightened, and strict otherwise.

The second block has rank r exactly when :math:`W_{j-1} \cdots W_1 S_{xx}^{1/2} E^\top W_L \cdots
W_{i+1}` vanishes, and that is the condition tested here: unlike the theorem it assumes neither a
target of full rank nor an invertible :math:`S_{xx}`. This extends the theorem, by the following
argument. A pivot for which neither condition holds yields a direction of negative curvature
(:math:`V_i` and :math:`V_j` of rank one through the middle block, one of them large and one small);
if there is no such pivot, the second-order term of the residual is dominated as in the theorem. The
tests check the classification against Hessians.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.deep_linear.moments import Moments
from lightning_morse.deep_linear.network import (
    Weights,
    as_weights,
    gradient,
    loss,
    product,
    widths,
)
from lightning_morse.deep_linear.spectrum import Modes, data_modes, global_minimum, whitened

REGULAR = "regular point"
STRICT, NON_STRICT = "strict saddle", "non-strict saddle"
MINIMUM = "global minimum"


@dataclass(frozen=True)
class PointKind:
    """Classification of a point of weight space.

    Attributes:
        kind: ``"regular point"``, ``"strict saddle"``, ``"non-strict saddle"`` or
            ``"global minimum"``. A strict saddle has a direction of negative curvature, a
            non-strict one does not. There are no other local minima and no maxima.
        loss: The loss at the point.
        gradient_norm: Norm of the gradient on whitened inputs, in units of
            ``strengths[0] ** (2 - 1 / L)``.
        modes: The modes that have been learned; None at a regular point or if ``degenerate``.
        degenerate: Whether some but not all modes of equal strength have been learned; the point
            then belongs to a continuous family of such choices.
        index: Morse index, the number of negative Hessian eigenvalues; None at regular points and
            where no closed form is known (:func:`morse_index`).
    """

    kind: str
    loss: float
    gradient_norm: float
    modes: tuple[int, ...] | None
    degenerate: bool
    index: int | None


def classify(weights: Weights, moments: Moments, tolerance: float = 1e-6) -> PointKind:
    r"""Classify a point by the criterion in the docstring of this module.

    Args:
        weights: The layers.
        moments: Moments of the data.
        tolerance: Threshold below which the gradient, singular values of products of layers and
            differences of strengths count as zero, each in units of its value in a balanced network
            that has learned the strongest mode (or of its own size, if larger).

    Returns:
        The classification. It is that of an exact critical point nearby if there is one; a small
        gradient does not prove that there is.

    Raises:
        ValueError: If the widths do not fit or the tolerance is not in (0, 1).

    Example:
        The origin is strict with two layers and non-strict with more. With two layers and two
        hidden units its index is 2, since each unit can learn the one mode.

        >>> moments = Moments([[1.0]], [[2.0]], 4.0)
        >>> point = classify([np.zeros((2, 1)), np.zeros((1, 2))], moments)
        >>> point.kind, point.modes, point.index
        ('strict saddle', (), 2)
        >>> classify([[[0.0]], [[0.0]], [[0.0]]], moments).kind
        'non-strict saddle'
        >>> classify([[[1.0]], [[2.0]]], moments).kind
        'global minimum'
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie strictly between 0 and 1, got {tolerance!r}")
    layers = as_weights(weights)
    value, slope, modes = loss(layers, moments), _slope(layers, moments), data_modes(moments)
    if slope > tolerance:
        return PointKind(REGULAR, value, slope, None, False, None)
    layers = whitened(layers, modes)
    target = (modes.left * modes.strengths) @ modes.right.T
    learned = product(layers)
    error = target - learned
    scale = layer_scale(layers, modes)
    unit = scale ** len(layers)
    have, lack = (np.linalg.svd(m, compute_uv=False) for m in (learned, error))
    have, lack = have[have > tolerance * unit], lack[lack > tolerance * unit]
    chosen = _learned_modes(learned, modes)
    index = _index_at(layers, have.tolist(), lack.tolist(), scale, tolerance)
    if value - global_minimum(moments, widths(layers)) <= tolerance * unit**2:
        kind = MINIMUM
    elif have.size and lack.max() - have.min() > tolerance * unit:
        kind = STRICT
    else:
        kind = NON_STRICT if _is_tightened(layers, error, len(have), scale, tolerance) else STRICT
    return PointKind(kind, value, slope, chosen, chosen is None, index)


def morse_index(
    learned: Sequence[float], missing: Sequence[float], depth: int, hidden: int | None = None
) -> int:
    r"""Morse index of a critical point whose layers all have the rank of the product.

    Every balanced critical point is of this kind, and any other one of this kind is the image of a
    balanced one under :math:`W_l \mapsto g_l W_l g_{l-1}^{-1}`, which leaves the loss unchanged.
    There the Hessian decouples. A missing mode of strength :math:`\sigma_a` and a learned one of
    strength :math:`\sigma_b` contribute the form

    .. math:: \tfrac12 \sigma_b^{2 - 2/L} (x^2 + y^2) - \sigma_a \sigma_b^{1 - 2/L} x y,

    which is indefinite exactly when :math:`\sigma_a > \sigma_b`. With two layers each idle hidden
    unit adds :math:`-\sigma_a x y` for every missing mode; with more layers such terms are of
    higher order.

    Args:
        learned: Strengths of the learned modes.
        missing: Strengths of the others.
        depth: Number ``L`` of layers.
        hidden: Width of the hidden layer; required for ``depth == 2`` only.

    Raises:
        ValueError: If the hidden width is required and missing or too small.

    Example:
        >>> morse_index([1.0], [3.0], depth=3), morse_index([1.0], [3.0], depth=2, hidden=4)
        (1, 4)
    """
    if depth == 2 and (hidden is None or hidden < len(learned)):
        raise ValueError(
            f"hidden must be the width of the hidden layer, at least {len(learned)}, got {hidden!r}"
        )
    swaps = sum(a > b for a in missing for b in learned)
    idle = hidden - len(learned) if depth == 2 and hidden is not None else 0
    return swaps + idle * len(missing)


def layer_scale(layers: tuple[Array, ...], modes: Modes) -> float:
    """Spectral norm of a layer in a balanced network that has learned the strongest mode.

    Args:
        layers: The layers on whitened inputs.
        modes: Modes of the data; without any, the size of the layers themselves sets the scale.
    """
    if modes.rank:
        return float(float(modes.strengths[0]) ** (1 / len(layers)))
    # Not zero, and products of several layers of this scale do not underflow.
    least = float(np.finfo(float).tiny ** 0.25)
    return max(max(float(np.linalg.norm(w)) for w in layers), least)


def _slope(layers: tuple[Array, ...], moments: Moments) -> float:
    """Norm of the gradient on whitened inputs, in units set by the strongest mode."""
    modes = data_modes(moments)
    first, *others = gradient(layers, moments)
    # dL/dW_1 = (dL/dW_1') S_xx^(1/2), and the gradient has no component outside the range of S_xx.
    squares = [np.square(first @ modes.whitener).sum(), *(np.square(g).sum() for g in others)]
    unit = layer_scale(whitened(layers, modes), modes) ** (2 * len(layers) - 1)
    return float(np.sqrt(sum(squares))) / unit


def _learned_modes(learned: Array, modes: Modes) -> tuple[int, ...] | None:
    """The modes in a critical product; None if it holds part of a group of equal strength."""
    chosen: list[int] = []
    for group in modes.groups:
        block = modes.left[:, group].T @ learned @ modes.right[:, group]
        count = round(float(np.trace(block)) / float(modes.strengths[group[0]]))
        if count == len(group):
            chosen.extend(group)
        elif count:
            return None
    return tuple(chosen)


def _rank(matrix: Array, unit: float, tolerance: float) -> int:
    values = np.linalg.svd(matrix, compute_uv=False)
    return int((values > tolerance * max(unit, values.max(initial=0.0))).sum())


def _index_at(
    layers: tuple[Array, ...],
    have: Sequence[float],
    lack: Sequence[float],
    scale: float,
    tolerance: float,
) -> int | None:
    if any(_rank(w, scale, tolerance) != len(have) for w in layers):
        return None
    hidden = len(layers[0]) if len(layers) == 2 else None
    # Rounding must not make one of two equal strengths the larger.
    return morse_index(
        [b + tolerance * scale ** len(layers) for b in have], lack, len(layers), hidden
    )


def _is_tightened(
    layers: tuple[Array, ...], error: Array, rank: int, scale: float, tolerance: float
) -> bool:
    """Whether all pivots are tightened, as defined in the docstring of this module."""
    depth = len(layers)
    for low, high in combinations(range(depth), 2):
        right, left, middle = np.eye(error.shape[1]), np.eye(error.shape[0]), None
        for layer in layers[:low]:
            right = layer @ right
        for layer in reversed(layers[high + 1 :]):
            left = left @ layer
        for layer in layers[low + 1 : high]:
            middle = layer if middle is None else layer @ middle
        outer = depth - 1 - high + low
        size = max(scale**outer, float(np.linalg.norm(left, 2) * np.linalg.norm(right, 2)))
        if np.linalg.norm(right @ error.T @ left) <= tolerance * size * scale**depth:
            continue
        through = (
            len(layers[low])
            if middle is None
            else _rank(middle, scale ** (high - low - 1), tolerance)
        )
        if through != rank:
            return False
    return True
