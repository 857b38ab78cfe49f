"""Critical points to be expected, and what is claimed of Morse sets on their account."""

from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.stats import norm

from lightning_morse import CubicalGrid, analyze
from lightning_morse.analysis import resolution as settling
from lightning_morse.analysis.charts import chart
from lightning_morse.analysis.design import design
from lightning_morse.analysis.phase_portrait import phase_portrait
from lightning_morse.analysis.pipeline import analyze_samples
from lightning_morse.analysis.resolution import (
    Settled,
    expected_in_sets,
    hopeless,
    is_connected,
    safest,
    settle,
    shadows,
    that_count,
)
from lightning_morse.bands.gradient import gradient_band
from lightning_morse.conley.morse_sets import morse_graph
from lightning_morse.gp.calibration import fit_calibrated
from lightning_morse.gp.kac_rice import expected_critical_points
from lightning_morse.gp.kernels import MATERN_5_2, MATERN_7_2
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.grids.lattice import Lattice
from lightning_morse.grids.nested import NestedGrid
from lightning_morse.stopwatch import Stopwatch
from tests.landscapes import himmelblau

KERNELS = pytest.mark.parametrize("kernel", [MATERN_5_2, MATERN_7_2], ids=lambda k: k.name)


def process(x, y, scales, kernel, noise=1e-8):
    return GaussianProcess(
        x=x, y=y, lengthscales=np.array(scales), variance=1.7, noise=noise, mean=0.0, kernel=kernel
    )


@KERNELS
def test_the_law_of_the_derivatives_against_difference_quotients(kernel):
    """Posterior moments of difference quotients of the values, in 40 digits."""
    rng = np.random.default_rng(0)
    x, scales, point = rng.uniform(-1, 1, (9, 2)), (0.8, 1.3), np.array([0.2, -0.1])
    gp = process(x, np.sin(3 * x).sum(1), scales, kernel, noise=1e-4)
    h = mpmath.mpf(10) ** -5
    quotients = {  # weights of stencil points, in steps
        "x": {(1, 0): 1 / (2 * h), (-1, 0): -1 / (2 * h)},
        "y": {(0, 1): 1 / (2 * h), (0, -1): -1 / (2 * h)},
        "xx": {(1, 0): 1 / h**2, (0, 0): -2 / h**2, (-1, 0): 1 / h**2},
        "xy": {(i, j): i * j / (4 * h**2) for i in (-1, 1) for j in (-1, 1)},
        "yy": {(0, 1): 1 / h**2, (0, 0): -2 / h**2, (0, -1): 1 / h**2},
    }

    def correlation(a, b):
        out = mpmath.mpf(1)
        for p, q, scale in zip(a, b, scales, strict=True):
            t = abs(p - q) * mpmath.sqrt(2 * kernel.smoothness) / scale
            exact = [mpmath.mpf(round(15 * c)) / 15 for c in kernel.polynomials[0]]
            out *= sum(c * t**k for k, c in enumerate(exact)) * mpmath.exp(-t)
        return out

    with mpmath.workdps(40):
        steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        at = [(point[0] + i * h, point[1] + j * h) for i, j in steps]
        weights = mpmath.matrix([[q.get(s, 0) for s in steps] for q in quotients.values()])
        cross = mpmath.matrix([[correlation(a, b) for b in x.tolist()] for a in at])
        own = mpmath.matrix([[correlation(a, b) for b in at] for a in at])
        samples = mpmath.matrix([[correlation(a, b) for b in x.tolist()] for a in x.tolist()])
        solve = mpmath.inverse(samples + mpmath.mpf(gp.noise) * mpmath.eye(len(x)))
        mean = weights * cross * solve * mpmath.matrix(gp.y.tolist())
        covariance = weights * (own - cross * solve * cross.T) * weights.T * gp.variance
    got_mean, got_covariance = gp.derivative_distribution(point[None])
    assert got_mean[0] == pytest.approx(np.array(mean.tolist(), float).ravel(), rel=1e-4)
    expected = np.array(covariance.tolist(), float)
    size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs(got_covariance[0] - expected).max() < 1e-3 * size.max()
    assert (np.abs(got_covariance[0] - expected) < 1e-3 * size).all()


