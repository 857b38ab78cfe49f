r"""Balanced critical points, and the directions in which the flow leaves or approaches them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.deep_linear.conservation import is_balanced
from lightning_morse.deep_linear.critical_points import REGULAR, classify, layer_scale
from lightning_morse.deep_linear.moments import Moments
from lightning_morse.deep_linear.network import Weights, as_weights
from lightning_morse.deep_linear.spectrum import Modes, capacity, data_modes, whitened


def representative(
    moments: Moments, sizes: Sequence[int], modes: Sequence[int]
) -> tuple[Array, ...]:
    r"""The balanced critical point that represents all those with the same learned modes.

    :math:`W_l = \sum_{a \in S} \sigma_a^{1/L} q_l^a (q_{l-1}^a)^\top` with :math:`q_L^a = u_a`,
    :math:`q_0^a = S_{xx}^{-1/2} v_a` and the first unit vectors in the hidden layers: the point of
    the quotient in which each critical value occurs once (Wendin and Altafini).

    Args:
        moments: Moments of the data.
        sizes: Widths ``(n_0, ..., n_L)``.
        modes: The set S, as distinct mode numbers.

    Returns:
        The layers, balanced on whitened inputs.

    Raises:
        ValueError: If a mode does not exist or occurs twice, or if there are more than fit through
            the narrowest layer.

    Example:
        >>> moments = Moments(np.eye(2), np.diag([4.0, 1.0]), 17.0)
        >>> [np.abs(w).tolist() for w in representative(moments, (2, 1, 2), [0])]
        [[[2.0, 0.0]], [[2.0], [0.0]]]
    """
    found = data_modes(moments)
    chosen, room = list(modes), capacity(found, sizes)
    if sorted(set(chosen)) != sorted(chosen) or not set(chosen) <= set(range(found.rank)):
        raise ValueError(
            f"modes must be different numbers from 0 to {found.rank - 1}, got {chosen}"
        )
    if len(chosen) > room:
        raise ValueError(
            f"modes must fit the network, which has room for {room}, got {len(chosen)}. Widen its "
            "narrowest layer"
        )
    depth = len(sizes) - 1
    layers = [np.zeros(shape) for shape in zip(sizes[1:], sizes[:-1], strict=True)]
    for k, a in enumerate(chosen):
        path = _path_through(found, a, sizes, k)
        for layer, (below, above) in zip(layers, pairwise(path), strict=True):
            layer += found.strengths[a] ** (1 / depth) * np.outer(above, below)
    return tuple(layers)


@dataclass(frozen=True)
class SaddleDirection:
    r"""A line through a critical point, and the leading term of the loss along it.

    Attributes:
        layers: The direction :math:`V`, one matrix per layer.
        what: ``"learn"``: a missing mode enters through all layers at once. ``"swap"``: a missing
            mode replaces a learned one. ``"hold"``: the strength of a learned mode varies.
        modes: The mode, or the missing and the learned one.
        coefficient: ``c`` in :math:`\mathcal L(W + t V) = \mathcal L(W) + c \, t^k + o(t^k)`.
        order: ``k``; the depth for ``"learn"``, otherwise 2.
    """

    layers: tuple[Array, ...]
    what: str
    modes: tuple[int, ...]
    coefficient: float
    order: int

    @property
    def stable(self) -> bool:
        """Whether the flow returns along the line: the loss rises on both sides."""
        return self.coefficient > 0


def saddle_directions(
    weights: Weights, moments: Moments, tolerance: float = 1e-6
) -> tuple[SaddleDirection, ...]:
    r"""Stable and unstable directions of a balanced critical point, of any order.

    In the adjacency matrix a mode is a path from the input to the output. If all its edges are
    idle, the Hessian does not see the path for ``L > 2``, yet the loss falls like :math:`-\sigma_a
    t^L` when they grow together: the escape from a non-strict saddle (Wendin and Altafini). The
    directions returned are those of such paths: learning a missing mode (if every hidden layer has
    an idle unit), swapping it for a learned one, and changing the strength of a learned one.

    Args:
        weights: A critical point, balanced on whitened inputs (as :func:`representative` is).
        moments: Moments of data whose modes differ in strength.
        tolerance: As in :func:`~lightning_morse.deep_linear.critical_points.classify`.

    Returns:
        Unstable directions first, then by kind, stronger modes first. They do not span weight
        space: the other directions are flat, along the fibre of equivalent networks, or stable.

    Raises:
        ValueError: If the point is not critical, not balanced, or belongs to a degenerate family.

    Example:
        >>> moments = Moments(np.eye(2), np.diag([3.0, 1.0]), 10.0)
        >>> saddle = representative(moments, (2, 2, 2, 2), [0])
        >>> [(d.what, d.modes, d.order, d.stable) for d in saddle_directions(saddle, moments)]
        [('learn', (1,), 3, False), ('swap', (1, 0), 2, True), ('hold', (0,), 2, True)]
    """
    layers, modes = as_weights(weights), data_modes(moments)
    learned = _modes_of_balanced_point(layers, moments, modes, tolerance)
    inner, depth = whitened(layers, modes), len(layers)
    paths = {b: _path_of(inner, modes, b) for b in learned}
    missing = [a for a in range(modes.rank) if a not in paths]
    directions = []
    idle = _idle_units(inner, tolerance * layer_scale(inner, modes))
    for a in missing:
        if idle is not None:
            path = [modes.whitener @ modes.right[:, a], *idle, modes.left[:, a]]
            directions.append(
                SaddleDirection(_along(path), "learn", (a,), -float(modes.strengths[a]), depth)
            )
        for b, path in paths.items() if depth > 1 else ():
            ahead, behind = float(modes.strengths[a]), float(modes.strengths[b])
            moved = [np.zeros_like(w) for w in layers]
            moved[0] = np.outer(path[1], modes.whitener @ modes.right[:, a])
            moved[-1] = np.outer(modes.left[:, a], path[-2])
            coefficient = behind ** (1 - 2 / depth) * (behind - ahead)
            directions.append(SaddleDirection(tuple(moved), "swap", (a, b), coefficient, 2))
    for b, path in paths.items():
        coefficient = 0.5 * depth**2 * float(modes.strengths[b]) ** (2 - 2 / depth)
        outer = [modes.whitener @ modes.right[:, b], *path[1:]]
        directions.append(SaddleDirection(_along(outer), "hold", (b,), coefficient, 2))
    return tuple(sorted(directions, key=lambda d: (d.stable, d.what != "learn", d.what != "swap")))


def _modes_of_balanced_point(
    layers: tuple[Array, ...], moments: Moments, modes: Modes, tolerance: float
) -> tuple[int, ...]:
    """The learned modes, after checking that the point is critical, balanced and isolated."""
    point = classify(layers, moments, tolerance)
    if point.kind == REGULAR:
        raise ValueError(
            f"weights must be a critical point, got a gradient of {point.gradient_norm:.3g} (in "
            "its natural unit). Follow the flow further"
        )
    if point.modes is None:
        raise ValueError(
            "modes must differ in strength, got a point that has learned some but not all modes "
            "of equal strength: every direction in their common space is one to learn"
        )
    if not is_balanced(whitened(layers, modes), tolerance):
        raise ValueError(
            "weights must be balanced on whitened inputs, got unequal layers. Take "
            "representative(moments, widths(weights), modes) of the same modes"
        )
    return point.modes


def _path_through(modes: Modes, a: int, sizes: Sequence[int], unit: int) -> list[Array]:
    """The path of mode ``a`` through the same unit of every hidden layer."""
    hidden = [np.eye(1, n, unit).ravel() for n in sizes[1:-1]]
    return [modes.whitener @ modes.right[:, a], *hidden, modes.left[:, a]]


def _path_of(layers: tuple[Array, ...], modes: Modes, b: int) -> list[Array]:
    """Unit vectors that a learned mode passes through in a balanced network."""
    path = [modes.right[:, b]]
    for layer in layers:
        step = layer @ path[-1]
        path.append(step / np.linalg.norm(step))
    return path


def _idle_units(layers: tuple[Array, ...], tolerance: float) -> list[Array] | None:
    """A direction in each hidden layer that carries nothing; None if some layer has none."""
    idle = []
    for below, above in pairwise(layers):
        _, values, vectors = np.linalg.svd(np.vstack([below.T, above]), full_matrices=True)
        used = int((values > tolerance).sum())
        if used == below.shape[0]:
            return None
        idle.append(vectors[used])
    return idle


def _along(path: Sequence[Array]) -> tuple[Array, ...]:
    """The rank-one layers that carry one vector of a path to the next."""
    return tuple(np.outer(above, below) for below, above in pairwise(path))
