"""Adaptive grids, the map on them, and Morse graphs that are fine only where they have to be."""

import itertools
from collections import Counter

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_morse import (
    AdaptiveGrid,
    CubicalGrid,
    adaptive_outer_approximation,
    attracting_block,
    morse_graph,
    order_retraction,
    outer_approximation,
    refined_morse_graph,
)
from lightning_morse.conley import adaptive_map
from lightning_morse.conley.basins import certain_labels
from lightning_morse.conley.box_maps import corner_box_map, lipschitz_box_map, time_map
from lightning_morse.conley.homology import relative_betti
from lightning_morse.conley.index import conley_indices
from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from lightning_morse.grids.adaptive import raster
from tests.conley.test_against_cmgdb import leslie
from tests.conley.test_combinatorial_map import box_maps
from tests.landscapes import (
    HIMMELBLAU_MAXIMA,
    HIMMELBLAU_MINIMA,
    HIMMELBLAU_SADDLES,
    himmelblau_critical,
    himmelblau_gradient,
)


def grown(grid, rounds, rng, share=0.4):
    """A grid with some cells refined at random, again and again."""
    tree = AdaptiveGrid.of(grid)
    for _ in range(rounds):
        tree = tree.refine(rng.random(tree.size) < share)
    return tree


def in_order(tree, depth):
    """Number of the cell of a grid with everything refined that is each cell of the uniform one."""
    fine = CubicalGrid(
        tree.coarse.lower, tree.coarse.upper, [n << depth for n in tree.coarse.shape]
    )
    return fine, tree.cell_of(fine.cell_centers())


# The grid


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_leaves_cover_the_box_once(d, rounds, seed):
    """Faces are those of the uniform grids, to the last bit; every point is in its cell."""
    rng = np.random.default_rng(seed)
    lower = rng.normal(size=d)
    shape = rng.integers(1, 4, d)
    grid = CubicalGrid(lower, lower + rng.uniform(0.1, 5, d), shape.tolist())
    tree = grown(grid, rounds, rng)
    low, up = tree.cell_bounds()
    assert (low < up).all()
    assert tree.volumes.sum() == pytest.approx(1, abs=1e-12)
    assert np.allclose((up - low).prod(1), tree.volumes * (grid.upper - grid.lower).prod())
    for level in range(rounds + 1):
        edges = CubicalGrid(grid.lower, grid.upper, (shape << level).tolist()).edges
        mine = tree.levels == level
        for axis in range(d):
            assert np.isin(low[mine, axis], edges[axis]).all()
            assert np.isin(up[mine, axis], edges[axis]).all()
    points = np.concatenate([rng.uniform(grid.lower - 0.2, grid.upper + 0.2, (100, d)), low, up])
    cells = tree.cell_of(points)
    inside = ((points >= grid.lower) & (points <= grid.upper)).all(1)
    assert np.array_equal(cells >= 0, inside)
    held = cells[inside]
    assert ((low[held] <= points[inside]) & (points[inside] <= up[held])).all()
    # A point on a face is counted to the cell above it, but for the faces of the box.
    at_top = points[inside] == grid.upper
    assert ((points[inside] < up[held]) | at_top).all()
    assert np.array_equal(tree.cell_of(low), np.arange(tree.size))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_refining_everything_gives_the_uniform_grid(d):
    coarse = CubicalGrid([0.1] * d, [0.7] * d, (3, 2, 1)[:d])
    tree = AdaptiveGrid.of(coarse)
    for _ in range(3):
        tree = tree.refine(np.ones(tree.size, dtype=bool))
    fine, order = in_order(tree, 3)
    assert np.array_equal(np.sort(order), np.arange(fine.size))
    for mine, theirs in zip(tree.cell_bounds(), fine.cell_bounds(), strict=True):
        assert np.array_equal(mine[order], theirs)
    points = np.random.default_rng(0).choice(fine.edges[0], (200, d))
    assert np.array_equal(order[fine.cell_of(points)], tree.cell_of(points))


def test_children_stand_in_the_place_of_their_parent():
    tree = AdaptiveGrid.of(CubicalGrid([0, 0], [3, 1], (3, 1)))
    chosen = np.array([False, True, False])
    finer = tree.refine(chosen)
    assert tree.origins(chosen).tolist() == [0, 1, 1, 1, 1, 2]
    lower, upper = finer.cell_bounds([1, 2, 3, 4])
    assert lower.tolist() == [[1, 0], [1, 0.5], [1.5, 0], [1.5, 0.5]]
    assert upper.tolist() == [[1.5, 0.5], [1.5, 1], [2, 0.5], [2, 1]]
    assert tree.size == 3, "refining leaves the grid as it is"
    assert tree.refine(np.zeros(3, dtype=bool)) is tree


