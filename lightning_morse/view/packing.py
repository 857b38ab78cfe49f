"""Arrays in few characters of JSON: run lengths, quantised losses, masks; checked when read.

Each ``pack_*`` has its ``unpack_*``. Reading raises ``DamagedFile`` for what does not fit, and
before anything large is allocated; ``KeyError``, ``TypeError`` and ``binascii.Error`` pass for the
caller to explain.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Array, Mask
from lightning_morse.conley.reach import Reach
from lightning_morse.files.schema import DamagedFile, is_number
from lightning_morse.view.layout import WHAT

MAX_CELLS = 2**24  # a record that asks for more is refused before anything is allocated

_LOSS_CODES = 65534  # largest code of a finite loss
_NO_LOSS = 65535  # code of a loss that is not finite
_DEVIATION_CODES = 254
_NO_DEVIATION = 255
# Largest deviation over the least that still has a code of its own: bounds the rounding to 5.6 %.
_DEVIATION_RATIO = 1e6
# Quantile of the losses that sets the scale of their codes: below it rounding is even in the loss.
_EVEN_BELOW_QUANTILE = 0.1
_LEAST_SCALE = 1e-6  # of the range of the loss; keeps the logarithm finite
_SLACK = 1e-9  # so that rounding leaves the largest deviation within the scale
_MAX_TOP = 700  # where the exponential is still a number
_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)


def expect(right: bool, name: str, came: Any, wanted: str = "something else") -> None:
    """Refuse a part of a record.

    Args:
        right: Whether the part is as it should be.
        name: Its name.
        came: Its value.
        wanted: What it should be.

    Raises:
        DamagedFile: If it is not right.
    """
    if not right:
        raise DamagedFile(WHAT, name, wanted, f"{came!r:.80}")


def short(values: Array) -> list[Any]:
    """Return six significant digits of each value: finer than any screen."""
    if values.ndim > 1:
        return [short(v) for v in values]
    return [float(f"{v:.6g}") for v in values]


def pack_runs(values: NDArray[Any]) -> list[int]:
    """Return runs of equal values: value, length, value, length ..."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    lengths = np.diff(np.append(starts, len(values)))
    runs: list[int] = np.stack([values[starts].astype(np.int64), lengths], axis=1).ravel().tolist()
    return runs


def unpack_runs(
    raw: Mapping[str, Any], name: str, size: int, least: int, most: int
) -> NDArray[np.int32]:
    """Return the ``size`` values of runs.

    Raises:
        DamagedFile: If they are no runs, cover another number of values, or a value does not lie
            between ``least`` and ``most``.
    """
    flat = raw[name]
    pairs = isinstance(flat, list) and not len(flat) % 2 and all(type(v) is int for v in flat)
    expect(pairs, name, flat, "pairs of integers")
    values, lengths = flat[::2], flat[1::2]
    # Summed as Python integers: no overflow can make a wrong sum look right.
    covered = sum(lengths) == size and all(k > 0 for k in lengths)
    expect(covered, name, sum(lengths), f"runs of positive length that cover {size} cells")
    inside = all(least <= v <= most for v in values)
    expect(inside, name, sorted({*values})[:9], f"between {least} and {most}")
    return np.repeat(np.array(values, dtype=np.int32), lengths)


def thinned(values: Array, most: int) -> Array:
    """Interpolate to a uniform lattice of at most ``most`` points per axis, corners included."""
    for axis, n in enumerate(values.shape):
        if n > most:
            at = np.linspace(0, n - 1, most)
            low = np.minimum(at.astype(np.int64), n - 2)
            t = (at - low).reshape([-1 if k == axis else 1 for k in range(values.ndim)])
            values = (1 - t) * values.take(low, axis) + t * values.take(low + 1, axis)
    return values


def pack_loss(loss: Array) -> dict[str, Any]:
    """Return 16 bits per value, uniform in ``log(1 + (l - min) / scale)``.

    So the rounding is finest near the minimum, where the landscape is flat.
    """
    ok = np.isfinite(loss)
    low, high = (float(loss[ok].min()), float(loss[ok].max())) if ok.any() else (0.0, 0.0)
    even = float(np.quantile(loss[ok], _EVEN_BELOW_QUANTILE)) - low if ok.any() else 0.0
    scale = max(even, (high - low) * _LEAST_SCALE) or 1.0
    top = math.log1p((high - low) / scale) or 1.0
    code = np.full(loss.shape, _NO_LOSS, dtype="<u2")
    code[ok] = np.round(np.log1p((loss[ok] - low) / scale) / top * _LOSS_CODES)
    data = base64.b64encode(code.tobytes()).decode()
    return {"shape": list(loss.shape), "low": low, "scale": scale, "top": top, "data": data}


