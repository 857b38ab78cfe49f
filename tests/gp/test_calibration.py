import math

import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse.analysis.design import design
from lightning_morse.analysis.pipeline import analyze_samples
from lightning_morse.gp.calibration import (
    Calibrated,
    check,
    expected_largest,
    fit_calibrated,
    inflate,
)
from lightning_morse.gp.kernels import MATERN_5_2, MATERN_7_2
from lightning_morse.gp.process import GaussianProcess, SurrogateError
from tests import landscapes as land

BOX = [-1, -1], [1, 1]


def draw(kernel, x, scale, seed):
    """A path of the prior at some points."""
    factors = [kernel.derivative(x[:, j], x[:, j], scale, 0) for j in range(x.shape[1])]
    covariance = np.prod(factors, axis=0) + 1e-10 * np.eye(len(x))
    return np.linalg.cholesky(covariance) @ np.random.default_rng(seed).standard_normal(len(x))


def test_expected_largest_is_a_quantile():
    rng = np.random.default_rng(0)
    largest = np.abs(rng.standard_normal((20_000, 64))).max(axis=1)
    assert np.mean(largest > expected_largest(64)) == pytest.approx(0.05, abs=0.01)


def test_smooth_losses_get_the_smooth_kernel_and_no_warp():
    x = design(*BOX, 128, 0)
    found = fit_calibrated(x, land.himmelblau(5 * x), *BOX)
    assert found.surrogate.kernel is MATERN_7_2
    assert math.isinf(found.surrogate.warp.scale)
    assert found.factor == 1
    assert found.trusted


def test_paths_of_the_rough_kernel_are_not_taken_for_smooth_or_warped():
    x = design(*BOX, 96, 0)
    found = [fit_calibrated(x, draw(MATERN_5_2, x, 0.5, seed), *BOX) for seed in range(12)]
    assert sum(f.surrogate.kernel is MATERN_5_2 for f in found) >= 11
    assert sum(math.isinf(f.surrogate.warp.scale) for f in found) >= 11


def test_a_loss_steep_outside_and_flat_inside_is_warped():
    x = design(*BOX, 128, 0)
    found = fit_calibrated(x, np.exp(land.double_well(2 * x)), *BOX)
    assert math.isfinite(found.surrogate.warp.scale)


def test_residuals_too_large_for_the_model_inflate_it():
    """A few samples stick out of a smooth bowl: neither a rough path nor noise looks like that."""
    x = design(*BOX, 128, 0)
    losses = land.bowl(x)
    losses[[20, 40, 60, 80]] += [0.5, -0.3, 0.4, -0.5]
    found = fit_calibrated(x, losses, *BOX)
    assert 1.2 < found.factor < 2
    assert found.trusted
    assert found.factor == pytest.approx(found.largest_residual / expected_largest(128))
    again = found.surrogate.leave_one_out()
    assert np.abs(again).max() == pytest.approx(expected_largest(128))


def test_a_surrogate_that_is_plainly_wrong_gets_no_mu():
    x = design(*BOX, 128, 0)
    losses = land.bowl(x)
    losses[40] += 3.0
    result = analyze_samples(x, losses, *BOX, 32)
    assert result.calibration > 2
    assert result.mu == 0.0
    assert result.claim == "no certain attractor"
    assert result.undecided == 1


def test_constant_losses_are_refused():
    with pytest.raises(SurrogateError, match="at every sample"):
        fit_calibrated(design(*BOX, 32, 0), np.ones(32), *BOX)


def test_losses_over_twelve_orders_of_magnitude():
    """The logarithm of this loss is a bowl: warped, it has the bowl's one attractor."""
    x = design(*BOX, 128, 0)
    losses = 10.0 ** (6 * land.bowl(x)) - 0.5
    assert losses.max() / losses.min() > 1e10
    result = analyze_samples(x, losses, *BOX, 48)
    assert result.n_attractors == 1
    assert result.morse_sets[0].center == pytest.approx([0, 0], abs=0.05)


@pytest.mark.parametrize("distance", [0.0, 1e-14, 1e-9, 1e-4])
def test_nearly_equal_samples_are_no_evidence_twice(distance):
    x = design(*BOX, 48, 0)
    twice = np.concatenate([x, x + distance])
    once, result = (
        analyze_samples(points, land.double_well(2 * points), *BOX, 32) for points in (x, twice)
    )
    assert result.n_attractors <= 4
    assert np.isfinite(result.mean_loss).all()
    # Beyond what slopes between neighbours tell, nothing can be learnt from a sample seen twice.
    if distance < 1e-9:
        assert result.undecided >= once.undecided - 0.1


