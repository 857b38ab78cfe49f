"""The record a view of an analysis is drawn from: JSON, small, checked when it is read.

It holds what a person looks at (labels, Morse sets, loss, course of training), not what a further
computation would need; :meth:`lightning_morse.MorseAnalysis.save` keeps that.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.conley.reach import Reach

if TYPE_CHECKING:
    from lightning_morse.grids.cubical import CubicalGrid
    from lightning_morse.result import MorseAnalysis

FORMAT = "lightning-morse-view"
VERSION = 1
SUFFIX = ".view.json"
# The TensorBoard plugin that records in event files belong to, and the default name of a monitor.
PLUGIN = "morse"
# Last part of the tag of a record in an event file, after the name of its monitor.
RECORD_TAG = "record"

MAX_CELLS = 2**24  # a record that asks for more is refused before anything is allocated
MAX_BYTES = 2**26
MAX_AXES = 3
_LOSS_POINTS = {1: 513, 2: 81, 3: 25}  # along an axis, at most
_NO_LOSS = 65535  # code of a loss that is not finite
_NO_DEVIATION = 255  # likewise of a deviation
_DEVIATIONS = 1e6  # ratio of the largest deviation to the least that is told apart
_REACH_BYTES = 80_000  # what the cells may reach is left out where it takes more
_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_N_LEVELS = 13


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
    """One analysis as it is looked at.

    Attributes:
        text: The record as it was read, JSON.
        step: Step of training.
        epoch: Epoch of training, None outside of training.
        title: A line that says when this was.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner, same shape.
        shape: Cells on each axis.
        axes: A label for each axis.
        labels: Attractor of each cell, -1 undecided, -2 escapes; shape ``(size,)``, C order.
        owner: Morse set each cell belongs to, -1 if none, same shape.
        diverged: Cells nearest to a sample whose loss was not finite, same shape.
        loss: Surrogate mean of the loss on a uniform lattice from corner to corner of the box,
            16 bits a value; NaN where it was not finite.
        levels: Losses to draw contours at, ascending.
        sets: Facts about each Morse set: ``attractor``, ``resolved``, ``index``, ``center``,
            ``loss``, ``volume``, ``mu``, ``basin``, ``color``.
        edges: Edges of the Morse graph, pairs of numbers, downhill.
        ladder_levels: Confidences of the ladder.
        ladder_blocks: Blocks of the ladder, see :class:`lightning_morse.Ladder`.
        exits: Share of the box that may leave it through each face, ``d`` pairs.
        facts: ``claim``, ``mu``, ``confidence``, ``calibration``, ``escape``, ``undecided``,
            ``loss_now`` (the loss where training was, if that is the centre of the box and the loss
            is finite, else None).
        scalars: What was logged with the analysis, by name.
        trajectory: Earlier points of training in the slice, shape ``(T, d)``.
        current: Where training was, shape ``(d,)``; None if there is no training.
        identities: What each attractor is known as from one record of a run to the next, in the
            order of the attractors; None if that is not known, as in older records.
        deviation: Deviation of the surrogate where ``loss`` is, same shape and units, see
            :attr:`lightning_morse.MorseAnalysis.loss_deviation`. 8 bits a value: at a vertex of the
            grid never below it, by at most 5.6 % of it or 1e-6 of the largest above; NaN where it
            is not finite. None in older records.
        reach: Which Morse sets each cell may reach and whether it may leave the box; None in older
            records and where that would take more than 80 kB.
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
) -> str:
    """Write what a view needs of an analysis as JSON.

    Labels and Morse sets are exact, cell by cell; the loss is thinned to at most 81 points an axis
    in the plane and rounded to 16 bits on a scale that is fine near its minimum. Its deviation, on
    the same points, is rounded up to 8 bits.

    Args:
        result: The analysis, of one, two or three dimensions.
        step: Step of training.
        epoch: Epoch of training.
        title: A line that says when this was.
        scalars: Numbers to show over training, by name; those that are not finite are left out.
        trajectory: Earlier points in the slice, first to last, shape ``(T, d)``.
        current: Where training is, shape ``(d,)``.
        axis_labels: One label an axis.
        identities: What each attractor is known as from one record of a run to the next, by the
            number of its Morse set: decides its colour.

    Returns:
        JSON, one line, ASCII; :func:`decode` reads it.

    Raises:
        ValueError: If the analysis has more than three dimensions, an argument does not have its
            dimension, or the identities are not those of the attractors.
    """
    # Drawing is needed to make a record, not to read one.
    from lightning_morse.plotting.style import attractor_colors

    grid, d = result.grid, result.grid.dim
    if d > MAX_AXES:
        raise ValueError(
            f"a view shows 1, 2 or 3 axes, but the analysis has {d}; "
            "MorseAnalysis.save keeps an analysis of any dimension"
        )
    if grid.size > MAX_CELLS:
        raise ValueError(
            f"a view has at most {MAX_CELLS} cells, but the analysis has {grid.size}; "
            "use a coarser grid"
        )
    path = np.empty((0, d)) if trajectory is None else np.asarray(trajectory, dtype=np.float64)
    if path.ndim != 2 or path.shape[1] != d:
        raise ValueError(f"trajectory must have shape (T, {d}), got {path.shape}")
    path = path[np.isfinite(path).all(axis=1)]
    now = None if current is None else np.asarray(current, dtype=np.float64)
    if now is not None and (now.shape != (d,) or not np.isfinite(now).all()):
        raise ValueError(f"current must be {d} finite numbers, got {current!r}")
    labels = tuple(axis_labels or (f"direction {j + 1}" for j in range(d)))
    if len(labels) != d:
        raise ValueError(f"axis_labels must be {d} labels, one an axis, got {axis_labels!r}")

    owner = np.full(grid.size, -1)
    for i, m in enumerate(result.morse_sets):
        owner[m.cells] = i
    colors, volumes = attractor_colors(result, identities), result.basin_volumes
    record = {
        "format": FORMAT,
        "version": VERSION,
        "step": int(step),
        "epoch": None if epoch is None else int(epoch),
        "title": title,
        "lower": grid.lower.tolist(),
        "upper": grid.upper.tolist(),
        "shape": list(grid.shape),
        "axes": list(labels),
        "labels": _runs(result.labels),
        "owner": _runs(owner),
        "diverged": _runs(result.diverged),
        "loss": _quantised(_thinned(result.mean_loss, _LOSS_POINTS[d])),
        "levels": _levels(result.mean_loss),
        "sets": [
            {
                "attractor": bool(m.is_attractor),
                "resolved": bool(m.resolved),
                "index": None if m.index is None else int(m.index),
                "center": _short(m.center),
                "loss": _number(m.loss),
                "volume": float(m.volume),
                "mu": _number(m.mu),
                "basin": volumes.get(i),
                "color": colors.get(i),
            }
            for i, m in enumerate(result.morse_sets)
        ],
        "edges": sorted([int(u), int(v)] for u, v in result.graph.edges),
        "ladder": {
            "levels": result.ladder.levels.tolist(),
            "blocks": result.ladder.blocks.tolist(),
        },
        "exits": result.exit_volumes.tolist(),
        "facts": {
            "claim": result.claim,
            "mu": float(result.mu),
            "confidence": float(result.confidence),
            "calibration": float(result.calibration),
            "escape": result.escape,
            "undecided": result.undecided,
            "loss_now": _number(result.sample_losses[0]) if _is_center(now, grid) else None,
        },
        "scalars": dict(_finite(scalars or {})),
        "trajectory": _short(path),
        "current": None if now is None else _short(now),
    }
    if identities is not None:
        record["identities"] = [int(identities[a]) for a in result.attractors]
    if result.loss_deviation is not None:
        record["deviation"] = _rounded_up(_thinned(result.loss_deviation, _LOSS_POINTS[d]))
    if result.reach is not None:
        reach = {"kinds": _masks(result.reach.kinds), "of": _runs(result.reach.of)}
        if len(json.dumps(reach, separators=(",", ":"))) <= _REACH_BYTES:
            record["reach"] = reach
    return json.dumps(record, separators=(",", ":"), allow_nan=False)


