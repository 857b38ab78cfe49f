"""What a loss sets for the whole process is set back after it."""

import decimal

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import lightning_morse as lm
from lightning_morse.slices.isolation import (
    preserved_random_state,
    preserved_settings,
    unobserved,
)

CHANGES = {
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "warn only": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "precision": lambda: torch.set_float32_matmul_precision("medium"),
    "cudnn": lambda: setattr(torch.backends.cudnn, "deterministic", True),
    "benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "decimal places": lambda: setattr(decimal.getcontext(), "prec", 7),
    "another context": lambda: decimal.setcontext(decimal.Context(prec=5)),
    "digits printed": lambda: torch.set_printoptions(precision=9),
    "digits of NumPy": lambda: np.set_printoptions(precision=3),
    "errors of NumPy": lambda: np.seterr(over="ignore"),
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
        decimal.getcontext().prec,
        str(torch.tensor(1 / 3)),
        str(np.array([1 / 3])),
        np.geterr()["over"],
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


class Counts(TorchFunctionMode):
    n = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.n += 1
        return func(*args, **(kwargs or {}))


def test_what_is_unobserved_is_not_seen_by_function_modes_which_go_on_afterwards():
    with Counts() as outer, torch.device("meta"), Counts() as inner:
        before = outer.n, inner.n
        with unobserved():
            made = torch.zeros(2).exp()
        assert (outer.n, inner.n) == before
        torch.zeros(2)
        assert outer.n > before[0]
        assert inner.n > before[1]
    assert made.device.type == "meta"  # where tensors are made is no matter of looking on
    assert torch.zeros(1).device.type == "cpu"
