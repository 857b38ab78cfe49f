"""Modes of the data and critical values."""

import numpy as np
import pytest

from lightning_morse import deep_linear as dl
from lightning_morse.deep_linear.spectrum import whitened
from tests.linear_problems import (
    TWO,
    random_moments,
)


def test_whitening_leaves_the_loss_alone():
    rng = np.random.default_rng(1)
    moments = random_moments(rng, 4, 3)
    modes = dl.data_modes(moments)
    weights = [rng.normal(size=(2, 4)), rng.normal(size=(3, 2))]
    white = dl.Moments(np.eye(4), moments.yx @ modes.whitener, moments.yy)
    assert dl.loss(whitened(weights, modes), white) == pytest.approx(dl.loss(weights, moments))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dl.critical_levels(TWO, (3, 2)), "widths from 2 inputs to 2 outputs"),
        (
            lambda: dl.data_modes(dl.Moments(np.diag([1.0, 0.0]), [[1.0, 1.0]], 2.0)),
            "yx must vanish on inputs that do not vary, got 1",
        ),
        (
            lambda: dl.critical_levels(
                dl.Moments(np.eye(17), np.diag(np.arange(17, 0, -1.0)), 1785.0), (17, 17)
            ),
            r"at most 65536 .* got 131072 for 17 modes. Use staircase\(\), which has 18",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