def decode(text: str | bytes) -> ViewRecord:
    """Read a record written by :func:`encode`.

    Args:
        text: The JSON.

    Raises:
        ValueError: If it is no such record, is cut off, disagrees with itself, asks for more than
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
    """What of a record is shown over training: counts, bounds and shares, plain values."""
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
    shape = tuple(raw["shape"])
    d = len(shape)
    _expect(1 <= d <= MAX_AXES and all(type(s) is int and s > 0 for s in shape), "shape", shape)
    size = math.prod(shape)
    if size > MAX_CELLS:
        raise ValueError(
            f'broken view record: "shape" {list(shape)} asks for {size} cells, '
            f"at most {MAX_CELLS} are read"
        )
    lower, upper = (_array(raw, name, (d,)) for name in ("lower", "upper"))
    _expect(bool((lower < upper).all()), "lower", raw["lower"], 'below "upper" on every axis')
    sets = tuple(_checked_set(m, i, d) for i, m in enumerate(raw["sets"]))
    n = len(sets)
    attractors = sum(m["attractor"] for m in sets)
    labels = _expanded(raw, "labels", size, -2, n - 1)
    owner = _expanded(raw, "owner", size, -1, n - 1)
    diverged = _expanded(raw, "diverged", size, 0, 1).astype(bool)
    ladder, facts = raw["ladder"], raw["facts"]
    levels = _array(ladder, "levels", (None,))
    blocks = _array(ladder, "blocks", (len(levels), None)) if attractors else np.empty((0, 0))
    if attractors and blocks.shape[1] != attractors:
        raise ValueError(
            f'broken view record: "blocks" should have one column for each of the {attractors} '
            f"attractors, got {blocks.shape[1]}"
        )
    edges = tuple((u, v) for u, v in raw["edges"])
    for u, v in edges:
        _expect(all(type(k) is int and 0 <= k < n for k in (u, v)), "edges", (u, v))
    axes = tuple(raw["axes"])
    _expect(len(axes) == d and all(isinstance(a, str) for a in axes), "axes", axes, f"{d} labels")
    _expect(type(raw["step"]) is int, "step", raw["step"])
    _expect(raw["epoch"] is None or type(raw["epoch"]) is int, "epoch", raw["epoch"])
    _expect(isinstance(raw["title"], str), "title", raw["title"])
    for name in ("mu", "confidence", "calibration", "escape", "undecided"):
        _expect(_is_number(facts[name]), name, facts[name], "a number")
    _expect(isinstance(facts["claim"], str), "claim", facts["claim"])
    loss_now = facts["loss_now"]
    _expect(loss_now is None or _is_number(loss_now), "loss_now", loss_now)
    for name, value in raw["scalars"].items():
        _expect(_is_number(value), "scalars", {name: value}, "finite numbers")
    loss = _restored(raw["loss"], d)
    deviation, reach = raw.get("deviation"), raw.get("reach")
    if reach is not None:
        reach = _restored_reach(reach, size, n)
        implied = reach.labels(i for i, m in enumerate(sets) if m["attractor"])
        _expect(np.array_equal(implied, labels), "reach", "another", "what the labels say")
    path, identities = raw["trajectory"], raw.get("identities")
    if identities is not None:
        identities = tuple(identities)
        right = all(type(i) is int and i >= 0 for i in identities)
        right = right and len(set(identities)) == len(identities) == attractors
        _expect(right, "identities", identities, f"{attractors} different numbers, none negative")
    return ViewRecord(
        text=text,
        step=raw["step"],
        epoch=raw["epoch"],
        title=raw["title"],
        lower=lower,
        upper=upper,
        shape=shape,
        axes=axes,
        labels=labels,
        owner=owner,
        diverged=diverged,
        loss=loss,
        levels=tuple(_array(raw, "levels", (None,)).tolist()),
        sets=sets,
        edges=edges,
        ladder_levels=levels,
        ladder_blocks=blocks.astype(np.int64),
        exits=_array(raw, "exits", (d, 2)),
        facts=facts,
        scalars=raw["scalars"],
        trajectory=_array(raw, "trajectory", (None, d)) if path else np.empty((0, d)),
        current=None if raw["current"] is None else _array(raw, "current", (d,)),
        identities=identities,
        deviation=None if deviation is None else _restored_deviation(deviation, loss.shape),
        reach=reach,
    )


def _checked_set(m: Any, number: int, d: int) -> Mapping[str, Any]:
    where = f"set {number}"
    _expect(isinstance(m, dict), where, m)
    for name in ("attractor", "resolved"):
        _expect(type(m[name]) is bool, f"{name} of {where}", m[name], "true or false")
    index = m["index"]
    _expect(index is None or (type(index) is int and 0 <= index <= d), f"index of {where}", index)
    _expect(_is_number(m["volume"]), f"volume of {where}", m["volume"], "a number")
    for name in ("loss", "mu", "basin"):
        _expect(m[name] is None or _is_number(m[name]), f"{name} of {where}", m[name], "a number")
    _expect((m["basin"] is None) != m["attractor"], f"basin of {where}", m["basin"])
    color = m["color"]
    hexadecimal = isinstance(color, str) and len(color) == 7 and color[0] == "#"
    hexadecimal = hexadecimal and set(color[1:]) <= set("0123456789abcdefABCDEF")
    _expect((color is None) != m["attractor"], f"color of {where}", color)
    _expect(color is None or hexadecimal, f"color of {where}", color, "such as #0072B2")
    _array(m, "center", (d,))
    return m


def _expect(right: bool, name: str, came: Any, wanted: str = "something else") -> None:
    if not right:
        raise ValueError(f'broken view record: "{name}" should be {wanted}, got {came!r:.80}')


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _array(raw: Mapping[str, Any], name: str, shape: tuple[int | None, ...]) -> Any:
    """Finite numbers of a given shape; None stands for any length."""
    try:
        values = np.array(raw[name], dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f'broken view record: "{name}" should be numbers: {error}') from error
    fits = values.ndim == len(shape)
    fits = fits and all(w in (None, s) for w, s in zip(shape, values.shape, strict=True))
    if not fits or not np.isfinite(values).all():
        wanted = " x ".join("n" if s is None else str(s) for s in shape)
        raise ValueError(
            f'broken view record: "{name}" should be {wanted} finite numbers, '
            f"got shape {values.shape}"
        )
    return values


def _runs(values: NDArray[Any]) -> list[int]:
    """Runs of equal values: value, length, value, length ..."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    lengths = np.diff(np.append(starts, len(values)))
    return np.stack([values[starts].astype(np.int64), lengths], axis=1).ravel().tolist()


