import functools
import math

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from lightning_morse import CubicalGrid
from lightning_morse.analysis.design import design
from lightning_morse.bands.gradient import GradientBand, gradient_band
from lightning_morse.enclosure import bounds as flow_bounds
from lightning_morse.enclosure import flow_map as gradient_flow
from lightning_morse.enclosure.flow_map import FlowEnclosure, critical_cells, image_boxes
from lightning_morse.gp.fit import fit
from lightning_morse.gp.process import Posterior
from lightning_morse.grids.lattice import Lattice
from tests.landscapes import double_well, double_well_gradient, hill, himmelblau, plane


def setting(loss, lower, upper, shape, n=64, confidence=0.95):
    x = design(lower, upper, n, 0)
    gp = fit(x, loss(x), lower, upper)
    lattice = Lattice.of(CubicalGrid(lower, upper, shape))
    posterior = gp.lattice_posterior(lattice.axes)
    return gp, lattice, posterior, gradient_band(gp, lattice, posterior, confidence)


def tilted(x):
    """A minimum at 0 with equal entries off the diagonal of its Hessian, and cubic terms."""
    x = np.asarray(x)
    return 0.2 * np.square(x).sum(1) + 0.3 * np.square(x.sum(1)) + 0.1 * np.prod(1 + x, axis=1)


def band_radius(lattice, band, x):
    """Half-width of the band at points of the box."""
    cells = CubicalGrid(lattice.grid.lower, lattice.grid.upper, lattice.cells)
    return band.radius[np.maximum(cells.cell_of(x), 0)]


LANDSCAPES = {
    "double well, 1-D": (double_well, [-2.0], [2.0], (40,)),
    "Himmelblau": (himmelblau, [-5.0, -5.0], [5.0, 5.0], (48, 48)),
    "double well, 2-D": (double_well, [-2.0, -1.5], [1.0, 2.0], (24, 60)),
    "double well, 3-D": (double_well, [-2.0] * 3, [2.0] * 3, (16, 16, 16)),
    "tilted, 3-D": (tilted, [-1.0] * 3, [1.5] * 3, (16, 16, 16)),
    "tilted, 2-D": (tilted, [-1.0, -1.5], [1.5, 1.0], (32, 24)),
}
PUSHES = ("none", "outward", "wave")


def pushed(push, x, t, center, width):
    """Where a field goes that differs from the mean by what the band allows."""
    if push == "none":
        return np.zeros_like(x)
    return np.sign(x - center) if push == "outward" else np.sin(7 * x / width + 3 * t)


def mean_gradient(gp, x):
    """The gradient of the posterior alone: its variances would take most of the time here."""
    scales = enumerate(gp.lengthscales.tolist())
    factors = [gp.kernel.derivatives(x[:, j], gp.x[:, j], scale, (0, 1)) for j, scale in scales]
    of_axis = [
        math.prod(f[int(i == j)] for i, f in enumerate(factors)) @ gp.weights
        for j in range(len(factors))
    ]
    return np.stack(of_axis, axis=1)


