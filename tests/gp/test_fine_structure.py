"""What a fit takes for noise is structure where the loss has none, and its gradient counts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse.gp.calibration import check, fit_calibrated, shows_noise, with_fine_structure
from lightning_morse.gp.process import GaussianProcess

LOWER, UPPER = np.array([-1.0, -1.0]), np.array([1.0, 1.0])


def process(noise, fine=None):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (20, 2))
    return GaussianProcess(x, np.square(x).sum(1), np.ones(2), 2.0, noise, 0.0, fine=fine)


def test_derivatives_gain_the_variance_of_the_structure():
    scale, noise = np.array([0.1, 0.2]), 1e-4
    plain, fine = process(noise), process(noise, scale)
    points = np.array([[0.1, 0.2], [0.9, -0.4]])
    added = min(2.0 * noise, fine.residual_variance)
    before, after = plain.posterior(points), fine.posterior(points)
    gained = np.square(after.gradient_deviation) - np.square(before.gradient_deviation)
    expected = np.tile(added * 5 / 3 / scale**2, (2, 1))
    assert gained == pytest.approx(expected, rel=1e-6)
    assert np.array_equal(before.mean, after.mean)
    assert np.array_equal(before.deviation, after.deviation)
    lattice = fine.lattice_posterior([points[:, 0], points[:, 1]])
    assert lattice.gradient_deviation[[0, 3]] == pytest.approx(after.gradient_deviation)
    covariance = fine.derivative_distribution(points)[1] - plain.derivative_distribution(points)[1]
    slopes, xx, xy, yy = covariance[0, :2, :2], *np.diag(covariance[0])[2:]
    assert slopes == pytest.approx(np.diag(expected[0]), rel=1e-6, abs=1e-9)
    assert xx == pytest.approx(added * 25 / scale[0] ** 4, rel=1e-6)
    assert xy == pytest.approx(added * 25 / 9 / np.prod(scale**2), rel=1e-6)
    assert yy == pytest.approx(added * 25 / scale[1] ** 4, rel=1e-6)


def test_residuals_tell_how_much_noise_there_is():
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (200, 2))
    smooth = np.sin(x).sum(1)
    for deviation in (0.0, 1e-3, 0.02):
        y = smooth + deviation * rng.standard_normal(200)
        found = GaussianProcess(x, y, np.ones(2), 2.0, max(deviation, 1e-4) ** 2 / 2, 0.0)
        assert np.sqrt(found.residual_variance) == pytest.approx(deviation, rel=0.35, abs=2e-5)


def wrinkled(x):
    """A bowl with wrinkles that samples a tenth of the box apart cannot tell from noise."""
    return x.square().sum(1) + 0.01 * torch.sin(97 * x[:, 0]) * torch.sin(89 * x[:, 1])


def widths_of(model, scale):
    """Of a box whose samples are so far apart."""
    n, dim = model.surrogate.x.shape
    return np.full(dim, scale * n ** (1 / dim))


def pairs(loss, n=64, k=6):
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (n, 2))
    model = fit_calibrated(x, loss(torch.from_numpy(x)).numpy(), LOWER, UPPER)
    start = x[:k]
    end = start + 2e-3 * np.array([0.6, 0.8])
    before, after = (loss(torch.from_numpy(p)).numpy() for p in (start, end))
    return model, start, end, before, after


def test_held_out_losses_tell_noise_from_structure():
    generator = torch.Generator().manual_seed(0)

    def noisy(x):
        return x.square().sum(1) + 0.01 * torch.randn(len(x), generator=generator, dtype=x.dtype)

    assert shows_noise(*pairs(noisy))
    model, *about = pairs(wrinkled)
    assert np.sqrt(model.surrogate.residual_variance) == pytest.approx(0.005, rel=0.3)
    assert not shows_noise(model, *about)
    none = [a[:0] for a in about]
    assert not shows_noise(model, *none)


def test_held_out_derivatives_are_not_drowned_in_the_noise_of_a_loss_without():
    model, *about = pairs(wrinkled)
    calm = check(model, *about)
    bold = dataclasses.replace(model.surrogate, fine=np.full(2, 100.0))  # no gradient to speak of
    judged = check(with_fine_structure(model, widths_of(model, 0.03)), *about)
    assert check(dataclasses.replace(model, surrogate=bold), *about) > 10
    assert calm < 1
    assert judged < 10


def test_rounding_of_what_a_small_loss_is_computed_from_refutes_nothing():
    """Near the floor of a cross-entropy in single precision: 1e-4 made of numbers of order one."""

    def rounded(x):
        smooth = 1e-4 * (x.square().sum(1) + 0.2 * x[:, 0].pow(3))
        return ((smooth + 2).float() - 2).double()

    model, *about = pairs(rounded)
    as_structure = with_fine_structure(model, widths_of(model, 0.25))
    assert check(as_structure, *about) > 5
    assert check(as_structure, *about, 2.0) < 3
    # But for no more than a typical loss explains, and no more than the noise that was fitted.
    assert check(as_structure, *about, 1e-3) > 5
    model, *about = pairs(lambda x: x.square().sum(1))
    jump = np.array([0, 0, 1e-4, 0, 0, 0])
    before, after = about[2], about[3] + jump
    assert (
        check(with_fine_structure(model, widths_of(model, 0.25)), *about[:2], before, after, 2.0)
        > 10
    )


def test_nothing_false_is_said_of_minima_between_the_wrinkles():
    """There are hundreds of them; without the structure it was one, at 1 - 1e-6."""
    result = lm.analyze(wrinkled, LOWER, UPPER, n_samples=128, resolution=64)
    assert result.claim in ("no certain attractor", "at least 1 attractor")
