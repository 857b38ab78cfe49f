"""Conley indices of Morse sets whose dynamics are known."""

from collections import Counter

import numpy as np
import pytest
from scipy.sparse import csr_array

from lightning_morse import (
    AdaptiveGrid,
    CubicalGrid,
    adaptive_outer_approximation,
    morse_graph,
    outer_approximation,
)
from lightning_morse.bands.gradient import GradientBand
from lightning_morse.conley.box_maps import corner_images
from lightning_morse.conley.index import ConleyIndex, conley_indices, index_pair
from lightning_morse.conley.point_maps import time_map
from lightning_morse.enclosure.flow_map import critical_cells, image_boxes
from lightning_morse.gp.process import Posterior
from lightning_morse.grids.lattice import Lattice
from tests.conley.known_maps import van_der_pol
from tests.landscapes import (
    HIMMELBLAU_MAXIMA,
    HIMMELBLAU_MINIMA,
    HIMMELBLAU_SADDLES,
    double_well_gradient,
    himmelblau_gradient,
)


def exact_flow(gradient, lower, upper, shape):
    """Grid, map and Morse graph for a gradient that is known exactly at the lattice points."""
    lattice = Lattice.of(CubicalGrid(lower, upper, shape))
    points = np.stack([m.ravel() for m in np.meshgrid(*lattice.axes, indexing="ij")], 1)
    slope, step = gradient(points), 1e-5 * np.eye(lattice.dim)
    columns = [(gradient(points + e) - gradient(points - e)) / 2e-5 for e in step]
    zero = np.zeros_like(slope)
    posterior = Posterior(zero[:, 0], zero[:, 0], slope, zero, np.stack(columns, axis=2))
    band = GradientBand(0.0, 1.0, np.zeros((int(np.prod(lattice.cells)), lattice.dim)))
    boxes = image_boxes(lattice, posterior, band)
    exits = boxes.exits.any(axis=(1, 2))
    image = outer_approximation(boxes.lower, boxes.upper, lattice.grid, exits=exits)
    critical = lattice.any_in_grid_cell(critical_cells(lattice, posterior, band))
    found = morse_graph(image, critical=critical)
    return lattice.grid, image, found


@pytest.mark.parametrize("n", [64, 128, 256])
def test_himmelblau(n):
    grid, image, found = exact_flow(himmelblau_gradient, [-5, -5], [5, 5], (n, n))
    kinds = [index.kind for index in conley_indices(image, found, grid)]
    count = Counter(kinds)
    del count["trivial"]  # a cell next to a saddle may be recurrent by itself
    assert count == {"attractor": 4, "saddle of index 1": 4, "repeller": 1}
    for points, kind in (
        (HIMMELBLAU_MINIMA, "attractor"),
        (HIMMELBLAU_SADDLES, "saddle of index 1"),
        (HIMMELBLAU_MAXIMA, "repeller"),
    ):
        for cell in grid.cell_of(points):
            assert [k for k, m in zip(kinds, found.morse_sets, strict=True) if cell in m] == [kind]


@pytest.mark.parametrize("n", [24, 40])
def test_sum_of_three_double_wells(n):
    """Barriers along p of the 3 axes: binomial(3, p) 2^(3 - p) critical points of index p."""
    grid, image, found = exact_flow(double_well_gradient, [-2] * 3, [2] * 3, (n,) * 3)
    betti = Counter(index.betti for index in conley_indices(image, found, grid))
    assert betti == {(1, 0, 0, 0): 8, (0, 1, 0, 0): 12, (0, 0, 1, 0): 6, (0, 0, 0, 1): 1}


@pytest.mark.parametrize(("n", "time"), [(128, 1.0), (256, 0.5), (200, 2.0)])
def test_van_der_pol(n, time):
    """An attracting cycle around a repelling fixed point."""
    grid = CubicalGrid([-4, -4], [4, 4], (n, n))
    images = corner_images(time_map(van_der_pol, time, 30), grid, padding=0.5)
    image = outer_approximation(*images, grid)
    found = morse_graph(image)
    indices = conley_indices(image, found, grid)
    known = [(i.betti, i.kind) for i in indices if i.kind != "trivial"]
    assert sorted(known) == [((0, 0, 1), "repeller"), ((1, 1, 0), "periodic attractor")]
    assert [indices[a].kind for a in found.attractors] == ["periodic attractor"]
    (origin,) = grid.cell_of([[1e-9, 1e-9]])
    assert any(
        i.kind == "repeller" and origin in m for i, m in zip(indices, found.morse_sets, strict=True)
    )


