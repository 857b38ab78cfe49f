"""Where to evaluate the loss: on the way from a point of interest, then where it is undecided.

The first question is where the flow from the current weights leads. Samples go where that is open:
into the cells that the weights may still reach. If a box has had its share of samples and the
question is still open, a smaller box is opened around the way of the mean flow and its end; if that
way leaves the outermost box, a larger box is put around it. What is left of the usual samples, but
for some in case that answer is lost, completes the picture. None of it bears on soundness: whatever
is sampled, claims rest on what the surrogates say at the end.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_morse._typing import Array, Loss, Mask
from lightning_morse.analysis.corners import around_minimum, around_way, grown, with_room
from lightning_morse.analysis.descent import Descent, descend, undecided_minima, undecided_part
from lightning_morse.analysis.design import FEWEST_SAMPLES, far_apart, spread
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.analysis.placement import (
    candidate_places,
    choose_batch,
    coarse_grid,
    is_decided,
    is_resolved,
)
from lightning_morse.analysis.samples import (
    Samples,
    evaluate_until,
    hold_out,
    n_held_out,
    n_kept_to_measure,
)
from lightning_morse.analysis.tower import Tower
from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.stopwatch import Stopwatch, one_thread

# Keeps the random numbers of places apart from the other streams of a seed.
_PLACES_STREAM = 2
# Most samples, over their usual number, as long as the point of interest is undecided.
_MOST = 2.5
# Up to about so many samples one process is as good as several, by dimension (docs/decisions.md).
_ENOUGH = {1: 64, 2: 128, 3: 384}
_ENOUGH_IN_HIGHER_DIMENSION = 512
# The same for the picture of all on three axes or more, where what boxes have in common is worth
# more: with boxes from 384 samples on, 1 or 2 of five minima were found, with one process 4 or 5.
_ENOUGH_FOR_PICTURE = 1024
# Where no box can be opened any more, boxes take this many times what they usually hold; beyond
# that, more samples of one process tell less and less.
_OVERFULL = 2
# A batch is a fifth of the samples, within these limits, as each batch costs a picture: of 33
# slices of real networks with 64 samples batches of 12 decided as many as batches of 6, in a third
# less time. On three axes pictures take longest: there a batch is this part of what a box holds.
_PICTURES, _LEAST_BATCH, _MOST_BATCH, _PICTURES_ON_THREE = 5, 6, 12, 6
# For the picture of all a batch is this share of what the box holds already: there are then few
# pictures however many samples.
_SHARE_OF_BATCH = 1 / 3
# No box is smaller than the outermost one divided by this.
_SMALLEST = 64
# Points drawn in a larger box, of which those outside of the smaller one are evaluated.
_CANDIDATES_AROUND = 256


@dataclass(frozen=True)
class Plan:
    """How the samples of an exploration are spent.

    Attributes:
        usual: Samples of an analysis; no more are spent on the picture.
        most: Most samples there may be, as long as the point of interest is undecided.
        first: Samples that fill the outermost box.
        full: Samples of the outermost box after which a smaller one is opened.
        full_inside: The same for the boxes inside.
        full_picture: Samples of the outermost box after which, for the picture, boxes are opened
            where it is undecided; half as many in a box inside.
        first_inside: Samples that fill a new box.
        batch: Samples placed before the picture is looked at again.
    """

    usual: int
    most: int
    first: int
    full: int
    full_inside: int
    full_picture: int
    first_inside: int
    batch: int

    @classmethod
    def of(cls, n_samples: int, dim: int, most: int | None = None) -> Plan:
        """The plan for a usual number of samples on so many axes, and at most so many samples."""
        enough = _ENOUGH.get(dim, _ENOUGH_IN_HIGHER_DIMENSION)
        fewest = min(n_samples, FEWEST_SAMPLES)
        batch = min(_MOST_BATCH, n_samples // _PICTURES)
        if dim > 2:
            batch = min(n_samples, enough) // _PICTURES_ON_THREE
        return cls(
            usual=n_samples,
            most=int(_MOST * n_samples) if most is None else most,
            first=max(fewest, min(n_samples, enough) // 4),
            full=max(fewest, 3 * min(n_samples, enough) // 8),
            full_inside=max(fewest, 5 * min(n_samples, enough) // 16),
            full_picture=enough if dim < 3 else _ENOUGH_FOR_PICTURE,
            first_inside=max(8, min(n_samples, enough) // 8),
            batch=max(_LEAST_BATCH, batch),
        )


class Explorer:
    """Samples a loss on a tower of boxes.

    Attributes:
        loss: The loss.
        tower: The boxes and their samples.
        plan: How samples are spent.
        clock: Takes the time of the evaluations ("loss") and of the choices ("sampling").
        is_over: Whether no more samples may be placed, for lack of time; None if time has no end.
    """

    def __init__(
        self,
        loss: Loss,
        tower: Tower,
        plan: Plan,
        clock: Stopwatch,
        is_over: Callable[[], bool] | None = None,
    ) -> None:
        self.loss, self.tower, self.plan, self.clock = loss, tower, plan, clock
        self.is_over = is_over
        self._may_open = True
        self._last: tuple[tuple[object, ...], PhasePortrait] | None = None

    def answer(self, start: Array, farthest: tuple[Array, Array], n_samples: int) -> None:
        """Find out where the flow from a point leads, then complete the picture.

        A process that has to go through more samples elsewhere may be less sure about the point
        than it was. Then the flow is followed again, into a box inside, before the rest; some
        samples are kept for that, unless the point lies in such a box already.

        Args:
            start: The point, shape ``(d,)``.
            farthest: The corners of the box that the outermost one may grow to.
            n_samples: Samples at which the picture is left as it is.
        """
        self.follow(start, farthest)
        while not self.complete(min(n_samples, self.plan.most - self._kept_for(start)), start):
            self.follow(start, farthest)

    def _kept_for(self, start: Array) -> int:
        """Samples kept to find out again where a point leads."""
        inner = self.tower.boxes[1:]
        if any(((box.lower <= start) & (start <= box.upper)).all() for box in inner):
            return 0
        return min(self.plan.first_inside + self.plan.batch, self.plan.most // 4)

    def follow(self, start: Array, farthest: tuple[Array, Array]) -> None:
        """Sample until it is certain where the flow from a point leads, or samples run out.

        Args:
            start: The point, shape ``(d,)``.
            farthest: The corners of the box that the outermost one may grow to.
        """
        while self.left(self.plan.most):
            portrait = self._sketch(self.plan.most)
            if portrait is None:
                return
            label = portrait.label_at(start)
            if label >= 0:
                return
            with self.clock("sampling"):
                way = undecided_part(portrait, descend(portrait, start))
            k = way.box
            grown = self._larger(way, farthest)
            if label == ESCAPES and grown is None:
                return
            if way.leaves and grown is not None and (label == ESCAPES or self._is_full(0)):
                self._surround(grown)
                continue
            target = k if not self._is_full(k) else self._open_inside(way, k, portrait)
            if target is not None:
                self._place(portrait, target, self.plan.batch, self._reached(portrait, start))

    def complete(self, n_samples: int, start: Array | None = None) -> bool:
        """Sample where the picture is undecided, until it is resolved or samples run out.

        A picture that seems resolved is put to the test: half of the samples left go where there
        are fewest. If it stands, and not much is undecided, that is enough.

        Args:
            n_samples: Samples at which to stop.
            start: A point of interest, shape ``(d,)``.

        Returns:
            Whether this is done; False if it was decided where the point leads, and is no longer.
        """
        tested, was_decided = False, False
        while self.left(n_samples):
            portrait = self._sketch(n_samples)
            if portrait is None:
                return True
            if start is not None:
                decided = portrait.is_decided(start)
                if was_decided and not decided:
                    return False
                was_decided = decided
            resolved = is_resolved(portrait)
            if resolved and not tested:
                self._fill_gaps(min(math.ceil(self.left(n_samples) / 2), self.tower.n_samples))
                tested = True
                continue
            if resolved:
                k = self._most_undecided(portrait, self._rooms(self.plan.full_picture))
                if k is not None and not is_decided(portrait):
                    self._place(portrait, k, min(self.left(n_samples), self.tower.n_samples), None)
                return not was_decided or self._still_decides(start, n_samples)
            minima = undecided_minima(portrait)
            rooms = self._rooms(self.plan.full_picture, {j for j, _, _ in minima})
            k = self._most_undecided(portrait, rooms)
            if k is None and self._open_at_minimum(minima, n_samples):
                continue
            for full in (self.plan.full_picture, _OVERFULL * self.plan.full_picture):
                if k is None:
                    rooms = self._rooms(full)
                    k = self._most_undecided(portrait, rooms)
            if k is None:
                return True
            held = len(self.tower.boxes[k].samples)
            batch = max(self.plan.batch, int(_SHARE_OF_BATCH * held))
            batch = min(batch, max(rooms[k] - held, _LEAST_BATCH))
            self._place(portrait, k, min(batch, self.left(n_samples)), None)
        return not was_decided or self._still_decides(start, n_samples)

    def _still_decides(self, start: Array | None, n_samples: int) -> bool:
        """Whether the last samples have left an answer what it was."""
        if start is None:
            return True
        portrait = self._sketch(n_samples)
        return portrait is None or portrait.is_decided(start)

    def judge(self) -> None:
        """Judge the surrogate of each box by evaluations beside some of its samples."""
        seed = self.tower.settings.seed
        self._determine(self.plan.usual)
        for k, box in enumerate(self.tower.boxes):
            n = 1 if k else n_held_out(self.plan.usual)
            grid = CubicalGrid(box.lower, box.upper, (1,) * len(box.lower))
            with self.clock("loss"):
                held_out = hold_out(self.loss, box.first, grid, n, seed + box.n_judged)
            with self.clock("fit"), one_thread():
                self.tower.judge(k, held_out)

    def left(self, most: int) -> int:
        """Samples that may still be placed, those held out or kept to measure not counted."""
        if self.is_over is not None and self.is_over():
            return 0
        kept = n_held_out(self.plan.usual) + len(self.tower) - 1 + n_kept_to_measure(most)
        return max(0, most - kept - self.tower.n_samples)

    # ------------------------------------------------------------------ steps

    def _sketch(self, most: int) -> PhasePortrait | None:
        """The picture so far; None if the samples determine no surrogate."""
        if not self._determine(most):
            return None
        state = self.tower.state
        if self._last is None or self._last[0] != state:
            with self.clock("sampling"), one_thread():
                grid = coarse_grid(self.tower.settings.grid, self.tower.n_samples)
                self._last = state, self.tower.sketch(grid, Stopwatch())
        return self._last[1]

    def _determine(self, most: int) -> bool:
        """Fill boxes whose samples determine no surrogate; whether all have one in the end.

        A box inside that stays without one, as on an exactly flat floor, is taken out again.
        """
        while True:
            with self.clock("sampling"), one_thread():
                k = self._undetermined()
            if k is None:
                return True
            if k and (self._is_full(k) or not self.left(most)):
                self.tower.remove(k)
                self._may_open = False
            elif self.left(most):
                self._fill(k, min(self.plan.batch, self.left(most)))
            else:
                return False

    def _undetermined(self) -> int | None:
        for k in range(len(self.tower)):
            try:
                self.tower.sketched(k)
            except SurrogateError:
                self.tower.boxes[k].model = None
                return k
        return None

    def _fill(self, k: int, n: int) -> None:
        """Add samples that fill a box."""
        box = self.tower.boxes[k]
        self._evaluate(k, spread(box.lower, box.upper, n, self._rng()))

    def _fill_gaps(self, n: int) -> None:
        """Add samples to the outermost box, each the farthest from all others."""
        box, rng = self.tower.boxes[0], self._rng()
        with self.clock("sampling"):
            places = candidate_places(box.lower, box.upper, rng)
            known = self.tower.everything.points
            chosen = far_apart(
                np.concatenate([known, places]), box.upper - box.lower, n, len(known)
            )
        self._evaluate(0, places[chosen - len(known)])

    def _place(self, portrait: PhasePortrait, k: int, n: int, wanted: Mask | None) -> None:
        """Add samples to a box where they tell most about cells that are open."""
        rng = self._rng()
        with self.clock("sampling"), one_thread():
            box = self.tower.boxes[k]
            places = candidate_places(box.lower, box.upper, rng)
            n = min(n, self.left(self.plan.most))
            places = choose_batch(portrait, k, places, n, rng, wanted)
        self._evaluate(k, places)

    def _evaluate(self, k: int, places: Array) -> None:
        if not len(places):  # time has run out since they were planned
            return
        with self.clock("loss"):
            places, losses = evaluate_until(self.loss, places, self.is_over)
        self.tower.place(k, places, losses)

    def _rng(self) -> np.random.Generator:
        seed = self.tower.settings.seed
        return np.random.default_rng([seed, _PLACES_STREAM, self.tower.n_samples])

    def _is_full(self, k: int) -> bool:
        most = self.plan.full_inside if k else self.plan.full
        return len(self.tower.boxes[k].samples) >= most

    def _reached(self, portrait: PhasePortrait, start: Array) -> Mask:
        """Undecided cells that a trajectory from a point may still meet."""
        cell = int(portrait.nested.cell_of(start[None])[0])
        reached = portrait.found.condensation.descendants(cell)
        mask = np.zeros(portrait.nested.size + 1, dtype=bool)
        mask[reached] = True
        wanted: Mask = mask[:-1] & (portrait.labels == UNDECIDED)
        return wanted

    def _rooms(self, full: int, with_minima: Collection[int] | None = None) -> list[int]:
        """How many samples each box may hold where the outermost may hold ``full``.

        Before another box is opened those inside have room only if they have an open minimum. They
        are opened for one; what else is undecided there mostly goes on to places outside.
        """
        every = range(len(self.tower))
        if with_minima is None:
            return [full // 2 if k else full for k in every]
        return [self.plan.full_inside * (k in with_minima) if k else full for k in every]

    def _most_undecided(self, portrait: PhasePortrait, rooms: Sequence[int]) -> int | None:
        """The box with most open volume, of those that hold fewer than ``rooms``; None if none."""
        volumes = np.zeros(len(self.tower))
        for k, box in enumerate(self.tower.boxes):
            if len(box.samples) < rooms[k]:
                volumes[k] = portrait.open_volume(k)
        return int(volumes.argmax()) if volumes.any() else None

    # ------------------------------------------------------------------ boxes

    def _open_inside(self, way: Descent, k: int, portrait: PhasePortrait) -> int | None:
        """Open a box around the end of a way, in the box where it ends.

        Along each axis it holds the last part of the way. Boxes that stand in its way, as those of
        a place that the way has left, are filled first, and then taken out if nothing is certain in
        them.

        Returns:
            None if a box has been opened or taken out; else the box to place samples in.
        """
        box = self.tower.boxes[k]
        low, up = around_way(way.path, box.upper - box.lower)
        if self._open(low, up, k, self.plan.most):
            return None
        idle = [
            j
            for j, other in enumerate(self.tower.boxes)
            if other.parent == k
            and ((low <= other.upper) & (up >= other.lower)).all()
            and not portrait.names_a_basin_in(self.tower.inside(j))
        ]
        for j in idle:
            if not self._is_full(j):
                return j
        if not idle or not self._may_open or self.left(self.plan.most) < self.plan.first_inside:
            return k
        self.tower.remove(idle[0])
        return None

    def _open_at_minimum(self, minima: Sequence[tuple[int, Array, float]], most: int) -> bool:
        """Open a box around the lowest undecided minimum of a mean that has none around it."""
        # What has been begun is finished before the next one is opened.
        for k, point, _ in sorted(minima, key=lambda each: -self.tower.depth(each[0])):
            box = self.tower.boxes[k]
            others = [q for j, q, _ in minima if j == k and (q != point).any()]
            low, up = around_minimum(point, box.upper - box.lower, others)
            if self._open(low, up, k, most):
                return True
        return False

    def _open(self, low: Array, up: Array, k: int, most: int) -> bool:
        """Open a box inside another one, smaller if it has to be; False if there is no room."""
        first = self.plan.first_inside
        # One more is held out for it.
        if not self._may_open or self.left(most) <= first:
            return False
        box, root = self.tower.boxes[k], self.tower.settings.grid
        siblings = [(b.lower, b.upper) for b in self.tower.boxes if b.parent == k]
        cell = self.tower.nested(coarse_grid(root)).grids[k].cell_widths
        smallest = (root.upper - root.lower) / _SMALLEST
        for corners in with_room((low, up), (box.lower, box.upper), siblings, cell, smallest):
            number = self.tower.open(*corners, k, first)
            if self.tower.snap(coarse_grid(root), root):
                self._fill(number, first)
                return True
            self.tower.close()  # it would touch another one
        return False

    def _larger(self, way: Descent, farthest: tuple[Array, Array]) -> CubicalGrid | None:
        """The grid of a larger outermost box, where the way leaves it; None if it may not grow."""
        if not way.leaves or self.left(self.plan.most) < self._cost_of_growth():
            return None
        return grown(self.tower.settings.grid, way.end, farthest)

    def _surround(self, grid: CubicalGrid) -> None:
        inner = self.tower.settings.grid
        settings = dataclasses.replace(self.tower.settings, grid=grid)
        # More than enough, so that some lie outside of the box there was.
        points = spread(grid.lower, grid.upper, _CANDIDATES_AROUND, self._rng())
        inside = np.all((points >= inner.lower) & (points <= inner.upper), axis=1)
        points = points[~inside][: self._cost_of_growth()]
        with self.clock("loss"):
            points, losses = evaluate_until(self.loss, points, self.is_over)
        self.tower.surround(settings, Samples(points, losses))
        # On the edges of the new grid some boxes may have no room any more.
        while not self.tower.snap(coarse_grid(grid), grid):
            self.tower.close()

    def _cost_of_growth(self) -> int:
        """Number of samples that fill what a larger box adds."""
        return 2 * self.plan.first_inside
