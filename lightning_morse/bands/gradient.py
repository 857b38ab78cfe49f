r"""A simultaneous band for the gradient over the whole box, and the probability that it holds.

Let :math:`e_i = \partial_i T(l) - m_i` be the error of the posterior mean of the gradient. Given
that the warped loss is a sample path of the fitted Gaussian process, :math:`e_i` is a centred
Gaussian process whose variance is known at every point. The band is the event

.. math:: E(c):\quad |e_i(x)| \le c\, s_i(v) + R_i(c) \text{ for all axes } i
    \text{ and all } x \text{ in the box,}

where :math:`c\, s_i(v)` is the largest over the corners :math:`v` of the lattice cell of
:math:`x`, and :math:`R_i` covers what happens between the points of the lattice.

*What is proved.* :math:`P(E(c)) \ge 1 - 2 d N Q(c) (1 + \eta)` with :math:`N` lattice points and
:math:`Q` the Gaussian tail, as follows. (1) At the lattice points: the union bound. (2) Between
them: write :math:`e_i` as its multilinear interpolation on the lattice plus the corrections made
by halving the lattice again and again. The first is at most the largest corner value; a correction
is at most its largest value at a new point, where it is Gaussian. Posterior variances never exceed
prior ones, and the prior variance of a correction is stationary: along an axis it is
:math:`V_i\,(1 - 2 g(t/2) + (1 + g(t))/2)`, with :math:`V_i` the prior variance of
:math:`\partial_i`, :math:`t = \sqrt{2\nu} \delta / \lambda` for spacing :math:`\delta`, and
:math:`g` the correlation along that axis. For Matern-5/2 it is at most :math:`V_i t^3 / 3` along
axis :math:`i` itself and :math:`V_i t^4 / 64` along another, for Matern-7/2 :math:`5 V_i t^4 / 64`
and :math:`V_i t^4 / 320` (checked numerically in the tests). Corrections along several axes add
up, because averaging never enlarges a deviation. The union bound over the new points of level
:math:`k`, with quantile :math:`c_k`, :math:`Q(c_k) = \eta\, 2^{-(d+1)k} Q(c)`, gives
:math:`R_i = \sum_k c_k \rho_{i,k}` at the cost of the factor :math:`1 + \eta`. This is the chaining
argument for Gaussian suprema (Adler, Taylor, "Random Fields and Geometry", 2007, section 1.3;
Lederer, Umlauft, Hirche, "Uniform error bounds for Gaussian process regression", NeurIPS 2019, for
the lattice and Lipschitz form of it), with the increments of this very kernel.

*What is estimated where the lattice is coarse.* In three dimensions :math:`R_i` can be several
times :math:`c\, s_i`, because the chain starts at the spacing of the lattice. It then starts at the
points that halving the lattice ``h`` times gives: :math:`N\, 2^{d h}` of them in the union bound,
:math:`c` a little larger, :math:`R_i` smaller by about :math:`4^h`. The deviations at these points
are not evaluated but bounded by those at the corners plus twice the error of interpolating them,
which is estimated from second differences; the bound is held against the deviations at random
places and enlarged if one is larger (:class:`CellDeviations`). That bound is not a proof. So ``h``
is 0, and everything above proved, where :math:`R_i` is at most half of :math:`c\, s_i` as it is;
elsewhere ``h`` makes the band narrowest.

*What can be simulated.* At the lattice points the union bound ignores that neighbours err together.
:func:`simulated_band` replaces it by joint sample paths of the error
(:mod:`lightning_morse.gp.sample_paths`) with an exact binomial bound (Clopper, Pearson, 1934) that
holds for 99 % of the simulations; between the points the argument stays the same.

*What is not proved.* That the loss is such a sample path; that the hyper-parameters, which were
fitted to the same samples, are the right ones; rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import log_ndtr, ndtri_exp
from scipy.stats import beta

from lightning_morse._typing import Array
from lightning_morse.gp.process import GaussianProcess, Posterior
from lightning_morse.gp.sample_paths import largest_errors
from lightning_morse.grids.lattice import Lattice

# Share of the failure probability spent between the points of the lattice.
_BETWEEN = 0.05
# The lattice is halved, up to so often, if more than this share of the band at its points has to be
# allowed between them. This is decided at one level, so that bands of several levels are nested.
_MINOR = 0.5
_MOST_HALVINGS = 6
_REFERENCE = 0.95
# Places at which a bound on the deviations inside the cells is checked.
_CHECKS = 1024
# Corrections fall by at least 2^-0.5 a level: after so many levels they are below rounding.
_LEVELS = 100
# Sample paths of a simulation, and the share of simulations for which its bound holds.
_PATHS = 600
_SIMULATION = 0.99


@dataclass(frozen=True, eq=False)
class GradientBand:
    """Half-widths of the simultaneous band on the cells of a lattice.

    Attributes:
        c: Number of standard deviations at the points of the lattice.
        level: Lower bound on the probability that the band holds everywhere in the box.
        radius: Largest error of the gradient anywhere in a cell of the lattice, one entry an
            axis, shape ``(n_lattice_cells, d)``; units of the warped loss per unit of ``x``.
        halvings: How often the lattice was halved for the union bound.
    """

    c: float
    level: float
    radius: Array
    halvings: int = 0


@dataclass(frozen=True, eq=False)
class CellDeviations:
    """Deviations of the gradient in the cells of a lattice.

    Attributes:
        surrogate: The fitted surrogate.
        lattice: The lattice.
        at_points: The deviations at its points, shape ``(n_points, d)``.
    """

    surrogate: GaussianProcess
    lattice: Lattice
    at_points: Array

    @cached_property
    def at_corners(self) -> Array:
        """Largest deviation at the corners of each cell, shape ``(n_cells, d)``."""
        return self.lattice.largest_corner(self.at_points)

    @cached_property
    def halvings(self) -> int:
        """How often the lattice is to be halved: not at all, if little is allowed between."""
        typical = np.median(self.at_corners, axis=0)
        widths = []
        for halvings in range(_MOST_HALVINGS + 1):
            c = quantile(_REFERENCE, self.lattice, halvings)
            allowed = between(_log_share(c), self.surrogate, self.lattice, halvings)
            if not halvings and (allowed <= _MINOR * c * typical).all():
                return 0
            widths.append(float(((c * typical + allowed) / typical).sum()))
        return int(np.argmin(widths))

    @cached_property
    def inside(self) -> Array:
        """Bound on the deviation anywhere in each cell; estimated, see the module's docstring."""
        lattice = self.lattice
        bound = self.at_corners + 2 * lattice.interpolation_error(self.at_points)
        rng = np.random.default_rng(0)
        cells = rng.integers(0, len(bound), _CHECKS)
        corner = np.stack(np.unravel_index(cells, lattice.cells), axis=1)
        places = lattice.grid.lower + (corner + rng.random(corner.shape)) * lattice.spacing
        found = self.surrogate.posterior(places).gradient_deviation
        return np.asarray(bound * max(1.0, float((found / bound[cells]).max())))


