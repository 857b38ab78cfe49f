r"""Attractors that keep their identity from one analysis of a run to the next.

Each analysis has its own slice: its box moves with the weights, and its directions may turn. An
attractor of one slice is a point of weight space, and so is one of another; whether they are the
same asks for the loss between them.

**Same attractor.** Two attractors of different analyses are the same if the straight line between
them has certainly no barrier above a tolerance, 1 % of how far the median of the losses sampled on
the newer slice lies above the lowest, however far the slices have turned
(:class:`~lightning_morse.barriers.segment.Segment`: linear mode connectivity, Frankle et al.,
2020). If there certainly is one, they are not. Where a few evaluations do not decide it, or the
loss is not at hand, they are the same if each is *seen* in the certain basin of the other. A point
of one slice is seen in another at its nearest point there, provided that the distance between the
two is at most a quarter of the room around the attractor in whose certain basin that nearest point
lies: the smaller of the distance to the nearest other attractor of that analysis and the smallest
half-width of its box. An attractor is identified with at most one earlier attractor, the attractor
that the weights lead to before the others; one that matches none gets a new identity.

**Change of basins.** The weights were certainly in the basin of ``A``, and at the next analysis
where their basin is certain again, it is that of ``B``. This counts only if one of the two slices
shows both, by identity: the old weights in ``A`` and the new ones certainly in another basin, or
the new weights in ``B`` and the old ones certainly in another basin; only if the other slice does
not contradict, by showing the old weights in ``B`` or the new ones in ``A``; and, where the loss is
at hand, only if there certainly is a barrier on the line between ``A`` and ``B``. On the event of
the band of that one slice, the two points of it that represent the old and the new weights lie in
the basins of different attractors of its flow. Weights that lie in their slices and have not moved
are seen at the same point in both, so turning a slice never counts by itself. A move there and back
between two analyses, or through basins that are never certain, is not counted: the count is a lower
bound.

**Forks.** An attractor that matches none of the earlier ones, and that an earlier slice shows in
the certain basin of ``A``, is a fork if ``A`` is another attractor of the same analysis: where one
slice had one basin, a later one has two.

**Premise.** The loss is the same function of the weights in both analyses: nothing else that it
depends on (a schedule in the loss, or running statistics of batch normalisation where these are
used) has changed. Analyses that claim nothing (``mu`` is 0, as where the samples refute the
surrogate) provide identities, but no certain basins.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from lightning_morse._typing import Array
from lightning_morse.barriers.segment import Relation, Segment
from lightning_morse.monitoring.pictures import Picture, carried, seen, worth_keeping
from lightning_morse.result import MorseAnalysis
from lightning_morse.slices.subspace import AffineSubspace

# Most pictures kept: the last one, that of the last certain basin, and one for lost attractors.
# This bounds memory. A picture that is dropped can only lose an identity, never create a change of
# basins.
MAX_PICTURES = 3
# Share of how far the median of the losses of a slice lies above the lowest that counts as no
# barrier. The largest losses say nothing: on Himmelblau's function, box of half-width 5, 1 % of the
# range is higher than the barriers.
_TOLERANCE = 0.01
# Most lines evaluated to identify the attractors of an analysis; for the attractor of the weights,
# and for each of the others. What is left is identified by what the slices show.
_MOST_LINES, _MOST_OF_WEIGHTS, _MOST_EACH = 4, 2, 1

# Asks for the relation of two attractors; None where the loss is not evaluated.
Questions = Generator[Segment, Relation | None, "Tracked"]


@dataclass(frozen=True)
class Tracked:
    """Identities of the attractors of an analysis.

    Attributes:
        identities: Identity of each attractor, keyed by the number of its Morse set.
        current: Identity of the attractor in whose basin the weights lie; -1 if undecided, -2 if
            they leave the box.
        switch: The identities before and after, if the weights have certainly changed basins since
            the last analysis in which their basin was certain; otherwise None.
        forks: The identities of the earlier and the new attractor wherever one basin has become
            two.
    """

    identities: dict[int, int]
    current: int
    switch: tuple[int, int] | None
    forks: tuple[tuple[int, int], ...] = ()


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
        forks: Number of times one basin has become two.
        n_updates: Number of analyses that this object has been told of.

    Example:
        The slice is all of weight space; its box moves, and the two minima swap their order:

        >>> import torch
        >>> from lightning_morse import analyze
        >>> plane = AffineSubspace(torch.zeros(1), torch.ones(1, 1))
        >>> def wells(x, tilt):
        ...     return ((x**2 - 1) ** 2 + tilt * x).sum(1)
        >>> left = analyze(lambda x: wells(x, 0.1), [-2], [2], n_samples=32, resolution=64)
        >>> right = analyze(lambda x: wells(x, -0.1), [-1.9], [2.2], n_samples=32, resolution=64)
        >>> tracker = AttractorTracker()
        >>> tracker.update(plane, left, [-1.3])
        Tracked(identities={0: 0, 1: 1}, current=0, switch=None, forks=())
        >>> tracker.update(plane, right, [0.8])
        Tracked(identities={0: 1, 1: 0}, current=1, switch=(0, 1), forks=())
    """

    def __init__(self, max_pictures: int = MAX_PICTURES) -> None:
        self.max_pictures = max_pictures
        self.switches = self.forks = self.n_updates = 0
        self._next = 0
        self._pictures: list[Picture] = []  # oldest first

    def update(
        self,
        subspace: AffineSubspace,
        result: MorseAnalysis,
        current: ArrayLike,
        loss: Callable[[Tensor], float] | None = None,
    ) -> Tracked:
        """Identify the attractors of an analysis; call it once per analysis, in order.

        Weight vectors of another length belong to another network: all identities are new then, and
        no change of basins is counted.

        Args:
            subspace: The slice, of dimension ``d``.
            result: The analysis of the loss on it.
            current: The current weights in the coordinates of the slice, shape ``(d,)``, finite.
            loss: The loss at flat weights, shape ``(p,)``. Without it attractors are identified by
                what the slices show of each other.

        Returns:
            The identities, the basin of the weights, and whether they have changed basins.

        Raises:
            ValueError: If slice, analysis and point differ in dimension.
        """
        questions = self.questions(subspace, result, current, evaluated=loss is not None)
        try:
            segment = next(questions)
            while True:
                assert loss is not None
                segment = questions.send(segment.relation(_on_line(loss, segment)))
        except StopIteration as done:
            found: Tracked = done.value
            return found

    def questions(
        self,
        subspace: AffineSubspace,
        result: MorseAnalysis,
        current: ArrayLike,
        *,
        evaluated: bool = True,
    ) -> Questions:
        """The same, for those who evaluate the loss in a way of their own.

        Args:
            subspace: As for :meth:`update`.
            result: Likewise.
            current: Likewise.
            evaluated: Whether there is anything to ask; False to go by what the slices show.

        Yields:
            Lines between two attractors; their relation is to be sent back, or None.

        Returns:
            As :meth:`update`. Nothing is noted before the end.
        """
        new = _picture(subspace, result, np.asarray(current, dtype=np.float64))
        kept = [p for p in self._pictures if p.subspace.n_parameters == subspace.n_parameters]
        lines = _Lines(kept, new, _tolerance(result), result.confidence, evaluated)
        views = [_View.of(old, new) for old in kept]
        known = yield from _identities(views, new, lines)
        forks = _forks(views, new, known)
        for number in new.identities.tolist():
            if number not in known:
                known[number] = self._next
                self._next += 1
        named = new.renamed(known)
        home = next((p for p in reversed(kept) if p.home >= 0), None)
        switch = None if home is None else _switch(home, named)
        if switch is not None:
            (number,) = (n for n, identity in known.items() if identity == switch[1])
            relation = yield from lines.between(number, switch[0])
            if relation not in ("apart", None):
                switch = None
        self.n_updates += 1
        self.switches += switch is not None
        self.forks += len(forks)
        self._pictures = worth_keeping([*kept, named], self.max_pictures)
        return Tracked(
            identities={a: known[a] for a in new.identities.tolist()},
            current=named.basin(new.current),
            switch=switch,
            forks=tuple((identity, known[number]) for identity, number in forks),
        )

    def state_dict(self) -> dict[str, Any]:
        """The complete state, in plain containers and tensors."""
        return {
            "switches": self.switches,
            "forks": self.forks,
            "next": self._next,
            "pictures": [p.state_dict() for p in self._pictures],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state returned by :meth:`state_dict`."""
        self.switches = state["switches"]
        self.forks = state.get("forks", 0)  # not in earlier checkpoints
        self._next = state["next"]
        pictures = state["pictures"][-self.max_pictures :] if self.max_pictures else []
        self._pictures = [Picture.of(p) for p in pictures]


def untracked(result: MorseAnalysis, current: ArrayLike) -> Tracked:
    """Identities within a single analysis: the numbers of the Morse sets.

    Args:
        result: The analysis.
        current: The current weights in the coordinates of the slice, shape ``(d,)``.
    """
    basin = int(result.basin_of(np.asarray(current, dtype=np.float64)[None])[0])
    return Tracked({a: a for a in result.attractors}, basin, None)


@dataclass(eq=False)
class _Lines:
    """The lines between attractors of a new picture and those known from kept ones."""

    kept: list[Picture]
    new: Picture
    tolerance: float
    confidence: float
    evaluated: bool

    def __post_init__(self) -> None:
        self.n_asked = 0
        self._answers: dict[tuple[int, int], Relation | None] = {}
        # Where each identity was seen last.
        self.last = {i: p for p in self.kept for i in p.identities.tolist()}

    def distance(self, number: int, identity: int) -> float:
        """Between an attractor of the new picture and one that is known."""
        old = self.last[identity]
        center = old.centers[old.identities == identity]
        at, off = carried(old.subspace, center, self.new.subspace)
        return float(np.hypot(np.linalg.norm(at[0] - self.new.centers[number]), off[0]))

    def between(
        self, number: int, identity: int
    ) -> Generator[Segment, Relation | None, Relation | None]:
        """Ask for the relation of the two; once."""
        if not self.evaluated:
            return None
        pair = number, identity
        if pair not in self._answers:
            self.n_asked += 1
            old = self.last[identity]
            (center,) = old.centers[old.identities == identity]
            start = old.subspace.point(center)
            way = self.new.subspace.point(self.new.centers[number]).sub_(start)
            self._answers[pair] = yield Segment(start, way, self.tolerance, self.confidence)
        return self._answers[pair]


def _picture(subspace: AffineSubspace, result: MorseAnalysis, current: Array) -> Picture:
    d = subspace.dim
    if result.grid.dim != d or current.shape != (d,):
        raise ValueError(
            f"slice, analysis and current point must have the same dimension, got {d}, "
            f"{result.grid.dim} and a point of shape {current.shape}"
        )
    centers = np.array([result.morse_sets[a].center for a in result.attractors])
    return Picture(
        subspace=subspace.to("cpu"),
        grids=tuple(box.grid for box in result.boxes),
        labels=tuple(box.labels.astype(np.int64) for box in result.boxes),
        centers=centers.reshape(-1, d),
        identities=np.array(result.attractors, dtype=np.int64),
        current=current,
        certain=result.mu > 0,
    )


def _tolerance(result: MorseAnalysis) -> float:
    losses = result.sample_losses[np.isfinite(result.sample_losses)]
    return _TOLERANCE * float(np.median(losses) - losses.min()) if len(losses) else 0.0


@dataclass(frozen=True, eq=False)
class _View:
    """What a kept picture and a new one see of each other's attractors.

    Attributes:
        old: The kept one.
        of_old: Labels of its attractors in the new one.
        of_new: Labels of the attractors of the new one in it.
    """

    old: Picture
    of_old: list[int]
    of_new: list[int]

    @classmethod
    def of(cls, old: Picture, new: Picture) -> _View:
        """Look both ways; this reads all weights."""
        return cls(old, seen(old, old.centers, new), seen(new, new.centers, old))


def _identities(
    views: list[_View], new: Picture, lines: _Lines
) -> Generator[Segment, Relation | None, dict[int, int]]:
    """Identity of each attractor that is known, by number; that of the weights comes first."""
    shown = [pair for view in reversed(views) for pair in _same(view, new)]
    known: dict[int, int] = {}
    numbers = new.identities.tolist()
    for number in sorted(numbers, key=lambda each: each != new.home):
        free = [identity for identity in lines.last if identity not in known.values()]
        nearest = sorted(free, key=lambda identity: lines.distance(number, identity))
        # What the slices show goes first, the latest before the others.
        first = list(dict.fromkeys(i for n, i in shown if n == number and i in free))
        in_turn = [*first, *(i for i in nearest if i not in first)]
        most = _MOST_OF_WEIGHTS if number == new.home else _MOST_EACH
        for n_tried, identity in enumerate(in_turn):
            relation: Relation | None = None
            if n_tried < most and lines.n_asked < _MOST_LINES:
                relation = yield from lines.between(number, identity)
            undecided = relation in (None, "undecided")
            if relation == "connected" or (undecided and (number, identity) in shown):
                known[number] = identity
                break
    return known


def _forks(views: list[_View], new: Picture, known: dict[int, int]) -> list[tuple[int, int]]:
    """Identities whose basin has become two, each with the number of the attractor in the other."""
    if not new.certain:
        return []
    parents: dict[int, int] = {}
    for view in (v for v in views if v.old.certain):  # the latest that shows it has the last word
        labels = zip(new.identities.tolist(), view.of_new, strict=True)
        parents |= {number: identity for number, identity in labels if identity >= 0}
    apart = set(known.values())
    return [(i, n) for n, i in parents.items() if n not in known and i in apart]


def _on_line(loss: Callable[[Tensor], float], segment: Segment) -> Callable[[float], float]:
    def at(share: float) -> float:
        return float(loss(segment.start + share * segment.way))

    return at


def _same(view: _View, new: Picture) -> list[tuple[int, int]]:
    """Pairs of a new and an old attractor, each seen in the certain basin of the other."""
    before = dict(zip(new.identities.tolist(), view.of_new, strict=True))
    return [
        (number, identity)
        for identity, number in zip(view.old.identities.tolist(), view.of_old, strict=True)
        if number >= 0 and before[number] == identity
    ]


def _switch(old: Picture, new: Picture) -> tuple[int, int] | None:
    """Identities of the basins before and after a certain change; None if there was none."""
    a, b = old.home, new.home
    if b < 0 or a == b:
        return None
    (then,) = seen(old, old.current[None], new)
    (now,) = seen(new, new.current[None], old)
    shown = then == a or now == b
    contradicted = then == b or now == a
    return (a, b) if shown and not contradicted else None