def test_unstable_cycle():
    """A repelling cycle between a fixed point and an attracting cycle: r' = r (r - 1)(2 - r)."""

    def field(x):
        r = np.linalg.norm(x, axis=1, keepdims=True)
        return np.stack([-x[:, 1], x[:, 0]], 1) + x * (r - 1) * (2 - r)

    grid = CubicalGrid([-2.8, -2.8], [2.8, 2.8], (140, 140))
    image = outer_approximation(*corner_images(time_map(field, 1.0, 20), grid, padding=0.5), grid)
    indices = conley_indices(image, morse_graph(image), grid)
    kinds = Counter(i.kind for i in indices if i.kind != "trivial")
    assert kinds == {"attractor": 1, "periodic orbit of index 1": 1, "periodic attractor": 1}


def test_damped_pendulum_on_its_cylinder():
    """The hanging and the upright equilibrium; the seam of the angle is at the upright one."""

    def field(x):
        return np.stack([x[:, 1], -np.sin(x[:, 0]) - x[:, 1]], axis=1)

    grid = CubicalGrid([-np.pi, -3], [np.pi, 3], (120, 120), (True, False))
    image = outer_approximation(*corner_images(time_map(field, 1.0, 20), grid, padding=0.5), grid)
    found = morse_graph(image)
    indices = conley_indices(image, found, grid)
    kinds = {i.kind: m for i, m in zip(indices, found.morse_sets, strict=True)}
    del kinds["trivial"]
    assert set(kinds) == {"attractor", "saddle of index 1"}
    assert grid.cell_of([[0, 0]])[0] in kinds["attractor"]
    assert grid.cell_of([[np.pi, 0]])[0] in kinds["saddle of index 1"]


def test_kinds():
    kinds = {
        (0, 0, 0, 0): "trivial",
        (0, 0, 1, 0): "saddle of index 2",
        (0, 0, 0, 1): "repeller",
        (0, 1, 1, 0): "periodic orbit of index 1",
        (0, 0, 1, 1): "periodic orbit of index 2",
        (2, 0, 0, 0): "other",
        (1, 0, 1, 0): "other",
        (1, 1, 1, 0): "other",
    }
    assert {b: ConleyIndex(b).kind for b in kinds} == kinds


def test_no_morse_sets_and_a_single_one_that_is_the_whole_torus():
    line = CubicalGrid([0.0, 0.0], [1.0, 1.0], (8, 8))
    away = outer_approximation(*corner_images(lambda x: x + 5, line), line)
    assert conley_indices(away, morse_graph(away), line) == ()
    torus = CubicalGrid([0.0, 0.0], [1.0, 1.0], (40, 40), (True, True))
    turn = outer_approximation(*corner_images(lambda x: x + np.array([0.123, 0.456]), torus), torus)
    (index,) = conley_indices(turn, morse_graph(turn), torus)
    assert index.betti == (1, 2, 1)
    assert index.kind == "other"


def test_a_set_whose_image_leaves_has_no_index():
    grid = CubicalGrid([0.0], [1.0], (4,))
    image = outer_approximation(*corner_images(lambda x: 2 * x - 0.1, grid), grid)
    found = morse_graph(image)
    assert index_pair(image, [0]) is None
    assert None in conley_indices(image, found, grid)


def test_bad_arguments_are_refused():
    image = csr_array(np.eye(4, dtype=bool))
    for cells in ([], [3], [-1], [0.5], [[0]]):
        with pytest.raises(ValueError, match="numbers of cells, from 0 to 2"):
            index_pair(image, cells)
    with pytest.raises(ValueError, match="one row for each of the 4 cells"):
        conley_indices(image, morse_graph(image), CubicalGrid([0], [1], (4,)))


def test_indices_on_adaptive_grids_depend_on_a_morse_set_and_its_neighbours_only(monkeypatch):
    """A small cell that maps to everything is a repeller, however large its image."""
    monkeypatch.setattr("lightning_morse.grids.raster.MAX_RASTER_CELLS", 9)
    tree = AdaptiveGrid.of(CubicalGrid([0.0, 0.0], [1.0, 1.0], (4, 4)))
    tree = tree.refine(np.arange(16) == 5)
    lower, upper = (corner.copy() for corner in tree.cell_bounds([0] * tree.size))
    lower[5], upper[5] = 0, 1
    image = adaptive_outer_approximation(lower / 2, np.where(upper == 1, 1, upper / 2), tree)
    found = morse_graph(image)
    assert [cells.tolist() for cells in found.morse_sets] == [[0], [5]]
    kinds = [index.kind for index in conley_indices(image, found, tree)]
    assert kinds == ["attractor", "repeller"]
    with pytest.raises(ValueError, match=r"each of the 19 cells of the grid and one for the ext"):
        conley_indices(image[:-1, :-1], found, tree)
