r"""A simultaneous band for the values of several surrogates over a whole box.

:mod:`lightning_morse.bands.gradient` does this for the gradient of one surrogate; a map has ``d``
coordinates with a surrogate each, of which the values count. Let :math:`e_i = g_i - m_i` be the
error of the posterior mean of coordinate ``i``. Given that :math:`g_i` is a sample path of its
process, :math:`e_i` is a centred Gaussian process of known variance. The band is the event

.. math:: E(c):\quad |e_i(v)| \le c\, s_i(v) \text{ for all points } v \text{ of the lattice and }
    i, \text{ and } |e_i(x) - (I e_i)(x)| \le R_i(c) \text{ for all } x \text{ in the box and } i,

with :math:`I` the multilinear interpolation between the points of the lattice.

*What is proved.* :math:`P(E(c)) \ge 1 - 2 d N Q(c) (1 + \eta)` with :math:`N` points and :math:`Q`
the Gaussian tail. At the points: the union bound, over points and coordinates (which need not be
independent of each other). Between them: :math:`e_i - I e_i` is the sum of the corrections made by
halving the lattice again and again. Along one axis such a correction is :math:`e(x) - \tfrac12 e(x
- \delta/2) - \tfrac12 e(x + \delta/2)`. Its posterior variance is at most its prior one, and that
is stationary. With :math:`S` the spectral measure of the correlation :math:`\kappa` along that axis
(Bochner) it is

.. math:: \sigma^2 \int (1 - \cos\tfrac{\omega\delta}{2})^2\, dS(\omega)
    \le \sigma^2 \int \tfrac{\omega^4 \delta^4}{64}\, dS(\omega)
    = \frac{\sigma^2 \kappa''''(0)}{64} \frac{\delta^4}{\lambda^4},

because :math:`1 - \cos u \le u^2 / 2`. With :math:`t = \sqrt{2\nu}\,\delta / \lambda` that is
:math:`\sigma^2 t^4 / 64` for Matern-5/2 (:math:`\kappa''''(0) = 25`) and :math:`\sigma^2 t^4 / 320`
for Matern-7/2 (:math:`49 / 5`): the same share as for a slope along another axis, whose correlation
is :math:`\kappa` too. Corrections along several axes add up, because averaging never enlarges a
deviation. Level ``k`` has at most :math:`N 2^{dk}` new points; with the quantile
:math:`Q(c_k) = \eta\, 2^{-(d+1)k} Q(c)` their union bound costs :math:`\eta` in all, and
:math:`R_i = \sum_k c_k \rho_{i,k}`.

*What is not proved.* That the coordinates are such sample paths; that the hyper-parameters, fitted
to the same pairs, and the constant mean among them, are the right ones; rounding.

The posterior mean between the points needs no probability: see :func:`mean_remainder`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, ndtri_exp

from lightning_morse._typing import Array
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.grids.lattice import Lattice

# Share of the failure probability spent between the points of the lattice.
_BETWEEN = 0.05
# Corrections fall by a factor of nearly 4 a level: after so many they are below rounding.
_LEVELS = 60


@dataclass(frozen=True, eq=False)
class ValueBand:
    """Half-widths of the simultaneous band of several surrogates on a lattice.

    Attributes:
        c: Number of deviations at the points of the lattice.
        level: Lower bound on the probability that the band holds everywhere in the box.
        between: Allowance between the points, one entry a surrogate, shape ``(k,)``.
    """

    c: float
    level: float
    between: Array


def value_band(
    surrogates: Sequence[GaussianProcess], lattice: Lattice, confidence: float
) -> ValueBand:
    """Band that holds for all surrogates over the whole box with at least the given probability.

    Args:
        surrogates: One a coordinate; they need not be independent.
        lattice: The lattice of points at which their posteriors are known.
        confidence: The level to reach, in (0, 1).

    Returns:
        The narrowest band of this kind whose level is at least ``confidence``.
    """
    tests = _tests(len(surrogates), lattice.n_points)
    # Rounded up, so that the level is never a rounding below the one asked for.
    c = -float(ndtri_exp(math.log1p(-confidence) - math.log(tests))) * (1 + 1e-12)
    log_tail = float(log_ndtr(-c))
    return ValueBand(
        c=c,
        level=max(0.0, 1 - math.exp(log_tail) * tests),
        between=np.array(
            [between(log_tail + math.log(_BETWEEN), gp, lattice) for gp in surrogates]
        ),
    )


def failure_bound(c: float, n_surrogates: int, n_points: int) -> float:
    r"""Upper bound on the probability that the band of ``c`` deviations fails on some cells.

    The argument of the module for a set of lattice cells with ``n_points`` corners. Halving these
    cells ``k`` times adds at most ``n_points * 2**(d * k)`` points in them, so the same allowance
    between the points is enough.

    Args:
        c: Number of deviations.
        n_surrogates: Number of surrogates the band is for.
        n_points: Number of corners of the lattice cells; these have to be chosen from the posterior
            alone.
    """
    return math.exp(float(log_ndtr(-c))) * _tests(n_surrogates, n_points)


def _tests(n_surrogates: int, n_points: int) -> float:
    """What the tail probability is multiplied by in the union bound."""
    return 2 * n_surrogates * n_points * (1 + _BETWEEN)


def between(log_share: float, surrogate: GaussianProcess, lattice: Lattice) -> float:
    """Allowance for the error of one surrogate's mean between the points of the lattice.

    Args:
        log_share: Logarithm of the tail probability spent for each point of the lattice.
        surrogate: The surrogate.
        lattice: The lattice.
    """
    k = np.arange(1, _LEVELS + 1)
    quantiles = -ndtri_exp(log_share - (lattice.dim + 1) * k * math.log(2))
    corrections = correction_deviation(surrogate, lattice) * 0.25 ** (k - 1)
    return float(corrections @ quantiles)


def correction_deviation(surrogate: GaussianProcess, lattice: Lattice) -> float:
    r"""Bound on the prior deviation of the first correction, at any point of the box.

    :math:`\sigma \sqrt{\kappa''''(0)} \sum_j \delta_j^2 / (8 \lambda_j^2)`; every halving divides
    it by 4. It bounds the deviation of ``f(x)`` less the multilinear interpolation at *any* ``x``
    as well: at the share :math:`\theta` of the way :math:`|e^{i\omega\theta\delta} - (1 - \theta) -
    \theta e^{i\omega\delta}| \le \theta (1 - \theta) \omega^2\delta^2 / 2`, largest in the middle.
    """
    share = np.sum(lattice.spacing**2 / (8 * surrogate.lengthscales**2))
    curvature = math.sqrt(surrogate.kernel.curvature_variance)
    return math.sqrt(surrogate.variance) * curvature * float(share)


def mean_remainder(surrogate: GaussianProcess, lattice: Lattice) -> float:
    r"""Bound on the error of interpolating the posterior mean between the points of the lattice.

    The mean less its constant lies in the kernel's reproducing space. There, any linear functional
    is at most the norm of the function times the functional's prior deviation (Cauchy-Schwarz), and
    :func:`correction_deviation` bounds the latter. With weights :math:`\alpha` and noise ratio
    :math:`r` the norm is :math:`\alpha^\top K \alpha = \alpha^\top (y - \mu) - r\, \alpha^\top
    \alpha` in units of the signal variance. Proved but for rounding; no probability is spent.

    Args:
        surrogate: The surrogate.
        lattice: The lattice.
    """
    weights = surrogate.weights
    square = weights @ (surrogate.y - surrogate.mean) - surrogate.noise * (weights @ weights)
    norm = math.sqrt(max(float(square), 0.0) / surrogate.variance)
    return norm * correction_deviation(surrogate, lattice)