def gradient_band(
    surrogate: GaussianProcess,
    lattice: Lattice,
    posterior: Posterior,
    confidence: float,
    deviations: CellDeviations | None = None,
) -> GradientBand:
    """Band that holds over the whole box with at least the given probability.

    Args:
        surrogate: The fitted surrogate.
        lattice: The lattice of points at which the posterior is known.
        posterior: The posterior there.
        confidence: The level to reach, in (0, 1).
        deviations: Those of the posterior in the cells, if they are at hand.

    Returns:
        The narrowest band of this kind whose level is at least ``confidence``.
    """
    if deviations is None:
        deviations = CellDeviations(surrogate, lattice, posterior.gradient_deviation)
    halvings = deviations.halvings
    c = quantile(confidence, lattice, halvings)
    largest = deviations.inside if halvings else deviations.at_corners
    return GradientBand(
        c=c,
        level=level(c, lattice, halvings),
        radius=c * largest + between(_log_share(c), surrogate, lattice, halvings),
        halvings=halvings,
    )


def simulated_band(
    surrogate: GaussianProcess,
    lattice: Lattice,
    posterior: Posterior,
    confidence: float,
    rng: np.random.Generator,
) -> GradientBand:
    """Band whose level at the lattice points is found from joint sample paths of the error.

    Args:
        surrogate: The fitted surrogate.
        lattice: The lattice of points at which the posterior is known.
        posterior: The posterior there.
        confidence: The level to reach, in (0, 1).
        rng: Where the paths come from.

    Returns:
        The narrowest band that the paths bear out, or that of :func:`gradient_band` where it is
        narrower on the whole or the paths are too few for the level.
    """
    deviations = CellDeviations(surrogate, lattice, posterior.gradient_deviation)
    proved = gradient_band(surrogate, lattice, posterior, confidence, deviations)
    failure = 1 - confidence
    at_points = (1 - _BETWEEN) * failure
    # Paths that may exceed c: as many as keep the exact bound on that probability low enough.
    exceeding = np.arange(_PATHS)
    bound = beta.ppf(_SIMULATION, exceeding + 1, _PATHS - exceeding)
    allowed = np.flatnonzero(bound <= at_points)
    if not allowed.size:
        return proved
    errors = largest_errors(surrogate, lattice, posterior, _PATHS, rng)
    c = float(np.sort(errors)[::-1][allowed[-1]])
    spent = _BETWEEN * failure
    log_share = math.log(spent / (2 * lattice.dim * lattice.n_points))
    radius = c * deviations.at_corners + between(log_share, surrogate, lattice)
    if (radius / proved.radius).mean() >= 1:
        return proved
    return GradientBand(c=c, level=1 - float(bound[allowed[-1]]) - spent, radius=radius)


