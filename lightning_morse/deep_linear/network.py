r"""A deep linear network, as layers and as the adjacency matrix of its graph.

The network :math:`x \mapsto W_L \cdots W_1 x` has one vertex for each unit of its ``L + 1`` layers
of widths :math:`n_0, \dots, n_L`. Its adjacency matrix :math:`A` holds :math:`W_l` in block
:math:`(l, l - 1)`, is nilpotent (:math:`A^{L+1} = 0`), and :math:`A^L` holds nothing but the
product :math:`P = W_L \cdots W_1`, in block :math:`(L, 0)`. Source of this view and of the flow in
it: Wendin and Altafini, "Gradient Flow Equations for Deep Linear Neural Networks" (arXiv
2511.10362).

The loss depends on the data only through their second moments. All gradients are those of

.. math:: \tfrac12 \operatorname{tr} S_{yy} - \operatorname{tr}(P S_{xy})
          + \tfrac12 \operatorname{tr}(P S_{xx} P^\top),

half the mean squared distance of the outputs; :meth:`Moments.scaled` gives other scalings, that of
``torch.nn.functional.mse_loss`` among them. Biases: :meth:`Moments.centred`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp
from scipy.sparse import bmat, csr_array

from lightning_morse._typing import Array

Weights = Sequence[ArrayLike]


@dataclass(frozen=True)
class Moments:
    r"""Second moments of the data of a regression.

    Attributes:
        xx: :math:`S_{xx} = E[x x^\top]`, shape ``(n_0, n_0)``, symmetric and positive semidefinite;
            it may be singular.
        yx: :math:`S_{yx} = E[y x^\top]`, shape ``(n_L, n_0)``.
        yy: :math:`\operatorname{tr} S_{yy} = E|y|^2`.

    Raises:
        ValueError: If a shape does not fit, an entry is not finite, or ``xx`` is not symmetric and
            positive semidefinite to rounding.

    Example:
        >>> moments = Moments.of([[1.0], [-1.0]], [[3.0], [-3.0]])
        >>> moments.xx.item(), moments.yx.item(), moments.yy
        (1.0, 3.0, 9.0)
    """

    xx: Array
    yx: Array
    yy: float

    def __post_init__(self) -> None:
        xx, yx = (np.array(m, dtype=np.float64) for m in (self.xx, self.yx))
        object.__setattr__(self, "xx", xx)
        object.__setattr__(self, "yx", yx)
        object.__setattr__(self, "yy", float(self.yy))
        if xx.ndim != 2 or xx.shape[0] != xx.shape[1] or yx.ndim != 2 or yx.shape[1] != len(xx):
            raise ValueError(
                "xx must have shape (n_0, n_0) and yx (n_L, n_0), got "
                f"{xx.shape} and {yx.shape}. Use Moments.of(x, y) with one example a row"
            )
        if not (np.isfinite(xx).all() and np.isfinite(yx).all() and np.isfinite(self.yy)):
            raise ValueError("moments must be finite, got NaN or infinity. Look for it in the data")
        size = np.abs(xx).max(initial=0.0)
        if np.abs(xx - xx.T).max(initial=0.0) > 1e-9 * size:
            raise ValueError("xx must be symmetric, got a matrix that is not. Use (xx + xx.T) / 2")
        least = float(np.linalg.eigvalsh(xx).min(initial=0.0))
        if least < -1e-9 * size * len(xx):
            raise ValueError(
                f"xx must be positive semidefinite, got the eigenvalue {least:.3g}. Pass E[x x^T]"
            )

    @classmethod
    def of(cls, x: ArrayLike, y: ArrayLike) -> Moments:
        """The moments of some examples, each of the same weight.

        Args:
            x: Inputs, shape ``(m, n_0)``.
            y: Targets, shape ``(m, n_L)``.

        Raises:
            ValueError: If the shapes disagree, there are no examples, or one is not finite.
        """
        inputs, targets = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if inputs.ndim != 2 or targets.ndim != 2 or len(inputs) != len(targets) or not len(inputs):
            raise ValueError(
                "x must have shape (m, n_0) and y (m, n_L) with the same m >= 1, got "
                f"{inputs.shape} and {targets.shape}. Put one example in each row"
            )
        m = len(inputs)
        return cls(
            inputs.T @ inputs / m, targets.T @ inputs / m, float(np.square(targets).sum()) / m
        )

    @property
    def n_inputs(self) -> int:
        """Width ``n_0`` of the input."""
        return len(self.xx)

    @property
    def n_outputs(self) -> int:
        """Width ``n_L`` of the output."""
        return len(self.yx)

    def scaled(self, factor: float) -> Moments:
        r"""The moments whose loss is ``factor`` times the loss of these.

        The loss is linear in the moments, so everything derived from it (gradients, flow, critical
        values, Hessians) is in the new units too. ``torch.nn.functional.mse_loss`` averages over
        the outputs as well and has no half: ``factor = 2 / n_outputs``.

        Args:
            factor: Positive.

        Raises:
            ValueError: If it is not positive and finite.

        Example:
            >>> moments = Moments.of([[1.0, 0.0]], [[2.0, 0.0]])
            >>> loss([np.zeros((2, 2))], moments.scaled(2 / moments.n_outputs))  # (4 + 0) / 2
            2.0
        """
        if not (factor > 0 and np.isfinite(factor)):
            raise ValueError(f"factor must be positive and finite, got {factor!r}")
        return Moments(factor * self.xx, factor * self.yx, factor * self.yy)

    def centred(self, x_mean: ArrayLike, y_mean: ArrayLike) -> Moments:
        r"""The moments of the data less their means: what a network with biases sees.

        Let the last layer have a bias (others may too). Where the gradient with respect to it
        vanishes, the mean residual does; then the gradients with respect to the weights are those
        of the network without biases on centred data, and so are the critical values. The flow
        itself is not: it is that of the centred data only once the mean residual is zero.

        Args:
            x_mean: :math:`E[x]`, shape ``(n_0,)``; these moments must not be scaled yet.
            y_mean: :math:`E[y]`, shape ``(n_L,)``.

        Returns:
            Moments of ``x - E[x]`` and ``y - E[y]``.

        Raises:
            ValueError: If a shape does not fit.

        Example:
            >>> moments = Moments.of([[1.0], [3.0]], [[5.0], [5.0]]).centred([2.0], [5.0])
            >>> moments.xx.item(), moments.yx.item(), moments.yy
            (1.0, 0.0, 0.0)
        """
        x, y = np.asarray(x_mean, dtype=np.float64), np.asarray(y_mean, dtype=np.float64)
        if x.shape != (self.n_inputs,) or y.shape != (self.n_outputs,):
            raise ValueError(
                f"x_mean must have shape ({self.n_inputs},) and y_mean ({self.n_outputs},), got "
                f"{x.shape} and {y.shape}"
            )
        return Moments(self.xx - np.outer(x, x), self.yx - np.outer(y, x), self.yy - float(y @ y))


def as_weights(weights: Weights) -> tuple[Array, ...]:
    """Check that some matrices are the layers of one network, the first applied first.

    Args:
        weights: ``L >= 1`` matrices, the ``l``-th of shape ``(n_l, n_(l-1))``.

    Returns:
        The same as float64 arrays.

    Raises:
        ValueError: If there are none, one is not a finite matrix, or two do not compose. Biases
            have no place here: see :meth:`Moments.centred`.

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
                f"{number}. Leave biases out and use centred moments in their place"
            )
        if not np.isfinite(layer).all():
            raise ValueError(f"weights must be finite, got NaN or infinity in layer {number}")
    for number, (below, above) in enumerate(pairwise(layers), 1):
        if above.shape[1] != below.shape[0]:
            raise ValueError(
                f"layers must compose, got layer {number} with {below.shape[0]} outputs below "
                f"layer {number + 1} with {above.shape[1]} inputs. Order them from the input on"
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


def adjacency(weights: Weights) -> csr_array:
    r"""The weighted adjacency matrix of the network.

    Args:
        weights: The layers, as in :func:`as_weights`.

    Returns:
        :math:`A` with block :math:`(l, l-1)` equal to :math:`W_l`, shape ``(N, N)`` for
        :math:`N = n_0 + \dots + n_L`.

    Example:
        >>> A = adjacency([[[2.0]], [[3.0]]])
        >>> float((A @ A).toarray()[2, 0]), (A @ A @ A).nnz  # the product, and nothing
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
    """The layers in an adjacency matrix, the inverse of :func:`adjacency`.

    Args:
        adjacency: Shape ``(N, N)``, sparse or dense.
        sizes: Widths ``(n_0, ..., n_L)`` with ``sum(sizes) == N``.

    Raises:
        ValueError: If the shape does not fit the widths, or an entry lies outside the blocks.

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
            f"{j} to unit {i}. A network with skips is not a product of layers"
        )
    return tuple(layers)


