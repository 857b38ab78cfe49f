r"""Attractors that keep their identity from one analysis of a run to the next.

Each analysis has its own slice: its box moves with the weights, and its directions may turn.
Nothing is known about the flow outside the slice, so two attractors are never proved to be the
same. Calling them the same is a convention with a stated rule. A change of basins, on the other
hand, is more: a statement about a single slice that holds on the event of its band.

**Same attractor.** A point of one slice is *seen* in another at its nearest point there, provided
that the distance between the two is at most a quarter of the room around the attractor in whose
certain basin that nearest point lies: the smaller of the distance to the nearest other attractor of
that analysis and the smallest half-width of its box. Two attractors are the same if each is seen in
the certain basin of the other. An attractor is identified with at most one earlier attractor, and
more recent analyses take precedence; an attractor that matches none gets a new identity. For two
boxes in the same plane more is true: the flow is the same, each attractor as seen in the other
analysis flows to the attractor there, and if both Morse sets are resolved and both bands hold, they
contain one and the same minimum.

**Change of basins.** The weights were certainly in the basin of ``A``, and at the next analysis
where their basin is certain again, it is that of ``B``. This counts only if one of the two slices
shows both, by identity: the old weights in ``A`` and the new ones certainly in another basin, or
the new weights in ``B`` and the old ones certainly in another basin; and only if the other slice
does not contradict, by showing the old weights in ``B`` or the new ones in ``A``. On the event of
the band of that one slice, the two points of it that represent the old and the new weights lie in
the basins of different attractors of its flow. Weights that lie in their slices and have not moved
are seen at the same point in both, so turning a slice never counts by itself. A move there and back
between two analyses, or through basins that are never certain, is not counted: the count is a lower
bound.

**Premise.** The loss is the same function of the weights in both analyses: nothing else that it
depends on (a schedule in the loss, or running statistics of batch normalisation where these are
used) has changed. Analyses that claim nothing (``mu`` is 0, as where the samples refute the
surrogate) provide identities, but
no certain basins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lightning_morse._typing import Array, Cells
from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.result import MorseAnalysis
from lightning_morse.slices.subspace import AffineSubspace

# Largest distance from a slice at which a point still counts as seen in it, as a fraction of the
# room around an attractor. Identities are a convention, and so is this number: what is certain of
# the points of a slice does not depend on it.
TOLERANCE = 0.25
# Most pictures kept: the last one, that of the last certain basin, and one for lost attractors.
# This bounds memory. A picture that is dropped can only lose an identity, never create a change of
# basins.
MAX_PICTURES = 3
# Rows of the weight vectors converted to float64 at a time, to bound memory.
_ROWS_PER_BLOCK = 1 << 16


@dataclass(frozen=True)
class Tracked:
    """Identities of the attractors of an analysis.

    Attributes:
        identities: Identity of each attractor, keyed by the number of its Morse set.
        current: Identity of the attractor in whose basin the weights lie; -1 if undecided, -2 if
            they leave the box.
        switch: The identities before and after, if the weights have certainly changed basins since
            the last analysis in which their basin was certain; otherwise None.
    """

    identities: dict[int, int]
    current: int
    switch: tuple[int, int] | None


class AttractorTracker:
    """Gives the attractors of successive analyses of a run persistent identities.

    Identities are 0, 1, 2, ... in order of first appearance, by ascending loss within an analysis.
    The rule is stated in :mod:`lightning_morse.monitoring.tracking`.

    The tracker keeps at most three pictures: the last one, as far as there is room that of the last
    certain basin, and those that were the last to show an attractor missing from all later ones.
    Each consists of an affine subspace (``dim + 1`` weight vectors, on the CPU) and the labels of
    the cells of all its boxes.

    Args:
        max_pictures: Number of pictures to keep where memory is limited, at least 1; each is
            ``dim + 1`` weight vectors. With fewer, identities are lost sooner and changes missed.

    Attributes:
        max_pictures: As given.
        switches: Number of times the weights have certainly changed basins.

    Example:
        The slice is all of weight space; its box moves, and the two minima swap their order:

        >>> from lightning_morse import analyze
        >>> plane = AffineSubspace(torch.zeros(1), torch.ones(1, 1))
        >>> def wells(x, tilt):
        ...     return ((x**2 - 1) ** 2 + tilt * x).sum(1)
        >>> left = analyze(lambda x: wells(x, 0.1), [-2], [2], n_samples=32, resolution=64)
        >>> right = analyze(lambda x: wells(x, -0.1), [-1.9], [2.2], n_samples=32, resolution=64)
        >>> tracker = AttractorTracker()
        >>> tracker.update(plane, left, [-1.3])
        Tracked(identities={0: 0, 1: 1}, current=0, switch=None)
        >>> tracker.update(plane, right, [0.8])
        Tracked(identities={0: 1, 1: 0}, current=1, switch=(0, 1))
    """

    def __init__(self, max_pictures: int = MAX_PICTURES) -> None:
        self.max_pictures = max_pictures
        self.switches = 0
        self._next = 0
        self._pictures: list[_Picture] = []  # oldest first

    def update(
        self, subspace: AffineSubspace, result: MorseAnalysis, current: ArrayLike
    ) -> Tracked:
        """Identify the attractors of an analysis; call it once per analysis, in order.

        Weight vectors of another length belong to another network: all identities are new then, and
        no change of basins is counted.

        Args:
            subspace: The slice, of dimension ``d``.
            result: The analysis of the loss on it.
            current: The current weights in the coordinates of the slice, shape ``(d,)``, finite.

        Returns:
            The identities, the basin of the weights, and whether they have changed basins.

        Raises:
            ValueError: If slice, analysis and point differ in dimension.
        """
        x, d = np.asarray(current, dtype=np.float64), subspace.dim
        if result.grid.dim != d or x.shape != (d,):
            raise ValueError(
                f"slice, analysis and current point must have the same dimension, got {d}, "
                f"{result.grid.dim} and a point of shape {x.shape}"
            )
        kept = [p for p in self._pictures if p.subspace.n_parameters == subspace.n_parameters]
        new = _Picture(
            subspace=subspace.to("cpu"),
            grids=tuple(box.grid for box in result.boxes),
            labels=tuple(box.labels.astype(np.int64) for box in result.boxes),
            centers=np.array([result.morse_sets[a].center for a in result.attractors]).reshape(
                -1, d
            ),
            identities=np.array(result.attractors, dtype=np.int64),
            current=x,
            certain=result.mu > 0,
        )
        numbers = new.identities
        known: dict[int, int] = {}
        for old in reversed(kept):
            for number, identity in _same(old, new):
                if number not in known and identity not in known.values():
                    known[number] = identity
        for number in numbers.tolist():
            if number not in known:
                known[number] = self._next
                self._next += 1
        new = new.renamed(known)
        home = next((p for p in reversed(kept) if p.home >= 0), None)
        switch = None if home is None else _switch(home, new)
        self.switches += switch is not None
        self._pictures = _worth_keeping([*kept, new], self.max_pictures)
        return Tracked({a: known[a] for a in numbers.tolist()}, new.basin(x), switch)

    def state_dict(self) -> dict[str, Any]:
        """The complete state, in plain containers and tensors."""
        return {
            "switches": self.switches,
            "next": self._next,
            "pictures": [p.state_dict() for p in self._pictures],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state returned by :meth:`state_dict`."""
        self.switches = state["switches"]
        self._next = state["next"]
        pictures = state["pictures"][-self.max_pictures :] if self.max_pictures else []
        self._pictures = [_Picture.of(p) for p in pictures]


