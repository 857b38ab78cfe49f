"""Directions from derivatives of the loss, against derivatives computed in another way."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from lightning_morse.slices.curvature import (
    gradient_directions,
    hessian_directions,
    hessian_product,
    loss_gradient,
)
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.shadow_loss import ShadowLoss
from tests.callback_models import rng_state


def mean_square(module, batch):
    return (module(batch[0]) - batch[1]).square().mean()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 12)
        self.outer = nn.Linear(4, 2)

    def forward(self, x):
        q, k, v = self.inner(x).view(-1, 2, 2, 6).transpose(1, 2).chunk(3, dim=-1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.outer(mixed.transpose(1, 2).flatten(2)).flatten(1)


def network(kind: str) -> tuple[nn.Module, list[list[torch.Tensor]]]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(20, 8, generator=generator, dtype=torch.float64)
    y = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    if kind == "attention":
        module: nn.Module = Attention()
        x = x.view(20, 2, 4)
    elif kind == "batch norm":
        module = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 4))
    elif kind == "frozen":
        module = nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 4))
        module[0].bias.requires_grad_(False)
    else:
        module = nn.Sequential(nn.Linear(8, 2, bias=False), nn.Dropout(0.5), nn.Linear(2, 4))
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    module.double()
    return module, [[x[:12], y[:12]], [x[12:], y[12:]]]  # of different lengths


def by_other_means(module, batches):
    """Gradient and Hessian from a functional form of the whole loss."""
    module = copy.deepcopy(module).eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.train()
    names = [n for n, p in module.named_parameters() if p.requires_grad]
    shapes = [p.shape for p in module.parameters() if p.requires_grad]
    n = sum(len(x) for x, _ in batches)

    def loss(flat):
        pieces = flat.split([s.numel() for s in shapes])
        named = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            parts = [
                len(x) / n * (functional_call(module, named, (x,)) - y).square().mean()
                for x, y in batches
            ]
            return torch.stack(parts).sum()

    at = flat_parameters(module)
    jacobian = torch.autograd.functional.jacobian(loss, at)
    return jacobian, torch.autograd.functional.hessian(loss, at)


KINDS = ["attention", "batch norm", "frozen", "plain"]


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind):
    module, batches = network(kind)
    loss = ShadowLoss(module, batches, mean_square)
    before, rng = flat_parameters(module), rng_state()
    found = loss_gradient(loss)
    vector = torch.randn(len(found), generator=torch.Generator().manual_seed(1)).double()
    product = hessian_product(loss, vector)
    assert rng_state() == rng
    assert torch.equal(flat_parameters(module), before)
    assert all(p.grad is None for p in module.parameters())
    assert all(w.requires_grad and w.grad is None for w in loss.weights)
    gradient, hessian = by_other_means(module, batches)
    assert torch.allclose(found, gradient, rtol=1e-10, atol=1e-12)
    assert torch.allclose(product, hessian @ vector, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_hessian_directions_are_the_top_eigenvectors(kind, dim):
    module, batches = network(kind)
    columns = hessian_directions(ShadowLoss(module, batches, mean_square), dim, seed=0)
    again = hessian_directions(ShadowLoss(module, batches, mean_square), dim, seed=0)
    assert torch.equal(columns, again)
    assert torch.allclose(columns.T @ columns, torch.eye(dim).double(), atol=1e-10)
    _, hessian = by_other_means(module, batches)
    values = torch.linalg.eigvalsh(hessian).abs().sort(descending=True).values
    quotients = torch.einsum("ij,ik,kj->j", columns, hessian, columns)
    assert quotients.abs() == pytest.approx(values[:dim].numpy(), rel=0.01)
    residual = (hessian @ columns - quotients * columns).norm(dim=0) / quotients.abs()
    assert residual.max() < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_directions_are_where_the_flow_goes(kind):
    module, batches = network(kind)
    columns = gradient_directions(ShadowLoss(module, batches, mean_square), 3)
    gradient, hessian = by_other_means(module, batches)
    assert torch.allclose(columns[:, 0], -gradient / gradient.norm(), atol=1e-10)
    second = hessian @ gradient
    for vector in (gradient, second, hessian @ second):
        inside = columns @ (columns.T @ vector)
        assert torch.allclose(inside, vector, atol=1e-9 * float(vector.norm()))


def test_small_networks_need_no_iteration():
    module = nn.Linear(2, 1, bias=False).double()
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    loss = ShadowLoss(module, [x], lambda net, batch: net(batch).square().mean())
    assert hessian_directions(loss, 2, 0).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_what_has_no_directions_says_so():
    wide = nn.Linear(40, 1, bias=False)
    x = torch.ones(3, 40)

    def of(function):
        return ShadowLoss(wide, [x], function)

    linear = of(lambda net, batch: net(batch).mean())
    with pytest.raises(ValueError, match="Hessian is zero"):
        hessian_directions(linear, 1, 0)
    assert gradient_directions(linear, 1).shape == (40, 1)
    with pytest.raises(ValueError, match="derivatives of the gradient flow"):
        gradient_directions(linear, 2)
    with pytest.raises(ValueError, match="must have a gradient"):
        gradient_directions(of(lambda net, batch: net(batch).detach().mean()), 1)
    with pytest.raises(ValueError, match="derivatives of the gradient flow"):
        gradient_directions(of(lambda net, batch: 0 * net(batch).mean()), 1)
    with pytest.raises(ValueError, match="not finite"):
        hessian_directions(of(lambda net, batch: net(batch).square().mean() * np.nan), 1, 0)


def test_a_loss_that_does_not_use_some_weights():
    module = nn.ModuleDict({"used": nn.Linear(2, 1), "idle": nn.Linear(3, 2)})
    loss = ShadowLoss(module, [torch.ones(2, 2)], lambda net, x: net["used"](x).square().mean())
    assert torch.equal(loss_gradient(loss)[3:], torch.zeros(8))
    assert torch.equal(hessian_directions(loss, 1, 0)[3:], torch.zeros(8, 1))
