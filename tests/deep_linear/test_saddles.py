"""Directions of saddles, checked against the loss and the flow."""

from itertools import combinations

import numpy as np
import pytest

from lightning_morse import deep_linear as dl
from tests.linear_problems import (
    TWO,
    hessian_values,
    random_moments,
)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_directions_have_the_stated_leading_term(depth):
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


def test_non_strict_saddle_has_a_descent_direction_that_the_hessian_misses():
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


@pytest.mark.parametrize("hidden", [1, 2])
@pytest.mark.parametrize("depth", [2, 3])
def test_the_flow_swaps_a_mode_for_a_stronger_one(hidden, depth):
    """Two levels that are incomparable in the Boolean lattice are joined by an orbit."""
    sizes = (2, *[hidden] * (depth - 1), 2)
    saddle = dl.representative(TWO, sizes, [1])
    (swap,) = [d for d in dl.saddle_directions(saddle, TWO) if d.what == "swap"]
    start = [w + 1e-4 * v for w, v in zip(saddle, swap.layers, strict=True)]
    (end,) = dl.integrate(start, TWO, [30.0])
    assert np.abs(dl.product(end) - np.diag([3.0, 0.0])).max() < 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dl.representative(TWO, (2, 2), [2]), "numbers from 0 to 1, got"),
        (lambda: dl.representative(TWO, (2, 2), [0, 0]), "must be different"),
        (lambda: dl.representative(TWO, (2, 1, 2), [0, 1]), "has room for 1, got 2"),
        (lambda: dl.saddle_directions([np.eye(2)], TWO), "must be a critical point, got a grad"),
        (
            lambda: dl.saddle_directions([[[0.5, 0.0]], [[6.0], [0.0]]], TWO),
            "must be balanced on whitened inputs",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