def _expanded(
    raw: Mapping[str, Any], name: str, size: int, least: int, most: int
) -> NDArray[np.int32]:
    flat = raw[name]
    if not isinstance(flat, list) or len(flat) % 2 or not all(type(v) is int for v in flat):
        raise ValueError(f'broken view record: "{name}" should be pairs of integers')
    values, lengths = flat[::2], flat[1::2]
    # Summed as Python integers: no overflow can make a wrong sum look right.
    if sum(lengths) != size or any(k <= 0 for k in lengths):
        raise ValueError(
            f'broken view record: "{name}" should cover {size} cells by runs of positive length, '
            f"got {sum(lengths)}"
        )
    if any(v < least or v > most for v in values):
        raise ValueError(
            f'broken view record: "{name}" should lie between {least} and {most}, '
            f"got {min(values)} to {max(values)}"
        )
    return np.repeat(np.array(values, dtype=np.int32), lengths)


def _thinned(loss: Array, most: int) -> Array:
    """Interpolate to a uniform lattice of at most so many points an axis, corners included."""
    for axis, n in enumerate(loss.shape):
        if n > most:
            at = np.linspace(0, n - 1, most)
            low = np.minimum(at.astype(np.int64), n - 2)
            t = (at - low).reshape([-1 if k == axis else 1 for k in range(loss.ndim)])
            loss = (1 - t) * loss.take(low, axis) + t * loss.take(low + 1, axis)
    return loss


