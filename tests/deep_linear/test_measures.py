"""Measures of weights and steps, moments of data, and the stack of linear layers."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from lightning_morse import deep_linear as dl
from lightning_morse.deep_linear.energy import energy_ratio, energy_violations
from lightning_morse.deep_linear.measures import node_strengths, pq_index
from lightning_morse.deep_linear.moment_sums import MomentSums
from lightning_morse.deep_linear.progress import read
from lightning_morse.deep_linear.sharpness import sharpness
from lightning_morse.deep_linear.squared_error import targets
from lightning_morse.deep_linear.stack import layers_at, linear_stack
from lightning_morse.plotting.staircase import plot_staircase


def test_node_strengths_are_sums_of_links():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(4, 3, 2, 2)), rng.normal(size=4)
    sums = [sum(kernel[i].ravel()) + bias[i] for i in range(4)]
    assert node_strengths(kernel, bias) == pytest.approx((np.mean(sums), np.std(sums)))


@pytest.mark.parametrize(("p", "q"), [(0.5, 1.0), (1.0, 2.0)])
def test_pq_index_is_its_formula(p, q):
    w = np.random.default_rng(0).normal(size=50)
    norms = [np.sum(np.abs(w) ** e) ** (1 / e) for e in (p, q)]
    assert pq_index(w, p, q) == pytest.approx(1 - 50 ** (1 / q - 1 / p) * norms[0] / norms[1])
    assert pq_index(1e200 * w, p, q) == pytest.approx(pq_index(w, p, q))
    assert pq_index(np.eye(1, 50), p, q) == pytest.approx(1 - 50 ** (1 / q - 1 / p))
    assert pq_index(np.zeros(3), p, q) == 0.0


def test_energy_ratio_of_a_quadratic():
    for eta in (0.01, 0.5, 1.9, 2.5):  # h = 1
        found = energy_ratio(0.5, (1 - eta) ** 2 / 2, eta, 1.0)
        assert found == pytest.approx(1 - eta / 2)
        assert (found < 0) == (eta > 2)
    assert energy_ratio(1.0, 1.0, 0.1, 0.0) == 1.0
    assert energy_ratio(1.0, 2.0, 0.1, 0.0) == -np.inf
    assert energy_violations([]) == 0.0


def test_sums_do_not_depend_on_the_batches():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(30, 2, generator=generator, dtype=torch.float64) + 3
    whole, cut = MomentSums(), MomentSums()
    whole.add(x, y)
    for a, b in zip(x.split(7), y.split(7), strict=True):
        cut.add(a, b)
    resumed = MomentSums()
    resumed.load_state_dict(cut.state_dict())
    for centred in (False, True):
        shift = (x.mean(0), y.mean(0)) if centred else (0.0, 0.0)
        expected = dl.Moments.of((x - shift[0]).numpy(), (y - shift[1]).numpy())
        for sums in (whole, cut, resumed):
            found = sums.moments(centred)
            assert np.abs(found.xx - expected.xx).max() < 1e-13
            assert np.abs(found.yx - expected.yx).max() < 1e-13
            assert found.yy == pytest.approx(expected.yy)


def network(*sizes, bias=True, between=nn.Identity):
    torch.manual_seed(0)
    parts = []
    for a, b in pairwise(sizes):
        parts += [nn.Linear(a, b, bias=bias), between()]
    return nn.Sequential(*parts[:-1]).double()


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
def test_what_is_no_stack(module, reason):
    stack = linear_stack(module, torch.randn(5, 2))
    assert (stack.score, stack.reason) == (0.0, reason)


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


TWO = dl.Moments(np.eye(2), np.diag([3.0, 1.0]), 10.0)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_level_is_refused_where_only_the_loss_is_near(depth):
    for level in dl.critical_levels(TWO, (2,) * (depth + 1)):
        point = dl.representative(TWO, (2,) * (depth + 1), level.modes)
        assert read(point, TWO).level == len(level.modes)
    # Some other network with the loss of the level of mode 0: a map far from it.
    wrong = np.diag([3.0, 1.0]) @ [[1.0, 0.0], [1.0, 1.0]]
    assert dl.loss([wrong], TWO) == pytest.approx(0.5)
    other = [np.eye(2)] * (depth - 1) + [wrong]
    assert read(other, TWO).level == -1


def test_escape_time_is_when_the_mode_is_half_learned():
    moments = dl.Moments(4 * np.eye(2), 4 * np.diag([3.0, 1.0]), 40.0)  # inputs of variance 4
    start = [np.diag([3.0**0.5, 0.1])] * 2
    found = read(start, moments)
    (end,) = dl.integrate(start, moments, [found.escape_time])
    assert dl.product(end)[1, 1] == pytest.approx(0.5, abs=1e-6)
    assert read(dl.representative(moments, (2, 2, 2), [0, 1]), moments).escape_time == 0.0
    assert read(dl.representative(moments, (2, 2, 2), [0]), moments).escape_time == -1.0


def test_figure_leaves_out_numbers_that_would_overlap():
    levels = [1.0, 0.5, 0.499, 0.0]
    figure = plot_staircase([0, 1, 2], [1.0, 0.7, 0.1], np.zeros((3, 4)), levels)
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts == ["0 learned", "1 learned", "3 learned"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: node_strengths([1.0]), "at least two axes"),
        (lambda: node_strengths(np.eye(2), [1.0]), r"bias must have shape \(2,\)"),
        (lambda: pq_index([]), "at least one number"),
        (lambda: pq_index([1.0], 2.0, 1.0), "0 < p < q"),
        (lambda: energy_ratio(1.0, 0.0, 0.0, 1.0), "step_size must be positive"),
        (lambda: MomentSums().moments(), "got none. Call add"),
        (lambda: MomentSums().add(torch.ones(2, 1), torch.ones(3, 1)), "with the same m"),
        (lambda: MomentSums().add(torch.tensor([[np.nan]]), torch.ones(1, 1)), "must be finite"),
        (lambda: targets(torch.ones(2), 2), "got no targets"),
        (lambda: targets((0, torch.tensor([0, 2])), 2), "below the 2 outputs, got 2"),
        (lambda: targets((0, torch.ones(3, 4)), 2), "must have the width 2"),
        (lambda: linear_stack(network(2, 2), torch.ones(1, 2), "away"), "must name a submodule"),
        (lambda: plot_staircase([0], [0.0, 1.0], [[0.0]], []), r"must have shape \(k,\)"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_batches_of_other_widths_are_refused():
    sums = MomentSums()
    sums.add(torch.ones(2, 3), torch.ones(2, 1))
    with pytest.raises(ValueError, match="3 inputs and 1 targets, got 2 and 1"):
        sums.add(torch.ones(2, 2), torch.ones(2, 1))
