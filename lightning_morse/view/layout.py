"""What a record of a view holds: the one table that is checked, and printed as its page."""

from __future__ import annotations

from lightning_morse.files.schema import Member

WHAT = "a view record"

# Names of sizes that follow from others.
SIZES = {
    "axes": "dimension `d` of the box, 1 to 3",
    "sets": "number of Morse sets",
    "attractors": "number of Morse sets that are attractors",
    "levels": "levels of confidence of the ladder",
}

_STEP = Member("step", "integer", "step of training")
_EPOCH = Member("epoch", "integer", "epoch of training", null=True)
_MU = Member("mu", "finite", "bound on the probability of the claim", low=0, high=1)
_ESCAPE = Member("escape", "share", "share of the box that leaves it")
_CLAIM, _BOUND = "about the number of attractors", "`mu` in words"
_LOSS = "loss of the current weights"
_FLOOR = "at the minimum of their basin; null where none certainly holds them"
_BARRIER = "rise in loss up to the lowest saddle of that basin; null if there is none"
_SWITCHES = "how often training has certainly changed basins; null outside of training"
_FORKS = "how often two basins have been found where there was one; null outside of training"
_UNDECIDED = Member("undecided", "share", "share that is undecided")

# At the head of the text, so that runs can be listed without the rest being read.
SUMMARY = Member(
    "summary",
    "object",
    "what lists of records show, drawn from what follows",
    needed=False,
    parts=(
        _STEP,
        _EPOCH,
        Member("attractors", "integer", "their number", low=0),
        Member("unresolved", "integer", "Morse sets that are", low=0),
        _MU,
        _ESCAPE,
        _UNDECIDED,
        Member("claim", "text", _CLAIM, needed=False),
        Member("bound", "text", _BOUND, needed=False),
        Member("loss", "finite", _LOSS, null=True, needed=False),
        Member("floor", "finite", _FLOOR, null=True, needed=False),
        Member("barrier", "finite", _BARRIER, null=True, needed=False),
        Member("switches", "finite", _SWITCHES, null=True, needed=False),
        Member("forks", "finite", _FORKS, null=True, needed=False),
        Member(
            "basins",
            "object",
            "one for each attractor",
            (None,),
            parts=(
                Member("volume", "share", "share of the box"),
                Member("color", "text", "such as #0072B2"),
                Member("identity", "integer", "the same in all records of a run", low=0),
            ),
        ),
    ),
)

BOX = (
    Member("shape", "integer", "cells along each axis", ("axes",), low=1),
    Member("lower", "finite", "lower corner", ("axes",)),
    Member("upper", "finite", "upper corner, above it on every axis", ("axes",)),
    Member("labels", "runs", "attractor of each cell, -1 undecided, -2 escapes"),
    Member("owner", "runs", "Morse set of each cell, -1 none"),
    Member("diverged", "runs", "1 where the nearest loss is not finite, or a map is unknown"),
    Member("loss", "packed", "on a lattice, 16 bits a value, scaled by `low`, `scale`, `top`"),
    Member("levels", "finite", "losses at which contours are drawn", (None,)),
    Member("deviation", "packed", "of the loss, 8 bits a value", needed=False),
    Member(
        "reach",
        "packed",
        "`kinds`: masks of sets; `of`: runs of masks; `unknown`: masks for unknown cells, of a map",
        needed=False,
    ),
)

SETS = Member(
    "sets",
    "object",
    "the Morse sets",
    ("sets",),
    parts=(
        Member("attractor", "flag", "whether it is one"),
        Member("resolved", "flag", "whether it hides no further attractor"),
        Member("index", "integer", "Morse index", low=0, high="axes", null=True),
        Member("center", "finite", "its critical point", ("axes",)),
        Member("loss", "finite", "there", null=True),
        Member("volume", "share", "share of the box"),
        Member("mu", "finite", "its own bound", low=0, high=1, null=True),
        Member("bound", "text", "that in words", needed=False),
        Member("basin", "share", "of an attractor: share of the box", null=True),
        Member("color", "text", "of an attractor: such as #0072B2", null=True),
    ),
)

# In an order in which sizes are known where they are needed: BOX and SETS come first.
REST = (
    _STEP,
    _EPOCH,
    Member("title", "text", "a line of description"),
    Member("axes", "text", "one label per axis", ("axes",)),
    Member("edges", "integer", "downhill, no edge twice, no cycle", (None, 2), refers_to="sets"),
    Member(
        "ladder",
        "object",
        "the attractors over confidence",
        parts=(
            Member("levels", "finite", "levels of confidence", ("levels",), low=0, high=1),
            Member(
                "blocks",
                "integer",
                "first attractor of its block, -1 vanished",
                ("levels", "attractors"),
                low=-1,
                refers_to="attractors",
            ),
        ),
    ),
    Member("exits", "share", "share of the box by face", ("axes", 2)),
    Member(
        "facts",
        "object",
        "of the analysis as a whole",
        parts=(
            Member("claim", "text", _CLAIM),
            _MU,
            Member("confidence", "finite", "the level asked for", low=0, high=1),
            Member("calibration", "finite", "factor of the deviations", low=0),
            _ESCAPE,
            _UNDECIDED,
            Member(
                "loss_floor",
                "finite",
                "loss that the surrogate supposes is never reached; null if it is not warped",
                needed=False,
            ),
            Member("loss_now", "finite", _LOSS, null=True),
            Member("basin_floor", "finite", _FLOOR, null=True, needed=False),
            Member("barrier", "finite", _BARRIER, null=True, needed=False),
            Member("bound", "text", _BOUND, needed=False),
            Member("bound_of_model", "text", "the bound given the model, likewise", needed=False),
            Member("finest", "finite", "narrowest well that would show", needed=False),
            Member("verdict", "text", "what training is doing, in a sentence", needed=False),
            Member(
                "loss_of",
                "text",
                "which examples the loss is that of, where they are part of a batch",
                needed=False,
            ),
        ),
    ),
    Member("scalars", "numbers by name", "what was logged with the analysis"),
    Member("trajectory", "finite", "earlier weights in the slice", (None, "axes")),
    Member("current", "finite", "the current ones", ("axes",), null=True),
    Member("identities", "integer", "of the attractors", ("attractors",), low=0, needed=False),
)
INNER = Member("inner", "object", "the boxes inside; none in version 1", (None,), needed=False)

RELATIONS = (
    "runs cover all cells, and name Morse sets that are there",
    "a Morse set has a basin and a colour if it is an attractor, and only then",
    "what cells may reach implies their labels",
    "identities are different from each other",
    "each box inside lies within the whole box",
    "the summary is that of the record",
)
