"""A point that cannot get out, because all around it the loss is higher."""

import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse.analysis.pipeline import analyze_from, begun
from lightning_morse.analysis.sentence import sentence
from lightning_morse.analysis.wells import Relief, heights, leaks, well_around
from lightning_morse.conley.reach import UNDECIDED
from lightning_morse.gp.calibration import fit_calibrated
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_3_2
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice

FAILURE = 0.01


def crease(x):
    """Kinks along two diagonals; one minimum, at (0.1, -0.1)."""
    y = x - torch.tensor([0.1, -0.1], dtype=x.dtype)
    return (y[:, 0] + y[:, 1]).abs() + 0.2 * (y[:, 0] - y[:, 1]).abs()


def double_well(x):
    return (x[:, 0] ** 2 - 0.25) ** 2 + 0.3 * x[:, 1] ** 2


def relief_of(loss, n=160, dim=2, cells=32, half=1.0):
    """The surrogate of a loss on a cube, from samples at random places."""
    points = np.random.default_rng(0).uniform(-half, half, (n, dim))
    values = loss(torch.from_numpy(points)).numpy()
    grid = CubicalGrid([-half] * dim, [half] * dim, (cells,) * dim)
    surrogate = fit_calibrated(points, values, grid.lower, grid.upper).surrogate
    lattice = Lattice.of(grid)
    rough = fit(points, values, grid.lower, grid.upper, MATERN_3_2, start=surrogate)
    views = tuple((one, one.lattice_posterior(lattice.axes)) for one in (surrogate, rough))
    return Relief(lattice, np.zeros(grid.size, dtype=bool), views)


def places(well, relief, n, rng):
    """Random points in the cells that are held in a well."""
    grid = relief.lattice.grid
    cells = rng.choice(np.flatnonzero(well.inside), n)
    return grid.cell_centers()[cells] + grid.cell_widths * rng.uniform(-0.5, 0.5, (n, grid.dim))


def descended(loss, points, steps=4000, length=2e-3):
    """Where small steps against the gradient lead, and the box they stayed in."""
    x = torch.from_numpy(points)
    low, up = points.copy(), points.copy()
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(x).sum(), x)
        x = x - length * slope / slope.norm(dim=1, keepdim=True).clamp(min=0.1)
        low, up = np.minimum(low, x.detach().numpy()), np.maximum(up, x.detach().numpy())
    return x.detach().numpy(), low, up


def test_the_bounds_hold_in_every_cell():
    relief = relief_of(double_well, n=48)
    found, grid = heights(relief, FAILURE), relief.lattice.grid
    points = np.random.default_rng(1).uniform(-1, 1, (100_000, 2))
    values = double_well(torch.from_numpy(points)).numpy()
    cell = grid.cell_of(points)
    assert (found.lower[cell] <= values).all()
    assert (values <= found.upper[cell]).all()


def test_a_well_ends_at_its_pass():
    """The loss is 1/16 between the two minima, and 0 at each."""
    relief = relief_of(double_well)
    found = heights(relief, FAILURE)
    point = np.array([0.45, 0.1])
    well = well_around(relief, 0, point, found)
    grid = relief.lattice.grid
    assert well.inside[grid.cell_of(point[None])[0]]
    assert 0.05 < well.wall < 1 / 16
    assert (grid.cell_centers()[well.cells][:, 0] > -grid.cell_widths[0]).all()
    starts = places(well, relief, 50, np.random.default_rng(2))
    ends, _, _ = descended(double_well, starts)
    assert np.allclose(ends, [0.5, 0.0], atol=0.02)


def test_nothing_is_held_where_the_loss_falls_towards_a_face():
    relief = relief_of(lambda x: x[:, 0] + 3 * x[:, 1] ** 2)
    point, found = np.array([0.2, 0.0]), heights(relief, FAILURE)
    assert well_around(relief, 0, point, found) is None
    assert leaks(relief, point, found) is None


