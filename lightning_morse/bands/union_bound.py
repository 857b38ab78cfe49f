r"""The union bound over the points of a lattice, chained to all points between them.

Let :math:`e_1, \dots, e_k` be centred Gaussian fields on the box (errors of posterior means), not
necessarily independent, and :math:`s_i` their deviations.

*At the points of the lattice.* The probability that some :math:`|e_i(v)|` exceeds
:math:`c\, s_i(v)` at one of :math:`N` points is at most :math:`2 k N Q(c)`, :math:`Q` the Gaussian
tail.

*Between them.* Write :math:`e_i` as its multilinear interpolation on the lattice plus the
corrections made by halving the lattice again and again. The interpolation is at most the largest
corner value; the correction at level :math:`j` is at most its largest value at a new point, where
it is Gaussian with a deviation of at most some :math:`\rho_{i,j}` (corrections along several axes
add up, because averaging never enlarges a deviation). Level :math:`j` has at most
:math:`N 2^{dj}` new points. With quantiles :math:`c_j` such that
:math:`Q(c_j) = \eta\, 2^{-(d+1)j} Q(c)` their union bound over all levels costs the factor
:math:`1 + \eta`, and

.. math:: |e_i(x)| \le c \max_v s_i(v) + R_i, \qquad R_i = \sum_{j \ge 1} c_j\, \rho_{i,j},

for all :math:`i` and :math:`x` at once, with probability at least :math:`1 - 2 k N Q(c)(1 + \eta)`.
This is the chaining argument for Gaussian suprema (Adler, Taylor, "Random Fields and Geometry",
2007, section 1.3; Lederer, Umlauft, Hirche, "Uniform error bounds for Gaussian process regression",
NeurIPS 2019, for its lattice and Lipschitz form). The deviations :math:`\rho_{i,j}` depend on what
the fields are: :mod:`lightning_morse.bands.gradient` and :mod:`lightning_morse.bands.value`.

*Parts of the box.* The argument holds for the cells with :math:`n` corners alone, with :math:`n` in
place of :math:`N`: halving these cells :math:`j` times adds at most :math:`n 2^{dj}` points in
them, because each new point, rounded down to the lattice, is a corner of its cell, and at most
:math:`2^{dj}` go to one corner. The cells have to be chosen from the posterior alone.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_ndtr, ndtri_exp

from lightning_morse._typing import Array

# Share of the failure probability spent between the points of the lattice: eta above. Sound at any
# value; it costs 0.01 in c, and halving it would widen the corrections by 2 % at most.
BETWEEN = 0.05
# Quantiles are rounded up, so that the level they give is never a rounding below the one asked for.
_ROUNDING = 1e-12


def n_tests(n_fields: int, n_points: float) -> float:
    r"""Factor of the tail probability in the union bound, :math:`2 k N (1 + \eta)`.

    Args:
        n_fields: Number of fields.
        n_points: Number of lattice points.
    """
    return 2 * n_fields * n_points * (1 + BETWEEN)


def failure_bound(c: float, tests: float) -> float:
    """Upper bound on the probability that a band of ``c`` deviations fails.

    Args:
        c: Number of standard deviations.
        tests: From :func:`n_tests`.
    """
    return math.exp(float(log_ndtr(-c))) * tests


def level(c: float, tests: float) -> float:
    """Lower bound on the probability that a band of ``c`` deviations holds."""
    return max(0.0, 1 - failure_bound(c, tests))


def quantile(log_tail: float) -> float:
    """Number of standard deviations exceeded with a given probability, rounded up.

    Args:
        log_tail: Logarithm of the probability, one-sided and for one test.
    """
    return -float(ndtri_exp(log_tail)) * (1 + _ROUNDING)


def log_share_between(c: float) -> float:
    """Logarithm of the tail probability spent between the points, per point and field."""
    return float(log_ndtr(-c)) + math.log(BETWEEN)


def chained(log_share: float, dim: int, corrections: Array) -> Array:
    r"""The allowance between the points, :math:`R_i = \sum_j c_j \rho_{i,j}`.

    Args:
        log_share: Logarithm of the tail probability spent, per lattice point and field.
        dim: Number of axes ``d``.
        corrections: Deviations :math:`\rho_{i,j}` of the corrections at levels 1, 2, ... along the
            last axis, until they are below rounding.

    Returns:
        The shape of ``corrections`` without its last axis.
    """
    j = np.arange(1, corrections.shape[-1] + 1)
    quantiles = -ndtri_exp(log_share - (dim + 1) * j * math.log(2))
    return np.asarray(corrections @ quantiles)