def test_a_handful_of_samples_claims_nothing_it_cannot_know():
    """16 samples of a landscape with four minima: no certain label may be wrong."""
    minima = np.array([[i, j] for i in (-0.5, 0.5) for j in (-0.5, 0.5)])
    for seed in range(6):
        x = design(*BOX, 16, seed)
        result = analyze_samples(x, land.double_well(2 * x), *BOX, 32)
        known = result.labels >= 0
        centers = result.grid.cell_centers()[known]
        side = np.sign(centers) / 2  # which minimum the flow leads to
        owner = dict(zip(map(tuple, minima), result.grid.cell_of(minima), strict=True))
        for point, label in zip(map(tuple, side), result.labels[known], strict=True):
            assert owner[point] in result.morse_sets[label].cells
        if result.n_unresolved == 0 and result.mu > 0:
            assert result.n_attractors == 4


def kinked(x):
    """Smooth at the samples' own scale, with a comb of kinks far below it."""
    teeth = np.abs((40 * x[:, 0]) % 1 - 0.5)
    return np.square(x).sum(1) + 0.05 * teeth


def test_held_back_derivatives_are_standard_normal_under_the_model():
    """Prior draws, each conditioned on its samples: alarms as often as they should be."""
    rng = np.random.default_rng(5)
    start = design([-1, -1], [1, 1], 40, 0)
    end = start[:8] + 1e-3 * rng.standard_normal((8, 2))
    x = np.concatenate([start, end])
    scale, alarms, n = 0.8, 0, 200
    factors = [MATERN_7_2.derivative(x[:, j], x[:, j], scale, 0) for j in range(2)]
    root = np.linalg.cholesky(factors[0] * factors[1] + 1e-12 * np.eye(len(x)))
    largest = []
    for _ in range(n):
        y = root @ rng.standard_normal(len(x))
        gp = GaussianProcess(
            x=start,
            y=y[:40],
            lengthscales=np.full(2, scale),
            variance=1.0,
            noise=1e-11,
            mean=0.0,
            kernel=MATERN_7_2,
        )
        largest.append(check(Calibrated(gp, 1.0, 0.0), start[:8], end, y[:8], y[40:]))
    alarms = np.mean(np.array(largest) > expected_largest(8))
    assert 0.01 < alarms < 0.12
    assert 1.0 < np.median(largest) < 2.5


def test_derivatives_that_contradict_the_surrogate_inflate_it_or_refute_it():
    x = design([-1, -1], [1, 1], 64, 0)
    smooth = fit_calibrated(x, np.square(x).sum(1), [-1, -1], [1, 1])
    end = x[:4] + 1e-3
    before, after = np.square(x[:4]).sum(1), np.square(end).sum(1)
    assert inflate(smooth, check(smooth, x[:4], end, before, after), 4).factor == smooth.factor
    largest = check(smooth, x[:4], end, before, after + 1e-3 * np.array([0, 0, 30, 0]))
    worse = inflate(smooth, largest, 4)
    assert worse.factor == 10
    assert not worse.trusted
    assert worse.surrogate.variance == pytest.approx(
        smooth.surrogate.variance * (10 / smooth.factor) ** 2
    )
    assert check(smooth, x[:0], end[:0], before[:0], after[:0]) == 0
    assert inflate(smooth, 0.0, 0) is smooth


def test_a_loss_below_the_floor_of_the_warp_refutes_it():
    x = design([-1, -1], [1, 1], 64, 0)
    steep = fit_calibrated(x, np.exp(6 * np.square(x).sum(1)), [-1, -1], [1, 1])
    floor = steep.surrogate.warp.floor
    assert np.isfinite(floor)
    below = check(steep, x[:1], x[:1] + 1e-3, np.array([floor + 1]), np.array([floor - 1]))
    assert below == np.inf
    assert not inflate(steep, below, 1).trusted


def test_kinks_between_the_samples_are_seen_by_derivatives():
    """Leave-one-out residuals take the teeth for noise or do not see them; derivatives do."""
    result = lm.analyze(
        lambda x: torch.from_numpy(kinked(x.numpy())), [-1, -1], [1, 1], resolution=32
    )
    assert result.calibration > 1.5 or result.surrogate.noise_deviation > 1e-3
