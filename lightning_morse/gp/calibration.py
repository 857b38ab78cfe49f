"""Which surrogate to trust, and how far.

The band assumes that the loss is a sample path of the fitted process, so a model bolder than the
samples support makes every certainty worthless. Three criteria decide. The evidence tells kernels
and warps apart where the samples are clear about them: on draws from the prior
(``benchmarks/coverage.py``) the true model wins or the race is close, on networks the gain is tens
of nats. The largest standardised leave-one-out residual tells whether the model fits at all: under
the model it rarely exceeds a known threshold, on losses with kinks it does. A few held-out
directional derivatives of the loss test the same for what the band is about. None of it is a proof.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from lightning_morse._typing import Array
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_7_2
from lightning_morse.gp.process import GaussianProcess, SurrogateError

# None of these constants enters the proof, which is given the process; they decide how often the
# process is too bold, which benchmarks/coverage.py and real_slices.py measure.
#
# Probability, under the model, that the largest residual raises an alarm, and the same for the
# largest error of the held-out derivatives: these are few and say little, so they must be plain.
_ALARM, _ALARM_HELD_BACK = 0.05, 0.01
# Gain in log evidence needed to adopt a warp, and the smoother kernel, in nats. On draws of the
# rougher model the gain of the smoother one has a 95 % quantile of at most 2.2.
_WARP_MARGIN = 3.0
_SMOOTH_MARGIN = 5.0
# Where noise has more than this share of the variance, the log evidence must exceed that of noise
# around a constant by this much.
_MORE_THAN_NOISE, _LOUD = 3.0, 0.1
# Factor of the smoother kernel's deviations: on random planes of networks with kinks the band as
# fitted was left by up to 1.55 times its width (benchmarks/real_slices.py).
_SMOOTH_CAUTION = 1.5
# A largest residual of this many times its threshold means that the surrogate is refuted.
PLAINLY_WRONG = 2.0
# Deviations are inflated at most this much: beyond `PLAINLY_WRONG` nothing is certain anyway.
_MOST = 10.0
# Losses differ by noise if their squared differences are at least this share of what it makes them;
# those of a loss without noise are less by orders.
_SHARE_THAT_IS_NOISE = 0.1
# Rounding of a loss in single precision, relative.
_ROUNDING = 2e-7
# Lengthscales, noise and warp are fitted anew once there are this many times as many samples as
# when they were last.
_GROWN = 1.25
# A record may not hold infinities.
_LARGEST_RECORDED = 1e6


@dataclass(frozen=True)
class Calibrated:
    """A surrogate whose deviations match its residuals.

    Attributes:
        surrogate: The surrogate, its deviations already inflated.
        factor: The factor of inflation, at least 1.
        largest_residual: Largest standardised leave-one-out residual before the inflation.
        largest_held_out: Largest standardised error of a held-out directional derivative before
            the inflation; 0 if none was held out.
    """

    surrogate: GaussianProcess
    factor: float
    largest_residual: float
    largest_held_out: float = 0.0

    @property
    def trusted(self) -> bool:
        """Whether the surrogate is not plainly wrong."""
        return self.factor < PLAINLY_WRONG


def expected_largest(n: int, alarm: float = _ALARM) -> float:
    """Threshold that the largest absolute value of ``n`` standard normals rarely exceeds.

    Args:
        n: Number of residuals.
        alarm: Probability of exceeding it, if they are independent.

    Example:
        >>> round(expected_largest(128), 2)
        3.54
    """
    return float(norm.isf(0.5 * -np.expm1(np.log1p(-alarm) / n)))


def fit_calibrated(
    x: ArrayLike,
    losses: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    refuse_noise: bool = True,
) -> Calibrated:
    """Fit the most cautious model that the samples do not clearly contradict.

    No warp and Matern-5/2 are given up for a warp and for Matern-7/2 only if the log evidence
    rises by more than 3 and 5 nats: when models are about equally likely, the loss leaves the band
    of the bolder one too often. The deviations of Matern-7/2 are multiplied by 1.5 (on losses with
    kinks no criterion sees that it is a little too bold), and none of its residuals may then exceed
    the threshold. If residuals of Matern-5/2 exceed it, its deviations are multiplied by the ratio
    of the largest residual to the threshold.

    Args:
        x: Sample points, shape ``(n, d)``.
        losses: Finite losses there, shape ``(n,)``.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner of the box.
        refuse_noise: Whether to refuse losses that cannot be told from noise around a constant, as
            claims about gradients require. Claims about values can do with them, if they take the
            noise into account.

    Returns:
        The calibrated surrogate.

    Raises:
        ValueError: As :func:`lightning_morse.gp.fit.fit`.
        SurrogateError: Also if the losses are refused as noise.
    """
    chosen = fit(x, losses, lower, upper)
    if refuse_noise:
        _refuse_noise(chosen, np.asarray(losses, dtype=np.float64))
    warped = math.isfinite(chosen.warp.scale)
    if warped:
        plain = fit(x, losses, lower, upper, warped=False, start=chosen)
        warped = chosen.log_evidence - plain.log_evidence > _WARP_MARGIN
        chosen = chosen if warped else plain
    rough = _judged(chosen)
    try:
        smooth = fit(x, losses, lower, upper, MATERN_7_2, warped, start=chosen)
    except SurrogateError:
        return rough
    if smooth.log_evidence - chosen.log_evidence <= _SMOOTH_MARGIN:
        return rough
    judged = _judged(_cautious(smooth))
    return rough if judged.factor > 1 else judged


def _refuse_noise(surrogate: GaussianProcess, losses: Array) -> None:
    """Refuse mere noise: a plane through it would be certain to have no critical point."""
    n = len(losses)
    of_noise = -0.5 * n * (math.log(np.var(losses)) + 1 + math.log(2 * math.pi))
    gain = surrogate.log_evidence - of_noise
    if surrogate.noise > _LOUD and gain < _MORE_THAN_NOISE:
        raise SurrogateError(
            f"the {n} losses cannot be told from noise around a constant (their log evidence is "
            f"{gain:.1f} higher, at least {_MORE_THAN_NOISE:g} is needed): use a larger box, more "
            "samples or a less noisy loss"
        )


def refit(
    previous: Calibrated,
    x: ArrayLike,
    losses: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    keep: bool = False,
) -> Calibrated:
    """Fit the model chosen before to more samples, starting where the last fit ended.

    Args:
        previous: What :func:`fit_calibrated` chose from fewer samples.
        x: All sample points, shape ``(n, d)``.
        losses: Finite losses there, shape ``(n,)``.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner of the box.
        keep: Whether to keep its lengthscales, noise ratio and warp, and only add the samples.

    Raises:
        ValueError: As :func:`lightning_morse.gp.fit.fit`.
    """
    model = previous.surrogate
    warped = math.isfinite(model.warp.scale)
    options = {"most_iterations": 0} if keep else {}
    fitted = fit(x, losses, lower, upper, model.kernel, warped, start=model, **options)
    return _judged(_cautious(fitted))


def check(
    calibrated: Calibrated,
    start: Array,
    end: Array,
    before: Array,
    after: Array,
    typical: float = 0.0,
) -> float:
    """Largest standardised error of held-out directional derivatives.

    A loss carries the rounding of what it is computed from: a cross-entropy of 1e-5 comes from
    logits of order ten. What a step this short shows may be that, up to the noise that was fitted
    and to the rounding of a typical loss, however small the loss is here.

    Args:
        calibrated: The surrogate, fitted to samples at ``start`` but not at ``end``.
        start: Shape ``(k, d)``.
        end: A point close to each of them, same shape.
        before: Losses at ``start``, finite, shape ``(k,)``.
        after: Losses at ``end``, same shape.
        typical: Absolute value of a loss that is typical of the function.

    Returns:
        In deviations of the surrogate; infinite where a loss lies below the floor of its warp,
        0 if there are none.
    """
    surrogate = calibrated.surrogate
    if not len(start):
        return 0.0
    if not (after > surrogate.warp.floor).all():
        return math.inf
    error, variance = _short_steps(surrogate, start, end, before, after)
    if surrogate.fine is None:
        variance += 2 * surrogate.noise * surrogate.variance
    else:
        variance += 2 * np.square(_ROUNDING * np.maximum(np.abs(before), np.abs(after)))
        slope = 1 / surrogate.warp.inverse_slope(surrogate.warp(before))
        rounding = np.square(_ROUNDING * typical * slope)
        variance += 2 * np.minimum(surrogate.residual_variance, rounding)
    return float((np.abs(error) / np.sqrt(variance)).max())


def shows_noise(
    calibrated: Calibrated, start: Array, end: Array, before: Array, after: Array
) -> bool:
    """Whether losses close to each other differ as the fitted noise says; arguments as above.

    A loss without noise hardly moves over so short a step. What looked like noise then is structure
    too fine for the process.
    """
    surrogate = calibrated.surrogate
    if not len(start) or not (after > surrogate.warp.floor).all():
        return False
    error, _ = _short_steps(surrogate, start, end, before, after)
    expected = 2 * surrogate.residual_variance
    return bool(np.square(error).mean() >= _SHARE_THAT_IS_NOISE * expected)


def _short_steps(
    surrogate: GaussianProcess, start: Array, end: Array, before: Array, after: Array
) -> tuple[Array, Array]:
    """Errors of the predicted rises over short steps, and their variances without noise."""
    d = start.shape[1]
    step, rise = end - start, surrogate.warp(after) - surrogate.warp(before)
    mean, covariance = surrogate.derivative_distribution(0.5 * (start + end))
    error = rise - np.einsum("kd,kd->k", step, mean[:, :d])
    return error, np.einsum("ki,kij,kj->k", step, covariance[:, :d, :d], step)


def brought_up_to_date(
    model: Calibrated | None,
    n_searched: int,
    x: ArrayLike,
    losses: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
) -> tuple[Calibrated, int]:
    """A surrogate of samples that have become more than those it was fitted to.

    Args:
        model: The surrogate so far; None if there is none.
        n_searched: How many samples its lengthscales, noise and warp were last fitted to. They are
            fitted anew once there are many more.
        x: All samples, shape ``(n, d)``.
        losses: Finite losses there, shape ``(n,)``.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner, same shape.

    Returns:
        The surrogate, and ``n_searched`` of it.

    Raises:
        SurrogateError: If the samples determine none.
    """
    n = len(np.asarray(x))
    if model is None:
        return fit_calibrated(x, losses, lower, upper), n
    keep = n < _GROWN * n_searched
    return refit(model, x, losses, lower, upper, keep=keep), n_searched if keep else n


def with_fine_structure(calibrated: Calibrated, widths: Array) -> Calibrated:
    """The same surrogate where the loss has no noise: that stands for structure too fine for it.

    Its lengthscales are the distance of the samples. Longer ones the process would have seen; wells
    of shorter ones are narrower than any claim is about.

    Args:
        calibrated: The surrogate.
        widths: Of the box that its samples fill, shape ``(d,)``.
    """
    n, dim = calibrated.surrogate.x.shape
    fine = calibrated.surrogate.rescaled(fine=widths * n ** (-1 / dim))
    return dataclasses.replace(calibrated, surrogate=fine)


def prediction_errors(calibrated: Calibrated, points: Array, losses: Array) -> Array:
    """Standardised errors of the predictions of some losses.

    Args:
        calibrated: A surrogate that has not seen them.
        points: Shape ``(n, d)``.
        losses: Finite, shape ``(n,)``.

    Returns:
        Absolute values, in deviations before calibration, noise included, shape ``(n,)``; infinite
        where a loss lies below the floor of the warp.
    """
    surrogate = calibrated.surrogate
    if not len(points):
        return np.empty(0)
    found = surrogate.posterior(points)
    deviation = np.hypot(found.deviation, math.sqrt(surrogate.noise * surrogate.variance))
    errors = np.full(len(points), math.inf)
    known = losses > surrogate.warp.floor
    off = surrogate.warp(losses[known]) - found.mean[known]
    errors[known] = calibrated.factor * np.abs(off) / deviation[known]
    return errors


def inflate(calibrated: Calibrated, largest: float, n: int) -> Calibrated:
    """Inflate the deviations if the largest error of ``n`` held-out derivatives calls for it."""
    if not n:
        return calibrated
    total = max(calibrated.factor, min(largest / expected_largest(n, _ALARM_HELD_BACK), _MOST))
    wider = (total / calibrated.factor) ** 2
    surrogate = calibrated.surrogate.rescaled(calibrated.surrogate.variance * wider)
    return dataclasses.replace(
        calibrated,
        surrogate=surrogate,
        factor=total,
        largest_held_out=min(largest, _LARGEST_RECORDED),
    )


def _cautious(surrogate: GaussianProcess) -> GaussianProcess:
    """The same surrogate with the extra deviation that its kernel needs."""
    if surrogate.kernel != MATERN_7_2:
        return surrogate
    return surrogate.rescaled(surrogate.variance * _SMOOTH_CAUTION**2)


def _judged(surrogate: GaussianProcess) -> Calibrated:
    largest = float(np.abs(surrogate.leave_one_out()).max())
    factor = max(1.0, largest / expected_largest(len(surrogate.y)))
    inflated = surrogate.rescaled(surrogate.variance * factor**2)
    return Calibrated(inflated, factor, largest)
