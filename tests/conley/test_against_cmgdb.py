"""Comparison with CMGDB, the reference implementation of combinatorial Morse graphs.

Both get the same image boxes on the same uniform grid. The conventions differ:

* CMGDB clips images that leave the box; here they lead to the exterior vertex. The Morse sets and
  their order are the same; attractors are not, and are not compared.
* CMGDB numbers cells along its subdivision tree and uses 2^k of them, halving the axes in turn.
* Both count contact of closed boxes. Images with corners on faces are compared on the unit box,
  where the faces of the cells are dyadic and there is no rounding; elsewhere images are generic.
* On a circle, CMGDB 1.5.2 misses contact at the upper end of an image ([3/4, 1] does not meet the
  first cell of [0, 1], although [0, 1/4] meets the last one), and images more than one turn away.
  There, images are generic and less than one turn away.
"""

import re

import CMGDB
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_morse import CubicalGrid, morse_graph, outer_approximation, refined_morse_graph
from lightning_morse.conley.box_maps import corner_box_map, corner_images
from lightning_morse.conley.index import conley_indices
from lightning_morse.conley.point_maps import time_map
from tests.conley.known_maps import allee, henon, leslie, logistic, van_der_pol
from tests.landscapes import himmelblau_gradient


def halvings(depth, dim):
    """Number of cells per axis after halving the axes in turn."""
    return tuple(2 ** ((depth - axis + dim - 1) // dim) for axis in range(dim))


def reference(lower, upper, grid, depth):
    """Morse sets, order and reachability as found by CMGDB, in our numbering."""

    def image(rects):
        rects = np.asarray(rects)
        cells = grid.cell_of((rects[:, : grid.dim] + rects[:, grid.dim :]) / 2)
        return np.hstack([lower[cells], upper[cells]])

    model = CMGDB.Model(
        depth,
        grid.lower.tolist(),
        grid.upper.tolist(),
        list(grid.periodic),
        lambda rect: image([rect])[0].tolist(),
    )
    model.set_batch_map(image)
    found, cells = CMGDB.ComputeMorseGraph(model, cache_map_graph=True)
    boxes = np.array([found.phase_space_box(i) for i in range(cells.num_vertices())])
    number = grid.cell_of((boxes[:, : grid.dim] + boxes[:, grid.dim :]) / 2)
    assert sorted(number) == list(range(grid.size)), "the two grids differ"
    sets = [frozenset(number[found.morse_set(v)].tolist()) for v in found.vertices()]
    order = nx.DiGraph(found.edges())
    order.add_nodes_from(found.vertices())
    below = {(sets[q], sets[p]) for q, p in nx.transitive_closure(order).edges}
    masks = np.zeros(grid.size, dtype=np.uint64)
    if 0 < len(sets) <= 64:
        masks[number] = CMGDB.MorseReachabilityMasks(cells, found, list(range(grid.size)))
    return sets, below, masks


def compare(lower, upper, grid, depth):
    sets, below, masks = reference(lower, upper, grid, depth)
    found = morse_graph(outer_approximation(lower, upper, grid))
    ours = [frozenset(cells.tolist()) for cells in found.morse_sets]
    assert set(ours) == set(sets)
    assert len(ours) == len(sets)
    closure = nx.transitive_closure(found.graph)
    assert {(ours[q], ours[p]) for q, p in closure.edges} == below
    if len(sets) <= 64:
        for bit, cells in enumerate(sets):
            theirs = (masks >> np.uint64(bit)) & np.uint64(1) == 1
            assert np.array_equal(found.reaches(ours.index(cells))[:-1], theirs)
    return found


@st.composite
def random_maps(draw, periodic=False):
    """A grid of 2^k cells and image boxes, from scattered to nearly those of a continuous map."""
    dim = draw(st.integers(1, 3))
    depth = draw(st.integers(dim, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dyadic = not periodic and draw(st.booleans())
    wraps = rng.random(dim) < 0.6 if periodic else None
    grid = CubicalGrid([0.0] * dim, [1.0] * dim, halvings(depth, dim), wraps)
    if not dyadic:
        lower = rng.uniform(-2, 2, dim)
        grid = CubicalGrid(lower, lower + rng.uniform(0.1, 3, dim), grid.shape, wraps)
    width = grid.upper - grid.lower
    centers = (grid.cell_centers() - grid.lower) / width
    kind = draw(st.sampled_from(["scattered", "smooth", "near"]))
    if kind == "scattered":
        middle = rng.uniform(-0.1, 1.1, centers.shape)
    elif kind == "smooth":
        turn = rng.normal(0, 3, (grid.dim, grid.dim))
        middle = 0.5 + 0.5 * np.sin(centers @ turn + rng.uniform(0, 6, grid.dim))
    else:
        middle = centers + rng.normal(0, 1.5, centers.shape) / np.array(grid.shape)
    half = rng.uniform(0, draw(st.sampled_from([0.02, 0.6, 1.5])), centers.shape) / grid.shape
    if periodic:
        middle, half = np.clip(middle, -0.5, 1.5), np.minimum(half, 0.4)
    low, up = middle - half, middle + half
    if dyadic:
        low, up = (np.round(x * grid.shape * 2) / grid.shape / 2 for x in (low, up))
    return low * width + grid.lower, up * width + grid.lower, grid, depth


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(random_maps())
def test_random_maps_have_the_same_morse_graph(case):
    compare(*case)


@settings(max_examples=150, deadline=None)
@given(random_maps(periodic=True))
def test_random_maps_with_periodic_axes_have_the_same_morse_graph(case):
    compare(*case)


def homes(found, grid, points):
    """Number of the Morse set that contains each point; there must be one."""
    cells = grid.cell_of(np.array(points)[:, None])
    return [next(n for n, m in enumerate(found.morse_sets) if cell in m) for cell in cells]


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("depth", [8, 12])
def test_allee_map(depth, padding):
    """Extinction or a settled population, and the threshold between them.

    Cells next to the fixed points move by less than their width and form further Morse sets, in
    CMGDB as well: a single step of the map cannot exclude them. The attractors are exact.
    """
    grid = CubicalGrid([0], [2], (2**depth,))
    found = compare(*corner_images(allee, grid, padding=padding), grid, depth)
    extinct, threshold, settled = homes(found, grid, [0, 1 - 0.21**0.5, 1 + 0.21**0.5])
    if padding == 0:  # with padding, the cell at 0 reaches the exterior
        assert found.attractors == (extinct, settled)
    below = nx.descendants(found.graph, threshold)
    assert {extinct, settled} <= below
    assert not below & nx.ancestors(found.graph, threshold)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("depth", [8, 12])
def test_logistic_map(depth, padding):
    """Two repelling fixed points above an attracting orbit of period two."""
    grid = CubicalGrid([-0.1], [1], (2**depth,))
    found = compare(*corner_images(logistic, grid, padding=padding), grid, depth)
    root = (4.2 * 0.2) ** 0.5
    points = [0, 1 - 1 / 3.2, (4.2 - root) / 6.4, (4.2 + root) / 6.4]
    zero, fixed, orbit, same = homes(found, grid, points)
    assert orbit == same
    assert found.attractors == (orbit,)
    assert nx.has_path(found.graph, zero, fixed)
    assert nx.has_path(found.graph, fixed, orbit)
    assert found.reaches(len(found.morse_sets))[found.morse_sets[zero]].all()


@pytest.mark.parametrize(("depth", "expected"), [(14, 2), (16, 3)])
def test_leslie_map(depth, expected):
    grid = CubicalGrid([-0.001, -0.001], [90, 70], halvings(depth, 2))
    found = compare(*corner_images(leslie, grid, padding=1), grid, depth)
    assert len(found.morse_sets) == expected
    # The axes are invariant and 0.001 from the boundary: with padding everything may leave.
    assert found.attractors == ()


def test_corner_images_are_those_of_the_reference():
    grid = CubicalGrid([-0.001, -0.001], [90, 70], (16, 8))
    rects = np.hstack(grid.cell_bounds())
    for padding in (0, 1):
        theirs = CMGDB.BoxMapBatch(leslie, rects, padding=bool(padding))
        ours = np.hstack(corner_images(leslie, grid, padding=padding))
        assert np.allclose(ours, theirs, rtol=1e-13, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point_map", "lower", "upper", "start", "depth"),
    [
        (leslie, [-0.001, -0.001], [90.0, 70.0], 4, 4),
        (time_map(lambda x: -himmelblau_gradient(x), 0.1, 50), [-5.0] * 2, [5.0] * 2, 6, 3),
        (time_map(lambda x: x - x * x * x, 2.0, 40), [-1.7] * 3, [1.6] * 3, 3, 3),
    ],
    ids=["Leslie", "Himmelblau", "wells"],
)
def test_refined_morse_graphs(point_map, lower, upper, start, depth):
    """Both refine recurrent cells: the Morse sets are the same, and our order is no larger.

    The order of the reference contains pairs that the uniform grid does not have; ours does not.
    """
    dim = len(lower)
    model = CMGDB.Model(
        dim * (start + depth),
        dim * (start + depth),
        dim * start,
        2**30,
        lower,
        upper,
        lambda rect: CMGDB.BoxMap(lambda x: point_map(np.array([x]))[0], rect, padding=True),
    )
    model.set_batch_map(lambda rects: CMGDB.BoxMapBatch(point_map, rects, padding=True))
    reference, _ = CMGDB.ComputeMorseGraph(model)
    images = corner_box_map(point_map, padding=1)
    result = refined_morse_graph(images, CubicalGrid(lower, upper, (2**start,) * dim), depth)
    fine = CubicalGrid(lower, upper, (2 ** (start + depth),) * dim)
    uniform = morse_graph(outer_approximation(*images(*fine.cell_bounds()), fine))

    def in_fine_cells(boxes):
        return frozenset(fine.cell_of((boxes[:, :dim] + boxes[:, dim:]) / 2).tolist())

    sets = [
        in_fine_cells(np.array([reference.phase_space_box(c) for c in reference.morse_set(v)]))
        for v in reference.vertices()
    ]
    bounds = np.hstack(result.grid.cell_bounds())
    ours = [in_fine_cells(bounds[cells]) for cells in result.found.morse_sets]
    assert len(ours) == len(sets)
    assert set(ours) == set(sets) == {frozenset(m.tolist()) for m in uniform.morse_sets}
    order = nx.DiGraph(reference.edges())
    theirs = {(sets[q], sets[p]) for q, p in nx.transitive_closure(order).edges}
    found = {(ours[q], ours[p]) for q, p in nx.transitive_closure(result.found.graph).edges}
    true = [frozenset(m.tolist()) for m in uniform.morse_sets]
    expected = {(true[q], true[p]) for q, p in nx.transitive_closure(uniform.graph).edges}
    assert found == expected
    assert theirs >= found


@pytest.mark.parametrize(
    ("point_map", "lower", "upper", "depth", "flow"),
    [
        (time_map(van_der_pol, 1.0, 20), [-4.0, -4.0], [4.0, 4.0], 14, True),
        (allee, [0.0], [2.0], 10, True),
        (logistic, [-0.1], [1.0], 10, False),
        (leslie, [-0.001, -0.001], [90.0, 70.0], 12, False),
        (henon, [-1.5, -0.5], [1.5, 0.5], 14, False),
    ],
)
def test_betti_numbers_bound_the_indices_of_cmgdb(point_map, lower, upper, depth, flow):
    """CMGDB also computes the induced map, and keeps at most the homology of the pair."""
    grid = CubicalGrid(lower, upper, halvings(depth, len(lower)))
    model = CMGDB.Model(depth, lower, upper, lambda rect: rect)
    model.set_batch_map(lambda rects: CMGDB.BoxMapBatch(point_map, rects, padding=True))
    reference, _ = CMGDB.ComputeConleyMorseGraph(model)
    kept = {}
    for v in reference.vertices():
        boxes = np.array([reference.phase_space_box(c) for c in reference.morse_set(v)])
        cells = grid.cell_of((boxes[:, : grid.dim] + boxes[:, grid.dim :]) / 2)
        kept[frozenset(cells.tolist())] = tuple(map(degree, reference.annotations(v)))
    image = outer_approximation(*corner_images(point_map, grid, padding=1), grid)
    found = morse_graph(image)
    compared = 0
    for cells, index in zip(found.morse_sets, conley_indices(image, found, grid), strict=True):
        if index is None:
            continue
        theirs = kept[frozenset(cells.tolist())]
        assert all(a <= b for a, b in zip(theirs, index.betti, strict=True))
        assert not flow or theirs == index.betti
        compared += any(theirs)
    assert compared >= (0 if point_map in (leslie, henon) else 2)


def degree(polynomial):
    """Degree of a product of polynomials such as ``(x-1)(x^2+1)^3``; zero for ``0``."""
    if polynomial == "0":
        return 0
    total = 0
    for factor, power in re.findall(r"\(?([^()]*x[^()]*)\)?(?:\^(\d+))?", polynomial):
        powers = [int(p or 1) for p in re.findall(r"x(?:\^(\d+))?", factor)]
        total += max(powers) * int(power or 1)
    return total
