"""The part of a record that says what is known of the cells of one box, and its loss."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Array, Mask
from lightning_morse.conley.reach import Reach
from lightning_morse.files.schema import Check, DamagedFile
from lightning_morse.plotting.levels import contour_levels
from lightning_morse.view.layout import BOX, WHAT
from lightning_morse.view.packing import (
    MAX_CELLS,
    expect,
    pack_deviation,
    pack_loss,
    pack_reach,
    pack_runs,
    thinned,
    unpack_deviation,
    unpack_loss,
    unpack_reach,
    unpack_runs,
)

if TYPE_CHECKING:
    from lightning_morse.result import Box

MAX_AXES = 3
# Points of the lattice of the loss per axis, at most, by the dimension: none of these limits bears
# on labels or Morse sets, which are kept cell by cell.
_LOSS_POINTS = {1: 513, 2: 81, 3: 25}
_MAX_REACH_BYTES = 80_000  # the sets that cells may reach are left out where they take more
_N_LEVELS = 13  # contour lines


@dataclass(frozen=True, eq=False)
class BoxRecord:
    """What is shown of one box, see :class:`lightning_morse.view.record.ViewRecord`.

    Attributes:
        lower: Lower corner, shape ``(d,)``.
        upper: Upper corner, same shape.
        shape: Cells per axis.
        labels: Attractor of each cell, -1 undecided, -2 escapes; shape ``(size,)``, in C order.
        owner: Morse set that each cell belongs to, -1 if none; same shape.
        diverged: Cells nearest to a sample whose loss was not finite; same shape.
        loss: Posterior mean of the loss on a uniform lattice that includes the corners of the box.
        levels: Losses at which to draw contours, ascending.
        deviation: Posterior standard deviation of ``loss``, or None.
        reach: The Morse sets that each cell may reach, or None.
    """

    lower: Array
    upper: Array
    shape: tuple[int, ...]
    labels: NDArray[np.int32]
    owner: NDArray[np.int32]
    diverged: Mask
    loss: Array
    levels: tuple[float, ...]
    deviation: Array | None
    reach: Reach | None


def pack_box(box: Box) -> dict[str, Any]:
    """Return what a view needs of one box, as JSON has it."""
    points = _LOSS_POINTS[box.grid.dim]
    owner = np.full(box.grid.size, -1) if box.sets is None else box.sets
    parts: dict[str, Any] = {
        "lower": box.grid.lower.tolist(),
        "upper": box.grid.upper.tolist(),
        "shape": list(box.grid.shape),
        "labels": pack_runs(box.labels),
        "owner": pack_runs(owner),
        "diverged": pack_runs(box.diverged),
        "loss": pack_loss(thinned(box.mean_loss, points)),
        "levels": contour_levels(box.mean_loss, _N_LEVELS).tolist(),
    }
    if box.loss_deviation is not None:
        parts["deviation"] = pack_deviation(thinned(box.loss_deviation, points))
    if box.reach is not None:
        reach = pack_reach(box.reach)
        if len(json.dumps(reach, separators=(",", ":"))) <= _MAX_REACH_BYTES:
            parts["reach"] = reach
    return parts


def unpack_box(raw: Mapping[str, Any], n_sets: int, attractors: Sequence[int]) -> BoxRecord:
    """Return one box of a record.

    Args:
        raw: What :func:`pack_box` returned.
        n_sets: Number of Morse sets.
        attractors: Those that are attractors.

    Raises:
        DamagedFile: If a part does not fit; ``KeyError`` and others as
            :mod:`lightning_morse.view.packing` says.
    """
    shape, lower, upper = _checked_corners(raw)
    parts = Check(WHAT, {"axes": len(shape)}).facts(raw, BOX)
    d, size = len(shape), math.prod(shape)
    labels = unpack_runs(raw, "labels", size, -2, n_sets - 1)
    loss, deviation = unpack_loss(raw["loss"], d), parts["deviation"]
    return BoxRecord(
        lower=lower,
        upper=upper,
        shape=shape,
        labels=labels,
        owner=unpack_runs(raw, "owner", size, -1, n_sets - 1),
        diverged=unpack_runs(raw, "diverged", size, 0, 1).astype(bool),
        loss=loss,
        levels=tuple(map(float, parts["levels"])),
        deviation=None if deviation is None else unpack_deviation(deviation, loss.shape),
        reach=_checked_reach(parts["reach"], labels, n_sets, attractors),
    )


def unpack_inner(
    raw: Any, whole: BoxRecord, n_sets: int, attractors: Sequence[int]
) -> tuple[BoxRecord, ...]:
    """Return the boxes inside a whole one, each after those around it.

    Raises:
        DamagedFile: As :func:`unpack_box` does, or if they have too many cells or lie elsewhere.
    """
    expect(isinstance(raw, list), "inner", raw, "a list of boxes")
    boxes: list[BoxRecord] = []
    for k, one in enumerate(raw, start=1):
        expect(isinstance(one, dict), f"box {k}", one)
        try:
            # Before anything is allocated for its cells.
            shape, lower, upper = _checked_corners(one)
            within = len(shape) == len(whole.shape)
            within = within and bool((lower >= whole.lower).all() and (upper <= whole.upper).all())
            expect(within, "corners", [one["lower"], one["upper"]], "inside the whole box")
            cells = sum(math.prod(s) for s in (whole.shape, shape, *(b.shape for b in boxes)))
            expect(cells <= MAX_CELLS, "shape", shape, f"of at most {MAX_CELLS} cells in all boxes")
            boxes.append(unpack_box(one, n_sets, attractors))
        except DamagedFile as error:
            member = f"box {k} inside: {error.member}"
            raise DamagedFile(WHAT, member, error.expected, error.came) from error
    return tuple(boxes)


def _checked_corners(raw: Mapping[str, Any]) -> tuple[tuple[int, ...], Array, Array]:
    """Shape of the grid, and the corners of its box."""
    check = Check(WHAT)
    given = {member.name: check.fact(member, raw) for member in BOX[:3]}
    shape, lower, upper = tuple(given["shape"]), *map(np.array, (given["lower"], given["upper"]))
    expect(1 <= len(shape) <= MAX_AXES, "shape", shape, f"of 1 to {MAX_AXES} axes")
    expect(math.prod(shape) <= MAX_CELLS, "shape", shape, f"of at most {MAX_CELLS} cells")
    expect(bool((lower < upper).all()), "lower", raw["lower"], 'below "upper" on every axis')
    lower, upper = lower.astype(np.float64), upper.astype(np.float64)
    return shape, lower, upper


def _checked_reach(
    raw: Any, labels: NDArray[np.int32], n_sets: int, attractors: Sequence[int]
) -> Reach | None:
    if raw is None:
        return None
    reach = unpack_reach(raw, labels.size, n_sets)
    implied = reach.labels(attractors)
    expect(np.array_equal(implied, labels), "reach", "another", "what the labels say")
    return reach
