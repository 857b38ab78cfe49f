"""A vector that the weights are views of stays one in the copy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_morse.slices.copying import Copier
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.shadow_loss import ShadowLoss
from lightning_morse.slices.subspace import AffineSubspace


def flat_module(frozen=False):
    """A network whose weights are views of one vector."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    weights = list(module.parameters())
    module.flat, at = torch.cat([w.detach().flatten() for w in weights]), 0
    for w in weights:
        w.data = module.flat[at : at + w.numel()].view_as(w)
        at += w.numel()
    module[0].bias.requires_grad_(not frozen)
    return module


def norm(module, batch):
    parts = torch.cat([w.flatten() for w in module.parameters()])
    assert torch.equal(parts, module.flat)
    return module.flat.square().sum() + 0 * parts.sum()


def test_the_vector_follows_the_weights():
    module = flat_module()
    weights = flat_parameters(module)
    before, at = module.flat.clone(), module.flat.data_ptr()
    loss = LossSlice(
        module, AffineSubspace(weights, torch.eye(13)[:, :1]), [torch.ones(1, 2)], norm
    )
    moved = weights + torch.eye(13)[0]
    expected = [weights.square().sum().item(), moved.square().sum().item()]
    found = loss(torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(module.flat, before)
    assert module.flat.data_ptr() == at
    shadow = ShadowLoss(module, [torch.ones(1, 2)], norm)
    shadow.reset()
    assert sum(share * loss.item() for share, loss in shadow.parts()) == pytest.approx(expected[0])


def test_a_vector_that_cannot_follow_is_said():
    module = flat_module(frozen=True)
    weights = flat_parameters(module)
    line = AffineSubspace(weights, torch.eye(len(weights))[:, :1])
    loss = LossSlice(module, line, [torch.ones(1, 2)], norm)
    with pytest.raises(RuntimeError, match="view of its weights, and of something else"):
        loss(torch.zeros(1, 1))


def test_a_second_name_of_a_weight_is_one_of_the_copy():
    module = nn.Linear(2, 1)
    module.alias = module.weight.data
    module.turned = module.weight.detach().t()
    weights = flat_parameters(module)
    loss = LossSlice(
        module,
        AffineSubspace(weights, torch.eye(3)[:, :1]),
        [torch.ones(1, 2)],
        lambda m, x: m.alias.sum() + m.turned[0, 0] + 0 * m(x).sum(),
    )
    found = loss(torch.tensor([[0.0], [1.0]]))
    assert found[1] - found[0] == pytest.approx(2.0)


def test_weights_that_are_views_are_copied_as_views():
    module = flat_module()
    copied = Copier(lambda value: None, lambda value: None).copy(module)
    copied.flat.zero_()
    assert all(not w.any() for w in copied.parameters())
    assert module.flat.any()
