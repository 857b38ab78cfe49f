"""The sentence on top: results of every kind, each with the text that is expected."""

import dataclasses

import networkx as nx
import numpy as np
import pytest

from lightning_morse.analysis.sentence import sentence
from lightning_morse.analysis.verdict import Verdict
from lightning_morse.facts import Evidence, MapFacts
from lightning_morse.result import WayOut
from tests.analysis.test_verdict import ATTRACTOR, FACES, OPEN, SADDLE, inner_box, made

AXES = ["PC 1 (88 % of the trajectory)"]
BOTH = np.ones((8, 1, 2), dtype=bool)


def of(sets, reached, leaves=False, *, edges=(), losses=None, measured=True, samples=1, **changes):
    """A result of eight cells with the losses of its sets, measured or not."""
    options = {
        k: changes.pop(k) for k in ("calibration", "inner", "faces", "diverged") if k in changes
    }
    result = made(sets, reached, leaves, **options)
    losses = [m.loss for m in result.morse_sets] if losses is None else losses
    found = tuple(
        dataclasses.replace(m, loss=loss, loss_deviation=0.0 if measured else 0.1)
        for m, loss in zip(result.morse_sets, losses, strict=True)
    )
    graph = nx.DiGraph(edges)
    graph.add_nodes_from(range(len(sets)))
    points = np.zeros((samples, 1))
    return dataclasses.replace(
        result,
        morse_sets=found,
        graph=graph,
        samples=points,
        **{"sample_losses": np.ones(samples), **changes},
    )


def learnt(result):
    """The same of a map learnt from runs, which knows of no losses."""
    facts = object.__new__(MapFacts)
    sets = [dataclasses.replace(m, loss=np.nan, loss_deviation=None) for m in result.morse_sets]
    return dataclasses.replace(result, surrogate=facts, morse_sets=tuple(sets))


def unknown(result):
    """The same where all that may leave may come to unknown cells."""
    reach = result.reach.coming_to_unknown(np.ones(8, dtype=bool))
    labels = reach.labels(result.attractors)
    return dataclasses.replace(result, reach=reach, labels=labels)


def way(loss=0.31, deviation=0.0):
    return WayOut(np.array([6.5]), np.array([8.0]), (0, 1), loss, deviation)


VALLEY = {"sets": [ATTRACTOR, SADDLE], "reached": [0], "edges": [(1, 0)]}
TWO = {"sets": [ATTRACTOR, ATTRACTOR, SADDLE], "edges": [(2, 0), (2, 1)]}
STOP = (
    "Next to nothing is left to gain in this slice: stop, or lower the learning rate if the loss "
    "still jumps."
)
ROUGH = (
    "the loss is too rough here for the model fitted to it. More probe batches (probe_batches) may "
    "smooth it; more samples alone may not help."
)
IN = {"point": [6.5], "axes": AXES}

