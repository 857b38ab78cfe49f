"""What becomes of a point, as far as an analysis tells; :mod:`.sentence` says it in words.

A point is in a basin, or leaves, or is undecided; the reason why it is undecided is read off what
its cell may reach (:class:`~lightning_morse.conley.reach.Reach`):

* ``"refuted"``: its box, or one that holds an unresolved Morse set it may reach, has a surrogate
  that the samples refute. More samples alone may not help: the loss is not of the kind supposed.
* ``"unexplored"``: of a learnt map, it may come to unknown cells, where the runs say too little.
  More recorded runs help.
* ``"unresolved"``: it may reach a Morse set that may hide an attractor.
* ``"edge"``: it may leave the box, or end in attractors, or in Morse sets that are resolved or lie
  right at the face that it may leave through. More samples hardly help, a larger box does.
* ``"band"``: it stays, but may reach several attractors or resolved sets, or one that is no
  attractor. The flows within the band part there; more samples make the band thinner.
* ``"unknown"``: the analysis is from an older file that does not say what cells may reach.

The first of these that applies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.gp.calibration import PLAINLY_WRONG
from lightning_morse.result import Box, MorseAnalysis, WayOut

Kind = Literal["basin", "descends", "diverges", "undecided", "outside", "diverged"]
Reason = Literal["refuted", "unexplored", "unresolved", "edge", "band", "unknown"]

# Within so many cells of a face a set lies at it.
_AT_FACE = 3
# The point that an analysis was asked about is recognised within this share of the box: rounding.
_SAME_POINT = 1e-9


@dataclass(frozen=True, eq=False)
class Verdict:
    """What becomes of a point.

    Attributes:
        kind: ``"basin"``: it is certainly in the basin of an attractor. ``"descends"``: it
            certainly leaves the outermost box, without coming to rest. ``"diverges"``: it certainly
            comes to a cell where the loss diverged, and leaves through no face. ``"undecided"``.
            ``"outside"``: it lies outside the box, and nothing is known. ``"diverged"``: it lies
            where the loss diverged or, for a learnt map, where the runs say too little.
        attractor: Number of the attractor's Morse set, if it is in a basin.
        loss: The loss at that attractor, or where the mean flow leaves; None if unknown.
        loss_deviation: Its deviation, 0 where it was measured; None if unknown.
        faces: Axis and side (0 lower, 1 upper) of each face that it may leave through.
        way: Where the mean flow leaves, if it certainly does and the analysis was asked about it.
        half_widths: How far that is along the axis of the face, in half-widths of the box.
        reason: Why it is undecided.
        sets: Morse sets that it may end in, where it is undecided.
        unresolved: Those of them that may hide an attractor.
        goes: How far it certainly goes at first although it is undecided where to: the distance to
            the nearest face of the largest box inside that it certainly leaves, units of the slice.
    """

    kind: Kind
    attractor: int | None = None
    loss: float | None = None
    loss_deviation: float | None = None
    faces: tuple[tuple[int, int], ...] = ()
    way: WayOut | None = None
    half_widths: float | None = None
    reason: Reason | None = None
    sets: tuple[int, ...] = ()
    unresolved: tuple[int, ...] = ()
    goes: float | None = None

    @property
    def face(self) -> tuple[int, int] | None:
        """The face that it leaves through: the only one possible, else that of the mean flow.

        None if it does not certainly leave, or that is not known.
        """
        if self.kind != "descends":
            return None
        if len(self.faces) == 1:
            return self.faces[0]
        return None if self.way is None else self.way.face

    @property
    def distance(self) -> float | None:
        """From the point to where the mean flow leaves, in units of the slice; None if unknown."""
        return None if self.way is None else float(np.linalg.norm(self.way.end - self.way.start))


def verdict(result: MorseAnalysis, point: ArrayLike) -> Verdict:
    """Say what becomes of a point, with the certainty of the labels of an analysis.

    Kind, attractor, faces and sets hold with probability at least ``result.confidence``, under the
    premise of :class:`~lightning_morse.result.MorseAnalysis`; the way of the mean flow and losses
    that were not measured are estimates.

    Args:
        result: The analysis.
        point: Shape ``(d,)``.

    Raises:
        ValueError: If the shape does not match the box or a coordinate is NaN.
    """
    x = np.asarray(point, dtype=np.float64)
    (label,) = result.basin_of(x[None]).tolist()
    if label >= 0:
        m = result.morse_sets[label]
        return Verdict("basin", label, m.loss, m.loss_deviation)
    inside = [k for k, box in enumerate(result.boxes) if box.grid.cell_of(x[None])[0] >= 0]
    if not inside:
        return Verdict("outside")
    box = result.boxes[inside[-1]]
    cell = int(box.grid.cell_of(x[None])[0])
    if box.diverged[cell]:
        return Verdict("diverged")
    faces = _faces(box.faces, cell)
    if label < -1:
        through_none = box.faces is not None and not faces
        return Verdict("diverges") if through_none else _descends(result, x, faces)
    found = _undecided(result, inside[-1], cell, faces)
    return dataclasses.replace(found, goes=_certain_distance(result, inside, found.sets, x))


def _faces(faces: Mask | None, cell: int) -> tuple[tuple[int, int], ...]:
    if faces is None:
        return ()
    return tuple((int(axis), int(side)) for axis, side in np.argwhere(faces[cell]))


def _descends(result: MorseAnalysis, x: Array, faces: tuple[tuple[int, int], ...]) -> Verdict:
    way, width = result.way_out, result.grid.upper - result.grid.lower
    if way is None or (np.abs(way.start - x) > _SAME_POINT * width).any():
        return Verdict("descends", faces=faces)
    if faces and way.face not in faces:  # the mean is within the band, but the steps are rounded
        return Verdict("descends", faces=faces)
    axis = way.face[0]
    return Verdict(
        "descends",
        loss=way.loss,
        loss_deviation=way.loss_deviation,
        faces=faces,
        way=way,
        half_widths=float(abs(way.end - way.start)[axis] / (0.5 * width[axis])),
    )


def _undecided(
    result: MorseAnalysis, k: int, cell: int, faces: tuple[tuple[int, int], ...]
) -> Verdict:
    boxes = result.boxes
    reach = boxes[k].reach
    if reach is None:
        return Verdict("undecided", reason="unknown")
    sets, leaves = reach.at(cell)
    reached = [(i, result.morse_sets[i]) for i in sets]
    unresolved = tuple(i for i, m in reached if not (m.resolved or m.is_attractor))
    refuted = [j for j, box in enumerate(boxes) if box.calibration >= PLAINLY_WRONG]
    reason: Reason
    if k in refuted or any(_meets(result, i, j) for i in unresolved for j in refuted):
        reason = "refuted"
    elif reach.comes_to_unknown(cell):
        reason = "unexplored"
    elif unresolved and not all(_at_face(result, i, faces) for i in unresolved):
        reason = "unresolved"
    else:
        reason = "edge" if leaves else "band"
    return Verdict("undecided", faces=faces, reason=reason, sets=sets, unresolved=unresolved)


def _certain_distance(
    result: MorseAnalysis, inside: list[int], sets: tuple[int, ...], x: Array
) -> float | None:
    """How far a point certainly goes: out of the largest box in which no Morse set awaits it.

    A trajectory that stays in a box comes to a Morse set there that its cell may reach.

    Args:
        result: The analysis.
        inside: Numbers of the boxes that hold the point, the outermost first.
        sets: Morse sets that its cell may reach.
        x: The point, shape ``(d,)``.
    """
    boxes = result.boxes
    if boxes[inside[-1]].reach is None:
        return None
    for k in inside[1:]:
        within = [k]
        within += [j for j in range(k + 1, len(boxes)) if _is_within(boxes, j, k)]
        there = {int(i) for j in within for i in np.unique(_sets_in(boxes[j]))}
        if not there & set(sets) and not any(boxes[j].diverged.any() for j in within):
            grid = boxes[k].grid
            return float(np.minimum(x - grid.lower, grid.upper - x).min())
    return None


def _is_within(boxes: Sequence[Box], j: int, k: int) -> bool:
    while j > k:
        j = boxes[j].parent
    return j == k


def _sets_in(box: Box) -> NDArray[np.int32]:
    """Number of the Morse set of each cell of a box, -1 for none."""
    return np.full(1, -1, np.int32) if box.sets is None else box.sets


def _at_face(result: MorseAnalysis, number: int, faces: tuple[tuple[int, int], ...]) -> bool:
    """Whether all of a Morse set lies within a few cells of one of some faces."""
    grid = result.grid
    centers = grid.cell_centers()[result.morse_sets[number].cells]
    to_lower, to_upper = centers - grid.lower, grid.upper - centers
    most = _AT_FACE * grid.cell_widths
    return any(
        bool(((to_upper if side else to_lower)[:, axis] < most[axis]).all()) for axis, side in faces
    )


def _meets(result: MorseAnalysis, number: int, k: int) -> bool:
    """Whether a Morse set has cells of a box that no box inside covers."""
    boxes = result.boxes
    grid = boxes[k].grid
    cells = result.morse_sets[number].cells if k == 0 else _cells_of(boxes[k], number)
    centers = grid.cell_centers()[cells]
    covered = np.zeros(len(centers), dtype=bool)
    for box in boxes:
        if box.parent == k:
            covered |= box.grid.cell_of(centers) >= 0
    return bool((~covered).any())


def _cells_of(box: Box, number: int) -> Cells:
    return np.flatnonzero(box.sets == number) if box.sets is not None else np.zeros(0, np.int64)
