"""What the file of an analysis holds: the one table that is checked, and printed as its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_morse.conley.reach import ESCAPES
from lightning_morse.files.schema import Member, Relation, is_acyclic

WHAT = "a Morse analysis"

# Names of sizes that follow from facts.
SIZES = {
    "axes": "dimension `d` of the box: the number of entries of `shape`",
    "cells": "number of cells of a box: the product of its `shape`",
    "vertices": "for each axis one more than the cells along it",
    "sets": "number of Morse sets",
    "attractors": "number of Morse sets that are attractors",
    "columns": "one more than the number of Morse sets: the last column is the exterior",
}

_EARLIER = "0 in older files"

LOSS_FACTS = (
    Member("kernel", "text", "name of the kernel"),
    Member("n", "integer", "samples it was fitted to", low=0),
    Member("lengthscales", "number", "in units of the box", ("axes",), low=0),
    Member("mean", "number", "prior mean of the warped loss"),
    Member("deviation", "number", "its prior deviation", low=0),
    Member("noise_deviation", "number", "deviation of the noise of a sample", low=0),
    Member("loss_origin", "number", "loss at which the warp has value 0 and slope 1"),
    Member("loss_floor", "number", "loss never reached; null without a warp", null=True),
    Member("log_evidence", "number", "log marginal likelihood"),
    Member("largest_residual", "number", "largest leave-one-out residual", low=0),
    Member(
        "largest_held_out", "number", "largest held-out error; `largest_held_back` in older files"
    ),
    Member("band_deviations", "number", "half-width of the band, in deviations", low=0),
    Member("leaves", "integer", "parts with processes; 1 in older files", low=1, needed=False),
)
MAP_FACTS = (
    Member("kernel", "text", "name of the kernel"),
    Member("n", "integer", "pairs of states it was fitted to", low=0),
    Member("n_outside", "integer", "pairs that start outside the box", low=0),
    Member("n_runs", "integer", "runs that the pairs come from", low=0),
    Member("cut_runs", "text", "runs used up to a state that is not finite", (None,)),
    Member("lag", "integer", "steps the map stands for", low=1),
    Member("lengthscales", "number", "one row per coordinate", ("axes", "axes"), low=0),
    Member("mean", "number", "prior mean of each displacement", ("axes",)),
    Member("deviation", "number", "its prior deviation", ("axes",), low=0),
    Member("noise_deviation", "number", "noise of a step", ("axes",), low=0),
    Member("noise", "text", "`mean` or `steps`: what the boxes hold"),
    Member("step_level", "number", "level at which they hold a noisy step", null=True),
    Member("factors", "number", "factor of each process's deviations", ("axes",), low=0),
    Member("band_deviations", "number", "half-width of the band, in deviations", low=0),
    Member("band_between", "number", "added between lattice points", ("axes",), low=0),
    Member("periods", "integer", "period of each Morse set", ("sets",), low=0),
    Member("unknown", "number", "share of the box of which too little is known", low=0, high=1),
    Member("leaves", "integer", "1 in older files", low=1, needed=False),
    Member("void", "number", _EARLIER, low=0, high=1, needed=False),
)

_SURROGATE = Member("surrogate", "object", "of its process; see below", null=True)
_CALIBRATION = Member("calibration", "number", "factor of the surrogate's deviations", low=0)
_SHAPE = Member("shape", "integer", "cells along each axis", ("axes",), low=1)

_CURVATURE = Member(
    "curvature",
    "object",
    "largest curvature of the loss; see `MorseAnalysis`",
    needed=False,
    parts=(
        Member("largest", "finite", "as the surrogate estimates it"),
        Member("deviation", "finite", "of the curvature in that direction", low=0),
        Member("at_least", "finite", "lower bound at the level asked for"),
    ),
)

FACTS = (
    _SHAPE,
    Member(
        "sets",
        "object",
        "the Morse sets, attractors first",
        ("sets",),
        parts=(
            Member("is_attractor", "flag", "whether it is minimal and never left"),
            Member("resolved", "flag", "whether it hides no further attractor"),
            Member("index", "integer", "Morse index", low=0, high="axes", null=True),
            Member("loss", "number", "NaN for a learnt map"),
            Member("volume", "share", "share of the box"),
            Member("mu", "finite", "its own bound", low=0, high=1, needed=False),
            Member("loss_deviation", "number", "0: measured", low=0, needed=False),
            Member("wall", "finite", "of a well", null=True, needed=False),
            _CURVATURE,
        ),
    ),
    Member("edges", "integer", "downhill, no edge twice", (None, 2), refers_to="sets"),
    Member("mu", "finite", "bound on the probability of the claim", low=0, high=1),
    Member("confidence", "finite", "the level asked for", low=0, high=1),
    _CALIBRATION,
    _SURROGATE,
    Member("seconds", "numbers by name", "wall time of each stage"),
    Member("n_measured", "integer", _EARLIER, low=0, needed=False),
    Member(
        "evidence",
        "object",
        "how far the samples bear out the model",
        needed=False,
        parts=(
            Member("n_predicted", "integer", "losses predicted before they were used", low=0),
            Member("n_places", "integer", "as how many at random places they count", low=0),
            Member("n_surprises", "integer", "those the model had excluded", low=0),
            Member("mu_model", "finite", "bound given the model", low=0, high=1),
            Member("finest", "finite", "narrowest well that would show", low=0, high=1),
            Member("kinked", "finite", "probability of kinks", low=0, high=1, needed=False),
        ),
    ),
    Member(
        "way_out",
        "object",
        "where the mean flow leaves",
        needed=False,
        parts=(
            Member("start", "finite", "the point asked about", ("axes",)),
            Member("end", "finite", "where it leaves", ("axes",)),
            Member("face", "integer", "axis, then 0 lower or 1 upper", (2,), low=0),
            Member("loss", "number", "there"),
            Member("loss_deviation", "number", "0: measured", low=0),
        ),
    ),
    _CURVATURE,
    Member(
        "inner",
        "object",
        "the boxes inside, each after the one around it",
        (None,),
        needed=False,
        parts=(
            _SHAPE,
            Member("parent", "integer", "the box around it; 0 is the outermost", low=0),
            _CALIBRATION,
            _SURROGATE,
            Member("n_samples", "integer", "losses evaluated for it", low=0),
        ),
    ),
)

BOX_ARRAYS = (
    Member("lower", "finite", "lower corner", ("axes",)),
    Member("upper", "finite", "upper corner, above it on every axis", ("axes",)),
    Member(
        "labels",
        "integer",
        "attractor of each cell, -1 undecided, -2 escapes",
        ("cells",),
        low=ESCAPES,
        refers_to="sets",
    ),
    Member(
        "diverged",
        "flag",
        "cells whose nearest loss is not finite; of a learnt map those that are unknown",
        ("cells",),
    ),
    Member("mean_loss", "number", "the surrogate's, at the vertices", ("vertices",)),
    Member("loss_deviation", "number", "its deviation there", ("vertices",), low=0, needed=False),
    Member("reach_kinds", "flag", "the distinct answers", ("kinds", "columns"), needed=False),
    Member(
        "reach_of",
        "integer",
        "the answer for each cell; with `reach_kinds`",
        ("cells",),
        refers_to="kinds",
        needed=False,
    ),
    Member(
        "reach_unknown",
        "flag",
        "whether that may be unknown cells; of a learnt map that has some",
        ("kinds",),
        needed=False,
    ),
    Member(
        "sets",
        "integer",
        "Morse set that meets each cell, -1 none; of boxes inside only",
        ("cells",),
        low=-1,
        refers_to="sets",
        needed=False,
    ),
    Member("faces", "flag", "faces it may leave through", ("cells", "axes", 2), needed=False),
)

ARRAYS = (
    Member("cell_counts", "integer", "cells of each Morse set", ("sets",), low=1),
    Member("cells", "integer", "cells of one set after another", (None,), refers_to="cells"),
    Member("centers", "number", "best estimates of critical points", ("sets", "axes")),
    Member("exit_volumes", "share", "share by face", ("axes", 2)),
    Member("samples", "finite", "where the loss was evaluated", ("samples", "axes")),
    Member("sample_losses", "number", "the losses there", ("samples",)),
    Member("ladder_levels", "finite", "levels of confidence", ("levels",), low=0, high=1),
    Member(
        "ladder_blocks",
        "integer",
        "first attractor of its block, -1 vanished",
        ("levels", "attractors"),
        low=-1,
        refers_to="attractors",
    ),
    *(m for m in BOX_ARRAYS if m.name != "sets"),
)


def _ascending(values: Any) -> bool:
    return bool((values[1:] >= values[:-1]).all())


def _cells_ascend(m: Mapping[str, Any]) -> bool:
    starts = np.zeros(len(m["cells"]) + 1, dtype=bool)
    starts[np.cumsum(m["cell_counts"])] = True
    falls = m["cells"][1:] <= m["cells"][:-1]
    return not bool((falls & ~starts[1:-1]).any()) if len(m["cells"]) else True


def _attractors_first(m: Mapping[str, Any]) -> bool:
    flags = [s["is_attractor"] for s in m["sets of facts"]]
    return flags == sorted(flags, reverse=True)


def _enough_samples(m: Mapping[str, Any]) -> bool:
    inside = sum(box["n_samples"] for box in m["inner"] or ())
    return bool(inside + (m["n_measured"] or 0) <= len(m["samples"]))


def _unknown_is_exterior(m: Mapping[str, Any]) -> bool:
    if "reach_unknown" not in m:
        return True
    return "reach_kinds" in m and not (m["reach_unknown"] & ~m["reach_kinds"][:, -1]).any()


def _has_width(m: Mapping[str, Any]) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(m["upper"] - m["lower"]).all())


def _is_way(m: Mapping[str, Any]) -> bool:
    way = m["way_out"]
    return way is None or (way["face"][0] < len(m["shape"]) and way["face"][1] <= 1)


RELATIONS = (
    Relation(
        "`cell_counts` sum to the number of `cells`",
        lambda m: sum(m["cell_counts"].tolist()) == len(m["cells"]),
    ),
    Relation("the cells of each set ascend", _cells_ascend),
    Relation(
        "the graph has no cycle and no edge twice",
        lambda m: is_acyclic(m["edges"], len(m["sets of facts"])),
    ),
    Relation("attractors come before other Morse sets", _attractors_first),
    Relation("the levels of the ladder ascend", lambda m: _ascending(m["ladder_levels"])),
    Relation("there are samples for the boxes inside and for what was measured", _enough_samples),
    Relation("the way out leads through a face", _is_way),
)
BOX_RELATIONS = (
    Relation("`lower` is below `upper`", lambda m: bool((m["lower"] < m["upper"]).all())),
    Relation("the width of the box is a number", _has_width),
    Relation(
        "labels that are not negative are those of attractors",
        lambda m: bool((m["labels"] < m["attractors"]).all()),
    ),
    Relation(
        "`reach_kinds` and `reach_of` come together",
        lambda m: ("reach_kinds" in m) == ("reach_of" in m),
    ),
    Relation(
        "`reach_unknown` comes with them, and only what may reach the exterior is unknown",
        _unknown_is_exterior,
    ),
)
# Checked where boxes are put together, see lightning_morse.result.file.
RELATIONS_OF_BOXES = (
    "what cells may reach implies their labels",
    "each box lies within its `parent`, one before it, and has as many axes",
)
