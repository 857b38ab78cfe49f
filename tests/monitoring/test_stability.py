"""The edge of stability of SGD, against gradient descent on a parabola."""

from __future__ import annotations

import pytest
import torch

from lightning_morse.monitoring.stability import stability_limit


def weights():
    return torch.nn.Parameter(torch.ones(1, dtype=torch.float64))


GIVEN = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.5, "dampening": 0.5},
    {"momentum": 0.9, "nesterov": True},
    {"weight_decay": 0.3},
    {"momentum": 0.8, "weight_decay": 0.5},
    {"dampening": 0.5},  # without momentum torch does not dampen
]


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize(("share", "diverges"), [(0.99, False), (1.01, True)])
def test_a_parabola_is_stable_below_and_not_above(given, share, diverges):
    w = weights()
    optimizer = torch.optim.SGD([w], lr=0.1, **given)
    curvature = share * stability_limit([optimizer])
    for _ in range(3000):
        w.grad = curvature * w.detach()
        optimizer.step()
    assert (abs(float(w.detach())) > 1) == diverges


def test_what_differs_between_groups():
    w, v = weights(), weights()
    groups = [{"params": [w], "weight_decay": 0.1}, {"params": [v], "weight_decay": 0.0}]
    assert stability_limit([torch.optim.SGD(groups, lr=0.1)]) == 20
    groups = [{"params": [w], "lr": 0.1}, {"params": [v], "lr": 0.2}]
    assert stability_limit([torch.optim.SGD(groups, lr=0.1)]) == 0


class Derived(torch.optim.SGD):
    pass


@pytest.mark.parametrize(
    "optimizers",
    [
        [],
        [torch.optim.AdamW([weights()], lr=0.1)],
        [Derived([weights()], lr=0.1)],
        [torch.optim.SGD([weights()], lr=0.1)] * 2,
        [torch.optim.SGD([weights()], lr=0.1, maximize=True)],
        [torch.optim.SGD([weights()], lr=0.0)],
    ],
)
def test_no_limit_is_known(optimizers):
    assert stability_limit(optimizers) == 0


def test_a_rate_on_an_accelerator_is_not_waited_for():
    optimizer = torch.optim.SGD([weights()], lr=0.1)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1, device="meta")
    assert stability_limit([optimizer]) == 0


def test_rates_may_be_tensors():
    optimizer = torch.optim.SGD([weights()], lr=torch.tensor(0.5))
    assert stability_limit([optimizer]) == 4
