"""Training held against the flow of its slice, where the answer is known."""

import dataclasses

import numpy as np
import pytest

import lightning_morse as lm
from lightning_morse.monitoring import flow_check as module
from lightning_morse.monitoring.flow_check import UNKNOWN, flow_check

CURVATURES = np.array([1.0, 0.2])


@pytest.fixture(scope="module")
def bowl():
    """The loss (x^2 + 0.2 y^2) / 2: its flow is x e^-t, y e^-0.2t."""

    def loss(x):
        return 0.5 * (x**2 * x.new_tensor(CURVATURES)).sum(1)

    return lm.analyze(loss, [-2, -2], [2, 2], n_samples=64, resolution=64)


def flow(start, times):
    return np.asarray(start) * np.exp(-np.outer(times, CURVATURES))


def test_the_flow_itself_agrees(bowl):
    times = np.linspace(0, 6, 13)
    found = flow_check(bowl, flow([1.5, -1.0], times), times)
    assert found.angle == pytest.approx(0, abs=0.01)
    assert found.length == pytest.approx(1, abs=0.01)
    assert found.n_pairs == 12


def test_twice_as_fast_is_twice_as_long(bowl):
    times = np.linspace(0, 0.1, 5)
    found = flow_check(bowl, flow([1.5, -1.0], 2 * times), times)
    assert found.angle == pytest.approx(0, abs=0.02)
    assert found.length == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("turn", [0.3, 1.2, np.pi])
def test_a_turned_displacement_is_off_by_its_angle(bowl, turn):
    step = 0.05
    start = np.array([1.0, -1.0])
    along = flow(start, [step])[0] - start
    c, s = np.cos(turn), np.sin(turn)
    states = np.stack([start, start + np.array([[c, -s], [s, c]]) @ along])
    found = flow_check(bowl, states, [0.0, step])
    assert found.angle == pytest.approx(turn, abs=0.02)
    assert found.length == pytest.approx(1, abs=0.02)


def test_long_displacements_weigh_more(bowl):
    start = np.array([1.0, 0.0])
    states = np.array([start, 0.5 * start, 0.6 * start])  # down by 0.5, then back up by 0.1
    found = flow_check(bowl, states, [0.0, 0.7, 0.8])
    assert found.angle == pytest.approx(np.pi / 6, abs=0.02)
    assert found.n_pairs == 2


def test_what_cannot_be_compared_is_left_out(bowl):
    inside = flow([1.5, -1.0], np.linspace(0, 1, 3))
    states = np.concatenate([[[5.0, 0.0]], inside, inside[-1:], [[np.nan, 0.0]]])
    times = np.array([0.0, 1.0, 1.5, 2.0, 2.5, 3.0])
    found = flow_check(bowl, states, times)
    assert found.n_pairs == 2
    assert found.angle == pytest.approx(0, abs=0.01)
    for unknown in (
        flow_check(bowl, states, np.full(6, np.nan)),
        flow_check(bowl, states[:1], times[:1]),
        flow_check(bowl, states + 10, times),
    ):
        assert (unknown.angle, unknown.length, unknown.n_pairs) == (UNKNOWN, UNKNOWN, 0)


def test_a_flow_that_leaves_the_box_does_not_count():
    ridge = lm.analyze(lambda x: -x[:, 0], [-1], [1], n_samples=32, resolution=16)
    assert flow_check(ridge, [[0.0], [0.5]], [0.0, 0.5]).n_pairs == 1
    assert flow_check(ridge, [[0.0], [0.5]], [0.0, 2.0]).n_pairs == 0


def test_no_loss_no_flow(bowl):
    empty = dataclasses.replace(bowl, mean_loss=np.full_like(bowl.mean_loss, np.nan))
    assert flow_check(empty, [[1.0, 0.0], [0.5, 0.0]], [0.0, 1.0]).n_pairs == 0


def test_a_stiff_valley_is_followed_to_its_floor():
    """Curvatures 1 and 400, and a time of 50: explicit steps would need thousands."""
    steep = lm.analyze(lambda x: 0.5 * x[:, 0] ** 2 + 200 * x[:, 1] ** 2, [-2, -2], [2, 2], 64, 64)
    found = flow_check(steep, [[1.5, 1.0], [0.0, 0.0]], [0.0, 50.0])
    assert found.angle == pytest.approx(0, abs=0.05)
    assert found.length == pytest.approx(1, abs=0.05)


def test_where_the_integrator_gives_up_nothing_is_compared(bowl, monkeypatch):
    monkeypatch.setattr(module, "_MOST_STEPS", 1)
    found = flow_check(bowl, [[1.0, 0.5], [0.5, 0.2]], [0.0, 1.0])
    assert (found.angle, found.length, found.n_pairs) == (UNKNOWN, UNKNOWN, 0)


@pytest.mark.parametrize(
    ("states", "times"), [([[0.0]], [0.0]), ([0.0, 0.0], [0.0]), ([[0.0, 0.0]], [0.0, 1.0])]
)
def test_shapes_that_do_not_fit_are_refused(bowl, states, times):
    with pytest.raises(ValueError, match=r"shapes \(T, 2\) and \(T,\)"):
        flow_check(bowl, states, times)
