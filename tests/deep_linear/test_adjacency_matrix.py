"""The adjacency matrix of a linear network, and the flow in it."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from lightning_morse import deep_linear as dl
from tests.linear_problems import (
    SIZES,
    random_problem,
    relative,
    stack_of,
)


@pytest.mark.parametrize("sizes", SIZES)
def test_powers_of_the_adjacency_matrix(sizes):
    weights, _, _ = random_problem(sizes)
    dense = dl.adjacency(weights).toarray()
    power = np.linalg.matrix_power(dense, len(weights))
    expected = np.zeros_like(dense)
    expected[-sizes[-1] :, : sizes[0]] = np.linalg.multi_dot([*weights[::-1], np.eye(sizes[0])])
    assert relative(power, expected) < 1e-14
    assert not (power @ dense).any()
    for found, given in zip(dl.layers_of(dense, sizes), weights, strict=True):
        assert (found == given).all()


@pytest.mark.parametrize("sizes", SIZES)
def test_matrix_flow_layer_flow_and_autograd_agree(sizes):
    weights, x, y = random_problem(sizes)
    moments = dl.Moments.of(x, y)
    network = stack_of(weights)
    outputs = network(torch.from_numpy(x))
    loss = (outputs - torch.from_numpy(y)).square().sum(1).mean() / 2
    loss.backward()
    flow = dl.layers_of(dl.adjacency_flow(dl.adjacency(weights), sizes, moments), sizes)
    assert relative(dl.loss(weights, moments), loss.item()) < 1e-12
    for layer, by_layer, by_matrix in zip(
        network, dl.gradient(weights, moments), flow, strict=True
    ):
        assert relative(by_layer, layer.weight.grad.numpy()) < 1e-12
        assert relative(by_matrix, -layer.weight.grad.numpy()) < 1e-12


MOMENTS = dl.Moments(np.eye(2), np.eye(2), 2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dl.layers_of(np.eye(3), (1, 1)), r"must have shape \(2, 2\)"),
        (lambda: dl.layers_of(np.eye(2), (1, 1)), "entry 1.0 from unit 0 to unit 0"),
        (lambda: dl.adjacency_flow(csr_array((3, 3)), (1, 1, 1), MOMENTS), "like the network"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
