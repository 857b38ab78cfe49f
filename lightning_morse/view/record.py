"""The record from which an analysis is shown: JSON, small, checked when it is read.

It holds what a person looks at (labels, Morse sets, loss, course of training), not what further
computations need; :meth:`lightning_morse.MorseAnalysis.save` keeps that.
"""

from __future__ import annotations

import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.conley.reach import Reach
from lightning_morse.view.box_record import (
    MAX_AXES,
    BoxRecord,
    pack_box,
    unpack_box,
    unpack_inner,
)
from lightning_morse.view.packing import MAX_CELLS, expect, is_number, numbers, short

if TYPE_CHECKING:
    from lightning_morse.result import MorseAnalysis

FORMAT = "lightning-morse-view"
VERSION = 2  # 1 had no boxes inside
SUFFIX = ".view.json"
# The TensorBoard plugin that records in event files belong to, and the default name of a monitor.
PLUGIN = "morse"
# Last part of the tag of a record in an event file, after the name of its monitor.
RECORD_TAG = "record"

# TensorBoard's name of the plugin, and that of the monitor unless it is given another.
PLUGIN = "morse"
# Last part of the tag under which a monitor gives its records to TensorBoard.
RECORD_TAG = "record"

MAX_BYTES = 2**26  # longer texts are not parsed
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
        facts: ``claim``, ``mu``, ``confidence``, ``calibration``, ``escape``, ``undecided``,
            ``loss_now`` (the loss of the current weights if it was evaluated there and is finite,
            else None), and where it is known ``verdict`` (a sentence).
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
        return {name.rpartition("/")[2]: value for name, value in self.scalars.items()}


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
        verdict: What becomes of the current weights, in a sentence.

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
    record = {
        "format": FORMAT,
        "version": VERSION,
        "step": int(step),
        "epoch": None if epoch is None else int(epoch),
        "title": title,
        **whole,
        "inner": inner,
        "axes": list(labels),
        "sets": _sets(result, identities),
        "edges": sorted([int(u), int(v)] for u, v in result.graph.edges),
        "ladder": {
            "levels": result.ladder.levels.tolist(),
            "blocks": result.ladder.blocks.tolist(),
        },
        "exits": result.exit_volumes.tolist(),
        "facts": _facts(result, now) | ({"verdict": verdict} if verdict else {}),
        "scalars": _finite(scalars or {}),
        "trajectory": short(path),
        "current": None if now is None else short(now),
    }
    if identities is not None:
        record["identities"] = [int(identities[a]) for a in result.attractors]
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
            "basin": volumes.get(i),
            "color": colors.get(i),
        }
        for i, m in enumerate(result.morse_sets)
    ]


def _facts(result: MorseAnalysis, now: Array | None) -> dict[str, Any]:
    return {
        "claim": result.claim,
        "mu": float(result.mu),
        "confidence": float(result.confidence),
        "calibration": float(result.calibration),
        "escape": result.escape,
        "undecided": result.undecided,
        "loss_now": _loss_at(result, now),
    }


