"""Refined Morse graphs, against the uniform grid and on known landscapes."""

import functools
import itertools
from collections import Counter

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_morse import (
    CubicalGrid,
    morse_graph,
    order_retraction,
    outer_approximation,
    refined_morse_graph,
)
from lightning_morse.conley.attractor_lattice import attracting_block
from lightning_morse.conley.basins import certain_labels
from lightning_morse.conley.box_maps import corner_box_map, lipschitz_box_map
from lightning_morse.conley.index import conley_indices
from lightning_morse.conley.point_maps import time_map
from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from tests.landscapes import (
    HIMMELBLAU_MAXIMA,
    HIMMELBLAU_MINIMA,
    HIMMELBLAU_SADDLES,
    himmelblau_critical,
    himmelblau_gradient,
)


class Atoms:
    """A random monotone box map: the image box of a part lies in the image box of the whole.

    Each cell of the finest grid has its own image box; a larger cell has the hull of those in it.
    """

    def __init__(self, grid, depth, rng, kind):
        self.fine = CubicalGrid(grid.lower, grid.upper, [n << depth for n in grid.shape])
        width = grid.upper - grid.lower
        centers = (self.fine.cell_centers() - grid.lower) / width
        d = grid.dim
        if kind == "scattered":
            middle = rng.uniform(-0.05, 1.05, centers.shape)
        elif kind == "smooth":
            turn = rng.normal(0, 3, (d, d))
            middle = 0.5 + 0.5 * np.sin(centers @ turn + rng.uniform(0, 6, d))
        elif kind == "wells":
            middle = centers + rng.normal(0, 0.5, centers.shape) / np.array(self.fine.shape)
            for _ in range(rng.integers(2, 8)):
                middle = middle - 0.9 * np.sin(4 * np.pi * (middle - 0.2)) / (4 * np.pi)
        else:
            middle = centers + rng.normal(0, 1.5, centers.shape) / np.array(self.fine.shape)
        half = rng.uniform(0, rng.choice([0.02, 0.6]), centers.shape) / self.fine.shape
        self.lower = ((middle - half) * width + grid.lower).reshape(*self.fine.shape, d)
        self.upper = ((middle + half) * width + grid.lower).reshape(*self.fine.shape, d)
        self.critical_cells = rng.random(self.fine.shape) < 0.3
        self.calls = []

    def critical(self, lower, upper):
        """Whether each box contains a marked cell of the finest grid."""
        ranges = self._ranges(lower, upper)
        return np.array([self.critical_cells[part].any() for part in ranges])

    def _ranges(self, lower, upper):
        ends = [
            (np.searchsorted(e, lower[:, a]), np.searchsorted(e, upper[:, a]))
            for a, e in enumerate(self.fine.edges)
        ]
        return [tuple(slice(b[i], e[i]) for b, e in ends) for i in range(len(lower))]

    def __call__(self, lower, upper):
        self.calls.append(lower.shape[0])
        low, up = np.empty_like(lower), np.empty_like(upper)
        for i, part in enumerate(self._ranges(lower, upper)):
            low[i] = self.lower[part].reshape(-1, self.fine.dim).min(0)
            up[i] = self.upper[part].reshape(-1, self.fine.dim).max(0)
        return low, up


def uniform(images, grid, depth, critical=None):
    fine = CubicalGrid(grid.lower, grid.upper, [n << depth for n in grid.shape])
    bounds = fine.cell_bounds()
    image = outer_approximation(*images(*bounds), fine)
    return fine, morse_graph(image, critical=None if critical is None else critical(*bounds))


def same_sets(result, fine, reference):
    """Match Morse sets made of the same boxes; fails unless all are matched.

    Returns:
        For each Morse set of the adaptive grid, the number of the same set of the uniform grid.
    """
    low, up = result.grid.cell_bounds()
    low_fine, up_fine = fine.cell_bounds()

    def boxes(low, up, cells):
        return frozenset(map(tuple, np.hstack([low[cells], up[cells]]).tolist()))

    theirs = {boxes(low_fine, up_fine, m): i for i, m in enumerate(reference.morse_sets)}
    ours = [boxes(low, up, m) for m in result.found.morse_sets]
    assert set(ours) == set(theirs)
    assert len(ours) == len(theirs) == len(reference.morse_sets)
    return [theirs[b] for b in ours]


