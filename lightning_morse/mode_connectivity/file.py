"""The file of a record of barriers: one NumPy archive, see :mod:`lightning_morse.files.archive`."""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np

from lightning_morse.files import archive
from lightning_morse.files.schema import Check, Member, Relation
from lightning_morse.mode_connectivity.record import Connectivity, Profile, pair_numbers

CONNECTIVITY_FORMAT = 1
WHAT = "a record of barriers"

SIZES = {
    "k": "sets of weights",
    "pairs": "pairs of sets, in order: 0 and 1, 0 and 2, ...",
    "n": "evaluations on lines, the ends of each included",
    "m": "places at which the band is recorded, from end to end",
}
FACTS = (
    Member("names", "text", "what the sets are called", ("k",)),
    Member("tolerance", "finite", "barriers of at most this count as none", low=0),
    Member("confidence", "finite", "level of all upper bounds together", low=0, high=1),
    Member("n_evaluations", "integer", "evaluations of the loss in all", low=0),
    Member("notes", "text", "what else there is to know of the sets", (None,)),
    Member("reasons", "text", "why a pair has no bound from above, or nothing", ("pairs",)),
)
ARRAYS = (
    Member("losses", "finite", "the loss at each set", ("k",)),
    Member("lower", "number", "lower bounds on the barriers", ("k", "k"), low=0),
    Member("barriers", "number", "estimates of the barriers", ("k", "k"), low=0),
    Member("upper", "number", "upper bounds, infinite where there is none", ("k", "k"), low=0),
    Member("shares", "finite", "where on its line each loss was evaluated", ("n",), 0, 1),
    Member("line_losses", "number", "the losses there", ("n",)),
    Member("counts", "integer", "evaluations of each line", ("pairs",), low=2, high="n"),
    Member("bands", "number", "mean and sides of the band, or NaN", ("pairs", 3, "m")),
)
RELATIONS = (
    Relation(
        "there are k (k - 1) / 2 pairs, k at least 2",
        lambda m: len(m["names"]) > 1 and len(pair_numbers(len(m["names"]))) == len(m["counts"]),
    ),
    Relation("the counts add up to n", lambda m: int(m["counts"].sum()) == len(m["shares"])),
    Relation(
        "lower bounds, estimates and upper bounds ascend",
        lambda m: bool(((m["lower"] <= m["barriers"]) & (m["barriers"] <= m["upper"])).all()),
    ),
)


def write(path: str | os.PathLike[str], record: Connectivity) -> None:
    """Write a record; an existing file is replaced once the new one is complete."""
    profiles = record.profiles
    facts = {
        "names": list(record.names),
        "tolerance": float(record.tolerance),
        "confidence": float(record.confidence),
        "n_evaluations": record.n_evaluations,
        "notes": list(record.notes),
        "reasons": [p.reason for p in profiles],
    }
    arrays = {
        "losses": record.losses,
        "lower": record.lower,
        "barriers": record.barriers,
        "upper": record.upper,
        "shares": np.concatenate([p.shares for p in profiles]),
        "line_losses": np.concatenate([p.losses for p in profiles]),
        "counts": np.array([len(p.shares) for p in profiles], dtype=np.int64),
        "bands": np.stack([p.band for p in profiles]),
    }
    archive.write(path, facts, arrays, version=CONNECTIVITY_FORMAT)


def read(path: str | os.PathLike[str]) -> Connectivity:
    """Read a record.

    Raises:
        DamagedFile: If the file does not hold one.
        OSError: If it cannot be read.
    """
    with archive.opened(path, WHAT) as file:
        check = Check(WHAT)
        facts = check.facts(file.facts(CONNECTIVITY_FORMAT), FACTS)
        arrays = file.arrays(ARRAYS, check)
        check.relations(RELATIONS, {**facts, **arrays})
        ends = np.concatenate([[0], np.cumsum(arrays["counts"])]).tolist()
        parts = [slice(a, b) for a, b in pairwise(ends)]
        return Connectivity(
            names=tuple(facts["names"]),
            losses=arrays["losses"],
            lower=arrays["lower"],
            barriers=arrays["barriers"],
            upper=arrays["upper"],
            tolerance=facts["tolerance"],
            confidence=facts["confidence"],
            profiles=tuple(
                Profile(arrays["shares"][part], arrays["line_losses"][part], band, reason)
                for part, band, reason in zip(parts, arrays["bands"], facts["reasons"], strict=True)
            ),
            n_evaluations=facts["n_evaluations"],
            notes=tuple(facts["notes"]),
        )