CASES = {
    # In a basin.
    "in a basin": (
        of(**VALLEY, losses=[0.12, 1.52]),
        {**IN, "loss_now": 0.133},
        "Certainly in the basin of attractor 0: 0.013 above its floor of 0.12, "
        "barrier at least 1.4. " + STOP,
    ),
    "in a basin for some time": (
        of(**VALLEY, losses=[0.12, 1.52]),
        {**IN, "loss_now": 0.42, "since": 1140},
        "Certainly in the basin of attractor 0, as in all decided analyses since step 1,140: 0.3 "
        "above its floor of 0.12, barrier at least 1.4.",
    ),
    "still to gain": (
        of(**VALLEY, losses=[0.12, 1.52]),
        {**IN, "loss_now": 0.42},
        "Certainly in the basin of attractor 0: 0.3 above its floor of 0.12, barrier at least 1.4.",
    ),
    "above the way out": (
        of(**TWO, reached=[0], losses=[0.12, 0.2, 0.22]),
        {**IN, "loss_now": 0.5},
        "Certainly in the basin of attractor 0: 0.38 above its floor of 0.12, barrier 0.1. That is "
        "higher than the way out: training may still leave. Go on.",
    ),
    "a way out that is not resolved": (
        of([ATTRACTOR, OPEN], [0], edges=[(1, 0)], losses=[0.12, 0.22]),
        {**IN, "loss_now": 0.5},
        "Certainly in the basin of attractor 0: 0.38 above its floor of 0.12, barrier perhaps 0.1.",
    ),
    "above what the way out is at least": (
        of(**VALLEY, losses=[0.12, 0.22]),
        {**IN, "loss_now": 0.5},
        "Certainly in the basin of attractor 0: 0.38 above its floor of 0.12, barrier at least "
        "0.1.",
    ),
    "at the floor": (
        of(**VALLEY, losses=[0.12, 1.52]),
        {**IN, "loss_now": 0.12},
        f"Certainly in the basin of attractor 0: at its floor, loss 0.12, "
        f"barrier at least 1.4. {STOP}",
    ),
    "lower than the floor that was found": (
        of(**VALLEY, losses=[0.12, 1.52]),
        {**IN, "loss_now": 0.1},
        f"Certainly in the basin of attractor 0: at its floor, loss 0.1, "
        f"barrier at least 1.4. {STOP}",
    ),
    "no way out": (
        of([ATTRACTOR], [0], losses=[0.12]),
        {**IN, "loss_now": 0.42},
        "Certainly in the basin of attractor 0: 0.3 above its floor of 0.12, no pass out of it in "
        "this box.",
    ),
    "no way out, nearly at the floor of a high box": (
        dataclasses.replace(
            of([ATTRACTOR], [0], losses=[0.12], samples=4),
            sample_losses=np.array([0.12, 1.2, np.inf, 40.0]),
        ),
        {**IN, "loss_now": 0.13},
        "Certainly in the basin of attractor 0: 0.01 above its floor of 0.12, no pass out of it in "
        f"this box. {STOP}",
    ),
    "no way out, at the floor": (
        of([ATTRACTOR], [0], losses=[0.12]),
        {**IN, "loss_now": 0.12},
        "Certainly in the basin of attractor 0: at its floor, loss 0.12, no pass out of it in this "
        f"box. {STOP}",
    ),
    "barrier not known": (
        of(**VALLEY, losses=[0.12, 0.1]),
        {**IN, "loss_now": 0.42},
        "Certainly in the basin of attractor 0: 0.3 above its floor of 0.12, barrier not known.",
    ),
    "losses not measured": (
        of(**VALLEY, losses=[0.12, 1.52], measured=False),
        {**IN, "loss_now": 0.42},
        "Certainly in the basin of attractor 0: 0.3 above its floor of about 0.12, "
        "barrier at least 1.4.",
    ),
    "loss now not known": (
        of(**VALLEY, losses=[0.12, 1.52]),
        IN,
        "Certainly in the basin of attractor 0: floor at loss 0.12, barrier at least 1.4.",
    ),
    "loss now not finite": (
        of(**VALLEY, losses=[0.12, 1.52]),
        {**IN, "loss_now": np.nan},
        "Certainly in the basin of attractor 0: floor at loss 0.12, barrier at least 1.4.",
    ),
    "loss of the attractor not known": (
        of(**VALLEY, losses=[np.nan, 1.0]),
        {**IN, "loss_now": 0.3},
        "Certainly in the basin of attractor 0.",
    ),
    "in the basin of another": (
        of(**TWO, reached=[1], losses=[0.1, 0.2, 1.2]),
        {**IN, "loss_now": 0.5},
        "Certainly in the basin of attractor 1: 0.3 above its floor of 0.2, barrier 1.",
    ),
    "in a basin of a box of which nearly all is undecided": (
        of(
            [ATTRACTOR, ATTRACTOR],
            [0, 1],
            losses=[0.12, 0.5],
            samples=64,
            labels=np.full(8, -1, np.int32),
            inner=(
                dataclasses.replace(
                    inner_box(1.0, [0] * 4), labels=np.array([0, -1, -1, -1], np.int32)
                ),
            ),
        ),
        {"point": [2.1], "loss_now": 0.42},
        "Certainly in the basin of attractor 0: 0.3 above its floor of 0.12, no pass out of it in "
        "this box. Nearly all of the box is undecided otherwise; 128 samples may tell more "
        "(n_samples=128).",
    ),
    "in a basin of a learnt map": (
        learnt(of(**VALLEY)),
        IN,
        "Certainly in the basin of attractor 0.",
    ),
    # On the way out.
    "descending": (
        of([], [], True, faces=FACES, way_out=way()),
        {**IN, "loss_now": 0.52, "reach": 0.5},
        "Still descending: leaves through PC 1 (upper) at loss 0.31, now 0.52, and settles "
        "nowhere on "
        "the way, 3 times as far as training came. Go on training.",
    ),
    "descending, the loss there not measured": (
        of([], [], True, faces=FACES, way_out=way(0.25, 0.01)),
        IN,
        "Still descending: leaves through PC 1 (upper) at loss about 0.25, and settles "
        "nowhere on the "
        "way. Go on training.",
    ),
    "descending to where the mean is below zero, as no loss is": (
        of([], [], True, faces=FACES, way_out=way(-1.6e-9, 0.01)),
        IN,
        "Still descending: leaves through PC 1 (upper) at loss about 0, and settles nowhere on the "
        "way. Go on training.",
    ),
    "descending to below zero, where losses are": (
        of([], [], True, faces=FACES, way_out=way(-1.6e-9, 0.01), sample_losses=-np.ones(1)),
        IN,
        "Still descending: leaves through PC 1 (upper) at loss about -1.6e-09, and settles nowhere "
        "on the way. Go on training.",
    ),
    "descending, another point was asked about": (
        of([], [], True, faces=FACES, way_out=way()),
        {"point": [1.5], "loss_now": 0.52},
        "Still descending: leaves through axis 0 (upper), now 0.52, and settles nowhere on "
        "the way. "
        "Go on training.",
    ),
    "descending through one of two faces": (
        of([], [], True, faces=BOTH),
        {"point": [1.5], "axes": ["a"]},
        "Still descending: leaves through a (lower) or a (upper), and settles nowhere on the way. "
        "Go on training.",
    ),
    "descending through any of four faces": (
        of([], [], True, faces=np.ones((8, 2, 2), dtype=bool)),
        {"point": [1.5]},
        "Still descending: leaves the box, and settles nowhere on the way. Go on training.",
    ),
    "descending, an older file": (
        of([], [], True),
        {"point": [1.5]},
        "Still descending: leaves the box, and settles nowhere on the way. Go on training.",
    ),
    "descending, training has only begun": (
        of([], [], True, faces=FACES, way_out=way()),
        {**IN, "reach": 0.0},
        "Still descending: leaves through PC 1 (upper) at loss 0.31, and settles nowhere on "
        "the way. "
        "Go on training.",
    ),
    "descending, next to nothing left": (
        of([], [], True, faces=FACES, way_out=way(1e-6)),
        {**IN, "loss_now": 9e-4, "reach": 0.5, "loss_before": 1.2},
        "Still descending: leaves through PC 1 (upper) at loss 1e-06, now 0.0009, and settles "
        "nowhere on the way, 3 times as far as training came. Unless the loss can be negative, "
        "next to nothing is left to gain: it is 0.0009, and was 1.2 where training began.",
    ),
    "a learnt map leaves": (
        learnt(of([], [], True, faces=FACES)),
        IN,
        "Still moving: leaves through PC 1 (upper), and settles nowhere on the way. Go on "
        "training.",
    ),
    # Undecided.
    "between two": (
        of(**TWO, reached=[0, 1], samples=128),
        IN,
        "Undecided: 128 samples cannot tell whether it settles in sets 0 or 1. 256 samples may "
        "(n_samples=256).",
    ),
    "between three": (
        of(**TWO, reached=[0, 1, 2], samples=160),
        IN,
        "Undecided: 160 samples cannot tell whether it settles in sets 0, 1 or 2. 320 samples may "
        "(n_samples=320).",
    ),
    "at rest on a pass, maybe": (
        of([SADDLE], [0], samples=64),
        IN,
        "Undecided: 64 samples cannot tell whether it settles in set 0. 128 samples may "
        "(n_samples=128).",
    ),
    "a set that may hide a minimum": (
        of([ATTRACTOR, OPEN], [0, 1], samples=128),
        IN,
        "Undecided: it may settle in set 1, and 128 samples cannot tell whether it holds a "
        "minimum. "
        "256 samples may (n_samples=256).",
    ),
    "samples that there was no time for": (
        of([ATTRACTOR, OPEN], [0, 1], samples=40),
        {**IN, "time_was_up": True},
        "Undecided: it may settle in set 1, and 40 samples cannot tell whether it holds a minimum. "
        "More time for its samples may (a larger max_overhead).",
    ),
    "two such sets": (
        of([ATTRACTOR, OPEN, OPEN], [0, 1, 2], samples=128),
        IN,
        "Undecided: it may settle in sets 1 or 2, and 128 samples cannot tell whether each holds a "
        "minimum. 256 samples may (n_samples=256).",
    ),
    "five such sets": (
        of([OPEN] * 5, range(5), True, samples=512),
        IN,
        "Undecided: it may settle in one of 5 sets, and 512 samples cannot tell whether each "
        "holds a "
        "minimum. 1024 samples may (n_samples=1024).",
    ),
    "at the edge": (
        of([ATTRACTOR], [0], True, faces=FACES),
        IN,
        "Undecided: at the edge of the box, it may leave through PC 1 (upper) or settle in "
        "set 0. A "
        "larger box (extent) may tell.",
    ),
    "at the edge, an older file": (
        of([ATTRACTOR], [0], True),
        IN,
        "Undecided: at the edge of the box, it may leave or settle in set 0. A larger box (extent) "
        "may tell.",
    ),
    "refuted": (of(**TWO, reached=[0, 1], calibration=2.0), IN, f"Undecided: {ROUGH}"),
    "refuted, where lower losses were seen": (
        of(**TWO, reached=[0, 1], calibration=2.0),
        {**IN, "loss_now": 1.25},
        f"Undecided: {ROUGH} The lowest loss seen here is 1; at the weights it is 1.25.",
    ),
    "undecided hardly above the lowest loss": (
        of(**TWO, reached=[0, 1], calibration=2.0),
        {**IN, "loss_now": 1.0001},
        f"Undecided: {ROUGH} No loss seen here is lower than that at the weights, 1.",
    ),
    "undecided for kinks": (
        of([ATTRACTOR, OPEN], [1], samples=128, evidence=Evidence(60, 58, 0, 0.99, 0.1, 0.8)),
        IN,
        "Undecided: it may settle in set 1, and 128 samples cannot tell whether it holds a "
        "minimum. The loss seems to have kinks, where minima cannot be counted; more probe "
        "batches (probe_batches) may smooth it.",
    ),
    "undecided at the lowest loss": (
        of(**TWO, reached=[0, 1], samples=128),
        {**IN, "loss_now": 0.9},
        "Undecided: 128 samples cannot tell whether it settles in sets 0 or 1. 256 samples may "
        "(n_samples=256). No loss seen here is lower than that at the weights, 0.9.",
    ),
    "a learnt map, refuted": (
        learnt(of(**TWO, reached=[0, 1], calibration=2.0)),
        IN,
        "Undecided: the runs contradict the model fitted to them. More recorded runs may help.",
    ),
    "a learnt map, undecided": (
        learnt(of(**TWO, reached=[0, 1])),
        IN,
        "Undecided: the runs cannot tell whether it settles in sets 0 or 1. More recorded "
        "runs may.",
    ),
    "undecided, an older file": (
        of(**TWO, reached=[0, 1], reach=None),
        IN,
        "Undecided; a file of this age does not say why.",
    ),
    # Elsewhere.
    "outside": (
        of(**VALLEY),
        {"point": [9.0]},
        "Outside the box, where nothing is known. A larger box (extent) would hold it.",
    ),
    "on the way to where it diverged": (
        of([], [], leaves=True, faces=np.zeros((8, 1, 2), dtype=bool)),
        {**IN, "loss_now": 2.55},
        "Still descending: comes to where the loss diverged (infinite, NaN or an error) or next to "
        "it, now 2.55. Look for what diverges there.",
    ),
    "a box that holds nothing but where it diverged": (
        of([], [], leaves=True, diverged=True),
        {},
        "No attractor: 100 % leaves it or comes to where the loss diverged, 0 % is undecided. A "
        "larger box may hold one.",
    ),
    "diverged": (
        of(**TWO, reached=[0, 1], diverged=True),
        IN,
        "The loss diverged here or next to it: infinite, NaN or an error. Lower the learning rate, "
        "and look for what diverges.",
    ),
    "a learnt map that may come to where the runs say too little": (
        unknown(learnt(of(**TWO, reached=[0, 1], leaves=True))),
        IN,
        "Undecided: it may come to where the runs say too little, or settle in sets 0 or 1. More "
        "recorded runs may.",
    ),
    "a learnt map, too few runs": (
        learnt(of(**TWO, reached=[0, 1], diverged=True)),
        IN,
        "The runs say too little here. More recorded runs may help.",
    ),
    # Without weights: about the box.
    "a box with one attractor": (
        of(**VALLEY),
        {},
        "100 % of the box certainly leads to attractor 0, 0 % leaves it, 0 % is undecided.",
    ),
    "a box with more, half of it decided": (
        of(**TWO, reached=[0], labels=np.array([0, 0, 1, 1, -1, -1, -2, -2], np.int32)),
        {},
        "50 % of the box certainly leads to one of 2 attractors, 25 % leaves it, 25 % is "
        "undecided.",
    ),
    "a box in which more may hide": (
        of([ATTRACTOR, OPEN], [0], samples=128),
        {},
        "100 % of the box certainly leads to attractor 0, 0 % leaves it, 0 % is undecided. 1 place "
        "may hide a further minimum. 256 samples may (n_samples=256).",
    ),
    "a box all hatched": (
        of([OPEN, OPEN], [0, 1], samples=128),
        {},
        "No certain attractor: 128 samples cannot tell whether 2 places hold minima. 256 "
        "samples may "
        "(n_samples=256).",
    ),
    "a box all hatched by one place": (
        of([OPEN], [0], samples=16),
        {},
        "No certain attractor: 16 samples cannot tell whether one place holds a minimum. 32 "
        "samples "
        "may (n_samples=32).",
    ),
    "a box that is left": (
        of([], [], True),
        {},
        "No attractor: everything leaves the box. A larger box may hold one.",
    ),
    "a box that is left from most places": (
        of([SADDLE], [0], True, labels=np.array([-2] * 6 + [-1] * 2, np.int32)),
        {},
        "No attractor: 75 % leaves it, 25 % is undecided. A larger box may hold one.",
    ),
    "a box too rough": (
        of(**TWO, reached=[0], calibration=3.0),
        {},
        f"Nothing is certain: {ROUGH}",
    ),
    "a box of a learnt map that is unknown": (
        unknown(learnt(of([], [], leaves=True, diverged=True))),
        {},
        "No certain attractor: the runs say too little anywhere. More recorded runs may.",
    ),
    "a box of a learnt map with an attractor": (
        learnt(of([OPEN | ATTRACTOR | {"resolved": False}], [0])),
        {},
        "100 % of the box certainly leads to attractor 0, 0 % leaves it, 0 % is undecided. 1 place "
        "may hide a further attractor. More recorded runs may.",
    ),
    "a box of a learnt map, all hatched": (
        learnt(of([OPEN, OPEN], [0, 1])),
        {},
        "No certain attractor: the runs cannot tell whether 2 places hold attractors. More "
        "recorded runs may.",
    ),
}


