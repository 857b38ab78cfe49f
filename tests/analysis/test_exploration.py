"""Where the flow from a point leads: boxes that follow it, inside and around the one given."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from lightning_morse.analysis.descent import Descent, undecided_part
from lightning_morse.analysis.design import design
from lightning_morse.analysis.exploration import Explorer
from lightning_morse.analysis.pipeline import analyze, analyze_from
from lightning_morse.analysis.placement import coarse_grid
from lightning_morse.analysis.plan import Plan
from lightning_morse.analysis.samples import Samples
from lightning_morse.analysis.sampling import Sampler
from lightning_morse.analysis.settings import checked_settings
from lightning_morse.analysis.tower import Tower
from lightning_morse.analysis.verdict import verdict
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.nested import NestedGrid
from lightning_morse.stopwatch import Stopwatch
from tests.benchmark_files import load

HERE = np.zeros(2)
ONE = np.ones(2)


def look(loss, start=HERE, half=ONE, far=16.0, n_samples=64, seed=0):
    """The analysis of a loss around a point, on a coarse grid, and the label of the point."""
    half = np.asarray(half, dtype=np.float64)
    limits = None if far is None else (-far * half, far * half)
    result = analyze_from(loss, start, -half, half, limits, n_samples, 48, seed=seed)
    return result, int(result.basin_of(np.asarray(start)[None])[0])


def ravine(x):
    """Steep walls around a bent floor that hardly slopes."""
    floor = x[:, 1] - 0.1 - 0.3 * x[:, 0].square()
    return 100 * floor.square() + 0.5 * (x[:, 0] - 0.15).square()


def down_the_ravine(_, point):
    """Its true flow by hand: autograd takes ten times as long for each of many steps."""
    x, y = point.tolist()
    floor = y - 0.1 - 0.3 * x**2
    return [120 * floor * x - (x - 0.15), -200 * floor]


def ends_in_the_ravine(points, lower, upper):
    """Where the true flow from each point rests, and whether it leaves the box before."""
    x = torch.from_numpy(points).requires_grad_()
    (slope,) = torch.autograd.grad(ravine(x).sum(), x)
    by_hand = [down_the_ravine(0, point) for point in points]
    np.testing.assert_allclose(by_hand, -slope.numpy(), rtol=1e-9, atol=1e-9)
    settings = {"rtol": 1e-6, "atol": 1e-8, "method": "LSODA"}
    ways = [solve_ivp(down_the_ravine, (0, 60), point, **settings).y for point in points]
    outside = [(way < lower[:, None]) | (way > upper[:, None]) for way in ways]
    return np.array([way[:, -1] for way in ways]), np.array([each.any() for each in outside])


@pytest.mark.slow
def test_labels_of_all_boxes_are_true():
    result, label = look(ravine, n_samples=96)
    assert len(result.boxes) > 1
    assert label >= 0
    assert result.mu_model >= result.confidence
    rng = np.random.default_rng(0)
    points = np.concatenate(
        [
            box.grid.lower + rng.random((20, 2)) * (box.grid.upper - box.grid.lower)
            for box in result.boxes
        ]
    )
    labels = result.basin_of(points)
    ends, left = ends_in_the_ravine(points, result.grid.lower, result.grid.upper)
    certain = labels >= 0
    assert certain.sum() > 20
    assert not left[certain].any()
    assert np.abs(ends[certain] - [0.15, 0.1 + 0.3 * 0.15**2]).max() < 0.02
    assert left[labels == -2].all()
    # Where a box says nothing, a finer one may; where none does, nothing is said.
    assert ((result.box_at(points) == -1) == (labels == -1)).all()


def explorer_of(loss, n_samples=64, most=None):
    settings = checked_settings([-1.0, -1.0], [1.0, 1.0], n_samples, 32, 0.95, 0, "proved")
    points = design(settings.grid.lower, settings.grid.upper, 24, 0)
    samples = Samples(points, loss(torch.from_numpy(points)).numpy())
    tower, plan = Tower(settings, samples), Plan.of(n_samples, 2, most)
    return Explorer(Sampler(loss, tower, plan, Stopwatch()))


def bent(x):
    return (x - 0.2).square().sum(1) + 0.3 * x[:, 0].pow(3)


def test_an_answer_that_is_lost_is_sought_again_before_the_rest(monkeypatch):
    """And samples are kept for that, where there are no more than the usual number."""
    calls = []
    outcomes = iter([False, False, True])
    monkeypatch.setattr(Explorer, "follow", lambda self, *_: calls.append("follow"))
    monkeypatch.setattr(
        Explorer, "complete", lambda self, n, start: calls.append(n) or next(outcomes)
    )
    explorer = explorer_of(bent, 64, 64)
    explorer.answer(HERE, (-ONE, ONE), 64)
    kept = 64 // 4
    assert calls == ["follow", 64 - kept, "follow", 64 - kept, "follow", 64 - kept]
    outcomes, calls[:] = iter([True]), []
    explorer_of(bent, 64).answer(HERE, (-ONE, ONE), 64)
    assert calls == ["follow", 64]


@pytest.mark.parametrize(
    ("decided", "full_after", "done"),
    [
        ([True, True, False], 9, False),
        ([False, True, False], 9, False),
        ([False, False, None], 9, True),
        # By the batch with which the samples are used up.
        ([True, True, False], 2, False),
        ([True, True], 1, True),
        ([False], 1, True),
    ],
)
def test_the_picture_is_left_when_an_answer_is_lost(monkeypatch, decided, full_after, done):
    """Not where there was none."""
    explorer, looks = explorer_of(bent), []

    def sketch(_):
        found = decided[len(looks)]
        looks.append(found)
        return None if found is None else SimpleNamespace(is_decided=lambda _: found)

    module = "lightning_morse.analysis.exploration"
    monkeypatch.setattr(f"{module}.is_resolved", lambda _: False)
    monkeypatch.setattr(f"{module}.undecided_minima", lambda _: [])
    monkeypatch.setattr(explorer.sampler, "sketch", sketch)
    monkeypatch.setattr(explorer, "_most_undecided", lambda *_: 0)
    placed = []
    monkeypatch.setattr(explorer.sampler, "place", lambda *_: placed.append(len(looks)))
    monkeypatch.setattr(explorer.sampler, "left", lambda _: 30 * (len(placed) < full_after))
    assert explorer.complete(64, HERE) is done
    assert looks == decided


def test_the_box_grows_through_the_face_where_the_flow_leaves():
    def bowl(x):
        return (x[:, 0] - 5).square() + x[:, 1].square()

    result, label = look(bowl)
    assert label == 0
    assert result.grid.upper[0] > 5
    assert result.grid.lower.tolist() == [-1, -1]
    assert result.grid.upper[1] == 1
    assert np.abs(result.morse_sets[0].center - [5, 0]).max() < 0.05
    # Without room to grow the answer is that it leaves.
    result, label = look(bowl, far=None)
    assert label == -2
    assert result.grid.upper.tolist() == [1, 1]


def bent_way(x):
    """A bowl ten times as steep along one oblique axis, with ripples."""
    along, across = torch.tensor([[0.88, 0.48], [-0.48, 0.88]], dtype=torch.float64)
    y = x - torch.tensor([0.55, -0.35])
    ripples = 0.02 * torch.sin(7 * x[:, 0] + 3 * x[:, 1])
    return 5 * (y @ along).square() + 0.5 * (y @ across).square() + ripples


def test_the_box_grows_beyond_a_face_that_the_flow_passes_closely():
    """No band, however narrow, would exclude that it leaves."""
    start = np.array([-0.1, 0.0])

    def flow(_, point):
        x = torch.from_numpy(point[None].copy()).requires_grad_()
        (slope,) = torch.autograd.grad(bent_way(x).sum(), x)
        return -slope[0].numpy()

    way = solve_ivp(flow, (0, 8), start, rtol=1e-8).y
    lower, upper = np.array([-0.2, -0.6]), np.array([1.0, way[1].max() + 0.01])
    assert (way < upper[:, None]).all()
    limits = lower - 3, upper + 3
    result = analyze_from(bent_way, start, lower, upper, limits, 64, 48)
    assert result.basin_of(start[None]) == 0
    assert len(result.samples) <= 64
    assert np.abs(result.morse_sets[0].center - way[:, -1]).max() < 0.05
    assert result.grid.upper[1] > upper[1]
    assert result.grid.upper[0] == upper[0]
    # Where it may not grow, that stays open.
    shut = analyze_from(bent_way, start, lower, upper, None, 64, 48, most=64)
    found = verdict(shut, start)
    assert (found.kind, found.reason, found.faces) == ("undecided", "edge", ((1, 1),))


@pytest.mark.slow
def test_a_loss_without_a_minimum_descends_to_the_limit():
    result, label = look(lambda x: x[:, 1].square() - x[:, 0])
    assert label == -2
    assert result.n_attractors == 0
    assert result.grid.upper[0] == 16
    found = verdict(result, HERE)
    assert found.kind == "descends"
    assert result.way_out.face == (0, 1)
    assert result.way_out.loss == pytest.approx(-16, abs=0.1)
    # Where the slope fades away, it is not said to end.
    result, label = look(lambda x: torch.exp(-x[:, 0]) + x[:, 1].square())
    assert label in (-2, -1)
    assert result.n_attractors == 0


def test_no_growth_into_a_wall_of_nan():
    def walled(x):
        bowl = (x[:, 0] - 0.5).square() + x[:, 1].square()
        return torch.where(x[:, 0] > 1.5, torch.nan, bowl)

    result, label = look(walled)
    assert label == 0
    result, label = look(
        lambda x: torch.where(x[:, 0] > 1.5, torch.nan, -x[:, 0] + x[:, 1].square())
    )
    assert label == -2
    assert np.isfinite(result.grid.upper).all()


@pytest.mark.slow
def test_an_exactly_flat_floor_is_no_certain_point():
    result, label = look(lambda x: (x.square().sum(1) - 0.5).clamp(min=0))
    assert label in (-1, 0)
    assert all(m.index != 0 or m.is_attractor for m in result.morse_sets)
    if label == 0:  # the whole floor is one attractor, and not said to be one minimum
        assert not result.morse_sets[0].resolved or result.morse_sets[0].volume > 0.01


def test_never_more_evaluations_than_allowed():
    calls = []

    def noisy(x):
        calls.append(len(x))
        return torch.sin(40 * x).sum(1) + x.square().sum(1)

    result, _ = look(noisy, n_samples=32)
    assert sum(calls) <= 2.5 * 32
    assert len(result.samples) == sum(calls)


def test_the_point_has_to_lie_in_the_box():
    with pytest.raises(ValueError, match="start must be a point of the box from"):
        look(ravine, start=np.array([2.0, 0.0]))


def test_a_box_that_the_way_has_left_is_filled_and_then_gives_way():
    """It would touch the new one, and nothing is certain in it."""
    settings = checked_settings([-1, -1], [1, 1], 64, 64, 0.95, 0, "proved")
    points = design([-1, -1], [1, 1], 24, 0)
    tower = Tower(settings, Samples(points, np.square(points).sum(axis=1)))
    sampler = Sampler(lambda x: x.square().sum(1), tower, Plan.of(64, 2), Stopwatch())
    explorer = Explorer(sampler)
    assert sampler.open(np.array([-0.6, -0.6]), np.array([0.2, 0.2]), 0, 160)
    nested = tower.nested(settings.grid)
    portrait = SimpleNamespace(nested=nested, is_certain_in=lambda boxes: False)
    way = Descent(np.array([[0.1, 0.1], [0.3, 0.3]]), 0)
    assert explorer._open_inside(way, 0, portrait) == 1
    sampler.fill(1, 16)
    assert explorer._open_inside(way, 0, portrait) is None
    assert len(tower) == 1
    assert tower.n_samples == 24 + 8 + 16
    assert explorer._open_inside(way, 0, portrait) is None
    assert (tower.boxes[1].lower < 0.3).all()
    assert (tower.boxes[1].upper > 0.3).all()


def test_what_is_undecided_of_a_way_ends_where_a_basin_begins():
    portrait = SimpleNamespace(
        nested=NestedGrid.of(CubicalGrid([0.0], [4.0], (4,))), labels=np.array([-1, -1, 0, 0])
    )
    path = np.array([[0.5], [1.5], [2.5], [3.5]])
    assert undecided_part(portrait, Descent(path, 0)).path.tolist() == [[0.5], [1.5]]
    portrait.labels[3] = -1
    assert len(undecided_part(portrait, Descent(path, 0)).path) == 4


@pytest.mark.slow
def test_minima_that_one_set_holds_are_told_apart():
    """Three minima near the middle of a box in whose corners the loss is 2,000."""

    def three_hump_camel(x):
        u, v = x.unbind(1)
        return 2 * u**2 - 1.05 * u**4 + u**6 / 6 + u * v + v**2

    result = analyze(three_hump_camel, [-5.0, -5.0], [5.0, 5.0], 512, 64)
    assert result.claim.startswith("exactly 3")
    found = sorted(abs(result.morse_sets[a].center[0]) for a in result.attractors)
    assert np.allclose(found, [0, 1.7476, 1.7476], atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "minima"), [("ackley", 9), ("goldstein_price", 4)])
def test_a_box_for_every_minimum(name, minima):
    known = load("many_scales").FUNCTIONS[name].landscape()
    result = analyze(known.loss, -known.half, known.half, 512)
    assert result.n_attractors == minima


def test_faces_of_boxes_inside_boxes_fit_both_grids():
    """What has room on the coarse grid has it on the final one once its faces have moved."""
    rng, kept, refused = np.random.default_rng(0), 0, 0
    settings = checked_settings([-1.0, -1.0], [1.0, 1.0], 64, 128, 0.95, 0, "proved")
    coarse = coarse_grid(settings.grid)
    for _ in range(200):
        tower = Tower(settings, Samples(np.zeros((1, 2)), np.zeros(1)))
        for _ in range(6):
            parent = int(rng.integers(len(tower)))
            box = tower.boxes[parent]
            width = (box.upper - box.lower) * rng.uniform(0.1, 0.4)
            low = rng.uniform(box.lower, box.upper - width)
            before = [(b.lower.tolist(), b.upper.tolist()) for b in tower.boxes]
            tower.open(low, low + width, parent, 8)
            if tower.snap(coarse, settings.grid):
                tower.nested(coarse), tower.nested(settings.grid)
                kept += 1
                continue
            refused += 1
            tower.close()
            assert before == [(b.lower.tolist(), b.upper.tolist()) for b in tower.boxes]
    assert min(kept, refused) > 100
