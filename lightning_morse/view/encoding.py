"""The record of an analysis as it is written: from the result to JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array
from lightning_morse.arguments import course_in_slice
from lightning_morse.view.box_record import MAX_AXES, pack_box
from lightning_morse.view.packing import MAX_CELLS, short
from lightning_morse.view.record import FORMAT, VERSION, summary_of
from lightning_morse.words import short_of_one

if TYPE_CHECKING:
    from lightning_morse.result import MorseAnalysis

_SAME_POINT = 1e-9  # of the width of the box


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
        JSON, one line, ASCII; :func:`lightning_morse.view.record.decode` reads it.

    Raises:
        ValueError: If the analysis has more than three dimensions or too many cells, an argument
            does not have its dimension, or the identities are not those of the attractors.
    """
    d = result.grid.dim
    _check_size(result)
    path, now, labels = course_in_slice(d, trajectory, current, axis_labels)
    path = path[np.isfinite(path).all(axis=1)]
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
        "summary": summary_of(*when, facts, sets, numbers, scalars),
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


def _sets(result: MorseAnalysis, identities: Mapping[int, int] | None) -> list[dict[str, Any]]:
    # Writing a record needs the colours of the figures; who lists runs must not load them.
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
