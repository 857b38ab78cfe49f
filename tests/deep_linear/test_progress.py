"""Progress of a network: its critical level and its escape time."""

import numpy as np
import pytest

from lightning_morse import deep_linear as dl
from lightning_morse.deep_linear.progress import read
from tests.linear_problems import (
    TWO,
)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_level_is_refused_where_only_the_loss_is_near(depth):
    for level in dl.critical_levels(TWO, (2,) * (depth + 1)):
        point = dl.representative(TWO, (2,) * (depth + 1), level.modes)
        assert read(point, TWO).level == len(level.modes)
    # A different map with the same loss as the level of mode 0.
    wrong = np.diag([3.0, 1.0]) @ [[1.0, 0.0], [1.0, 1.0]]
    assert dl.loss([wrong], TWO) == pytest.approx(0.5)
    other = [np.eye(2)] * (depth - 1) + [wrong]
    assert read(other, TWO).level == -1


def test_escape_time_is_when_the_mode_is_half_learned():
    moments = dl.Moments(4 * np.eye(2), 4 * np.diag([3.0, 1.0]), 40.0)  # inputs of variance 4
    start = [np.diag([3.0**0.5, 0.1])] * 2
    found = read(start, moments)
    (end,) = dl.integrate(start, moments, [found.escape_time])
    assert dl.product(end)[1, 1] == pytest.approx(0.5, abs=1e-6)
    assert read(dl.representative(moments, (2, 2, 2), [0, 1]), moments).escape_time == 0.0
    assert read(dl.representative(moments, (2, 2, 2), [0]), moments).escape_time == -1.0
