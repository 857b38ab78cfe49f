"""Where the pairs say too little of a map, nothing is claimed of it."""

import dataclasses
import re

import numpy as np
import pytest

import lightning_morse as lm
from lightning_morse.analysis.sentence import sentence
from lightning_morse.analysis.verdict import verdict
from lightning_morse.conley.combinatorial_map import outer_approximation
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.trajectories.portrait import _next_to_unknown
from lightning_morse.view.encoding import encode
from lightning_morse.view.record import decode


def pairs_of(point_map, low, up, n=40, noise=0.001, dim=1):
    rng = np.random.default_rng(0)
    x = rng.uniform(low, up, (n, dim))
    return list(np.stack([x, point_map(x) + noise * rng.standard_normal(x.shape)], axis=1))


@pytest.fixture(scope="module")
def nothing_known():
    """Two pairs, each of them many times: they could be noise."""
    runs = [[[1.0], [0.5]]] * 25 + [[[-1.0], [-0.5]]] * 25
    return lm.analyze_trajectories(runs, resolution=64)


@pytest.fixture(scope="module")
def doubling():
    """About x -> 2x, which leaves [-1, 3]; pairs start in [-1, 1] only."""
    runs = pairs_of(lambda x: 2 * x + 0.08 * np.sin(10 * x), -1, 1)
    return lm.analyze_trajectories(runs, lower=[-1.0], upper=[3.0], resolution=128)


@pytest.fixture(scope="module")
def leaving():
    """x -> 2x + 3, which is known all over [-1, 1] and leaves it."""
    runs = pairs_of(lambda x: 2 * x + 3, -1, 1)
    return lm.analyze_trajectories(runs, lower=[-1.0], upper=[1.0], resolution=64)


def test_of_a_map_that_is_unknown_everywhere_nothing_is_claimed(nothing_known):
    result = nothing_known
    assert result.diverged.all()
    assert (result.claim, result.mu, result.is_exact) == ("no certain attractor", 0, False)
    assert (result.escape, result.undecided) == (0, 1)
    assert not result.exit_volumes.any()
    assert result.basin_of([[0.1]]) == -1
    assert verdict(result, [0.1]).kind == "diverged"
    assert sentence(result) == (
        "No certain attractor: the runs say too little anywhere. More recorded runs may."
    )


def test_leaving_a_box_is_told_from_coming_to_what_is_unknown(doubling):
    unknown = doubling.diverged
    assert 0.3 < unknown.mean() < 0.7
    # To the left all is known as far as the face, to the right there is the unknown before it.
    assert doubling.basin_of([[-0.9], [-0.3], [0.3], [0.9], [2.5]]).tolist() == [-2, -2, -1, -1, -1]
    assert (doubling.labels[unknown] == -1).all()
    assert doubling.exit_volumes[0, 0] == doubling.escape > 0.15
    assert doubling.exit_volumes[0, 1] == 0
    assert (doubling.claim, doubling.mu) == ("no certain attractor", 0)
    assert verdict(doubling, [-0.5]).kind == "descends"
    found = verdict(doubling, [0.5])
    assert (found.kind, found.reason, found.sets) == ("undecided", "unexplored", ())
    assert sentence(doubling, [0.5]) == (
        "Undecided: it may come to where the runs say too little. More recorded runs may."
    )
    assert "diverged" not in sentence(doubling)


def test_of_a_map_that_is_known_everywhere_and_leaves_there_are_exactly_none(leaving):
    assert not leaving.diverged.any()
    assert (leaving.claim, leaving.mu) == ("exactly 0 attractors", 0.95)
    assert leaving.escape == 1
    assert sentence(leaving) == (
        "No attractor: everything leaves the box. A larger box may hold one."
    )


def test_a_number_is_never_exact_where_something_is_unknown():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = rng.uniform(-1, 1, (12, 2))
        y = 0.7 * x + 0.1 * np.sin(9 * x[:, ::-1])
        result = lm.analyze_trajectories(list(np.stack([x, y], axis=1)), resolution=16)
        assert result.diverged.any()
        assert not result.claim.startswith("exactly")
        assert result.n_attractors > 0 or result.mu == 0
        assert (result.labels[result.diverged] == -1).all()


def test_cells_are_next_to_the_unknown_if_their_boxes_meet_it():
    rng = np.random.default_rng(0)
    grid = CubicalGrid([0, 0], [1, 1], (9, 7))
    low, up = grid.cell_bounds()
    for _ in range(20):
        corner = rng.uniform(-0.3, 1.2, (2, grid.size, 2))
        unknown = rng.random(grid.size) < 0.1
        first, last = corner.min(axis=0), corner.min(axis=0) + rng.uniform(0, 0.2, (grid.size, 2))
        image = outer_approximation(first, last, grid, exterior_cells=unknown)
        meets = (first[:, None] <= up) & (last[:, None] >= low)
        expected = unknown | (meets.all(axis=2) & unknown).any(axis=1)
        assert np.array_equal(_next_to_unknown(image, first, last, grid, unknown), expected)


def test_files_keep_what_may_come_to_the_unknown(doubling, tmp_path):
    doubling.save(tmp_path / "a.npz")
    again = lm.MorseAnalysis.load(tmp_path / "a.npz")
    assert np.array_equal(again.labels, doubling.labels)
    assert np.array_equal(again.reach.unknown, doubling.reach.unknown)
    assert np.array_equal(again.exit_volumes, doubling.exit_volumes)
    assert sentence(again, [0.5]) == sentence(doubling, [0.5])


@pytest.mark.parametrize("has_reach", [True, False])
def test_files_from_before_are_read_without_what_is_not_claimed_any_more(
    doubling, tmp_path, has_reach
):
    reach = dataclasses.replace(doubling.reach, unknown=None)
    labels = reach.labels([])
    old = dataclasses.replace(doubling, reach=reach if has_reach else None, labels=labels, mu=0.95)
    assert old.escape > doubling.escape
    old.save(tmp_path / "a.npz")
    again = lm.MorseAnalysis.load(tmp_path / "a.npz")
    assert (again.claim, again.mu, again.escape) == ("no certain attractor", 0, 0)
    assert not again.exit_volumes.any()
    again.save(tmp_path / "b.npz")
    assert np.array_equal(lm.MorseAnalysis.load(tmp_path / "b.npz").labels, again.labels)


def test_the_view_keeps_it_too(doubling):
    back = decode(encode(doubling, current=[0.5]))
    assert np.array_equal(back.labels, doubling.labels)
    assert np.array_equal(back.reach.unknown, doubling.reach.unknown)
    assert (back.facts["claim"], back.facts["mu"]) == ("no certain attractor", 0)


@pytest.mark.parametrize("numbers", [[99], ["0"], None])
def test_a_view_with_other_answers_is_refused(doubling, numbers):
    text = re.sub(
        r'"unknown":\[[\d,]*\]', f'"unknown":{numbers!r}'.replace("'", '"'), encode(doubling)
    )
    with pytest.raises(lm.DamagedFile, match="unknown of reach"):
        decode(text.replace("None", "null"))


def test_figures_call_it_unknown_and_speak_of_no_loss(doubling):
    figure = lm.plot_basins(doubling)
    said = [t.get_text() for t in figure.legends[0].get_texts()]
    assert "unknown" in said
    assert not {"diverged", "loss samples"} & set(said)
    assert figure.axes[0].get_ylabel() == ""
