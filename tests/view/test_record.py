"""The record of a view says what the analysis says, is small, and broken ones are refused."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from lightning_morse.analysis.sentence import sentence
from lightning_morse.conley.basins import escaping_volumes
from lightning_morse.conley.reach import ESCAPES, Reach
from lightning_morse.files.schema import DamagedFile
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.nested import NestedGrid
from lightning_morse.plotting.style import attractor_colors
from lightning_morse.result import MorseAnalysis
from lightning_morse.view import record as view_record
from lightning_morse.view.encoding import encode
from lightning_morse.view.packing import MAX_CELLS
from lightning_morse.view.record import decode, summary
from tests.plotting import test_basins_and_morse_graph as drawn
from tests.towers import with_boxes

OPTIONAL = {"deviation", "reach", "summary"}
LANDSCAPES = {
    "plane": drawn.plane,
    "line": drawn.line,
    "solid": drawn.double_well,
    "crowd": lambda: drawn.crowd(60),
    "nothing": drawn.nothing,
    "ladder": drawn.three,
    "plane_tower": drawn.plane_tower,
    "line_tower": drawn.line_tower,
    "solid_tower": drawn.solid_tower,
}


@pytest.mark.parametrize("name", LANDSCAPES)
def test_round_trip(name):
    result = LANDSCAPES[name]()
    d = result.grid.dim
    path = np.linspace(-1, 1, 5 * d).reshape(5, d)
    back = decode(encode(result, step=7, epoch=2, trajectory=path, current=path[-1]))
    assert (back.step, back.epoch, back.shape) == (7, 2, result.grid.shape)
    assert np.array_equal(back.labels, result.labels)
    assert np.array_equal(back.diverged, result.diverged)
    for i, m in enumerate(result.morse_sets):
        if name != "crowd":  # its sets overlap, as components never do
            assert np.array_equal(np.flatnonzero(back.owner == i), m.cells)
        assert back.sets[i]["attractor"] == m.is_attractor
        assert back.sets[i]["index"] == m.index
        assert back.sets[i]["color"] == attractor_colors(result).get(i)
        assert back.sets[i]["basin"] == result.basin_volumes.get(i)
    assert set(back.edges) == set(result.graph.edges)
    assert np.array_equal(back.ladder_levels, result.ladder.levels)
    if result.n_attractors:
        assert np.array_equal(back.ladder_blocks, result.ladder.blocks)
    np.testing.assert_allclose(back.trajectory, path, rtol=1e-5)
    np.testing.assert_allclose(back.current, path[-1], rtol=1e-5)
    assert back.facts["mu"] == result.mu
    assert back.facts["claim"] == result.claim
    assert len(back.inner) == len(result.inner)
    for box, inner in zip(result.inner, back.inner, strict=True):
        assert inner.shape == box.grid.shape
        assert np.array_equal(inner.lower, box.grid.lower)
        assert np.array_equal(inner.upper, box.grid.upper)
        assert np.array_equal(inner.labels, box.labels)
        assert np.array_equal(inner.owner, box.sets)
        assert np.array_equal(inner.diverged, box.diverged)
        assert np.array_equal(inner.reach.of, box.reach.of)
        np.testing.assert_allclose(inner.loss, box.mean_loss, rtol=1e-3, atol=1e-4)
        ratio = inner.deviation / np.maximum(box.loss_deviation, 1e-6 * box.loss_deviation.max())
        assert 1 - 1e-9 <= ratio.min() <= ratio.max() <= 1.06


def test_the_loss_is_kept_where_it_matters():
    result = drawn.plane(80)
    back = decode(encode(result))
    assert back.loss.shape == (81, 81)
    np.testing.assert_allclose(back.loss, result.mean_loss, rtol=2e-4)
    fine = decode(encode(drawn.plane(160)))
    assert fine.loss.shape == (81, 81)
    np.testing.assert_allclose(fine.loss, drawn.plane(160).mean_loss[::2, ::2], rtol=2e-4)


def test_a_loss_that_is_not_finite_stays_so():
    result = drawn.plane(16)
    result.mean_loss[3, 4] = np.inf
    back = decode(encode(result))
    assert np.isnan(back.loss[3, 4])
    assert np.isnan(back.loss).sum() == 1


def test_a_large_analysis_stays_small():
    for result in (drawn.plane(256), drawn.ring(12)):
        assert len(encode(result, trajectory=np.zeros((200, 2)))) < 150_000


def test_boxes_inside_take_little():
    boxes = [((-1.0, -2.0), (1.0, 0.0), 0, 64), ((-0.3, -1.6), (0.3, -1.1), 1, 64)]
    rough = with_boxes(
        drawn.plane(128),
        boxes,
        lambda x: drawn.nearest(x, drawn.WELLS, 0.1, 2.1),
        lambda p: np.exp(np.sin(9 * p).sum(-1)),
    )
    alone = len(encode(drawn.plane(128)))
    assert alone < len(encode(rough)) < alone + 2 * 25_000


def test_a_record_of_version_1_has_no_boxes_inside():
    raw = json.loads(encode(drawn.plane_tower(16)))
    del raw["inner"]
    back = decode(json.dumps({**raw, "version": 1}))
    assert back.inner == ()


def test_a_box_that_knows_less_is_shown_with_less():
    result = drawn.plane_tower(16)
    bare = dataclasses.replace(result.inner[1], loss_deviation=None, reach=None, sets=None)
    back = decode(encode(dataclasses.replace(result, inner=(result.inner[0], bare))))
    assert back.inner[1].deviation is back.inner[1].reach is None
    assert (back.inner[1].owner == -1).all()


def changed_box(**changes):
    raw = json.loads(encode(drawn.plane_tower(16)))
    raw["inner"][1].update(changes)
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed_box(labels=[0, 3]), r'"box 2 inside: labels" .* cover \d+ cells, got 3'),
        (changed_box(owner=[7, 1]), '"box 2 inside: owner" .* cover'),
        (changed_box(lower=[-9, -2]), 'box 2 inside: corners" should be inside the whole box'),
        (changed_box(lower=[9, 0]), 'box 2 inside: lower" should be below "upper"'),
        (changed_box(shape=[4096, 4096]), "of at most 16777216 cells in all boxes"),
        (changed_box(shape=[4096, 4097]), "of at most 16777216 cells"),
        (changed_box(shape=[3]), 'lower" should be finite number of shape'),
        (changed_box(levels=["x"]), 'levels" should be finite number, n, got'),
        (changed_box(loss={"shape": [1, 2]}), 'loss shape" should'),
        (changed_box(reach={"kinds": ["ff"], "of": [0, 1]}), 'of" .* cover'),
        (changed_box(diverged=None), 'diverged" should be runs'),
    ],
)
def test_broken_boxes_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        decode(text)


@pytest.mark.parametrize("inner", [3, "x", {}, [3], [{}], [None]])
def test_what_are_no_boxes_is_refused(inner):
    with pytest.raises(ValueError, match="broken view record"):
        decode(changed(inner=inner))


def test_what_the_cells_may_reach_is_exact_and_the_deviation_rounded_up():
    for make in LANDSCAPES.values():
        result = make()
        back = decode(encode(result))
        assert np.array_equal(back.reach.kinds, result.reach.kinds)
        assert np.array_equal(back.reach.of, result.reach.of)
    result = drawn.plane(80)
    ratio = decode(encode(result)).deviation / result.loss_deviation
    assert ratio.min() >= 1 - 1e-12
    assert ratio.max() <= 1.056


def test_deviations_of_any_size():
    result = drawn.plane(8)
    wide = result.loss_deviation
    wide[...] = 10.0 ** np.linspace(-12, 3, wide.size).reshape(wide.shape)
    wide[2, 3] = np.inf
    back = decode(encode(result)).deviation
    assert np.isnan(back[2, 3])
    assert np.isnan(back).sum() == 1
    wide[2, 3] = back[2, 3] = 1
    assert (back >= wide * (1 - 1e-12)).all()
    assert (back <= np.maximum(1.056 * wide, 1.056e-6 * wide.max())).all()
    for value in (0.0, 0.25, np.nan):
        wide[...] = value
        np.testing.assert_allclose(decode(encode(result)).deviation, wide, rtol=1e-12)


def test_what_an_analysis_does_not_have_a_record_lacks():
    older = dataclasses.replace(drawn.plane(8), loss_deviation=None, reach=None)
    text = encode(older)
    assert not {"deviation", "reach"} & set(json.loads(text))
    assert decode(text).deviation is None
    assert decode(text).reach is None


def test_a_reach_that_takes_too_much_is_left_out():
    result = drawn.plane(256)
    rng = np.random.default_rng(0)
    kinds = np.concatenate([np.eye(8, dtype=bool), np.ones((2, 8), dtype=bool)])
    kinds[9, 0] = False
    of = np.where(result.labels == -2, 7, result.labels)
    of[result.labels == -1] = rng.integers(8, 10, (result.labels == -1).sum())
    noisy = dataclasses.replace(result, reach=Reach(kinds, of))
    text = encode(noisy)
    assert len(text) < 150_000
    assert np.array_equal(decode(text).reach.of, of)
    labels = np.full(of.size, -1)
    of = rng.integers(8, 10, of.size)
    noisiest = dataclasses.replace(result, labels=labels, reach=Reach(kinds, of))
    text = encode(noisiest)
    assert len(text) < 150_000
    assert decode(text).reach is None


def test_the_verdict_is_kept_or_made():
    said = "In the basin of attractor 0."
    assert decode(encode(drawn.line(), verdict=said)).facts["verdict"] == said
    assert decode(encode(drawn.line())).facts["verdict"] == sentence(drawn.line())
    result, now = drawn.plane(), np.array([-1.5, -0.8])
    made = decode(encode(result, current=now, trajectory=[now - 1], axis_labels=["a", "b"]))
    assert made.facts["verdict"] == sentence(result, now, ["a", "b"], None, np.sqrt(2))
    raw = json.loads(encode(drawn.line()))
    del raw["facts"]["verdict"]  # an older record
    assert "verdict" not in decode(json.dumps(raw)).facts


def test_scalars_that_are_not_numbers_are_left_out():
    back = decode(encode(drawn.line(), scalars={"mu": 0.5, "bad": np.nan, "where": "x"}))
    assert back.scalars == {"mu": 0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trajectory": np.zeros((3, 2))}, r"trajectory must have shape \(T, 1\), got \(3, 2\)"),
        ({"current": [np.nan]}, "current must be 1 finite numbers"),
        ({"axis_labels": ["a", "b"]}, "axis_labels must be 1 labels"),
    ],
)
def test_what_does_not_fit_the_box_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        encode(drawn.line(), **options)


def test_more_than_three_axes_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="1, 2 or 3 axes, but the analysis has 4"):
        encode(drawn.double_well(4, 4))
    monkeypatch.setattr("lightning_morse.view.encoding.MAX_CELLS", 10)
    with pytest.raises(ValueError, match="at most 10 cells, but the analysis has 64"):
        encode(drawn.line())


def test_the_loss_now_is_that_of_the_centre_and_of_no_other_point():
    result = drawn.plane(8)
    at = [decode(encode(result, current=p)).facts["loss_now"] for p in ([0, 0], [0.1, 0])]
    assert at == [result.sample_losses[0], None]


def test_the_loss_now_is_found_where_the_box_has_grown():
    """The weights are the centre of a box inside then, and not the first sample."""
    result = drawn.plane_tower(16)
    at = result.samples[7]
    assert decode(encode(result, current=at)).facts["loss_now"] == result.sample_losses[7]


def test_summary():
    result = drawn.plane(32)
    found = summary(decode(encode(result, step=3, epoch=1)))
    assert (found["step"], found["epoch"], found["attractors"]) == (3, 1, 3)
    assert found["unresolved"] == result.n_unresolved == 1
    assert [b["volume"] for b in found["basins"]] == list(result.basin_volumes.values())
    total = sum(b["volume"] for b in found["basins"]) + found["escape"] + found["undecided"]
    assert total == pytest.approx(1)


def test_identities_decide_the_colours_and_older_records_have_none():
    result = drawn.plane(8)
    back = decode(encode(result, identities={0: 5, 1: 0, 2: 3}))
    assert back.identities == (5, 0, 3)
    expected = list(attractor_colors(result, {0: 5, 1: 0, 2: 3}).values())
    assert [m["color"] for m in back.sets if m["attractor"]] == expected
    assert [(b["identity"], b["color"]) for b in summary(back)["basins"]] == [
        *zip((5, 0, 3), expected, strict=True)
    ]
    older = decode(encode(result))
    assert "identities" not in json.loads(older.text)
    assert older.identities is None
    assert [b["identity"] for b in summary(older)["basins"]] == [0, 1, 2]


@pytest.mark.parametrize(
    "identities", [[], [0, 1], [0, 1, 1], [0, 1, -1], [0, 1, 2.0], [0, 1, "2"]]
)
def test_identities_that_are_none_are_refused(identities):
    with pytest.raises(ValueError, match='broken view record: "identities" should be '):
        decode(changed(identities=identities))


def changed(**changes):
    raw = json.loads(encode(drawn.plane(8)))
    raw.update(changes)
    return json.dumps(raw)


def changed_set(**changes):
    sets = json.loads(encode(drawn.plane(8)))["sets"]
    sets[0].update(changes)
    return changed(sets=sets)


def changed_part(part, **changes):
    return changed(**{part: {**json.loads(encode(drawn.plane(8)))[part], **changes}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a view record: .* not cut off"),
        ("[" * 100_000, "not a view record: .* not cut off"),
        (b"\xff\xfe", "should be UTF-8"),
        ("[]", '"format" should be'),
        (changed(format="other"), '"format" should be'),
        (changed(version=3), r"at most 2 \(update lightning_morse to read newer ones\), got 3"),
        (changed(version="1"), '"version" should be a number'),
        (changed(shape=[4096, 4097]), f'"shape" should be of at most {MAX_CELLS} cells'),
        (changed(shape=[8, -8]), '"shape"'),
        (changed(shape=8), '"shape" should be integer, axes'),
        (changed(lower=[9, 9]), '"lower" should be below "upper"'),
        (changed(lower=[0]), r'"lower" should be finite number of shape \(2\), got shape \(1,\)'),
        (changed(lower=["x", 1]), '"lower" should be finite number, axes, got'),
        (changed(labels=[0, 63]), '"labels" should be runs .* cover 64 cells, got 63'),
        (changed(labels=[0, 10**15]), '"labels" should be runs .* cover 64 cells'),
        (changed(labels=[0, 65, 0, -1]), "positive length"),
        (changed(labels=[9, 64]), r'"labels" should be between -2 and 6, got \[9\]'),
        (changed(labels=[0]), '"labels" should be pairs of integers'),
        (changed(owner=[0.5, 64]), '"owner" should be pairs'),
        (changed(edges=[[0, 7]]), '"edges"'),
        (
            changed(edges=[[0]]),
            r'"edges" .* shape \(any, 2\), got shape \(1, 1\)',
        ),
        (changed(edges=[[0, 1], [0, 1]]), '"edges" should be acyclic'),
        (changed(edges=[[0, 1], [1, 0]]), '"edges" should be acyclic'),
        (changed(edges=[[0, 1]] * 100_000), '"edges" should be acyclic'),
        (changed(unknown=[1.0, float("nan")]), "finite numbers only, got NaN"),
        (changed(unknown=float("-inf")), "finite numbers only, got -Infinity"),
        (changed(axes=["x"]), r'"axes" should be text of shape \(2\), got shape \(1,\)'),
        (changed(step="1"), '"step"'),
        (changed(epoch="1"), '"epoch"'),
        (changed(title=1), '"title"'),
        (changed(scalars={"a": "b"}), '"scalars" should be finite numbers by name'),
        (
            changed(trajectory=[[1, 2, 3]]),
            r'"trajectory" .* shape \(any, 2\)',
        ),
        (changed(current=[1]), r'"current" should be finite number of shape \(2\)'),
        (changed(ladder={"levels": [0.95]}), '"blocks" should be .* it is missing'),
        (
            changed(ladder={"levels": [0.95], "blocks": [[0]]}),
            r'"blocks" .* shape \(1, 3\), got shape \(1, 1\)',
        ),
        (changed(sets=[1]), '"sets 0: it" should be an object'),
        (changed_set(color="red"), '"color of set 0" should be such as #0072B2'),
        (changed_set(color=None), '"color of set 0"'),
        (
            changed_set(index=3),
            '"sets 0: index" .* at most axes.* got 3',
        ),
        (changed_set(attractor=1), '"sets 0: attractor" should be true or false, got 1'),
        (changed_set(volume=None), '"sets 0: volume" should be share'),
        (changed_set(mu=7), '"sets 0: mu" should be finite number, at least 0, at most 1'),
        (changed_set(mu=-0.1), '"sets 0: mu" should be finite number, at least 0, at most 1'),
        (changed_set(basin=None), '"basin of set 0"'),
        (changed_set(center=[1]), r'"sets 0: center" should be finite number of shape \(2\)'),
        (changed_part("facts", mu="x"), '"mu" should be finite number'),
        (changed_part("facts", mu=7), '"mu" should be finite number, at least 0, at most 1'),
        (changed_part("summary", mu=0.5), '"summary" should be that of the record'),
        (changed_part("facts", claim=1), '"claim"'),
        (changed_part("facts", verdict=1), '"verdict"'),
        (changed_part("facts", loss_now="x"), '"loss_now"'),
        (changed_part("loss", data="AAAA"), '"loss" should be .* characters .*AAAA'),
        (changed_part("loss", shape=[4096, 4097]), '"loss shape" should be smaller'),
        (changed_part("loss", shape=[9]), '"loss shape"'),
        (changed_part("loss", scale=0), '"loss" should be scaled by positive'),
        (changed_part("loss", low=None), '"loss" should be three numbers'),
        (changed_part("loss", data="*" * 216), "not a view record: .* base64"),
        (changed_part("deviation", data="AAAA"), '"deviation" should be .* characters .*AAAA'),
        (changed_part("deviation", low=-1), '"deviation" should be on a scale'),
        (changed_part("deviation", top=1e3), '"deviation" should be on a scale'),
        (changed_part("deviation", low=None), '"deviation" should be two numbers'),
        (changed(deviation=[1]), "broken view record"),
        (changed_part("reach", of=[0, 63]), '"of" should be runs .* cover 64 cells, got 63'),
        (changed_part("reach", of=[9999, 64]), '"of" should be between 0 and'),
        (changed_part("reach", of=[0, 64]), '"reach" should be what the labels say'),
        (changed_part("reach", kinds=[]), '"kinds of reach" should be masks of 2 hex'),
        (changed_part("reach", kinds=["0"]), '"kinds of reach" should be masks of 2 hex'),
        (changed_part("reach", kinds=["0g"]), '"kinds of reach" should be masks of 2 hex'),
        (changed_part("reach", kinds=["00"] * 65), '"kinds of reach"'),
        (changed(reach={"of": [0, 64]}), '"kinds" should be there, got nothing'),
    ],
)
def test_broken_records_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        decode(text)


def test_every_cut_is_noticed():
    text = encode(drawn.plane(8))
    for end in range(0, len(text), 97):
        with pytest.raises(ValueError, match="view record"):
            decode(text[:end])


@pytest.mark.parametrize("name", sorted({*json.loads(encode(drawn.plane(4)))} - OPTIONAL))
def test_what_is_missing_is_named(name):
    raw = json.loads(encode(drawn.plane(8)))
    del raw[name]
    with pytest.raises(ValueError, match=name):
        decode(json.dumps(raw))


def test_a_huge_text_is_not_even_parsed(monkeypatch):
    monkeypatch.setattr(view_record, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="at most 100 bytes"):
        decode(encode(drawn.line()))


def test_reading_needs_no_torch_and_no_drawing():
    code = (
        "import sys\n"
        "for name in ('torch', 'lightning', 'pytorch_lightning', 'matplotlib', 'networkx'):\n"
        "    sys.modules[name] = None\n"
        "import lightning_morse.view.record as v\n"
        "v.decode(sys.stdin.read())"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, input=encode(drawn.plane(8)), text=True
    )


def everything_escapes():
    """Boxes inside boxes of which every cell leaves, through one face; volumes sum to over 1."""
    outer = dataclasses.replace(
        drawn.nothing(),
        grid=CubicalGrid([-1.1, -2.3], [1.6, 0.9], (9, 9)),
        labels=np.full(81, ESCAPES, dtype=np.int32),
        mean_loss=np.ones((10, 10)),
        loss_deviation=None,
        diverged=np.zeros(81, dtype=bool),
        morse_sets=(),
    )
    boxes = [((-0.8, -2.0), (1.0, 0.2), 0, 96), ((-0.5, -1.6), (0.3, -0.3), 1, 96)]
    result = with_boxes(
        outer, boxes, lambda x: np.full(len(x), ESCAPES), lambda p: np.ones(p.shape[:-1])
    )
    nested = NestedGrid(tuple(b.grid for b in result.boxes), tuple(b.parent for b in result.boxes))
    through = np.zeros((nested.size, 2, 2), dtype=bool)
    through[:, 0, 0] = True
    labels = np.full(nested.size, ESCAPES, dtype=np.int32)
    exits = escaping_volumes(through, labels, volumes=nested.volumes)
    return dataclasses.replace(result, exit_volumes=exits)


def test_where_everything_escapes_record_and_file_are_read_again(tmp_path):
    result = everything_escapes()
    assert result.escape == 1
    assert decode(encode(result)).exits.tolist() == [[1, 0], [0, 0]]
    result.save(tmp_path / "a.npz")
    assert MorseAnalysis.load(tmp_path / "a.npz").exit_volumes.tolist() == [[1, 0], [0, 0]]


def test_a_share_that_rounding_has_put_outside_is_read_as_none_or_all(tmp_path):
    """As earlier versions wrote it; more than rounding is damage."""
    result = drawn.plane(16)
    wrong = dataclasses.replace(result, exit_volumes=np.array([[1 + 1.4e-13, -1e-15], [0, 0.5]]))
    assert decode(encode(wrong)).exits.tolist() == [[1, 0], [0, 0.5]]
    wrong.save(tmp_path / "a.npz")
    back = MorseAnalysis.load(tmp_path / "a.npz")
    assert back.exit_volumes.tolist() == [[1, 0], [0, 0.5]]
    raw = json.loads(encode(result))
    raw["facts"]["escape"] = raw["summary"]["escape"] = 1 + 1.4e-13
    raw["sets"][0]["volume"] = 1 + 1e-12
    text = json.dumps(raw, separators=(",", ":"))
    assert decode(text).facts["escape"] == decode(text).sets[0]["volume"] == 1
    assert view_record.read_summary(text.encode(), b"}")["escape"] == 1
    damaged = dataclasses.replace(result, exit_volumes=np.array([[1 + 1e-6, 0], [0, 0]]))
    with pytest.raises(DamagedFile, match='"exits" should be share from 0 to 1'):
        decode(encode(damaged))
    damaged.save(tmp_path / "a.npz")
    with pytest.raises(DamagedFile, match='"exit_volumes" should be share from 0 to 1'):
        MorseAnalysis.load(tmp_path / "a.npz")
