"""Critical points of deep linear networks, held against Hessians and descent."""

from collections import Counter
from itertools import combinations

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from lightning_morse import deep_linear as dl
from lightning_morse.deep_linear.spectrum import whitened

TWO = dl.Moments(np.eye(2), np.diag([3.0, 1.0]), 10.0)
THREE = dl.Moments(np.eye(3), np.diag([3.0, 2.0, 1.0]), 14.0)


def random_moments(rng, n_in, n_out):
    """Well separated strengths, often few; inputs white, coloured or singular."""
    rank = int(rng.integers(1, min(n_in, n_out) + 1))
    seen = n_in if rng.random() < 0.7 else int(rng.integers(rank, n_in + 1))
    basis = np.linalg.qr(rng.normal(size=(n_in, n_in)))[0][:, :seen]
    variances = np.ones(seen) if rng.random() < 0.3 else rng.uniform(0.3, 3.0, seen)
    right = np.linalg.qr(rng.normal(size=(seen, seen)))[0][:, :rank]
    left = np.linalg.qr(rng.normal(size=(n_out, n_out)))[0][:, :rank]
    strengths = np.cumsum(rng.uniform(0.3, 1.0, rank))[::-1]
    root = basis * np.sqrt(variances)
    spare = rng.uniform(0, 1)
    return dl.Moments(
        (basis * variances) @ basis.T,
        (left * strengths) @ right.T @ root.T,
        float(np.square(strengths).sum()) + spare,
    )


def random_critical_point(rng):
    """A critical point of any kind: a representative, further weights, a change of basis."""
    while True:
        sizes = tuple(int(n) for n in rng.integers(1, 5, size=int(rng.integers(3, 6))))
        moments = random_moments(rng, sizes[0], sizes[-1])
        modes = dl.data_modes(moments)
        room = min(modes.rank, *sizes)
        count = int(rng.integers(0, room + 1))
        strongest = rng.random() < 0.6
        chosen = range(count) if strongest else rng.permutation(modes.rank)[:count]
        weights = [w.copy() for w in dl.representative(moments, sizes, [int(a) for a in chosen])]
        # Bases of the ends in which the modes are coordinates: extra weights hit whole modes.
        before = np.linalg.svd(modes.right @ modes.right.T)[0]
        before[:, : modes.rank] = modes.right
        after = np.linalg.svd(modes.left @ modes.left.T)[0]
        after[:, : modes.rank] = modes.left
        share = rng.choice([0.0, 0.1, 0.3])
        for k in range(len(weights)):
            extra = rng.normal(size=weights[k].shape) * (rng.random(weights[k].shape) < share)
            extra = extra @ (before.T @ modes.whitener) if k == 0 else extra
            weights[k] += after @ extra if k == len(weights) - 1 else extra
        for k in range(len(weights) - 1):
            q1, q2 = (np.linalg.qr(rng.normal(size=(sizes[k + 1],) * 2))[0] for _ in range(2))
            stretch = rng.uniform(0.5, 2.0, sizes[k + 1])
            weights[k] = (q1 * stretch) @ q2 @ weights[k]
            weights[k + 1] = weights[k + 1] @ q2.T @ (q1 / stretch).T
        steep = max(np.abs(g).max() for g in dl.gradient(weights, moments))
        if steep < 1e-11:
            return weights, moments


def loss_and_gradient(weights, moments):
    shapes = [w.shape for w in weights]
    ends = np.cumsum([w.size for w in weights])[:-1]

    def fun(flat):
        layers = [p.reshape(s) for p, s in zip(np.split(flat, ends), shapes, strict=True)]
        slopes = dl.gradient(layers, moments)
        return dl.loss(layers, moments), np.concatenate([g.ravel() for g in slopes])

    return fun, np.concatenate([np.ravel(w) for w in weights])


def hessian_values(weights, moments):
    """Eigenvalues by autograd, from the definition of the loss."""
    xx, yx = torch.from_numpy(moments.xx), torch.from_numpy(moments.yx)
    sizes = [np.size(w) for w in weights]
    shapes = [np.shape(w) for w in weights]

    def loss(flat):
        product = torch.eye(shapes[0][1], dtype=flat.dtype)
        for part, shape in zip(flat.split(sizes), shapes, strict=True):
            product = part.view(shape) @ product
        return ((product @ xx) * product).sum() / 2 - (product * yx).sum()

    flat = torch.from_numpy(np.concatenate([np.ravel(w) for w in weights]))
    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat)).numpy()