def _quantised(loss: Array) -> dict[str, Any]:
    """16 bits a value, even on ``log(1 + (l - min) / scale)``: steep outside, flat inside."""
    ok = np.isfinite(loss)
    low, high = (float(loss[ok].min()), float(loss[ok].max())) if ok.any() else (0.0, 0.0)
    # A tenth of the losses below the scale: there the rounding is even in the loss itself.
    scale = max(float(np.quantile(loss[ok], 0.1)) - low if ok.any() else 0.0, (high - low) * 1e-6)
    scale = scale or 1.0
    top = math.log1p((high - low) / scale) or 1.0
    code = np.full(loss.shape, _NO_LOSS, dtype="<u2")
    code[ok] = np.round(np.log1p((loss[ok] - low) / scale) / top * (_NO_LOSS - 1))
    data = base64.b64encode(code.tobytes()).decode()
    return {"shape": list(loss.shape), "low": low, "scale": scale, "top": top, "data": data}


def _restored(raw: Mapping[str, Any], d: int) -> Array:
    shape = tuple(raw["shape"])
    _expect(len(shape) == d and all(type(s) is int and s > 1 for s in shape), "loss shape", shape)
    _expect(math.prod(shape) <= MAX_CELLS, "loss shape", shape, "smaller")
    low, scale, top = (raw[k] for k in ("low", "scale", "top"))
    _expect(all(map(_is_number, (low, scale, top))), "loss", (low, scale, top), "three numbers")
    _expect(scale > 0 and top > 0, "loss", (scale, top), "scaled by positive numbers")
    code = _codes(raw["data"], "loss", "<u2", shape)
    loss = low + scale * np.expm1(code / (_NO_LOSS - 1) * top)
    return np.where(code == _NO_LOSS, np.nan, loss)


