"""The record from which an analysis is shown: JSON, small, checked when it is read.

It holds what a person looks at (labels, Morse sets, loss, course of training), not what further
computations need; :meth:`lightning_morse.MorseAnalysis.save` keeps that.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.conley.reach import Reach
from lightning_morse.files.schema import Check, DamagedFile, is_acyclic
from lightning_morse.view.box_record import BoxRecord, unpack_box, unpack_inner
from lightning_morse.view.layout import BOX, REST, SETS, SUMMARY, WHAT
from lightning_morse.view.packing import expect
from lightning_morse.words import short_of_one

FORMAT = "lightning-morse-view"
VERSION = 2  # 1 had no boxes inside
SUFFIX = ".view.json"
# TensorBoard's name of the plugin, and that of the monitor unless it is given another.
PLUGIN = "morse"
# Last part of the tag under which a monitor gives its records to TensorBoard.
RECORD_TAG = "record"

MAX_BYTES = 2**26  # longer texts are not parsed
HEAD_BYTES = 2**16  # the summary of some hundred attractors ends before
_HEAD = f'{{"format":"{FORMAT}","version":{VERSION},"summary":'.encode()
_COLOR = re.compile("#[0-9a-fA-F]{6}")


def record_tag(monitor: str = PLUGIN) -> str:
    """The tag of a record in an event file.

    Args:
        monitor: Name of the monitor.

    Example:
        >>> record_tag()
        'morse/record'
    """
    return f"{monitor}/{RECORD_TAG}"


@dataclass(frozen=True, eq=False)
class ViewRecord:
    """One analysis as it is shown.

    Attributes:
        text: The record as it was read, JSON.
        step: Step of training.
        epoch: Epoch of training, None outside of training.
        title: A line of description.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner, same shape.
        shape: Cells per axis.
        axes: One label per axis.
        labels: Attractor of each cell, -1 undecided, -2 escapes; shape ``(size,)``, in C order.
        owner: Morse set that each cell belongs to, -1 if none; same shape.
        diverged: Cells nearest to a sample whose loss was not finite; same shape.
        loss: Posterior mean of the loss on a uniform lattice that includes the corners of the box,
            rounded to 16 bits; NaN where it was not finite.
        levels: Losses at which to draw contours, ascending.
        sets: For each Morse set ``attractor``, ``resolved``, ``index``, ``center``,
            ``loss``, ``volume``, ``mu``, ``basin``, ``color``.
        edges: Edges of the Morse graph, pairs of Morse sets, downhill.
        ladder_levels: Levels of confidence of the filtration.
        ladder_blocks: Attracting blocks at each level, see :class:`lightning_morse.Ladder`.
        exits: Share of the box that may leave through each face, shape ``(d, 2)``: lower, upper.
        facts: ``claim``, ``mu`` and ``bound`` (that in words), ``confidence``, ``calibration``,
            ``escape``, ``undecided``, ``loss_floor`` (loss that the surrogate supposes is never
            reached; None where it is not warped), ``loss_now`` (the loss of the current weights if
            it was evaluated there and is finite, else None), and where it is known ``verdict`` (a
            sentence) and ``loss_of`` (which examples the loss is that of, if part of a batch).
        scalars: What was logged with the analysis, by its published name, see :meth:`bare_scalars`.
        trajectory: Earlier weights of training in the slice, shape ``(T, d)``.
        current: The current weights in the slice, shape ``(d,)``; None outside of training.
        identities: A number for each attractor, the same in all records of a run, in the order of
            the attractors; None in records of single analyses and in older ones.
        deviation: Posterior standard deviation of ``loss``, same shape and units, see
            :attr:`lightning_morse.MorseAnalysis.loss_deviation`, rounded up to 8 bits: at a vertex
            of the grid never too small, and too large by at most 5.6 % or 1e-6 of the largest
            value. NaN where it was not finite; None in older records.
        reach: The Morse sets that each cell may reach, and whether it may leave the box; None in
            older records and where it would take more than 80 kB.
        inner: The boxes inside, each after those around it; none in older records.
    """

    text: str
    step: int
    epoch: int | None
    title: str
    lower: Array
    upper: Array
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    labels: NDArray[np.int32]
    owner: NDArray[np.int32]
    diverged: Mask
    loss: Array
    levels: tuple[float, ...]
    sets: tuple[Mapping[str, Any], ...]
    edges: tuple[tuple[int, int], ...]
    ladder_levels: Array
    ladder_blocks: Cells
    exits: Array
    facts: Mapping[str, Any]
    scalars: Mapping[str, float]
    trajectory: Array
    current: Array | None
    identities: tuple[int, ...] | None
    deviation: Array | None
    reach: Reach | None
    inner: tuple[BoxRecord, ...]

    def bare_scalars(self) -> dict[str, float]:
        """Return the scalars without the prefix that the name of their monitor is."""
        return _bare(self.scalars)


def _bare(scalars: Mapping[str, float]) -> dict[str, float]:
    return {name.rpartition("/")[2]: value for name, value in scalars.items()}


def decode(text: str | bytes) -> ViewRecord:
    """Read a record written by :func:`lightning_morse.view.encoding.encode`.

    Args:
        text: The JSON.

    Raises:
        DamagedFile: A ``ValueError``, if it is no such record, is cut off or inconsistent, asks for
            more than ``MAX_CELLS`` cells, or was written by a newer version.
    """
    if len(text) > MAX_BYTES:
        raise DamagedFile(WHAT, "", f"at most {MAX_BYTES} bytes", f"{len(text)}")
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise DamagedFile(WHAT, "", "UTF-8 text", str(error)) from error
    try:
        raw = json.loads(text, parse_constant=_refuse_constant)
    except DamagedFile:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedFile(WHAT, "", "JSON that is not cut off", str(error)) from error
    expect(isinstance(raw, dict) and raw.get("format") == FORMAT, "format", "another", FORMAT)
    version = raw.get("version")
    expect(type(version) is int and version >= 1, "version", version, "a number")
    newest = f"at most {VERSION} (update lightning_morse to read newer ones)"
    expect(version <= VERSION, "version", version, newest)
    try:
        return _checked(raw, text)
    except KeyError as error:
        raise DamagedFile(WHAT, str(error.args[0]), "there", "nothing") from error
    except (TypeError, AttributeError, OverflowError, binascii.Error) as error:
        raise DamagedFile(WHAT, "", "put together from such parts", str(error)) from error


def _refuse_constant(name: str) -> NoReturn:
    # Python reads NaN and infinities anywhere; no browser does.
    raise DamagedFile(WHAT, "", "JSON, which knows finite numbers only", name)


def read_summary(head: bytes, tail: bytes) -> dict[str, Any] | None:
    """Read the summary at the head of a record, without the rest.

    Args:
        head: The text up to :data:`HEAD_BYTES`.
        tail: Its last byte.

    Returns:
        As :func:`summary`; None where the record is older and has none there, or is damaged.
    """
    if not head.startswith(_HEAD) or tail != b"}":
        return None
    try:
        # Of a text that ends in the middle of a character, what comes before.
        text = head[len(_HEAD) :].decode(errors="ignore")
        raw, _ = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode(text)
        found: dict[str, Any] = Check(WHAT).fact(SUMMARY, {SUMMARY.name: raw})
    except (ValueError, RecursionError):
        return None
    return found


def summary(record: ViewRecord) -> dict[str, Any]:
    """Return what is shown of a record over training: counts, bounds and shares, plain values."""
    when = record.step, record.epoch
    return summary_of(*when, record.facts, record.sets, record.identities, record.scalars)


def summary_of(
    step: int,
    epoch: int | None,
    facts: Mapping[str, Any],
    sets: Sequence[Mapping[str, Any]],
    identities: Sequence[int] | None,
    scalars: Mapping[str, float],
) -> dict[str, Any]:
    """The same of a record that is yet to be written."""
    attractors = [m for m in sets if m["attractor"]]
    numbers = range(len(attractors)) if identities is None else identities
    return {
        "step": step,
        "epoch": epoch,
        "attractors": len(attractors),
        "unresolved": sum(not m["resolved"] for m in sets),
        "mu": facts["mu"],
        "escape": facts["escape"],
        "undecided": facts["undecided"],
        "claim": facts["claim"],
        "bound": facts.get("bound") or short_of_one(facts["mu"]),
        # Older records have neither floor nor barrier.
        "loss": facts["loss_now"],
        "floor": facts.get("basin_floor"),
        "barrier": facts.get("barrier"),
        # None outside of training.
        "switches": _bare(scalars).get("basin_switches"),
        "forks": _bare(scalars).get("basin_forks"),
        "basins": [
            {"volume": m["basin"], "color": m["color"], "identity": identity}
            for m, identity in zip(attractors, numbers, strict=True)
        ],
    }


def _checked(raw: dict[str, Any], text: str) -> ViewRecord:
    check = Check(WHAT)
    check.fact(BOX[0], raw)  # the shape, which says how many axes there are
    sets = tuple(check.fact(SETS, raw))
    for number, m in enumerate(sets):
        _check_set(m, f"set {number}")
    attractors = [i for i, m in enumerate(sets) if m["attractor"]]
    check.sizes["attractors"] = len(attractors)
    whole = unpack_box(raw, len(sets), attractors)
    parts = check.facts(raw, REST)
    expect(is_acyclic(parts["edges"], len(sets)), "edges", "a cycle or one twice", "acyclic")
    inner = raw["inner"] if raw["version"] > 1 else []
    d, ladder, identities = len(whole.shape), parts["ladder"], parts["identities"]
    levels = np.array(ladder["levels"], dtype=np.float64)
    blocks = np.array(ladder["blocks"], dtype=np.int64).reshape(len(levels), len(attractors))
    different = identities is None or len({*identities}) == len(identities)
    expect(different, "identities", identities, f"{len(attractors)} different numbers")
    record = ViewRecord(
        **{field.name: getattr(whole, field.name) for field in fields(whole)},
        text=text,
        step=parts["step"],
        epoch=parts["epoch"],
        title=parts["title"],
        axes=tuple(parts["axes"]),
        sets=sets,
        edges=tuple((u, v) for u, v in parts["edges"]),
        ladder_levels=levels,
        ladder_blocks=blocks,
        exits=np.array(parts["exits"], dtype=np.float64),
        facts=parts["facts"],
        scalars=parts["scalars"],
        trajectory=np.array(parts["trajectory"], dtype=np.float64).reshape(-1, d),
        current=None if parts["current"] is None else np.array(parts["current"], np.float64),
        identities=None if identities is None else tuple(identities),
        inner=unpack_inner(inner, whole, len(sets), attractors),
    )
    if "summary" in raw:
        # An older one says less, and nothing else.
        same = {**summary(record), **check.fact(SUMMARY, raw)} == summary(record)
        expect(same, "summary", "another", "that of the record")
    return record


def _check_set(m: Mapping[str, Any], where: str) -> None:
    basin, color = m["basin"], m["color"]
    expect((basin is None) != m["attractor"], f"basin of {where}", basin, "that of an attractor")
    expect((color is None) != m["attractor"], f"color of {where}", color, "that of an attractor")
    right = color is None or _COLOR.fullmatch(color) is not None
    expect(right, f"color of {where}", color, "such as #0072B2")