@functools.cache
def followed(name):
    """Boxes of cells, and where points of them go in all fields: integrated together, once.

    The images of plain and of sharp boxes; the cell of each point; end points, and which have been
    inside all along, of shape ``(2, len(PUSHES), n, ...)``.
    """
    loss, lower, upper, shape = LANDSCAPES[name]
    gp, lattice, posterior, band = setting(loss, lower, upper, shape)
    enclosure, grid = FlowEnclosure.of(lattice, posterior), lattice.grid
    images = [enclosure.images(band, sharp=sharp) for sharp in (False, True)]
    rng = np.random.default_rng(1)
    cells = rng.choice(grid.size, 60)
    low, up = (c[cells] for c in grid.cell_bounds())
    # Corners and random points of each cell: the worst cases sit in the corners.
    share = np.concatenate([rng.integers(0, 2, (2, 60, grid.dim)), rng.random((1, 60, grid.dim))])
    x = np.tile((low + share * (up - low)).reshape(-1, grid.dim), (2, len(PUSHES), 1, 1))
    owner = np.tile(cells, 3)
    center = grid.cell_centers()[owner]
    h = np.stack([found.times[owner] for found in images])[:, None, :, None] / 120
    inside = np.ones(x.shape[:-1], dtype=bool)
    some = x[0, 0]
    np.testing.assert_allclose(mean_gradient(gp, some), gp.posterior(some).gradient, rtol=1e-9)

    def field(p, t):
        at = np.clip(p, grid.lower, grid.upper).reshape(-1, grid.dim)
        width = 0.999 * band_radius(lattice, band, at).reshape(p.shape)
        direction = [
            pushed(push, p[:, k], t, center, grid.cell_widths[0]) for k, push in enumerate(PUSHES)
        ]
        return np.stack(direction, axis=1) * width - mean_gradient(gp, at).reshape(p.shape)

    for k in range(120):
        k1 = field(x, k)
        k2 = field(x + 0.5 * h * k1, k + 0.5)
        k3 = field(x + 0.5 * h * k2, k + 0.5)
        later = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + field(x + h * k3, k + 1))
        x = np.where(inside[..., None], later, x)
        inside &= ((x >= grid.lower) & (x <= grid.upper)).all(axis=-1)
    return images, owner, x, inside


@pytest.mark.parametrize("name", LANDSCAPES)
@pytest.mark.parametrize("push", PUSHES)
@pytest.mark.parametrize("sharp", [False, True])
def test_true_images_lie_in_the_boxes(name, push, sharp):
    """Fields anywhere inside the band, integrated finely: end points and exits are announced."""
    images, owner, x, inside = followed(name)
    which = int(sharp), PUSHES.index(push)
    images, x, inside = images[which[0]], x[which], inside[which]
    assert inside.any()
    assert (x[inside] >= images.lower[owner][inside]).all()
    assert (x[inside] <= images.upper[owner][inside]).all()
    # What left the box has been announced, through some face.
    assert images.exits[owner][~inside].any(axis=(1, 2)).all()


def test_images_do_not_depend_on_the_chunk(monkeypatch):
    _, lattice, posterior, band = setting(himmelblau, [-5, -5], [5, 5], (20, 30))
    whole = image_boxes(lattice, posterior, band)
    monkeypatch.setattr(gradient_flow, "_CHUNK", 37)
    parts = image_boxes(lattice, posterior, band)
    assert np.array_equal(whole.lower, parts.lower)
    assert np.array_equal(whole.exits, parts.exits)


def test_a_wider_band_gives_larger_images_for_the_same_time():
    """For one cell in a contracting flow, where the times agree."""
    _, lattice, posterior, band = setting(double_well, [-2], [2], (64,))
    wider = GradientBand(band.c, band.level, 2 * band.radius)
    a, b = image_boxes(lattice, posterior, band), image_boxes(lattice, posterior, wider)
    same = np.isclose(a.times, b.times, rtol=1e-12)
    assert same.sum() > 20
    assert (b.upper - b.lower)[same].sum() > (a.upper - a.lower)[same].sum()


def test_cells_move_away_from_themselves_where_the_gradient_is_clear():
    _, lattice, posterior, band = setting(plane, [-1, -1], [1, 1], (32, 32))
    images = image_boxes(lattice, posterior, band)
    low, _ = lattice.grid.cell_bounds()
    assert (images.upper[:, 0] < low[:, 0]).all()
    assert images.exits[:96, 0, 0].all()  # the three lowest layers leave through the lower face
    assert not images.exits[:, 0, 1].any()


def test_flow_out_of_the_box_is_announced_and_flow_into_it_is_not():
    _, lattice, posterior, band = setting(hill, [-1], [1], (32,))
    exits = image_boxes(lattice, posterior, band).exits
    assert exits[0, 0].tolist() == [True, False]
    assert exits[-1, 0].tolist() == [False, True]
    _, lattice, posterior, band = setting(double_well, [-2], [2], (32,))
    assert not image_boxes(lattice, posterior, band).exits.any()


