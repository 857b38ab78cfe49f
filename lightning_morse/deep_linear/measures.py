"""Inexpensive measures of the weights of any network."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor, nn

from lightning_morse._typing import Array


def node_strengths(weight: ArrayLike, bias: ArrayLike | None = None) -> tuple[float, float]:
    r"""Mean and standard deviation of the node strengths of a layer.

    The strength of a node is the sum of the weights of its links, here those from the layer below,
    with the bias as an additional link: :math:`s_i = b_i + \sum_j W_{ij}` (La Malfa et al., "Deep
    Neural Networks via Complex Network Theory: a Perspective", IJCAI 2024, arXiv 2404.11172).

    Args:
        weight: Shape ``(units, ...)``; all further axes (such as those of a kernel) are links.
        bias: Shape ``(units,)``.

    Returns:
        Mean and population standard deviation over the units.

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
    r"""The PQ index, a scale-invariant measure of sparsity.

    .. math:: I_{p,q}(w) = 1 - d^{1/q - 1/p} \frac{\|w\|_p}{\|w\|_q}

    It lies in ``[0, 1 - d^(1/q - 1/p)]``: 0 if all entries have the same magnitude, largest if only
    one is nonzero (Diao et al., "Pruning Deep Neural Networks from a Sparsity Perspective", ICLR
    2023, arXiv 2302.05601).

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
    low, high = (float((sizes**exponent).mean()) ** (1 / exponent) for exponent in (p, q))
    return float(1 - low / high)


def weight_scalars(module: nn.Module) -> dict[str, float]:
    """Node strengths of every weight matrix of a module, and the PQ index of all of them together.

    Args:
        module: Any module. Its weight matrices are the parameters named ``weight`` with at least
            two axes, numbered from 1 in the order of ``module.modules()``.

    Returns:
        ``strength_mean/<l>``, ``strength_deviation/<l>`` and ``pq_weights``; nothing if there are
        no weight matrices.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.ones_(layer.weight)
        >>> weight_scalars(layer)
        {'strength_mean/1': 2.0, 'strength_deviation/1': 0.0, 'pq_weights': 0.0}
    """
    found: dict[str, float] = {}
    matrices: list[Array] = []
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            if name != "weight" or weight.ndim < 2:
                continue
            matrices.append(_array(weight))
            bias = getattr(part, "bias", None)
            fits = isinstance(bias, Tensor) and bias.shape == weight.shape[:1]
            offset = _array(bias) if fits and bias is not None else None
            mean, deviation = node_strengths(matrices[-1], offset)
            found[f"strength_mean/{len(matrices)}"] = mean
            found[f"strength_deviation/{len(matrices)}"] = deviation
    if matrices:
        found["pq_weights"] = pq_index(np.concatenate([m.ravel() for m in matrices]))
    return found


def _array(parameter: Tensor) -> Array:
    found: Array = parameter.detach().cpu().double().numpy()
    return found
