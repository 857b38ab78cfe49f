"""The combinatorial half: outer approximation, condensation, Morse graph, basins."""

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array

from lightning_morse import CubicalGrid, morse_graph, outer_approximation
from lightning_morse.conley import combinatorial_map, condensation
from lightning_morse.conley.basins import certain_labels, exit_volumes, reach_of_cells
from lightning_morse.conley.condensation import condense
from lightning_morse.conley.reach import ESCAPES, UNDECIDED


def naive_outer_approximation(lower, upper, grid, exits=None, exterior=None):
    """One cell against one cell, closed box against closed box."""
    cells = list(zip(*grid.cell_bounds(), strict=True))
    gone = np.zeros(grid.size, bool) if exterior is None else exterior
    image = np.zeros((grid.size + 1, grid.size + 1), dtype=bool)
    image[-1, -1] = True
    for i, j in itertools.product(range(grid.size), repeat=2):
        if gone[i]:
            image[i, -1] = True
        elif (lower[i] <= cells[j][1]).all() and (upper[i] >= cells[j][0]).all():
            image[i, -1 if gone[j] else j] = True
    leaves = (lower < grid.lower).any(1) | (upper > grid.upper).any(1)
    image[:-1, -1] |= leaves if exits is None else leaves | exits
    return image


@st.composite
def box_maps(draw):
    """A small grid with image boxes whose corners are often exactly on cell edges."""
    d = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 5 if d < 3 else 3)) for _ in range(d))
    grid = CubicalGrid([0.1] * d, [0.1 + 0.7 * n for n in shape], shape)
    edges = [np.append(e, [e[0] - 1, e[-1] + 1]) for e in grid.edges]
    size = grid.size
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    on_edge = np.stack([rng.choice(e, (2, size)) for e in edges], axis=-1)
    free = rng.uniform(grid.lower - 0.5, grid.upper + 0.5, (2, size, d))
    corners = np.where(rng.random((2, size, d)) < draw(st.sampled_from([0, 0.5, 1])), on_edge, free)
    if draw(st.booleans()):  # small images, so that there is more than one component
        corners[1] = corners[0] + rng.choice([0.0, 0.3, 0.7], (size, d))
    return grid, corners.min(0), corners.max(0)


@settings(max_examples=150, deadline=None)
@given(box_maps(), st.booleans(), st.sampled_from([1, 3, 2**14]))
def test_outer_approximation_equals_the_naive_one(case, with_masks, chunk):
    grid, lower, upper = case
    rng = np.random.default_rng(0)
    exits = rng.random(grid.size) < 0.3 if with_masks else None
    exterior = rng.random(grid.size) < 0.3 if with_masks else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(combinatorial_map, "_CHUNK", chunk)
        image = outer_approximation(lower, upper, grid, exits=exits, exterior_cells=exterior)
    assert image.has_sorted_indices
    assert np.array_equal(
        image.toarray(), naive_outer_approximation(lower, upper, grid, exits, exterior)
    )
    assert image.nnz == image.toarray().sum()  # no edge twice


def naive_periodic_map(lower, upper, grid):
    """Every cell, and its copies turns away, against every image; exact on dyadic numbers."""
    cells = list(zip(*grid.cell_bounds(), strict=True))
    period = grid.upper - grid.lower
    turns = [np.arange(-12, 13) if wraps else np.zeros(1) for wraps in grid.periodic]
    image = np.zeros((grid.size + 1, grid.size + 1), dtype=bool)
    image[-1, -1] = True
    for i, j in itertools.product(range(grid.size), repeat=2):
        image[i, j] = all(
            any(
                lower[i, a] <= cells[j][1][a] + t * period[a]
                and upper[i, a] >= cells[j][0][a] + t * period[a]
                for t in turns[a]
            )
            for a in range(grid.dim)
        )
    out = (lower < grid.lower) | (upper > grid.upper)
    image[:-1, -1] = (out & ~np.array(grid.periodic)).any(1)
    return image


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_periodic_axes_equal_the_naive_map(d, seed):
    """On numbers that are exact in binary, so that contact on faces is exact as well."""
    rng = np.random.default_rng(seed)
    shape = 2 ** rng.integers(0, 3 if d < 3 else 2, d)
    grid = CubicalGrid([-0.5] * d, [1.5] * d, shape.tolist(), (rng.random(d) < 0.7).tolist())
    corners = rng.integers(-40, 40, (2, grid.size, d)) / 4
    if rng.random() < 0.7:
        corners[1] = corners[0] + rng.integers(0, 8, (grid.size, d)) / 8
    lower, upper = corners.min(0), corners.max(0)
    exterior = rng.random(grid.size) < 0.2
    image = outer_approximation(lower, upper, grid)
    expected = naive_periodic_map(lower, upper, grid)
    assert image.has_sorted_indices
    assert np.array_equal(image.toarray(), expected)
    assert image.nnz == expected.sum()
    expected[:-1, -1] |= expected[:-1, :-1][:, exterior].any(1)
    expected[:-1, :-1][:, exterior] = False
    expected[:-1][exterior] = False
    expected[:-1, -1] |= exterior
    redirected = outer_approximation(lower, upper, grid, exterior_cells=exterior)
    assert np.array_equal(redirected.toarray(), expected)


