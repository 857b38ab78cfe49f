r"""A simultaneous band for the gradient over the whole box, and the probability that it holds.

Let :math:`e_i = \partial_i T(l) - m_i` be the error of the posterior mean of the gradient. Given
that the warped loss is a sample path of the fitted Gaussian process, :math:`e_i` is a centred
Gaussian process whose variance is known at every point. The band is the event

.. math:: E(c):\quad |e_i(x)| \le c\, s_i(v) + R_i(c) \text{ for all axes } i
    \text{ and all } x \text{ in the box,}

where :math:`c\, s_i(v)` is the largest over the corners :math:`v` of the lattice cell of
:math:`x`, and :math:`R_i` covers what happens between the points of the lattice.

*What is proved.* :math:`P(E(c)) \ge 1 - 2 d N Q(c) (1 + \eta)` with :math:`N` lattice points and
:math:`Q` the Gaussian tail, by the chained union bound of :mod:`lightning_morse.bands.union_bound`.
It remains to bound the deviations of the corrections made by halving the lattice. Posterior
variances never exceed prior ones, and the prior variance of a correction is stationary: along an
axis it is :math:`V_i\,(1 - 2 g(t/2) + (1 + g(t))/2)`, with :math:`V_i` the prior variance of
:math:`\partial_i`, :math:`t = \sqrt{2\nu} \delta / \lambda` for spacing :math:`\delta`, and
:math:`g` the correlation along that axis. For Matern-5/2 it is at most :math:`V_i t^3 / 3` along
axis :math:`i` itself and :math:`V_i t^4 / 64` along another, for Matern-7/2 :math:`5 V_i t^4 / 64`
and :math:`V_i t^4 / 320` (checked numerically in the tests).

*What is estimated where the lattice is coarse.* In three dimensions :math:`R_i` can be several
times :math:`c\, s_i`, because the chain starts at the spacing of the lattice. It then starts at the
points of the lattice halved ``h`` times: :math:`N\, 2^{d h}` of them in the union bound, :math:`c`
a little larger, :math:`R_i` smaller by about :math:`4^h`. The deviations at these points are not
evaluated but bounded by an estimate (:mod:`lightning_morse.bands.halving`), which is not a proof.
Hence ``h`` is 0, and everything above proved, where :math:`R_i` is at most half of :math:`c\, s_i`
as it is; elsewhere ``h`` makes the band narrowest.

*What can be simulated.* At the lattice points the union bound ignores that errors at neighbouring
points are correlated. :func:`simulated_band` replaces it by joint sample paths of the error
(:mod:`lightning_morse.gp.sample_paths`) with an exact binomial bound (Clopper, Pearson, 1934) that
holds for 99 % of the simulations; between the points the argument is unchanged.

*What is not proved.* That the loss is such a sample path; that the hyper-parameters, which were
fitted to the same samples, are the right ones; rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import beta

from lightning_morse._typing import Array
from lightning_morse.bands import halving, union_bound
from lightning_morse.gp.process import GaussianProcess, Posterior
from lightning_morse.gp.sample_paths import largest_errors
from lightning_morse.grids.lattice import Lattice

# The lattice is halved, up to this many times, if more than this share of the band at its points
# has to be allowed between them. Decided at one reference level, so that bands of several levels
# are nested. Halving trades a proof for an estimate (see above); the level holds at any value.
_MINOR_ALLOWANCE = 0.5
_MOST_HALVINGS = 6
_REFERENCE_LEVEL = 0.95
# Corrections shrink by a factor of at least 2^1.5 per level: after this many they are below
# rounding.
_N_LEVELS = 100
# Sample paths of a simulation, and the share of simulations for which its bound holds. The level
# reported accounts for the number of paths, and docs/mu.md states the share.
_N_PATHS = 600
_SIMULATION_CONFIDENCE = 0.99


@dataclass(frozen=True, eq=False)
class GradientBand:
    """Half-widths of the simultaneous band on the cells of a lattice.

    Attributes:
        c: Number of standard deviations at the points of the lattice.
        level: Lower bound on the probability that the band holds everywhere in the box.
        radius: Bound on the error of the gradient anywhere in a lattice cell, one entry per
            axis, shape ``(n_lattice_cells, d)``; units of the warped loss per unit of ``x``.
        halvings: How often the lattice was halved for the union bound.
    """

    c: float
    level: float
    radius: Array
    halvings: int = 0


@dataclass(frozen=True, eq=False)
class CellDeviations:
    """Standard deviations of the gradient in the cells of a lattice.

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
        """How often to halve the lattice: not at all if the allowance between points is small."""
        typical = np.asarray(np.median(self.at_corners, axis=0))
        c, allowed = self._reference(0)
        if (allowed <= _MINOR_ALLOWANCE * c * typical).all():
            return 0
        return halving.narrowest(self._reference, typical, _MOST_HALVINGS)

    def _reference(self, halvings: int) -> tuple[float, Array]:
        """Deviations of the band of the reference level, and its allowance between the points."""
        c = quantile(_REFERENCE_LEVEL, self.lattice, halvings)
        log_share = union_bound.log_share_between(c)
        return c, between(log_share, self.surrogate, self.lattice, halvings)

    @cached_property
    def inside(self) -> Array:
        """Bound on the deviation anywhere in each cell, estimated."""
        bound = halving.deviation_inside(self.lattice, self.at_points)

        def deviation(places: Array) -> Array:
            return self.surrogate.posterior(places).gradient_deviation

        return halving.checked(self.lattice, bound, deviation)


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
        deviations: Its deviations in the cells, if already computed.

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
        radius=c * largest
        + between(union_bound.log_share_between(c), surrogate, lattice, halvings),
        halvings=halvings,
    )


