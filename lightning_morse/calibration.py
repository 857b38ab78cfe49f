"""Which surrogate to believe, and how far: leave-one-out residuals as judge.

The band supposes that the loss is a sample path of the fitted process. Its evidence cannot tell: it
prefers the smoother kernel also where the gradient of a kinked loss then leaves the band. The
largest standardised leave-one-out residual can: under the model it rarely exceeds a known number,
on kinked losses it does. This is an experiment on the samples at hand, not a proof; the table in
``benchmarks`` says how often the calibrated band held on real networks.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from lightning_morse.kernel import MATERN_5_2, MATERN_7_2
from lightning_morse.surrogate import GaussianProcess, SurrogateError, fit

# How often the model itself may exceed what is expected of its largest residual.
_ALARM = 0.05
# A largest residual of this many times the expected one means that the surrogate is plainly wrong.
PLAINLY_WRONG = 2.5


@dataclass(frozen=True)
class Calibrated:
    """A surrogate whose deviations match its own leave-one-out residuals.

    Attributes:
        surrogate: The surrogate, its deviations already inflated.
        factor: What they were inflated by, at least 1.
        largest_residual: Largest standardised leave-one-out residual before that.
    """

    surrogate: GaussianProcess
    factor: float
    largest_residual: float

    @property
    def trusted(self) -> bool:
        """Whether the surrogate is not plainly wrong."""
        return self.factor < PLAINLY_WRONG


def expected_largest(n: int) -> float:
    """What the largest of ``n`` standard normal residuals exceeds in 5 % of the cases, in size.

    Example:
        >>> round(expected_largest(128), 2)
        3.54
    """
    return float(norm.isf(0.5 * -np.expm1(np.log1p(-_ALARM) / n)))


def fit_calibrated(
    x: ArrayLike, losses: ArrayLike, lower: ArrayLike, upper: ArrayLike
) -> Calibrated:
    """Fit the smoothest kernel that the residuals bear out, and inflate what they do not.

    Matern-7/2 is taken if no residual is larger than expected; Matern-5/2 otherwise, or if
    Matern-7/2 cannot be fitted. If residuals are still too large, all deviations are multiplied by
    the ratio of the largest to the expected one.

    Args:
        x: Sample points, shape ``(n, d)``.
        losses: Finite losses there, shape ``(n,)``.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner of the box.

    Returns:
        The surrogate, and how it was judged.

    Raises:
        ValueError: As :func:`lightning_morse.surrogate.fit`.
    """
    try:
        smooth = _judged(fit(x, losses, lower, upper, MATERN_7_2))
    except SurrogateError:
        return _judged(fit(x, losses, lower, upper, MATERN_5_2))
    return smooth if smooth.factor == 1 else _judged(fit(x, losses, lower, upper, MATERN_5_2))


def _judged(surrogate: GaussianProcess) -> Calibrated:
    largest = float(np.abs(surrogate.leave_one_out()).max())
    factor = max(1.0, largest / expected_largest(len(surrogate.y)))
    inflated = dataclasses.replace(surrogate, variance=surrogate.variance * factor**2)
    return Calibrated(inflated, factor, largest)
