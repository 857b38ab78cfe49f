"""The largest curvature in a slice: known values, a bound that holds, and never above the truth."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.func import functional_call, grad, vmap

import lightning_morse as lm
from lightning_morse.analysis.pipeline import analyze_from
from lightning_morse.analysis.sharpness import curvature_at, largest_curvature
from lightning_morse.gp.kernels import MATERN_7_2
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.gp.warp import NO_WARP, Warp
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.nested import NestedGrid
from lightning_morse.result import Curvature, MorseAnalysis
from lightning_morse.result.frame import Frame

HESSIAN = np.array([[3.0, 0.25], [0.25, 1.0]])
LARGEST = float(np.linalg.eigvalsh(HESSIAN)[-1])


def quadratic(x):
    return 0.5 * ((x @ torch.from_numpy(HESSIAN)) * x).sum(dim=1) + 1


def analysis(loss, start, half, **given):
    given = {"n_samples": 64, "resolution": 24, **given}
    return analyze_from(loss, start, [-half] * len(start), [half] * len(start), **given)


def test_a_quadratic_has_its_known_curvature_everywhere():
    result = analysis(quadratic, [0.5, 0.3], 2.0)
    (attractor,) = (m for m in result.morse_sets if m.is_attractor)
    for found in (result.curvature, attractor.curvature):
        assert found.largest == pytest.approx(LARGEST, rel=1e-2)
        assert 0.9 * LARGEST < found.at_least < LARGEST
        assert abs(found.largest - LARGEST) < 3 * found.deviation


@pytest.mark.parametrize(("of_loss", "of_box"), [(40, -30), (-3, 11)])
def test_powers_of_two_change_the_unit_alone(of_loss, of_box):
    def scaled(x):
        return quadratic(x / 2.0**of_box) * 2.0**of_loss

    start = np.array([0.5, 0.3])
    here = analysis(quadratic, start, 2.0)
    there = analysis(scaled, start * 2.0**of_box, 2.0 * 2.0**of_box)
    factor = 2.0 ** (of_loss - 2 * of_box)
    pairs = [(here.curvature, there.curvature)]
    pairs += [
        (a.curvature, b.curvature) for a, b in zip(here.morse_sets, there.morse_sets, strict=True)
    ]
    for a, b in pairs:
        scaled_up = [factor * v for v in dataclasses.astuple(a)]
        assert list(dataclasses.astuple(b)) == scaled_up


def test_a_curvature_that_no_float_holds_is_unknown_and_nothing_else_is():
    frame = Frame(box=-500, loss=600)
    result = analysis(quadratic, [0.5, 0.3], 2.0)
    there = frame.in_units(result)
    assert there.curvature is None
    assert all(m.curvature is None for m in there.morse_sets)
    assert math.isfinite(there.morse_sets[0].loss)


def test_a_loss_that_falls_off_on_all_sides_has_no_certain_curvature():
    found = analysis(lambda x: -x.square().sum(1), [0.1, 0.1], 1.0).curvature
    assert found.largest == pytest.approx(-2, rel=0.05)
    assert found.at_least < found.largest


def portrait(*, trusted):
    """One box from -1 to 1 whose surrogate is that of a parabola."""
    x = np.linspace(-1, 1, 9)[:, None]
    given = {"lengthscales": np.array([4.0]), "variance": 10.0, "noise": 1e-8, "mean": 0.0}
    surrogate = GaussianProcess(x, 0.5 * x[:, 0] ** 2, **given)
    nested = NestedGrid((CubicalGrid([-1.0], [1.0], (8,)),), (-1,))
    chart = SimpleNamespace(surrogate=surrogate, trusted=trusted)
    chart.at = lambda point: chart
    return SimpleNamespace(nested=nested, charts=(chart,))


def test_nothing_is_said_where_the_samples_refute_the_surrogate():
    here = np.array([0.25])
    assert curvature_at(portrait(trusted=True), here, 0.95).largest == pytest.approx(1, rel=0.02)
    assert curvature_at(portrait(trusted=False), here, 0.95) is None


def test_nothing_is_said_outside():
    assert curvature_at(portrait(trusted=True), np.array([1.5]), 0.95) is None


def test_only_the_point_that_was_asked_about_and_attractors_have_one(tmp_path):
    given = {"n_samples": 48, "resolution": 32}
    result = lm.analyze(lambda x: (x**2 - 1).square().sum(1), [-2.0], [2.0], **given)
    assert result.curvature is None
    assert [m.curvature is not None for m in result.morse_sets] == [True, True, False]
    # The second derivative of (x^2 - 1)^2 at 1 is 8.
    assert result.morse_sets[0].curvature.largest == pytest.approx(8, rel=0.02)
    asked = dataclasses.replace(result, curvature=Curvature(2.0, 0.5, 1.0))
    asked.save(tmp_path / "a.npz")
    back = MorseAnalysis.load(tmp_path / "a.npz")
    assert back.curvature == asked.curvature
    assert [m.curvature for m in back.morse_sets] == [m.curvature for m in result.morse_sets]


# ------------------------------------------------- the bound, against draws from the process itself


def drawn(rng, warp, kernel=MATERN_7_2, n=14, step=0.02):
    """A surrogate of a path of the process, and the path's true largest curvature at the origin.

    The truth is that of second differences of the loss, the path unwarped, on a stencil.
    """
    lengths, noise = np.array([0.9, 1.3]), 1e-6
    samples = rng.uniform(-1, 1, (n, 2))
    stencil = step * np.array([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    points = np.concatenate([samples, stencil])
    prior = GaussianProcess(points, np.zeros(len(points)), lengths, 1.0, noise, 0.0, kernel)
    correlation = prior.prior_correlation(points, points, (0, 0))
    values, vectors = np.linalg.eigh(correlation)
    path = vectors @ (np.sqrt(np.maximum(values, 0)) * rng.normal(size=len(values)))
    seen = path[:n] + math.sqrt(noise) * rng.normal(size=n)
    loss = warp.inverse(path[n:]).reshape(3, 3)
    xx = loss[2, 1] - 2 * loss[1, 1] + loss[0, 1]
    yy = loss[1, 2] - 2 * loss[1, 1] + loss[1, 0]
    xy = (loss[2, 2] - loss[2, 0] - loss[0, 2] + loss[0, 0]) / 4
    truth = np.linalg.eigvalsh(np.array([[xx, xy], [xy, yy]]) / step**2)[-1]
    return GaussianProcess(samples, seen, lengths, 1.0, noise, 0.0, kernel, warp), float(truth)


@pytest.mark.parametrize("warp", [NO_WARP, Warp(origin=0.0, scale=0.7), Warp(0.0, 3.0)])
def test_the_bound_holds_as_often_as_it_says_on_draws(warp):
    rng, level, n = np.random.default_rng(3), 0.9, 400
    below, within = 0, 0
    for _ in range(n):
        surrogate, truth = drawn(rng, warp)
        found = largest_curvature(surrogate, np.zeros(2), level)
        below += found.at_least <= truth
        within += found.largest - 4 * found.deviation <= truth
    # Three deviations of a count whose mean is the level.
    assert below >= n * level - 3 * math.sqrt(n * level * (1 - level))
    assert within >= 0.98 * n


# ------------------------------------------------------- networks, against their full Hessian


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(16, 3)

    def forward(self, x):
        return self.last(nn.functional.softplus(self.first(x.reshape(-1, 1, 4, 4))).flatten(1))


def mlp(activation):
    return nn.Sequential(
        nn.Linear(16, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 3)
    )


NETWORKS = {
    "tanh": lambda: mlp(nn.Tanh),
    "gelu": lambda: mlp(nn.GELU),
    "relu": lambda: mlp(nn.ReLU),
    "convolution": Conv,
}


class Trained:
    """A small network after some steps of gradient descent, in double precision."""

    def __init__(self, name, seed):
        generator = torch.Generator().manual_seed(seed)
        centers = 1.5 * torch.randn(3, 16, generator=generator)
        self.labels = torch.arange(120) % 3
        noise = torch.randn(120, 16, generator=generator)
        self.inputs = (centers[self.labels] + 2 * noise).double()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = NETWORKS[name]().double()
        self.shapes = {k: p.shape for k, p in self.net.named_parameters()}
        self.path = [torch.cat([p.detach().flatten() for p in self.net.parameters()])]
        for _ in range(40):
            self.path.append(self.path[-1] - 0.2 * grad(self.loss)(self.path[-1]))
        self.weights = self.path[-1]

    def loss(self, flat):
        parts = flat.split([shape.numel() for shape in self.shapes.values()])
        weights = {k: p.reshape(s) for (k, s), p in zip(self.shapes.items(), parts, strict=True)}
        output = functional_call(self.net, weights, (self.inputs,))
        return nn.functional.cross_entropy(output, self.labels)

    def product(self, v):
        """The Hessian times a vector, by reverse mode twice."""
        direction = torch.from_numpy(np.asarray(v).ravel().copy())
        found = grad(lambda w: grad(self.loss)(w) @ direction)(self.weights)
        return found.numpy()

    def top(self):
        p = len(self.weights)
        operator = LinearOperator((p, p), matvec=self.product, dtype=np.float64)
        start = np.random.default_rng(0).normal(size=p)
        values, vectors = eigsh(operator, 2, which="LA", v0=start, tol=1e-6)
        return float(values[-1]), torch.from_numpy(vectors[:, ::-1].copy())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_never_above_the_largest_eigenvalue_of_the_full_hessian(name, seed):
    """By Lanczos. Along the top eigenvectors it is close to it as well."""
    run = Trained(name, seed)
    top, vectors = run.top()
    moved = torch.stack(run.path[::5]) - run.weights
    principal = torch.linalg.svd(moved, full_matrices=False)[2][:2].T
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(len(run.weights), 2, generator=generator, dtype=torch.float64)
    batched = vmap(run.loss)
    found = {}
    for kind, columns in (("top", vectors), ("pca", principal), ("random", random)):
        basis = torch.linalg.qr(columns)[0]
        half = max(0.5, 1.5 * float((moved @ basis).abs().max()))
        result = analysis(lambda x, b=basis: batched(run.weights + x @ b.T), [0.0, 0.0], half)
        found[kind] = result.curvature
        # The attractors are other weights, of another Hessian.
        assert result.curvature.at_least <= top, kind
    assert abs(found["top"].largest - top) < 4 * found["top"].deviation
    assert found["top"].at_least > 0