def unpack_loss(raw: Mapping[str, Any], d: int) -> Array:
    """Return a loss on its lattice of ``d`` axes; NaN where it was not finite.

    Raises:
        DamagedFile: If the lattice, the scale or the data do not fit.
    """
    shape = tuple(raw["shape"])
    expect(len(shape) == d and all(type(s) is int and s > 1 for s in shape), "loss shape", shape)
    expect(math.prod(shape) <= MAX_CELLS, "loss shape", shape, "smaller")
    low, scale, top = (raw[k] for k in ("low", "scale", "top"))
    expect(all(map(is_number, (low, scale, top))), "loss", (low, scale, top), "three numbers")
    expect(scale > 0 and top > 0, "loss", (scale, top), "scaled by positive numbers")
    code = _codes(raw["data"], "loss", "<u2", shape)
    expect(top <= _MAX_TOP, "loss", top, f"of a range of at most exp({_MAX_TOP})")
    with np.errstate(over="ignore", invalid="ignore"):
        loss = low + scale * np.expm1(code / _LOSS_CODES * top)
    return np.where(code == _NO_LOSS, np.nan, loss)


def pack_deviation(deviation: Array) -> dict[str, Any]:
    """Return 8 bits per value, rounded up, logarithmic from ``low`` to ``low * exp(top)``."""
    ok = np.isfinite(deviation)
    high = float(deviation[ok].max()) if ok.any() else 0.0
    low = max(float(deviation[ok].min()), high / _DEVIATION_RATIO) if high else 0.0
    top = math.log(high / low) * (1 + _SLACK) + _SLACK if low else 0.0
    code = np.full(deviation.shape, _NO_DEVIATION, dtype=np.uint8)
    if low:
        share = np.log(np.maximum(deviation[ok] / low, 1.0)) / top
        code[ok] = np.ceil(share * _DEVIATION_CODES)
    else:
        code[ok] = 0
    return {"low": low, "top": top, "data": base64.b64encode(code.tobytes()).decode()}


def unpack_deviation(raw: Mapping[str, Any], shape: tuple[int, ...]) -> Array:
    """Return a deviation on the lattice of its loss; NaN where it was not finite.

    Raises:
        DamagedFile: If the scale or the data do not fit.
    """
    low, top = raw["low"], raw["top"]
    expect(all(map(is_number, (low, top))), "deviation", (low, top), "two numbers")
    right = low >= 0 and 0 <= top <= 2 * math.log(_DEVIATION_RATIO)
    expect(right, "deviation", (low, top), "on a scale that is not negative")
    code = _codes(raw["data"], "deviation", "u1", shape)
    return np.where(code == _NO_DEVIATION, np.nan, low * np.exp(code / _DEVIATION_CODES * top))


def _codes(data: Any, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    count = math.prod(shape)
    length = 4 * -(-np.dtype(dtype).itemsize * count // 3)
    fits = isinstance(data, str) and len(data) == length
    expect(fits, name, data, f"{length} characters for shape {list(shape)}")
    raw = base64.b64decode(data, validate=True)
    expect(len(raw) == np.dtype(dtype).itemsize * count, name, len(raw), f"{count} values")
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def pack_reach(reach: Reach) -> dict[str, Any]:
    """Return the distinct answers as masks in hexadecimal, and runs of which cell has which.

    For a learnt map also the numbers of the answers that may be unknown cells.
    """
    packed: dict[str, Any] = {"kinds": _masks(reach.kinds), "of": pack_runs(reach.of)}
    if reach.unknown is not None:
        packed["unknown"] = np.flatnonzero(reach.unknown).tolist()
    return packed


def _masks(kinds: Mask) -> list[str]:
    """Rows of bits as hexadecimal digits: bit ``i`` is bit ``i % 4`` of digit ``i // 4``."""
    wide = np.pad(kinds, [(0, 0), (0, -kinds.shape[1] % 4)])
    digits = wide.reshape(len(kinds), -1, 4) @ np.array([1, 2, 4, 8])
    return [row.tobytes().decode() for row in _HEX[digits]]


def unpack_reach(raw: Mapping[str, Any], size: int, n_sets: int) -> Reach:
    """Return which of ``n_sets`` Morse sets each of ``size`` cells may reach.

    Raises:
        DamagedFile: If a mask is of another size or names a set that is not there, or an answer
            that is to be unknown does not reach the exterior.
    """
    texts, length = raw["kinds"], n_sets // 4 + 1
    wanted = f"masks of {length} hexadecimal digits"
    known = isinstance(texts, list) and all(isinstance(t, str) for t in texts)
    known = known and all(len(t) == length and set(t) <= set("0123456789abcdef") for t in texts)
    expect(known and 0 < len(texts) <= size, "kinds of reach", texts, wanted)
    digits = np.array([[int(c, 16) for c in t] for t in texts])
    bits = (digits[:, :, None] >> np.arange(4) & 1).reshape(len(texts), -1) == 1
    expect(not bits[:, n_sets + 1 :].any(), "kinds of reach", texts, f"{n_sets + 1} bits each")
    kinds, unknown = bits[:, : n_sets + 1], None
    if "unknown" in raw:
        numbers, leaving = raw["unknown"], np.flatnonzero(kinds[:, -1]).tolist()
        right = isinstance(numbers, list) and all(type(k) is int for k in numbers)
        right = right and set(numbers) <= set(leaving)
        expect(right, "unknown of reach", numbers, "numbers of kinds that reach the exterior")
        unknown = np.isin(np.arange(len(kinds)), numbers)
    return Reach(kinds, unpack_runs(raw, "of", size, 0, len(texts) - 1), unknown)
