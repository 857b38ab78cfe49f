r"""Gaussian-process surrogate of a loss: posterior of value, gradient and Hessian.

The GP models a warped loss :math:`T(l)`. For any increasing :math:`T` the gradient flow of
:math:`T(l)` is that of :math:`l` up to a change of time: same orbits, critical points and basins.
Every posterior here is that of :math:`T(l)`; :class:`Warp` leads back to the units of the loss.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.linalg.blas import dtrsm
from scipy.linalg.lapack import dpotri

from lightning_morse._typing import Array
from lightning_morse.gp.kernels import MATERN_5_2, Matern, product
from lightning_morse.gp.warp import NO_WARP, Warp

EPS = float(np.finfo(np.float64).eps)
# Points evaluated together: bounds the memory, never the result.
_CHUNK = 4096
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


@dataclass(frozen=True)
class Values:
    """Posterior of the value of the warped loss at ``m`` points, each by itself.

    Attributes:
        mean: Mean of the value, shape ``(m,)``.
        deviation: Standard deviation of the value, same shape.
    """

    mean: Array
    deviation: Array


@dataclass(frozen=True)
class Posterior(Values):
    """Posterior of the warped loss at ``m`` points; each entry is Gaussian by itself.

    Attributes:
        gradient: Mean of the gradient, shape ``(m, d)``.
        gradient_deviation: Standard deviation of each of its entries, same shape.
        hessian: Mean of the Hessian, shape ``(m, d, d)``.
    """

    gradient: Array
    gradient_deviation: Array
    hessian: Array


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    r"""Exact GP with constant mean and product Matern kernel, conditioned on samples.

    The prior of the warped loss is :math:`\mu + \sigma f`, with :math:`f` of covariance
    :math:`\prod_j \kappa(|x_j - x'_j| / \lambda_j)`, :math:`\kappa` a Matern correlation of
    smoothness at least 5/2. Sample paths have continuous second derivatives, so the gradient and
    the Hessian of the path are Gaussian as well (Rasmussen, Williams, "Gaussian Processes for
    Machine Learning", 2006, sections 4.2 and 9.4).

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

    @property
    def _axes(self) -> list[tuple[int, float]]:
        return list(enumerate(self.lengthscales.tolist()))

    def posterior(self, points: ArrayLike) -> Posterior:
        """Posterior of value, gradient and Hessian at given points.

        Args:
            points: Shape ``(m, d)``.

        Raises:
            ValueError: If the shape does not match the samples.
        """
        return self._gathered(*self._at(points, _orders(len(self.lengthscales))))

    def values(self, points: ArrayLike) -> Values:
        """The same of the values alone, which takes a fraction of the time.

        Args:
            points: As for :meth:`posterior`.

        Raises:
            ValueError: As there.
        """
        return self._valued(*self._at(points, _orders(len(self.lengthscales))[:1]))

    def _at(
        self, points: ArrayLike, orders: list[tuple[int, ...]]
    ) -> tuple[dict[tuple[int, ...], Array], dict[tuple[int, ...], Array]]:
        """Means of derivatives at points, and relative variances of those up to the first."""
        at = _checked(points, len(self.lengthscales))
        factor = self._factors(list(at.T))
        means, variances = {}, {}
        for order in orders:
            cross = _cross(factor, order)
            means[order] = cross @ self.weights
            if sum(order) < 2:
                variances[order] = self._variance(cross, self._prior_variance(order))
        return means, variances

    def lattice_posterior(self, axes: list[Array]) -> Posterior:
        """Posterior at all points of a lattice, in C order (the last axis runs fastest).

        Same as :meth:`posterior` at these points; the kernel is evaluated once per axis.

        Args:
            axes: Coordinates of the lattice along each of the ``d`` axes.
        """
        return self._gathered(*self._on_lattice(axes, _orders(len(axes))))

    def lattice_values(self, axes: list[Array]) -> Values:
        """The same of the values alone, which takes a fraction of the time.

        Args:
            axes: As for :meth:`lattice_posterior`.
        """
        return self._valued(*self._on_lattice(axes, _orders(len(axes))[:1]))

    def _on_lattice(
        self, axes: list[Array], orders: list[tuple[int, ...]]
    ) -> tuple[dict[tuple[int, ...], Array], dict[tuple[int, ...], Array]]:
        """Means of derivatives on a lattice, and relative variances of those up to the first."""
        *leading, last = self._factors(axes)
        n, shape = len(self.y), tuple(len(a) for a in axes[:-1])
        rows = max(1, _CHUNK // len(axes[-1]))
        size = math.prod(shape), len(axes[-1])
        means = {order: np.empty(size) for order in orders}
        variances = {order: np.empty(size) for order in means if sum(order) < 2}
        for start in range(0, size[0], rows):
            part = slice(start, start + rows)
            index = np.unravel_index(np.arange(size[0])[part], shape) if shape else ()
            # Products over all axes but the last; a mean over the samples is a matrix product then.
            first = [[t[i] for t in table] for table, i in zip(leading, index, strict=True)]
            for order, mean in means.items():
                ahead = _cross(first, order[:-1]) if first else np.ones((1, n))
                mean[part] = (ahead * self.weights) @ last[order[-1]].T
                if order in variances:
                    cross = (ahead[:, None] * last[order[-1]]).reshape(-1, n)
                    variance = self._variance(cross, self._prior_variance(order))
                    variances[order][part] = variance.reshape(-1, size[1])
        return (
            {order: mean.ravel() for order, mean in means.items()},
            {order: variance.ravel() for order, variance in variances.items()},
        )

    def derivative_distribution(self, points: ArrayLike) -> tuple[Array, Array]:
        """Joint posterior of the gradient and the Hessian, at each point by itself.

        Args:
            points: Shape ``(m, d)``.

        Returns:
            Means, shape ``(m, e)``, and covariances, shape ``(m, e, e)``, of the ``d`` entries of
            the gradient followed by the ``d (d + 1) / 2`` entries of the upper triangle of the
            Hessian, row by row.

        Raises:
            ValueError: If the shape does not match the samples.
        """
        at = _checked(points, len(self.lengthscales))
        d = at.shape[1]
        factor = self._factors(list(at.T))
        orders = _orders(d)[1:]
        prior = self.variance * np.array(
            [[_at_one_point(self.kernel, self.lengthscales, a, b) for b in orders] for a in orders]
        )
        mean = np.empty((len(at), len(orders)))
        reduced = np.empty((len(at), len(orders), len(self.y)))
        for number, order in enumerate(orders):
            cross = _cross(factor, order)
            mean[:, number] = cross @ self.weights
            reduced[:, number] = dtrsm(1.0, self.cholesky, cross.T, lower=1, overwrite_b=1).T
        explained = reduced @ reduced.swapaxes(1, 2)
        fine = np.array([[self._fine_variance(a, b) for b in orders] for a in orders])
        covariance = prior - self.variance * (explained - fine)
        diagonal = np.arange(len(orders))
        least = self._rounding * np.diag(prior)
        covariance[:, diagonal, diagonal] = (
            np.maximum(covariance[:, diagonal, diagonal], 0.0) + least
        )
        return mean, covariance

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
        for j, scale in self._axes:
            needed = sorted({order[j] for order in orders})
            found = self.kernel.derivatives(a[:, j], b[:, j], scale, needed)
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
    def _rounding(self) -> float:
        """Uncertainty of a posterior variance from rounding, as a share of the prior one."""
        return _ROUNDING_PER_SAMPLE * len(self.y) * EPS

    def _factors(self, coordinates: list[Array]) -> list[list[Array]]:
        """Kernel factors with the samples along each axis, of derivative order 0, 1 and 2."""
        return [self.kernel.derivatives(coordinates[j], self.x[:, j], s) for j, s in self._axes]

    def _gathered(
        self, means: dict[tuple[int, ...], Array], variances: dict[tuple[int, ...], Array]
    ) -> Posterior:
        """The posterior from means and relative variances by derivative order along each axis."""
        d = len(self.lengthscales)
        (value, *slopes) = [order for order in means if sum(order) < 2]
        hessian = np.empty((len(means[value]), d, d))
        for i in range(d):
            for j in range(i, d):
                hessian[:, i, j] = hessian[:, j, i] = means[derivative_order(d, i, j)]
        return Posterior(
            mean=self.mean + means[value],
            deviation=np.sqrt(self.variance * variances[value]),
            gradient=np.stack([means[order] for order in slopes], axis=1),
            gradient_deviation=np.sqrt(
                self.variance
                * np.stack([variances[o] + self._fine_variance(o, o) for o in slopes], axis=1)
            ),
            hessian=hessian,
        )

    def _valued(
        self, means: dict[tuple[int, ...], Array], variances: dict[tuple[int, ...], Array]
    ) -> Values:
        """The posterior of values, which are all that is given."""
        ((order, mean),) = means.items()
        return Values(self.mean + mean, np.sqrt(self.variance * variances[order]))

    def _prior_variance(self, order: tuple[int, ...]) -> float:
        """Prior variance of a derivative, over the signal variance."""
        return _at_one_point(self.kernel, self.lengthscales, order, order)

    def _fine_variance(self, a: tuple[int, ...], b: tuple[int, ...]) -> float:
        """Covariance of two derivatives of what the noise stands for, over the signal variance."""
        if self.fine is None:
            return 0.0
        share = min(self.noise, self.residual_variance / self.variance)
        return share * _at_one_point(MATERN_5_2, self.fine, a, b)

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

    def _variance(self, cross: Array, prior: float) -> Array:
        """Posterior variance from covariances with the samples, over the signal variance."""
        # Variances are accurate only as a difference with a triangular solve, and even that is
        # known to no better than about n eps times the prior.
        reduced = dtrsm(1.0, self.cholesky, cross.T, lower=1, overwrite_b=1)
        explained = np.einsum("ij,ij->j", reduced, reduced)
        return np.asarray(np.maximum(prior - explained, 0.0) + self._rounding * prior)

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

    def rescaled(self, variance: float | None = None, fine: Array | None = None) -> GaussianProcess:
        """The same of another variance or fine structure; nothing is factorised anew.

        Args:
            variance: The new variance, positive; the same if left out.
            fine: The new lengthscales of the fine structure; the same if left out.
        """
        out = copy.copy(self)  # with what has been computed, which depends on neither
        if variance is not None:
            object.__setattr__(out, "variance", variance)
        if fine is not None:
            object.__setattr__(out, "fine", fine)
        return out


def _checked(points: ArrayLike, d: int) -> Array:
    at = np.asarray(points, dtype=np.float64)
    if at.ndim != 2 or at.shape[1] != d:
        raise ValueError(f"points must have shape (m, {d}), got {at.shape}")
    return at


def _at_one_point(
    kernel: Matern, lengthscales: Array, a: tuple[int, ...], b: tuple[int, ...]
) -> float:
    """Prior covariance of two derivatives at the same point, over the variance."""
    even = {0: 1.0, 2: kernel.slope_variance, 4: kernel.curvature_variance}
    product = 1.0
    for p, q, scale in zip(a, b, lengthscales, strict=True):
        sign = -1.0 if (p - q) // 2 % 2 else 1.0
        product *= sign * even.get(p + q, 0.0) / scale ** (p + q)
    return product


def derivative_order(d: int, *axes: int) -> tuple[int, ...]:
    """Derivative order along each of ``d`` axes of a derivative along the given ones."""
    return tuple(axes.count(k) for k in range(d))


def _orders(d: int) -> list[tuple[int, ...]]:
    """Derivative orders of the value, the gradient, and the upper triangle of the Hessian."""
    second = [derivative_order(d, i, j) for i in range(d) for j in range(i, d)]
    return [derivative_order(d), *[derivative_order(d, i) for i in range(d)], *second]


def _cross(factor: list[list[Array]], order: tuple[int, ...]) -> Array:
    """Kernel derivative of the given order along each axis, from its factors."""
    return product([f[o] for f, o in zip(factor, order, strict=True)])
