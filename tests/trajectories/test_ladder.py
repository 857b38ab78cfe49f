"""Blocks of learnt maps on wider and wider bands, and the certificate of a block alone."""

import itertools
import math

import numpy as np
import pytest

import lightning_morse as lm
from benchmarks.trajectory_coverage import bistable_field
from lightning_morse import CubicalGrid
from lightning_morse.bands.value import failure_bound, mean_remainder, value_band
from lightning_morse.conley.combinatorial_map import outer_approximation
from lightning_morse.conley.morse_sets import morse_graph
from lightning_morse.conley.point_maps import time_map
from lightning_morse.gp.kernels import MATERN_5_2
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.grids.lattice import Lattice
from lightning_morse.trajectories.fit import fit_trajectory_map
from lightning_morse.trajectories.ladder import MapAtLevel, climb_map
from lightning_morse.trajectories.pairs import pairs_of_runs
from tests.trajectories.test_pipeline import BOX, bistable_runs


def by_hand(reach, outside=(), confidence=0.95):
    """Ten cells of width 1; every image is within ``reach(c)`` of 2.5 or of 6.5, whichever side."""
    grid = CubicalGrid([0.0], [10.0], (10,))

    def map_at(level):
        c = -math.log10(1 - level)

        def images(cells):
            middle = np.where(cells < 5, 2.5, 6.5)[:, None]
            return middle - reach(c), middle + reach(c)

        return MapAtLevel(c, images)

    mask = np.zeros(10, dtype=bool)
    mask[list(outside)] = True
    return climb_map(map_at, Lattice(grid, (2,)), [np.array([2]), np.array([6])], confidence, mask)


def test_blocks_that_stand_at_all_levels():
    found = by_hand(lambda c: 0.4)
    assert (found.ladder.blocks == [0, 1]).all()
    assert found.ladder.levels[[0, -1]] == pytest.approx([0.95, 1 - 1e-6], abs=1e-12)
    assert (np.diff(found.ladder.levels) > 0).all()
    assert [b.tolist() for b in found.blocks[-1]] == [[2], [6]]
    # Three points each at the highest level, six together.
    own = failure_bound(6.0, 1, 3)
    assert found.each == pytest.approx([1 - own] * 2, abs=1e-12)
    assert found.together == pytest.approx(1 - 2 * own, abs=1e-12)


def test_blocks_grow_and_merge_and_go_on_as_one():
    found = by_hand(lambda c: 0.4 if c < 2 else (1.2 if c < 4 else 2.2))
    levels = -np.log10(1 - found.ladder.levels)
    merged = levels >= 4 - 1e-9
    assert found.ladder.blocks[~merged].tolist() == [[0, 1]] * (~merged).sum()
    assert found.ladder.blocks[merged].tolist() == [[0, 0]] * merged.sum()
    middle = int(np.argmax(levels >= 3))
    assert [b.tolist() for b in found.blocks[middle]] == [[1, 2, 3], [5, 6, 7]]
    assert found.blocks[-1][0].tolist() == found.blocks[-1][1].tolist() == list(range(9))
    best = levels[~merged].max()
    assert found.each == pytest.approx([1 - failure_bound(best, 1, 7)] * 2, abs=1e-9)


def test_a_block_that_may_leave_drags_no_other_along():
    found = by_hand(lambda c: 0.4 if c < 3 else 1.2, outside=[1])
    levels = -np.log10(1 - found.ladder.levels)
    assert (found.ladder.blocks[:, 1] == 1).all()
    assert (found.ladder.blocks[:, 0] == np.where(levels < 3, 0, -1)).all()
    assert found.blocks[-1][0].size == 0
    assert found.each[1] > found.each[0] >= 0.95


def test_an_image_over_the_edge_of_the_box_leaves():
    found = by_hand(lambda c: 0.4 if c < 3 else 3.6)
    assert (found.ladder.blocks[-1] == -1).all()
    assert (found.each >= 0.95).all()
    assert found.together >= 0.95


def test_nothing_to_climb():
    lattice = Lattice(CubicalGrid([0.0], [1.0], (4,)), (1,))
    found = climb_map(lambda level: pytest.fail("no level"), lattice, [], 0.9, np.zeros(4, bool))
    assert found.ladder.levels.tolist() == [0.9]
    assert found.together == pytest.approx(0.9)
    assert found.ladder.blocks.shape == (1, 0)


@pytest.mark.parametrize(("shape", "refinement"), [((5,), (3,)), ((4, 3), (2, 1))])
def test_points_of_cells(shape, refinement):
    dim = len(shape)
    lattice = Lattice(CubicalGrid([0.0] * dim, list(map(float, shape)), shape), refinement)
    points = np.array(list(itertools.product(*lattice.axes)))
    low, up = lattice.grid.cell_bounds()
    for cell, found in enumerate(lattice.points_of(np.arange(lattice.grid.size))):
        inside = (points >= low[cell] - 1e-9) & (points <= up[cell] + 1e-9)
        assert sorted(found) == np.flatnonzero(inside.all(axis=1)).tolist()


