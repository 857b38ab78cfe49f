r"""Whether training moves as the gradient flow of the slice says it should.

A Morse graph of a slice tells of the gradient flow *inside* it. Training follows its optimizer, on
mini-batches, in all directions. Here the two are held against each other: from each state that was
recorded the flow of the slice is followed for the time that passed until the next one, and where it
ends is compared with where training went.

Time is learning rate times steps, the unit in which gradient descent with small steps follows the
flow. Plain SGD has an angle near 0 and a length near 1 if the slice holds the whole motion. With
momentum :math:`\beta` the length tends to :math:`1 / (1 - \beta)`. Adam's steps do not scale with
the gradient, so that its length can be anything; its angle still tells. Both are estimates, from
the surrogate's mean at the vertices of the grid; nothing here is certain, and nothing that is
called certain rests on it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp
from scipy.interpolate import RegularGridInterpolator

from lightning_morse._typing import Array
from lightning_morse.result import MorseAnalysis

# What angle and length are where nothing could be compared.
UNKNOWN = -1.0
# Accuracy of the flow: relative, and absolute as a share of the box.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-6


@dataclass(frozen=True)
class FlowCheck:
    """How far training and the gradient flow of a slice disagree.

    Attributes:
        angle: Mean angle between what was observed and the flow, weighted by the length of what was
            observed, radians in [0, pi]; -1 if nothing could be compared.
        length: Sum of the observed lengths over that of the flow; -1 likewise.
        n_pairs: Number of displacements compared.
    """

    angle: float
    length: float
    n_pairs: int


def flow_check(result: MorseAnalysis, states: ArrayLike, times: ArrayLike) -> FlowCheck:
    """Compare displacements of training inside a slice with the gradient flow of its surrogate.

    Only displacements that begin and end in the box count, whose flow does not leave it either, and
    which are not zero on one of the two sides.

    Args:
        result: An analysis of a loss on the slice.
        states: Coordinates of successive states, shape ``(T, d)``, units of the box.
        times: Learning rate times steps until each, shape ``(T,)``, not falling; NaN where it is
            not known.

    Returns:
        The comparison.

    Raises:
        ValueError: If the shapes do not fit the box or each other.

    Example:
        On the bowl of half a square the flow halves the distance in the time ``log 2``. Someone
        goes twice as far, in the right direction:

        >>> from lightning_morse.analysis.pipeline import analyze
        >>> bowl = analyze(lambda x: 0.5 * (x**2).sum(1), [-2], [2], n_samples=32, resolution=64)
        >>> found = flow_check(bowl, [[1.0], [0.0]], [0.0, np.log(2)])
        >>> round(found.angle, 3), round(found.length, 2), found.n_pairs
        (0.0, 2.0, 1)
    """
    grid = result.grid
    at, when = np.asarray(states, dtype=np.float64), np.asarray(times, dtype=np.float64)
    if at.ndim != 2 or at.shape[1] != grid.dim or when.shape != at.shape[:1]:
        raise ValueError(
            f"states and times must have shapes (T, {grid.dim}) and (T,), got {at.shape} and "
            f"{when.shape}"
        )
    unknown = FlowCheck(UNKNOWN, UNKNOWN, 0)
    inside = np.all((at >= grid.lower) & (at <= grid.upper), axis=1)
    used = inside[:-1] & inside[1:] & (np.diff(when) > 0)
    if not used.any() or not np.isfinite(result.mean_loss).all():
        return unknown
    ended = _followed(result, at[:-1][used], np.diff(when)[used])
    if ended is None:
        return unknown
    flow, observed = ended - at[:-1][used], np.diff(at, axis=0)[used]
    lengths = np.linalg.norm(flow, axis=1), np.linalg.norm(observed, axis=1)
    counts = ((ended >= grid.lower) & (ended <= grid.upper)).all(axis=1)
    counts &= (lengths[0] > 0) & (lengths[1] > 0)
    if not counts.any():
        return unknown
    flow, observed = flow[counts], observed[counts]
    along, across = lengths[0][counts], lengths[1][counts]
    cosine = np.einsum("ij,ij->i", flow, observed) / (along * across)
    angles = np.arccos(np.clip(cosine, -1.0, 1.0))
    return FlowCheck(
        angle=float(np.average(angles, weights=across)),
        length=float(across.sum() / along.sum()),
        n_pairs=int(counts.sum()),
    )


def _followed(result: MorseAnalysis, start: Array, span: Array) -> Array | None:
    """Where the gradient flow of the mean leads from some states; None if it could not be followed.

    Outside the box the field is that of the nearest face; who ends there does not count.
    """
    grid = result.grid
    edges = tuple(grid.edges)
    slopes = np.gradient(result.mean_loss, *edges, edge_order=2)
    table = np.stack([slopes] if isinstance(slopes, np.ndarray) else slopes, axis=-1)
    slope = RegularGridInterpolator(edges, table)

    def field(_: float, flat: Array) -> Array:
        points = np.clip(flat.reshape(start.shape), grid.lower, grid.upper)
        return np.asarray(-span[:, None] * slope(points)).ravel()

    reach = np.broadcast_to(grid.upper - grid.lower, start.shape).ravel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # States do not act on each other: the Jacobian is a band as wide as one of them.
        found = solve_ivp(
            field,
            (0.0, 1.0),
            start.ravel(),
            method="LSODA",
            rtol=_RELATIVE,
            atol=_ABSOLUTE * reach,
            lband=grid.dim - 1,
            uband=grid.dim - 1,
        )
    return found.y[:, -1].reshape(start.shape) if found.success else None
