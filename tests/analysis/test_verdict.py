"""What becomes of a point: what is certain agrees with the true flow, and why is said otherwise."""

import dataclasses

import networkx as nx
import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse.analysis.pipeline import analyze_from
from lightning_morse.analysis.sentence import sentence
from lightning_morse.analysis.verdict import verdict
from lightning_morse.conley.reach import Reach
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.result import Box, Ladder, MorseAnalysis, MorseSet, WayOut
from tests import landscapes as land


def slope(x):
    """Downhill towards the lower face of the first axis, in a valley along it."""
    return 3 + x[:, 0] + x[:, 1] ** 2


def slope_gradient(x):
    return np.stack([np.ones(len(x)), 2 * x[:, 1]], axis=1)


def hill_gradient(x):
    return -2 * x


@pytest.fixture(scope="module")
def leaving():
    """Asked about a point that leaves the box, and the larger one around it."""
    return analyze_from(
        slope, [0.2, 0.1], [-1, -1], [1, 1], ([-3, -3], [3, 3]), n_samples=48, resolution=32
    )


def test_a_point_in_a_basin():
    result = analyze_from(land.double_well, [0.4], [-2], [2], n_samples=32, resolution=64)
    found = verdict(result, [0.4])
    assert (found.kind, found.face, found.distance) == ("basin", None, None)
    m = result.morse_sets[found.attractor]
    assert m.center == pytest.approx([1], abs=0.05)
    assert (found.loss, found.loss_deviation) == (m.loss, 0)


def test_a_point_that_leaves_says_where_at_what_loss_and_how_far(leaving):
    found = verdict(leaving, [0.2, 0.1])
    assert found.kind == "descends"
    assert found.face == (0, 0)
    assert (0, 0) in found.faces
    assert found.way.end[0] == leaving.grid.lower[0] < -1  # the box has grown
    assert found.loss == slope(torch.tensor(found.way.end[None])).item()
    assert found.loss_deviation == 0
    assert found.distance == pytest.approx(np.linalg.norm(found.way.end - [0.2, 0.1]))
    half = 0.5 * (leaving.grid.upper - leaving.grid.lower)[0]
    assert found.half_widths == pytest.approx((0.2 - found.way.end[0]) / half)


def test_of_other_points_only_what_is_certain_is_said(leaving):
    found = verdict(leaving, [0.1, 0.1])
    assert (found.kind, found.way, found.loss) == ("descends", None, None)
    assert (0, 0) in found.faces


@pytest.mark.parametrize("gradient", [slope_gradient, hill_gradient])
def test_the_true_flow_leaves_through_a_face_that_is_named(gradient, leaving):
    if gradient is hill_gradient:
        result = lm.analyze(land.hill, [-1, -1], [1, 1], n_samples=48, resolution=32)
    else:
        result = leaving
        assert len(result.boxes) > 1  # faces of the outermost box, also from cells inside
    grid, rng, seen = result.grid, np.random.default_rng(0), set()
    starts = rng.uniform(0.99 * grid.lower, 0.99 * grid.upper, (60, 2))
    for start in starts[result.basin_of(starts) == -2]:
        x = start.copy()
        for _ in range(5000):
            slope_here = gradient(x[None])[0]
            x = x - 0.01 * slope_here / np.abs(slope_here).max()
            if grid.cell_of(x[None])[0] < 0:
                break
        beyond = np.stack([grid.lower - x, x - grid.upper], axis=1)
        face = tuple(int(i) for i in np.unravel_index(beyond.argmax(), beyond.shape))
        found = verdict(result, start)
        assert found.kind == "descends"
        assert face in found.faces
        seen.add(face)
    assert len(seen) == (4 if gradient is hill_gradient else 1)


# ------------------------------------------------------------------ why it is undecided

ATTRACTOR = {"is_attractor": True, "resolved": True, "index": 0}
SADDLE = {"is_attractor": False, "resolved": True, "index": 1}
OPEN = {"is_attractor": False, "resolved": False, "index": None}
SEVERAL = {"is_attractor": True, "resolved": False, "index": None}  # it may hold further minima


