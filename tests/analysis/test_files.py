"""The file of an analysis with boxes inside: everything comes back, and damage is named."""

import dataclasses
import json

import numpy as np
import pytest

from lightning_morse.facts import SurrogateFacts
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
    ({"box2_labels": None}, "of box 2: 'labels' is missing"),
    ({"box1_lower": None}, "of box 1: 'lower' is missing"),
    ({"box1_labels": lambda a: a[1:]}, r"of box 1: labels should have shape \(\d+,\), not"),
    ({"box1_diverged": lambda a: a[1:]}, "of box 1: diverged should have shape"),
    ({"box2_sets": lambda a: a[1:]}, "of box 2: sets should have shape"),
    ({"box1_mean_loss": lambda a: a[1:]}, "of box 1: mean_loss should have shape"),
    ({"box1_loss_deviation": lambda a: a.T[1:]}, "of box 1: loss_deviation should have shape"),
    ({"box1_labels": lambda a: a + 7}, "of box 1: labels should lie between -2 and 6"),
    ({"box2_sets": lambda a: a - 1}, "of box 2: sets should lie between -1 and 6"),
    ({"box2_reach_of": lambda a: a * 0}, "of box 2: its labels are not those of what"),
    ({"box2_reach_of": lambda a: a + 99}, "of box 2: of must name rows of kinds"),
    ({"box2_reach_kinds": None}, "of box 2: 'reach_kinds' is missing"),
    ({"box2_upper": lambda a: a + 1}, "of box 2: it is not inside box 1"),
    ({"box1_lower": lambda a: a + 9}, "of box 1: lower must be below upper"),
    ({"parent": 2}, "of box 2: 2 is not the number of a box before it"),
    ({"parent": -1}, "of box 2: -1 is not the number of a box before it"),
    ({"parent": None}, "of box 2: None is not the number of a box before it"),
    ({"shape": [3]}, "of box 2: shape must give one positive integer for each"),
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
    with pytest.raises(ValueError, match=message) as error:
        MorseAnalysis.load(path)
    assert str(path) in str(error.value)