def beside_uniform(result, fine, reference):
    """Everything the documentation promises compared with the uniform grid of the same depth."""
    match = same_sets(result, fine, reference)
    pairs = {(match[q], match[p]) for q, p in nx.transitive_closure(result.found.graph).edges}
    assert pairs >= set(nx.transitive_closure(reference.graph).edges)
    assert {match[a] for a in result.found.attractors} <= set(reference.attractors)
    # The cell around a small cell reaches at least what the small cell reaches.
    around = result.grid.cell_of(fine.cell_centers())
    for ours, theirs in enumerate([*match, len(match)]):
        assert not (reference.reaches(theirs)[:-1] & ~result.found.reaches(ours)[:-1][around]).any()
    number = {UNDECIDED: UNDECIDED, ESCAPES: ESCAPES, **dict(enumerate(match))}
    ours = np.array([number[x] for x in result.labels.tolist()])[around]
    theirs = certain_labels(reference)
    sure = ours != UNDECIDED
    return match, pairs, ours, theirs, sure


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["scattered", "smooth", "near", "wells", "wells"]),
    st.sampled_from(["recurrent", "undecided"]),
    st.booleans(),
)
def test_random_maps_beside_the_uniform_grid(d, seed, kind, refine, filtered):
    """Same Morse sets, cell for cell; no ordered pair, exit or reachable set is lost."""
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(0, (6, 4, 3)[d - 1]))
    shape = rng.integers(1, (7, 6, 4)[d - 1], d).tolist()
    grid = CubicalGrid([0.3] * d, [2.0] * d, shape)
    images = Atoms(grid, depth, rng, kind)
    critical = images.critical if filtered else None
    result = refined_morse_graph(images, grid, depth, refine=refine, critical=critical)
    assert result.complete
    assert sum(images.calls) == images.calls[0] + sum(
        (b - a) // (2**d - 1) * 2**d for a, b in itertools.pairwise(result.sizes)
    ), "images are computed for new cells only"
    fine, reference = uniform(images, grid, depth, critical)
    _, _, ours, theirs, sure = beside_uniform(result, fine, reference)
    if filtered:  # a small cell may end in recurrence that was filtered out
        sure &= theirs != UNDECIDED
    assert np.array_equal(ours[sure], theirs[sure])
    if refine == "undecided":
        attractors = list(result.found.attractors)
        ends = np.array(
            [result.found.reaches(t)[:-1] for t in [*attractors, len(result.found.morse_sets)]]
        )
        assert (result.grid.levels[ends.sum(0) > 1] == depth).all()


@pytest.mark.parametrize("d", [1, 2, 3])
def test_all_refined_equals_the_uniform_grid(d):
    """Every cell recurs until the last level: the same map as on the uniform grid, renumbered."""
    grid = CubicalGrid([0.0] * d, [1.0] * d, (2,) * d)
    depth = 3
    whole = Atoms(grid, depth, np.random.default_rng(d), "near")

    def images(lower, upper):
        low, up = whole(lower, upper)
        coarse = (upper - lower > 1.5 / (2 << depth)).any(1, keepdims=True)
        return np.where(coarse, 0.0, low), np.where(coarse, 1.0, up)

    result = refined_morse_graph(images, grid, depth)
    assert result.sizes == tuple((2 << k) ** d for k in range(depth + 1))
    fine, reference = uniform(images, grid, depth)
    order = result.grid.cell_of(fine.cell_centers())
    image = outer_approximation(*images(*fine.cell_bounds()), fine)
    everywhere = np.append(order, fine.size)
    assert (result.image[everywhere][:, everywhere] != image).nnz == 0
    match, pairs, ours, theirs, _ = beside_uniform(result, fine, reference)
    assert pairs == set(nx.transitive_closure(reference.graph).edges)
    assert {match[a] for a in result.found.attractors} == set(reference.attractors)
    assert np.array_equal(ours, theirs)


def test_limit_on_cells():
    grid = CubicalGrid([-1.0, -1.0], [1.3, 1.3], (4, 4))

    def images(lower, upper):
        return lower / 8, upper / 8

    full = refined_morse_graph(images, grid, 5)
    assert full.complete
    for limit in (0, 16, full.sizes[2], full.sizes[-1] - 1):
        result = refined_morse_graph(images, grid, 5, max_cells=limit)
        assert not result.complete
        assert result.sizes == tuple(s for s in full.sizes if s <= max(limit, 16))
        assert result.grid.size == result.sizes[-1]
        assert result.found.attractors == (0,)
    assert refined_morse_graph(images, grid, 5, max_cells=full.sizes[-1]).complete
    assert refined_morse_graph(images, grid, 0, max_cells=0).complete


