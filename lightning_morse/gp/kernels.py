r"""Matern kernels along one axis: values, derivatives, and the roughness of their slopes.

A Matern correlation of half-integer smoothness is :math:`\kappa(r) = p(t) e^{-t}` with
:math:`t = \sqrt{2\nu}\, r / \lambda` and a polynomial :math:`p` (Rasmussen, Williams, "Gaussian
Processes for Machine Learning", 2006, equation 4.16). A product of such factors, one per axis,
is the covariance of a field whose paths are twice continuously differentiable for
:math:`\nu \ge 5/2`, and once for 3/2. Nothing is claimed of the latter's slopes, and what would
bound them is infinite here: it only serves for comparison (:mod:`lightning_morse.gp.kinks`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from lightning_morse._typing import Array


@dataclass(frozen=True)
class Matern:
    r"""A Matern correlation along one axis.

    Attributes:
        smoothness: :math:`\nu`.
        polynomials: Coefficients, from the constant up, of :math:`p_k` in
            :math:`\mathrm{d}^k \kappa / \mathrm{d} t^k = p_k(t) e^{-t}` for ``k`` = 0, 1, 2.
        roughness_along: Pairs (coefficient, power) bounding the variance of the slope at the middle
            of an interval minus the mean of its ends, as a share of the slope's own variance, by
            ``coefficient * t ** power``, ``t`` the scaled length of the interval.
        roughness_across: The same for a slope along another axis.
        curvature_variance: Variance of the second derivative of a unit process with unit
            lengthscale.
    """

    smoothness: float
    polynomials: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    roughness_along: tuple[float, float]
    roughness_across: tuple[float, float]
    curvature_variance: float

    @property
    def name(self) -> str:
        """The name, such as ``"product Matern-5/2"``."""
        return f"product Matern-{2 * self.smoothness:.0f}/2"

    @property
    def rate(self) -> float:
        r"""Scaled length of one lengthscale, :math:`\sqrt{2\nu}`."""
        return math.sqrt(2 * self.smoothness)

    @property
    def slope_variance(self) -> float:
        """Variance of the derivative of a unit process with unit lengthscale."""
        return -2 * self.smoothness * self.polynomials[2][0]

    def derivative(self, a: Array, b: Array, scale: float, order: int) -> Array:
        """Derivative of the correlation between two sets of points in its first argument.

        Args:
            a: Coordinates, shape ``(m,)``.
            b: Coordinates, shape ``(n,)``.
            scale: Lengthscale.
            order: 0, 1 or 2.

        Returns:
            Shape ``(m, n)``.

        Example:
            >>> MATERN_5_2.derivative(np.zeros(1), np.zeros(1), 0.5, 2).round(3).tolist()
            [[-6.667]]
        """
        return self.derivatives(a, b, scale, (order,))[0]

    def derivatives(
        self, a: Array, b: Array, scale: float, orders: Sequence[int] = (0, 1, 2)
    ) -> list[Array]:
        """:meth:`derivative` of several orders; they share the exponential."""
        rate = self.rate / scale
        u = (a[:, None] - b[None, :]) * rate
        t = np.abs(u)
        decay = np.exp(-t)
        found = []
        for order in orders:
            value = self.polynomial(t, order)
            value *= decay
            if order:
                value *= rate**order
            if order == 1:
                value *= np.sign(u)
            found.append(value)
        return found

    def polynomial(self, t: Array, order: int) -> Array:
        """The derivative in the scaled distance ``t >= 0`` without its factor ``exp(-t)``.

        Args:
            t: Scaled distances, any shape.
            order: 0, 1 or 2.

        Returns:
            A new array of the same shape.
        """
        *rest, constant = self.polynomials[order][::-1]
        value = np.full_like(t, rest[0])
        for coefficient in rest[1:]:
            value *= t
            value += coefficient
        value *= t
        value += constant
        return value


def product(factors: Sequence[Array]) -> Array:
    """Entry by entry product of the factors of all axes."""
    return reduce(np.multiply, factors)


MATERN_3_2 = Matern(
    smoothness=1.5,
    polynomials=((1, 1), (0, -1), (-1, 1)),
    roughness_along=(math.inf, 1),
    roughness_across=(math.inf, 1),
    curvature_variance=math.inf,
)
MATERN_5_2 = Matern(
    smoothness=2.5,
    polynomials=((1, 1, 1 / 3), (0, -1 / 3, -1 / 3), (-1 / 3, -1 / 3, 1 / 3)),
    roughness_along=(1 / 3, 3),
    roughness_across=(1 / 64, 4),
    curvature_variance=25.0,
)
MATERN_7_2 = Matern(
    smoothness=3.5,
    polynomials=(
        (1, 1, 2 / 5, 1 / 15),
        (0, -1 / 5, -1 / 5, -1 / 15),
        (-1 / 5, -1 / 5, 0, 1 / 15),
    ),
    roughness_along=(5 / 64, 4),
    roughness_across=(1 / 320, 4),
    curvature_variance=49 / 5,
)
