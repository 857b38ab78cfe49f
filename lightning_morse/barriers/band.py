r"""A band for the loss along a line between two sets of weights, and what it says of the barrier.

Let :math:`l(t)` be the loss at a share :math:`t` of the way, :math:`e(t) = l(t) - (1 - t) l(0) -
t\, l(1)` its excess over the straight line between the losses at the ends, and the barrier
:math:`B = \max(0, \max_t e(t))`. A Gaussian process is fitted to the warped losses :math:`T(l)`;
the band of :mod:`lightning_morse.bands.value` gives, at all :math:`t` simultaneously,

.. math:: T(l(t)) \le I(m + c\, s)(t) + R + r,

with :math:`m, s` its mean and deviation on a lattice, :math:`I` the linear interpolation,
:math:`R` the allowance between the points and :math:`r` the remainder of the mean. The inverse of
the warp is convex and increasing, so in a cell the bound on :math:`l(t)` is a convex function of a
linear one, and so is its excess over a straight line: **the largest bound on the excess is attained
at a point of the lattice**, and no slope between points has to be allowed for.

*The size of the process is not known.* A dozen losses say little of the variance of the process,
and all deviations are in proportion to its root. With a flat prior on the mean and on the logarithm
of the variance (the usual ones), :math:`(n - 1)\,\hat\sigma^2 / \sigma^2` is chi-squared with
:math:`n - 1` degrees of freedom given the samples, :math:`\hat\sigma^2` the unbiased estimate. So
with probability :math:`1 - \alpha / 2` the deviation is at most :math:`\rho` times the estimate,
where :math:`\rho^2 = (n - 1) / \chi^2_{n - 1}(\alpha / 2)`; the band is that of a process so much
larger, at :math:`1 - \alpha / 2`, and the union bound gives :math:`1 - \alpha`.

*Held-out losses.* Each loss but the first few was predicted by the surrogate before it was
evaluated. If the largest error among the later half of these predictions is larger than the model
allows, all deviations are inflated (:mod:`lightning_morse.gp.calibration`).

*Premise.* That the warped loss is a sample path of the fitted process plus, at every point of the
lattice, noise of the fitted size: the noise is added to the deviations, because here it stands for
structure finer than the process. Lengthscale, noise and warp are fitted to the same few samples;
how often the bounds hold all the same is measured by ``benchmarks/bench_connectivity.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from lightning_morse._typing import Array
from lightning_morse.bands.value import mean_remainder, value_band
from lightning_morse.gp.calibration import Calibrated, fit_calibrated, inflate
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice

# Cells of the lattice. The allowance between its points falls with the square of their distance; at
# this many it is below a thousandth of the range of a line that bends once.
N_CELLS = 1024
LATTICE = Lattice.of(CubicalGrid([0.0], [1.0], [N_CELLS]))
SHARES: Array = LATTICE.axes[0]


@dataclass(frozen=True, eq=False)
class LineBand:
    """The band on the lattice, in units of the loss, each array of shape ``(N_CELLS + 1,)``.

    Attributes:
        mean: The posterior mean, brought back through the warp.
        lower: Below the loss, with the given probability at all places at once.
        upper: Above it, likewise.
        model: The calibrated surrogate.
    """

    mean: Array
    lower: Array
    upper: Array
    model: Calibrated

    @property
    def trusted(self) -> bool:
        """Whether the samples do not refute the surrogate."""
        return self.model.trusted

    def surprise(self, share: float, loss: float) -> float:
        """Error of the prediction of a further loss, in deviations."""
        surrogate = self.model.surrogate
        if not loss > surrogate.warp.floor:
            return math.inf
        at = surrogate.posterior([[share]])
        fine = math.sqrt(surrogate.noise * surrogate.variance)
        error = abs(float(surrogate.warp(loss)) - float(at.mean[0]))
        return error / math.hypot(float(at.deviation[0]), fine)


def line_band(
    shares: Array, losses: Array, surprises: Sequence[float], confidence: float
) -> LineBand | str:
    """The band for the loss along a line.

    Args:
        shares: Where it was evaluated, shape ``(n,)``, in [0, 1].
        losses: The losses there, finite, shape ``(n,)``.
        surprises: Errors of those that were predicted before, in deviations.
        confidence: The level to reach.

    Returns:
        The band, or why there is none.
    """
    try:
        model = fit_calibrated(shares[:, None], losses, [0.0], [1.0], refuse_noise=False)
        return _band(inflate(model, max(surprises, default=0.0), len(surprises)), confidence)
    except SurrogateError as error:
        return str(error)


def _band(model: Calibrated, confidence: float) -> LineBand:
    size, level = _largest_size(len(model.surrogate.y), confidence)
    surrogate = model.surrogate.rescaled(size * model.surrogate.variance)
    at = surrogate.lattice_posterior([SHARES])
    band = value_band([surrogate], LATTICE, level)
    fine = math.sqrt(surrogate.noise * surrogate.variance)
    reach = band.c * np.hypot(at.deviation, fine)
    # The remainder of the mean is no matter of probability, and not in proportion to the size.
    reach += float(band.between[0]) + mean_remainder(model.surrogate, LATTICE)
    warp = surrogate.warp
    with np.errstate(over="ignore"):  # an infinite bound is none
        return LineBand(
            mean=warp.inverse(at.mean),
            lower=warp.inverse(at.mean - reach),
            upper=warp.inverse(at.mean + reach),
            model=model,
        )


def _largest_size(n: int, confidence: float) -> tuple[float, float]:
    """By how much the variance may exceed that of greatest evidence, and the level left then."""
    failure = 0.5 * (1 - confidence)
    # The evidence is largest at n - 1 nths of the unbiased estimate.
    return n / float(chi2.ppf(failure, n - 1)), 1 - failure
