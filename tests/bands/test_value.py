"""The band on values: its variances in closed form, its level, its coverage between the points."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from lightning_morse.bands.value import (
    between,
    correction_deviation,
    mean_remainder,
    reach_in_cells,
    value_band,
)
from lightning_morse.gp.kernels import MATERN_3_2, MATERN_5_2, MATERN_7_2
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice

KERNELS = pytest.mark.parametrize("kernel", [MATERN_5_2, MATERN_7_2], ids=lambda k: k.name)


def process(scale=0.4, n=9, kernel=MATERN_5_2, variance=1.0, dim=1, y=None):
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (n, dim))
    return GaussianProcess(
        x=x,
        y=np.zeros(n) if y is None else y(x),
        lengthscales=np.full(dim, scale) * np.arange(1, dim + 1),
        variance=variance,
        noise=1e-6,
        mean=0.0,
        kernel=kernel,
    )


@KERNELS
def test_the_variance_of_a_midpoint_correction_is_bounded_by_its_closed_form(kernel):
    """1 - 2 k(t/2) + (1 + k(t))/2 <= k''''(0) (delta/lambda)^4 / 64, and tends to it."""
    t = np.geomspace(1e-2, 50, 4000)
    half, whole = (kernel.polynomial(s, 0) * np.exp(-s) for s in (t / 2, t))
    variance = 1.5 - 2 * half + whole / 2
    bound = kernel.curvature_variance * (t / kernel.rate) ** 4 / 64
    assert (variance <= bound * (1 + 1e-6) + 1e-15).all()
    assert variance[t < 0.05] == pytest.approx(bound[t < 0.05], rel=0.1)
    coefficient, power = kernel.roughness_across
    assert bound == pytest.approx(coefficient * t**power)


@KERNELS
def test_interpolation_is_worst_in_the_middle(kernel):
    """The deviation of f(x) less its interpolation, at any x between two points of the lattice."""
    lattice = Lattice(CubicalGrid([-1], [1], (16,)), (1,))
    gp = process(0.4, kernel=kernel)
    bound = correction_deviation(gp, lattice)
    delta = float(lattice.spacing[0])
    for share in (0.1, 0.3, 0.5, 0.8):
        points = np.array([share * delta, 0.0, delta])
        w = np.array([1.0, share - 1, -share])
        deviation = math.sqrt(w @ kernel.derivative(points, points, 0.4, 0) @ w)
        assert deviation <= bound
        if share == 0.5:
            assert deviation > 0.8 * bound


@KERNELS
def test_a_correction_in_the_middle_of_a_square_adds_up_over_the_axes(kernel):
    h, scale = np.array([0.05, 0.12]), np.array([0.3, 0.7])
    corners = [np.array([i, j]) * h / 2 for i in (-1, 1) for j in (-1, 1)]
    points = np.array([np.zeros(2), *corners])
    w = np.array([1, -0.25, -0.25, -0.25, -0.25])
    covariance = kernel.derivative(points[:, 0], points[:, 0], scale[0], 0)
    covariance = covariance * kernel.derivative(points[:, 1], points[:, 1], scale[1], 0)
    gp = GaussianProcess(
        x=np.zeros((1, 2)),
        y=np.zeros(1),
        lengthscales=scale,
        variance=4.0,
        noise=1e-6,
        mean=0.0,
        kernel=kernel,
    )
    lattice = Lattice(CubicalGrid([0, 0], 10 * h, (10, 10)), (1, 1))
    deviation = 2 * math.sqrt(w @ covariance @ w)
    bound = correction_deviation(gp, lattice)
    assert 0.4 * bound < deviation <= bound


def test_the_allowance_falls_with_the_square_of_the_spacing():
    gp = process()
    coarse, fine = (Lattice(CubicalGrid([-1], [1], (n,)), (1,)) for n in (32, 64))
    ratio = between(math.log(1e-6), gp, coarse) / between(math.log(1e-6), gp, fine)
    assert ratio == pytest.approx(4.0)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_level_and_width_count_every_test(dim):
    lattice = Lattice(CubicalGrid([-1.0] * dim, [1.0] * dim, (8,) * dim), (1,) * dim)
    surrogates = [process(dim=dim)] * dim
    for wanted in (0.5, 0.95, 1 - 1e-9):
        band = value_band(surrogates, lattice, wanted)
        assert wanted <= band.level <= wanted + 1e-9
        tail = 0.5 * math.erfc(band.c / math.sqrt(2))
        assert 1 - band.level == pytest.approx(2.1 * dim * 9**dim * tail, rel=1e-4)
        assert band.between.shape == (dim,)


def test_the_mean_stays_within_its_remainder_between_the_points():
    def wave(x):
        return np.sin(6 * x[:, 0]) * np.cos(3 * x[:, -1])

    for dim, cells in ((1, 12), (2, 10)):
        gp = process(0.5, n=60, dim=dim, y=wave, variance=2.0)
        lattice = Lattice(CubicalGrid([-1.0] * dim, [1.0] * dim, (cells,) * dim), (1,) * dim)
        rng = np.random.default_rng(0)
        points = rng.uniform(-1, 1, (2000, dim))
        corner = np.stack(np.meshgrid(*lattice.axes, indexing="ij"), -1).reshape(-1, dim)
        table = gp.posterior(corner).mean.reshape((cells + 1,) * dim)
        place = (points + 1) / 2 * cells
        low = np.minimum(place.astype(int), cells - 1)
        share = place - low
        linear = np.zeros(len(points))
        for offset in np.ndindex(*(2,) * dim):
            o = np.array(offset)
            weight = np.where(o == 1, share, 1 - share).prod(axis=1)
            linear += weight * table[tuple((low + o).T)]
        error = np.abs(gp.posterior(points).mean - linear).max()
        assert 0.005 * mean_remainder(gp, lattice) < error <= mean_remainder(gp, lattice)


def test_the_norm_of_the_mean_is_that_of_its_space():
    gp = process(0.5, n=30, y=lambda x: np.sin(5 * x[:, 0]), variance=3.0)
    lattice = Lattice(CubicalGrid([-1], [1], (16,)), (1,))
    kernel = gp.prior_correlation(gp.x, gp.x, (0,))
    norm = math.sqrt(gp.weights @ kernel @ gp.weights / gp.variance)
    assert mean_remainder(gp, lattice) == pytest.approx(
        norm * correction_deviation(gp, lattice), rel=1e-6
    )


def test_the_band_covers_sample_paths_between_the_points_too():
    """Prior draws with known hyper-parameters, on points 8 times finer than the lattice."""
    rng = np.random.default_rng(1)
    scale, n_draws, wanted = 0.3, 300, 0.7
    lattice = Lattice(CubicalGrid([-1], [1], (16,)), (1,))
    x, fine = np.linspace(-0.95, 0.95, 14), np.linspace(-1, 1, 129)
    both = np.concatenate([x, fine])
    values, vectors = np.linalg.eigh(MATERN_5_2.derivative(both, both, scale, 0))
    root = vectors * np.sqrt(np.maximum(values, 0))
    cell = np.minimum(np.arange(129) // 8, 15)
    held = held_at_points = 0
    for _ in range(n_draws):
        path = root @ rng.standard_normal(len(both))
        gp = GaussianProcess(
            x=x[:, None],
            y=path[:14] + 0.03 * rng.standard_normal(14),
            lengthscales=np.array([scale]),
            variance=1.0,
            noise=0.0009,
            mean=0.0,
        )
        band = value_band([gp], lattice, wanted)
        at = gp.lattice_posterior(lattice.axes)
        wide = band.between[0] + mean_remainder(gp, lattice)
        low = -lattice.largest_corner(band.c * at.deviation - at.mean) - wide
        up = lattice.largest_corner(at.mean + band.c * at.deviation) + wide
        held += bool(((low[cell] <= path[14:]) & (path[14:] <= up[cell])).all())
        few = np.abs(path[14::8] - at.mean) <= 1.5 * at.deviation
        held_at_points += bool(few.all())
    assert held / n_draws >= wanted
    assert held_at_points / n_draws < wanted  # 1.5 deviations at the points are not enough


def test_the_allowance_is_the_sum_of_all_corrections():
    gp = process(variance=2.0, dim=2)
    lattice = Lattice(CubicalGrid([-1.0, -1.0], [1.0, 1.0], (32, 16)), (1, 1))
    tail = 1e-7
    total = 0.0
    for k in range(1, 40):
        quantile = norm.isf(tail * 2.0 ** (-3 * k))
        spacing = lattice.spacing / 2 ** (k - 1)
        total += quantile * math.sqrt(2 * 25) * np.sum(spacing**2 / (8 * gp.lengthscales**2))
    assert between(math.log(tail), gp, lattice) == pytest.approx(total)


@pytest.mark.parametrize("kernel", [MATERN_3_2, MATERN_5_2], ids=lambda k: k.name)
def test_the_reach_in_a_cell_is_more_than_the_deviations_in_it(kernel):
    """Also with more samples than lattice points, where cells are wider than their corners tell."""
    for n, cells in ((12, 64), (300, 128)):
        gp = process(0.3, n=n, kernel=kernel)
        lattice = Lattice(CubicalGrid([-1], [1], (cells,)), (1,))
        places = np.random.default_rng(5).uniform(-1, 1, (4000, 1))
        found = np.hypot(gp.posterior(places).deviation, math.sqrt(gp.noise))
        reach = reach_in_cells(gp, gp.lattice_values(lattice.axes), lattice, 0.05)
        c = -norm.ppf(0.05 / (2.1 * (cells + 1)))  # of the lattice as it is
        assert (c * found <= reach[lattice.grid.cell_of(places)] * 1.005).all()