def test_a_cell_that_cannot_be_followed_is_its_own_image_and_may_leave():
    _, lattice, posterior, band = setting(double_well, [-2], [2], (32,))
    hopeless = GradientBand(band.c, band.level, 1e9 + band.radius)
    images = image_boxes(lattice, posterior, hopeless)
    low, up = lattice.grid.cell_bounds()
    assert (images.times == 0).all()
    assert (images.lower <= low).all()
    assert (images.upper >= up).all()
    assert images.exits[0, 0, 0]
    assert images.exits[-1, 0, 1]


def test_critical_points_are_in_critical_cells():
    for loss, lower, upper, points in [
        (double_well, [-2, -2], [2, 2], [[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)]),
        (double_well, [-2], [2], [[-1], [0], [1]]),
    ]:
        assert np.allclose(double_well_gradient(np.array(points, float)), 0)
        _, lattice, posterior, band = setting(loss, lower, upper, (41,) * len(lower), n=128)
        possible = lattice.any_in_grid_cell(critical_cells(lattice, posterior, band))
        assert possible[lattice.grid.cell_of(points)].all()
        assert possible.mean() < 0.2


@pytest.mark.parametrize("shape", [(30,), (9, 17), (5, 3, 6)])
def test_largest_values_over_windows_against_a_filter(shape):
    lattice = Lattice(CubicalGrid([0.0] * len(shape), [1.0] * len(shape), shape), (1,) * len(shape))
    values = np.random.default_rng(0).normal(size=(2, lattice.grid.size))
    reaches = np.array([1, 2, 3, 5, 7, 16])
    found = flow_bounds.spread(lattice, values, reaches)
    for reach, windows in zip(reaches, found.swapaxes(0, 1), strict=True):
        for k in range(2):
            expected = maximum_filter(values[k].reshape(shape), 2 * reach + 1, mode="nearest")
            assert np.array_equal(windows[k], expected.ravel())


def test_critical_cells_of_several_bands():
    gp, lattice, posterior, band = setting(himmelblau, [-5, -5], [5, 5], (24, 24))
    bands = [band, gradient_band(gp, lattice, posterior, 0.9999)]
    found = gradient_flow.critical_cells_of(lattice, posterior, bands)
    for mask, each in zip(found, bands, strict=True):
        assert np.array_equal(mask, critical_cells(lattice, posterior, each))
    assert found[0].sum() < found[1].sum()
    assert not (found[0] & ~found[1]).any()


def quadratic(matrix, cells):
    """Lattice, posterior and a narrow band of a quadratic loss known without doubt."""
    d = len(matrix)
    lattice = Lattice(CubicalGrid([-1.0] * d, [1.0] * d, (cells,) * d), (1,) * d)
    x = np.stack(np.meshgrid(*lattice.axes, indexing="ij"), -1).reshape(-1, d)
    posterior = Posterior(
        mean=0.5 * np.einsum("ni,ij,nj->n", x, matrix, x),
        deviation=np.zeros(len(x)),
        gradient=x @ matrix,
        gradient_deviation=np.zeros((len(x), d)),
        hessian=np.tile(matrix, (len(x), 1, 1)),
    )
    return lattice, posterior, GradientBand(1.0, 0.95, np.full((cells**d, d), 1e-3))


def test_a_tilted_minimum_contracts_along_its_own_axes_only():
    """Along the axes |H_12| + |H_13| > H_11: no box contracts, though all eigenvalues are positive.

    What is left of a cell in the end is what the band pushes: 1e-3 sqrt(d) / 0.4 at most.
    """
    matrix = 0.4 * np.eye(3) + 0.6 * np.ones((3, 3))
    lattice, posterior, band = quadratic(matrix, 15)
    enclosure = FlowEnclosure.of(lattice, posterior)
    middle = lattice.grid.cell_of(np.zeros((1, 3)))
    plain, sharp = (enclosure.images(band, middle, sharp=s) for s in (False, True))
    width = lattice.grid.cell_widths
    assert (plain.upper - plain.lower > width).all()
    assert (sharp.upper - sharp.lower < 0.1 * width).all()
    assert (sharp.upper - sharp.lower >= 2e-3 / matrix.sum(axis=1)).all()