@KERNELS
def test_expected_numbers_are_those_of_sample_paths_on_an_interval(kernel):
    """Prior paths, each conditioned on its own samples: the errors of the counts average to 0."""
    rng = np.random.default_rng(1)
    fine = np.linspace(-1, 1, 401)
    scale, observed = 0.35, np.arange(0, 401, 57)
    slope_value = kernel.derivative(fine, fine[observed], scale, 1)
    joint = np.block(
        [
            [kernel.derivative(fine[observed], fine[observed], scale, 0), slope_value.T],
            [slope_value, -kernel.derivative(fine, fine, scale, 2)],
        ]
    )
    values, vectors = np.linalg.eigh(joint)
    paths = (
        np.sqrt(1.7)
        * (vectors * np.sqrt(np.maximum(values, 0)))
        @ rng.normal(size=(len(joint), 400))
    )
    cells = np.linspace(-1, 1, 81)
    errors = []
    for path in paths.T:
        y, slope = path[: len(observed)], path[len(observed) :]
        gp = process(fine[observed][:, None], y, [scale], kernel)
        centers = 0.5 * (cells[1:] + cells[:-1])
        expected = expected_critical_points(gp, centers[:, None], np.diff(cells)[:1]).sum(0)
        rising = (slope[:-1] < 0) & (slope[1:] > 0)
        falling = (slope[:-1] > 0) & (slope[1:] < 0)
        errors.append(expected - [rising.sum(), falling.sum()])
    errors = np.array(errors)
    spread = errors.std(axis=0) / np.sqrt(len(errors))
    assert (np.abs(errors.mean(axis=0)) < 4 * spread).all()
    assert (spread < 0.06).all()
    assert errors.std() < 1.5  # there is something to compare


def test_expected_minima_and_maxima_are_those_of_sample_paths_on_a_square():
    rng = np.random.default_rng(2)
    axis, scale = np.linspace(0, 1, 121), 0.3
    values, vectors = np.linalg.eigh(MATERN_7_2.derivative(axis, axis, scale, 0))
    root = vectors * np.sqrt(np.maximum(values, 0))
    nodes = [(i, j) for i in range(0, 121, 24) for j in range(0, 121, 24)]
    x = axis[np.array(nodes)]
    ticks = (np.arange(24) + 0.5) / 24
    centers = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), -1).reshape(-1, 2)
    errors, counts = [], []
    for _ in range(60):
        path = np.sqrt(1.7) * root @ rng.normal(size=(121, 121)) @ root.T
        gp = process(x, path[tuple(np.array(nodes).T)], [scale, scale], MATERN_7_2)
        expected = expected_critical_points(gp, centers, np.full(2, 1 / 24)).sum(0)
        around = [
            path[1 + i : 120 + i, 1 + j : 120 + j]
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            if (i, j) != (0, 0)
        ]
        inner = path[1:-1, 1:-1]
        seen = np.array([(inner < np.min(around, 0)).sum(), (inner > np.max(around, 0)).sum()])
        errors.append(expected[[0, 2]] - seen)
        counts.append(seen)
    errors = np.array(errors)
    spread = errors.std(axis=0) / np.sqrt(len(errors))
    assert (np.abs(errors.mean(axis=0)) < 4 * spread).all()
    assert np.mean(counts) > 1
    assert (spread < 0.12).all()


