r"""A deep linear network :math:`x \mapsto W_L \cdots W_1 x`: its layers, loss and gradient.

The loss depends on the data only through their second moments. All gradients are those of

.. math:: \tfrac12 \operatorname{tr} S_{yy} - \operatorname{tr}(P S_{xy})
          + \tfrac12 \operatorname{tr}(P S_{xx} P^\top), \qquad P = W_L \cdots W_1,

half the mean squared error; :meth:`Moments.scaled` gives other scalings, including that of
``torch.nn.functional.mse_loss``. For biases see :meth:`Moments.centred`. Source of the whole:
Wendin and Altafini, "Gradient Flow Equations for Deep Linear Neural Networks" (arXiv 2511.10362).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array
from lightning_morse.deep_linear.moments import Moments

Weights = Sequence[ArrayLike]


def as_weights(weights: Weights) -> tuple[Array, ...]:
    """Check that matrices are the layers of one network, ordered from the input to the output.

    Args:
        weights: ``L >= 1`` matrices, the ``l``-th of shape ``(n_l, n_(l-1))``.

    Returns:
        The layers as float64 arrays.

    Raises:
        ValueError: If there are none, one is not a finite matrix, or two do not compose. Biases
            are not accepted: see :meth:`Moments.centred`.

    Example:
        >>> [w.shape for w in as_weights([[[1.0, 2.0]], [[3.0]]])]
        [(1, 2), (1, 1)]
    """
    layers = tuple(np.asarray(w, dtype=np.float64) for w in weights)
    if not layers:
        raise ValueError("weights must hold at least one layer, got none")
    for number, layer in enumerate(layers, 1):
        if layer.ndim != 2 or 0 in layer.shape:
            raise ValueError(
                f"weights must be matrices (n_l, n_(l-1)), got shape {layer.shape} for layer "
                f"{number}. Leave biases out and use centred moments instead"
            )
        if not np.isfinite(layer).all():
            raise ValueError(f"weights must be finite, got NaN or infinity in layer {number}")
    for number, (below, above) in enumerate(pairwise(layers), 1):
        if above.shape[1] != below.shape[0]:
            raise ValueError(
                f"layers must compose, got layer {number} with {below.shape[0]} outputs below "
                f"layer {number + 1} with {above.shape[1]} inputs. Order them from input to output"
            )
    return layers


def widths(weights: Weights) -> tuple[int, ...]:
    """Widths ``(n_0, ..., n_L)`` of the layers.

    Example:
        >>> widths([np.zeros((3, 2)), np.zeros((1, 3))])
        (2, 3, 1)
    """
    layers = as_weights(weights)
    return (layers[0].shape[1], *(w.shape[0] for w in layers))


def product(weights: Weights) -> Array:
    """The product ``W_L ... W_1``, shape ``(n_L, n_0)``.

    Example:
        >>> product([[[2.0]], [[3.0]]]).item()
        6.0
    """
    result, *rest = as_weights(weights)
    for layer in rest:
        result = layer @ result
    return result


def loss(weights: Weights, moments: Moments) -> float:
    """Half the mean squared error, computed from the moments.

    Args:
        weights: The layers.
        moments: Moments of data with ``n_0`` inputs and ``n_L`` outputs.

    Raises:
        ValueError: If the widths do not fit.

    Example:
        >>> loss([[[1.0]], [[2.0]]], Moments.of([[1.0]], [[3.0]]))  # (3 - 2)^2 / 2
        0.5
    """
    p = product(fitting(weights, moments))
    return float(moments.yy / 2 - np.sum(p * moments.yx) + np.sum((p @ moments.xx) * p) / 2)


def residual(weights: Weights, moments: Moments) -> Array:
    r"""The residual :math:`E = S_{yx} - P S_{xx}`, shape ``(n_L, n_0)``.

    Example:
        >>> residual([[[1.0]], [[2.0]]], Moments.of([[1.0]], [[3.0]])).item()
        1.0
    """
    return moments.yx - product(fitting(weights, moments)) @ moments.xx


def gradient(weights: Weights, moments: Moments) -> tuple[Array, ...]:
    r"""Gradient of the loss, layer by layer; the gradient flow is its negative.

    .. math:: \frac{\partial \mathcal L}{\partial W_l}
              = -(W_L \cdots W_{l+1})^\top E \, (W_{l-1} \cdots W_1)^\top

    Returns:
        One matrix per layer, of the layer's shape.

    Example:
        >>> [g.item() for g in gradient([[[1.0]], [[2.0]]], Moments.of([[1.0]], [[3.0]]))]
        [-2.0, -1.0]
    """
    layers = as_weights(weights)
    error = residual(layers, moments)
    rights = [np.eye(error.shape[1])]
    for layer in layers[:-1]:
        rights.append(layer @ rights[-1])
    gradients = []
    for layer, right in zip(reversed(layers), reversed(rights), strict=True):
        gradients.append(-error @ right.T)
        error = layer.T @ error
    return tuple(reversed(gradients))


def fitting(weights: Weights, moments: Moments) -> tuple[Array, ...]:
    """Check that a network has the input and output widths of the data.

    Args:
        weights: The layers.
        moments: Moments of the data.

    Returns:
        The layers as float64 arrays.

    Raises:
        ValueError: If the widths differ.
    """
    layers = as_weights(weights)
    if (layers[-1].shape[0], layers[0].shape[1]) != moments.yx.shape:
        raise ValueError(
            f"moments must be of data with {layers[0].shape[1]} inputs and {layers[-1].shape[0]} "
            f"outputs like the network, got {moments.n_inputs} and {moments.n_outputs}"
        )
    return layers