@pytest.fixture(scope="module")
def learnt():
    grid = CubicalGrid(BOX["lower"], BOX["upper"], (64, 64))
    lattice = Lattice(grid, (2, 1))
    pairs = pairs_of_runs(bistable_runs()).starting_in(grid.lower, grid.upper)
    model = fit_trajectory_map(pairs, grid.lower, grid.upper, np.random.default_rng(0))
    return model, lattice, model.values(lattice)


def test_boxes_of_some_cells_are_those_of_all(learnt):
    model, lattice, values = learnt
    band = value_band(model.processes, lattice, 0.99)
    some = np.array([7, 4000, 3, 2080])
    for level in (None, 0.9):
        low, up = model.image_boxes(lattice, values, band, level)
        few_low, few_up = model.image_boxes(lattice, values, band, level, some)
        assert np.array_equal(few_low, low[some])
        assert np.array_equal(few_up, up[some])


def test_blocks_are_forward_closed_under_the_map_of_their_level(learnt):
    model, lattice, values = learnt
    grid = lattice.grid
    unknown = model.unknown_cells(lattice, values)
    bands = {}

    def map_at(level):
        bands[level] = band = value_band(model.processes, lattice, level)
        return MapAtLevel(
            band.c, lambda cells: model.image_boxes(lattice, values, band, None, cells)
        )

    first = value_band(model.processes, lattice, 0.95)
    found = morse_graph(
        outer_approximation(
            *model.image_boxes(lattice, values, first), grid, exterior_cells=unknown
        )
    )
    attractors = [found.morse_sets[a] for a in found.attractors]
    climbed = climb_map(map_at, lattice, attractors, 0.95, unknown)
    assert len(attractors) == 2
    true_map = time_map(bistable_field, 0.4, 20)
    rng = np.random.default_rng(1)
    for j, level in enumerate(climbed.ladder.levels.tolist()):
        image = outer_approximation(
            *model.image_boxes(lattice, values, bands[level]), grid, exterior_cells=unknown
        )
        for i in range(2):
            block = climbed.blocks[j][i]
            assert np.isin(image[block].indices, block).all()
            assert np.isin(attractors[i], block).all()
            if j:
                assert np.isin(climbed.blocks[j - 1][i], block).all()
            low, up = (corner[block] for corner in grid.cell_bounds())
            points = rng.uniform(low, up, (20, *low.shape)).reshape(-1, 2)
            assert np.isin(grid.cell_of(true_map(points)), block).all()


def test_all_points_together_cost_what_the_band_costs(learnt):
    model, lattice, _ = learnt
    band = value_band(model.processes, lattice, 0.95)
    assert failure_bound(band.c, 2, lattice.n_points) == pytest.approx(1 - band.level, rel=1e-9)


def test_the_certificate_of_some_cells_bounds_how_often_the_band_fails_there():
    """Prior draws with known hyper-parameters; 5 of 32 cells, 8 points to a cell between."""
    rng = np.random.default_rng(2)
    scale, n_draws = 0.3, 400
    lattice = Lattice(CubicalGrid([-1], [1], (32,)), (1,))
    fine = np.linspace(*lattice.axes[0][[12, 17]], 41)
    x = np.linspace(-0.95, 0.95, 12)
    both = np.concatenate([x, fine])
    values, vectors = np.linalg.eigh(MATERN_5_2.derivative(both, both, scale, 0))
    root = vectors * np.sqrt(np.maximum(values, 0))
    cell = np.minimum(np.arange(41) // 8, 4)
    failed = 0
    for _ in range(n_draws):
        path = root @ rng.standard_normal(len(both))
        gp = GaussianProcess(
            x=x[:, None],
            y=path[:12] + 0.1 * rng.standard_normal(12),
            lengthscales=np.array([scale]),
            variance=1.0,
            noise=0.01,
            mean=0.0,
        )
        # A band that says little of the whole box: a bound of 0.39 for the 33 points.
        band = value_band([gp], lattice, 0.61)
        at = gp.lattice_posterior(lattice.axes)
        wide = band.between[0] + mean_remainder(gp, lattice)
        low = -lattice.largest_corner(band.c * at.deviation - at.mean) - wide
        up = lattice.largest_corner(at.mean + band.c * at.deviation) + wide
        part = slice(12, 17)
        inside = (low[part][cell] <= path[12:]) & (path[12:] <= up[part][cell])
        failed += not inside.all()
    bound = failure_bound(band.c, 1, 6)
    assert bound == pytest.approx(0.39 * 6 / 33, rel=1e-6)
    assert failed / n_draws <= bound


@pytest.mark.slow
def test_mu_of_an_analysis_rises_above_the_level_and_falls_with_noise():
    quiet = lm.analyze_trajectories(bistable_runs(), **BOX)
    mus = [m.mu for m in quiet.morse_sets if m.is_attractor]
    assert 0.95 < quiet.mu <= min(mus) < 1
    assert quiet.ladder.levels[0] == 0.95
    assert quiet.ladder.counts[0] == 2
    loud = lm.analyze_trajectories(bistable_runs(0.03), **BOX)
    assert loud.n_attractors == 2
    assert 0.95 <= loud.mu < quiet.mu
    assert [m.mu for m in quiet.morse_sets if not m.is_attractor] == [None]
