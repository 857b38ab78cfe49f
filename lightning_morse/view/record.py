"""The record from which an analysis is shown: JSON, small, checked when it is read.

It holds what a person looks at (labels, Morse sets, loss, course of training), not what further
computations need; :meth:`lightning_morse.MorseAnalysis.save` keeps that.
"""

from __future__ import annotations

import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.conley.reach import Reach
from lightning_morse.schema import Check, DamagedFile, is_acyclic
from lightning_morse.view.box_record import (
    MAX_AXES,
    BoxRecord,
    pack_box,
    unpack_box,
    unpack_inner,
)
from lightning_morse.view.layout import BOX, REST, SETS, SUMMARY, WHAT
from lightning_morse.view.packing import MAX_CELLS, expect, short
from lightning_morse.words import short_of_one

if TYPE_CHECKING:
    from lightning_morse.result import MorseAnalysis

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
_SAME_POINT = 1e-9  # of the width of the box


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


def encode(
    result: MorseAnalysis,
    *,
    step: int = 0,
    epoch: int | None = None,
    title: str = "",
    scalars: Mapping[str, Any] | None = None,
    trajectory: ArrayLike | None = None,
    current: ArrayLike | None = None,
    axis_labels: Sequence[str] | None = None,
    identities: Mapping[int, int] | None = None,
    verdict: str = "",
    loss_of: str = "",
) -> str:
    """Write what a view needs of an analysis as JSON.

    Labels and Morse sets are exact, cell by cell. The loss is thinned to at most 81 points per axis
    in the plane and rounded to 16 bits on a scale that is finest near its minimum. Its deviation,
    on the same points, is rounded up to 8 bits.

    Args:
        result: The analysis, of one, two or three dimensions.
        step: Step of training.
        epoch: Epoch of training.
        title: A line of description.
        scalars: Numbers to show over training, by name; those that are not finite are left out.
        trajectory: Earlier weights in the slice, first to last, shape ``(T, d)``.
        current: The current weights in the slice, shape ``(d,)``.
        axis_labels: One label per axis.
        identities: For the Morse set of each attractor, a number that the attractor keeps from one
            record of a run to the next; it decides the colour.
        verdict: What training is doing, in a sentence; made from the result if left out.
        loss_of: Which examples the loss is that of, in words, where they are part of a batch.

    Returns:
        JSON, one line, ASCII; :func:`decode` reads it.

    Raises:
        ValueError: If the analysis has more than three dimensions or too many cells, an argument
            does not have its dimension, or the identities are not those of the attractors.
    """
    d = result.grid.dim
    _check_size(result)
    path, now, labels = _checked_course(d, trajectory, current, axis_labels)
    whole, *inner = map(pack_box, result.boxes)
    sets = _sets(result, identities)
    facts = _facts(result, now)
    scalars = _finite(scalars or {})
    facts["verdict"] = verdict or _sentence(result, now, path, labels, facts["loss_now"])
    if loss_of:
        facts["loss_of"] = loss_of
    numbers = None if identities is None else [int(identities[a]) for a in result.attractors]
    when = int(step), None if epoch is None else int(epoch)
    record = {
        "format": FORMAT,
        "version": VERSION,
        # Here, at the head, lists find it without reading on.
        "summary": _summary_of(*when, facts, sets, numbers, scalars),
        "step": when[0],
        "epoch": when[1],
        "title": title,
        **whole,
        "inner": inner,
        "axes": list(labels),
        "sets": sets,
        "edges": sorted([int(u), int(v)] for u, v in result.graph.edges),
        "ladder": {
            "levels": result.ladder.levels.tolist(),
            "blocks": result.ladder.blocks.tolist(),
        },
        "exits": result.exit_volumes.tolist(),
        "facts": facts,
        "scalars": scalars,
        "trajectory": short(path),
        "current": None if now is None else short(now),
    }
    if numbers is not None:
        record["identities"] = numbers
    return json.dumps(record, separators=(",", ":"), allow_nan=False)


def _check_size(result: MorseAnalysis) -> None:
    grid = result.grid
    if grid.dim > MAX_AXES:
        raise ValueError(
            f"a view shows 1, 2 or 3 axes, but the analysis has {grid.dim}; "
            "MorseAnalysis.save keeps an analysis of any dimension"
        )
    cells = sum(box.grid.size for box in result.boxes)
    if cells > MAX_CELLS:
        raise ValueError(
            f"a view has at most {MAX_CELLS} cells, but the analysis has {cells}; "
            "use a coarser grid"
        )