def test_images_round_a_circle():
    """Four cells on a circle: across the seam, on the seam, and all the way round."""
    grid = CubicalGrid([0.0], [1.0], (4,), (True,))
    lower, upper = (
        np.array([[0.9], [1.0], [-7.3], [5.0]]),
        np.array([[1.1], [1.1], [-6.3], [np.inf]]),
    )
    image = outer_approximation(lower, upper, grid)
    rows = [row.tolist() for row in np.split(image.indices, image.indptr[1:-1])]
    assert rows == [[0, 3], [0, 3], [0, 1, 2, 3], [0, 1, 2, 3], [4]]


@settings(max_examples=100, deadline=None)
@given(box_maps(), st.floats(0.0, 1.0))
def test_larger_boxes_only_add_edges_and_never_attractors(case, growth):
    grid, lower, upper = case
    small = outer_approximation(lower, upper, grid)
    large = outer_approximation(lower - growth, upper + growth, grid)
    assert (large.toarray() >= small.toarray()).all()
    assert len(morse_graph(large).attractors) <= len(morse_graph(small).attractors)


@settings(max_examples=100, deadline=None)
@given(box_maps(), st.floats(0.0, 1.0))
def test_certain_labels_survive_in_every_smaller_map(case, growth):
    """What is certain of the larger map is true of each map inside it."""
    grid, lower, upper = case
    large = morse_graph(outer_approximation(lower - growth, upper + growth, grid))
    small = morse_graph(outer_approximation(lower, upper, grid))
    of_large, of_small = certain_labels(large), certain_labels(small)
    assert (of_small[of_large == ESCAPES] == ESCAPES).all()
    for a in large.attractors:
        inside = {
            b for b, cells in enumerate(small.morse_sets) if set(cells) & set(large.morse_sets[a])
        }
        for b in range(len(small.morse_sets)):
            if b not in inside:
                assert not small.reaches(b)[:-1][of_large == a].any()
        assert not small.reaches(len(small.morse_sets))[:-1][of_large == a].any()


def naive_morse_sets(matrix):
    graph = nx.from_numpy_array(matrix, create_using=nx.DiGraph)
    last = len(matrix) - 1
    found = [
        sorted(c)
        for c in nx.strongly_connected_components(graph)
        if last not in c and (len(c) > 1 or matrix[min(c), min(c)])
    ]
    return graph, sorted(found)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 12).flatmap(
        lambda n: st.tuples(
            hnp.arrays(bool, (n, n), elements=st.booleans()),
            st.floats(0.05, 0.6),
            st.integers(0, 99),
        )
    )
)
def test_morse_graph_equals_networkx(case):
    matrix, density, seed = case
    matrix = matrix & (np.random.default_rng(seed).random(matrix.shape) < density)
    matrix[-1] = False
    matrix[-1, -1] = True
    graph, expected = naive_morse_sets(matrix)
    found = morse_graph(csr_array(matrix))
    assert [c.tolist() for c in found.morse_sets] == expected
    descendants = [nx.descendants(graph, v) | {v} for v in graph]
    for v, below in enumerate(descendants):
        for i, cells in enumerate(expected):
            assert found.reaches(i)[v] == bool(below & set(cells))
        assert found.reaches(len(expected))[v] == (len(matrix) - 1 in below)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(condensation, "_PASSES", 0)  # the other way to what can be reached
        swept = morse_graph(csr_array(matrix))
        assert np.array_equal(swept.reach, found.reach)
        assert set(swept.graph.edges) == set(found.graph.edges)
        assert swept.attractors == found.attractors
    order = nx.transitive_closure(found.graph)
    for q, p in itertools.permutations(range(len(expected)), 2):
        assert order.has_edge(q, p) == (expected[p][0] in descendants[expected[q][0]])
    assert nx.transitive_reduction(found.graph).edges == found.graph.edges
    minimal = [
        i
        for i, cells in enumerate(expected)
        if len(matrix) - 1 not in descendants[cells[0]]
        and not any(order.has_edge(i, j) for j in range(len(expected)))
    ]
    assert list(found.attractors) == minimal