def test_bad_refinements():
    tree = AdaptiveGrid.of(CubicalGrid([0.0], [1.0], (3,)))
    with pytest.raises(ValueError, match=r"chosen must be boolean .* each of the 3 cells"):
        tree.refine([True, False])
    with pytest.raises(ValueError, match=r"chosen must be boolean .* got int64"):
        tree.origins([0, 1, 0])
    with pytest.raises(ValueError, match=r"cannot have periodic axes, got periodic=\(True,\)"):
        AdaptiveGrid.of(CubicalGrid([0.0], [1.0], (3,), (True,)))
    with pytest.raises(ValueError, match=r"points must have shape \(n, 1\)"):
        tree.cell_of([[0.0, 1.0]])


def test_cells_too_thin_for_floating_point():
    tree = AdaptiveGrid.of(CubicalGrid([1e6], [1e6 + 1], (1,)))
    for _ in range(30):  # 2^-30 against an ulp of 2^-33
        tree = tree.refine(np.arange(tree.size) == 0)
    with pytest.raises(ValueError, match=r"cells of level 31 would be 4\.66e-10 wide on axis 0"):
        tree.refine(np.arange(tree.size) == 0)
    low, up = tree.cell_bounds()
    assert (low < up).all()
    assert (np.diff(low[:, 0]) > 0).all()


def test_more_nodes_than_can_be_numbered(monkeypatch):
    monkeypatch.setattr("lightning_morse.grids.adaptive.MAX_CELLS", 10)
    tree = AdaptiveGrid.of(CubicalGrid([0.0, 0.0], [1.0, 1.0], (2, 1)))
    tree = tree.refine([True, True])
    with pytest.raises(ValueError, match="refining 1 cells leads to 14 nodes; at most 10"):
        tree.refine(np.arange(8) == 3)


# The map


def naive_map(lower, upper, tree, exits=None):
    """One cell against one cell, closed box against closed box."""
    low, up = tree.cell_bounds()
    image = np.zeros((tree.size + 1, tree.size + 1), dtype=bool)
    image[-1, -1] = True
    for i, j in itertools.product(range(tree.size), repeat=2):
        image[i, j] = (lower[i] <= up[j]).all() and (upper[i] >= low[j]).all()
    out = ((lower < tree.coarse.lower) | (upper > tree.coarse.upper)).any(1)
    image[:-1, -1] = out if exits is None else out | exits
    return image


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 99]))
def test_the_map_equals_the_naive_one(d, rounds, seed, chunk):
    """With image boxes that often end exactly on faces, and with empty ones outside."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 4 if d < 3 else 3, d)
    grid = CubicalGrid([0.1] * d, [0.1 + 0.7 * n for n in shape], shape.tolist())
    tree = grown(grid, rounds, rng, 0.3 if d < 3 else 0.1)
    faces = np.concatenate(tree.cell_bounds())
    on_face = np.stack([rng.choice(faces[:, a], (2, tree.size)) for a in range(d)], axis=-1)
    free = rng.uniform(grid.lower - 0.5, grid.upper + 0.5, (2, tree.size, d))
    corners = np.where(rng.random(free.shape) < rng.choice([0, 0.5, 1]), on_face, free)
    if rng.random() < 0.5:
        corners[1] = corners[0] + rng.choice([0.0, 0.1, 0.7], (tree.size, d))
    lower, upper = corners.min(0), corners.max(0)
    exits = rng.random(tree.size) < 0.3 if rng.random() < 0.5 else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptive_map, "_CHUNK", chunk)
        image = adaptive_outer_approximation(lower, upper, tree, exits=exits)
    expected = naive_map(lower, upper, tree, exits)
    assert image.has_sorted_indices
    assert np.array_equal(image.toarray(), expected)
    assert image.nnz == expected.sum()  # no edge twice


@settings(max_examples=100, deadline=None)
@given(box_maps(), st.booleans())
def test_without_refinement_the_map_is_that_of_the_cubical_grid(case, with_exits):
    grid, lower, upper = case
    exits = np.random.default_rng(0).random(grid.size) < 0.3 if with_exits else None
    ours = adaptive_outer_approximation(lower, upper, AdaptiveGrid.of(grid), exits=exits)
    theirs = outer_approximation(lower, upper, grid, exits=exits)
    for name in ("indptr", "indices", "data"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype
    assert ours.shape == theirs.shape


def test_bad_images():
    tree = AdaptiveGrid.of(CubicalGrid([0.0], [1.0], (3,))).refine([False, True, False])
    good = np.zeros((4, 1))
    with pytest.raises(ValueError, match=r"image_lower must have one row for each of the 4 cells"):
        adaptive_outer_approximation(good[:3], good, tree)
    with pytest.raises(ValueError, match=r"must not exceed image_upper, but cell 0 has lower 1"):
        adaptive_outer_approximation(good + 1, good, tree)
    with pytest.raises(ValueError, match=r"but cell 0 has lower nan"):
        adaptive_outer_approximation(good * np.nan, good, tree)
    with pytest.raises(ValueError, match=r"exits must be boolean with one entry for each of the 4"):
        adaptive_outer_approximation(good, good, tree, exits=np.zeros(3, bool))


# Pictures of cells, for indices


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_homology_on_cells_of_several_sizes(d, rounds, seed):
    """A random pair of sets, drawn around their difference and drawn on the finest whole grid."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 4 if d < 3 else 3, d).tolist()
    tree = grown(CubicalGrid([0.0] * d, [1.0] * d, shape), rounds, rng, 0.3 if d < 3 else 0.15)
    upper = rng.random(tree.size) < 0.6
    lower = upper & (rng.random(tree.size) < 0.5)
    cells = upper & ~lower
    if not cells.any():
        return
    fine, around = in_order(tree, rounds)
    expected = relative_betti(upper[around], lower[around], fine)
    window, (p1, p0) = raster(tree, cells, [upper, lower])
    assert window.size <= fine.size
    assert relative_betti(p1, p0, window) == expected


