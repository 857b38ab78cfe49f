"""Where to evaluate the loss: on the way from a point of interest, then where it is undecided.

The first question is where the flow from the current weights leads. Samples go where that is open:
into the cells that the weights may still reach. If a box has had its share of samples and the
question is still open, a smaller box is opened around the way of the mean flow and its end; if that
way leaves the outermost box, or may leave it instead of settling in a known attractor, a larger box
is put around it. What is left of the usual samples, but for some in case that answer is lost,
completes the picture. None of it bears on soundness: whatever is sampled, claims rest on what the
surrogates say at the end.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from lightning_morse._typing import Array, Mask
from lightning_morse.analysis.corners import around_minimum, around_way, grown
from lightning_morse.analysis.descent import Descent, descend, undecided_minima, undecided_part
from lightning_morse.analysis.edges import faces_in_question
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.analysis.placement import is_decided, is_resolved
from lightning_morse.analysis.plan import LEAST_BATCH
from lightning_morse.analysis.sampling import Sampler
from lightning_morse.analysis.vanishing import worth_following
from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from lightning_morse.grids.cubical import CubicalGrid

# Where no box can be opened any more, boxes take this many times what they usually hold; beyond
# that, more samples of one process tell less and less.
_OVERFULL = 2
# A box does not grow by less than this share of its width.
_LEAST_GROWTH = 0.1


class Explorer:
    """Decides where to sample a loss.

    Attributes:
        sampler: Samples the loss.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self._tower, self._plan = sampler.tower, sampler.plan
        self._looked_around = self._looked_down = False

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
        while not self.complete(min(n_samples, self._plan.most - self._kept_for(start)), start):
            self.follow(start, farthest)

    def follow(self, start: Array, farthest: tuple[Array, Array]) -> None:
        """Sample until it is certain where the flow from a point leads, or samples run out.

        Args:
            start: The point, shape ``(d,)``.
            farthest: The corners of the box that the outermost one may grow to.
        """
        while self.sampler.left(self._plan.most):
            portrait = self.sampler.sketch(self._plan.most)
            if portrait is None:
                return
            label = portrait.label_at(start)
            if label >= 0:
                return
            with self.sampler.clock("sampling"):
                way = undecided_part(portrait, descend(portrait, start))
            k = way.box
            affords = self.sampler.left(self._plan.most) >= self.sampler.cost_of_growth()
            larger = self._worth_growing(portrait, way, farthest) if affords else None
            if label == ESCAPES and larger is None:
                return
            is_due = label == ESCAPES or self.sampler.is_full(0)
            if larger is None and affords and self.sampler.is_full(k):
                larger, is_due = self._beyond_faces(portrait, start, farthest), True
            if larger is not None and is_due:
                self.sampler.surround(larger)
                continue
            target = k if not self.sampler.is_full(k) else self._open_inside(way, k, portrait)
            if target is not None:
                self.sampler.place(
                    portrait, target, self._plan.batch, self._reached(portrait, start)
                )

    def look_again(self, portrait: PhasePortrait, start: Array) -> None:
        """Sample where the last picture leaves open where a point leads, though sketches did not.

        Args:
            portrait: The last picture.
            start: The point, shape ``(d,)``.
        """
        way = undecided_part(portrait, descend(portrait, start))
        self.sampler.place(portrait, way.box, self._plan.batch, self._reached(portrait, start))

    def seal(self, point: Array) -> bool:
        """Sample the walls around a point until it is certain that it stays, or samples run out.

        Args:
            point: Shape ``(d,)``, in the outermost box.

        Returns:
            Whether the point certainly lies in a well of the outermost box.
        """
        while survey := self.sampler.survey(point):
            walls = survey.leaks()
            if walls is None:
                return False
            bottom = None if self._looked_down or len(walls) else survey.unknown_bottom()
            if not len(walls) and bottom is None:
                return True
            if not self.sampler.left(self._plan.most):
                return False
            if bottom is not None:
                self.sampler.place_beside(bottom)
                self._looked_down = True
            elif self._looked_around:
                self.sampler.place_at_walls(walls, max(LEAST_BATCH, self._plan.batch // 4))
            else:  # walls have to be higher than the loss may be at the point
                self.sampler.place_beside(point)
                self._looked_around = True
        return False

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
        while self.sampler.left(n_samples):
            portrait = self.sampler.sketch(n_samples)
            if portrait is None:
                return True
            if start is not None:
                decided = portrait.is_decided(start)
                if was_decided and not decided:
                    return False
                was_decided = decided
            resolved = is_resolved(portrait)
            if resolved and not tested:
                self.sampler.fill_gaps(
                    min(math.ceil(self.sampler.left(n_samples) / 2), self._tower.n_samples)
                )
                tested = True
                continue
            if resolved:
                k = self._most_undecided(portrait, self._rooms())
                if k is not None and not is_decided(portrait):
                    self.sampler.place(
                        portrait, k, min(self.sampler.left(n_samples), self._tower.n_samples), None
                    )
                return not was_decided or self._still_decides(start, n_samples)
            minima = undecided_minima(portrait)
            rooms = self._rooms(with_minima={j for j, _, _ in minima})
            k = self._most_undecided(portrait, rooms)
            if k is None and self._open_at_minimum(minima, n_samples):
                continue
            for times in (1, _OVERFULL):
                if k is None:
                    rooms = self._rooms(times)
                    k = self._most_undecided(portrait, rooms)
            if k is None:
                return True
            held = len(self._tower.boxes[k].samples)
            batch = max(self._plan.batch, int(self._plan.share_of_batch * held))
            batch = min(batch, max(rooms[k] - held, LEAST_BATCH))
            self.sampler.place(portrait, k, min(batch, self.sampler.left(n_samples)), None)
        return not was_decided or self._still_decides(start, n_samples)

    def _kept_for(self, start: Array) -> int:
        """Samples kept to find out again where a point leads."""
        inner = self._tower.boxes[1:]
        if any(((box.lower <= start) & (start <= box.upper)).all() for box in inner):
            return 0
        return min(self._plan.first_inside + self._plan.batch, self._plan.most // 4)

    def _still_decides(self, start: Array | None, n_samples: int) -> bool:
        """Whether the last samples have left an answer what it was."""
        if start is None:
            return True
        portrait = self.sampler.sketch(n_samples)
        return portrait is None or portrait.is_decided(start)

    def answers(self, portrait: PhasePortrait, start: Array, farthest: tuple[Array, Array]) -> bool:
        """Whether a picture names the basin of a point, or shows that it leaves.

        That it leaves is no answer as long as the box could usefully be larger, which is judged by
        where the mean flow leaves, and how the loss falls along it.
        """
        label = portrait.label_at(start)
        if label != ESCAPES:
            return label >= 0
        way = descend(portrait, start)
        return way.leaves and self._worth_growing(portrait, way, farthest) is None

    # ------------------------------------------------------------------ which cells, which box

    def _reached(self, portrait: PhasePortrait, start: Array) -> Mask:
        """Undecided cells that a trajectory from a point may still meet."""
        cell = int(portrait.nested.cell_of(start[None])[0])
        reached = portrait.found.condensation.descendants(cell)
        mask = np.zeros(portrait.nested.size + 1, dtype=bool)
        mask[reached] = True
        wanted: Mask = mask[:-1] & (portrait.labels == UNDECIDED)
        return wanted

    def _rooms(self, times: int = 1, with_minima: Collection[int] | None = None) -> list[int]:
        """How many samples each box may hold for the picture, or so many times that.

        Before another box is opened those inside have room only if they have an open minimum. They
        are opened for one; what else is undecided there mostly goes on to places outside.
        """
        inside = [
            self._plan.full_picture_inside * times
            if with_minima is None
            else self._plan.full_inside * (k in with_minima)
            for k in range(1, len(self._tower))
        ]
        return [self._plan.full_picture * times, *inside]

    def _most_undecided(self, portrait: PhasePortrait, rooms: Sequence[int]) -> int | None:
        """The box with most open volume, of those that hold fewer than ``rooms``; None if none."""
        volumes = np.zeros(len(self._tower))
        for k, box in enumerate(self._tower.boxes):
            if len(box.samples) < rooms[k]:
                volumes[k] = portrait.open_volume(k)
        return int(volumes.argmax()) if volumes.any() else None

    # ------------------------------------------------------------------ which boxes to open

    def _open_inside(self, way: Descent, k: int, portrait: PhasePortrait) -> int | None:
        """Open a box around the end of a way, in the box where it ends.

        Along each axis it holds the last part of the way. Boxes that stand in its way, as those of
        a place that the way has left, are filled first, and then taken out if nothing is certain in
        them.

        Returns:
            None if a box has been opened or taken out; else the box to place samples in.
        """
        box = self._tower.boxes[k]
        low, up = around_way(way.path, box.upper - box.lower)
        if self.sampler.open(low, up, k, self._plan.most):
            return None
        idle = [
            j
            for j, other in enumerate(self._tower.boxes)
            if other.parent == k
            and ((low <= other.upper) & (up >= other.lower)).all()
            and not portrait.is_certain_in(self._tower.inside(j))
        ]
        for j in idle:
            if not self.sampler.is_full(j):
                return j
        if (
            not idle
            or not self.sampler.may_open
            or self.sampler.left(self._plan.most) < self._plan.first_inside
        ):
            return k
        self._tower.remove(idle[0])
        return None

    def _open_at_minimum(self, minima: Sequence[tuple[int, Array, float]], most: int) -> bool:
        """Open a box around the lowest undecided minimum of a mean that has none around it."""
        # What has been begun is finished before the next one is opened.
        for k, point, _ in sorted(minima, key=lambda each: -self._tower.depth(each[0])):
            box = self._tower.boxes[k]
            others = [q for j, q, _ in minima if j == k and (q != point).any()]
            low, up = around_minimum(point, box.upper - box.lower, others)
            if self.sampler.open(low, up, k, most):
                return True
        return False

    def _beyond_faces(
        self, portrait: PhasePortrait, start: Array, farthest: tuple[Array, Array]
    ) -> CubicalGrid | None:
        """The grid of a box with room beyond faces that alone leave open where a point leads."""
        faces = faces_in_question(portrait, start)
        if faces is None:
            return None
        return grown(self._tower.settings.grid, faces, farthest, least=_LEAST_GROWTH)

    def _worth_growing(
        self, portrait: PhasePortrait, way: Descent, farthest: tuple[Array, Array]
    ) -> CubicalGrid | None:
        """The grid of a larger box, affordable or not; None where there is no use in it.

        There is none at the limits, and where next to nothing is left to lose.
        """
        if not way.leaves:
            return None
        most = worth_following(portrait, way)
        grid = self._tower.settings.grid
        crossed = np.stack([way.end <= grid.lower, way.end >= grid.upper], axis=1)
        return grown(grid, crossed, farthest, most, _LEAST_GROWTH)
