r"""Attractors that keep their identity from one analysis of a run to the next.

Each analysis has a slice of its own: its box moves with the weights and its directions may turn. Of
the flow outside the slice nothing is known, so that two attractors are never proved to be one. What
is called the same here is a convention with a stated rule; what is counted as a change of basins
is more than that, a statement about one slice that its own band makes certain.

**The same attractor.** A point of one slice is *seen* in another as its nearest point there, if the
distance between the two is at most a quarter of the room around the attractor in whose basin that
point certainly lies: the lesser of the distance to the nearest other attractor of that analysis and
the smallest half-width of its box. Two attractors are the same if each is seen in the certain basin
of the other. An attractor is the same as at most one earlier one, later analyses being asked first;
one that is the same as none gets a new identity. In two boxes of one plane there is more to it: the
flow is the same, what is seen of an attractor flows to that of the other analysis, and if both
Morse sets are resolved and both bands hold, they hold the very same minimum.

**A change of basins.** The weights were certainly in the basin of ``A``, and at the next analysis
that is certain of their basin again they are in that of ``B``. This counts only if one of the two
slices shows both: the old weights in ``A`` and the new ones certainly in another basin, or the new
ones in ``B`` and the old ones certainly in another, identities compared; and if the other slice
does not contradict, by showing the old weights in ``B`` or the new ones in ``A``. On the event of
the band of that one slice, two points of it that stand for the weights then and now lie in basins
of different attractors of its flow. Weights that lie in their slices and have not moved are seen at
one point in both, hence turning a slice alone never counts. A way there and back between two
analyses, or one over basins that are never certain, does not count: the count is a lower bound.

**Premise.** The loss is the same function of the weights in both analyses: nothing else that it
depends on (running statistics of batch normalisation, a schedule in the loss) has changed. Analyses
whose samples refute the surrogate (``mu`` 0) give identities, but are not certain of any basin.
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

# How far off a slice counts as being seen in it, as a share of the room around an attractor.
TOLERANCE = 0.25
# Pictures kept at most: the last one, that of the last certain basin, and of lost attractors.
MAX_PICTURES = 3
# Rows held in float64 at a time.
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Tracked:
    """What the attractors of an analysis are known as.

    Attributes:
        identities: Identity of each attractor, by the number of its Morse set.
        current: Identity of the attractor in whose basin the weights lie; -1 undecided, -2 they
            leave the box.
        switch: The identities before and after where the weights have certainly changed basins
            since the last analysis that was certain of their basin; else None.
    """

    identities: dict[int, int]
    current: int
    switch: tuple[int, int] | None


class AttractorTracker:
    """Gives the attractors of successive analyses of a run lasting identities.

    Identities are 0, 1, 2, ... in the order of first appearance, by ascending loss within an
    analysis. The rule is that of :mod:`lightning_morse.monitoring.tracking`.

    Kept are the last picture, that of the last certain basin and, as far as there is room, those in
    which an attractor was last seen that the later ones do not show: at most three, each an affine
    subspace (``dim + 1`` weight vectors, on the CPU) and the labels of its cells.

    Attributes:
        switches: How often the weights have certainly changed basins.

    Example:
        The plane is all of weight space; its box moves, and the minima change their order.

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

    def __init__(self) -> None:
        self.switches = 0
        self._next = 0
        self._pictures: list[_Picture] = []  # oldest first

    def update(
        self, subspace: AffineSubspace, result: MorseAnalysis, current: ArrayLike
    ) -> Tracked:
        """Recognise the attractors of an analysis; call it once for each, in their order.

        Weights of another length than before are another network: all identities are new then, and
        no change of basins is counted.

        Args:
            subspace: The slice, of dimension ``d``.
            result: The analysis of the loss on it.
            current: Where the weights are, coordinates of the slice, shape ``(d,)``, finite.

        Raises:
            ValueError: If slice, analysis and point are not of one dimension.
        """
        x, d = np.asarray(current, dtype=np.float64), subspace.dim
        if result.grid.dim != d or x.shape != (d,):
            raise ValueError(
                f"slice, analysis and current point must be of one dimension, got {d}, "
                f"{result.grid.dim} and a point of shape {x.shape}"
            )
        kept = [p for p in self._pictures if p.subspace.n_parameters == subspace.n_parameters]
        new = _Picture(
            subspace=subspace.to("cpu"),
            grid=result.grid,
            labels=result.labels.astype(np.int64),
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
        self._pictures = _worth_keeping([*kept, new])
        return Tracked({a: known[a] for a in numbers.tolist()}, new.basin(x), switch)

    def state_dict(self) -> dict[str, Any]:
        """All there is to know, in plain containers and tensors."""
        return {
            "switches": self.switches,
            "next": self._next,
            "pictures": [p.state_dict() for p in self._pictures],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state written by :meth:`state_dict`."""
        self.switches = state["switches"]
        self._next = state["next"]
        self._pictures = [_Picture.of(p) for p in state["pictures"]]


def untracked(result: MorseAnalysis, current: ArrayLike) -> Tracked:
    """What attractors are known as in one analysis alone: by their numbers.

    Args:
        result: The analysis.
        current: Where the weights are, coordinates of the slice, shape ``(d,)``.
    """
    basin = int(result.basin_of(np.asarray(current, dtype=np.float64)[None])[0])
    return Tracked({a: a for a in result.attractors}, basin, None)


@dataclass(frozen=True, eq=False)
class _Picture:
    """What is kept of an analysis. Labels are identities, -1 undecided, -2 escapes."""

    subspace: AffineSubspace
    grid: CubicalGrid
    labels: Cells
    centers: Array
    identities: Cells
    current: Array
    certain: bool

    def basin(self, x: Array) -> int:
        """Label at a point of the slice."""
        cell = int(self.grid.cell_of(x[None])[0])
        return int(self.labels[cell]) if cell >= 0 else ESCAPES

    @property
    def home(self) -> int:
        """Label at the weights; undecided where the analysis is not certain of anything."""
        return self.basin(self.current) if self.certain else UNDECIDED

    def room(self, identity: int) -> float:
        """Distance from an attractor to the nearest other one, at most the smallest half-width."""
        distances = np.linalg.norm(
            self.centers - self.centers[self.identities == identity], axis=1
        )[self.identities != identity]
        return float(min([*distances, 0.5 * (self.grid.upper - self.grid.lower).min()]))

    def renamed(self, known: Mapping[int, int]) -> _Picture:
        names = np.array([known[i] for i in self.identities.tolist()], dtype=np.int64)
        table = np.concatenate([names, [ESCAPES, UNDECIDED]])  # read from the end for labels < 0
        # Attractors are the first Morse sets: their numbers are positions in the table.
        return _Picture(
            subspace=self.subspace,
            grid=self.grid,
            labels=table[self.labels],
            centers=self.centers,
            identities=names,
            current=self.current,
            certain=self.certain,
        )

    def state_dict(self) -> dict[str, Any]:
        values, counts = torch.unique_consecutive(torch.tensor(self.labels), return_counts=True)
        return {
            "origin": self.subspace.origin,
            "directions": self.subspace.directions,
            "lower": self.grid.lower.tolist(),
            "upper": self.grid.upper.tolist(),
            "shape": list(self.grid.shape),
            "labels": values,
            "counts": counts,
            "centers": self.centers.tolist(),
            "identities": self.identities.tolist(),
            "current": self.current.tolist(),
            "certain": self.certain,
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> _Picture:
        subspace = AffineSubspace(state["origin"], state["directions"]).to("cpu")
        return cls(
            subspace=subspace,
            grid=CubicalGrid(state["lower"], state["upper"], state["shape"]),
            labels=state["labels"].cpu().repeat_interleave(state["counts"].cpu()).numpy(),
            centers=np.array(state["centers"], dtype=np.float64).reshape(-1, subspace.dim),
            identities=np.array(state["identities"], dtype=np.int64),
            current=np.array(state["current"], dtype=np.float64),
            certain=state["certain"],
        )


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
    """Identities of the basins that the weights have certainly changed between."""
    a, b = old.home, new.home
    if b < 0 or a == b:
        return None
    (then,) = _seen(old, old.current[None], new)
    (now,) = _seen(new, new.current[None], old)
    shown = then == a or now == b
    contradicted = then == b or now == a
    return (a, b) if shown and not contradicted else None


def _seen(source: _Picture, points: Array, target: _Picture) -> list[int]:
    """Label that each point of one picture has in another; undecided too far from its slice."""
    at, off = _carried(source.subspace, points, target.subspace)
    labels = [target.basin(x) for x in at]
    return [
        UNDECIDED if label >= 0 and distance > TOLERANCE * target.room(label) else label
        for label, distance in zip(labels, off.tolist(), strict=True)
    ]


def _carried(source: AffineSubspace, points: Array, target: AffineSubspace) -> tuple[Array, Array]:
    """Coordinates in one slice of points of another, shape ``(n, d)``, and distances to it.

    Both follow from ``d + 1`` weight vectors, however many points there are.
    """

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        parts = (source.origin, source.directions, target.origin, target.directions)
        for o, along, p, onto in zip(*(t.split(_BLOCK) for t in parts), strict=True):
            offset = (o.double() - p.double())[:, None]
            yield torch.cat([offset, along.double()], dim=1), onto.double()

    d = points.shape[1]
    within = sum((onto.T @ columns for columns, onto in blocks()), torch.zeros(d, d + 1).double())
    # Of what is left of each vector, not a difference of squares: small distances keep digits.
    left = (columns - onto @ within for columns, onto in blocks())
    gram = sum((rest.T @ rest for rest in left), torch.zeros(d + 1, d + 1).double())
    x = torch.cat([torch.ones(len(points), 1, dtype=torch.float64), torch.tensor(points)], dim=1)
    squares = ((x @ gram) * x).sum(dim=1).clamp(min=0)
    return (x @ within.T).numpy(), squares.sqrt().numpy()


def _worth_keeping(pictures: list[_Picture]) -> list[_Picture]:
    """The last picture, that of the last certain basin, and where lost attractors were last."""
    home = next((p for p in reversed(pictures) if p.home >= 0), None)
    shown: set[int] = set()
    kept: list[_Picture] = []
    for picture in reversed(pictures):
        names = set(picture.identities.tolist())
        if not kept or picture is home or names - shown:
            kept.append(picture)
            shown |= names
    while len(kept) > MAX_PICTURES:
        kept.remove(next(p for p in reversed(kept[1:]) if p is not home))
    return kept[::-1]