def _checked_course(
    d: int,
    trajectory: ArrayLike | None,
    current: ArrayLike | None,
    axis_labels: Sequence[str] | None,
) -> tuple[Array, Array | None, tuple[str, ...]]:
    """Earlier weights that are finite, current weights and labels, all of ``d`` axes."""
    path = np.empty((0, d)) if trajectory is None else np.asarray(trajectory, dtype=np.float64)
    if path.ndim != 2 or path.shape[1] != d:
        raise ValueError(f"trajectory must have shape (T, {d}), got {path.shape}")
    path = path[np.isfinite(path).all(axis=1)]
    now = None if current is None else np.asarray(current, dtype=np.float64)
    if now is not None and (now.shape != (d,) or not np.isfinite(now).all()):
        raise ValueError(f"current must be {d} finite numbers, got {current!r}")
    labels = tuple(axis_labels or (f"direction {j + 1}" for j in range(d)))
    if len(labels) != d:
        raise ValueError(f"axis_labels must be {d} labels, one per axis, got {axis_labels!r}")
    return path, now, labels


def _sets(result: MorseAnalysis, identities: Mapping[int, int] | None) -> list[dict[str, Any]]:
    # Writing a record needs the colours of the figures; reading one must not load them.
    from lightning_morse.plotting.style import attractor_colors

    colors, volumes = attractor_colors(result, identities), result.basin_volumes
    return [
        {
            "attractor": bool(m.is_attractor),
            "resolved": bool(m.resolved),
            "index": None if m.index is None else int(m.index),
            "center": short(m.center),
            "loss": _number(m.loss),
            "volume": float(m.volume),
            "mu": _number(m.mu),
            "bound": None if m.mu is None else short_of_one(m.mu),
            "basin": volumes.get(i),
            "color": colors.get(i),
        }
        for i, m in enumerate(result.morse_sets)
    ]


def _facts(result: MorseAnalysis, now: Array | None) -> dict[str, Any]:
    basin = -1 if now is None else int(result.basin_of(now[None])[0])
    return {
        "claim": result.claim,
        "mu": float(result.mu),
        "bound": short_of_one(result.mu),
        "bound_of_model": short_of_one(result.mu_model),
        "finest": _number(result.finest),
        "confidence": float(result.confidence),
        "calibration": float(result.calibration),
        "escape": result.escape,
        "undecided": result.undecided,
        "loss_floor": _number(getattr(result.surrogate, "loss_floor", None)),
        "loss_now": _loss_at(result, now),
        "basin_floor": _number(result.morse_sets[basin].loss) if basin >= 0 else None,
        "barrier": _number(result.barrier(basin)) if basin >= 0 else None,
    }


def _sentence(
    result: MorseAnalysis,
    now: Array | None,
    path: Array,
    labels: Sequence[str],
    loss_now: float | None,
) -> str:
    from lightning_morse.analysis.sentence import sentence

    reach = None if now is None else float(np.linalg.norm(path - now, axis=1).max(initial=0.0))
    return sentence(result, now, labels, loss_now, reach)


def decode(text: str | bytes) -> ViewRecord:
    """Read a record written by :func:`encode`.

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
        Check(WHAT).facts(raw, SUMMARY.parts)
    except (ValueError, RecursionError):
        return None
    found: dict[str, Any] = raw
    return found


def summary(record: ViewRecord) -> dict[str, Any]:
    """Return what is shown of a record over training: counts, bounds and shares, plain values."""
    when = record.step, record.epoch
    return _summary_of(*when, record.facts, record.sets, record.identities, record.scalars)


def _summary_of(
    step: int,
    epoch: int | None,
    facts: Mapping[str, Any],
    sets: Sequence[Mapping[str, Any]],
    identities: Sequence[int] | None,
    scalars: Mapping[str, float],
) -> dict[str, Any]:
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
        same = {**summary(record), **raw["summary"]} == summary(record)
        expect(same, "summary", "another", "that of the record")
    return record


def _check_set(m: Mapping[str, Any], where: str) -> None:
    basin, color = m["basin"], m["color"]
    expect((basin is None) != m["attractor"], f"basin of {where}", basin, "that of an attractor")
    expect((color is None) != m["attractor"], f"color of {where}", color, "that of an attractor")
    right = color is None or _COLOR.fullmatch(color) is not None
    expect(right, f"color of {where}", color, "such as #0072B2")


def _loss_at(result: MorseAnalysis, point: Array | None) -> float | None:
    """The loss of the sample at a point; None if there is none."""
    if point is None:
        return None
    away = np.abs(result.samples - point) / (result.grid.upper - result.grid.lower)
    (there,) = np.nonzero(away.max(axis=1) <= _SAME_POINT)
    return _number(result.sample_losses[there[0]]) if there.size else None


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _finite(scalars: Mapping[str, Any]) -> dict[str, float]:
    plain = (int, float, np.integer, np.floating)
    return {
        str(k): float(v)
        for k, v in scalars.items()
        if isinstance(v, plain) and math.isfinite(float(v))
    }
