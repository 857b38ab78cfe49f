r"""A deep linear network as the adjacency matrix of its graph.

The network has one vertex per unit of its ``L + 1`` layers of widths :math:`n_0, \dots, n_L`. Its
adjacency matrix :math:`A` holds :math:`W_l` in block :math:`(l, l - 1)`, is nilpotent
(:math:`A^{L+1} = 0`), and the only nonzero block of :math:`A^L` is the product
:math:`P = W_L \cdots W_1`, in block :math:`(L, 0)`. This view, and the flow in it, are those of
Wendin and Altafini, "Gradient Flow Equations for Deep Linear Neural Networks" (arXiv 2511.10362).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import bmat, csr_array

from lightning_morse._typing import Array
from lightning_morse.deep_linear.moments import Moments
from lightning_morse.deep_linear.network import Weights, as_weights, fitting, widths


def adjacency(weights: Weights) -> csr_array:
    r"""The weighted adjacency matrix of the network.

    Args:
        weights: The layers, as in :func:`as_weights`.

    Returns:
        :math:`A` with block :math:`(l, l-1)` equal to :math:`W_l`, shape ``(N, N)`` for
        :math:`N = n_0 + \dots + n_L`.

    Example:
        >>> A = adjacency([[[2.0]], [[3.0]]])
        >>> float((A @ A).toarray()[2, 0]), (A @ A @ A).nnz  # the product, and no entries
        (6.0, 0)
    """
    layers, sizes = as_weights(weights), widths(weights)
    blocks: list[list[object]] = [[None] * len(sizes) for _ in sizes]
    for k, size in enumerate(sizes):
        blocks[k][k] = csr_array((size, size))
    for k, layer in enumerate(layers, 1):
        blocks[k][k - 1] = csr_array(layer)
    matrix = csr_array(bmat(blocks, format="csr"))
    matrix.eliminate_zeros()
    return matrix


def layers_of(adjacency: csr_array | ArrayLike, sizes: Sequence[int]) -> tuple[Array, ...]:
    """The layers held in an adjacency matrix; the inverse of :func:`adjacency`.

    Args:
        adjacency: Shape ``(N, N)``, sparse or dense.
        sizes: Widths ``(n_0, ..., n_L)`` with ``sum(sizes) == N``.

    Raises:
        ValueError: If the shape does not match the widths, or an entry lies outside the blocks.

    Example:
        >>> [w.item() for w in layers_of(adjacency([[[2.0]], [[3.0]]]), (1, 1, 1))]
        [2.0, 3.0]
    """
    dense = adjacency.toarray() if isinstance(adjacency, csr_array) else np.array(adjacency)
    ends = np.cumsum([0, *sizes])
    if dense.shape != (ends[-1], ends[-1]) or len(sizes) < 2:
        raise ValueError(
            f"adjacency must have shape ({ends[-1]}, {ends[-1]}) for the widths {tuple(sizes)}, at "
            f"least two of them, got {dense.shape}"
        )
    layers = []
    for k in range(1, len(sizes)):
        rows, columns = slice(ends[k], ends[k + 1]), slice(ends[k - 1], ends[k])
        layers.append(dense[rows, columns].copy())
        dense[rows, columns] = 0.0
    if dense.any():
        i, j = np.argwhere(dense)[0]
        raise ValueError(
            f"adjacency must join neighbouring layers only, got the entry {dense[i, j]} from unit "
            f"{j} to unit {i}. A network with skip connections is not a product of layers"
        )
    return tuple(layers)


def adjacency_flow(adjacency: csr_array, sizes: Sequence[int], moments: Moments) -> csr_array:
    r"""Right-hand side of the gradient flow as a single matrix equation for the adjacency matrix.

    .. math:: \dot A = \sum_{j=0}^{L-1} (A^\top)^{L-1-j} \, E \, (A^\top)^j,
              \qquad E = S_{yx} - A^L S_{xx}

    with the moments embedded in blocks :math:`(L, 0)` and :math:`(0, 0)` of :math:`N \times N`
    matrices (Wendin and Altafini). The sum runs over the ways to cut the network at one layer: term
    ``j`` lies in block :math:`(j + 1, j)` and is the negative of the
    :func:`~lightning_morse.deep_linear.network.gradient` there.

    Args:
        adjacency: :math:`A`, shape ``(N, N)``.
        sizes: Widths ``(n_0, ..., n_L)``.
        moments: Moments of the data.

    Returns:
        :math:`\dot A`, shape ``(N, N)``.

    Raises:
        ValueError: If the widths do not fit the matrix or the moments.

    Example:
        >>> A, moments = adjacency([[[1.0]], [[2.0]]]), Moments.of([[1.0]], [[3.0]])
        >>> flow = adjacency_flow(A, (1, 1, 1), moments)
        >>> [w.item() for w in layers_of(flow, (1, 1, 1))]
        [2.0, 1.0]
    """
    fitting(layers_of(adjacency, sizes), moments)
    depth, total = len(sizes) - 1, sum(sizes)
    s_xx, s_yx = np.zeros((total, total)), np.zeros((total, total))
    s_xx[: sizes[0], : sizes[0]] = moments.xx
    s_yx[total - sizes[-1] :, : sizes[0]] = moments.yx
    power = csr_array(np.eye(total))
    for _ in range(depth):
        power = power @ adjacency
    error = csr_array(s_yx) - power @ csr_array(s_xx)
    back = [csr_array(np.eye(total))]
    for _ in range(depth - 1):
        back.append(back[-1] @ adjacency.T)
    flow = csr_array((total, total))
    for j in range(depth):
        flow = flow + back[depth - 1 - j] @ error @ back[j]
    return csr_array(flow)
