import math

import numpy as np
import pytest

from lightning_morse.analysis import analyze_samples
from lightning_morse.calibration import expected_largest, fit_calibrated
from lightning_morse.kernel import MATERN_5_2, MATERN_7_2
from lightning_morse.sampling import design
from lightning_morse.surrogate import SurrogateError
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
