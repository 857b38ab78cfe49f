"""A point that cannot get out, because all around it the loss is higher."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

import lightning_morse as lm
from lightning_morse.analysis.phase_portrait import _absorbing, _holding
from lightning_morse.analysis.pipeline import analyze_from, analyze_samples, begun
from lightning_morse.analysis.sentence import sentence
from lightning_morse.analysis.wells import Survey, _divided
from lightning_morse.conley.basins import certain_labels
from lightning_morse.conley.morse_sets import morse_graph
from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from lightning_morse.gp.calibration import fit_calibrated
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_3_2
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.plotting.basins import plot_basins

FAILURE = 0.01


def crease(x):
    """Kinks along two diagonals; one minimum, at (0.1, -0.1)."""
    y = x - torch.tensor([0.1, -0.1], dtype=x.dtype)
    return (y[:, 0] + y[:, 1]).abs() + 0.2 * (y[:, 0] - y[:, 1]).abs()


def double_well(x):
    return (x[:, 0] ** 2 - 0.25) ** 2 + 0.3 * x[:, 1] ** 2


def survey_of(loss, point, n=160, diverged=None):
    """What random samples of a loss on a square say around a point."""
    dim, cells, half = 2, 32, 1.0
    points = np.random.default_rng(0).uniform(-half, half, (n, dim))
    values = loss(torch.from_numpy(points)).numpy()
    grid = CubicalGrid([-half] * dim, [half] * dim, (cells,) * dim)
    surrogate = fit_calibrated(points, values, grid.lower, grid.upper).surrogate
    lattice = Lattice.of(grid)
    rough = fit(points, values, grid.lower, grid.upper, MATERN_3_2, start=surrogate)
    views = [(one, one.lattice_posterior(lattice.axes)) for one in (surrogate, rough)]
    out = np.zeros(grid.size, dtype=bool)
    if diverged is not None:
        out[grid.cell_of(np.array([diverged]))] = True
    return Survey.of(views, lattice, out, np.array(point), FAILURE)


def places(well, grid, n, rng):
    """Random points in the cells that are held in a well."""
    cells = rng.choice(np.flatnonzero(well.inside), n)
    return grid.cell_centers()[cells] + grid.cell_widths * rng.uniform(-0.5, 0.5, (n, grid.dim))


def descended(loss, points, steps=4000, length=2e-3):
    """Where small steps against the gradient lead, and the box they stayed in.

    Steps that no longer move a point are left out: those after them would not either.
    """
    x = torch.from_numpy(points)
    low, up = points.copy(), points.copy()
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(x).sum(), x)
        before, x = x, x - length * slope / slope.norm(dim=1, keepdim=True).clamp(min=0.1)
        if before.equal(x):
            break
        low, up = np.minimum(low, x.detach().numpy()), np.maximum(up, x.detach().numpy())
    return x.detach().numpy(), low, up


def test_the_bounds_hold_in_every_cell():
    survey = survey_of(double_well, [0.45, 0.1], n=48)
    rng = np.random.default_rng(1)
    for relief, bounds in ((survey.relief, survey.bounds), (survey.near, survey.bounds_near)):
        grid = relief.lattice.grid
        points = rng.uniform(grid.lower, grid.upper, (100_000, 2))
        values = double_well(torch.from_numpy(points)).numpy()
        cell = grid.cell_of(points)
        assert (bounds.lower[cell] <= values).all()
        assert (values <= bounds.upper[cell]).all()


def test_a_well_ends_at_its_pass():
    """The loss is 1/16 between the two minima, and 0 at each."""
    survey = survey_of(double_well, [0.45, 0.1])
    well, grid = survey.well(0), survey.relief.lattice.grid
    assert well.holds(survey.point)
    assert 0.05 < well.wall < 1 / 16
    assert (grid.cell_centers()[well.cells][:, 0] > -grid.cell_widths[0]).all()
    starts = places(well, grid, 50, np.random.default_rng(2))
    ends, _, _ = descended(double_well, starts)
    assert np.allclose(ends, [0.5, 0.0], atol=0.02)


def test_only_a_part_of_a_cell_may_lie_in_a_well():
    """That of the point counts: a steep wall goes through the cell."""

    def steep(x):
        return 10 * (x[:, 0] - 0.03) ** 2 + 0.3 * x[:, 1] ** 2

    survey = survey_of(steep, [0.17, 0.05])
    well = survey.well(0)
    assert well.holds(survey.point)
    assert not well.held.all()
    assert not well.inside[survey.relief.lattice.grid.cell_of(survey.point[None])[0]]
    parts = survey.near.lattice.grid
    low, up = parts.cell_bounds()
    corners = np.concatenate([low[well.held], up[well.held]])
    assert (steep(torch.from_numpy(corners)).numpy() <= well.wall).all()


def test_nothing_is_held_where_the_loss_falls_towards_a_face():
    survey = survey_of(lambda x: x[:, 0] + 3 * x[:, 1] ** 2, [0.2, 0.0])
    assert survey.well(0) is None
    assert survey.leaks() is None


def test_the_faces_are_open_through_which_the_mean_would_let_it_out():
    tilted = survey_of(lambda x: x[:, 0] + 3 * x[:, 1] ** 2, [0.2, 0.0])
    assert tilted.open_faces().tolist() == [[True, False], [False, False]]
    assert not survey_of(double_well, [0.45, 0.1]).open_faces().any()


def test_nothing_is_held_beside_a_place_where_the_loss_diverges():
    survey = survey_of(double_well, [0.45, 0.1], diverged=[0.5, 0.0])
    assert survey.well(0) is None
    assert survey.leaks() is None


def test_leaks_are_where_too_little_is_known():
    open_, shut = (survey_of(double_well, [0.45, 0.1], n).leaks() for n in (12, 160))
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


def test_cells_of_every_set_may_reach_it(held):
    """Also those of a well that are not held in it, and of sets that lie in it as well."""
    result, _ = held
    for number, found in enumerate(result.morse_sets):
        kinds = result.boxes[0].reach.kinds[result.boxes[0].reach.of[found.cells]]
        assert kinds[:, number].all()
    assert len(np.unique(result.samples, axis=0)) == len(result.samples)


def test_what_may_rest_in_a_well_without_being_held_keeps_its_set():
    """Cells 0 to 2 are held; 4 may rest or leave; 6 leads to it and to nothing else."""
    edges = {0: [0], 1: [0], 2: [1], 3: [2, 4], 4: [4, 5], 5: [7], 6: [4], 7: [7]}
    row, column = np.array([(i, j) for i, image in edges.items() for j in image]).T
    image = csr_array((np.ones(len(row), bool), (row, column)), shape=(8, 8))
    held = np.array([1, 1, 1, 0, 0, 0, 0], dtype=bool)
    critical = np.array([1, 0, 0, 0, 1, 0, 0], dtype=bool)
    found = morse_graph(_absorbing(image, held, np.array([0, 4])), critical=critical)
    labels = certain_labels(found)
    assert labels[:3].tolist() == [found.attractors[0]] * 3
    assert labels[3:].tolist() == [UNDECIDED, UNDECIDED, ESCAPES, UNDECIDED]
    listed = _holding(found, 0, np.array([0, 4]), critical).morse_sets
    assert [cells.tolist() for cells in listed] == [[0, 4], [4]]


def test_a_set_is_listed_without_the_cells_of_a_well_only_if_it_may_rest_elsewhere():
    """Cell 0 is held; 2 to 4 are a set, which may rest in 2, in the well, and maybe in 4."""
    edges = {0: [0], 1: [0], 2: [3], 3: [4], 4: [2, 5], 5: [5]}
    row, column = np.array([(i, j) for i, image in edges.items() for j in image]).T
    image = csr_array((np.ones(len(row), bool), (row, column)), shape=(6, 6))
    held, possible = np.array([1, 0, 0, 0, 0], dtype=bool), np.array([0, 2])
    for rests_elsewhere, listed in ((False, [2, 3, 4]), (True, [3, 4])):
        critical = np.array([1, 0, 1, 0, rests_elsewhere], dtype=bool)
        found = morse_graph(_absorbing(image, held, possible), critical=critical)
        sets = _holding(found, 0, possible, critical).morse_sets
        assert [cells.tolist() for cells in sets] == [[0, 2], listed]


def test_the_parts_of_a_cell_are_limited():
    grid = CubicalGrid([0.0] * 6, [1.0] * 6, (4,) * 6)
    assert _divided(grid, np.full(6, 0.4)).size <= 4096


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


@pytest.mark.parametrize("place", [[-0.2, 0.15], [-0.12, 0.2]])
def test_the_cell_of_the_point_is_seen_in_parts_where_it_is_not_held(place, tmp_path):
    """On a coarse grid the loss varies much within a cell."""
    given = crease, place, [-1.0] * 2, [1.0] * 2, None, 96, 32, 0.95, 0, 128, None
    question = begun(*given)
    result = question.conclude(question.decide(sealing=True))
    (number,) = result.basin_of([place]).tolist()
    wall = result.morse_sets[number].wall
    (parts,) = [box for box in result.inner if not box.n_samples]
    assert result.labels[result.grid.cell_of([place])[0]] == UNDECIDED
    assert set(parts.labels) == {UNDECIDED, number}
    low, up = parts.grid.cell_bounds()
    inside = np.concatenate([low, up])[np.tile(parts.labels == number, 2)]
    assert (crease(torch.from_numpy(inside)).numpy() <= wall).all()
    result.save(tmp_path / "parts.npz")
    back = lm.MorseAnalysis.load(tmp_path / "parts.npz")
    assert back.basin_of([place]).tolist() == [number]
    assert plot_basins(back, current=place).axes


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
    numbers = []
    for seed in range(6):  # half of them show one
        points = np.random.default_rng(seed).uniform(-1, 1, (160, 2))
        losses = crease(torch.from_numpy(points)).numpy()
        result = analyze_samples(points, losses, [-1, -1], [1, 1], resolution=64)
        numbers += result.basin_of(points[[losses.argmin()]]).tolist()
        assert all(result.morse_sets[a].wall is not None for a in result.attractors)
    assert 0 in numbers
    assert set(numbers) <= {0, UNDECIDED}