def untracked(result: MorseAnalysis, current: ArrayLike) -> Tracked:
    """Identities within a single analysis: the numbers of the Morse sets.

    Args:
        result: The analysis.
        current: The current weights in the coordinates of the slice, shape ``(d,)``.
    """
    basin = int(result.basin_of(np.asarray(current, dtype=np.float64)[None])[0])
    return Tracked({a: a for a in result.attractors}, basin, None)


@dataclass(frozen=True, eq=False)
class _Picture:
    """The part of an analysis that is kept. Labels are identities, -1 undecided, -2 escapes.

    Grids and labels are those of all boxes, the outermost first.
    """

    subspace: AffineSubspace
    grids: tuple[CubicalGrid, ...]
    labels: tuple[Cells, ...]
    centers: Array
    identities: Cells
    current: Array
    certain: bool

    def basin(self, x: Array) -> int:
        """Label at a point of the slice, in the innermost box that holds it."""
        for grid, labels in zip(reversed(self.grids), reversed(self.labels), strict=True):
            cell = int(grid.cell_of(x[None])[0])
            if cell >= 0:
                return int(labels[cell])
        return ESCAPES

    @property
    def home(self) -> int:
        """Label at the weights; undecided if nothing in the analysis is certain."""
        return self.basin(self.current) if self.certain else UNDECIDED

    def room(self, identity: int) -> float:
        """Distance from an attractor to the nearest other, capped at the smallest half-width."""
        distances = np.linalg.norm(
            self.centers - self.centers[self.identities == identity], axis=1
        )[self.identities != identity]
        whole = self.grids[0]
        return float(min([*distances, 0.5 * (whole.upper - whole.lower).min()]))

    def renamed(self, known: Mapping[int, int]) -> _Picture:
        """The same picture with identities in place of the numbers of Morse sets."""
        names = np.array([known[i] for i in self.identities.tolist()], dtype=np.int64)
        # Attractors are the first Morse sets, so their numbers are positions in the table. The
        # labels -1 and -2 index it from the end.
        table = np.concatenate([names, [ESCAPES, UNDECIDED]])
        return _Picture(
            subspace=self.subspace,
            grids=self.grids,
            labels=tuple(table[labels] for labels in self.labels),
            centers=self.centers,
            identities=names,
            current=self.current,
            certain=self.certain,
        )

    def state_dict(self) -> dict[str, Any]:
        whole, *inner = map(_stored_box, self.grids, self.labels)
        return {
            "origin": self.subspace.origin,
            "directions": self.subspace.directions,
            **whole,
            "inner": inner,
            "centers": self.centers.tolist(),
            "identities": self.identities.tolist(),
            "current": self.current.tolist(),
            "certain": self.certain,
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> _Picture:
        subspace = AffineSubspace(state["origin"], state["directions"]).to("cpu")
        # Older states have no boxes inside.
        grids, labels = zip(*map(_restored_box, [state, *state.get("inner", [])]), strict=True)
        return cls(
            subspace=subspace,
            grids=grids,
            labels=labels,
            centers=np.array(state["centers"], dtype=np.float64).reshape(-1, subspace.dim),
            identities=np.array(state["identities"], dtype=np.int64),
            current=np.array(state["current"], dtype=np.float64),
            certain=state["certain"],
        )


def _stored_box(grid: CubicalGrid, labels: Cells) -> dict[str, Any]:
    """A grid and runs of equal labels."""
    values, counts = torch.unique_consecutive(torch.tensor(labels), return_counts=True)
    return {
        "lower": grid.lower.tolist(),
        "upper": grid.upper.tolist(),
        "shape": list(grid.shape),
        "labels": values,
        "counts": counts,
    }


def _restored_box(state: Mapping[str, Any]) -> tuple[CubicalGrid, Cells]:
    grid = CubicalGrid(state["lower"], state["upper"], state["shape"])
    labels = state["labels"].cpu().repeat_interleave(state["counts"].cpu())
    return grid, labels.numpy()


def _same(old: _Picture, new: _Picture) -> list[tuple[int, int]]:
    """Pairs of a new and an old attractor, each seen in the certain basin of the other."""
    forward = _seen(old, old.centers, new)
    back = _seen(new, new.centers, old)
    before = dict(zip(new.identities.tolist(), back, strict=True))
    return [
        (number, identity)
        for identity, number in zip(old.identities.tolist(), forward, strict=True)
        if number >= 0 and before[number] == identity
    ]


def _switch(old: _Picture, new: _Picture) -> tuple[int, int] | None:
    """Identities of the basins before and after a certain change; None if there was none."""
    a, b = old.home, new.home
    if b < 0 or a == b:
        return None
    (then,) = _seen(old, old.current[None], new)
    (now,) = _seen(new, new.current[None], old)
    shown = then == a or now == b
    contradicted = then == b or now == a
    return (a, b) if shown and not contradicted else None


def _seen(source: _Picture, points: Array, target: _Picture) -> list[int]:
    """Label of each point of one picture in another; undecided if too far from its slice."""
    at, off = _carried(source.subspace, points, target.subspace)
    labels = [target.basin(x) for x in at]
    return [
        UNDECIDED if label >= 0 and distance > TOLERANCE * target.room(label) else label
        for label, distance in zip(labels, off.tolist(), strict=True)
    ]


def _carried(source: AffineSubspace, points: Array, target: AffineSubspace) -> tuple[Array, Array]:
    """Coordinates in the target slice of points of the source, shape ``(n, d)``, and distances.

    Both follow from ``d + 1`` weight vectors, whatever the number of points.
    """

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        parts = (source.origin, source.directions, target.origin, target.directions)
        for o, along, p, onto in zip(
            *(torch.split(t, _ROWS_PER_BLOCK) for t in parts), strict=True
        ):
            offset = (o.double() - p.double())[:, None]
            yield torch.cat([offset, along.double()], dim=1), onto.double()

    d = points.shape[1]
    within = sum((onto.T @ columns for columns, onto in blocks()), torch.zeros(d, d + 1).double())
    # From the residual of each vector rather than a difference of squares, which would cancel:
    # small distances keep their digits.
    left = (columns - onto @ within for columns, onto in blocks())
    gram = sum((rest.T @ rest for rest in left), torch.zeros(d + 1, d + 1).double())
    x = torch.cat([torch.ones(len(points), 1, dtype=torch.float64), torch.tensor(points)], dim=1)
    squares = ((x @ gram) * x).sum(dim=1).clamp(min=0)
    return (x @ within.T).numpy(), squares.sqrt().numpy()


def _worth_keeping(pictures: list[_Picture], most: int) -> list[_Picture]:
    """The last picture, that of the last certain basin, and the last ones of lost attractors."""
    home = next((p for p in reversed(pictures) if p.home >= 0), None)
    shown: set[int] = set()
    kept: list[_Picture] = []
    for picture in reversed(pictures):
        names = set(picture.identities.tolist())
        if not kept or picture is home or names - shown:
            kept.append(picture)
            shown |= names
    while len(kept) > most:
        others = [p for p in kept[1:] if p is not home]
        kept.remove((others or kept)[-1])
    return kept[::-1]
