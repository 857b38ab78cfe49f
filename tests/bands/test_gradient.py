import math
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest

from lightning_morse import CubicalGrid
from lightning_morse.analysis.design import design
from lightning_morse.bands.gradient import (
    CellDeviations,
    between,
    failure_bound,
    gradient_band,
    level,
    quantile,
)
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_5_2, MATERN_7_2
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.grids.lattice import Lattice
from tests.landscapes import double_well


def _exact(number):
    """The fraction that a coefficient stands for."""
    fraction = Fraction(number).limit_denominator(1000)
    return mpmath.mpf(fraction.numerator) / fraction.denominator


@pytest.mark.parametrize("kernel", [MATERN_5_2, MATERN_7_2], ids=lambda k: k.name)
def test_the_variance_of_a_correction_is_bounded_as_stated(kernel):
    """1 - 2 g(t/2) + (1 + g(t)) / 2 against the powers of t the kernel states, in 50 digits."""

    def correlation(order):
        """Of a slope along its own axis (2) and along another (0)."""
        p = [_exact(c) for c in kernel.polynomials[order]]
        return lambda t: sum(c * t**k for k, c in enumerate(p)) / p[0] * mpmath.exp(-t)

    with mpmath.workdps(50):
        for exponent in np.linspace(-8, 3, 300):
            t = mpmath.mpf(10) ** float(exponent)
            for order, (coefficient, power) in (
                (2, kernel.roughness_along),
                (0, kernel.roughness_across),
            ):
                g = correlation(order)
                middle = 1 - 2 * g(t / 2) + (1 + g(t)) / 2
                assert 0 <= middle <= _exact(coefficient) * t**power


def test_the_prior_variance_of_a_correction_in_two_dimensions():
    """The centre of a square against the mean of its corners, from the covariance itself."""
    scale, h = np.array([0.7, 1.1]), np.array([0.05, 0.08])

    def second(a, b):  # covariance of the derivative along axis 0, by differences
        step = 1e-4
        k0 = MATERN_5_2.derivative(np.array([a[0] + step]), np.array([b[0]]), scale[0], 1)
        k1 = MATERN_5_2.derivative(np.array([a[0] - step]), np.array([b[0]]), scale[0], 1)
        # d/db of dk/da is minus d/da of dk/da
        return -((k0 - k1) / (2 * step) * MATERN_5_2.derivative(a[1:], b[1:], scale[1], 0)).item()

    corners = [np.array([i, j]) * h / 2 for i in (-1, 1) for j in (-1, 1)]
    points = [np.zeros(2), *corners]
    weights = np.array([1, -0.25, -0.25, -0.25, -0.25])
    variance = sum(
        a * b * second(p, q)
        for a, p in zip(weights, points, strict=True)
        for b, q in zip(weights, points, strict=True)
    )
    t = math.sqrt(5) * h / scale
    prior = 5 / 3 / scale[0] ** 2
    bound = prior * (math.sqrt(t[0] ** 3 / 3) + t[1] ** 2 / 8) ** 2
    assert 0 < variance <= bound
    assert variance > 0.2 * bound  # it is a bound of the right size


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_level_and_quantile_are_inverse_and_count_every_test(dim):
    lattice = Lattice.of(CubicalGrid([0.0] * dim, [1.0] * dim, (16,) * dim))
    for wanted in (0.5, 0.95, 1 - 1e-12):
        for halvings in (0, 3):
            reached = level(quantile(wanted, lattice, halvings), lattice, halvings)
            assert wanted <= reached <= wanted + 1e-10
    tail = 0.5 * math.erfc(5 / math.sqrt(2))
    assert level(5.0, lattice) == pytest.approx(1 - 2.1 * dim * lattice.n_points * tail, abs=1e-9)
    assert level(0.1, lattice) == 0.0
    halved = 1 - 2.1 * dim * lattice.n_points * 4**dim * tail
    assert level(5.0, lattice, 2) == pytest.approx(max(0.0, halved), abs=1e-9)


def test_the_band_grows_with_confidence():
    x = np.linspace(-2, 2, 24)[:, None]
    gp = fit(x, double_well(x), [-2], [2])
    lattice = Lattice.of(CubicalGrid([-2], [2], (32,)))
    posterior = gp.lattice_posterior(lattice.axes)
    narrow, wide = (gradient_band(gp, lattice, posterior, p) for p in (0.5, 0.999))
    assert (narrow.radius < wide.radius).all()
    assert narrow.level >= 0.5
    assert wide.level >= 0.999