def loss(weights: Weights, moments: Moments) -> float:
    """Half the mean squared error, from the moments.

    Args:
        weights: The layers.
        moments: Of data with ``n_0`` inputs and ``n_L`` outputs.

    Raises:
        ValueError: If the widths do not fit.

    Example:
        >>> loss([[[1.0]], [[2.0]]], Moments.of([[1.0]], [[3.0]]))  # (3 - 2)^2 / 2
        0.5
    """
    p = product(_fitting(weights, moments))
    return float(moments.yy / 2 - np.sum(p * moments.yx) + np.sum((p @ moments.xx) * p) / 2)


def residual(weights: Weights, moments: Moments) -> Array:
    r"""The residual :math:`E = S_{yx} - P S_{xx}`, shape ``(n_L, n_0)``.

    Example:
        >>> residual([[[1.0]], [[2.0]]], Moments.of([[1.0]], [[3.0]])).item()
        1.0
    """
    return moments.yx - product(_fitting(weights, moments)) @ moments.xx


def gradient(weights: Weights, moments: Moments) -> tuple[Array, ...]:
    r"""Gradient of the loss, layer by layer; minus it is the gradient flow.

    .. math:: \frac{\partial \mathcal L}{\partial W_l}
              = -(W_L \cdots W_{l+1})^\top E \, (W_{l-1} \cdots W_1)^\top

    Returns:
        One matrix for each layer, of its shape.

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


def adjacency_flow(adjacency: csr_array, sizes: Sequence[int], moments: Moments) -> csr_array:
    r"""Right-hand side of the gradient flow as one matrix equation for the adjacency matrix.

    .. math:: \dot A = \sum_{j=0}^{L-1} (A^\top)^{L-1-j} \, E \, (A^\top)^j,
              \qquad E = S_{yx} - A^L S_{xx}

    with the moments in the blocks :math:`(L, 0)` and :math:`(0, 0)` of :math:`N \times N` matrices
    (Wendin and Altafini). The sum is over the ways to cut the network at one layer: term ``j``
    lands in block :math:`(j + 1, j)` and is minus the gradient of :func:`gradient` there.

    Args:
        adjacency: :math:`A`, shape ``(N, N)``.
        sizes: Widths ``(n_0, ..., n_L)``.
        moments: Of the data.

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
    _fitting(layers_of(adjacency, sizes), moments)
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


