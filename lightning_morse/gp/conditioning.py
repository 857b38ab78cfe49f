r"""The prior of a surrogate and the samples that condition it: covariances, and their factor.

Whether rounding leaves enough of them is checked here, once for everything that rests on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.linalg.blas import dtrsm
from scipy.linalg.lapack import dpotri

from lightning_morse._typing import Array
from lightning_morse.gp.kernels import MATERN_5_2, Matern, product
from lightning_morse.gp.warp import NO_WARP, Warp

EPS = float(np.finfo(np.float64).eps)
# Factorising perturbs the covariance by about this many roundings of its norm. Soundness of the
# variances depends on its not being too small.
_PERTURBATION = 10
# Perturbation of the covariance, and residual of its linear system, allowed relative to the noise:
# both act like noise of that size. Larger ones are refused, because variances would be unsound.
_TOLERATED = 0.1
# Rounding leaves a posterior variance uncertain by this many roundings per sample, relative to the
# prior one; that much is added to it. A variance of zero would be a false certainty.
_ROUNDING_PER_SAMPLE = 8


class SurrogateError(ValueError):
    """The samples do not determine a trustworthy surrogate."""


@dataclass(frozen=True, eq=False)
class Conditioned:
    r"""The prior :math:`\mu + \sigma f` of a warped loss, and samples of it.

    See :class:`lightning_morse.gp.process.GaussianProcess` for the covariance of :math:`f`.

    Attributes:
        x: Sample points, shape ``(n, d)``.
        y: Warped losses there, shape ``(n,)``.
        lengthscales: :math:`\lambda`, shape ``(d,)``, units of ``x``.
        variance: :math:`\sigma^2`, units of ``y`` squared.
        noise: Variance of the observation noise divided by ``variance``.
        mean: :math:`\mu`, units of ``y``.
        kernel: The correlation along each axis.
        warp: The warp that made ``y``.
        log_evidence: Log marginal likelihood of the unwarped losses; NaN unless fitted.
        fine: Lengthscales of what the noise stands for, shape ``(d,)``, where the loss has none: a
            Matern-5/2 process of the variance of the residuals, about which no sample says anything
            elsewhere. It adds to the deviations of derivatives. None where noise is noise.

    Raises:
        SurrogateError: If the covariance matrix cannot be factorised to an accuracy that the
            noise level justifies.
    """

    x: Array
    y: Array
    lengthscales: Array
    variance: float
    noise: float
    mean: float
    kernel: Matern = MATERN_5_2
    warp: Warp = NO_WARP
    log_evidence: float = math.nan
    fine: Array | None = None

    def __post_init__(self) -> None:
        n, d = self.x.shape
        if self.y.shape != (n,) or self.lengthscales.shape != (d,):
            raise ValueError(
                f"y and lengthscales must have shapes ({n},) and ({d},) to go with x of shape "
                f"{self.x.shape}, got {self.y.shape} and {self.lengthscales.shape}"
            )
        if not (self.variance > 0 and self.noise > 0 and (self.lengthscales > 0).all()):
            raise ValueError(
                "variance, noise and lengthscales must be positive, got "
                f"{self.variance}, {self.noise}, {self.lengthscales.tolist()}"
            )
        # A perturbation acts like noise of that size; variances are accurate to the ratio of the
        # two, because they are stationary in the weights.
        perturbation = _PERTURBATION * EPS * np.linalg.norm(self._correlation, ord=np.inf)
        if perturbation > _TOLERATED * self.noise:
            raise SurrogateError(
                f"a noise ratio of {self.noise:.1e} is drowned by rounding in the factorisation "
                f"(about {perturbation:.1e}): variances could not be trusted. Use a noise ratio "
                f"of at least {perturbation / _TOLERATED:.1e}"
            )
        residual = self._covariance @ self.weights - (self.y - self.mean)
        spread = math.sqrt(self.variance * self.noise)
        if not np.abs(residual).max() <= _TOLERATED * spread:
            raise SurrogateError(
                f"the linear system of the surrogate is solved only to an error of "
                f"{np.abs(residual).max():.1e}, where {_TOLERATED * spread:.1e} is needed. Use a "
                "larger noise ratio"
            )

    @cached_property
    def _correlation(self) -> Array:
        return self.prior_correlation(self.x, self.x, (0,) * self.x.shape[1])

    @property
    def _covariance(self) -> Array:
        """Covariance of the samples over the signal variance, noise included."""
        return self._correlation + self.noise * np.eye(len(self.y))

    @cached_property
    def cholesky(self) -> Array:
        """Lower Cholesky factor of the samples' covariance over ``variance``, shape ``(n, n)``."""
        try:
            factor: Array = cholesky(self._covariance, lower=True)
        except LinAlgError as err:
            raise SurrogateError(
                f"the covariance of the samples has no factorisation: {err}"
            ) from err
        return np.asfortranarray(factor)

    @cached_property
    def weights(self) -> Array:
        """Weights of the samples in the posterior mean, shape ``(n,)``."""
        half = solve_triangular(self.cholesky, self.y - self.mean, lower=True)
        weights: Array = solve_triangular(self.cholesky, half, lower=True, trans="T")
        return weights

    def prior_correlation(self, a: Array, b: Array, order: tuple[int, ...]) -> Array:
        """Prior covariance of a derivative at some points with the value at others.

        Args:
            a: Where the derivative is taken, shape ``(m, d)``.
            b: Where the value is, shape ``(k, d)``.
            order: Order of the derivative along each axis, 0 to 2.

        Returns:
            Shape ``(m, k)``, over the signal variance.
        """
        (found,) = self.prior_correlations(a, b, [order])
        return found

    def prior_correlations(
        self, a: Array, b: Array, orders: Sequence[tuple[int, ...]]
    ) -> list[Array]:
        """:meth:`prior_correlation` of several derivatives; they share the kernel's factors."""
        factors = []
        for j, scale in enumerate(self.lengthscales.tolist()):
            needed = sorted({order[j] for order in orders})
            # Points of a grid share their coordinates.
            column, of = np.unique(a[:, j], return_inverse=True)
            if 2 * len(column) > len(a):
                found = self.kernel.derivatives(a[:, j], b[:, j], scale, needed)
            else:
                of_column = self.kernel.derivatives(column, b[:, j], scale, needed)
                found = [each.take(of, axis=0) for each in of_column]
            factors.append(dict(zip(needed, found, strict=True)))
        return [product([f[o] for f, o in zip(factors, order, strict=True)]) for order in orders]

    def reduced(self, points: Array, order: tuple[int, ...]) -> Array:
        r"""Covariances of a derivative with the whitened samples.

        ``reduced(a).T @ reduced(b)`` is the part of the prior covariance explained by the samples.

        Args:
            points: Shape ``(m, d)``.
            order: Order of the derivative along each axis, 0 to 2.

        Returns:
            Shape ``(n, m)``, over the signal deviation.
        """
        cross = self.prior_correlation(points, self.x, order)
        return np.asarray(dtrsm(1.0, self.cholesky, cross.T, lower=1))

    @property
    def rounding(self) -> float:
        """Uncertainty of a posterior variance from rounding, as a share of the prior one."""
        return _ROUNDING_PER_SAMPLE * len(self.y) * EPS

    def prior_variance(self, order: tuple[int, ...]) -> float:
        """Prior variance of a derivative, over the signal variance."""
        return at_one_point(self.kernel, self.lengthscales, order, order)

    def fine_variance(self, a: tuple[int, ...], b: tuple[int, ...]) -> float:
        """Covariance of two derivatives of what the noise stands for, over the signal variance."""
        if self.fine is None:
            return 0.0
        share = min(self.noise, self.residual_variance / self.variance)
        return share * at_one_point(MATERN_5_2, self.fine, a, b)

    @cached_property
    def residual_variance(self) -> float:
        """Variance of the noise as the residuals at the samples show it, units of ``y`` squared.

        Their sum of squares over the degrees of freedom that the fit leaves (Wahba, "Spline Models
        for Observational Data", 1990, section 4.7): the mean of it is right for a sample path, and
        too low by up to a half, in variance, for a smoother loss. The noise level of a loss without
        noise is often that at which the fit has to stop; its residuals are far smaller.
        """
        residuals = self.noise * self.weights
        return float(np.square(residuals).sum() / (self.noise * self._inverse_diagonal.sum()))

    def posterior_variance(self, cross: Array, prior: float) -> Array:
        """Posterior variance from covariances with the samples, over the signal variance."""
        # Variances are accurate only as a difference with a triangular solve, and even that is
        # known to no better than about n eps times the prior.
        reduced = dtrsm(1.0, self.cholesky, cross.T, lower=1, overwrite_b=1)
        explained = np.einsum("ij,ij->j", reduced, reduced)
        return np.asarray(np.maximum(prior - explained, 0.0) + self.rounding * prior)

    @property
    def prior_gradient_deviation(self) -> Array:
        """Prior standard deviation of each entry of the gradient, shape ``(d,)``."""
        return math.sqrt(self.variance * self.kernel.slope_variance) / self.lengthscales

    def leave_one_out(self) -> Array:
        """Standardised leave-one-out residuals, shape ``(n,)``.

        Under the model each is standard normal by itself (Rasmussen, Williams, equation 5.12).
        """
        return self.weights / np.sqrt(self._inverse_diagonal * self.variance)

    @cached_property
    def _inverse_diagonal(self) -> Array:
        """Diagonal of the inverse of the samples' covariance over ``variance``, shape ``(n,)``."""
        inverse, _ = dpotri(self.cholesky, lower=1)
        return np.diag(inverse)


def at_one_point(
    kernel: Matern, lengthscales: Array, a: tuple[int, ...], b: tuple[int, ...]
) -> float:
    """Prior covariance of two derivatives at the same point, over the variance."""
    even = {0: 1.0, 2: kernel.slope_variance, 4: kernel.curvature_variance}
    product = 1.0
    for p, q, scale in zip(a, b, lengthscales, strict=True):
        sign = -1.0 if (p - q) // 2 % 2 else 1.0
        product *= sign * even.get(p + q, 0.0) / scale ** (p + q)
    return product
