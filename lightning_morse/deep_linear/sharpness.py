"""Sharpness of a linear network: the largest Hessian eigenvalue of its squared error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from lightning_morse._typing import Array

# Up to this many weights the Hessian is formed; the Lanczos method needs more than k + 1 = 2.
LARGEST_DENSE = 3
# Relative accuracy of the eigenvalue, enough for a scalar that is logged.
LANCZOS_TOLERANCE = 1e-3


def sharpness(
    weights: Sequence[Array],
    biases: Sequence[Array | None],
    xx: Array,
    yx: Array,
    x_mean: Array,
    y_mean: Array,
) -> tuple[float, float]:
    r"""Largest Hessian eigenvalue of half the mean squared error, and the norm of its gradient.

    Gradient descent with step size :math:`\eta` is stable at a minimum only if the sharpness is
    below :math:`2 / \eta`. Computed by the Lanczos method from exact Hessian-vector products, to a
    relative accuracy of 1e-3.

    Args:
        weights: The layers.
        biases: Their biases; None for a layer without one.
        xx: Uncentred second moment :math:`E[x x^\top]`.
        yx: Uncentred second moment :math:`E[y x^\top]`.
        x_mean: :math:`E[x]`.
        y_mean: :math:`E[y]`.

    Example:
        >>> one = np.ones((1, 1))
        >>> value, slope = sharpness([one, 2 * one], [None, None], one, 2 * one, one[0], one[0])
        >>> round(value, 6), slope  # w_1^2 + w_2^2 at the minimum
        (5.0, 0.0)
    """
    moments = [torch.from_numpy(np.asarray(m, dtype=np.float64)) for m in (xx, yx, x_mean, y_mean)]
    parameters = [torch.tensor(p, requires_grad=True) for p in [*weights, *biases] if p is not None]
    layers, others = parameters[: len(weights)], iter(parameters[len(weights) :])
    loss = _loss(layers, [None if b is None else next(others) for b in biases], moments)
    slopes = torch.cat(
        [g.ravel() for g in torch.autograd.grad(loss, parameters, create_graph=True)]
    )
    size = len(slopes)

    def times(vector: Array) -> Array:
        along = torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float64)).ravel()
        pieces = torch.autograd.grad(slopes @ along, parameters, retain_graph=True)
        return np.asarray(torch.cat([p.ravel() for p in pieces]).numpy())

    slope = float(slopes.detach().norm())
    if size <= LARGEST_DENSE:
        dense = np.column_stack([times(column) for column in np.eye(size)])
        return float(np.linalg.eigvalsh((dense + dense.T) / 2)[-1]), slope
    start = np.random.default_rng(0).normal(size=size)
    values = eigsh(
        LinearOperator((size, size), times, dtype=np.float64),
        k=1,
        which="LA",
        v0=start,
        tol=LANCZOS_TOLERANCE,
        return_eigenvectors=False,
    )
    return float(values[0]), slope


def _loss(
    layers: Sequence[Tensor], offsets: Sequence[Tensor | None], moments: Sequence[Tensor]
) -> Tensor:
    """Half the mean squared error from the moments, up to a constant."""
    s_xx, s_yx, mean_x, mean_y = moments
    width = layers[0].shape[1]
    product = torch.eye(width, dtype=torch.float64)
    shift = torch.zeros(width, dtype=torch.float64)
    for layer, offset in zip(layers, offsets, strict=True):
        product, shift = layer @ product, layer @ shift
        shift = shift if offset is None else shift + offset
    loss = ((product @ s_xx) * product).sum() / 2 - (product * s_yx).sum()
    return loss + shift @ (product @ mean_x - mean_y) + shift @ shift / 2
