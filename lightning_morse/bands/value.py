r"""A simultaneous band for the values of several surrogates over a whole box.

:mod:`lightning_morse.bands.gradient` does this for the gradient of one surrogate; a map has ``d``
coordinates with one surrogate each, and their values count. Let :math:`e_i = g_i - m_i` be the
error of the posterior mean of coordinate ``i``. Given that :math:`g_i` is a sample path of its
process, :math:`e_i` is a centred Gaussian process of known variance. The band is the event

.. math:: E(c):\quad |e_i(v)| \le c\, s_i(v) \text{ for all points } v \text{ of the lattice and }
    i, \text{ and } |e_i(x) - (I e_i)(x)| \le R_i(c) \text{ for all } x \text{ in the box and } i,

with :math:`I` the multilinear interpolation between the points of the lattice.

*What is proved.* :math:`P(E(c)) \ge 1 - 2 d N Q(c) (1 + \eta)` with :math:`N` points and :math:`Q`
the Gaussian tail, by the chained union bound of :mod:`lightning_morse.bands.union_bound`. It
remains to bound the deviations of the corrections made by halving the lattice. Along one axis a
correction is :math:`e(x) - \tfrac12 e(x - \delta/2) - \tfrac12 e(x + \delta/2)`. Its posterior
variance is at most its prior one, and that is stationary. With :math:`S` the spectral measure of
the correlation :math:`\kappa` along that axis (Bochner) it is

.. math:: \sigma^2 \int (1 - \cos\tfrac{\omega\delta}{2})^2\, dS(\omega)
    \le \sigma^2 \int \tfrac{\omega^4 \delta^4}{64}\, dS(\omega)
    = \frac{\sigma^2 \kappa''''(0)}{64} \frac{\delta^4}{\lambda^4},

because :math:`1 - \cos u \le u^2 / 2`. With :math:`t = \sqrt{2\nu}\,\delta / \lambda` that is
:math:`\sigma^2 t^4 / 64` for Matern-5/2 (:math:`\kappa''''(0) = 25`) and :math:`\sigma^2 t^4 / 320`
for Matern-7/2 (:math:`49 / 5`): the same share as for a slope along another axis, whose correlation
is also :math:`\kappa`.

*On the cells of a lattice that may be coarse* :func:`reach_in_cells` bounds the error of one
surrogate, that of a loss. The lattice is halved a number of times for the union bound, and the
deviations between its points are estimated (:mod:`lightning_morse.bands.halving`). That of the
noise, which stands for what is too fine for the process, is added to them.

*What is not proved.* That the coordinates are such sample paths; that the hyper-parameters, fitted
to the same pairs, and the constant mean among them, are the right ones; rounding.

The posterior mean between the points needs no probability: see :func:`mean_remainder`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.bands import halving, union_bound
from lightning_morse.gp.process import GaussianProcess, Values
from lightning_morse.grids.lattice import Lattice

# Corrections shrink by a factor of nearly 4 per level: after this many they are below rounding.
_N_LEVELS = 60
# The same for rough ones, by a factor of nearly 2.8, down to what rounding leaves of the variance.
_N_LEVELS_ROUGH, _ROUNDING = 24, 1e-15
# The lattice is halved at most so often for the band on its cells.
_MOST_HALVINGS = 4


@dataclass(frozen=True, eq=False)
class ValueBand:
    """Half-widths of the simultaneous band of several surrogates on a lattice.

    Attributes:
        c: Number of standard deviations at the points of the lattice.
        level: Lower bound on the probability that the band holds everywhere in the box.
        between: Allowance between the points, one entry per surrogate, shape ``(k,)``.
    """

    c: float
    level: float
    between: Array


def value_band(
    surrogates: Sequence[GaussianProcess], lattice: Lattice, confidence: float
) -> ValueBand:
    """Band that holds for all surrogates over the whole box with at least the given probability.

    Args:
        surrogates: One per coordinate; they need not be independent.
        lattice: The lattice of points at which their posteriors are known.
        confidence: The level to reach, in (0, 1).

    Returns:
        The narrowest band of this kind whose level is at least ``confidence``.
    """
    return value_bands([surrogates], [lattice], lattice.n_points, len(surrogates), confidence)[0]


def value_bands(
    groups: Sequence[Sequence[GaussianProcess]],
    lattices: Sequence[Lattice],
    n_points: int,
    n_surrogates: int,
    confidence: float,
) -> tuple[ValueBand, ...]:
    r"""Bands of several surrogates in each part of a box, which hold in all parts simultaneously.

    Every point of every part gets the same share of the failure probability: a part with
    :math:`N_l` points, those on its faces included, fails with probability at most
    :math:`2 d N_l Q(c) (1 + \eta)`, and one of them with at most the sum.

    Args:
        groups: The surrogates of each part, one per coordinate.
        lattices: The lattice of each part.
        n_points: Number of points, summed over these parts and over any others whose bands have to
            hold as well. Fixed before the values are seen.
        n_surrogates: Number of coordinates ``d``.
        confidence: The level to reach for all parts together, in (0, 1).

    Returns:
        A band for each part; ``level`` is that of all of them together.
    """
    tests = union_bound.n_tests(n_surrogates, n_points)
    c = union_bound.quantile(math.log1p(-confidence) - math.log(tests))
    log_share = union_bound.log_share_between(c)
    level = union_bound.level(c, tests)
    return tuple(
        ValueBand(c, level, np.array([between(log_share, gp, part) for gp in surrogates]))
        for surrogates, part in zip(groups, lattices, strict=True)
    )


def reach_in_cells(
    surrogate: GaussianProcess, posterior: Values, lattice: Lattice, failure: float
) -> Array:
    """Bound on the error of one surrogate's mean anywhere in each cell of a lattice, estimated.

    Args:
        surrogate: The surrogate; its paths need not have second derivatives.
        posterior: Its posterior at the points of the lattice.
        lattice: The lattice; it is halved as often as makes the bound smallest on average.
        failure: Probability with which the bound may be false in some cell.

    Returns:
        Shape ``(n_cells,)``.
    """
    noise = math.sqrt(surrogate.noise * surrogate.variance)
    estimated = halving.deviation_inside(lattice, np.hypot(posterior.deviation, noise))

    def band(halvings: int) -> tuple[float, Array]:
        tests = halving.n_tests(1, lattice.n_points, lattice.dim, halvings)
        c = union_bound.quantile(math.log(failure / tests))
        return c, _between_halved(union_bound.log_share_between(c), surrogate, lattice, halvings)

    def deviation(places: Array) -> Array:
        return np.hypot(surrogate.values(places).deviation, noise)

    # Chosen before the estimate is checked, which then never makes the bound smaller.
    c, allowed = band(halving.narrowest(band, np.asarray(np.median(estimated)), _MOST_HALVINGS))
    return c * halving.checked(lattice, estimated, deviation) + allowed


def _between_halved(
    log_share: float, surrogate: GaussianProcess, lattice: Lattice, halvings: int
) -> Array:
    """Allowance between the points of the lattice, halved a number of times."""
    if math.isinf(surrogate.kernel.curvature_variance):
        return np.asarray(between_rough(log_share, surrogate, lattice.spacing / 2**halvings))
    # It falls with the square of the spacing.
    return np.asarray(between(log_share, surrogate, lattice) / 4**halvings)


def failure_bound(c: float, n_surrogates: int, n_points: int) -> float:
    """Upper bound on the probability that the band of ``c`` deviations fails on some cells.

    Args:
        c: Number of standard deviations.
        n_surrogates: Number of surrogates the band is for.
        n_points: Number of corners of the lattice cells, which have to be chosen from the posterior
            alone (see :mod:`lightning_morse.bands.union_bound`).
    """
    return union_bound.failure_bound(c, union_bound.n_tests(n_surrogates, n_points))


def between(log_share: float, surrogate: GaussianProcess, lattice: Lattice) -> float:
    """Allowance for the error of one surrogate's mean between the points of the lattice.

    Args:
        log_share: Logarithm of the tail probability spent per point of the lattice.
        surrogate: The surrogate.
        lattice: The lattice.
    """
    smaller = np.asarray(0.25 ** np.arange(_N_LEVELS), dtype=np.float64)
    corrections = correction_deviation(surrogate, lattice) * smaller
    return float(union_bound.chained(log_share, lattice.dim, corrections))


def between_rough(log_share: float, surrogate: GaussianProcess, spacing: Array) -> float:
    r"""The same for a process whose paths have no second derivatives, such as Matern-3/2.

    A correction :math:`e(x) - \tfrac12 e(x - \delta/2) - \tfrac12 e(x + \delta/2)` has the prior
    variance :math:`\sigma^2 (\tfrac32 + \tfrac12 \kappa(\delta) - 2 \kappa(\delta/2))`; for
    Matern-3/2 it falls with the third power of the spacing.

    Args:
        log_share: As in :func:`between`.
        surrogate: The surrogate.
        spacing: Distance between points of the lattice along each axis, shape ``(d,)``.
    """
    finer = spacing / surrogate.lengthscales * 0.5 ** np.arange(_N_LEVELS_ROUGH)[:, None]
    t = surrogate.kernel.rate * finer

    def correlation(at: Array) -> Array:
        return surrogate.kernel.polynomial(at, 0) * np.exp(-at)

    variances = 1.5 + 0.5 * correlation(t) - 2 * correlation(t / 2)
    corrections = np.sqrt(surrogate.variance * np.maximum(variances, _ROUNDING)).sum(axis=1)
    return float(union_bound.chained(log_share, len(spacing), corrections))


def correction_deviation(surrogate: GaussianProcess, lattice: Lattice) -> float:
    r"""Bound on the prior deviation of the first correction, at any point of the box.

    :math:`\sigma \sqrt{\kappa''''(0)} \sum_j \delta_j^2 / (8 \lambda_j^2)`; every halving divides
    it by 4. It also bounds the deviation of ``f(x)`` from the multilinear interpolation at *any*
    ``x``: at a fraction :math:`\theta` of the way :math:`|e^{i\omega\theta\delta} - (1 - \theta) -
    \theta e^{i\omega\delta}| \le \theta (1 - \theta) \omega^2\delta^2 / 2`, largest in the middle.
    """
    share = np.sum(lattice.spacing**2 / (8 * surrogate.lengthscales**2))
    curvature = math.sqrt(surrogate.kernel.curvature_variance)
    return math.sqrt(surrogate.variance) * curvature * float(share)


def mean_remainder(surrogate: GaussianProcess, lattice: Lattice) -> float:
    r"""Bound on the error of interpolating the posterior mean between the points of the lattice.

    The mean minus its constant lies in the kernel's reproducing space. There, the value of a linear
    functional is at most the norm of the function times the functional's prior deviation
    (Cauchy-Schwarz), and
    :func:`correction_deviation` bounds the latter. With weights :math:`\alpha` and noise ratio
    :math:`r` the squared norm is :math:`\alpha^\top K \alpha = \alpha^\top (y - \mu) - r\,
    \alpha^\top \alpha` in units of the signal variance. Proved up to rounding, at no
    cost in probability.

    Args:
        surrogate: The surrogate.
        lattice: The lattice.
    """
    weights = surrogate.weights
    square = weights @ (surrogate.y - surrogate.mean) - surrogate.noise * (weights @ weights)
    norm = math.sqrt(max(float(square), 0.0) / surrogate.variance)
    return norm * correction_deviation(surrogate, lattice)