def integrate(
    weights: Weights,
    moments: Moments,
    times: ArrayLike,
    rtol: float = 1e-12,
    atol: float = 1e-13,
) -> list[tuple[Array, ...]]:
    """Follow the gradient flow with SciPy's DOP853.

    Args:
        weights: The layers at time 0.
        moments: Of the data.
        times: When to look, shape ``(k,)``, not negative and increasing.
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step.

    Returns:
        The layers at each time. They are as exact as the tolerances make them: nothing is
        projected back to conserved quantities.

    Raises:
        ValueError: If the times do not increase, or the widths do not fit.
        RuntimeError: If the integrator gives up.

    Example:
        >>> (w,), = integrate([[[0.0]]], Moments.of([[1.0]], [[1.0]]), [np.log(2.0)])
        >>> round(w.item(), 9)  # 1 - exp(-t)
        0.5
    """
    layers = _fitting(weights, moments)
    shapes = [w.shape for w in layers]
    ends = np.cumsum([w.size for w in layers])[:-1]
    when = np.asarray(times, dtype=np.float64)
    if when.ndim != 1 or not when.size or not (when >= 0).all() or not (np.diff(when) > 0).all():
        raise ValueError(f"times must be increasing and not negative, got {times!r}")

    def cut(flat: Array) -> tuple[Array, ...]:
        parts = np.split(flat, ends)
        return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))

    def flow(_: float, flat: Array) -> Array:
        return -np.concatenate([g.ravel() for g in gradient(cut(flat), moments)])

    start = np.concatenate([w.ravel() for w in layers])
    span = (0.0, max(float(when[-1]), np.finfo(float).tiny))
    found = solve_ivp(flow, span, start, "DOP853", when, rtol=rtol, atol=atol)
    if not found.success:
        raise RuntimeError(
            f"the integration stopped at t = {found.t[-1] if len(found.t) else 0.0:.6g}: "
            f"{found.message} Ask for less far or loosen the tolerances"
        )
    return [cut(flat) for flat in found.y.T]


def _fitting(weights: Weights, moments: Moments) -> tuple[Array, ...]:
    layers = as_weights(weights)
    if (layers[-1].shape[0], layers[0].shape[1]) != moments.yx.shape:
        raise ValueError(
            f"moments must be of data with {layers[0].shape[1]} inputs and {layers[-1].shape[0]} "
            f"outputs like the network, got {moments.n_inputs} and {moments.n_outputs}"
        )
    return layers
