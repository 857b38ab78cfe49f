r"""Critical points of deep linear networks: their kind, index, directions, and how they connect.

Let :math:`W` be a critical point that has learned the modes in S, ``r`` of them, and :math:`E = M -
P S_{xx}^{1/2}` the whitened residual (:mod:`lightning_morse.deep_linear.spectrum`). Achour,
Malgouyres and Gerchinovitz (arXiv 2107.13289) tell its kind by ranks:

- S are the strongest modes and the network has no room for more: a global minimum.
- S are not the strongest modes: a strict saddle (swapping a mode for a stronger one is a direction
  of negative curvature).
- S are the strongest modes, and for each two layers :math:`i > j` (a pivot) one of the blocks

  .. math:: W_{i-1} \cdots W_{j+1}, \qquad
            W_{j-1} \cdots W_1 \, \Sigma_{xy} \, W_L \cdots W_{i+1}

  has rank r: the pivot is tightened. If all are, a non-strict saddle; if one is not, strict.

The second block has rank r exactly when :math:`W_{j-1} \cdots W_1 S_{xx}^{1/2} E^\top W_L \cdots
W_{i+1}` vanishes, and that is what is tested here: it needs neither a target of full rank nor an
invertible :math:`S_{xx}`, which the theorem assumes. That part goes beyond the theorem: a pivot of
which neither holds gives a direction of negative curvature (:math:`V_i` and :math:`V_j` of rank one
through the middle block, one of them large and one small), and without one the second-order term of
the residual is outweighed as in the theorem; the tests hold it against Hessians.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import networkx as nx
import numpy as np

from lightning_morse.deep_linear.conservation import is_balanced
from lightning_morse.deep_linear.network import (
    Array,
    Moments,
    Weights,
    as_weights,
    gradient,
    loss,
    product,
    widths,
)
from lightning_morse.deep_linear.spectrum import (
    CriticalLevel,
    Modes,
    capacity,
    critical_levels,
    data_modes,
    global_minimum,
    whitened,
)

REGULAR = "regular point"
STRICT, NON_STRICT = "strict saddle", "non-strict saddle"
MINIMUM = "global minimum"


@dataclass(frozen=True)
class PointKind:
    """What a point of weight space is to the loss.

    Attributes:
        kind: ``"regular point"``, ``"strict saddle"``, ``"non-strict saddle"`` or
            ``"global minimum"``. A strict saddle has a direction of negative curvature, a
            non-strict one has none. There are no other local minima and no maxima.
        loss: The loss there.
        gradient_norm: Norm of the gradient on whitened inputs, in units of
            ``strengths[0] ** (2 - 1 / L)``.
        modes: The modes that have been learned; None at a regular point or if ``degenerate``.
        degenerate: Whether some but not all modes of equal strength have been learned: the point
            belongs to a continuous family of such choices.
        index: Number of negative eigenvalues of the Hessian; None where it is not known in closed
            form (:func:`morse_index`) and at regular points.
    """

    kind: str
    loss: float
    gradient_norm: float
    modes: tuple[int, ...] | None
    degenerate: bool
    index: int | None


def classify(weights: Weights, moments: Moments, tolerance: float = 1e-6) -> PointKind:
    r"""Tell the kind of a point by the criterion at the head of this module.

    Args:
        weights: The layers.
        moments: Of the data.
        tolerance: Below this the gradient, singular values of products of layers and differences of
            strengths count as zero, each in units of what it is in a balanced network that has
            learned the strongest mode (or of its own size, where that is larger).

    Returns:
        The kind, with what has been learned. It is that of an exact critical point near by if there
        is one; that there is one is not proved by a small gradient.

    Raises:
        ValueError: If the widths do not fit or the tolerance is not in (0, 1).

    Example:
        The origin is strict with two layers and non-strict with more; index 2 because each of the
        two hidden units can learn the one mode.

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
    scale = _scale(layers, modes)
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
    r"""Number of negative Hessian eigenvalues at a critical point that is balanced, or like one.

    It holds where every layer has the rank of the product, as at each balanced critical point (all
    others of that kind are images of one under :math:`W_l \mapsto g_l W_l g_{l-1}^{-1}`, which
    leaves the loss unchanged). There the Hessian decouples. A missing mode of strength
    :math:`\sigma_a` and a learned one of strength :math:`\sigma_b` give the form

    .. math:: \tfrac12 \sigma_b^{2 - 2/L} (x^2 + y^2) - \sigma_a \sigma_b^{1 - 2/L} x y,

    negative somewhere exactly when :math:`\sigma_a > \sigma_b`. With two layers each idle hidden
    unit adds :math:`-\sigma_a x y` for every missing mode; with more layers such terms are of
    higher order.

    Args:
        learned: Strengths of the learned modes.
        missing: Strengths of the others.
        depth: Number ``L`` of layers.
        hidden: Width of the hidden layer, needed for ``depth == 2`` only.

    Raises:
        ValueError: If the hidden width is needed and missing or too small.

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


def representative(
    moments: Moments, sizes: Sequence[int], modes: Sequence[int]
) -> tuple[Array, ...]:
    r"""The balanced critical point that stands for all that have learned the same modes.

    :math:`W_l = \sum_{a \in S} \sigma_a^{1/L} q_l^a (q_{l-1}^a)^\top` with :math:`q_L^a = u_a`,
    :math:`q_0^a = S_{xx}^{-1/2} v_a` and, in the hidden layers, the first unit vectors: the point
    of the quotient in which each critical value occurs once (Wendin and Altafini).

    Args:
        moments: Of the data.
        sizes: Widths ``(n_0, ..., n_L)``.
        modes: S, numbers of modes without repetition.

    Returns:
        The layers. They are balanced on whitened inputs.

    Raises:
        ValueError: If a mode does not exist, occurs twice, or there is no room for so many.

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
        ends = _ends(found, a, sizes, k)
        for layer, (below, above) in zip(layers, pairwise(ends), strict=True):
            layer += found.strengths[a] ** (1 / depth) * np.outer(above, below)
    return tuple(layers)


