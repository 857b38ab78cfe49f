"""The warp applied to the loss before a Gaussian process is fitted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array


@dataclass(frozen=True)
class Warp:
    r"""The increasing map :math:`T(l) = S \log(1 + (l - l_0) / S)`.

    It is an affine function of ``log(l - floor)``.

    Attributes:
        origin: :math:`l_0`, which is mapped to 0, in units of the loss.
        scale: :math:`S > 0`, same units; infinite for no warp at all, :math:`T(l) = l - l_0`.
    """

    origin: float
    scale: float

    @property
    def floor(self) -> float:
        """Value the loss is assumed to stay above, ``origin - scale``."""
        return self.origin - self.scale

    def __call__(self, loss: ArrayLike) -> Array:
        """Warp losses above the floor, any shape."""
        z = np.asarray(loss, dtype=np.float64) - self.origin
        return z if math.isinf(self.scale) else self.scale * np.log1p(z / self.scale)

    def inverse(self, warped: ArrayLike) -> Array:
        """Bring warped values back to the units of the loss, any shape."""
        t = np.asarray(warped, dtype=np.float64)
        return self.origin + (
            t if math.isinf(self.scale) else self.scale * np.expm1(t / self.scale)
        )

    def inverse_slope(self, warped: ArrayLike) -> Array:
        """Derivative of :meth:`inverse`, positive, any shape: converts small deviations."""
        t = np.asarray(warped, dtype=np.float64)
        return np.exp(t / self.scale)


NO_WARP = Warp(origin=0.0, scale=math.inf)
