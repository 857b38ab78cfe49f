"""The course of a run says what its records say, in few numbers, also of those that are older."""

import json

import pytest

from lightning_morse.view.course import course_of
from lightning_morse.view.encoding import encode
from lightning_morse.view.record import decode, summary
from tests.plotting import test_basins_and_morse_graph as drawn


def at(step, **options):
    return encode(drawn.plane(16), step=step, **options)


def test_columns_and_the_last_step():
    result = drawn.plane(16)
    now = result.samples[0]  # a loss is known of samples only
    steps = [summary(decode(at(3, current=now))), summary(decode(at(8)))]
    course = course_of(steps)
    assert course["step"] == [3, 8]
    basin = int(result.basin_of(now[None])[0])
    floor = result.morse_sets[basin].loss if basin >= 0 else None
    assert course["loss"] == [pytest.approx(result.sample_losses[0], rel=1e-4), None]
    assert course["floor"] == [floor and pytest.approx(floor, rel=1e-4), None]
    assert course["last"] == {k: v for k, v in steps[1].items() if k != "basins"}


def test_floor_and_barrier_are_those_of_the_basin_that_holds_the_weights():
    result = drawn.plane(32)
    for number in result.attractors:
        center = result.morse_sets[number].center
        found = summary(decode(at(0, current=center)))
        assert result.basin_of(center[None])[0] == number
        assert found["floor"] == result.morse_sets[number].loss
        assert found["barrier"] == result.barrier(number)
    undecided = result.grid.cell_centers()[result.labels == -1][0]
    found = summary(decode(at(0, current=undecided)))
    assert (found["floor"], found["barrier"]) == (None, None)
    outside = summary(decode(at(0, current=[99.0, 0.0])))
    assert (outside["floor"], outside["barrier"]) == (None, None)


def test_what_cannot_be_read_is_a_gap():
    good, broken = summary(decode(at(3))), {"step": 5, "error": "cut off"}
    course = course_of([good, broken])
    assert course["step"] == [3, 5]
    assert course["last"]["step"] == 3
    assert course_of([broken])["last"] is None
    assert course_of([])["step"] == []


def test_a_record_with_an_older_summary_is_read():
    raw = json.loads(at(3, current=[-1.5, -0.8]))
    for name in ("claim", "bound", "loss", "floor", "barrier", "switches", "forks"):
        del raw["summary"][name]
    for name in ("basin_floor", "barrier"):
        del raw["facts"][name]
    record = decode(json.dumps(raw))
    assert (summary(record)["floor"], summary(record)["barrier"]) == (None, None)
    assert course_of([raw["summary"]])["loss"] == [None]


def test_switches_are_those_of_the_monitor_whatever_its_name():
    scalars = {"morse_random/basin_switches": 2.0, "morse_random/basin_forks": 1.0}
    counted = decode(at(3, scalars=scalars))
    assert summary(counted)["switches"] == 2.0
    assert summary(counted)["forks"] == 1.0
    assert json.loads(counted.text)["summary"]["switches"] == 2.0
    assert summary(decode(at(3)))["switches"] is None