def test_volumes_of_labels():
    """1-D: attracting fixed points at 0 and 1, and the undecided cells between their basins."""

    def after(x):  # thirty steps, each increasing on [-0.4, 1.3]
        for _ in range(30):
            x = x - 0.5 * x * (x - 0.3) * (x - 1)
        return x

    def images(lower, upper):
        return after(lower), after(upper)

    grid = CubicalGrid([-0.4], [1.3], (34,))
    result = refined_morse_graph(images, grid, 8, refine="undecided")
    low, high = result.found.attractors
    assert result.volume(low) == pytest.approx(0.7 / 1.7, abs=0.001)
    assert result.volume(high) == pytest.approx(1 / 1.7, abs=0.001)
    assert result.volume(low) + result.volume(high) + result.volume(UNDECIDED) == pytest.approx(1)
    assert result.volume(ESCAPES) == 0
    # Undecided: the cell of the repelling fixed point and its nearest neighbours.
    assert result.volume(UNDECIDED) < 4 / (34 << 8)


def shrink(lower, upper):
    return lower / 8, upper / 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": -1}, "depth must be an integer of at least 0, got -1"),
        ({"depth": 1.5}, "depth must be an integer of at least 0, got 1.5"),
        ({"refine": "all"}, "refine must be 'recurrent' or 'undecided', got 'all'"),
        ({"images": lambda low, up: (low[:2], up[:2])}, r"corners of shape \(4, 1\), got shapes"),
        ({"images": lambda low, up: (low,)}, r"corners of shape \(4, 1\), got shapes \[\(4, 1\)\]"),
        (
            {"images": lambda low, up: (up, low)},
            r"the cell from \[-1.0\] to \[-0.5\] to the box from \[-0.5\] to \[-1.0\]",
        ),
        (
            {"images": lambda low, up: (low, np.where(up > 0.6, np.nan, up))},
            r"without NaN, but maps the cell from \[0.5\] to \[1.0\] to the box",
        ),
        (
            {"critical": lambda low, up: np.ones(3, bool)},
            r"one boolean for each of the 4 boxes, got bool of shape \(3,\)",
        ),
        (
            {"critical": lambda low, up: np.ones(4)},
            r"one boolean for each of the 4 boxes, got float64",
        ),
        ({"grid": CubicalGrid([-1.0], [1.0], (4,), (True,))}, "cannot have periodic axes"),
    ],
)
def test_bad_arguments(options, message):
    given_ = {"images": shrink, "grid": CubicalGrid([-1.0], [1.0], (4,)), "depth": 2}
    with pytest.raises(ValueError, match=message):
        refined_morse_graph(**{**given_, **options})


def descent(x):
    """The time-0.1 map of Himmelblau's gradient flow."""
    return time_map(lambda y: -himmelblau_gradient(y), 0.1, 50)(x)


HIMMELBLAU_BOX = ([-5.0, -5.0], [5.0, 5.0])


@functools.cache
def himmelblau_on_the_uniform_grid(padding):
    """The finest grid, its Morse graph, and the Conley indices there."""
    images = corner_box_map(descent, padding=padding)
    fine, reference = uniform(images, CubicalGrid(*HIMMELBLAU_BOX, (32, 32)), 3)
    image = outer_approximation(*images(*fine.cell_bounds()), fine)
    return fine, reference, conley_indices(image, reference, fine)


@pytest.mark.parametrize("refine", ["recurrent", "undecided"])
@pytest.mark.parametrize("padding", [0.1, 0.5])
def test_himmelblau_beside_the_uniform_grid(refine, padding):
    """Same Morse sets, order and attractors; same labels if undecided cells are refined too."""
    images = corner_box_map(descent, padding=padding)
    grid = CubicalGrid(*HIMMELBLAU_BOX, (32, 32))
    result = refined_morse_graph(images, grid, 3, refine=refine)
    fine, reference, theirs_by_index = himmelblau_on_the_uniform_grid(padding)
    match, pairs, ours, theirs, sure = beside_uniform(result, fine, reference)
    assert pairs == set(nx.transitive_closure(reference.graph).edges)
    assert {match[a] for a in result.found.attractors} == set(reference.attractors)
    assert np.array_equal(ours[sure], theirs[sure])
    if refine == "undecided":
        assert np.array_equal(ours, theirs)
    else:
        assert sure.mean() > 0.9
    assert result.grid.size < fine.size / 20
    by_index = conley_indices(result.image, result.found, result.grid)
    assert [theirs_by_index[m] for m in match] == list(by_index)


