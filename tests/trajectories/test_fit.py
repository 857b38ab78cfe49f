"""Fitting the learned map: hyper-parameters, noise, inflation, refusals."""

import numpy as np
import pytest

from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_5_2
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.trajectories.fit import fit_trajectory_map
from lightning_morse.trajectories.pairs import pairs_of_runs
from tests.learned_maps import cubic, learned


def test_the_map_and_its_noise_are_found():
    model, _ = learned(200, 0.05)
    x = np.linspace(-1.4, 1.4, 50)[:, None]
    assert model.mean(x) == pytest.approx(cubic(x), abs=0.05)
    assert model.noise_deviation == pytest.approx([0.05], rel=0.2)
    assert model.lag == 1


def test_noise_is_not_uncertainty_of_the_map():
    few, many = learned(60, 0.05)[0], learned(300, 0.05)[0]
    lattice = Lattice(CubicalGrid([-1.5], [1.5], (32,)), (1,))
    unsure = [np.median(m.values(lattice).deviation) for m in (few, many)]
    assert unsure[1] < 0.6 * unsure[0]
    assert unsure[1] < 0.4 * many.noise_deviation[0]
    assert many.noise_deviation == pytest.approx(few.noise_deviation, rel=0.3)


def test_hyper_parameters_of_a_subset_but_conditioned_on_all_pairs():
    model, pairs = learned(420, 0.05)
    (process,) = model.processes
    assert len(process.y) == 420
    again = fit_trajectory_map(pairs, [-1.5], [1.5], np.random.default_rng(5))
    assert again.noise_deviation == pytest.approx(model.noise_deviation, rel=0.15)


def naive_profile(x, y, scale):
    """Log evidence maximised over mean, variance and noise ratio, up to a constant."""
    best = -np.inf
    for ratio in np.geomspace(1e-6, 1, 200):
        k = MATERN_5_2.derivative(x[:, 0], x[:, 0], scale, 0) + ratio * np.eye(len(y))
        one = np.linalg.solve(k, np.ones(len(y)))
        residual = y - one @ y / one.sum()
        variance = residual @ np.linalg.solve(k, residual) / len(y)
        best = max(best, -0.5 * (len(y) * np.log(variance) + np.linalg.slogdet(k)[1]))
    return best


def test_lengthscales_are_the_shortest_and_the_signal_the_largest_still_plausible():
    model, pairs = learned(60, 0.1)
    (process,) = model.processes
    x, y = pairs.start, pairs.displacement[:, 0]
    likeliest = fit(x, y, [-1.5], [1.5], warped=False)
    scale = float(process.lengthscales[0])
    assert scale < likeliest.lengthscales[0]
    best = naive_profile(x, y, float(likeliest.lengthscales[0]))
    assert naive_profile(x, y, scale) >= best - 1.95
    assert naive_profile(x, y, 0.8 * scale) < best - 1.9
    # The signal grows past its best value to the end of its interval; the noise stays.
    factor = model.factors[0] ** 2
    noise = process.variance / factor * process.noise

    def evidence(signal):
        k = signal * MATERN_5_2.derivative(x[:, 0], x[:, 0], scale, 0) + noise * np.eye(len(y))
        one = np.linalg.solve(k, np.ones(len(y)))
        residual = y - one @ y / one.sum()
        return -0.5 * (residual @ np.linalg.solve(k, residual) + np.linalg.slogdet(k)[1])

    signal = process.variance / factor
    top = max(evidence(signal * g) for g in np.geomspace(0.05, 1, 100))
    assert top - 2.3 < evidence(signal) < top - 1.5


def test_outliers_inflate_the_deviations():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.5, 1.5, (80, 1))
    y = cubic(x) + 0.01 * rng.standard_normal(x.shape)
    y[7] += 0.4
    model = fit_trajectory_map(pairs_of_runs(list(np.stack([x, y], axis=1))), [-1.5], [1.5], rng)
    assert model.factors[0] > 1.5
    assert (learned(80, 0.01)[0].factors < 1.3).all()


def test_constant_displacements_are_refused():
    x = np.random.default_rng(0).uniform(-1, 1, (30, 2))
    y = np.stack([0.5 * x[:, 0], x[:, 1] + 0.25], axis=1)
    pairs = pairs_of_runs(list(np.stack([x, y], axis=1)))
    with pytest.raises(ValueError, match=r"along axis 1 is the same in all 30 pairs"):
        fit_trajectory_map(pairs, [-1, -1], [1, 1], np.random.default_rng(0))


def test_too_few_pairs_are_refused():
    pairs = pairs_of_runs([[[0.0], [0.5], [0.7]]])
    with pytest.raises(SurrogateError, match="2 samples do not determine"):
        fit_trajectory_map(pairs, [-1], [1], np.random.default_rng(0))
