"""Whether a loss has kinks, told by the evidence of a process that has."""

import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse.analysis.design import design
from lightning_morse.analysis.sentence import sentence
from lightning_morse.facts import LIKELY_KINKED
from lightning_morse.gp import kinks
from lightning_morse.gp.calibration import fit_calibrated
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_3_2, MATERN_5_2, Matern
from lightning_morse.gp.kinks import kinked_weight
from lightning_morse.gp.process import GaussianProcess, SurrogateError

LOWER, UPPER = np.full(2, -1.0), np.full(2, 1.0)


def weight(losses, points):
    surrogate = fit_calibrated(points, losses, LOWER, UPPER).surrogate
    return kinked_weight(surrogate, losses, LOWER, UPPER)


def path(kernel: Matern, seed: int, points):
    """A sample path with lengthscale 0.6, at some points."""
    prior = kernel.derivative(points[:, 0], points[:, 0], 0.6, 0)
    prior = prior * kernel.derivative(points[:, 1], points[:, 1], 0.6, 0)
    factor = np.linalg.cholesky(prior + 1e-10 * np.eye(len(points)))
    return factor @ np.random.default_rng(seed).normal(size=len(points))


def test_paths_with_kinks_are_told_from_smooth_ones():
    points = design(LOWER, UPPER, 96, 0)
    kinked = [weight(path(MATERN_3_2, seed, points), points) for seed in range(8)]
    smooth = [weight(path(MATERN_5_2, seed, points), points) for seed in range(8)]
    right = np.array(kinked) > 0.5, np.array(smooth) < 0.5
    assert np.sum(right, axis=1).tolist() >= [6, 6], (kinked, smooth)


def test_the_weight_follows_from_two_evidences():
    points = design(LOWER, UPPER, 64, 1)
    losses = np.abs(points - 0.2).sum(axis=1) + 0.3 * (points**2).sum(axis=1)
    surrogate = fit(points, losses, LOWER, UPPER, warped=False)
    rough = fit(points, losses, LOWER, UPPER, MATERN_3_2, warped=False, start=surrogate)
    odds = np.exp(rough.log_evidence - surrogate.log_evidence)
    found = kinked_weight(surrogate, losses, LOWER, UPPER)
    assert found == pytest.approx(odds / (1 + odds), abs=0.02)
    assert found > 0.5
    smooth = 0.3 * (points**2).sum(axis=1)
    assert weight(smooth, points) < 1e-6


def test_without_a_fit_with_kinks_there_is_no_doubt(monkeypatch):
    def refuse(*_, **__):
        raise SurrogateError("no covariance")

    points = design(LOWER, UPPER, 64, 1)
    surrogate = fit(points, (points**2).sum(axis=1), LOWER, UPPER)
    monkeypatch.setattr(kinks, "fit", refuse)
    assert kinked_weight(surrogate, surrogate.y, LOWER, UPPER) == 0.0


def test_where_kinks_are_likelier_no_count_is_exact():
    def pyramid(x):
        return (x - 0.15).abs().sum(1) + 0.3 * x.square().sum(1)

    result = lm.analyze(pyramid, LOWER, UPPER, n_samples=128, resolution=64)
    assert result.calibration < 2
    assert result.n_unresolved > 0
    assert result.evidence.kinked > LIKELY_KINKED
    assert not result.claim.startswith("exactly")
    for found in result.morse_sets:
        assert found.index is None
    assert "The loss seems to have kinks, where minima cannot be counted" in sentence(result)


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_an_exact_claim_is_doubted_as_far_as_kinks_are_likely(monkeypatch, share):
    monkeypatch.setattr("lightning_morse.analysis.surrogates.kinked_weight", lambda *_: share)

    def bowl(x):
        return (x + 0.1).square().sum(1) + 0.2 * x[:, 0].pow(3)

    result = lm.analyze(bowl, LOWER, UPPER, n_samples=96, resolution=32)
    assert result.claim == "exactly 1 attractor"
    assert result.evidence.kinked == share
    assert result.mu == pytest.approx(result.mu_model * result.evidence.adequacy * (1 - share))
    # That there is an attractor does not depend on it, nor does a lower bound on the number.
    monkeypatch.setattr("lightning_morse.analysis.surrogates.kinked_weight", lambda *_: 0.3)
    doubted = lm.analyze(bowl, LOWER, UPPER, n_samples=96, resolution=32)
    assert doubted.claim == "at least 1 attractor"
    assert doubted.evidence.kinked == 0.3
    assert doubted.mu == pytest.approx(doubted.mu_model * doubted.evidence.adequacy)
    assert result.morse_sets[0].mu > 0.9


def test_the_rough_process_makes_no_claims_about_slopes():
    """It is compared by evidence alone; a band on its gradient would be infinite."""
    points = design(LOWER, UPPER, 32, 0)
    rough = GaussianProcess(points, points[:, 0], np.ones(2), 1.0, 1e-6, 0.0, MATERN_3_2)
    assert np.isinf(rough.kernel.roughness_along[0])
    assert np.isinf(rough.kernel.curvature_variance)
    assert torch.isfinite(torch.from_numpy(rough.leave_one_out())).all()
