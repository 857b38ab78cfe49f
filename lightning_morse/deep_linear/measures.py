"""Cheap measures of the weights of any network, and of the steps that train it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def node_strengths(weight: ArrayLike, bias: ArrayLike | None = None) -> tuple[float, float]:
    r"""Mean and deviation of the strengths of the units of a layer.

    The strength of a unit is the sum of the weights of its links. Here these are the links from the
    layer below, the bias as one more:
    :math:`s_i = b_i + \sum_j W_{ij}` (La Malfa et al., "Deep Neural Networks via Complex Network
    Theory: a Perspective", IJCAI 2024, arXiv 2404.11172).

    Args:
        weight: Shape ``(units, ...)``; further axes (those of a kernel) are links too.
        bias: Shape ``(units,)``.

    Returns:
        Mean and (population) standard deviation over the units.

    Raises:
        ValueError: If a shape does not fit.

    Example:
        >>> node_strengths([[1.0, 2.0], [0.0, 0.0]], bias=[1.0, 0.0])  # 4 and 0
        (2.0, 2.0)
    """
    links = np.asarray(weight, dtype=np.float64)
    if links.ndim < 2 or not links.size:
        raise ValueError(f"weight must have at least two axes, units first, got {links.shape}")
    strengths = links.reshape(len(links), -1).sum(axis=1)
    if bias is not None:
        extra = np.asarray(bias, dtype=np.float64)
        if extra.shape != strengths.shape:
            raise ValueError(f"bias must have shape {strengths.shape}, got {extra.shape}")
        strengths = strengths + extra
    return float(strengths.mean()), float(strengths.std())


def pq_index(values: ArrayLike, p: float = 1.0, q: float = 2.0) -> float:
    r"""The PQ index, a measure of how sparse some numbers are.

    .. math:: I_{p,q}(w) = 1 - d^{1/q - 1/p} \frac{\|w\|_p}{\|w\|_q}

    in ``[0, 1 - d^(1/q - 1/p)]``: 0 when all have the same size, largest when only one is not zero
    (Diao et al., "Pruning Deep Neural Networks from a Sparsity Perspective", ICLR 2023, arXiv
    2302.05601). It does not depend on scale.

    Args:
        values: Any shape, at least one entry.
        p: The lower exponent, positive.
        q: The higher exponent, larger than ``p``.

    Returns:
        The index; 0 if all values are zero.

    Raises:
        ValueError: If there are no values or the exponents are out of order.

    Example:
        >>> pq_index([1.0, -1.0, 1.0, 1.0]), pq_index([5.0, 0.0, 0.0, 0.0])  # 1 - 1/2
        (0.0, 0.5)
    """
    sizes = np.abs(np.asarray(values, dtype=np.float64)).ravel()
    if not sizes.size:
        raise ValueError("values must hold at least one number, got none")
    if not 0 < p < q < np.inf:
        raise ValueError(f"exponents must satisfy 0 < p < q, got p = {p!r} and q = {q!r}")
    largest = sizes.max()
    if not largest > 0:
        return 0.0
    sizes = sizes / largest
    means = [float((sizes**exponent).mean()) ** (1 / exponent) for exponent in (p, q)]
    return 1 - means[0] / means[1]


def energy_ratio(
    loss_before: float, loss_after: float, step_size: float, gradient_square: float
) -> float:
    r"""How much of the energy that the gradient flow would lose a step of descent has lost.

    Along the gradient flow :math:`\dot{\mathcal L} = -|g|^2`. The discrete counterpart for a step
    of size :math:`\eta` is

    .. math:: \rho = \frac{\mathcal L(\theta_{k+1}) - \mathcal L(\theta_k)}{-\eta |g_k|^2},

    1 for an infinitesimal step of plain gradient descent, :math:`1 - \eta h / 2` to first order at
    curvature ``h`` along the gradient, and negative where the loss has grown: a violation of the
    energy law (the discrete dissipation law after Fan et al. 2023). Of an optimizer that scales
    its gradients :math:`\rho` measures that scaling too.

    Args:
        loss_before: Loss at the weights before the step.
        loss_after: Loss after it, on the same data.
        step_size: The learning rate, positive.
        gradient_square: Squared norm of the gradient.

    Returns:
        The ratio; 1 where gradient and change are both zero.

    Raises:
        ValueError: If the step size is not positive or the square is negative.

    Example:
        >>> energy_ratio(0.5, 0.125, 0.5, 1.0)  # x^2 / 2 from 1 to 0.5: 1 - 0.5 / 2
        0.75
    """
    if not step_size > 0 or not gradient_square >= 0:
        raise ValueError(
            "step_size must be positive and gradient_square not negative, got "
            f"{step_size!r} and {gradient_square!r}"
        )
    expected = step_size * gradient_square
    change = loss_before - loss_after
    if expected == 0:
        return 1.0 if change == 0 else float(np.copysign(np.inf, change))
    return change / expected


def energy_violations(ratios: Sequence[float]) -> float:
    """Share of steps that raised the loss, from their energy ratios; 0 if there are none.

    Example:
        >>> energy_violations([0.9, -0.1, 0.5, 1.0])
        0.25
    """
    return sum(ratio < 0 for ratio in ratios) / len(ratios) if len(ratios) else 0.0
