"""The trainable weights of a network as one vector."""

import pytest
import torch

from lightning_morse.slices.parameters import flatten


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
