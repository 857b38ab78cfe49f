"""What a loss sets for the whole process is set back after it."""

import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse.slices.isolation import preserved_random_state, preserved_settings

CHANGES = {
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "warn only": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "precision": lambda: torch.set_float32_matmul_precision("medium"),
    "cudnn": lambda: setattr(torch.backends.cudnn, "deterministic", True),
    "benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
}


def settings():
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )


@pytest.mark.parametrize("around", [preserved_settings, preserved_random_state])
@pytest.mark.parametrize("what", CHANGES)
def test_each_setting_is_restored(what, around):
    before = settings()
    with around():
        CHANGES[what]()
        assert settings() != before
    assert settings() == before


def test_a_loss_that_sets_everything():
    before = settings()

    def loss(x):
        for change in CHANGES.values():
            change()
        return (x**2).sum(1)

    lm.analyze(loss, [-1], [1], n_samples=16, resolution=16)
    assert settings() == before


def test_a_loss_that_raises():
    before = settings()

    def loss(x):
        torch.set_default_dtype(torch.float64)
        raise KeyError("x")

    with pytest.raises(KeyError):
        lm.analyze(loss, np.array([-1.0]), [1], n_samples=16, resolution=16)
    assert settings() == before