def test_pictures_that_would_be_too_large(monkeypatch):
    monkeypatch.setattr("lightning_morse.grids.adaptive._MAX_RASTER", 63)
    tree = AdaptiveGrid.of(CubicalGrid([0.0, 0.0], [1.0, 1.0], (4, 4)))
    tree = tree.refine(np.arange(16) == 5)
    with pytest.raises(ValueError, match=r"reach over \(8, 8\) cells of level 1, more than 63"):
        raster(tree, np.ones(tree.size, dtype=bool), [])
    small, _ = raster(tree, np.arange(tree.size) == 5, [])
    assert small.shape == (3, 3)


def test_indices_look_at_a_morse_set_and_its_neighbours_only(monkeypatch):
    """A small cell that goes everywhere: a repeller, however large the rest of its image is."""
    monkeypatch.setattr("lightning_morse.grids.adaptive._MAX_RASTER", 9)
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


# Refinement against the uniform grid


class Atoms:
    """A random map of boxes in which the box of a part lies in the box of the whole.

    The cells of the finest grid get boxes of their own; a larger cell the hull of those in it.
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
        """Whether one of the cells of the finest grid in each box is marked."""
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
    """Match Morse sets that are the same boxes; fails unless all are matched.

    Returns:
        For each set of the adaptive grid the number of the same set of the uniform one.
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
    """What the documentation promises beside the uniform grid of the same depth."""
    match = same_sets(result, fine, reference)
    pairs = {(match[q], match[p]) for q, p in nx.transitive_closure(result.found.graph).edges}
    assert pairs >= set(nx.transitive_closure(reference.graph).edges)
    assert {match[a] for a in result.found.attractors} <= set(reference.attractors)
    # Everything a small cell reaches, the cell around it reaches as well.
    around = result.grid.cell_of(fine.cell_centers())
    for ours, theirs in enumerate([*match, len(match)]):
        assert not (reference.reaches(theirs)[:-1] & ~result.found.reaches(ours)[:-1][around]).any()
    number = {UNDECIDED: UNDECIDED, ESCAPES: ESCAPES, **dict(enumerate(match))}
    ours = np.array([number[x] for x in result.labels.tolist()])[around]
    theirs = certain_labels(reference)
    sure = ours != UNDECIDED
    return match, pairs, ours, theirs, sure


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["scattered", "smooth", "near", "wells", "wells"]),
    st.sampled_from(["recurrent", "undecided"]),
    st.booleans(),
)
def test_random_maps_beside_the_uniform_grid(d, seed, kind, refine, filtered):
    """Same Morse sets, cell for cell; no order, no exit and no reachable set is lost."""
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
    if filtered:  # a small cell may end in recurrence that is no Morse set
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
    """Every cell recurs, down to the last level but for the last: the same map, renumbered."""
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
    """1-D: two attracting points at 0 and 1, what lies between and what escapes."""

    def after(x):  # thirty steps; each rises on [-0.4, 1.3]
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
    # Undecided are the repelling point and what a cell between its cell and the next can do.
    assert result.volume(UNDECIDED) < 4 / (34 << 8)


