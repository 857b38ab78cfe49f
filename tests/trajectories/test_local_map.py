"""Maps learnt block by block: which blocks, what their boxes hold, what their band costs."""

import numpy as np
import pytest

from benchmarks import local_maps
from lightning_morse.bands.value import failure_bound, value_band
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.trajectories import local_fit
from lightning_morse.trajectories.fit import fit_trajectory_map
from lightning_morse.trajectories.local_fit import fit_local_map
from lightning_morse.trajectories.pairs import pairs_of_runs
from tests.learned_maps import cubic


def rough_on_the_right(x):
    """Slow waves below 0, fast ones above."""
    return 0.5 * x + np.where(x < 0, 0.1 * np.sin(2 * x), 0.01 * np.sin(20 * x))


def sampled(n, point_map, seed=0, noise=0.0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.5, 1.5, (n, 1))
    y = point_map(x) + noise * rng.standard_normal(x.shape)
    return pairs_of_runs(list(np.stack([x, y], axis=1)))


def lattice_of(n_cells=64, refinement=4):
    return Lattice(CubicalGrid([-1.5], [1.5], (n_cells,)), (refinement,))


@pytest.fixture(scope="module")
def rough():
    return fit_local_map(sampled(600, rough_on_the_right), lattice_of(), np.random.default_rng(0))


def test_few_pairs_have_the_map_of_one_process_to_the_bit():
    pairs, lattice = sampled(90, cubic, noise=0.02), lattice_of()
    local = fit_local_map(pairs, lattice, np.random.default_rng(3))
    one = fit_trajectory_map(pairs, [-1.5], [1.5], np.random.default_rng(3))
    values, band = one.values(lattice), value_band(one.processes, lattice, 0.95)
    bands = local.bands(0.95)
    assert (bands[0].c, bands[0].level) == (band.c, band.level)
    for mine, theirs in (
        (local.image_boxes(bands), one.image_boxes(lattice, values, band)),
        (local.image_boxes(bands, 0.9), one.image_boxes(lattice, values, band, 0.9)),
        (local.displacement_boxes(bands), one.displacement_boxes(lattice, values, band)),
        ([local.unknown_cells()], [one.unknown_cells(lattice, values)]),
    ):
        assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
    some = np.array([3, 40, 7])
    assert local.n_points(some) == np.unique(lattice.points_of(some)).size
    x = np.linspace(-2, 2, 9)[:, None]
    assert np.array_equal(local.mean(x), one.mean(x))


def test_a_map_that_one_process_fits_keeps_it():
    local = fit_local_map(sampled(300, cubic, noise=0.02), lattice_of(), np.random.default_rng(0))
    assert len(local.leaves) == 1


def test_a_map_of_two_scales_has_leaves_of_two_scales(rough):
    assert len(rough.leaves) > 2
    assert not rough.void.any()
    scale = [float(m.processes[0].lengthscales[0]) for m in rough.models]
    left = [s for s, leaf in zip(scale, rough.leaves, strict=True) if leaf.last[0] <= 28]
    right = [s for s, leaf in zip(scale, rough.leaves, strict=True) if leaf.first[0] >= 36]
    assert min(left) > 2 * max(right)
    count = np.zeros(64, dtype=int)
    for leaf in rough.leaves:
        count[leaf.cells] += 1
    assert (count == 1).all()


def test_true_images_lie_in_the_boxes_of_all_leaves(rough):
    low, up = rough.image_boxes(rough.bands(0.95))
    x = np.linspace(-1.5, 1.5, 3001)[:, None]
    cell = rough.lattice.grid.cell_of(x)
    image = rough_on_the_right(x)
    known = ~rough.unknown_cells()[cell]
    assert known.mean() > 0.95
    assert ((low[cell] <= image) & (image <= up[cell])).all(axis=1)[known].all()


def test_boxes_of_some_cells_are_those_of_all(rough):
    bands = rough.bands(0.99)
    some = np.array([60, 3, 31, 32, 5])
    for level in (None, 0.9):
        low, up = rough.image_boxes(bands, level)
        few_low, few_up = rough.image_boxes(bands, level, some)
        assert np.array_equal(few_low, low[some])
        assert np.array_equal(few_up, up[some])


def test_the_band_is_for_the_points_of_all_blocks_of_the_tree(rough):
    blocks = [part for level in rough.tree.levels() for part in level]
    assert len(blocks) > len(rough.leaves)
    n = sum(4 * part.shape[0] + 1 for part in blocks)
    bands = rough.bands(0.95)
    assert len({band.c for band in bands}) == 1
    assert failure_bound(bands[0].c, 1, n) == pytest.approx(0.05, rel=1e-6)
    assert rough.n_points(np.arange(64)) == n
    # By hand: five points of one cell in each block that holds it.
    held = sum(part.first[0] <= 20 < part.last[0] for part in blocks)
    assert rough.n_points(np.array([20])) == 5 * held


def test_a_leaf_has_the_processes_of_its_pairs_alone(rough):
    leaf, model = rough.leaves[0], rough.models[0]
    x = sampled(600, rough_on_the_right).start[leaf.points]
    assert np.array_equal(model.processes[0].x, x)


def test_where_a_leaf_cannot_be_fitted_nothing_is_known():
    """Below 0 all displacements are equal: no process has such paths."""
    pairs = sampled(600, lambda x: np.where(x < 0, x + 0.25, 0.3 * x + 0.25))
    local = fit_local_map(pairs, lattice_of(), np.random.default_rng(0))
    grid = local.lattice.grid
    left, right = grid.cell_of([[-1.0]])[0], grid.cell_of([[1.0]])[0]
    unknown = local.unknown_cells()
    assert unknown[left]
    assert not unknown[right]
    low, up = local.image_boxes(local.bands(0.95))
    assert (low[left], up[left]) == (-np.inf, np.inf)
    assert np.isfinite(up[right]).all()
    assert local.mean([[-1.0]]).tolist() == [[-1.0]]


def test_constant_displacements_are_refused():
    with pytest.raises(ValueError, match=r"is the same in all 200 pairs"):
        fit_local_map(sampled(200, lambda x: x + 0.25), lattice_of(), np.random.default_rng(0))


def test_pairs_that_can_be_fitted_nowhere_are_refused(monkeypatch):
    def refuse(*_):
        raise SurrogateError("not here")

    monkeypatch.setattr(local_fit, "fit_trajectory_map", refuse)
    pairs = sampled(600, cubic)
    with pytest.raises(SurrogateError, match="no surrogate of the 600 pairs can be trusted"):
        fit_local_map(pairs, lattice_of(), np.random.default_rng(0))


@pytest.mark.slow
def test_a_stiff_flow_with_two_limit_cycles_gets_better_with_more_pairs():
    few, more, many = (local_maps.measured(n, True, 0, images=False) for n in (900, 2400, 3600))
    for row in (few, more, many):
        assert row.attractors >= 1
        assert row.wrong == 0
        assert row.mu > 0.95
        assert row.inflation < 2
    assert many.attractors == 2
    # Within noise: another sample moves the share by some hundredths.
    assert more.certain > few.certain - 0.05
    assert many.certain > more.certain - 0.05
    assert many.certain > few.certain


@pytest.mark.slow
def test_one_process_for_the_same_flow_is_refuted_by_more_pairs():
    """What the test above is about: fewer pairs already say nothing to a single process."""
    row = local_maps.measured(1500, False, 0, images=False)
    assert row.mu == 0
    assert row.inflation > 2
