"""Energy ratios of optimizer steps."""

import numpy as np
import pytest

from lightning_morse.deep_linear.energy import energy_ratio, energy_violations


def test_energy_ratio_of_a_quadratic():
    for eta in (0.01, 0.5, 1.9, 2.5):  # h = 1
        found = energy_ratio(0.5, (1 - eta) ** 2 / 2, eta, 1.0)
        assert found == pytest.approx(1 - eta / 2)
        assert (found < 0) == (eta > 2)
    assert energy_ratio(1.0, 1.0, 0.1, 0.0) == 1.0
    assert energy_ratio(1.0, 2.0, 0.1, 0.0) == -np.inf
    assert energy_violations([]) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: energy_ratio(1.0, 0.0, 0.0, 1.0), "step_size must be positive"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
