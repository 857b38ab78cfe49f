"""The file of an analysis with boxes inside: everything comes back, and damage is named."""

import dataclasses
import json
import tracemalloc
import zipfile

import numpy as np
import pytest

from lightning_morse.facts import SurrogateFacts
from lightning_morse.files.schema import DamagedFile
from lightning_morse.result import MorseAnalysis
from tests.plotting import test_basins_and_morse_graph as drawn

FACTS = SurrogateFacts(
    kernel="product Matern-7/2",
    n=36,
    lengthscales=(1.0, 2.0),
    mean=0.5,
    deviation=1.5,
    noise_deviation=0.0,
    loss_origin=0.1,
    loss_floor=None,
    log_evidence=-3.0,
    largest_residual=1.0,
    largest_held_out=0.5,
    band_deviations=4.0,
)


def tower():
    result = drawn.plane_tower()
    first, second = result.inner
    return dataclasses.replace(result, inner=(dataclasses.replace(first, surrogate=FACTS), second))


def assert_same(a, b, name):
    if dataclasses.is_dataclass(a) and not isinstance(a, SurrogateFacts):
        assert type(a) is type(b), name
        for field in dataclasses.fields(a):
            key = f"{name}.{field.name}"
            assert_same(getattr(a, field.name), getattr(b, field.name), key)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)
    else:
        assert a == b, name


def test_every_field_of_every_box_comes_back(tmp_path):
    result = tower()
    bare = dataclasses.replace(
        result.inner[1], surrogate=None, loss_deviation=None, reach=None, sets=None
    )
    result = dataclasses.replace(result, inner=(result.inner[0], bare))
    result.save(tmp_path / "tower.npz")
    back = MorseAnalysis.load(tmp_path / "tower.npz")
    assert len(back.boxes) == len(result.boxes) == 3
    for k, (a, b) in enumerate(zip(result.boxes, back.boxes, strict=True)):
        assert_same(a, b, f"box {k}")
    x = np.random.default_rng(0).uniform(-3, 3, (200, 2))
    assert np.array_equal(back.basin_of(x), result.basin_of(x))
    assert np.array_equal(back.box_at(x), result.box_at(x))
    assert back.table() == result.table()


def test_shares_are_those_of_the_finest_cells():
    result = tower()
    x = np.stack(np.meshgrid(*[(np.arange(960) + 0.5) / 960] * 2), axis=-1).reshape(-1, 2)
    low, up = result.grid.lower, result.grid.upper
    label = result.basin_of(low + x * (up - low))
    assert result.undecided == pytest.approx(np.mean(label == -1), abs=2e-3)
    assert result.escape == pytest.approx(np.mean(label == -2), abs=2e-3)
    for i, share in result.basin_volumes.items():
        assert share == pytest.approx(np.mean(label == i), abs=2e-3)
    assert result.undecided < 0.95 * np.mean(result.labels == -1)


def test_a_file_without_boxes_has_none(tmp_path):
    drawn.plane().save(tmp_path / "plane.npz")
    back = MorseAnalysis.load(tmp_path / "plane.npz")
    assert back.inner == ()
    assert len(back.boxes) == 1


BROKEN = [
    ({"box2_labels": None}, '"box 2: labels" should be .* it is missing'),
    ({"box1_lower": None}, '"box 1: lower" should be .* it is missing'),
    ({"box1_labels": lambda a: a[1:]}, r'"box 1: labels" should be integer of shape \(\d+\)'),
    ({"box1_diverged": lambda a: a[1:]}, '"box 1: diverged" should be true or false of shape'),
    ({"box2_sets": lambda a: a[1:]}, '"box 2: sets" should be integer of shape'),
    ({"box1_mean_loss": lambda a: a[1:]}, '"box 1: mean_loss" should be number of shape'),
    ({"box1_loss_deviation": lambda a: a.T[1:]}, '"box 1: loss_deviation" .* of shape'),
    ({"box1_labels": lambda a: a + 7}, '"box 1: labels" .* from -2 and below the number of sets'),
    ({"box2_sets": lambda a: a - 1}, '"box 2: sets" .* from -1 and below the number of sets'),
    ({"box2_reach_of": lambda a: a * 0}, '"box 2: labels" should be those of what its cells'),
    ({"box2_reach_of": lambda a: a + 99}, '"box 2: reach_of" .* below the number of kinds'),
    ({"box2_reach_kinds": None}, '"box 2: reach_of" should be numbers of kinds, got none'),
    ({"box2_upper": lambda a: a + 1}, '"box 2: lower" should be inside box 1'),
    ({"box1_lower": lambda a: a + 9}, "`lower` is below `upper`"),
    ({"parent": 2}, '"box 2: parent" should be the number of a box before it, got 2'),
    ({"parent": -1}, '"inner 1: parent" should be integer, at least 0, got -1'),
    ({"parent": None}, '"inner 1: parent" should be integer, at least 0, got null'),
    ({"shape": [3]}, '"inner 1: shape" should be integer of shape'),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN)