def test_nothing_is_held_beside_a_place_where_the_loss_diverges():
    relief = relief_of(double_well)
    center = relief.lattice.grid.cell_of(np.array([[0.5, 0.0]]))
    relief.diverged[center] = True
    point, found = np.array([0.45, 0.1]), heights(relief, FAILURE)
    well = well_around(relief, 0, point, found)
    assert well is None or not well.inside[relief.lattice.grid.cell_of(point[None])[0]]
    assert leaks(relief, point, found) is None


def test_leaks_are_where_too_little_is_known():
    few, many = relief_of(double_well, n=12), relief_of(double_well, n=160)
    point = np.array([0.45, 0.1])
    open_, shut = (leaks(relief, point, heights(relief, FAILURE)) for relief in (few, many))
    assert len(open_) > 0
    assert len(shut) == 0
    assert (np.abs(open_).max(axis=1) > 0.9).all()  # at the faces


@pytest.fixture(scope="module")
def held():
    """An analysis whose answer is a well."""
    start = [-0.2, 0.15]
    given = crease, start, [-1.0] * 2, [1.0] * 2, None, 64, 128, 0.95, 0, 96, None
    question = begun(*given)
    result = question.conclude(question.decide(sealing=True))
    assert result.morse_sets[int(result.basin_of([start])[0])].wall is not None
    return result, np.array(start)


def test_what_is_held_stays_and_ends_in_the_set_of_its_attractor(held):
    result, start = held
    (attractor,) = result.attractors
    grid, found = result.grid, result.morse_sets[attractor]
    cells = np.flatnonzero(result.labels == attractor)
    rng = np.random.default_rng(0)
    chosen = grid.cell_centers()[rng.choice(cells, 60)]
    points = chosen + grid.cell_widths * rng.uniform(-0.5, 0.5, chosen.shape)
    ends, low, up = descended(crease, np.vstack([start, points]))
    assert ((low > grid.lower) & (up < grid.upper)).all()
    assert np.isin(grid.cell_of(ends), found.cells).all()


def test_a_well_is_no_count(held):
    result, start = held
    (attractor,) = result.attractors
    found = result.morse_sets[attractor]
    assert not found.resolved
    assert found.index is None
    assert result.claim == "at least 1 attractor"
    assert 0 < result.mu <= result.evidence.mu_model
    assert result.evidence.mu_model >= result.confidence
    assert result.barrier(attractor) == found.wall - found.loss > 0
    said = sentence(result, start, loss_now=float(crease(torch.tensor([start.tolist()]))))
    assert "a well that may hold more than one minimum" in said
    assert "barrier at least" in said


def test_a_well_is_read_back(held, tmp_path):
    result, start = held
    result.save(tmp_path / "held.npz")
    back = lm.MorseAnalysis.load(tmp_path / "held.npz")
    assert [m.wall for m in back.morse_sets] == [m.wall for m in result.morse_sets]
    assert back.basin_of([start]).tolist() == result.basin_of([start]).tolist()


def test_units_make_no_difference(held):
    result, _ = held
    given = [-512.0] * 2, [512.0] * 2, None, 64, 128, 0.95, 0, 96, None
    question = begun(lambda x: crease(x / 512) / 2**15, [-0.2 * 512, 0.15 * 512], *given)
    scaled = question.conclude(question.decide(sealing=True))
    assert scaled.labels.tolist() == result.labels.tolist()
    walls = [m.wall and m.wall * 2**15 for m in scaled.morse_sets]
    assert walls == [m.wall for m in result.morse_sets]


def test_several_known_attractors_are_not_made_one():
    """Between two of them it stays open to which a point goes."""
    result = lm.analyze(double_well, [-1, -1], [1, 1], n_samples=64, resolution=64)
    between = analyze_from(double_well, [0.0, 0.4], [-1, -1], [1, 1], n_samples=64, most=64)
    assert result.n_attractors == between.n_attractors == 2
    assert between.basin_of([[0.0, 0.4]])[0] == UNDECIDED
    assert all(m.wall is None for m in between.morse_sets)


def test_without_any_attractor_there_is_a_well_around_the_lowest_sample():
    result = lm.analyze(crease, [-1, -1], [1, 1], n_samples=64)
    lowest = result.samples[result.sample_losses.argmin()]
    assert result.attractors
    assert result.basin_of([lowest])[0] in result.attractors