def kinds_around(result, indices, points):
    """Kinds of the Morse sets that hold some points."""
    cells = result.grid.cell_of(points)
    sets = zip(indices, result.found.morse_sets, strict=True)
    return Counter(index.kind for index, m in sets if np.isin(cells, m).any())


@pytest.mark.parametrize("refine", ["recurrent", "undecided"])
def test_himmelblau_on_4096_cells_per_axis(refine):
    """4 minima, 4 saddles above two of them each, a maximum above all; labels hold on orbits."""
    result = refined_morse_graph(
        corner_box_map(descent, padding=0.1),
        CubicalGrid(*HIMMELBLAU_BOX, (64, 64)),
        6,
        refine=refine,
        critical=himmelblau_critical,
    )
    assert result.complete
    assert result.grid.size < (6000 if refine == "recurrent" else 40_000)  # of 16.8 million
    found = result.found
    for cells in found.morse_sets:
        assert (result.grid.levels[cells] == 6).all()
    indices = conley_indices(result.image, found, result.grid)
    kinds = Counter(index.kind for index in indices)
    del kinds["trivial"]  # a cell next to a saddle may be recurrent by itself
    assert kinds == {"attractor": 4, "saddle of index 1": 4, "repeller": 1}
    assert kinds_around(result, indices, HIMMELBLAU_MINIMA) == {"attractor": 4}
    assert kinds_around(result, indices, HIMMELBLAU_SADDLES) == {"saddle of index 1": 4}
    assert kinds_around(result, indices, HIMMELBLAU_MAXIMA) == {"repeller": 1}
    assert len(found.attractors) == 4
    for number, index in enumerate(indices):
        falls_to = nx.descendants(found.graph, number) & set(found.attractors)
        if index.kind == "saddle of index 1":
            assert len(falls_to) == 2
        if index.kind == "repeller":
            assert len(falls_to) == 4

    labels = result.labels
    assert result.volume(UNDECIDED) < (0.05 if refine == "recurrent" else 0.001)
    points = np.random.default_rng(0).uniform(*HIMMELBLAU_BOX, (4000, 2))
    near = result.grid.cell_bounds(np.flatnonzero(labels == UNDECIDED)[::5])[0]
    points = np.concatenate([points, np.clip(near - 2e-3, -5, 5)])  # next to undecided cells
    label = labels[result.grid.cell_of(points)]
    assert (label != ESCAPES).all()
    for _ in range(60):
        points = descent(points)
    distance = np.linalg.norm(points[:, None] - HIMMELBLAU_MINIMA, axis=2)
    settled = distance.min(1) < 1e-6
    assert settled.mean() > 0.99
    homes = labels[result.grid.cell_of(HIMMELBLAU_MINIMA)]
    sure = settled & (label != UNDECIDED)
    assert sure.sum() > 3500
    assert np.array_equal(label[sure], homes[distance.argmin(1)[sure]])


def test_blocks_and_tiles_on_an_adaptive_grid():
    """What needs no grid works on cells of several sizes, too."""
    images = corner_box_map(descent, padding=0.1)
    grid = CubicalGrid(*HIMMELBLAU_BOX, (32, 32))
    result = refined_morse_graph(images, grid, 4, critical=himmelblau_critical)
    for attractor in result.found.attractors:
        block = attracting_block(result.found, [attractor])
        inside = np.append(block, False)
        assert inside[result.image[np.flatnonzero(block)].indices].all()
        assert np.array_equal(block, result.labels == attractor)
    retraction = order_retraction(result.found, confined=True)
    assert retraction.tiles is not None, retraction.reason
    for number, cells in enumerate(result.found.morse_sets):
        assert (retraction.tiles[cells] == number).all()


def wells(x):
    """The time-2 map of x' = x - x^3 along each axis, increasing in each coordinate."""
    return time_map(lambda y: y - y * y * y, 2.0, 40)(x)