@settings(max_examples=60, deadline=None)
@given(box_maps(), st.integers(0, 99))
def test_relabelling_the_cells_does_not_matter(case, seed):
    grid, lower, upper = case
    image = outer_approximation(lower, upper, grid).toarray()
    new = np.append(np.random.default_rng(seed).permutation(grid.size), grid.size)
    shuffled = np.zeros_like(image)
    shuffled[np.ix_(new, new)] = image
    a, b = morse_graph(csr_array(image)), morse_graph(csr_array(shuffled))
    moved = [sorted(new[c].tolist()) for c in a.morse_sets]
    number = [moved.index(c.tolist()) for c in b.morse_sets]
    assert sorted(number) == list(range(len(moved)))
    assert sorted(number[i] for i in b.attractors) == list(a.attractors)
    assert {(number[q], number[p]) for q, p in b.graph.edges} == set(a.graph.edges)


def test_more_than_64_morse_sets():
    """A chain of 100 fixed cells, each of which leads to the next; the last to the exterior."""
    n = 100
    image = np.eye(n + 1, dtype=bool)
    image[np.arange(n), np.arange(1, n + 1)] = True
    found = morse_graph(csr_array(image))
    assert len(found.morse_sets) == n
    assert found.attractors == ()
    assert sorted(found.graph.edges) == [(i, i + 1) for i in range(n - 1)]
    assert all(found.reaches(j)[i] == (j >= i) for i in range(n) for j in range(n))


def test_a_long_path_and_a_map_recurrent_everywhere():
    n = 200_000
    path = csr_array(
        (np.ones(n + 1, bool), (np.arange(n + 1), np.append(np.arange(1, n + 1), n))),
        shape=(n + 1, n + 1),
    )
    found = morse_graph(path[-2001:, -2001:])  # 2,000 cells, one after the other
    assert found.morse_sets == ()
    assert found.reaches(0).all()
    cycle = csr_array(
        (np.ones(n + 1, bool), (np.arange(n + 1), np.append(np.roll(np.arange(n), 1), n))),
        shape=(n + 1, n + 1),
    )
    found = morse_graph(cycle)
    assert len(found.morse_sets) == 1
    assert found.morse_sets[0].size == n
    assert found.attractors == (0,)


