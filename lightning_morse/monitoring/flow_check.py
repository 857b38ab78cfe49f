r"""Whether training moves as the gradient flow of the slice predicts.

The Morse graph of a slice describes the gradient flow *inside* it. Training follows its optimizer,
on mini-batches, in all directions. This module compares the two: from each recorded state it
follows the flow of the slice for the time that passed until the next one, and compares the end
point with where training went.

Time is learning rate times steps, the unit in which gradient descent with small steps follows the
flow. Plain SGD has an angle near 0 and a length ratio near 1 if the slice contains the whole
motion. With momentum :math:`\beta` the ratio tends to :math:`1 / (1 - \beta)`. Adam's steps do not
scale with the gradient, so its ratio can be anything; its angle is still informative. Both are
estimates from the surrogate's mean at the vertices of the grid. Nothing here is certain, and no
certain statement rests on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import ODEintWarning, odeint
from scipy.interpolate import RegularGridInterpolator

from lightning_morse._typing import Array
from lightning_morse.result import MorseAnalysis
from lightning_morse.slices.silence import raising

# Value of angle and length where nothing could be compared; neither can be negative otherwise.
UNKNOWN = -1.0
# Tolerances of the integrator: relative, and absolute as a fraction of the box. Angle and length
# need no more than a few digits. Only this estimate depends on them, no certain statement.
_RELATIVE_TOLERANCE = 1e-4
_ABSOLUTE_TOLERANCE = 1e-6
_MOST_STEPS = 100_000  # of the integrator, so that a field cannot hold it up for ever


@dataclass(frozen=True)
class FlowCheck:
    """Disagreement between training and the gradient flow of a slice.

    Attributes:
        angle: Mean angle between observed displacements and those of the flow, weighted by observed
            length, radians in [0, pi]; -1 if nothing could be compared.
        length: Total observed length divided by that of the flow; -1 likewise.
        n_pairs: Number of displacements compared.
    """

    angle: float
    length: float
    n_pairs: int


def flow_check(result: MorseAnalysis, states: ArrayLike, times: ArrayLike) -> FlowCheck:
    """Compare displacements of training inside a slice with the gradient flow of its surrogate.

    A displacement counts only if it starts and ends in the box, the flow stays in the box as well,
    and neither of the two displacements is zero.

    Args:
        result: An analysis of a loss on the slice.
        states: Successive states in the coordinates of the box, shape ``(T, d)``.
        times: Accumulated learning rate times steps at each state, shape ``(T,)``, nondecreasing;
            NaN where unknown.

    Returns:
        The comparison.

    Raises:
        ValueError: If the shapes do not match the box or each other.

    Example:
        In the bowl ``x^2 / 2`` the flow halves the distance to the minimum in time ``log 2``.
        Training goes twice as far, in the same direction:

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
    """End points of the gradient flow of the posterior mean; None if the integrator failed.

    Outside the box the field is extended by its value at the nearest face; states that end there
    are not counted.
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
    band = grid.dim - 1  # the states are independent, so the Jacobian is as wide as one of them
    with raising(ODEintWarning):
        try:
            # The integrator of solve_ivp(method="LSODA"), which loses its work arrays in SciPy
            # 1.17: some kilobytes at each call.
            found = odeint(
                field,
                start.ravel(),
                (0.0, 1.0),
                tfirst=True,
                rtol=_RELATIVE_TOLERANCE,
                atol=_ABSOLUTE_TOLERANCE * reach,
                ml=band,
                mu=band,
                mxstep=_MOST_STEPS,
            )
        except ODEintWarning:
            return None
    return np.asarray(found[-1]).reshape(start.shape)