def quantile(confidence: float, lattice: Lattice, halvings: int = 0) -> float:
    """Number of standard deviations at which the band reaches a level, the inverse of `level`."""
    tests = _tests(lattice, halvings=halvings)
    # Rounded up, so that the level it gives is never a rounding below the one asked for.
    return -float(ndtri_exp(math.log((1 - confidence) / tests))) * (1 + 1e-12)


def level(c: float, lattice: Lattice, halvings: int = 0) -> float:
    """Lower bound on the probability that the band of ``c`` deviations holds over the box."""
    return max(0.0, 1 - failure_bound(c, lattice, halvings=halvings))


def failure_bound(
    c: float, lattice: Lattice, n_points: int | None = None, halvings: int = 0
) -> float:
    r"""Upper bound on the probability that the band of ``c`` deviations fails on some cells.

    The argument of the module for a set of lattice cells with ``n_points`` corners. The points
    added when these cells are halved ``k`` times in all directions are at most ``n_points`` times
    ``2**(d * k)``: rounded down to the lattice each is a corner of its cell, and so many go to one
    corner. Hence the same allowance between the points is enough, at :math:`2 d n Q(c) (1 + \eta)`.

    Args:
        c: Number of standard deviations.
        lattice: The lattice.
        n_points: Number of corners of the cells; they have to be chosen from the posterior alone.
            Left out: all points of the lattice.
        halvings: How often the lattice was halved for the union bound.
    """
    return math.exp(float(log_ndtr(-c))) * _tests(lattice, n_points, halvings)


def _tests(lattice: Lattice, n_points: int | None = None, halvings: int = 0) -> float:
    """What the tail probability is multiplied by in the union bound."""
    n = lattice.n_points if n_points is None else n_points
    return 2 * lattice.dim * n * 2.0 ** (lattice.dim * halvings) * (1 + _BETWEEN)


def _log_share(c: float) -> float:
    """Logarithm of the tail probability spent between, for each point and axis."""
    return float(log_ndtr(-c)) + math.log(_BETWEEN)


def between(
    log_share: float, surrogate: GaussianProcess, lattice: Lattice, halvings: int = 0
) -> Array:
    """Allowance for the error between the points of the lattice, halved some times.

    Args:
        log_share: Logarithm of the tail probability spent, for each lattice point and axis.
        surrogate: The fitted surrogate.
        lattice: The lattice.
        halvings: How often it is halved.

    Returns:
        Shape ``(d,)``.
    """
    d, kernel = lattice.dim, surrogate.kernel
    roughness = [
        [kernel.roughness_along if i == j else kernel.roughness_across for j in range(d)]
        for i in range(d)
    ]
    spacing = lattice.spacing / 2**halvings
    return surrogate.prior_gradient_deviation * _chained(log_share, surrogate, spacing, roughness)


def _chained(
    log_share: float,
    surrogate: GaussianProcess,
    spacing: Array,
    roughness: list[list[tuple[float, float]]],
) -> Array:
    """Sum of all corrections, in prior deviations: one entry for each row of ``roughness``."""
    k = np.arange(1, _LEVELS + 1)
    quantiles = -ndtri_exp(log_share - (len(spacing) + 1) * k * math.log(2))
    scaled = surrogate.kernel.rate * spacing / surrogate.lengthscales
    halvings = 0.5 ** (k - 1)
    share = [
        sum(
            np.sqrt(coefficient * (t * halvings) ** power)
            for t, (coefficient, power) in zip(scaled, row, strict=True)
        )
        for row in roughness
    ]
    return np.array(share) @ quantiles