def wells_images(lower, upper):
    """Exact up to the error of Runge-Kutta, far below 1e-5, since each coordinate is increasing."""
    return wells(lower) - 1e-5, wells(upper) + 1e-5


def wells_critical(lower, upper):
    return np.any([(lower <= c) & (upper >= c) for c in (-1, 0, 1)], axis=0).all(1)


@pytest.mark.parametrize(
    ("d", "cells", "depth", "betti"),
    [
        (3, 16, 4, {(1, 0, 0, 0): 8, (0, 1, 0, 0): 12, (0, 0, 1, 0): 6, (0, 0, 0, 1): 1}),
        (
            4,
            8,
            5,
            {
                (1, 0, 0, 0, 0): 16,
                (0, 1, 0, 0, 0): 32,
                (0, 0, 1, 0, 0): 24,
                (0, 0, 0, 1, 0): 8,
                (0, 0, 0, 0, 1): 1,
            },
        ),
    ],
)
def test_sums_of_double_wells(d, cells, depth, betti):
    """Two wells and a barrier along each axis: 256 cells per axis, 3^d Morse sets.

    The order is the product order: along an axis, both wells lie below the barrier.
    """
    grid = CubicalGrid([-1.7] * d, [1.6] * d, (cells,) * d)
    result = refined_morse_graph(wells_images, grid, depth, critical=wells_critical)
    assert result.complete
    found = result.found
    assert len(found.attractors) == 2**d
    places = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=d)))
    home = np.full(result.grid.size, -1)
    for number, m in enumerate(found.morse_sets):
        home[m] = number
    numbers = home[result.grid.cell_of(places + 1e-9)]
    assert sorted(numbers) == list(range(3**d))
    assert len(found.morse_sets) == 3**d
    below = nx.transitive_closure(found.graph)
    for i, j in itertools.permutations(range(len(places)), 2):
        true = ((places[i] == 0) | (places[i] == places[j])).all()
        assert below.has_edge(numbers[i], numbers[j]) == true
    indices = conley_indices(result.image, found, result.grid)
    assert Counter(index.betti for index in indices) == betti


def test_certain_labels_of_three_double_wells():
    """With undecided cells refined as well, every certain cell lies in a single orthant."""
    grid = CubicalGrid([-1.7] * 3, [1.6] * 3, (8,) * 3)
    result = refined_morse_graph(wells_images, grid, 3, refine="undecided", critical=wells_critical)
    assert len(result.found.attractors) == 8
    minima = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
    homes = result.labels[result.grid.cell_of(minima)]
    assert sorted(homes) == sorted(result.found.attractors)
    lower, upper = result.grid.cell_bounds()
    sure = result.labels != UNDECIDED
    assert ((lower > 0) | (upper < 0))[sure].all()
    orthant = np.where(lower > 0, 1, 0) @ [4, 2, 1]
    assert np.array_equal(result.labels[sure], homes[orthant[sure]])
    coarse = refined_morse_graph(wells_images, grid, 3, critical=wells_critical)
    assert result.volume(UNDECIDED) < 0.4 * coarse.volume(UNDECIDED)


def test_a_proved_enclosure_of_a_flow():
    """Lipschitz bounds box by box, from Gronwall's inequality for the double wells in 2-D."""

    def growth(lower, upper):
        # An orbit of x' = x - x^3 never gets closer to 0 than its start or the wells at -1 and 1,
        # and the derivative of the flow is exp of the integral of 1 - 3 x^2 along the orbit.
        inner = np.where(lower * upper <= 0, 0.0, np.minimum(np.abs(lower), np.abs(upper)))
        slowest = np.minimum(inner, 1.0)
        return np.exp(2.0 * (1 - 3 * slowest**2))[:, :, None] * np.eye(2)

    images = lipschitz_box_map(wells, growth, padding=1e-4)
    grid = CubicalGrid([-1.7] * 2, [1.6] * 2, (16, 16))
    result = refined_morse_graph(images, grid, 5, critical=wells_critical)
    low, up = images(*result.grid.cell_bounds())
    exact = wells_images(*result.grid.cell_bounds())
    assert (low <= exact[0] + 2e-5).all()
    assert (up >= exact[1] - 2e-5).all()
    indices = conley_indices(result.image, result.found, result.grid)
    kinds = Counter(index.kind for index in indices)
    del kinds["trivial"]
    assert kinds == {"attractor": 4, "saddle of index 1": 4, "repeller": 1}
