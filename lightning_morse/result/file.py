"""The file of an analysis: written from the record, and checked when it is read."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from lightning_morse import facts
from lightning_morse.conley.reach import ESCAPES, UNDECIDED, Reach
from lightning_morse.files import archive
from lightning_morse.files.archive import Archive
from lightning_morse.files.schema import Check
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.result import layout
from lightning_morse.result.parts import Box, Curvature, Ladder, MorseSet, WayOut
from lightning_morse.result.record import MorseAnalysis
from lightning_morse.words import NO_CLAIM


def write(result: MorseAnalysis, path: str | os.PathLike[str]) -> None:
    """Write an analysis, see :meth:`MorseAnalysis.save`."""
    archive.write(path, _plain_facts(result), _arrays(result))


def read(path: str | os.PathLike[str]) -> MorseAnalysis:
    """Read an analysis, see :meth:`MorseAnalysis.load`."""
    with archive.opened(path, layout.WHAT) as file:
        raw = file.facts(archive.FORMAT_VERSION)
        check = Check(layout.WHAT)
        plain = check.facts(raw, layout.FACTS)
        sets, n_attractors = plain["sets"], sum(m["is_attractor"] for m in plain["sets"])
        check.sizes |= {"attractors": n_attractors, "columns": len(sets) + 1}
        _know_cells(check, plain["shape"])
        found = file.arrays(layout.ARRAYS, check)
        about = {**plain, **found, "sets of facts": sets, "attractors": n_attractors}
        check.relations(layout.RELATIONS + layout.BOX_RELATIONS, about)
        return _analysis(plain, found, check, file)


# ------------------------------------------------------------------------------- writing


def _plain_facts(result: MorseAnalysis) -> dict[str, Any]:
    """Everything but the arrays, to be written as JSON."""
    return {
        "shape": list(result.grid.shape),
        "edges": sorted(map(list, result.graph.edges)),
        "sets": [
            {
                "is_attractor": m.is_attractor,
                "resolved": m.resolved,
                "index": m.index,
                "loss": m.loss,
                "volume": m.volume,
                "mu": m.mu,
                "loss_deviation": m.loss_deviation,
                "curvature": _stored_curvature(m.curvature),
                "wall": m.wall,
            }
            for m in result.morse_sets
        ],
        "mu": result.mu,
        "confidence": result.confidence,
        "calibration": result.calibration,
        "surrogate": facts.stored(result.surrogate),
        "seconds": dict(result.seconds),
        "n_measured": result.n_measured,
        "evidence": None if result.evidence is None else dataclasses.asdict(result.evidence),
        "way_out": _stored_way(result.way_out),
        "curvature": _stored_curvature(result.curvature),
        # Readers of this format that know of no boxes inside see the outermost one, whose labels
        # are certain by themselves.
        "inner": [
            {
                "shape": list(box.grid.shape),
                "parent": box.parent,
                "calibration": box.calibration,
                "surrogate": facts.stored(box.surrogate),
                "n_samples": box.n_samples,
            }
            for box in result.inner
        ],
    }


def _stored_curvature(curvature: Curvature | None) -> dict[str, float] | None:
    return None if curvature is None else dataclasses.asdict(curvature)


def _stored_way(way: WayOut | None) -> dict[str, Any] | None:
    if way is None:
        return None
    points = {"start": way.start.tolist(), "end": way.end.tolist(), "face": list(way.face)}
    return {**points, "loss": way.loss, "loss_deviation": way.loss_deviation}


def _arrays(result: MorseAnalysis) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {
        "cells": np.concatenate([m.cells for m in result.morse_sets] or [np.zeros(0, int)]),
        "cell_counts": np.array([m.cells.size for m in result.morse_sets], dtype=np.int64),
        "centers": np.array([m.center for m in result.morse_sets]).reshape(-1, result.grid.dim),
        "exit_volumes": result.exit_volumes,
        "samples": result.samples,
        "sample_losses": result.sample_losses,
        "ladder_levels": result.ladder.levels,
        "ladder_blocks": result.ladder.blocks,
    }
    # Which Morse set meets a cell of the outermost box follows from the cells of the sets.
    arrays.update(_arrays_of_box(dataclasses.replace(result.boxes[0], sets=None)))
    for k, box in enumerate(result.inner, start=1):
        arrays.update({f"box{k}_{name}": array for name, array in _arrays_of_box(box).items()})
    return arrays


def _arrays_of_box(box: Box) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {
        "lower": box.grid.lower,
        "upper": box.grid.upper,
        "labels": box.labels,
        "diverged": box.diverged,
        "mean_loss": box.mean_loss,
    }
    if box.loss_deviation is not None:
        arrays["loss_deviation"] = box.loss_deviation
    if box.reach is not None:
        arrays.update(reach_kinds=box.reach.kinds, reach_of=box.reach.of)
        if box.reach.unknown is not None:
            arrays["reach_unknown"] = box.reach.unknown
    if box.sets is not None:
        arrays["sets"] = box.sets
    if box.faces is not None:
        arrays["faces"] = box.faces
    return arrays


# ------------------------------------------------------------------------------- reading


def _know_cells(check: Check, shape: Sequence[int]) -> None:
    """Add the sizes that follow from the shape of a grid."""
    vertices = tuple(n + 1 for n in shape)
    check.sizes |= {"axes": len(shape), "cells": math.prod(shape), "vertices": vertices}


def _analysis(
    plain: Mapping[str, Any], arrays: Mapping[str, Any], check: Check, file: Archive
) -> MorseAnalysis:
    """The analysis, from members that have been checked one by one."""
    cells = np.split(arrays["cells"], np.cumsum(arrays["cell_counts"])[:-1])
    sets = tuple(
        MorseSet(
            cells=cells[i],
            center=arrays["centers"][i],
            **{**fact, "curvature": _curvature(fact["curvature"])},
        )
        for i, fact in enumerate(plain["sets"])
    )
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(sets)))
    graph.add_edges_from(plain["edges"])
    root = _box({**plain, "parent": -1, "n_samples": 0}, arrays, sets, check)
    result = MorseAnalysis(
        grid=root.grid,
        morse_sets=sets,
        graph=graph,
        labels=root.labels,
        diverged=root.diverged,
        exit_volumes=arrays["exit_volumes"],
        mu=plain["mu"],
        confidence=plain["confidence"],
        mean_loss=root.mean_loss,
        samples=arrays["samples"],
        sample_losses=arrays["sample_losses"],
        calibration=root.calibration,
        surrogate=root.surrogate,
        seconds=plain["seconds"],
        ladder=Ladder(arrays["ladder_levels"], arrays["ladder_blocks"]),
        loss_deviation=root.loss_deviation,
        reach=root.reach,
        inner=_inner(plain["inner"] or [], root.grid, sets, check, file),
        faces=root.faces,
        way_out=_way(plain["way_out"]),
        n_measured=plain["n_measured"] or 0,
        evidence=facts.Evidence(**plain["evidence"]) if plain["evidence"] else None,
        curvature=_curvature(plain["curvature"]),
    )
    return _as_of_today(result)


def _as_of_today(result: MorseAnalysis) -> MorseAnalysis:
    """What an older file says, without what is not claimed any more."""
    if result.claim == NO_CLAIM and result.mu:
        result = dataclasses.replace(result, mu=0.0)
    if not (result.is_map and result.diverged.any()):
        return result
    reach = result.reach
    if reach is not None and reach.unknown is not None:
        return result
    # It does not tell leaving the box from coming to an unknown cell.
    if reach is not None:
        reach = Reach(reach.kinds, reach.of, reach.kinds[:, -1].copy())
    labels = np.where(result.labels == ESCAPES, np.int32(UNDECIDED), result.labels)
    none = np.zeros_like(result.exit_volumes)
    return dataclasses.replace(result, labels=labels, reach=reach, exit_volumes=none)


def _inner(
    plain: Sequence[Mapping[str, Any]],
    root: CubicalGrid,
    sets: tuple[MorseSet, ...],
    check: Check,
    file: Archive,
) -> tuple[Box, ...]:
    """The boxes inside, each of which must lie in one before it."""
    grids, boxes = [root], []
    for k, fact in enumerate(plain, start=1):
        own = Check(layout.WHAT, {**check.sizes}, f"box {k}: ")
        own.sizes.pop("kinds", None)
        own.expect(len(fact["shape"]) == root.dim, "shape", f"of {root.dim} axes", fact["shape"])
        _know_cells(own, fact["shape"])
        arrays = file.arrays(layout.BOX_ARRAYS, own, f"box{k}_")
        own.relations(layout.BOX_RELATIONS, {**arrays, "attractors": check.sizes["attractors"]})
        parent = fact["parent"]
        own.expect(parent < k, "parent", "the number of a box before it", parent)
        box, around = _box(fact, arrays, sets, own), grids[parent]
        inside = (box.grid.lower >= around.lower).all() and (box.grid.upper <= around.upper).all()
        own.expect(bool(inside), "lower", f"inside box {parent}, and upper too", "outside")
        grids.append(box.grid)
        boxes.append(box)
    return tuple(boxes)


def _box(
    plain: Mapping[str, Any],
    arrays: Mapping[str, Any],
    sets: tuple[MorseSet, ...],
    check: Check,
) -> Box:
    """One box, from members that have been checked one by one."""
    return Box(
        grid=CubicalGrid(arrays["lower"], arrays["upper"], plain["shape"]),
        parent=plain["parent"],
        labels=arrays["labels"],
        diverged=arrays["diverged"],
        mean_loss=arrays["mean_loss"],
        calibration=plain["calibration"],
        surrogate=_surrogate(plain["surrogate"], check),
        loss_deviation=arrays.get("loss_deviation"),
        reach=_reach(arrays, sets, check),
        sets=arrays.get("sets"),
        n_samples=plain["n_samples"],
        faces=arrays.get("faces"),
    )


def _surrogate(raw: Mapping[str, Any] | None, check: Check) -> facts.Facts | None:
    """Facts about a surrogate, whose table depends on what it is of."""
    if not raw:
        return None
    raw = facts.with_names_of_today(raw)
    table = layout.MAP_FACTS if "periods" in raw else layout.LOSS_FACTS
    own = Check(check.what, check.sizes, f"{check.where}surrogate: ")
    own.facts(raw, table)
    if "periods" in raw:
        known = isinstance(raw.get("betti"), list) and all(map(_are_numbers, raw["betti"]))
        own.expect(known, "betti", "null or a list of integers for each set", raw.get("betti"))
    try:
        return facts.restored(raw)
    except ValueError as error:
        own.refuse("", "facts of this version or an earlier one", str(error))


def _are_numbers(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(type(v) is int for v in value))


def _curvature(plain: Mapping[str, Any] | None) -> Curvature | None:
    if plain is None:
        return None
    return Curvature(plain["largest"], plain["deviation"], plain["at_least"])


def _way(plain: Mapping[str, Any] | None) -> WayOut | None:
    if plain is None:
        return None
    axis, side = plain["face"]
    start, end = (np.array(plain[name], dtype=np.float64) for name in ("start", "end"))
    return WayOut(start, end, (axis, side), plain["loss"], plain["loss_deviation"])


def _reach(arrays: Mapping[str, Any], sets: tuple[MorseSet, ...], check: Check) -> Reach | None:
    """The reach of the cells as an archive has it, which must agree with the labels."""
    if "reach_of" not in arrays:
        return None
    reach = Reach(arrays["reach_kinds"], arrays["reach_of"], arrays.get("reach_unknown"))
    implied = reach.labels(i for i, m in enumerate(sets) if m.is_attractor)
    same = np.array_equal(implied, arrays["labels"])
    check.expect(same, "labels", "those of what its cells may reach", "others")
    return reach
