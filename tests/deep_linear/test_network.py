"""Deep linear networks: the adjacency view, the flow, and what it conserves."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from lightning_morse import deep_linear as dl
from lightning_morse.deep_linear.network import as_weights

SIZES = [(3, 2), (3, 4, 2), (2, 3, 3, 4), (4, 2, 3, 2, 5)]


def random_problem(sizes, seed=0, n_examples=12):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_examples, sizes[0])) @ rng.normal(size=(sizes[0], sizes[0]))
    y = rng.normal(size=(n_examples, sizes[-1])) + x @ rng.normal(size=(sizes[0], sizes[-1]))
    shapes = zip(sizes[1:], sizes[:-1], strict=True)
    return [0.7 * rng.normal(size=shape) for shape in shapes], x, y


def stack_of(weights):
    """The same network in PyTorch."""
    layers = [torch.nn.Linear(*w.shape[::-1], bias=False).double() for w in weights]
    for layer, w in zip(layers, weights, strict=True):
        layer.weight.data = torch.from_numpy(w.copy())
    return torch.nn.Sequential(*layers)


def relative(found, expected):
    return np.abs(found - expected).max() / max(1.0, np.abs(expected).max())


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


def test_integration_agrees_with_small_steps():
    weights, x, y = random_problem((2, 3, 3, 4))
    moments = dl.Moments.of(x, y)
    (found,) = dl.integrate(weights, moments, [0.05])

    def descended(n):
        layers = [w.copy() for w in weights]
        for _ in range(n):
            for w, g in zip(layers, dl.gradient(layers, moments), strict=True):
                w -= 0.05 / n * g
        return layers

    coarse, fine = descended(2000), descended(4000)
    for end, a, b in zip(found, coarse, fine, strict=True):
        extrapolated = 2 * b - a  # Euler's method is of first order
        assert relative(end, extrapolated) < 1e-6 < relative(end, a)


@pytest.mark.parametrize("sizes", SIZES[1:])
def test_conserved_along_the_flow(sizes):
    weights, x, y = random_problem(sizes)
    moments = dl.Moments.of(x, y)
    moments = moments.scaled(1 / np.linalg.norm(moments.xx, 2))
    start = dl.balance(weights)
    states = dl.integrate(weights, moments, np.linspace(0, 20, 6))
    drifts = [dl.drift(dl.balance(state), start) for state in states]
    assert max(drifts) < 1e-9
    losses = [dl.loss(state, moments) for state in states]
    assert all(a > b for a, b in pairwise(losses))
    # It is a statement about this flow: another motion of the same length does not conserve it.
    scaled = [w * s for w, s in zip(weights, (1.1, *[1.0] * 9), strict=False)]
    assert dl.drift(dl.balance(scaled), start) > 1e-3


@pytest.mark.parametrize("sizes", SIZES[1:])
@pytest.mark.parametrize("biased", [False, True])
def test_what_a_step_of_gradient_descent_adds_is_exact(sizes, biased):
    weights, x, y = random_problem(sizes)
    network, eta = stack_of(weights), 0.05
    if biased:
        for layer in network:
            layer.bias = torch.nn.Parameter(torch.randn(len(layer.weight)).double() / 3)

    def parts(of):
        matrices = [of(layer.weight).detach().numpy().copy() for layer in network]
        biases = [of(layer.bias).detach().numpy().copy() for layer in network] if biased else None
        return matrices, biases

    optimizer = torch.optim.SGD(network.parameters(), lr=eta)
    for _ in range(3):
        before = dl.balance(*parts(lambda p: p))
        optimizer.zero_grad()
        residual = network(torch.from_numpy(x)) - torch.from_numpy(y)
        (residual.square().sum(1).mean() / 20).backward()
        gradients, bias_gradients = parts(lambda p: p.grad)
        optimizer.step()
        change = dl.balance_change(gradients, eta, bias_gradients)
        after = dl.balance(*parts(lambda p: p))
        assert max(np.abs(q).max() for q in change) > 1e-9  # and it is not nothing
        for a, b, c in zip(after, before, change, strict=True):
            assert relative(a, b + c) < 1e-12


def test_balance_of_what_is_balanced():
    moments = dl.Moments(np.eye(3), np.diag([3.0, 2.0, 1.0]), 14.0)
    point = dl.representative(moments, (3, 4, 5, 3), [0, 2])
    assert dl.is_balanced(point)
    assert dl.delta_balance(point) < 1e-14
    assert dl.delta_balance([np.eye(2)]) == 0.0


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
        (lambda: as_weights([]), "at least one layer, got none"),
        (lambda: as_weights([np.ones(3)]), r"got shape \(3,\) for layer 1. Leave biases out"),
        (lambda: as_weights([np.ones((2, 0))]), "must be matrices"),
        (lambda: as_weights([[[np.nan]]]), "NaN or infinity in layer 1"),
        (lambda: as_weights([np.ones((3, 2)), np.ones((2, 4))]), "3 outputs below layer 2 with 4"),
        (lambda: dl.loss([np.ones((2, 3))], MOMENTS), "with 3 inputs and 2 outputs .* got 2 and 2"),
        (lambda: dl.residual([np.ones((2, 3))], MOMENTS), "like the network"),
        (lambda: dl.Moments(np.eye(2), np.eye(3), 1.0), r"got \(2, 2\) and \(3, 3\)"),
        (lambda: dl.Moments([[1.0, 2.0], [0.0, 1.0]], np.eye(2), 1.0), "xx must be symmetric"),
        (lambda: dl.Moments(-np.eye(2), np.eye(2), 1.0), "semidefinite, got the eigenvalue -1"),
        (lambda: dl.Moments(np.eye(2), np.full((1, 2), np.inf), 1.0), "moments must be finite"),
        (lambda: dl.Moments.of(np.ones((3, 1)), np.ones((2, 1))), "same m >= 1"),
        (lambda: MOMENTS.scaled(0.0), "factor must be positive"),
        (lambda: MOMENTS.centred([0.0], [0.0, 0.0]), r"x_mean must have shape \(2,\)"),
        (lambda: dl.layers_of(np.eye(3), (1, 1)), r"must have shape \(2, 2\)"),
        (lambda: dl.layers_of(np.eye(2), (1, 1)), "entry 1.0 from unit 0 to unit 0"),
        (lambda: dl.adjacency_flow(csr_array((3, 3)), (1, 1, 1), MOMENTS), "like the network"),
        (lambda: dl.integrate([np.eye(2)], MOMENTS, [1.0, 1.0]), "times must be increasing"),
        (lambda: dl.integrate([np.eye(2)], MOMENTS, [-1.0]), "not negative"),
        (lambda: dl.balance([np.eye(2)], []), "each of the 1 layers"),
        (lambda: dl.balance([np.eye(2)], [np.ones(3)]), r"biases\[0\] must have shape \(2,\)"),
        (lambda: dl.drift([np.eye(2)], []), "of the same network"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_integration_that_fails_says_so():
    endless = dl.Moments([[0.0]], [[1.0]], 1.0)  # w' = w^2 for three equal weights
    with pytest.raises(RuntimeError, match=r"integration stopped at t = 0\.99"):
        dl.integrate([[[1.0]]] * 3, endless, [0.5, 0.99, 2.0])