def test_the_expectation_of_a_certain_minimum_is_one_wherever_it_lies_in_its_cell():
    """A parabola known almost exactly: one minimum, whatever the place and size of the cells."""
    x = np.stack(np.meshgrid(*[np.linspace(-1, 1, 8)] * 2), -1).reshape(-1, 2)
    for shift in (0.0, 0.013, 0.025, 0.031):
        y = np.square(x - shift) @ [1.0, 3.0]
        gp = process(x, y, [2.0, 2.0], MATERN_7_2)
        ticks = np.arange(-0.5, 0.5, 0.05)
        centers = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), -1).reshape(-1, 2)
        found = expected_critical_points(gp, centers, np.full(2, 0.05)).sum(0)
        assert found[0] == pytest.approx(1, abs=0.1)
        assert found[1:].sum() < 1e-9


def test_an_unlikely_index_has_the_probability_of_its_tail():
    """One axis: the expectation is that of the negative part of a Gaussian, in closed form."""
    x = np.linspace(-1, 1, 9)[:, None]
    gp = process(x, 2 * x[:, 0] ** 2, [0.8], MATERN_7_2)
    point, width = np.array([[0.02]]), np.array([1e-3])
    found = expected_critical_points(gp, point, width)[0]
    mean, covariance = gp.derivative_distribution(point)
    (m, b), ((v, k), (_, w)) = mean[0], covariance[0]
    there, deviation = b - k / v * m, np.sqrt(w - k**2 / v)
    z = there / deviation
    assert z > 2, "not in the tail"
    negative = deviation * norm.pdf(z) - there * norm.sf(z)
    assert found[1] == pytest.approx(width[0] * norm.pdf(m, scale=np.sqrt(v)) * negative, rel=0.05)


def test_no_box_has_nothing():
    gp = process(np.zeros((1, 2)), np.zeros(1), [1.0, 1.0], MATERN_5_2)
    assert expected_critical_points(gp, np.zeros((0, 2)), np.ones(2)).shape == (0, 3)


def test_where_nothing_can_be_counted_anything_is_expected_of_its_own_sets_only():
    outer = CubicalGrid([0.0], [8.0], (8,))
    nested = NestedGrid.of(outer).around(np.array([4.0]), np.array([6.0]), 0, 8)
    inside = nested.part(1).start
    found = SimpleNamespace(morse_sets=(np.array([0, 1]), np.array([inside, inside + 1])))
    patches = [
        (k, SimpleNamespace(cells=np.arange(grid.size))) for k, grid in enumerate(nested.grids)
    ]
    counts = np.zeros(2, dtype=bool)
    assert expected_in_sets(found, nested, patches, 0.01, counts).tolist() == [[1, 1], [1, 1]]
    found.morse_sets = ()
    assert expected_in_sets(found, nested, patches, 0.01, counts).shape == (0, 2)


@pytest.mark.parametrize(
    ("kinked", "trusted", "counts"),
    [
        ([0.0, 0.0], [True, True], [True, True]),
        ([0.6, 0.01], [True, True], [False, True]),
        ([0.06, 0.05], [True, True], [False, True]),  # not in both: together it is likely
        ([0.0, 0.0], [False, True], [False, True]),
        ([0.04, 0.05, 0.0], [True, True, True], [True, True, True]),
    ],
)
def test_critical_points_are_counted_where_kinks_are_unlikely(kinked, trusted, counts):
    charts = [
        SimpleNamespace(kinked=w, trusted=known) for w, known in zip(kinked, trusted, strict=True)
    ]
    assert that_count(charts).tolist() == counts


def line_of_sets(n):
    """Cells that each keep to themselves, the first ``n - 1`` with a way to the last."""
    image = np.eye(n + 1, dtype=bool)
    image[:-1, n - 1] = True
    return morse_graph(csr_array(image)), CubicalGrid([0], [1], (n,))


def test_claims_are_made_from_the_safest_up():
    assert safest([0.2, np.inf, 0.05], 0.3).tolist() == [True, False, True]
    assert safest([0.2, 0.11], 0.3).tolist() == [False, True]
    assert safest([], 0.1).tolist() == []


