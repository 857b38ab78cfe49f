"""The evidence, its derivatives, and the surrogates that maximise it."""

import math

import numpy as np
import pytest

from lightning_morse.analysis.design import design
from lightning_morse.gp import fit as fitting
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_5_2, MATERN_7_2
from tests.landscapes import bowl, double_well, himmelblau


@pytest.mark.parametrize("kernel", [MATERN_5_2, MATERN_7_2], ids=lambda k: k.name)
def test_derivatives_of_the_evidence_are_right(kernel):
    x = design([-1, -1], [1, 1], 40, 1)
    losses = himmelblau(4 * x)
    z = (losses - losses.min()) / np.ptp(losses)
    evidence = fitting._Evidence(x, z, kernel)
    at = np.array([0.4, 0.9, math.log(1e-4), math.log(0.3)])
    value, gradient = evidence.negative_log(at)
    numeric = [
        (evidence.negative_log(at + 1e-5 * e)[0] - evidence.negative_log(at - 1e-5 * e)[0]) / 2e-5
        for e in np.eye(4)
    ]
    assert np.isfinite(value)
    assert gradient == pytest.approx(numeric, rel=1e-5)


def test_evidence_is_the_density_of_the_unwarped_losses():
    x = design([-1, -1], [1, 1], 40, 1)
    losses = np.exp(-3 * bowl(x)) + 0.1
    gp = fit(x, losses, [-1, -1], [1, 1])
    covariance = gp.variance * gp._covariance
    residual = gp.y - gp.mean
    expected = -0.5 * (
        residual @ np.linalg.solve(covariance, residual)
        + np.linalg.slogdet(2 * np.pi * covariance)[1]
    )
    if math.isfinite(gp.warp.scale):
        expected -= np.log1p((losses - gp.warp.origin) / gp.warp.scale).sum()
    assert gp.log_evidence == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kernel", [MATERN_5_2, MATERN_7_2], ids=lambda k: k.name)
def test_the_fit_is_no_worse_than_nearby_parameters(kernel):
    x = design([-2, -2], [2, 2], 64, 0)
    losses = double_well(x)
    gp = fit(x, losses, [-2, -2], [2, 2], kernel)
    z = (losses - losses.min()) / np.ptp(losses)
    evidence = fitting._Evidence(x, z, kernel)
    bend = min(gp.warp.scale / np.ptp(losses), fitting._NO_WARP)
    best = np.log([*gp.lengthscales, gp.noise, bend])
    at_best, _ = evidence.negative_log(best)
    for e in 0.1 * np.vstack([np.eye(4)[[0, 1, 3]], -np.eye(4)[[0, 1, 3]]]):
        assert evidence.negative_log(best + e)[0] >= at_best - 0.02


def test_a_log_of_a_smooth_function_is_warped_and_a_polynomial_hardly():
    x = design([-1, -1], [1, 1], 128, 0)
    steep = np.exp(3 * np.sin(2 * x).sum(1)) + 0.05
    warp = fit(x, steep, [-1, -1], [1, 1]).warp
    assert warp.scale < 0.01 * np.ptp(steep)
    assert warp.floor < steep.min()
    assert fit(x, double_well(2 * x), [-1, -1], [1, 1]).warp.scale > np.ptp(double_well(2 * x))


@pytest.mark.parametrize(
    ("x", "losses", "message"),
    [
        (np.zeros((20, 2)), np.zeros(20), "the loss is the same at every sample"),
        (np.zeros((4, 2)), np.arange(4.0), "at least 8 are needed"),
        (np.zeros((20, 1)), np.arange(20.0), r"x must have shape \(n, 2\)"),
        (np.zeros((20, 2)), np.full(20, np.nan), "losses must be finite, got nan"),
    ],
)
def test_hopeless_samples_are_refused(x, losses, message):
    with pytest.raises(ValueError, match=message):
        fit(x, losses, [-1, -1], [1, 1])


def test_duplicate_samples_with_different_losses_become_noise():
    x = np.concatenate([design([-1], [1], 32, 0)] * 2)
    rng = np.random.default_rng(0)
    gp = fit(x, bowl(x) + 0.05 * rng.standard_normal(64), [-1], [1])
    assert math.sqrt(gp.variance * gp.noise) == pytest.approx(0.05, rel=0.5)