def made(sets, reached, leaves, *, calibration=1.0, inner=(), faces=None, diverged=False):
    """Eight cells on [0, 8], all of which may reach the given sets; set i is in cell i."""
    grid = CubicalGrid([0.0], [8.0], (8,))
    kinds = np.zeros((1, len(sets) + 1), dtype=bool)
    kinds[0, list(reached)] = True
    kinds[0, -1] = leaves
    reach = Reach(kinds, np.zeros(8, dtype=np.int32))
    attractors = [i for i, m in enumerate(sets) if m["is_attractor"]]
    return MorseAnalysis(
        grid=grid,
        morse_sets=tuple(
            MorseSet(np.array([i]), center=np.array([i + 0.5]), loss=float(i), volume=1 / 8, **m)
            for i, m in enumerate(sets)
        ),
        graph=nx.empty_graph(len(sets), nx.DiGraph),
        labels=reach.labels(attractors),
        diverged=np.full(8, diverged),
        exit_volumes=np.zeros((1, 2)),
        mu=0.95,
        confidence=0.95,
        mean_loss=np.ones(9),
        samples=np.zeros((1, 1)),
        sample_losses=np.ones(1),
        calibration=calibration,
        surrogate=None,
        seconds={},
        ladder=Ladder(np.array([0.95]), np.arange(len(attractors))[None]),
        reach=reach,
        inner=inner,
        faces=faces,
    )


def inner_box(calibration, sets):
    """A box on [2, 4], whose four cells may leave or reach set 0, and meet the given sets."""
    reach = Reach(np.array([[True, True]]), np.zeros(4, dtype=np.int32))
    return Box(
        grid=CubicalGrid([2.0], [4.0], (4,)),
        parent=0,
        labels=reach.labels([]),
        diverged=np.zeros(4, dtype=bool),
        mean_loss=np.ones(5),
        calibration=calibration,
        surrogate=None,
        reach=reach,
        sets=np.array(sets, dtype=np.int32),
    )


FACES = np.zeros((8, 1, 2), dtype=bool)
FACES[:, 0, 1] = True


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (made([ATTRACTOR, ATTRACTOR, SADDLE], [0, 1, 2], False), "band"),
        (made([SADDLE], [0], False), "band"),
        (made([ATTRACTOR], [0], True, faces=FACES), "edge"),
        (made([SEVERAL], [0], True, faces=FACES), "edge"),
        (made([SEVERAL, SADDLE], [0, 1], False), "band"),
        (made([ATTRACTOR, OPEN], [0, 1], True), "unresolved"),
        (made([OPEN] * 5, range(5), True), "unresolved"),
        (made([ATTRACTOR, ATTRACTOR], [0, 1], False, calibration=2.0), "refuted"),
    ],
)
def test_why_it_is_undecided(result, reason):
    found = verdict(result, [6.5])
    assert (found.kind, found.reason, found.face) == ("undecided", reason, None)


@pytest.mark.parametrize(
    ("sets", "calibration", "reason"),
    [
        ([0, 0, 0, 0], 2.0, "refuted"),  # the set is inside, where the surrogate is refuted
        ([-1, -1, -1, -1], 2.0, "unresolved"),  # it is elsewhere
        ([0, 0, 0, 0], 1.9, "unresolved"),
    ],
)
def test_a_refuted_box_inside_is_the_reason_if_it_holds_the_set(sets, calibration, reason):
    result = made([OPEN], [0], True, inner=(inner_box(calibration, sets),))
    assert verdict(result, [6.5]).reason == reason
    inside = verdict(result, [2.5])
    assert inside.reason == ("refuted" if calibration >= 2 else "unresolved")


