"""The trainable weights of a network as one vector."""

import pytest
import torch
from torch import nn

from lightning_morse.monitoring.snapshots import Trajectory
from lightning_morse.slices.parameters import flat_parameters, flatten, parts_of_weights


def test_flatten_copies_in_order_and_promotes():
    parameter = torch.nn.Parameter(torch.tensor([[1.0, 2.0]]))
    flat = flatten([parameter])
    flat += 1
    assert not flat.requires_grad
    assert parameter.tolist() == [[1.0, 2.0]]
    assert flatten([torch.ones(1).bfloat16(), torch.tensor(2.0).half()]).dtype == torch.float32
    assert flatten([torch.ones(1), torch.ones(2).double()]).dtype == torch.float64
    with pytest.raises(ValueError, match="tensors must hold at least one parameter"):
        flatten([])


def test_parts_are_the_flat_weights_one_after_the_other():
    """Views, so that a record needs no copy of all of them on the way."""
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).to(torch.bfloat16))
    module.phase = nn.Parameter(torch.tensor([1 + 2j, 3 - 1j]))
    module[0].bias.requires_grad_(False)
    parts = parts_of_weights(module)
    flat = flat_parameters(module)
    assert torch.cat([part.to(flat.dtype) for part in parts]).equal(flat)
    assert {part.data_ptr() for part in parts} == {
        p.data_ptr() for p in module.parameters() if p.requires_grad
    }
    record = Trajectory(max_snapshots=3)
    record.step(lambda: parts)
    assert record.snapshots()[0].equal(flat)