def simulated_band(
    surrogate: GaussianProcess,
    lattice: Lattice,
    posterior: Posterior,
    confidence: float,
    rng: np.random.Generator,
) -> GradientBand:
    """Band whose level at the lattice points comes from joint sample paths of the error.

    Args:
        surrogate: The fitted surrogate.
        lattice: The lattice of points at which the posterior is known.
        posterior: The posterior there.
        confidence: The level to reach, in (0, 1).
        rng: Source of the paths.

    Returns:
        The narrowest band that the paths support, or that of :func:`gradient_band` if it is
        narrower on average or the paths are too few for the level.
    """
    deviations = CellDeviations(surrogate, lattice, posterior.gradient_deviation)
    proved = gradient_band(surrogate, lattice, posterior, confidence, deviations)
    failure = 1 - confidence
    at_points = (1 - union_bound.BETWEEN) * failure
    # How many paths may exceed c while the exact bound on that probability stays low enough.
    exceeding = np.arange(_N_PATHS)
    bound = beta.ppf(_SIMULATION_CONFIDENCE, exceeding + 1, _N_PATHS - exceeding)
    allowed = np.flatnonzero(bound <= at_points)
    if not allowed.size:
        return proved
    errors = largest_errors(surrogate, lattice, posterior, _N_PATHS, rng)
    c = float(np.sort(errors)[::-1][allowed[-1]])
    spent = union_bound.BETWEEN * failure
    log_share = math.log(spent / (2 * lattice.dim * lattice.n_points))
    radius = c * deviations.at_corners + between(log_share, surrogate, lattice)
    if (radius / proved.radius).mean() >= 1:
        return proved
    return GradientBand(c=c, level=1 - float(bound[allowed[-1]]) - spent, radius=radius)


def quantile(confidence: float, lattice: Lattice, halvings: int = 0) -> float:
    """Number of standard deviations at which the band reaches a level, the inverse of `level`."""
    tests = _n_tests(lattice, lattice.n_points, halvings)
    return union_bound.quantile(math.log((1 - confidence) / tests))


def level(c: float, lattice: Lattice, halvings: int = 0) -> float:
    """Lower bound on the probability that the band of ``c`` deviations holds over the box."""
    return union_bound.level(c, _n_tests(lattice, lattice.n_points, halvings))


def failure_bound(
    c: float, lattice: Lattice, n_points: int | None = None, halvings: int = 0
) -> float:
    """Upper bound on the probability that the band of ``c`` deviations fails on some cells.

    Args:
        c: Number of standard deviations.
        lattice: The lattice.
        n_points: Number of corners of the cells, which have to be chosen from the posterior alone
            (see :mod:`lightning_morse.bands.union_bound`). By default all points of the lattice.
        halvings: How often the lattice was halved for the union bound.
    """
    n = lattice.n_points if n_points is None else n_points
    return union_bound.failure_bound(c, _n_tests(lattice, n, halvings))


def _n_tests(lattice: Lattice, n_points: int, halvings: int) -> float:
    return halving.n_tests(lattice.dim, n_points, lattice.dim, halvings)


def between(
    log_share: float, surrogate: GaussianProcess, lattice: Lattice, halvings: int = 0
) -> Array:
    """Allowance for the error between the points of the lattice, halved a number of times.

    Args:
        log_share: Logarithm of the tail probability spent, per lattice point and axis.
        surrogate: The fitted surrogate.
        lattice: The lattice.
        halvings: How often it is halved.

    Returns:
        Shape ``(d,)``.
    """
    d, kernel = lattice.dim, surrogate.kernel
    scaled = kernel.rate * (lattice.spacing / 2**halvings) / surrogate.lengthscales
    finer = 0.5 ** np.arange(_N_LEVELS)
    corrections = np.zeros((d, _N_LEVELS))
    for i in range(d):
        for j, t in enumerate(scaled):
            coefficient, power = kernel.roughness_along if i == j else kernel.roughness_across
            corrections[i] += np.sqrt(coefficient * (t * finer) ** power)
    allowed = union_bound.chained(log_share, d, corrections)
    return np.asarray(surrogate.prior_gradient_deviation * allowed)