def test_outside_diverged_and_unknown():
    plain = made([ATTRACTOR, ATTRACTOR], [0, 1], False)
    assert verdict(plain, [9.0]).kind == "outside"
    lost = made([ATTRACTOR, ATTRACTOR], [0, 1], False, diverged=True)
    assert verdict(lost, [1.5]).kind == "diverged"
    object.__setattr__(plain, "reach", None)  # an older file
    assert (verdict(plain, [1.5]).kind, verdict(plain, [1.5]).reason) == ("undecided", "unknown")
    with pytest.raises(ValueError, match="shape"):
        verdict(plain, [1.0, 2.0])


def test_a_way_that_contradicts_what_is_certain_is_not_told():
    result = made([], [], True, faces=FACES)
    way = WayOut(np.array([6.5]), np.array([0.0]), (0, 0), 0.1, 0.0)
    object.__setattr__(result, "way_out", way)
    found = verdict(result, [6.5])
    assert (found.face, found.loss) == ((0, 1), None)


def test_a_file_keeps_it(leaving, tmp_path):
    leaving.save(tmp_path / "a.npz")
    back = lm.MorseAnalysis.load(tmp_path / "a.npz")
    point = [0.2, 0.1]
    assert sentence(back, point, loss_now=3.2) == sentence(leaving, point, loss_now=3.2)
    assert verdict(back, point).faces == verdict(leaving, point).faces
    assert [b.n_samples for b in back.boxes] == [b.n_samples for b in leaving.boxes]
    assert sum(b.n_samples for b in back.boxes) + back.n_measured == len(back.samples)
    with np.load(tmp_path / "a.npz") as archive:
        whole = dict(archive)
    np.savez(tmp_path / "b.npz", **(whole | {"faces": whole["faces"][1:]}))
    with pytest.raises(ValueError, match='"faces" should be true or false of shape'):
        lm.MorseAnalysis.load(tmp_path / "b.npz")


def within(sets, diverged=False):
    box = inner_box(1.0, sets)
    return dataclasses.replace(box, diverged=np.full(4, diverged))


def test_an_undecided_point_certainly_leaves_a_box_in_which_nothing_awaits_it():
    # Set 0 lies in the first cell of the outermost box; the box inside holds none of its cells.
    result = made([OPEN], [0], True, inner=(within([-1] * 4),))
    found = verdict(result, [2.75])
    assert (found.kind, found.goes) == ("undecided", 0.75)
    said = sentence(result, [2.75], ["PC 1"], 1.0, 0.5)
    assert said.startswith(
        "Certainly goes on descending at first, at least 1.5 times as far as training has come; "
        "where it ends is undecided: it may settle in set 0"
    )
    # A bound is rounded down: this is 0.75 / 0.4703 = 1.5947.
    assert "at least 1.5 times" in sentence(result, [2.75], ["PC 1"], 1.0, 0.4703)
    # Not worth a word beside how far training came.
    assert sentence(result, [2.75], ["PC 1"], 1.0, 50.0).startswith("Undecided: ")


@pytest.mark.parametrize("inner", [within([-1, -1, 0, -1]), within([-1] * 4, diverged=True)])
def test_it_may_stay_where_a_set_awaits_it_or_nothing_is_known(inner):
    assert verdict(made([OPEN], [0], True, inner=(inner,)), [2.75]).goes is None


def test_of_boxes_inside_boxes_the_largest_that_is_left_counts():
    innermost = dataclasses.replace(
        inner_box(1.0, [-1] * 4), grid=CubicalGrid([2.5], [3.0], (4,)), parent=1
    )
    result = made([OPEN], [0], True, inner=(within([-1] * 4), innermost))
    assert verdict(result, [2.75]).goes == 0.75
    # A set in the outer of the two, or in a box inside it, is met before that one is left.
    result = made([OPEN], [0], True, inner=(within([0, -1, -1, -1]), innermost))
    assert verdict(result, [2.75]).goes == 0.25
    holds = dataclasses.replace(innermost, sets=np.array([0, -1, -1, -1], dtype=np.int32))
    assert verdict(made([OPEN], [0], True, inner=(within([-1] * 4), holds)), [2.75]).goes is None