def test_more_points_allow_less_between_them():
    gp = GaussianProcess(
        x=np.linspace(-1, 1, 9)[:, None],
        y=np.zeros(9),
        lengthscales=np.array([0.5]),
        variance=1.0,
        noise=1e-6,
        mean=0.0,
    )
    coarse, fine = (Lattice(CubicalGrid([-1], [1], (n,)), (1,)) for n in (64, 256))
    ratio = between(math.log(1e-6), gp, coarse) / between(math.log(1e-6), gp, fine)
    assert ratio == pytest.approx(4**1.5, rel=0.1)


@pytest.mark.parametrize(
    ("kernel", "cells", "halved"),
    [(MATERN_5_2, 64, False), (MATERN_5_2, 32, True), (MATERN_7_2, 16, True)],
)
def test_the_band_covers_sample_paths_between_the_lattice_points_too(kernel, cells, halved):
    """Prior draws of path and derivative, hyper-parameters given; points several times finer."""
    rng = np.random.default_rng(0)
    scale, n_draws, wanted = 0.4, 300, 0.8
    grid = CubicalGrid([-1], [1], (cells,))
    lattice = Lattice(grid, (1,))
    x = np.linspace(-0.95, 0.95, 12)
    fine = np.linspace(-1, 1, 257)

    def k(a, b, order_a, order_b):
        return (-1) ** order_b * kernel.derivative(a, b, scale, order_a + order_b)

    joint = np.block([[k(x, x, 0, 0), k(x, fine, 0, 1)], [k(fine, x, 1, 0), k(fine, fine, 1, 1)]])
    values, vectors = np.linalg.eigh(joint)
    root = vectors * np.sqrt(np.maximum(values, 0))
    cell = np.minimum(np.arange(257) * grid.size // 256, grid.size - 1)
    held = 0
    for _ in range(n_draws):
        path = root @ rng.standard_normal(len(joint))
        gp = GaussianProcess(
            x=x[:, None],
            y=path[:12] + 1e-4 * rng.standard_normal(12),
            lengthscales=np.array([scale]),
            variance=1.0,
            noise=1e-8,
            mean=0.0,
            kernel=kernel,
        )
        band = gradient_band(gp, lattice, gp.lattice_posterior(lattice.axes), wanted)
        assert (band.halvings > 0) == halved
        error = np.abs(path[12:] - gp.posterior(fine[:, None]).gradient[:, 0])
        held += bool((error <= band.radius[cell, 0]).all())
    # The union bound errs on the safe side, but the band must not be so wide that it says nothing.
    assert held / n_draws >= wanted
    assert np.median(band.radius) < 3 * 1.3 / scale


def test_lattice_cells_lie_in_grid_cells():
    lattice = Lattice(CubicalGrid([0, 0], [2, 6], (2, 2)), (1, 3))
    assert lattice.grid_cell_of(np.array([0, 2, 3, 11])).tolist() == [0, 0, 1, 3]
    assert lattice.cell_centers(np.array([0, 7])).tolist() == [[0.5, 0.5], [1.5, 1.5]]


def test_lattice_ranges_hold_what_is_inside():
    grid = CubicalGrid([-1, 0], [1, 1], (8, 4))
    lattice = Lattice(grid, (2, 3))
    assert lattice.cells == (16, 12)
    points = np.stack(np.meshgrid(*lattice.axes, indexing="ij"), -1).reshape(-1, 2)

    def f(p):
        return np.stack([np.sin(4 * p[:, 0]) * p[:, 1], p[:, 0] ** 2 + np.cos(3 * p[:, 1])], 1)

    low, high = lattice.cell_range(f(points))
    fine = CubicalGrid(grid.lower, grid.upper, lattice.cells)
    inside = np.random.default_rng(0).uniform(grid.lower, grid.upper, (4000, 2))
    cell = fine.cell_of(inside)
    assert (low[cell] <= f(inside)).all()
    assert (f(inside) <= high[cell]).all()
    corners = lattice.largest_corner(f(points))
    assert (high >= corners).all()
    assert np.allclose(lattice.grid_corners(points), points.reshape(17, 13, 2)[::2, ::3])


def test_a_grid_cell_has_its_lattice_cells():
    lattice = Lattice(CubicalGrid([0, 0], [1, 1], (2, 2)), (2, 3))
    mask = np.zeros((4, 6), dtype=bool)
    mask[3, 2] = True
    assert lattice.any_in_grid_cell(mask.ravel()).tolist() == [False, False, True, False]


def test_coarse_grids_get_a_finer_lattice():
    assert Lattice.of(CubicalGrid([0, 0], [1, 1], (64, 128))).refinement == (2, 1)
    assert Lattice.of(CubicalGrid([0] * 4, [1] * 4, (4,) * 4)).refinement == (1, 1, 1, 1)


def test_the_failure_on_some_cells_counts_their_corners():
    lattice = Lattice.of(CubicalGrid([0.0, 0.0], [1.0, 1.0], (16, 16)))
    assert 1 - failure_bound(5.0, lattice) == pytest.approx(level(5.0, lattice))
    half = failure_bound(5.0, lattice, lattice.n_points // 2)
    assert half == pytest.approx(failure_bound(5.0, lattice) / 2, rel=1e-3)


def process(dim, n, scale, seed=0, kernel=MATERN_7_2):
    """A process that has seen n zeros on a cube."""
    return GaussianProcess(
        x=design(-np.ones(dim), np.ones(dim), n, seed),
        y=np.zeros(n),
        lengthscales=np.full(dim, scale),
        variance=1.0,
        noise=1e-9,
        mean=0.0,
        kernel=kernel,
    )


def deviations_of(gp, lattice):
    return CellDeviations(gp, lattice, gp.lattice_posterior(lattice.axes).gradient_deviation)


def test_the_lattice_is_halved_only_where_much_is_allowed_between_its_points():
    wide = Lattice(CubicalGrid([-1.0] * 2, [1.0] * 2, (128, 128)), (1, 1))
    assert deviations_of(process(2, 24, 0.5), wide).halvings == 0
    cube = Lattice(CubicalGrid([-1.0] * 3, [1.0] * 3, (16,) * 3), (1,) * 3)
    gp = process(3, 200, 1.0)
    deviations = deviations_of(gp, cube)
    assert deviations.halvings > 0
    posterior = gp.lattice_posterior(cube.axes)
    c = quantile(0.95, cube)
    proved = c * deviations.at_corners + between(math.log(0.05 * 0.05 / 1e5), gp, cube)
    halved = gradient_band(gp, cube, posterior, 0.95, deviations)
    assert halved.level >= 0.95
    assert halved.c > c
    assert np.median(halved.radius) < 0.7 * np.median(proved)
    # It is decided once for all levels, or a higher one could have a narrower band.
    levels = (0.5, 0.9, 0.99, 1 - 1e-6)
    bands = [gradient_band(gp, cube, posterior, p, deviations) for p in levels]
    assert len({b.halvings for b in bands}) == 1
    for narrow, wider in pairwise(bands):
        assert (narrow.radius < wider.radius).all()


@pytest.mark.parametrize(("dim", "cells", "n"), [(1, 24, 12), (2, 24, 40), (3, 20, 150)])
@pytest.mark.parametrize("kernel", [MATERN_5_2, MATERN_7_2], ids=lambda k: k.name)
def test_deviations_inside_the_cells_are_bounded(dim, cells, n, kernel):
    """At 4,000 places the bound is an estimate that holds; the corners alone are none."""
    lattice = Lattice(CubicalGrid([-1.0] * dim, [1.0] * dim, (cells,) * dim), (1,) * dim)
    gp = process(dim, n, 0.7, kernel=kernel)
    deviations = deviations_of(gp, lattice)
    places = np.random.default_rng(5).uniform(-1, 1, (4000, dim))
    cell = lattice.grid.cell_of(places)
    found = gp.posterior(places).gradient_deviation
    assert (found <= deviations.inside[cell] * 1.005).all()
    assert (found > deviations.at_corners[cell]).any()
    assert np.median(deviations.inside / deviations.at_corners) < 1.3


def test_a_bound_inside_the_cells_that_fails_is_enlarged():
    """More samples than lattice points: what happens inside a cell does not show at its corners."""
    lattice = Lattice(CubicalGrid([-1.0], [1.0], (256,)), (1,))
    deviations = deviations_of(process(1, 300, 0.24, kernel=MATERN_5_2), lattice)
    plain = deviations.at_corners + 2 * lattice.interpolation_error(deviations.at_points)
    ratio = deviations.inside / plain
    assert ratio.max() == pytest.approx(ratio.min())
    assert ratio.min() > 1.01
