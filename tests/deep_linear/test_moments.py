"""Second moments of data: scaling, centring, refusals."""

import numpy as np
import pytest
import torch

from lightning_morse import deep_linear as dl
from tests.linear_problems import (
    random_problem,
    relative,
    stack_of,
)


def test_scaled_moments_give_the_loss_of_torch():
    weights, x, y = random_problem((3, 4, 2))
    moments = dl.Moments.of(x, y).scaled(2 / 2)
    wider, xx, yy = random_problem((2, 3, 3, 4))
    for w, a, b, m in (
        (weights, x, y, moments),
        (wider, xx, yy, dl.Moments.of(xx, yy).scaled(2 / 4)),
    ):
        network = stack_of(w)
        loss = torch.nn.functional.mse_loss(network(torch.from_numpy(a)), torch.from_numpy(b))
        loss.backward()
        assert dl.loss(w, m) == pytest.approx(loss.item(), rel=1e-12)
        for layer, found in zip(network, dl.gradient(w, m), strict=True):
            assert relative(found, layer.weight.grad.numpy()) < 1e-12


def test_centred_moments_are_those_of_centred_data():
    _, x, y = random_problem((3, 4, 2))
    found = dl.Moments.of(x, y).centred(x.mean(0), y.mean(0))
    expected = dl.Moments.of(x - x.mean(0), y - y.mean(0))
    assert relative(found.xx, expected.xx) < 1e-13
    assert relative(found.yx, expected.yx) < 1e-13
    assert found.yy == pytest.approx(expected.yy)


MOMENTS = dl.Moments(np.eye(2), np.eye(2), 2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dl.Moments(np.eye(2), np.eye(3), 1.0), r"got \(2, 2\) and \(3, 3\)"),
        (lambda: dl.Moments([[1.0, 2.0], [0.0, 1.0]], np.eye(2), 1.0), "xx must be symmetric"),
        (lambda: dl.Moments(-np.eye(2), np.eye(2), 1.0), "semidefinite, got the eigenvalue -1"),
        (lambda: dl.Moments(np.eye(2), np.full((1, 2), np.inf), 1.0), "moments must be finite"),
        (lambda: dl.Moments.of(np.ones((3, 1)), np.ones((2, 1))), "same m >= 1"),
        (lambda: MOMENTS.scaled(0.0), "factor must be positive"),
        (lambda: MOMENTS.centred([0.0], [0.0, 0.0]), r"x_mean must have shape \(2,\)"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
