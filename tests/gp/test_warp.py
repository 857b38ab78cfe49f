"""The warp and its inverse."""

import math

import numpy as np
import pytest

from lightning_morse.gp.warp import Warp


@pytest.mark.parametrize("scale", [0.3, 40.0, math.inf])
def test_warp_is_increasing_and_invertible(scale):
    warp = Warp(origin=2.0, scale=scale)
    losses = np.linspace(2.0 - min(0.29, scale), 50, 200)
    assert (np.diff(warp(losses)) > 0).all()
    assert warp.inverse(warp(losses)) == pytest.approx(losses)
    rise = (warp.inverse(warp(losses) + 1e-4) - warp.inverse(warp(losses) - 1e-4)) / 2e-4
    assert warp.inverse_slope(warp(losses)) == pytest.approx(rise, rel=1e-4)
    assert warp.floor == 2.0 - scale