def test_a_damaged_box_is_refused(damage, message, tmp_path):
    path = tmp_path / "tower.npz"
    tower().save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    for name, change in damage.items():
        if name in ("parent", "shape"):
            facts = json.loads(arrays["facts"].tobytes())
            facts["inner"][1][name] = change
            arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
        elif change is None:
            del arrays[name]
        else:
            arrays[name] = change(arrays[name])
    np.savez(path, **arrays)
    with pytest.raises(DamagedFile, match=message) as error:
        MorseAnalysis.load(path)
    assert error.value.file == str(path)
    assert str(path) in str(error.value)


def rewritten(path, facts=None, **arrays):
    """Change facts and arrays of a file, whatever sense that makes."""
    with np.load(path) as archive:
        held = dict(archive)
    plain = json.loads(held["facts"].tobytes())
    (facts or (lambda plain: None))(plain)
    held["facts"] = np.frombuffer(json.dumps(plain).encode(), dtype=np.uint8)
    np.savez(path, **{n: arrays[n](a) if n in arrays else a for n, a in held.items()})


@pytest.mark.parametrize(
    ("facts", "arrays", "member"),
    [
        (lambda f: f.update(mu=7), {}, "mu"),
        (lambda f: f.update(mu=float("nan")), {}, "mu"),
        (lambda f: f["edges"].append([0, 99]), {}, "edges"),
        (lambda f: f["edges"].append([0]), {}, "edges"),
        (lambda f: f["sets"][0].update(index=3), {}, "sets 0: index"),
        (lambda f: f["sets"][0].update(index=True), {}, "sets 0: index"),
        (lambda f: f.update(way_out={"face": 1}), {}, "start"),
        (None, {"sample_losses": lambda a: a.astype(complex)}, "sample_losses"),
        (None, {"sample_losses": lambda a: a.astype("U5")}, "sample_losses"),
        (None, {"cell_counts": lambda a: -a}, "cell_counts"),
        (None, {"cells": lambda a: a + 10**6}, "cells"),
        (None, {"diverged": lambda a: a[:3]}, "diverged"),
        (None, {"centers": lambda a: a.T}, "centers"),
        (None, {"ladder_blocks": lambda a: a + 9}, "ladder_blocks"),
    ],
)
def test_what_cannot_be_is_refused_by_name(facts, arrays, member, tmp_path):
    path = tmp_path / "plane.npz"
    drawn.plane(8).save(path)
    rewritten(path, facts, **arrays)
    with pytest.raises(DamagedFile) as error:
        MorseAnalysis.load(path)
    assert error.value.member == member


@pytest.mark.parametrize(
    ("facts", "arrays", "says"),
    [
        (lambda f: f.update(edges=[[0, 1], [1, 2], [2, 0]]), {}, "no cycle"),
        (lambda f: f.update(edges=[[0, 1]] * 100_000), {}, "no edge twice"),
        (None, {"cells": lambda a: a[::-1]}, "cells of each set ascend"),
        (None, {"cells": lambda a: a[1:]}, "sum to the number"),
        (
            None,
            {
                "ladder_levels": lambda a: np.array([0.99, 0.95]),
                "ladder_blocks": lambda a: np.repeat(a[:1], 2, axis=0),
            },
            "levels of the ladder ascend",
        ),
        (None, {"lower": lambda a: a + 99}, "`lower` is below `upper`"),
        (lambda f: f.update(n_measured=10**6), {}, "there are samples"),
    ],
)
def test_what_contradicts_itself_is_refused(facts, arrays, says, tmp_path):
    path = tmp_path / "plane.npz"
    drawn.plane(8).save(path)
    rewritten(path, facts, **arrays)
    with pytest.raises(DamagedFile, match=says):
        MorseAnalysis.load(path)


def test_a_member_that_nobody_asked_for_stays_closed(tmp_path):
    """200 MB of zeros take 200 kB in a file; they are not unpacked."""
    path = tmp_path / "plane.npz"
    drawn.plane(8).save(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("stowaway.npy", bytes(200_000_000))
    tracemalloc.start()
    try:
        MorseAnalysis.load(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
