"""Finding the stack of linear layers in a module."""

import pytest
import torch
from torch import nn

from lightning_morse.deep_linear.stack import linear_stack
from tests.linear_problems import (
    network,
)


def test_score():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    assert linear_stack(network(3, 4, 2), x).score == pytest.approx(1.0)
    kinked = linear_stack(network(3, 8, 2, bias=False, between=nn.ReLU), x)
    assert kinked.score < 0.9
    assert kinked.names == ("0", "2")
    nearly = linear_stack(network(3, 4, 2, bias=False, between=nn.Tanh), 0.1 * x)
    assert 0.999 < nearly.score < 1.0
    flat = linear_stack(
        nn.Sequential(nn.Flatten(), network(4, 3, 2)), torch.randn(5, 2, 2).double()
    )
    assert flat.score == pytest.approx(1.0)
    assert flat.names == ("1.0", "1.2")
    assert flat.inputs.shape == (5, 4)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(self.layer(x))


class Skipping(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(2, 3), nn.Linear(2, 2)

    def forward(self, x):
        return self.one(x)[:, :2] + self.two(x)


class Summing(nn.Linear):
    def forward(self, x):
        return super().forward(x).sum(1)


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), 0


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Twice(), "a linear layer runs twice"),
        (Skipping(), "layer two does not take what the layer before gives"),
        (Summing(2, 2), "its output is not that of the last linear layer"),
        (Pair(2, 2), "its output is no tensor"),
        (nn.Sequential(nn.LayerNorm(2)), "it has no linear layers"),
    ],
)
def test_modules_that_are_no_stack(module, reason):
    stack = linear_stack(module, torch.randn(5, 2))
    assert (stack.score, stack.reason) == (0.0, reason)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_stack(network(2, 2), torch.ones(1, 2), "away"), "must name a submodule"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
