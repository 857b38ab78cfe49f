r"""Gaussian-process surrogate of a loss: posterior of value, gradient and Hessian.

The GP models a warped loss :math:`T(l)`. For any increasing :math:`T` the gradient flow of
:math:`T(l)` is that of :math:`l` up to a change of time: same orbits, critical points and basins.
Every posterior here is that of :math:`T(l)`; :mod:`lightning_morse.gp.warp` leads back to the units
of the loss.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg.blas import dtrsm

from lightning_morse._typing import Array
from lightning_morse.gp.conditioning import Conditioned, at_one_point
from lightning_morse.gp.conditioning import SurrogateError as SurrogateError
from lightning_morse.gp.kernels import product

# Points evaluated together: bounds the memory, never the result.
_CHUNK = 4096


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
class GaussianProcess(Conditioned):
    r"""Exact GP with constant mean and product Matern kernel, conditioned on samples.

    The prior of the warped loss is :math:`\mu + \sigma f`, with :math:`f` of covariance
    :math:`\prod_j \kappa(|x_j - x'_j| / \lambda_j)`, :math:`\kappa` a Matern correlation of
    smoothness at least 5/2. Sample paths have continuous second derivatives, so the gradient and
    the Hessian of the path are Gaussian as well (Rasmussen, Williams, "Gaussian Processes for
    Machine Learning", 2006, sections 4.2 and 9.4).

    Attributes and what raises are those of :class:`Conditioned`.
    """

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
        factor = self._factors(list(at.T), orders)
        means, variances = {}, {}
        for order in orders:
            cross = _cross(factor, order)
            means[order] = cross @ self.weights
            if sum(order) < 2:
                variances[order] = self.posterior_variance(cross, self.prior_variance(order))
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
        *leading, last = self._factors(axes, orders)
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
                    variance = self.posterior_variance(cross, self.prior_variance(order))
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
        orders = _orders(d)[1:]
        factor = self._factors(list(at.T), orders)
        prior = self.variance * np.array(
            [[at_one_point(self.kernel, self.lengthscales, a, b) for b in orders] for a in orders]
        )
        mean = np.empty((len(at), len(orders)))
        reduced = np.empty((len(at), len(orders), len(self.y)))
        for number, order in enumerate(orders):
            cross = _cross(factor, order)
            mean[:, number] = cross @ self.weights
            reduced[:, number] = dtrsm(1.0, self.cholesky, cross.T, lower=1, overwrite_b=1).T
        explained = reduced @ reduced.swapaxes(1, 2)
        fine = np.array([[self.fine_variance(a, b) for b in orders] for a in orders])
        covariance = prior - self.variance * (explained - fine)
        diagonal = np.arange(len(orders))
        least = self.rounding * np.diag(prior)
        covariance[:, diagonal, diagonal] = (
            np.maximum(covariance[:, diagonal, diagonal], 0.0) + least
        )
        return mean, covariance

    def _factors(
        self, coordinates: list[Array], orders: list[tuple[int, ...]]
    ) -> list[list[Array]]:
        """Kernel factors with the samples along each axis, of derivative order 0, 1 and so on."""
        needed = range(1 + max(map(max, orders)))
        scales = enumerate(self.lengthscales.tolist())
        return [self.kernel.derivatives(coordinates[j], self.x[:, j], s, needed) for j, s in scales]

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
                * np.stack([variances[o] + self.fine_variance(o, o) for o in slopes], axis=1)
            ),
            hessian=hessian,
        )

    def _valued(
        self, means: dict[tuple[int, ...], Array], variances: dict[tuple[int, ...], Array]
    ) -> Values:
        """The posterior of values, which are all that is given."""
        ((order, mean),) = means.items()
        return Values(self.mean + mean, np.sqrt(self.variance * variances[order]))

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