def _codes(data: Any, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    count = math.prod(shape)
    length = 4 * -(-np.dtype(dtype).itemsize * count // 3)
    if not isinstance(data, str) or len(data) != length:
        raise ValueError(
            f'broken view record: "{name}" should have {length} characters for shape '
            f"{list(shape)}, got {len(data)}"
        )
    raw = base64.b64decode(data, validate=True)
    _expect(len(raw) == np.dtype(dtype).itemsize * count, name, len(raw), f"{count} values")
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def _rounded_up(deviation: Array) -> dict[str, Any]:
    """8 bits a value, even on a logarithmic scale from ``low`` to ``low * exp(top)``."""
    ok = np.isfinite(deviation)
    high = float(deviation[ok].max()) if ok.any() else 0.0
    low = max(float(deviation[ok].min()), high / _DEVIATIONS) if high else 0.0
    # A hair more than the ratio, so that rounding never leaves the largest value above the scale.
    top = math.log(high / low) * (1 + 1e-9) + 1e-9 if low else 0.0
    code = np.full(deviation.shape, _NO_DEVIATION, dtype=np.uint8)
    if low:
        share = np.log(np.maximum(deviation[ok] / low, 1.0)) / top
        code[ok] = np.ceil(share * (_NO_DEVIATION - 1))
    else:
        code[ok] = 0
    return {"low": low, "top": top, "data": base64.b64encode(code.tobytes()).decode()}


def _restored_deviation(raw: Mapping[str, Any], shape: tuple[int, ...]) -> Array:
    low, top = raw["low"], raw["top"]
    _expect(all(map(_is_number, (low, top))), "deviation", (low, top), "two numbers")
    right = low >= 0 and 0 <= top <= 2 * math.log(_DEVIATIONS)
    _expect(right, "deviation", (low, top), "on a scale that is not negative")
    code = _codes(raw["data"], "deviation", "u1", shape)
    return np.where(code == _NO_DEVIATION, np.nan, low * np.exp(code / (_NO_DEVIATION - 1) * top))


def _masks(kinds: Mask) -> list[str]:
    """Rows of bits as hexadecimal digits: bit ``i`` is bit ``i % 4`` of digit ``i // 4``."""
    wide = np.pad(kinds, [(0, 0), (0, -kinds.shape[1] % 4)])
    digits = wide.reshape(len(kinds), -1, 4) @ np.array([1, 2, 4, 8])
    return [row.tobytes().decode() for row in _HEX[digits]]


def _restored_reach(raw: Mapping[str, Any], size: int, n_sets: int) -> Reach:
    texts, length = raw["kinds"], n_sets // 4 + 1
    wanted = f"masks of {length} hexadecimal digits"
    known = isinstance(texts, list) and all(isinstance(t, str) for t in texts)
    known = known and all(len(t) == length and set(t) <= set("0123456789abcdef") for t in texts)
    _expect(known and 0 < len(texts) <= size, "kinds of reach", texts, wanted)
    digits = np.array([[int(c, 16) for c in t] for t in texts])
    bits = (digits[:, :, None] >> np.arange(4) & 1).reshape(len(texts), -1) == 1
    _expect(not bits[:, n_sets + 1 :].any(), "kinds of reach", texts, f"{n_sets + 1} bits each")
    return Reach(bits[:, : n_sets + 1], _expanded(raw, "of", size, 0, len(texts) - 1))


def _levels(loss: Array) -> list[float]:
    """Quantiles, as in the figures: they share the page evenly."""
    finite = loss[np.isfinite(loss)]
    if not finite.size:
        return []
    levels = np.unique(np.quantile(finite, np.linspace(0.01, 0.97, _N_LEVELS)))
    return _short(levels[(levels > finite.min()) & (levels < finite.max())])


def _short(values: Array) -> Any:
    """Six significant digits: finer than any screen."""
    if values.ndim > 1:
        return [_short(v) for v in values]
    return [float(f"{v:.6g}") for v in values]


def _is_center(point: Array | None, grid: CubicalGrid) -> bool:
    middle, width = (grid.lower + grid.upper) / 2, grid.upper - grid.lower
    return point is not None and bool((np.abs(point - middle) <= 1e-9 * width).all())


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _finite(scalars: Mapping[str, Any]) -> list[tuple[str, float]]:
    plain = (int, float, np.integer, np.floating)
    return [
        (str(k), float(v))
        for k, v in scalars.items()
        if isinstance(v, plain) and math.isfinite(float(v))
    ]