def descends(weights, moments, rng):
    """Whether descent from somewhere near by ends lower."""
    fun, start = loss_and_gradient(weights, moments)
    for size in (0.03, 0.1, 0.3, 0.5):
        found = minimize(
            fun,
            start + size * rng.normal(size=len(start)),
            jac=True,
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 3000},
        )
        if found.fun < fun(start)[0] - 1e-6:
            return True
    return False


@pytest.mark.parametrize(
    ("count", "seed"), [(150, 0), pytest.param(3000, 1, marks=pytest.mark.slow)]
)
def test_kind_agrees_with_the_hessian_and_with_descent(count, seed):
    rng = np.random.default_rng(seed)
    kinds, known = Counter(), 0
    for case in range(count):
        weights, moments = random_critical_point(rng)
        found = dl.classify(weights, moments)
        values = hessian_values(weights, moments)
        size = max(1.0, values[-1])
        assert found.kind != "regular point", case
        assert (found.kind == "strict saddle") == (values[0] < -1e-7 * size), (case, found, values)
        assert descends(weights, moments, rng) == (found.kind != "global minimum"), (case, found)
        if found.index is not None:
            known += 1
            assert found.index == (values < -1e-7 * size).sum(), (case, found, values)
        kinds[found.kind, len(weights)] += 1
    assert {k for k, _ in kinds} == {"strict saddle", "non-strict saddle", "global minimum"}
    assert ("non-strict saddle", 2) not in kinds  # two layers have none
    assert min(kinds.values()) > count / 100, kinds
    assert known > count / 5


def test_saddle_whose_ends_do_not_meet_is_not_strict():
    """The rank of the block with the data matters: W_4 and W_1 alone have more than rank 0."""
    modes = np.eye(2)
    zero = np.zeros((2, 2))
    apart = [np.outer(modes[0], modes[1]), zero, zero, np.outer(modes[0], modes[0])]
    meet = [np.outer(modes[0], modes[0]), zero, zero, np.outer(modes[0], modes[0])]
    for weights, kind in ((apart, "non-strict saddle"), (meet, "strict saddle")):
        assert dl.classify(weights, TWO).kind == kind
        assert (hessian_values(weights, TWO)[0] < -1e-9) == (kind == "strict saddle")


def test_regular_points_and_what_a_flow_arrives_at():
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(2, 2)) for _ in range(3)]
    regular = dl.classify(weights, TWO)
    assert (regular.kind, regular.modes, regular.index) == ("regular point", None, None)
    (end,) = dl.integrate(weights, TWO, [200.0])
    found = dl.classify(end, TWO)
    assert (found.kind, found.modes) == ("global minimum", (0, 1))


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_every_representative_has_its_level_and_index(depth):
    sizes = (3, *[4] * (depth - 1), 3)
    levels = dl.critical_levels(THREE, sizes)
    assert len(levels) == dl.n_critical_values(dl.data_modes(THREE), sizes) == 8
    for level in levels:
        point = dl.representative(THREE, sizes, level.modes)
        found = dl.classify(point, THREE)
        assert found.modes == level.modes
        assert found.loss == pytest.approx(level.loss, abs=1e-12)
        assert found.index == (hessian_values(point, THREE) < -1e-9).sum()
    assert dl.global_minimum(THREE, sizes) == pytest.approx(0.0, abs=1e-12)
    assert [level.modes for level in dl.staircase(THREE, sizes)] == [(), (0,), (0, 1), (0, 1, 2)]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_directions_change_the_loss_as_they_say(depth):
    rng = np.random.default_rng(depth)
    moments = random_moments(rng, 4, 3)
    while dl.data_modes(moments).rank < 3:
        moments = random_moments(rng, 4, 3)
    sizes = (4, *[4] * (depth - 1), 3)
    whats = set()
    for k in range(4):
        for chosen in combinations(range(3), k):
            point = dl.representative(moments, sizes, chosen)
            if depth == 1 and k < 3:
                continue
            for direction in dl.saddle_directions(point, moments):
                whats.add(direction.what)
                moved = [
                    dl.loss(
                        [w + t * v for w, v in zip(point, direction.layers, strict=True)], moments
                    )
                    - dl.loss(point, moments)
                    for t in (1e-2, 2e-2)
                ]
                # Extrapolated to t = 0.
                ratios = [m / t**direction.order for m, t in zip(moved, (1e-2, 2e-2), strict=True)]
                assert 2 * ratios[0] - ratios[1] == pytest.approx(direction.coefficient, rel=2e-2)
                assert direction.stable == (moved[0] > 0)
    assert whats == ({"hold"} if depth == 1 else {"learn", "swap", "hold"})


