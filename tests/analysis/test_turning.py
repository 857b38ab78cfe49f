"""Boxes turned along a valley: where they are found, what they answer, and what they cost."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from lightning_morse.analysis import stages, turning, walls
from lightning_morse.analysis.conclusion import Final
from lightning_morse.analysis.exploration import Explorer
from lightning_morse.analysis.pipeline import analyze_from
from lightning_morse.analysis.plan import Plan
from lightning_morse.analysis.stages import Stage
from lightning_morse.analysis.turning import analyze_turning
from lightning_morse.gp.process import SurrogateError


class Valley:
    """A paraboloid under a logarithm, along given axes; counts its evaluations."""

    def __init__(self, curvatures, turn, bottom):
        self.curvatures = torch.tensor(curvatures)
        self.axes, self.bottom = torch.from_numpy(turn), torch.tensor(bottom)
        self.count = 0

    def __call__(self, x):
        self.count += len(x)
        along = (x - self.bottom) @ self.axes
        return torch.log1p(50 * (self.curvatures * along**2).sum(1))


def rotation(degrees):
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def oblique(degrees=38):
    # Which valleys are answered hangs on rounding: of 12 angles from 12 to 78 degrees most are.
    return Valley([1e-3, 3.0], rotation(degrees), [0.6, 0.1])


class Kinked:
    """A mean over hinges or absolute errors of a linear model: convex, smooth nowhere.

    Counts its evaluations.
    """

    def __init__(self, seed, scales, bottom, *, hinges):
        rng = np.random.default_rng(seed)
        n = 300 if hinges else 60
        self.slopes = rng.normal(size=(n, 2)) * scales
        noise = rng.normal(size=n)
        self.shifts = -self.slopes @ bottom + (0.4 + 0.5 * noise if hinges else 0.3 * noise)
        self.signs = np.where(np.arange(n) % 2, 1, -1)
        self.hinges, self.count = hinges, 0

    def __call__(self, x):
        self.count += len(x)
        values = x.numpy() @ self.slopes.T + self.shifts
        errors = np.maximum(0, 1 - self.signs * values) if self.hinges else np.abs(values)
        return torch.from_numpy(errors.mean(1))


def hinges():
    return Kinked(7, [0.15, 0.6], [2.5, 1.0], hinges=True), np.array([6.3, 1.57])


def absolute_errors():
    return Kinked([5, 1], [0.2, 1.0], [3.0, 1.2], hinges=False), np.array([1.6, 0.4])


def box(d):
    return np.zeros(d), -np.ones(d), np.ones(d), (-10 * np.ones(d), 10 * np.ones(d))


@pytest.fixture(scope="module")
def plain():
    return analyze_from(oblique(), *box(2), 112, 64, most=320)


@pytest.fixture(scope="module")
def turned():
    """Result and axes for the oblique valley, and how often it was evaluated."""
    loss = oblique()
    return *analyze_turning(loss, *box(2), 112, 64, most=320), loss.count


@pytest.mark.slow
def test_an_oblique_valley_is_answered_in_a_turned_box(plain, turned):
    assert plain.basin_of([[0.0, 0.0]])[0] == -1
    loss = oblique()
    result, axes, count = turned
    # All evaluations are told of, those before the box was turned too, at their places.
    assert len(result.samples) == count < 320
    there = loss(torch.from_numpy(result.samples @ axes.T)).numpy()
    np.testing.assert_allclose(result.sample_losses, there, rtol=1e-9, atol=1e-12)
    assert result.basin_of([[0.0, 0.0]])[0] >= 0
    # The first axis is that of the valley, to a degree.
    assert abs(axes[:, 0] @ loss.axes.numpy()[:, 0]) > np.cos(np.deg2rad(1))
    bottom = loss.bottom.numpy() @ axes
    cell = result.grid.cell_widths
    assert (np.abs(result.morse_sets[0].center - bottom) < 2 * cell).all()
    assert result.confidence == 0.95


@pytest.mark.slow
def test_labels_of_a_turned_box_hold_for_the_true_flow(turned):
    loss = oblique()
    result, axes, _ = turned
    assert axes is not None
    rng = np.random.default_rng(0)
    points = rng.uniform(result.grid.lower, result.grid.upper, (400, 2))
    labels = result.basin_of(points)
    assert (labels >= 0).sum() > 50
    # The flow of a function of a paraboloid goes to its bottom from everywhere, as long as it does
    # not leave the box: here it is all along monotone in each coordinate of the paraboloid.
    lower, upper = result.grid.lower, result.grid.upper
    for point in points[labels >= 0]:
        along = (point @ axes.T - loss.bottom.numpy()) @ loss.axes.numpy()
        for rate in np.geomspace(1e-3, 1e3, 25):
            later = np.exp(-rate * loss.curvatures.numpy()) * along
            there = (loss.axes.numpy() @ later + loss.bottom.numpy()) @ axes
            assert ((there >= lower) & (there <= upper)).all()


class Separated:
    """Cross-entropies of data that a network separates; they have no critical point.

    All margins grow along one direction, some ten times as fast as others.
    """

    def __init__(self, seed, turn):
        rng = np.random.default_rng(seed)
        angles = np.deg2rad(turn) + rng.uniform(-1.4, 1.4, 60)
        lengths = 8 * rng.uniform(0.6, 1.4, 60)
        rates = np.stack([np.cos(angles), np.sin(angles)]) * lengths
        self.rates, self.margins = torch.from_numpy(rates), torch.from_numpy(rng.normal(3, 1, 60))
        self.count = 0

    def __call__(self, x):
        self.count += len(x)
        return torch.nn.functional.softplus(-(x @ self.rates + self.margins)).mean(1)


@pytest.mark.slow
def test_a_flow_that_goes_on_for_ever_is_answered_along_its_way():
    loss = Separated(0, 34)
    analyze_from(loss, *box(2), 112, 64, most=320)
    without, loss.count = loss.count, 0
    result, axes = analyze_turning(loss, *box(2), 112, 64, most=320)
    assert axes is not None
    assert len(result.samples) == loss.count < 0.7 * without
    assert result.basin_of([[0.0, 0.0]])[0] == -2
    assert result.n_attractors == 0
    # The way is along the first axis, which all margins grow along, to where nothing is left.
    assert (axes[:, 0] @ loss.rates.numpy() > 0).all()
    assert result.way_out.face == (0, 1)
    now = loss(torch.zeros(1, 2, dtype=torch.float64)).item()
    assert 0 < result.way_out.loss < 2e-4 * now


def test_what_is_decided_at_first_is_not_turned():
    bowl = Valley([1.0, 1.5], rotation(30), [0.3, 0.2])
    result, axes = analyze_turning(bowl, *box(2), 112, 64, most=320)
    assert axes is None
    assert result.basin_of([[0.0, 0.0]])[0] >= 0


@pytest.mark.slow
def test_without_leave_to_turn_it_is_the_plain_analysis(plain):
    result, axes = analyze_turning(oblique(), *box(2), 112, 64, most=320, turns=False)
    assert axes is None
    np.testing.assert_array_equal(result.samples, plain.samples)
    np.testing.assert_array_equal(result.labels, plain.labels)
    line, axes = analyze_turning(lambda x: (x**2).sum(1), [0.1], [-1.0], [1.0], None, 32, 32)
    assert axes is None
    assert line.n_attractors == 1


@pytest.fixture
def asked(monkeypatch):
    """How often a box is turned."""
    calls, ask = [], Stage.asked_in
    monkeypatch.setattr(Stage, "asked_in", lambda *args: calls.append(args) or ask(*args))
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("most", [64, 90, 200, 280])
def test_the_number_of_samples_is_a_hard_limit(most, asked):
    planes = torch.tensor(np.random.default_rng(1).standard_normal((20, 3)) * 3)
    loss = oblique()

    def rough(x):
        return loss(x) + 0.3 * torch.relu(x @ planes[:, :2].T + planes[:, 2]).mean(1)

    result, _ = analyze_turning(rough, *box(2), min(most, 112), 64, most=most)
    assert bool(asked) == (most > 64)
    assert len(result.samples) == loss.count <= most


@pytest.mark.slow
def test_all_boxes_together_keep_to_the_limit(asked, monkeypatch):
    """Two to find out where the flow leads, those for walls, twice, and the first one again."""
    monkeypatch.setattr(Stage, "is_answered", property(lambda stage: False))
    loss, sealed = oblique(34), []  # no box holds an attractor before the last one
    seal = Explorer.seal
    monkeypatch.setattr(Explorer, "seal", lambda *args: sealed.append(seal(*args)) or sealed[-1])
    result, _ = analyze_turning(loss, *box(2), 112, 64, most=400)
    asked_first = turning._MOST_ASKED
    assert asked_first < len(asked) <= asked_first + 2 * walls._MOST_WALLED
    assert sealed
    assert len(result.samples) == loss.count <= 400


@pytest.mark.slow
def test_a_box_that_is_drawn_in_keeps_to_the_limit(asked):
    """A loss that falls by orders of magnitude along an oblique valley."""
    turn, count = torch.from_numpy(rotation(34)), []

    def vanishing(x):
        count.append(len(x))
        along = x @ turn
        return torch.exp(-2.5 * along[:, 0] + 40 * along[:, 1] ** 2)

    result, _ = analyze_turning(vanishing, *box(2), 112, 64, most=300)
    assert len(asked) >= 1
    assert len(result.samples) == sum(count) <= 300


@pytest.mark.slow
def test_no_turned_box_goes_beyond_the_limits(asked):
    loss = oblique()
    limits = np.array([-1.5, -1.5]), np.array([1.5, 1.5])
    analyze_turning(loss, *box(2)[:3], limits, 112, 64, most=320)
    assert asked
    axes, point = rotation(45), np.array([0.5, 0.0])
    back, forth = stages.to_limits(axes, point, limits)
    # Along (1, 1): 1 to the upper face of the first axis; back, 1.5 to the lower of the second.
    np.testing.assert_allclose(forth, np.sqrt(2) * np.array([1.0, 1.5]))
    np.testing.assert_allclose(back, np.sqrt(2) * np.array([1.5, 1.0]))
    back, forth = stages.to_limits(np.eye(2), point, limits)
    np.testing.assert_allclose((back, forth), ([2.0, 1.5], [1.0, 1.5]))


@pytest.mark.slow
def test_a_turned_box_goes_as_far_as_the_trajectory_reaches_along_its_axes():
    # Along the valley the minimum lies beyond where that direction leaves the limits.
    limits = np.array([-8.0, -1.5]), np.array([8.0, 1.5])
    options = {"n_samples": 112, "resolution": 64, "most": 480}
    asked_along = []

    def reach(axes):
        asked_along.append(axes)
        return np.array([9.0, 1.0])

    labels = []
    for angle in (30, 36, 40):  # which of them is answered hangs on rounding
        along = rotation(angle)
        loss = Valley([0.01, 3.0], along, (4 * along[:, 0]).tolist())
        result, axes = analyze_turning(loss, *box(2)[:3], limits, **options, reach=reach)
        labels.append(result.basin_of([[0.0, 0.0]])[0])
        if labels[-1] == 0:
            break
    assert labels[-1] == 0
    assert set(labels) <= {0, -1}
    assert any((axes == one).all() for one in asked_along)
    assert result.basin_of((loss.bottom.numpy() @ axes)[None])[0] == 0
    assert max(-result.grid.lower[0], result.grid.upper[0]) <= 9
    result, axes = analyze_turning(loss, *box(2)[:3], limits, **options)
    assert axes is not None
    assert result.basin_of([[0.0, 0.0]])[0] == -2


def test_samples_of_turned_boxes():
    assert [stages.fewest(2, most) for most in (80, 200, 320, 512)] == [16, 30, 48, 48]
    assert [stages.fewest(3, most) for most in (80, 512)] == [64, 64]
    parts = turning._parts
    assert parts(47, 48, even=True) == parts(47, 48, even=False) == []
    assert parts(95, 48, even=True) == parts(95, 48, even=False) == [95]
    assert parts(200, 48, even=True) == [66, 66, 66]
    assert parts(200, 48, even=False) == [48, 152]


@pytest.mark.parametrize(
    ("label", "stands", "left", "is_turned"),
    [(-2, True, 99, False), (-2, False, 99, True), (-2, False, 0, False), (0, True, 99, False)],
)
def test_an_answer_that_the_last_picture_takes_back_is_sought_in_turned_boxes(
    label, stands, left, is_turned
):
    """If it was that the point leaves; a basin that is lost is sampled further where it was."""
    sketch, last = SimpleNamespace(certainly_leaves=lambda _: label == -2), SimpleNamespace()
    final, asked = Final([], last), []

    def decide(*, once):
        asked.append(once)
        return final

    question = SimpleNamespace(
        point=np.zeros(2),
        sampler=SimpleNamespace(plan=Plan.of(112, 2, 320), left=lambda _: left),
        ask=lambda _: sketch,
        is_answered=lambda picture: picture is sketch or stands,
        decide=decide,
    )
    assert turning._in_the_first_box(question) is (last if is_turned else final)
    assert asked == [label == -2]


@pytest.mark.slow
def test_a_turned_box_that_gives_none_leaves_the_first_answer_and_the_limit(monkeypatch):
    def refuses(*args, **options):
        loss = args[2]
        loss(torch.zeros(20, 2, dtype=torch.float64))  # which are spent all the same
        raise SurrogateError("too little is known")

    monkeypatch.setattr(Stage, "asked_in", refuses)
    loss = oblique()
    result, axes = analyze_turning(loss, *box(2), 112, 64, most=320)
    assert axes is None
    assert result.basin_of([[0.0, 0.0]])[0] == -1
    assert 128 < len(result.samples) == loss.count <= 320


@pytest.mark.slow
@pytest.mark.parametrize(("made", "by_walls"), [(hinges, True), (absolute_errors, False)])
def test_a_kinked_bowl_of_which_the_first_box_shows_a_part(made, by_walls):
    loss, half = made()
    far = 10 * half
    result, axes = analyze_turning(loss, [0, 0], -half, half, (-far, far), 112, most=320)
    assert axes is not None
    assert len(result.samples) == loss.count < 320
    label = int(result.basin_of([[0.0, 0.0]])[0])
    assert label >= 0
    wall = result.morse_sets[label].wall
    assert (wall is not None) == by_walls
    # The loss is convex, so there is one minimum.
    values = lambda x: float(loss(torch.tensor(x[None]))[0])  # noqa: E731
    bottom = minimize(values, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-6}).x
    assert result.basin_of([bottom @ axes])[0] in (label, -1)
    if wall is None:
        return
    assert values(bottom) < values(np.zeros(2)) <= wall
    # All around, at the faces of the box and so beyond, the loss is higher than in the well.
    lower, upper = result.grid.lower, result.grid.upper
    corners = np.random.default_rng(0).uniform(lower, upper, (200, 2))
    sides = np.arange(200)
    corners[sides, sides % 2] = np.where(sides % 4 < 2, lower[sides % 2], upper[sides % 2])
    assert loss(torch.from_numpy(corners @ axes.T)).min() > wall


@pytest.mark.slow
def test_on_three_axes():
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    loss = Valley([2e-2, 0.3, 2.0], turn, [0.4, 0.1, -0.2])
    result, axes = analyze_turning(loss, *box(3), 512, 32, most=512)
    assert loss.count <= 512
    assert axes is not None
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert result.basin_of(np.zeros((1, 3)))[0] >= 0


@pytest.mark.slow
def test_a_flow_that_leaves_is_not_called_so_for_a_small_box():
    # Downhill along an oblique valley without end.
    slope = Valley([0.0, 3.0], rotation(34), [0.0, 0.0])

    def endless(x):
        return slope(x) + torch.exp(-0.3 * (x @ slope.axes)[:, 0])

    result, axes = analyze_turning(endless, *box(2), 112, 64, most=320)
    assert result.n_attractors == 0
    if axes is not None:
        # The loss is not next to nothing there, so it has to be at the limit.
        assert result.basin_of([[0.0, 0.0]])[0] == -2
        assert np.abs(axes @ result.way_out.end).max() >= 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 2, 4])
def test_a_flow_that_seems_to_rest_beyond_the_box_is_not_said_to_leave(seed):
    loss = Separated(seed, 34)

    def regularized(x):  # a minimum near (1.8, 1.2)
        return loss(x) + 1e-4 * (x**2).sum(1)

    # With so few samples a narrow box may end before it is certain what the way leads to.
    result, axes = analyze_turning(regularized, *box(2), 112, 64, most=112)
    assert axes is not None
    assert result.basin_of([[0.0, 0.0]])[0] != -2


@pytest.mark.slow
@pytest.mark.parametrize("end", [110, 210])
def test_time_that_is_up_leaves_what_there_is(end, asked):
    loss = oblique()
    result, axes = analyze_turning(
        loss, *box(2), 112, 64, most=320, is_over=lambda: loss.count >= end
    )
    assert bool(asked) == (end > 128)
    assert loss.count <= end + 16  # a few that judge what there is
    assert len(result.samples) == loss.count
    if axes is None:
        assert result.basin_of([[0.0, 0.0]])[0] == -1