def test_components_without_critical_points_are_dropped_but_keep_the_order():
    """0 -> 1 -> 2: all recurrent, the middle one cannot hold a critical point."""
    image = csr_array(np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    found = morse_graph(image, critical=np.array([True, False, True]))
    assert [c.tolist() for c in found.morse_sets] == [[0], [2]]
    assert list(found.graph.edges) == [(0, 1)]
    assert found.attractors == (1,)


def test_a_single_reachable_terminal_is_not_enough():
    """The trap: cell 1 reaches the attractor {0} only through {2}, which may hide another."""
    #        0 attractor, 1 transient, 2 recurrent on the way, 3 transient below 2
    matrix = np.array(
        [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    )
    found = morse_graph(csr_array(matrix))
    assert certain_labels(found).tolist() == [0, UNDECIDED, UNDECIDED, 0]


def test_labels_and_exits_by_face():
    """Cells on a line: 0 leaves below, 1 goes either way, 2 stays, 3 and 4 leave above."""
    matrix = np.zeros((6, 6), dtype=bool)
    matrix[[0, 1, 1, 2, 3, 4, 5], [5, 0, 2, 2, 4, 5, 5]] = True
    found = morse_graph(csr_array(matrix))
    labels = certain_labels(found)
    assert labels.tolist() == [ESCAPES, UNDECIDED, 0, ESCAPES, ESCAPES]
    exits = np.zeros((5, 1, 2), dtype=bool)
    exits[0, 0, 0] = exits[4, 0, 1] = True
    assert exit_volumes(found, labels, exits).tolist() == [[0.2, 0.4]]
    volumes = np.array([0.5, 0.125, 0.125, 0.125, 0.125])
    assert exit_volumes(found, labels, exits, volumes=volumes).tolist() == [[0.5, 0.25]]


def test_condensation_accumulates_over_all_paths():
    rng = np.random.default_rng(3)
    matrix = rng.random((40, 40)) < 0.04
    marks = rng.integers(0, 256, (40, 3), dtype=np.uint8)
    graph = nx.from_numpy_array(matrix, create_using=nx.DiGraph)
    expected = [np.bitwise_or.reduce(marks[[v, *nx.descendants(graph, v)]]) for v in graph]
    assert np.array_equal(condense(csr_array(matrix)).accumulate(marks), expected)


def test_what_reaches_any_of_some_vertices_is_found_in_one_search():
    rng = np.random.default_rng(5)
    matrix = rng.random((60, 60)) < 0.02
    found = condense(csr_array(matrix))
    graph = nx.from_numpy_array(matrix.T, create_using=nx.DiGraph)
    for k in (0, 1, 4):
        targets = rng.choice(60, k, replace=False)
        expected = {v for t in targets for v in (t, *nx.descendants(graph, t))}
        assert set(np.flatnonzero(found.reaching(targets))) == expected


def test_condensation_is_acyclic_and_in_generations():
    rng = np.random.default_rng(4)
    matrix = rng.random((60, 60)) < 0.03
    found = condense(csr_array(matrix))
    graph = nx.from_numpy_array(matrix, create_using=nx.DiGraph)
    components = list(nx.strongly_connected_components(graph))
    assert {
        frozenset(np.flatnonzero(found.component == c)) for c in np.unique(found.component)
    } == {frozenset(c) for c in components}
    source, target = np.nonzero(matrix)
    source, target = found.component[source], found.component[target]
    edges = {(s, t) for s, t in zip(source, target, strict=True) if s != t}
    assert set(zip(*found.graph.toarray().nonzero(), strict=True)) == edges
    dag = nx.DiGraph(edges)
    dag.add_nodes_from(range(found.recurrent.size))
    expected = {}
    for c in reversed(list(nx.topological_sort(dag))):
        expected[c] = max((expected[b] + 1 for b in dag[c]), default=0)
    assert found.levels.tolist() == [expected[c] for c in range(len(expected))]
    order = np.concatenate(list(found.generations()))
    assert sorted(order) == list(range(found.recurrent.size))
    assert (np.diff(found.levels[order]) >= 0).all()
    assert sorted(found.ancestors(5)) == sorted({5} | nx.ancestors(graph, 5))


def test_stored_zeros_are_no_edges():
    data, indices, indptr = np.array([0, 1, 0, 1]), np.array([0, 1, 0, 2]), np.array([0, 2, 3, 4])
    image = csr_array((data, indices, indptr), shape=(3, 3))  # only 0 -> 1 and the exterior
    found = morse_graph(image)
    assert found.morse_sets == ()
    assert image.nnz == 4


def test_hundreds_of_attractors():
    """Each of 700 fixed cells is an attractor, with the cell after it as its basin."""
    n = 1400
    image = csr_array(
        (np.ones(n + 1, bool), (np.arange(n + 1), np.append(np.arange(n) // 2 * 2, n))),
        shape=(n + 1, n + 1),
    )
    found = morse_graph(image)
    assert found.attractors == tuple(range(700))
    assert np.array_equal(certain_labels(found), np.arange(n) // 2)


def test_a_grid_of_one_cell():
    grid = CubicalGrid([0.0], [1.0], (1,))
    stays = morse_graph(outer_approximation([[0.2]], [[0.3]], grid))
    assert stays.attractors == (0,)
    leaves = morse_graph(outer_approximation([[0.2]], [[1.3]], grid))
    assert [c.tolist() for c in leaves.morse_sets] == [[0]]
    assert leaves.attractors == ()
    wraps = CubicalGrid([0.0], [1.0], (1,), (True,))
    assert morse_graph(outer_approximation([[0.2]], [[1.3]], wraps)).attractors == (0,)


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (np.zeros((0, 1)), np.zeros((0, 1)), "image_lower must have one row"),
        (np.zeros((3, 1)), np.ones((4, 1)), "image_lower must have one row"),
        (np.zeros((4, 1)), np.ones((4, 2)), "image_upper must have one row"),
        (np.ones((4, 1)), np.zeros((4, 1)), "cell 0 has lower 1.0 and upper 0.0 on axis 0"),
        (np.full((4, 1), np.nan), np.ones((4, 1)), "cell 0 has lower nan"),
    ],
)
def test_bad_images_are_refused(lower, upper, message):
    with pytest.raises(ValueError, match=message):
        outer_approximation(lower, upper, CubicalGrid([0], [1], (4,)))


def test_bad_masks_and_matrices_are_refused():
    grid = CubicalGrid([0], [1], (4,))
    low, up = grid.cell_bounds()
    with pytest.raises(ValueError, match="exits must be boolean"):
        outer_approximation(low, up, grid, exits=np.zeros(4))
    with pytest.raises(ValueError, match="exterior_cells must be boolean"):
        outer_approximation(low, up, grid, exterior_cells=np.zeros(3, bool))
    with pytest.raises(ValueError, match="square matrix"):
        morse_graph(csr_array(np.ones((2, 3))))
    with pytest.raises(ValueError, match="critical must be boolean"):
        morse_graph(csr_array(np.eye(3)), critical=np.zeros(3, bool))


def test_all_images_outside():
    grid = CubicalGrid([0, 0], [1, 1], (3, 3))
    image = outer_approximation(np.full((9, 2), 5.0), np.full((9, 2), 6.0), grid)
    found = morse_graph(image)
    assert found.morse_sets == ()
    assert found.attractors == ()
    assert (certain_labels(found) == ESCAPES).all()


@pytest.mark.parametrize("n_sets", [0, 3, 150])
def test_what_cells_may_reach_is_kept_under_other_numbers(n_sets):
    # Cells that keep to themselves, others that go to a few of these or out, and on to others.
    rng = np.random.default_rng(n_sets)
    n = n_sets + 60
    image = np.zeros((n + 1, n + 1), dtype=bool)
    image[range(n_sets), range(n_sets)] = True
    for cell in range(n_sets, n):
        image[cell, rng.choice([*range(cell), n], size=min(2, cell + 1), replace=False)] = True
    image[n, n] = True
    found = morse_graph(csr_array(image))
    number = dict(enumerate(rng.permutation(n_sets).tolist()))
    reach = reach_of_cells(found, number)
    assert len({row.tobytes() for row in reach.kinds}) == len(reach.kinds)
    for cell in range(n):
        expected = sorted(number[k] for k in range(n_sets) if found.reaches(k)[cell])
        assert reach.at(cell) == (tuple(expected), found.reaches(n_sets)[cell])
    renumber = np.array([*(number[k] for k in range(n_sets)), -2, -1])
    attractors = [number[a] for a in found.attractors]
    assert np.array_equal(reach.labels(attractors), renumber[certain_labels(found)])


def test_renumbered_morse_sets_keep_their_order():
    image = csr_array(np.array([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    found = morse_graph(image)
    other = found.renumbered([2, 0, 1])
    assert [cells.tolist() for cells in other.morse_sets] == [[2], [0], [1]]
    assert sorted(other.graph.edges) == [(2, 0), (2, 1)]
    assert other.attractors == (0, 1)
    assert other.reaches(0).tolist() == found.reaches(2).tolist()
    for wrong in ([0, 1], [0, 1, 1], [1, 2, 3]):
        with pytest.raises(ValueError, match="permutation of the 3 Morse sets"):
            found.renumbered(wrong)