@dataclass(frozen=True)
class SaddleDirection:
    r"""A straight line through a critical point, and what the loss does on it.

    Attributes:
        layers: The direction :math:`V`, one matrix a layer.
        what: ``"learn"``: a missing mode enters through all layers at once. ``"swap"``: a missing
            mode takes the place of a learned one. ``"hold"``: the strength of a learned mode.
        modes: The mode, or the missing and the learned one.
        coefficient: ``c`` in :math:`\mathcal L(W + t V) = \mathcal L(W) + c \, t^k + o(t^k)`.
        order: ``k``: the depth for ``"learn"``, else 2.
    """

    layers: tuple[Array, ...]
    what: str
    modes: tuple[int, ...]
    coefficient: float
    order: int

    @property
    def stable(self) -> bool:
        """Whether the flow comes back along it: the loss rises to both sides."""
        return self.coefficient > 0


def saddle_directions(
    weights: Weights, moments: Moments, tolerance: float = 1e-6
) -> tuple[SaddleDirection, ...]:
    r"""Stable and unstable directions of a balanced critical point, of whatever order.

    In the adjacency matrix a mode is a path from the input to the output. Where all its edges are
    idle, the Hessian does not see it for ``L > 2``, and yet the loss falls with :math:`-\sigma_a
    t^L` when they grow together: the escape from a non-strict saddle (Wendin and Altafini). Here
    are the directions of these paths: to learn a missing mode (where every hidden layer has an idle
    unit), to swap one for a learned one, and the strength of a learned one.

    Args:
        weights: A critical point, balanced on whitened inputs (:func:`representative` is).
        moments: Of the data, with modes of different strengths.
        tolerance: As in :func:`classify`.

    Returns:
        Unstable directions first, the strongest modes first. They do not span weight space: what is
        left are flat directions along the fibre of equivalent networks, and stable ones.

    Raises:
        ValueError: If the point is not critical, not balanced, or belongs to a degenerate family.

    Example:
        >>> moments = Moments(np.eye(2), np.diag([3.0, 1.0]), 10.0)
        >>> saddle = representative(moments, (2, 2, 2, 2), [0])
        >>> [(d.what, d.modes, d.order, d.stable) for d in saddle_directions(saddle, moments)]
        [('learn', (1,), 3, False), ('swap', (1, 0), 2, True), ('hold', (0,), 2, True)]
    """
    layers, modes = as_weights(weights), data_modes(moments)
    point = classify(layers, moments, tolerance)
    if point.kind == REGULAR:
        raise ValueError(
            f"weights must be a critical point, got a gradient of {point.gradient_norm:.3g} (in "
            "its natural unit). Follow the flow further"
        )
    if point.modes is None:
        raise ValueError(
            "modes must differ in strength, got a point that has learned some but not all modes "
            "of equal strength: every direction in their space is one to learn"
        )
    inner = whitened(layers, modes)
    if not is_balanced(inner, tolerance):
        raise ValueError(
            "weights must be balanced on whitened inputs, got unequal layers. Take "
            "representative(moments, widths(weights), modes) of the same modes"
        )
    depth = len(layers)
    paths = {b: _path_of(inner, modes, b) for b in point.modes}
    missing = [a for a in range(modes.rank) if a not in paths]
    directions = []
    idle = _idle_units(inner, tolerance * _scale(inner, modes))
    for a in missing:
        if idle is not None:
            path = [modes.whitener @ modes.right[:, a], *idle, modes.left[:, a]]
            directions.append(
                SaddleDirection(_along(path), "learn", (a,), -float(modes.strengths[a]), depth)
            )
        for b, path in paths.items():
            ahead, behind = float(modes.strengths[a]), float(modes.strengths[b])
            moved = [np.zeros_like(w) for w in layers]
            if depth == 1:
                continue
            moved[0] = np.outer(path[1], modes.whitener @ modes.right[:, a])
            moved[-1] = np.outer(modes.left[:, a], path[-2])
            coefficient = behind ** (1 - 2 / depth) * (behind - ahead)
            directions.append(SaddleDirection(tuple(moved), "swap", (a, b), coefficient, 2))
    for b, path in paths.items():
        coefficient = 0.5 * depth**2 * float(modes.strengths[b]) ** (2 - 2 / depth)
        outer = [modes.whitener @ modes.right[:, b], *path[1:]]
        directions.append(SaddleDirection(_along(outer), "hold", (b,), coefficient, 2))
    return tuple(sorted(directions, key=lambda d: (d.stable, d.what != "learn", d.what != "swap")))