def decode(text: str | bytes) -> ViewRecord:
    """Read a record written by :func:`encode`.

    Args:
        text: The JSON.

    Raises:
        ValueError: If it is no such record, is cut off or inconsistent, asks for more than
            ``MAX_CELLS`` cells, or was written by a newer version.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"a view record has at most {MAX_BYTES} bytes, this one has {len(text)}")
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"not a view record: it is not UTF-8 text ({error})") from error
    try:
        raw = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not a view record, or cut off: {error}") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise ValueError(f'not a view record: its "format" should be "{FORMAT}"')
    version = raw.get("version")
    if type(version) is not int or version < 1:
        raise ValueError(f'broken view record: "version" should be a number, got {version!r}')
    if version > VERSION:
        raise ValueError(
            f"this view record is of version {version}, this lightning_morse reads up to "
            f"{VERSION}; update lightning_morse"
        )
    try:
        return _checked(raw, text)
    except KeyError as error:
        raise ValueError(f"broken view record: {error} is missing") from error
    except (TypeError, AttributeError, OverflowError, binascii.Error) as error:
        raise ValueError(f"broken view record: {error}") from error


def summary(record: ViewRecord) -> dict[str, Any]:
    """Return what is shown of a record over training: counts, bounds and shares, plain values."""
    attractors = [m for m in record.sets if m["attractor"]]
    identities = range(len(attractors)) if record.identities is None else record.identities
    return {
        "step": record.step,
        "epoch": record.epoch,
        "attractors": len(attractors),
        "unresolved": sum(not m["resolved"] for m in record.sets),
        "mu": record.facts["mu"],
        "escape": record.facts["escape"],
        "undecided": record.facts["undecided"],
        "basins": [
            {"volume": m["basin"], "color": m["color"], "identity": identity}
            for m, identity in zip(attractors, identities, strict=True)
        ],
    }


def _checked(raw: dict[str, Any], text: str) -> ViewRecord:
    d = len(raw["shape"])
    sets = tuple(_checked_set(m, i, d) for i, m in enumerate(raw["sets"]))
    attractors = [i for i, m in enumerate(sets) if m["attractor"]]
    whole = unpack_box(raw, len(sets), attractors)
    inner = raw["inner"] if raw["version"] > 1 else []
    ladder_levels, ladder_blocks = _checked_ladder(raw["ladder"], len(attractors))
    _check_plain_parts(raw, d)
    return ViewRecord(
        **{field.name: getattr(whole, field.name) for field in fields(whole)},
        text=text,
        step=raw["step"],
        epoch=raw["epoch"],
        title=raw["title"],
        axes=tuple(raw["axes"]),
        sets=sets,
        edges=_checked_edges(raw["edges"], len(sets)),
        ladder_levels=ladder_levels,
        ladder_blocks=ladder_blocks,
        exits=numbers(raw, "exits", (d, 2)),
        facts=_checked_facts(raw["facts"]),
        scalars=raw["scalars"],
        trajectory=numbers(raw, "trajectory", (None, d)) if raw["trajectory"] else np.empty((0, d)),
        current=None if raw["current"] is None else numbers(raw, "current", (d,)),
        identities=_checked_identities(raw.get("identities"), len(attractors)),
        inner=unpack_inner(inner, whole, len(sets), attractors),
    )


def _checked_ladder(ladder: Mapping[str, Any], attractors: int) -> tuple[Array, Cells]:
    levels = numbers(ladder, "levels", (None,))
    blocks = numbers(ladder, "blocks", (len(levels), None)) if attractors else np.empty((0, 0))
    if attractors and blocks.shape[1] != attractors:
        raise ValueError(
            f'broken view record: "blocks" should have one column for each of the {attractors} '
            f"attractors, got {blocks.shape[1]}"
        )
    return levels, blocks.astype(np.int64)


def _checked_edges(raw: Any, n_sets: int) -> tuple[tuple[int, int], ...]:
    edges = tuple((u, v) for u, v in raw)
    for u, v in edges:
        expect(all(type(k) is int and 0 <= k < n_sets for k in (u, v)), "edges", (u, v))
    return edges


def _check_plain_parts(raw: Mapping[str, Any], d: int) -> None:
    axes = tuple(raw["axes"])
    expect(len(axes) == d and all(isinstance(a, str) for a in axes), "axes", axes, f"{d} labels")
    expect(type(raw["step"]) is int, "step", raw["step"])
    expect(raw["epoch"] is None or type(raw["epoch"]) is int, "epoch", raw["epoch"])
    expect(isinstance(raw["title"], str), "title", raw["title"])
    for name, value in raw["scalars"].items():
        expect(is_number(value), "scalars", {name: value}, "finite numbers")


def _checked_facts(facts: Any) -> Mapping[str, Any]:
    for name in ("mu", "confidence", "calibration", "escape", "undecided"):
        expect(is_number(facts[name]), name, facts[name], "a number")
    for name, said in (("claim", facts["claim"]), ("verdict", facts.get("verdict", ""))):
        expect(isinstance(said, str), name, said)
    loss_now = facts["loss_now"]
    expect(loss_now is None or is_number(loss_now), "loss_now", loss_now)
    checked: Mapping[str, Any] = facts
    return checked


def _checked_identities(raw: Any, attractors: int) -> tuple[int, ...] | None:
    if raw is None:
        return None
    identities = tuple(raw)
    right = all(type(i) is int and i >= 0 for i in identities)
    right = right and len(set(identities)) == len(identities) == attractors
    expect(right, "identities", identities, f"{attractors} different numbers, none negative")
    return identities


def _checked_set(m: Any, number: int, d: int) -> Mapping[str, Any]:
    where = f"set {number}"
    expect(isinstance(m, dict), where, m)
    for name in ("attractor", "resolved"):
        expect(type(m[name]) is bool, f"{name} of {where}", m[name], "true or false")
    index = m["index"]
    expect(index is None or (type(index) is int and 0 <= index <= d), f"index of {where}", index)
    expect(is_number(m["volume"]), f"volume of {where}", m["volume"], "a number")
    for name in ("loss", "mu", "basin"):
        expect(m[name] is None or is_number(m[name]), f"{name} of {where}", m[name], "a number")
    expect((m["basin"] is None) != m["attractor"], f"basin of {where}", m["basin"])
    color = m["color"]
    hexadecimal = isinstance(color, str) and len(color) == 7 and color[0] == "#"
    hexadecimal = hexadecimal and set(color[1:]) <= set("0123456789abcdefABCDEF")
    expect((color is None) != m["attractor"], f"color of {where}", color)
    expect(color is None or hexadecimal, f"color of {where}", color, "such as #0072B2")
    numbers(m, "center", (d,))
    checked: Mapping[str, Any] = m
    return checked


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