def test_what_is_settled_adds_up_to_no_more_than_the_failure_allowed():
    found, grid = line_of_sets(4)
    assert found.attractors == (3,)
    expected = np.array([[1e-4, 1.0], [2e-3, 1.0], [0.4, 1.0], [1.0, 3e-3]])
    settled = settle(found, NestedGrid.of(grid), expected, failure=4e-3)
    assert settled.resolved.tolist() == [True, True, False, False]
    assert settled.index.tolist() == [1, 1, -1, -1]
    assert settled.failure == pytest.approx(2.1e-3)
    assert settle(found, NestedGrid.of(grid), expected, failure=6e-3).resolved.tolist() == [
        True
    ] * 2 + [
        False,
        True,
    ]


def test_a_set_without_minimum_is_harmless_whatever_its_index():
    found, grid = line_of_sets(2)
    expected = np.array([[1e-5, 1.0, 1.0], [1.0, 1e-5, 0.0]])
    settled = settle(found, NestedGrid.of(grid), expected, failure=1e-3)
    assert settled.resolved.tolist() == [True, True]
    assert settled.index.tolist() == [-1, 0]


def test_a_set_that_should_hold_a_minimum_is_no_settled_saddle():
    found, grid = line_of_sets(2)
    settled = settle(found, NestedGrid.of(grid), np.array([[1.0, 1e-9], [1.0, 1e-9]]), failure=1e-3)
    assert settled.resolved.tolist() == [False, True]


def test_an_attractor_in_two_pieces_is_not_resolved():
    image = np.eye(4, dtype=bool)[[2, 3, 0, 3]]  # cells 0 and 2 map to each other
    image[1] = [0, 0, 1, 0]
    found = morse_graph(csr_array(image))
    assert [cells.tolist() for cells in found.morse_sets] == [[0, 2]]
    grid = CubicalGrid([0], [1], (3,))
    assert not settle(found, NestedGrid.of(grid), np.array([[1.0, 0.0]]), 0.01).resolved.any()


def test_himmelblau_has_nine_morse_sets_and_their_indices():
    for resolution in (64, 128):
        result = analyze(himmelblau, [-5, -5], [5, 5], n_samples=128, resolution=resolution)
        assert result.n_morse_sets == 9
        assert result.claim == "exactly 4 attractors"
        assert sorted(m.index for m in result.morse_sets) == [0] * 4 + [1] * 4 + [2]
        assert result.mu_model >= 0.95


@pytest.mark.parametrize(("n", "little_known"), [(16, True), (24, True), (64, False)])
def test_sets_that_are_not_counted_to_the_end_change_no_claim(n, little_known, monkeypatch):
    grid, failure = CubicalGrid([-5, -5], [5, 5], (48, 48)), 0.005
    x = design(grid.lower, grid.upper, n, 0)
    losses = himmelblau(torch.from_numpy(x)).numpy()
    lattice = Lattice.of(grid)
    gp = fit_calibrated(x, losses, grid.lower, grid.upper).surrogate
    only = chart(
        gp,
        lattice,
        lambda gp, lattice, posterior: gradient_band(gp, lattice, posterior, 0.95),
        np.zeros(grid.size, dtype=bool),
        Stopwatch(),
    )
    nested = NestedGrid.of(grid)
    portrait = phase_portrait(nested, [only], failure, Stopwatch())
    asked = []
    counted = settling.expected_critical_points
    monkeypatch.setattr(
        settling,
        "expected_critical_points",
        lambda *a: asked.append(len(a[1])) or counted(*a),
    )
    arguments = portrait.found, nested, [(0, patch) for patch in only.patches]
    everywhere = np.ones(1, dtype=bool)
    full = expected_in_sets(*arguments, np.inf, everywhere)
    n_full = sum(asked)
    some = expected_in_sets(*arguments, failure, everywhere)
    n_some = sum(asked) - n_full
    given_up = hopeless(portrait.found, some, failure)
    assert (given_up == hopeless(portrait.found, full, failure)).all()
    assert some[~given_up] == pytest.approx(full[~given_up], rel=1e-9, abs=1e-300)
    assert (some <= full * (1 + 1e-9)).all()
    one, other = (settle(portrait.found, nested, e, failure) for e in (some, full))
    assert (one.resolved == other.resolved).all()
    assert (one.index == other.index).all()
    assert one.failure == pytest.approx(other.failure, rel=1e-9)
    assert given_up.any() == little_known
    assert (n_some < n_full / 5) == little_known