def test_degenerate_saddle_has_a_way_down_that_the_hessian_misses():
    point = [np.zeros((2, 2))] * 3
    assert not hessian_values(point, TWO).any()
    found = dl.saddle_directions(point, TWO)
    assert [(d.what, d.modes, d.order, d.coefficient) for d in found] == [
        ("learn", (0,), 3, -3.0),
        ("learn", (1,), 3, -1.0),
    ]
    v = found[0].layers
    (end,) = dl.integrate([1e-2 * m for m in v], TWO, [60.0])
    assert dl.classify(end, TWO).modes == (0,)  # the invariant line leads to the next saddle


def test_no_idle_unit_nothing_to_learn():
    point = dl.representative(TWO, (2, 1, 2), [1])
    assert [d.what for d in dl.saddle_directions(point, TWO)] == ["swap", "hold"]


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_boolean_lattice(rank):
    strengths = np.arange(rank, 0, -1.0)
    moments = dl.Moments(np.eye(rank), np.diag(strengths), float(np.square(strengths).sum()))
    graph = dl.mode_graph(moments, (rank, rank, rank + 1, rank))
    assert graph.number_of_nodes() == 2**rank
    assert graph.number_of_edges() == rank * 2 ** (rank - 1)
    cube = nx.hypercube_graph(rank)
    assert nx.is_isomorphic(graph.to_undirected(), cube)
    losses = nx.get_node_attributes(graph, "loss")
    assert all(losses[a] > losses[b] for a, b in graph.edges)
    assert [n for n, m in graph.nodes(data="minimum") if m] == [tuple(range(rank))]


def test_narrow_networks_swap_until_the_strongest_modes_are_in():
    plain = dl.mode_graph(THREE, (3, 2, 3))
    assert sum(plain.out_degree(n) == 0 for n in plain) == 3  # one of them a minimum
    assert [n for n, m in plain.nodes(data="minimum") if m] == [(0, 1)]
    swapped = dl.mode_graph(THREE, (3, 2, 3), swaps=True)
    assert [n for n in swapped if swapped.out_degree(n) == 0] == [(0, 1)]
    assert sorted(dl.mode_graph(TWO, (2, 1, 2), swaps=True).edges) == [((), (1,)), ((1,), (0,))]


@pytest.mark.parametrize("hidden", [1, 2])
@pytest.mark.parametrize("depth", [2, 3])
def test_the_flow_swaps_a_mode_for_a_stronger_one(hidden, depth):
    """Two levels that the Boolean lattice leaves unordered are joined by an orbit of the flow."""
    sizes = (2, *[hidden] * (depth - 1), 2)
    saddle = dl.representative(TWO, sizes, [1])
    (swap,) = [d for d in dl.saddle_directions(saddle, TWO) if d.what == "swap"]
    start = [w + 1e-4 * v for w, v in zip(saddle, swap.layers, strict=True)]
    (end,) = dl.integrate(start, TWO, [30.0])
    assert np.abs(dl.product(end) - np.diag([3.0, 0.0])).max() < 1e-6