@pytest.mark.parametrize(("result", "given", "said"), CASES.values(), ids=CASES)
def test_what_is_said(result, given, said):
    assert sentence(result, **given) == said


@pytest.mark.parametrize(
    ("now", "before", "lowest", "is_said"),
    [
        (9e-4, 1.0, 0.0, True),
        (0.0, 1.0, 0.0, True),
        (2e-3, 1.0, 0.0, False),
        (9e-4, None, 0.0, False),
        (9e-4, np.nan, 0.0, False),
        (9e-4, 1.0, -1e-9, False),
    ],
)
def test_where_next_to_nothing_is_left_that_is_said_of_what_is_undecided(
    now, before, lowest, is_said
):
    """Not where a loss has been seen that is negative."""
    result = of([OPEN], [0], samples=2)
    result = dataclasses.replace(result, sample_losses=np.array([lowest, 1.0]))
    said = sentence(result, **{**IN, "loss_now": now}, loss_before=before)
    why = "Undecided: it may settle in set 0, and 2 samples cannot tell whether it holds a minimum."
    assert said.startswith(why)
    assert ("next to nothing is left" in said) == is_said
    assert ("4 samples may" in said) != is_said  # nobody needs to know more


def test_there_are_forty_kinds():
    assert len(CASES) >= 40


def test_a_point_of_another_dimension_is_refused():
    with pytest.raises(ValueError, match="shape"):
        sentence(of(**VALLEY), [1.0, 2.0])


@pytest.mark.parametrize(("kind", "reason"), [("descends", None), ("undecided", "edge")])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_faces_are_named_only_where_few_are_possible(kind, reason, n, monkeypatch):
    faces = ((0, 1), (1, 0), (1, 1), (0, 0))[:n]
    found = Verdict(kind, faces=faces, reason=reason, sets=(0,))
    monkeypatch.setattr("lightning_morse.analysis.sentence.verdict", lambda *_: found)
    said = sentence(of([ATTRACTOR], [0], True), [0.5], ["PC 1", "PC 2"])
    assert ("PC 1 (upper)" in said) == ("through" in said) == (n <= 2)
