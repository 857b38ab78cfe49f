"""Sharpness, checked against the Hessian by automatic differentiation."""

import pytest
import torch

from lightning_morse.deep_linear.moment_sums import MomentSums
from lightning_morse.deep_linear.sharpness import sharpness
from lightning_morse.deep_linear.stack import layers_at
from tests.linear_problems import (
    network,
)


@pytest.mark.parametrize("bias", [False, True])
def test_sharpness_is_that_of_the_loss(bias):
    net = network(3, 4, 4, 2, bias=bias)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 3, generator=generator).double() + 0.5
    y = torch.randn(20, 2, generator=generator).double()
    weights, biases = layers_at(net, [str(2 * k) for k in range(3)])
    sums = MomentSums()
    sums.add(x, y)
    raw = sums.moments()
    means = [m.numpy() for m in sums.means()]
    value, slope = sharpness(weights, biases, raw.xx, raw.yx, *means)

    shapes = [p.shape for p in net.parameters()]
    names = [name for name, _ in net.named_parameters()]

    def loss(flat):
        parts = flat.split([s.numel() for s in shapes])
        given = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        output = torch.func.functional_call(net, given, (x,))
        return (output - y).square().sum(1).mean() / 2

    flat = torch.cat([p.detach().ravel() for p in net.parameters()])
    curvature = torch.autograd.functional.hessian(loss, flat)
    assert value == pytest.approx(torch.linalg.eigvalsh(curvature)[-1].item(), rel=1e-3)
    steep = torch.autograd.functional.jacobian(loss, flat).norm().item()
    assert slope == pytest.approx(steep, rel=1e-10)