def shrink(lower, upper):
    return lower / 8, upper / 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": -1}, "depth must be an integer, 0 or larger, got -1"),
        ({"depth": 1.5}, "depth must be an integer, 0 or larger, got 1.5"),
        ({"refine": "all"}, "refine must be 'recurrent' or 'undecided', got 'all'"),
        ({"images": lambda low, up: (low[:2], up[:2])}, r"corners of shape \(4, 1\), got shapes"),
        ({"images": lambda low, up: (low,)}, r"corners of shape \(4, 1\), got shapes \[\(4, 1\)\]"),
        (
            {"images": lambda low, up: (up, low)},
            r"the cell from \[-1.0\] to \[-0.5\] goes to \[-0.5\] and \[-1.0\]",
        ),
        (
            {"images": lambda low, up: (low, np.where(up > 0.6, np.nan, up))},
            r"without NaN, but the cell from \[0.5\] to \[1.0\] goes to",
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


# Known landscapes


def descent(x):
    """Himmelblau's gradient flow after a tenth of a unit of time."""
    return time_map(lambda y: -himmelblau_gradient(y), 0.1, 50)(x)


HIMMELBLAU_BOX = ([-5.0, -5.0], [5.0, 5.0])


@pytest.mark.parametrize("refine", ["recurrent", "undecided"])
@pytest.mark.parametrize("padding", [0.1, 0.5])
def test_himmelblau_beside_the_uniform_grid(refine, padding):
    """Same Morse sets, same order, same attractors; as many certain cells where torn ones are."""
    images = corner_box_map(descent, padding=padding)
    grid = CubicalGrid(*HIMMELBLAU_BOX, (32, 32))
    result = refined_morse_graph(images, grid, 3, refine=refine)
    fine, reference = uniform(images, grid, 3)
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
    image = outer_approximation(*images(*fine.cell_bounds()), fine)
    theirs_by_index = conley_indices(image, reference, fine)
    assert [theirs_by_index[m] for m in match] == list(by_index)


def kinds_around(result, indices, points):
    """Kinds of the Morse sets that hold some points."""
    cells = result.grid.cell_of(points)
    sets = zip(indices, result.found.morse_sets, strict=True)
    return Counter(index.kind for index, m in sets if np.isin(cells, m).any())


@pytest.mark.parametrize("refine", ["recurrent", "undecided"])
def test_himmelblau_on_4096_cells_an_axis(refine):
    """4 minima, 4 saddles above two of them each, a maximum above all; labels that hold."""
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
    del kinds["trivial"]  # a critical cell beside a saddle may recur by itself
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
    points = np.concatenate([points, np.clip(near - 2e-3, -5, 5)])  # beside undecided cells
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
    """What needs no grid works on cells of several sizes."""
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


def test_leslie_beside_the_uniform_grid():
    """256 x 256 cells with a padding of one: the three Morse sets CMGDB finds there."""
    grid = CubicalGrid([-0.001, -0.001], [90, 70], (16, 16))
    images = corner_box_map(leslie, padding=1)
    result = refined_morse_graph(images, grid, 4)
    fine, reference = uniform(images, grid, 4)
    assert len(reference.morse_sets) == 3
    _, pairs, *_ = beside_uniform(result, fine, reference)
    assert pairs == set(nx.transitive_closure(reference.graph).edges)
    assert result.grid.size < fine.size / 4


def wells(x):
    """The flow of x' = x - x^3 on each axis after two units of time; it rises on each of them."""
    return time_map(lambda y: y - y * y * y, 2.0, 40)(x)


def wells_images(lower, upper):
    """Exact but for the error of Runge-Kutta, far below 1e-5: each coordinate on its own rises."""
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
    """Each axis has two wells and the barrier between: 256 cells an axis, 3^d Morse sets.

    The order is that of the product: below a barrier on an axis are both of its wells.
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
    """Cells torn between wells refined too: a certain cell lies in one orthant."""
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
    """Lipschitz bounds box by box: what Gronwall's inequality says of the double wells in 2-D."""

    def growth(lower, upper):
        # The flow of x' = x - x^3 leads a box no further out than its corners and the wells, and
        # its derivative is exp of the integral of 1 - 3 x^2 along the orbit.
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
