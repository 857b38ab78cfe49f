"""From sets of weights to the barriers between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_morse._typing import Array
from lightning_morse.arguments import integer_of_at_least, level_of_confidence
from lightning_morse.barriers.band import SHARES
from lightning_morse.barriers.line import FIRST, Line
from lightning_morse.mode_connectivity.plane import Landscape
from lightning_morse.mode_connectivity.point_loss import LossAtWeights
from lightning_morse.mode_connectivity.record import Connectivity, Profile, symmetric
from lightning_morse.mode_connectivity.weights import GivenWeights, given_weights
from lightning_morse.slices.given_vectors import Weights

# Share of the range of losses that counts as no barrier by default. (Frankle et al., 2020, take 2 %
# of error.)
_TOLERANCE = 0.01
# No default tolerance lies below this share of the largest loss: single precision cannot tell such
# losses apart, and their rounding would look like a barrier.
_ROUNDING = 1e-5
# A loss that moves by more than this share of the tolerance from one evaluation to the next at the
# same weights cannot answer the question.
_NOISE = 0.1
# The band is recorded at every eighth point of its lattice: as many as a figure shows.
_RECORDED = SHARES[::8]


def connectivity(
    module: nn.Module,
    batches: Iterable[Any],
    weights: Sequence[Weights],
    *,
    loss_fn: Callable[[Any, Any], Tensor | None] | None = None,
    tolerance: float | None = None,
    precision: float | None = None,
    confidence: float = 0.95,
    most_evaluations: int = 32,
    seed: int = 0,
) -> Connectivity:
    r"""Bound the barriers on the straight lines between sets of weights of one network.

    The barrier of a pair is the largest excess of the loss over the straight line between the
    losses at the ends, at least 0. The largest excess evaluated is a lower bound, because the loss
    is a function (below). The upper bound comes from a Gaussian process fitted to the losses on the
    line; all of them hold simultaneously with probability at least ``confidence``, by a union bound
    over the pairs, given the premise of :mod:`lightning_morse.barriers.band`: that the
    (warped) loss on each line is a sample path of the process fitted to it. The loss is evaluated
    at both ends, at five places between them, and then where the upper bound is attained, until it
    is decided whether the barrier exceeds ``tolerance``.

    The loss is that of the module in eval mode, as in :class:`~lightning_morse.LossSlice` with
    common random numbers. Batch norm: before each evaluation the running statistics are recomputed
    at that point, by one pass over ``batches`` with the normalising layers in training mode and the
    plain mean over the batches (Jordan et al., 2023; as :func:`torch.optim.swa_utils.update_bn`);
    the loss is that of a second pass in eval mode. Without that, a barrier would be that of stale
    statistics. So with such layers an evaluation takes two passes.

    Permutations of hidden units are not searched. Training data outside ``batches`` is not covered.

    Args:
        module: The network; only read. Its frozen parameters and buffers are replaced, in a copy,
            by those of the sets, where they have them.
        batches: Batches on the device of the module, in any finite iterable; together they define
            the loss.
        weights: Two or more sets: flat tensors of the trainable weights, state dicts, checkpoints
            of Lightning, or paths of these.
        loss_fn: ``loss_fn(module, batch)`` returns the mean loss of a batch; by default the step of
            a LightningModule.
        tolerance: A barrier of at most this counts as none, units of the loss. By default 1 % of
            the range of the losses seen on all lines, but at least 1e-5 of the largest of them.
        precision: If given, each line is evaluated until its bounds are no further apart than this,
            units of the loss, whether or not the question is decided earlier.
        confidence: The level of all upper bounds together, in (0, 1).
        most_evaluations: Most evaluations of a line, its ends included; at least 7.
        seed: Of the random numbers that a stochastic loss draws.

    Returns:
        The record.

    Raises:
        ValueError: If there are fewer than two sets, one cannot be read, does not fit the module,
            is not finite or holds no floating-point numbers (but integers, say, or nothing, as on
            the meta device); if the module has complex weights; if the sets differ in frozen
            parameters; if the loss is not finite at one of them, or differs between two evaluations
            at the same weights by more than a tenth of the tolerance; or an argument is out of
            range.

    Example:
        >>> import torch
        >>> net = nn.Linear(1, 1, bias=False)
        >>> def two_wells(net, batch):
        ...     return (net.weight.square() - 1).square().mean()
        >>> ends = [torch.tensor([-1.0]), torch.tensor([1.0])]
        >>> found = connectivity(net, [torch.zeros(1, 1)], ends, loss_fn=two_wells)
        >>> found.verdict(0, 1), round(float(found.barriers[0, 1]), 2), found.groups
        ('not connected', 1.0, ((0,), (1,)))
    """
    level = level_of_confidence(confidence)
    most = integer_of_at_least("most_evaluations", most_evaluations, len(FIRST) + 2)
    for name, value in (("tolerance", tolerance), ("precision", precision)):
        _check_positive(name, value)
    given = given_weights(module, weights)
    loss = LossAtWeights(module, batches, loss_fn, seed, given.kept)
    landscape = Landscape(loss, given)
    ends, noise = _at_ends(loss, given)
    pairs = list(combinations(range(len(ends)), 2))
    share = 1 - (1 - level) / len(pairs)
    lines = [
        Line(partial(landscape.on_line, i, j), (ends[i], ends[j]), share, given.same(i, j))
        for i, j in pairs
    ]
    for line in lines:
        line.begin()
    _check_noise(noise, _tolerance(lines, tolerance))
    chosen = _explore(lines, tolerance, precision, most)
    bounds = [line.barrier for line in lines]
    matrices = [symmetric(len(ends), pairs, values) for values in zip(*bounds, strict=True)]
    lower, barriers, upper = matrices
    return Connectivity(
        names=given.names,
        losses=np.array(ends),
        lower=lower,
        barriers=barriers,
        upper=upper,
        tolerance=chosen,
        confidence=level,
        profiles=tuple(map(_profile, lines)),
        n_evaluations=loss.n_evaluations,
        notes=given.notes,
        landscape=landscape,
    )


def _check_positive(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < math.inf):
        raise ValueError(f"{name} must be a positive number in units of the loss, got {value!r}")


def _at_ends(loss: LossAtWeights, given: GivenWeights) -> tuple[list[float], float]:
    """The loss at each set, and by how much it moves between two evaluations of the first."""
    ends: list[float] = []
    for i, flat in enumerate(given.flats):
        twin = next((j for j in range(i) if given.same(i, j)), None)
        value = loss(flat) if twin is None else ends[twin]
        if not math.isfinite(value):
            raise ValueError(
                f"the loss must be finite at every set of weights, got {value} at weights[{i}] "
                f"({given.names[i]}). Leave it out"
            )
        ends.append(value)
    return ends, abs(loss(given.flats[0]) - ends[0])


def _explore(
    lines: Sequence[Line], tolerance: float | None, precision: float | None, most: int
) -> float:
    """Evaluate all lines until they are decided; return the tolerance.

    Lines take turns, since the default tolerance grows with the range of the losses on all of them.
    """
    while True:
        chosen = _tolerance(lines, tolerance)
        pending = [
            line
            for line in lines
            if line.is_open and len(line.shares) < most and not _is_done(line, chosen, precision)
        ]
        if not pending:
            return chosen
        for line in pending:
            line.refine()


def _tolerance(lines: Sequence[Line], given: float | None) -> float:
    if given is not None:
        return float(given)
    seen = np.concatenate([line.losses for line in lines])
    seen = seen[np.isfinite(seen)]
    return max(_TOLERANCE * float(np.ptp(seen)), _ROUNDING * float(np.abs(seen).max()))


def _is_done(line: Line, tolerance: float, precision: float | None) -> bool:
    lower, _, upper = line.barrier
    decided = upper <= tolerance or lower > tolerance
    return decided and (precision is None or upper - lower <= precision)


def _check_noise(noise: float, tolerance: float) -> None:
    if not noise <= _NOISE * tolerance:
        raise ValueError(
            f"the loss must be a function of the weights, got values that differ by {noise:.3g} "
            f"between two evaluations at weights[0], where {_NOISE * tolerance:.3g} is allowed (a "
            "tenth of the tolerance). It draws random numbers that are not reset: make loss_fn "
            "deterministic, or give it a generator that it seeds itself"
        )


def _profile(line: Line) -> Profile:
    band = line.band
    if band is None:
        drawn: Array = np.full((3, len(_RECORDED)), np.nan)
    else:
        drawn = np.stack([side[::8] for side in (band.mean, band.lower, band.upper)])
    return Profile(line.shares, line.losses, drawn, line.reason)
