"""Scalars: bare names inside, finite from the start, the prefix where they are published."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest

from lightning_morse.monitoring.scalars import (
    UNKNOWN,
    from_checkpoint,
    published,
    readings,
)
from lightning_morse.monitoring.snapshot_map import before_first
from lightning_morse.result import Curvature
from tests.callback_models import one_attractor

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def result():
    return one_attractor(lambda x: x.square().sum(1), None, [-1, -1], [1, 1], None, 4, 24, 0.95, 0)


def test_the_page_explains_each_of_them():
    rows = re.findall(r"^\| (`.+?) \| ", PAGE.read_text(encoding="utf-8"), re.M)
    explained = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(set(explained)) == len(explained)
    assert set(explained) == {*UNKNOWN, *before_first("trajectory"), "age"}


@pytest.mark.parametrize("dynamics", ["gradient", "trajectory", "both"])
def test_names_are_bare_and_first_values_finite(dynamics):
    scalars = {**UNKNOWN, **before_first(dynamics)}
    assert not [name for name in scalars if "/" in name]
    assert all(map(math.isfinite, scalars.values()))


def test_readings_at_the_attractor(result):
    found = readings(result, np.zeros(2), 0.5)
    assert set(found) <= set(UNKNOWN)
    assert found["basin_current"] == 0
    assert found["barrier"] == 0.375
    assert found["headroom"] == 0.375
    assert found["mu_current"] == found["mu_smallest"] == 0.97


def test_readings_outside_every_basin(result):
    found = readings(result, np.array([5.0, 0.0]), 0.5)
    assert found["basin_current"] == -2
    assert found["barrier"] == found["headroom"] == found["mu_current"] == 0


@pytest.mark.parametrize(("face", "number"), [(None, -1), ((0, 0), 0), ((0, 1), 1), ((2, 1), 5)])
def test_the_face_through_which_they_leave_has_a_number(result, face, number):
    assert readings(result, np.array([5.0, 0.0]), 0.5, face)["exit_face"] == number


def test_headroom_is_not_negative_and_never_above_the_loss(result):
    """The centre of an attractor is an estimate: the weights may have come lower."""
    assert readings(result, np.zeros(2), 0.1)["headroom"] == 0
    assert 0 < readings(result, np.zeros(2), 0.2)["headroom"] <= 0.2


def test_sharpness_is_what_is_certain_of_curvatures(result):
    bowl = dataclasses.replace(result.morse_sets[0], curvature=Curvature(3.0, 0.5, 2.0))
    others = result.morse_sets[1:]
    known = dataclasses.replace(
        result, morse_sets=(bowl, *others), curvature=Curvature(1.0, 1.0, -0.5)
    )
    found = readings(known, np.zeros(2), 0.5)
    assert (found["sharpness"], found["sharpness_attractor"]) == (0, 2)
    found = readings(known, np.array([5.0, 0.0]), 0.5)  # in no basin
    assert found["sharpness_attractor"] == 0
    known = dataclasses.replace(known, curvature=Curvature(1.0, 0.1, 0.75))
    assert readings(known, np.zeros(2), 0.5)["sharpness"] == 0.75
    assert readings(result, np.zeros(2), 0.5)["sharpness"] == 0  # nothing is known


def test_what_is_not_finite_counts_as_unknown(result):
    found = readings(dataclasses.replace(result, calibration=math.inf), np.zeros(2), math.nan)
    assert found["calibration"] == found["headroom"] == 0


def test_the_prefix_is_the_name_of_the_monitor():
    assert published("second", {"mu": 0.5}) == {"second/mu": 0.5}


def test_old_checkpoints_have_the_prefix_inside():
    old = published("morse", UNKNOWN)
    assert from_checkpoint(old) == from_checkpoint(UNKNOWN) == UNKNOWN