def test_what_can_still_be_claimed_is_not_given_up():
    found, _ = line_of_sets(4)  # the last is the attractor
    expected = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0], [1, 1e-4, 0]])
    assert hopeless(found, expected, 1e-3).tolist() == [True, False, False, False]
    assert hopeless(found, expected, 1e-5).tolist() == [True, False, False, True]


def test_connected_cells():
    nested = NestedGrid.of(CubicalGrid([0, 0], [1, 1], (3, 3)))
    assert is_connected(nested, np.array([0, 4, 8]))  # corner to corner
    assert not is_connected(nested, np.array([0, 2]))
    nested = NestedGrid.of(CubicalGrid([0, 0], [1, 1], (5, 5))).around([0.3, 0.3], [0.7, 0.7], 0, 6)
    first = nested.starts[1]
    assert is_connected(nested, first + np.array([0, 1]))
    # One that reaches into a box is not recognised as connected.
    assert not is_connected(nested, np.array([0, first]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_two_minima_in_one_morse_set_are_never_counted_as_exactly_one(seed):
    """Wells so close that few samples cannot part them: never exactly one."""
    exact = 0
    for depth in (0.01, 0.05, 0.3):
        for n in (20, 40, 80):
            x = design([-1, -1], [1, 1], n, seed)
            loss = (x[:, 0] ** 2 - depth) ** 2 + 0.3 * x[:, 1] ** 2
            result = analyze_samples(x, loss, [-1, -1], [1, 1], 48)
            if result.n_unresolved == 0:
                exact += 1
                assert result.n_attractors == 2
    assert exact > 0, "no count was exact, so this test shows nothing"


SHADOW = {"edges": [(0, 1), (1, 1), (2, 2), (2, 1), (3, 2)], "index": (0, 0)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, [False, True]),
        ({"index": (0, -1)}, [False, False]),
        ({"index": (0, 1)}, [False, False]),
        ({"resolved": (False, False)}, [False, False]),
        ({"edges": [*SHADOW["edges"], (2, 4)]}, [False, False]),  # may leave
        ({"edges": [(1, 1), (2, 1), (3, 3), (3, 1)]}, [False, False]),  # not connected
    ],
    ids=["beside", "unknown", "saddle", "unresolved attractor", "leaves", "apart"],
)
def test_a_set_beside_an_attractor_has_no_minimum_of_its_own(change, expected):
    """Cells 0 to 3 on a line, 4 the exterior; the attractor is cell 1, the other set 2 or 3."""
    case = {"resolved": (True, False), **SHADOW, **change}
    row, column = np.array([*case["edges"], (4, 4)]).T
    found = morse_graph(csr_array((np.ones(row.size, dtype=bool), (row, column)), shape=(5, 5)))
    settled = Settled(np.array(case["resolved"]), np.array(case["index"]), 0.0)
    nested = NestedGrid.of(CubicalGrid([0.0], [4.0], (4,)))
    assert shadows(found, nested, settled).tolist() == expected


def test_a_set_above_two_attractors_is_no_shadow():
    edges = np.array([(0, 0), (1, 0), (1, 1), (1, 2), (2, 2), (3, 3)])
    image = csr_array((np.ones(6, dtype=bool), tuple(edges.T)), shape=(4, 4))
    settled = Settled(np.array([True, False, True]), np.zeros(3, dtype=np.int64), 0.0)
    nested = NestedGrid.of(CubicalGrid([0.0], [3.0], (3,)))
    assert not shadows(morse_graph(image), nested, settled).any()
