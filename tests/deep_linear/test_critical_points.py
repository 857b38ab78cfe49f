"""Kind and index of critical points, checked against Hessians and descent."""

from collections import Counter

import numpy as np
import pytest
from scipy.optimize import minimize

from lightning_morse import deep_linear as dl
from tests.linear_problems import (
    THREE,
    TWO,
    hessian_values,
    random_moments,
)


def random_critical_point(rng):
    """A critical point of any kind: a representative, extra weights, a change of basis."""
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


class Lower(Exception):
    """Descent has come lower, and goes no higher."""


def descends(weights, moments, rng):
    """Whether descent from a nearby point ends lower."""
    fun, start = loss_and_gradient(weights, moments)
    floor = fun(start)[0] - 1e-6

    def until_lower(flat):
        loss, slopes = fun(flat)
        if loss < floor:
            raise Lower
        return loss, slopes

    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 3000}
    for size in (0.03, 0.1, 0.3, 0.5):
        near = start + size * rng.normal(size=len(start))
        try:
            minimize(until_lower, near, jac=True, method="L-BFGS-B", options=options)
        except Lower:
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize(("count", "seed"), [(150, 0), (1000, 1)])
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
    """The rank of the block with the data decides: W_4 and W_1 alone have rank above 0."""
    modes = np.eye(2)
    zero = np.zeros((2, 2))
    apart = [np.outer(modes[0], modes[1]), zero, zero, np.outer(modes[0], modes[0])]
    meet = [np.outer(modes[0], modes[0]), zero, zero, np.outer(modes[0], modes[0])]
    for weights, kind in ((apart, "non-strict saddle"), (meet, "strict saddle")):
        assert dl.classify(weights, TWO).kind == kind
        assert (hessian_values(weights, TWO)[0] < -1e-9) == (kind == "strict saddle")


def test_regular_points_and_limits_of_the_flow():
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


def test_equal_strengths_give_continuous_families():
    tied = dl.Moments(np.eye(3), np.diag([2.0, 2.0, 1.0]), 9.0)
    modes = dl.data_modes(tied)
    assert modes.groups == ((0, 1), (2,))
    levels = dl.critical_levels(tied, (3, 3, 3))
    assert len(levels) == dl.n_critical_values(modes, (3, 3, 3)) == 6
    assert [level.loss for level in levels] == pytest.approx([4.5, 4.0, 2.5, 2.0, 0.5, 0.0])
    assert [level.degenerate for level in levels] == [False, False, True, True, False, False]
    # Any direction in the common space gives a critical point.
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


def test_constant_inputs_are_ignored():
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
    # The response to inputs outside the range of the data does not matter.
    silent = np.linalg.svd(x)[2][-1]
    point = [point[0] + np.outer(np.ones(3), silent), point[1]]
    assert dl.classify(point, moments).kind == "global minimum"
    assert dl.mode_strengths(dl.product(point), modes) == pytest.approx([1.0, 1.0])


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
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
