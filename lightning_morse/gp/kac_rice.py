r"""Expected number of critical points of each Morse index in a region of the box.

The Kac-Rice formula (Adler, Taylor, "Random Fields and Geometry", 2007, theorem 11.2.1): the number
:math:`N_k` of critical points of index :math:`k` of a Gaussian field :math:`f` in a region
:math:`U` has the expectation

.. math:: E[N_k] = \int_U E\bigl[\,|\det \nabla^2 f(x)|\; 1\{\text{index } k\} \bigm|
    \nabla f(x) = 0\bigr]\, p_{\nabla f(x)}(0)\, \mathrm{d}x ,

:math:`p` the density of the gradient. By Markov's inequality :math:`P(N_k \ge 1) \le E[N_k]`: where
the expectation is tiny there is no such point, up to that probability, and no band on the Hessian
is needed. Under the posterior everything is Gaussian with known moments. The field must have
continuous second derivatives, which the kernels here ensure; critical points are then almost surely
non-degenerate.

*What is evaluated, not proved.* The integral, cell by cell, with the mean gradient taken as linear
near a cell and the location in it blurred by a Gaussian; the inner expectation, by a fixed
quasi-random sequence with importance weights. Both are accurate to a few per cent, which is little
compared with the orders of magnitude between a resolved Morse set and an unresolved one.

The warped loss has the critical points of the loss itself, with the same indices.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import qmc

from lightning_morse._typing import Array, Cells
from lightning_morse.gp.process import GaussianProcess

# Points of the integration in all, and at most per edge of a cell.
_POINTS = 2048
_MOST_PER_EDGE = 3
# Squared standardised size of the mean gradient beyond which nothing is expected: the density is
# then below e^-40. Soundness depends on it, by that much.
_OUT_OF_REACH = 80.0
# Draws of the Hessian, as powers of two, for up to `_POINTS` points and for more. They are spread
# wider than its distribution, by at most this factor per entry and by at most that in volume, so
# that rare indices are drawn as well. The accuracy of the integral depends on all of these.
_LOG_DRAWS, _FEWER_LOG_DRAWS = 9, 7
_SPREAD, _SPREAD_VOLUME = 1.7, 5.0
# Uniform draws keep this distance from 0 and 1, where the normal quantile is infinite.
_CLIPPED = 1e-12
# Expected of each index where the numbers have left the range of floats: one rules out any claim.
_ANYTHING = 1.0
# Points evaluated together, so that their draws stay in the cache; never bears on the result.
_CHUNK = 128


def expected_critical_points(
    surrogate: GaussianProcess, centers: Array, widths: Array, among: int | None = None
) -> Array:
    r"""Expected number of critical points of each Morse index in some boxes of equal size.

    Args:
        surrogate: The fitted surrogate, ``d`` axes.
        centers: Centres of the boxes, shape ``(m, d)``.
        widths: Their edge lengths, shape ``(d,)``.
        among: Number of boxes altogether, if these are some of them: the fewer, the finer each
            is divided. By default ``m``.

    Returns:
        Entry ``(i, k)`` for index ``k`` in box ``i``, shape ``(m, d + 1)``.

    Example:
        A stationary process has a critical point every :math:`\pi \sqrt{\lambda_2 / \lambda_4}`
        on average (Rice, 1945), half of them minima; far from its only sample this one does.

        >>> gp = GaussianProcess(
        ...     x=np.zeros((1, 1)), y=np.zeros(1), lengthscales=np.ones(1), variance=1.0,
        ...     noise=1e-6, mean=0.0,
        ... )
        >>> found = expected_critical_points(gp, np.array([[50.0]]), np.array([0.01]))
        >>> bool(np.allclose(found, 0.005 / np.pi * np.sqrt(25 / (5 / 3)), rtol=0.01))
        True
    """
    m, d = centers.shape
    # Finer where boxes are few: the gradient is less linear in a large one.
    n_boxes = max(m if among is None else among, 1)
    finer = min(_MOST_PER_EDGE, max(1, int((_POINTS / n_boxes) ** (1 / d))))
    ticks = (np.arange(finer) + 0.5) / finer - 0.5
    offsets = np.stack(np.meshgrid(*[ticks] * d, indexing="ij"), axis=-1).reshape(-1, d)
    points = (centers[:, None] + offsets * widths).reshape(-1, d)
    draws = _LOG_DRAWS if n_boxes * len(offsets) <= _POINTS else _FEWER_LOG_DRAWS
    found = np.concatenate(
        [np.zeros((0, d + 1))]
        + [
            _at(surrogate, points[start : start + _CHUNK], widths / finer, draws)
            for start in range(0, len(points), _CHUNK)
        ]
    )
    return np.asarray(found.reshape(m, len(offsets), d + 1).sum(axis=1))


def _at(surrogate: GaussianProcess, points: Array, widths: Array, log_draws: int) -> Array:
    """The same for boxes that are each represented by one point."""
    d = points.shape[1]
    rows, columns = np.triu_indices(d)
    # In units of the box's edges, so that its volume is one.
    unit = np.concatenate([widths, widths[rows] * widths[columns]])
    mean, covariance = surrogate.derivative_distribution(points)
    mean, covariance = mean * unit, covariance * np.outer(unit, unit)
    slope, bend = mean[:, :d], mean[:, d:]
    hessian = np.empty((len(points), d, d))
    hessian[:, rows, columns] = hessian[:, columns, rows] = bend
    # The gradient somewhere in the box: its distribution at the point, blurred by the location.
    # With a deviation of half an edge, the boxes around a point add up to 1 within 2 % per axis.
    spread = covariance[:, :d, :d] + hessian @ hessian.swapaxes(1, 2) / 4
    toward = np.linalg.solve(spread, slope[:, :, None])[:, :, 0]
    distance = np.einsum("mi,mi->m", slope, toward)
    expected = np.zeros((len(points), d + 1))
    known = np.isfinite(distance) & np.isfinite(covariance).all(axis=(1, 2))
    near = np.flatnonzero(known & (distance < _OUT_OF_REACH))
    expected[~known] = _ANYTHING
    if not near.size:
        return expected
    _, log_det = np.linalg.slogdet(spread[near])
    density = np.exp(-0.5 * (distance[near] + log_det + d * math.log(2 * math.pi)))
    across = covariance[near, d:, :d]
    mean_there = bend[near] - np.einsum("mai,mi->ma", across, toward[near])
    left = covariance[near, d:, d:] - across @ np.linalg.solve(spread[near], across.swapaxes(1, 2))
    draws, weights = _normal_draws(bend.shape[1], log_draws)
    values, vectors = np.linalg.eigh(left)
    root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None]
    # One table per entry of the Hessian, its draws adjacent.
    entries = [mean_there[:, a, None] + root[:, a] @ draws.T for a in range(len(rows))]
    size, index = _inertia(entries, rows, columns, d)
    size *= weights
    for k in range(d + 1):
        expected[near, k] = density * (size * (index == k)).mean(axis=1)
    return np.where(np.isfinite(expected), expected, _ANYTHING)


@lru_cache(maxsize=16)
def _normal_draws(n_entries: int, log_draws: int) -> tuple[Array, Array]:
    """Draws from a wider normal distribution, and their weights under the standard one.

    They are the same at every call, and not to be written to.
    """
    uniform = qmc.Sobol(n_entries, rng=np.random.default_rng(0)).random_base2(log_draws)
    spread = min(_SPREAD, _SPREAD_VOLUME ** (1 / n_entries))
    draws = spread * ndtri(np.clip(uniform, _CLIPPED, 1 - _CLIPPED))
    log_weights = -0.5 * np.square(draws).sum(axis=1) * (1 - spread**-2)
    weights = np.exp(log_weights) * spread**n_entries
    for kept in (draws, weights):
        kept.setflags(write=False)
    return draws, weights


def _inertia(
    entries: list[Array], rows: Cells, columns: Cells, d: int
) -> tuple[Array, NDArray[np.int8]]:
    """Size of the determinant and number of negative eigenvalues, from the pivots (Sylvester)."""
    # Of the symmetric matrix the upper triangle, row by row.
    matrix = dict(zip(zip(rows.tolist(), columns.tolist(), strict=True), entries, strict=True))
    size = np.ones_like(entries[0])
    index = np.zeros(size.shape, dtype=np.int8)
    for k in range(d):
        pivot = matrix[k, k]
        size *= np.abs(pivot)
        index += pivot < 0
        with np.errstate(divide="ignore", invalid="ignore"):
            for i in range(k + 1, d):
                factor = matrix[k, i] / pivot
                for j in range(i, d):
                    matrix[i, j] = matrix[i, j] - factor * matrix[k, j]
    return size, index