def test_equal_strengths_are_families():
    tied = dl.Moments(np.eye(3), np.diag([2.0, 2.0, 1.0]), 9.0)
    modes = dl.data_modes(tied)
    assert modes.groups == ((0, 1), (2,))
    levels = dl.critical_levels(tied, (3, 3, 3))
    assert len(levels) == dl.n_critical_values(modes, (3, 3, 3)) == 6
    assert [level.loss for level in levels] == pytest.approx([4.5, 4.0, 2.5, 2.0, 0.5, 0.0])
    assert [level.degenerate for level in levels] == [False, False, True, True, False, False]
    # Any direction in the common space will do.
    u = np.array([0.6, 0.8, 0.0])
    point = [np.sqrt(2) * np.outer(np.eye(3)[0], u), np.sqrt(2) * np.outer(u, np.eye(3)[0])]
    found = dl.classify(point, tied)
    assert (found.kind, found.modes, found.degenerate) == ("strict saddle", None, True)
    assert found.loss == pytest.approx(2.5)
    assert found.index == (hessian_values(point, tied) < -1e-9).sum()
    with pytest.raises(ValueError, match="modes must differ in strength, got a point"):
        dl.saddle_directions(point, tied)
    with pytest.raises(ValueError, match=r"got \[0, 1\] of 2"):
        dl.mode_graph(tied, (3, 3, 3))


def test_inputs_that_do_not_vary_are_left_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 2)) @ rng.normal(size=(2, 4))  # 4 inputs, rank 2
    y = x @ rng.normal(size=(4, 3)) + 0.1 * rng.normal(size=(20, 3))
    moments = dl.Moments.of(x, y)
    modes = dl.data_modes(moments)
    assert modes.rank == 2
    expected = np.linalg.lstsq(x, y, rcond=None)[0].T
    point = dl.representative(moments, (4, 3, 3), [0, 1])
    assert np.abs(dl.product(point) - expected).max() < 1e-9
    assert dl.classify(point, moments).kind == "global minimum"
    # What the network does to inputs that never come changes nothing.
    silent = np.linalg.svd(x)[2][-1]
    point = [point[0] + np.outer(np.ones(3), silent), point[1]]
    assert dl.classify(point, moments).kind == "global minimum"
    assert dl.mode_strengths(dl.product(point), modes) == pytest.approx([1.0, 1.0])


def test_whitening_leaves_the_loss_alone():
    rng = np.random.default_rng(1)
    moments = random_moments(rng, 4, 3)
    modes = dl.data_modes(moments)
    weights = [rng.normal(size=(2, 4)), rng.normal(size=(3, 2))]
    white = dl.Moments(np.eye(4), moments.yx @ modes.whitener, moments.yy)
    assert dl.loss(whitened(weights, modes), white) == pytest.approx(dl.loss(weights, moments))


def test_nothing_to_learn():
    nothing = dl.Moments(np.eye(2), np.zeros((2, 2)), 1.0)
    found = dl.classify([np.zeros((2, 2))] * 2, nothing)
    assert (found.kind, found.modes, found.loss) == ("global minimum", (), 0.5)
    assert dl.classify([np.eye(2)] * 2, nothing).kind == "regular point"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dl.classify([np.eye(2)], TWO, 0.0), "tolerance must lie strictly between"),
        (lambda: dl.morse_index([1.0], [2.0], 2), "hidden must be the width"),
        (lambda: dl.representative(TWO, (2, 2), [2]), "numbers from 0 to 1, got"),
        (lambda: dl.representative(TWO, (2, 2), [0, 0]), "must be different"),
        (lambda: dl.representative(TWO, (2, 1, 2), [0, 1]), "has room for 1, got 2"),
        (lambda: dl.critical_levels(TWO, (3, 2)), "widths from 2 inputs to 2 outputs"),
        (lambda: dl.saddle_directions([np.eye(2)], TWO), "must be a critical point, got a grad"),
        (
            lambda: dl.saddle_directions([[[0.5, 0.0]], [[6.0], [0.0]]], TWO),
            "must be balanced on whitened inputs",
        ),
        (
            lambda: dl.data_modes(dl.Moments(np.diag([1.0, 0.0]), [[1.0, 1.0]], 2.0)),
            "yx must vanish on inputs that do not vary, got 1",
        ),
        (
            lambda: dl.critical_levels(
                dl.Moments(np.eye(17), np.diag(np.arange(17, 0, -1.0)), 1785.0), (17, 17)
            ),
            r"at most 65536 .* got 131072 for 17 modes. Use staircase\(\), which has 18",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