def test_a_quadratic_flow_is_enclosed_almost_exactly():
    """Images of cells under exp(-H t): the sharp boxes are hardly larger, and hold them."""
    angle = 0.6
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([2.0, -1.0]) @ turn.T
    lattice, posterior, band = quadratic(matrix, 31)
    band = GradientBand(1.0, 0.95, np.full_like(band.radius, 1e-9))
    grid = lattice.grid
    inside = np.abs(grid.cell_centers()).max(axis=1) < 0.5
    cells = np.flatnonzero(inside)
    images = FlowEnclosure.of(lattice, posterior).images(band, cells, sharp=True)
    values, vectors = np.linalg.eigh(matrix)
    flow = np.einsum("ik,nk,jk->nij", vectors, np.exp(-values * images.times[:, None]), vectors)
    center = np.einsum("nij,nj->ni", flow, grid.cell_centers()[cells])
    radius = np.abs(flow) @ (grid.cell_widths / 2)
    assert (images.lower <= center - radius + 1e-9).all()
    assert (images.upper >= center + radius - 1e-9).all()
    # A square in another frame is wrapped once, by at most cos + sin.
    assert (images.upper - images.lower <= 2 * radius * 1.5).all()


def test_rows_of_images_are_replaced():
    _, lattice, posterior, band = setting(himmelblau, [-5, -5], [5, 5], (20, 20))
    enclosure = FlowEnclosure.of(lattice, posterior)
    cells = np.array([7, 200, 399])
    plain, sharp = enclosure.images(band), enclosure.images(band, cells, sharp=True)
    mixed = plain.replaced(cells, sharp)
    others = np.setdiff1d(np.arange(400), cells)
    for name in ("lower", "upper", "exits", "times", "swept"):
        assert np.array_equal(getattr(mixed, name)[cells], getattr(sharp, name))
        assert np.array_equal(getattr(mixed, name)[others], getattr(plain, name)[others])
    assert not np.array_equal(plain.lower[cells], sharp.lower)


@pytest.mark.parametrize("shape", [(9,), (6, 5), (4, 3, 5)])
def test_the_hessian_changes_no_more_than_the_bounds_say(shape):
    """Between any two points of a window, by the bend times their distance in the largest norm."""
    d = len(shape)
    rng = np.random.default_rng(d)
    lattice = Lattice(CubicalGrid([0.0] * d, [1.0] * d, shape), (1,) * d)
    n = lattice.n_points
    hessian = rng.normal(size=(n, d, d))
    posterior = Posterior(
        mean=np.zeros(n),
        deviation=np.zeros(n),
        gradient=np.zeros((n, d)),
        gradient_deviation=np.zeros((n, d)),
        hessian=hessian + hessian.swapaxes(1, 2),
    )
    bounds = flow_bounds.FlowBounds.of(lattice, posterior, 2)
    rows, columns = np.triu_indices(d)
    for _ in range(200):
        middle = rng.random(d) * shape
        cell = np.ravel_multi_index(tuple(bounds.corner(middle[:, None])[:, 0]), lattice.cells)
        window = rng.integers(len(bounds.reaches))
        ends = middle + rng.uniform(-1, 1, (2, d)) * bounds.reaches[window]
        ends = np.clip(ends, 0, shape)
        change = np.abs(np.diff(bounds.hessian_at(ends.T))[rows, columns, 0])
        far = np.abs(ends[0] - ends[1]).max()
        assert (change <= bounds.bend[:, window, cell] * far + 1e-12).all()
