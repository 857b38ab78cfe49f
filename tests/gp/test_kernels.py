"""Kernels against their definition."""

import mpmath
import numpy as np
import pytest

from lightning_morse.gp.kernels import MATERN_3_2, MATERN_5_2, MATERN_7_2


@pytest.mark.parametrize("kernel", [MATERN_3_2, MATERN_5_2, MATERN_7_2], ids=lambda k: k.name)
def test_kernels_are_matern_and_their_derivatives_right(kernel):
    """Against the definition by a Bessel function, differentiated in 40 digits."""
    nu, scale = kernel.smoothness, 0.7

    def matern(r):
        t = mpmath.sqrt(2 * nu) * abs(r) / mpmath.mpf(scale)
        return 2 ** (1 - mpmath.mpf(nu)) / mpmath.gamma(nu) * t**nu * mpmath.besselk(nu, t)

    a, b = np.array([0.31, -0.2, 1.5]), np.array([0.0, 0.3])
    with mpmath.workdps(40):
        for order in range(3):
            expected = [[float(mpmath.diff(matern, u - v, order)) for v in b] for u in a]
            assert kernel.derivative(a, b, scale, order) == pytest.approx(np.array(expected))
    second = kernel.derivative(a[:1], a[:1], scale, 2).item()
    assert kernel.slope_variance == pytest.approx(-second * scale**2)
    assert kernel.derivative(a[:1], a[:1], scale, 1).item() == 0