def mode_graph(moments: Moments, sizes: Sequence[int], swaps: bool = False) -> nx.DiGraph:
    """The Morse graph of the quotient: critical values, joined where the flow leads down.

    Without swaps it is that of networks whose layers share their singular vectors, where each mode
    is learned by itself: a set of learned modes is followed by the sets with one mode more. That is
    the Boolean lattice, ``2^r`` nodes and ``r 2^(r - 1)`` edges, when no layer is narrower than the
    number ``r`` of modes; its sets of the largest size otherwise, of which only one is a minimum of
    the loss.

    With ``swaps`` it is that of all networks. There a stronger mode can also take the place of a
    weaker one: the direction of :func:`saddle_directions` lies in the invariant set of networks
    that send both through the same hidden units, where the lower level is all there is to go to.
    So more pairs are in order, and the graph (reduced, as Morse graphs are) is another: with two
    modes and room for both a chain, no diamond.

    Args:
        moments: Of the data, with modes of different strengths.
        sizes: Widths ``(n_0, ..., n_L)``.
        swaps: Whether modes may be swapped.

    Returns:
        Nodes are tuples of learned modes with the attributes ``loss`` and ``minimum``; edges point
        downhill.

    Raises:
        ValueError: If modes are of equal strength, or as :func:`critical_levels` does.

    Example:
        >>> moments = Moments(np.eye(2), np.diag([3.0, 1.0]), 10.0)
        >>> sorted(mode_graph(moments, (2, 2, 2)).edges)
        [((), (0,)), ((), (1,)), ((0,), (0, 1)), ((1,), (0, 1))]
        >>> sorted(mode_graph(moments, (2, 2, 2), swaps=True).edges)
        [((), (1,)), ((0,), (0, 1)), ((1,), (0,))]
    """
    modes = data_modes(moments)
    tied = next((group for group in modes.groups if len(group) > 1), None)
    if tied is not None:
        raise ValueError(
            f"modes must differ in strength, got {list(tied)} of {modes.strengths[tied[0]]:.6g}: "
            "their critical points are continuous families, which a finite graph does not show"
        )
    levels = critical_levels(moments, sizes)
    graph: nx.DiGraph = nx.DiGraph()
    nodes = {level.modes for level in levels}
    for level in levels:
        graph.add_node(level.modes, loss=level.loss, minimum=level is levels[-1])
    for level in levels:
        for lower in _below(level, modes.rank, swaps) & nodes:
            graph.add_edge(level.modes, lower)
    if not swaps:
        return graph
    reduced = nx.transitive_reduction(graph)
    reduced.add_nodes_from(graph.nodes(data=True))
    return reduced


