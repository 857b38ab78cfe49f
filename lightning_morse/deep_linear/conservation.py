r"""Balancedness: what the gradient flow conserves, and how gradient descent changes it.

For every hidden layer :math:`Q_l = W_{l+1}^\top W_{l+1} - W_l W_l^\top` is constant along the flow:
both products change by the same symmetric matrix, since
:math:`W_{l+1}^\top G_{l+1} = G_l W_l^\top` for the gradients :math:`G_l` (Arora, Cohen, Hazan 2018,
arXiv 1802.06509; Wendin and Altafini, arXiv 2511.10362). The network is balanced if all of them
vanish. They are conserved for any loss that depends on the product only, whatever the data.

A bias :math:`b_l` acts as an additional column of the weights: with :math:`[W_l, b_l]` in place of
:math:`W_l` in :math:`W_l W_l^\top` (and only there) all of this still holds. That is what
:func:`balance` computes when biases are given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array
from lightning_morse.deep_linear.network import Weights, as_weights

Biases = Sequence[ArrayLike | None]


def balance(weights: Weights, biases: Biases | None = None) -> tuple[Array, ...]:
    r"""The conserved matrices :math:`Q_l`, one per hidden layer.

    Args:
        weights: The layers.
        biases: The bias of each layer, shape ``(n_l,)``; None for a layer without one.

    Returns:
        ``L - 1`` symmetric matrices, shapes ``(n_l, n_l)``.

    Raises:
        ValueError: If a bias does not fit its layer.

    Example:
        >>> [q.item() for q in balance([[[1.0]], [[3.0]], [[2.0]]])]  # 9 - 1, 4 - 9
        [8.0, -5.0]
    """
    layers = as_weights(weights)
    augmented = _with_biases(layers, biases)
    return tuple(
        above.T @ above - below @ below.T
        for below, above in zip(augmented[:-1], layers[1:], strict=True)
    )


def balance_change(
    gradients: Weights, step_size: float, bias_gradients: Biases | None = None
) -> tuple[Array, ...]:
    r"""The exact change of every :math:`Q_l` in one step of gradient descent.

    For :math:`W_l \leftarrow W_l - \eta G_l` the terms linear in :math:`\eta` cancel, leaving

    .. math:: \eta^2 \left(G_{l+1}^\top G_{l+1} - G_l G_l^\top\right).

    This holds for plain gradient descent on any loss of the product and any batch, without momentum
    and without weight decay (which also rescales :math:`Q_l`).

    Args:
        gradients: One matrix per layer, of the layer's shape.
        step_size: :math:`\eta`.
        bias_gradients: Gradient of each bias; None for a layer without one.

    Returns:
        ``L - 1`` symmetric matrices.

    Example:
        >>> [q.item() for q in balance_change([[[-2.0]], [[-1.0]]], 0.5)]  # 0.25 (1 - 4)
        [-0.75]
    """
    return tuple(step_size**2 * q for q in balance(gradients, bias_gradients))


def delta_balance(weights: Weights, biases: Biases | None = None) -> float:
    r"""The smallest :math:`\delta` for which the network is :math:`\delta`-balanced.

    It is the largest Frobenius norm of a :math:`Q_l` (Arora et al. 2019, arXiv 1810.02281); 0 for
    a single layer.

    Example:
        >>> delta_balance([[[1.0]], [[3.0]], [[2.0]]])
        8.0
    """
    return max((float(np.linalg.norm(q)) for q in balance(weights, biases)), default=0.0)


def is_balanced(weights: Weights, tolerance: float = 1e-9) -> bool:
    """Whether every ``Q_l`` is zero, relative to the largest squared norm of a layer.

    Example:
        >>> is_balanced([[[2.0]], [[-2.0]]]), is_balanced([[[2.0]], [[-2.1]]])
        (True, False)
    """
    layers = as_weights(weights)
    size = max(float(np.square(w).sum()) for w in layers)
    return delta_balance(layers) <= tolerance * max(size, np.finfo(float).tiny)


def drift(conserved: Sequence[Array], reference: Sequence[Array]) -> float:
    """Drift of the conserved quantities: the largest Frobenius norm of a difference.

    Args:
        conserved: :func:`balance` of the network now.
        reference: :func:`balance` of the same network earlier.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> drift(balance([[[1.0]], [[3.0]]]), balance([[[1.0]], [[2.0]]]))  # 8 - 3
        5.0
    """
    if [q.shape for q in conserved] != [q.shape for q in reference]:
        raise ValueError(
            "conserved and reference must be of the same network, got shapes "
            f"{[q.shape for q in conserved]} and {[q.shape for q in reference]}"
        )
    return max(
        (float(np.linalg.norm(a - b)) for a, b in zip(conserved, reference, strict=True)),
        default=0.0,
    )


def _with_biases(layers: tuple[Array, ...], biases: Biases | None) -> tuple[Array, ...]:
    if biases is None:
        return layers
    if len(biases) != len(layers):
        raise ValueError(
            f"biases must have one entry for each of the {len(layers)} layers, None where there is "
            f"none, got {len(biases)}"
        )
    augmented = []
    for number, (layer, bias) in enumerate(zip(layers, biases, strict=True), 1):
        if bias is None:
            augmented.append(layer)
            continue
        column = np.asarray(bias, dtype=np.float64)
        if column.shape != (len(layer),):
            raise ValueError(
                f"biases[{number - 1}] must have shape ({len(layer)},) like the outputs of layer "
                f"{number}, got {column.shape}"
            )
        augmented.append(np.column_stack([layer, column]))
    return tuple(augmented)