def _below(level: CriticalLevel, rank: int, swaps: bool) -> set[tuple[int, ...]]:
    have = set(level.modes)
    missing = set(range(rank)) - have
    more = {tuple(sorted(have | {a})) for a in missing}
    if swaps:
        more |= {tuple(sorted(have - {b} | {a})) for a in missing for b in have if a < b}
    return more


def _slope(layers: tuple[Array, ...], moments: Moments) -> float:
    """Norm of the gradient on whitened inputs, in units of the strongest mode."""
    modes = data_modes(moments)
    first, *others = gradient(layers, moments)
    # dL/dW_1 = (dL/dW_1') S_xx^(1/2), and the gradient has no part outside the range of S_xx.
    squares = [np.square(first @ modes.whitener).sum(), *(np.square(g).sum() for g in others)]
    depth = len(layers)
    return float(np.sqrt(sum(squares))) / _scale(whitened(layers, modes), modes) ** (2 * depth - 1)


def _scale(layers: tuple[Array, ...], modes: Modes) -> float:
    """Strength of a layer of a balanced network that has learned the strongest mode."""
    if modes.rank:
        return float(modes.strengths[0]) ** (1 / len(layers))
    return max(max(float(np.linalg.norm(w)) for w in layers), np.finfo(float).tiny ** 0.25)


def _learned_modes(learned: Array, modes: Modes) -> tuple[int, ...] | None:
    """The modes in a critical product; None if modes of equal strength are in it in part."""
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
    # Modes of equal strength count as equal in spite of rounding.
    return morse_index(
        [b + tolerance * scale ** len(layers) for b in have], lack, len(layers), hidden
    )


def _is_tightened(
    layers: tuple[Array, ...], error: Array, rank: int, scale: float, tolerance: float
) -> bool:
    """Whether all pivots are: see the head of this module."""
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


def _ends(modes: Modes, a: int, sizes: Sequence[int], unit: int) -> list[Array]:
    """The path of mode ``a`` through the same unit of every hidden layer."""
    hidden = [np.eye(1, n, unit).ravel() for n in sizes[1:-1]]
    return [modes.whitener @ modes.right[:, a], *hidden, modes.left[:, a]]


def _path_of(layers: tuple[Array, ...], modes: Modes, b: int) -> list[Array]:
    """Unit vectors that a learned mode passes through, in a balanced network."""
    path = [modes.right[:, b]]
    for layer in layers:
        step = layer @ path[-1]
        path.append(step / np.linalg.norm(step))
    return path


def _idle_units(layers: tuple[Array, ...], tolerance: float) -> list[Array] | None:
    """For each hidden layer a direction that carries nothing; None where one has none."""
    idle = []
    for below, above in pairwise(layers):
        _, values, vectors = np.linalg.svd(np.vstack([below.T, above]), full_matrices=True)
        used = int((values > tolerance).sum())
        if used == below.shape[0]:
            return None
        idle.append(vectors[used])
    return idle


def _along(path: Sequence[Array]) -> tuple[Array, ...]:
    return tuple(np.outer(above, below) for below, above in pairwise(path))
