"""Evaluate the loss at places of the boxes of a tower, and open boxes to evaluate it in.

What is asked about the flow, and hence where samples and boxes go, is the business of
:mod:`lightning_morse.analysis.exploration`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from lightning_morse._typing import Array, Loss, Mask
from lightning_morse.analysis import drawing, surrogates
from lightning_morse.analysis.corners import with_room
from lightning_morse.analysis.design import far_apart, spread
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.analysis.placement import candidate_places, choose_batch, coarse_grid
from lightning_morse.analysis.plan import Plan
from lightning_morse.analysis.samples import (
    Samples,
    evaluate_until,
    hold_out,
    n_held_out,
    n_kept_to_measure,
)
from lightning_morse.analysis.tower import Tower
from lightning_morse.analysis.vanishing import drawn_in
from lightning_morse.analysis.wells import Survey
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.stopwatch import Stopwatch, one_thread

# Keeps the random numbers of places apart from the other streams of a seed.
_PLACES_STREAM = 2
# No box is smaller than the outermost one divided by this.
_SMALLEST = 64
# So often a box is drawn in at most; each takes some samples.
_MOST_DRAWN_IN = 3
# Samples after which the outermost box is given up where they determine no surrogate, because they
# are all equal or not finite: with more, each fit takes longer, and a loss of this kind stays so.
_HOPELESS = 512
# Points drawn in a larger box, of which those outside of the smaller one are evaluated.
_CANDIDATES_AROUND = 256


class Sampler:
    """Samples a loss in the boxes of a tower.

    Attributes:
        loss: The loss.
        tower: The boxes and their samples.
        plan: How samples are spent.
        clock: Takes the time of the evaluations ("loss") and of the choices ("sampling").
        is_over: Whether no more samples may be placed, for lack of time; None if time has no end.
        may_open: Whether boxes may still be opened; not once one has turned out to be of no use.
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
        self.may_open = True
        self._last: tuple[tuple[object, ...], PhasePortrait] | None = None

    @property
    def is_out_of_time(self) -> bool:
        """Whether no more samples may be placed, for lack of time."""
        return self.is_over is not None and self.is_over()

    def left(self, most: int) -> int:
        """Samples that may still be placed, those held out or kept to measure not counted."""
        if self.is_out_of_time:
            return 0
        kept = n_held_out(self.plan.usual) + len(self.tower) - 1 + n_kept_to_measure(most)
        return max(0, most - kept - self.tower.n_samples)

    def is_full(self, k: int) -> bool:
        """Whether a box has had its share of samples for the question of a point."""
        most = self.plan.full_inside if k else self.plan.full
        return len(self.tower.boxes[k].samples) >= most

    def cost_of_growth(self) -> int:
        """Number of samples that fill what a larger box adds."""
        return 2 * self.plan.first_inside

    def sketch(self, most: int) -> PhasePortrait | None:
        """The picture so far; None if the samples determine no surrogate."""
        if not self._determine(most):
            return None
        state = self.tower.state
        if self._last is None or self._last[0] != state:
            with self.clock("sampling"), one_thread():
                grid = coarse_grid(self.tower.settings.grid, self.tower.n_samples)
                self._last = state, drawing.sketch(self.tower, grid, Stopwatch())
        return self._last[1]

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
                surrogates.judge(self.tower, k, held_out)

    def fill(self, k: int, n: int) -> None:
        """Add samples that fill a box."""
        box = self.tower.boxes[k]
        self._evaluate(k, spread(box.lower, box.upper, n, self._rng()))

    def fill_gaps(self, n: int) -> None:
        """Add samples to the outermost box, each the farthest from all others."""
        box, rng = self.tower.boxes[0], self._rng()
        with self.clock("sampling"):
            places = candidate_places(box.lower, box.upper, rng)
            known = self.tower.everything.points
            chosen = far_apart(
                np.concatenate([known, places]), box.upper - box.lower, n, len(known)
            )
        self._evaluate(0, places[chosen - len(known)])

    def place(self, portrait: PhasePortrait, k: int, n: int, wanted: Mask | None) -> None:
        """Add samples to a box where they tell most about cells that are open."""
        rng = self._rng()
        with self.clock("sampling"), one_thread():
            box = self.tower.boxes[k]
            places = candidate_places(box.lower, box.upper, rng)
            n = min(n, self.left(self.plan.most))
            places = choose_batch(portrait, k, places, n, rng, wanted)
        self._evaluate(k, places)

    def survey(self, point: Array) -> Survey | None:
        """The values of the loss in the outermost box; None where nothing is certain of them.

        Args:
            point: Shape ``(d,)``, in that box.
        """
        if self.is_out_of_time or not self._determine(self.plan.most):
            return None
        with self.clock("sampling"), one_thread():
            return drawing.survey(self.tower, 0, point)

    def place_at_walls(self, places: Array, n: int) -> None:
        """Add samples to the outermost box at some of the places, far from each other.

        Args:
            places: Shape ``(m, d)``.
            n: How many at most.
        """
        known, grid = self.tower.everything.points, self.tower.settings.grid
        n = min(n, len(places), self.left(self.plan.most))
        # Anywhere in the cells: a second look at one is then not the first once more.
        places = places + grid.cell_widths * self._rng().uniform(-0.5, 0.5, places.shape)
        everywhere = np.concatenate([known, places])
        chosen = far_apart(everywhere, grid.upper - grid.lower, n, len(known))
        self._evaluate(0, places[chosen - len(known)])

    def place_beside(self, point: Array) -> None:
        """Add samples to the outermost box at the centres of the faces of the cell of a point."""
        grid = self.tower.settings.grid
        center = grid.cell_centers()[grid.cell_of(point[None])[0]]
        half = np.diag(0.5 * grid.cell_widths)
        places = np.concatenate([center - half, center + half])
        self._evaluate(0, places[: self.left(self.plan.most)])

    def _evaluate(self, k: int, places: Array) -> None:
        if not len(places):  # time has run out since they were planned
            return
        with self.clock("loss"):
            places, losses = evaluate_until(self.loss, places, self.is_over)
        surrogates.place(self.tower, k, places, losses)

    def _rng(self) -> np.random.Generator:
        seed = self.tower.settings.seed
        return np.random.default_rng([seed, _PLACES_STREAM, self.tower.n_samples])

    def _determine(self, most: int) -> bool:
        """Fill boxes whose samples determine no surrogate; whether all have one in the end.

        A box inside that stays without one, as on an exactly flat floor, is taken out again. The
        outermost is given up where many samples have determined none.
        """
        while True:
            with self.clock("sampling"), one_thread():
                k = self._undetermined()
            if k is None:
                return True
            if k and (self.is_full(k) or not self.left(most)):
                self.tower.remove(k)
                self.may_open = False
            elif self.left(most) and len(self.tower.boxes[k].samples) < _HOPELESS:
                self.fill(k, min(self.plan.batch, self.left(most)))
            else:
                return False

    def _undetermined(self) -> int | None:
        for k in range(len(self.tower)):
            try:
                surrogates.sketched(self.tower, k)
            except SurrogateError:
                self.tower.boxes[k].model = None
                return k
        return None

    # ------------------------------------------------------------------ boxes

    def open(self, low: Array, up: Array, k: int, most: int) -> bool:
        """Open a box inside another one, smaller if it has to be; False if there is no room."""
        first = self.plan.first_inside
        # One more is held out for it.
        if not self.may_open or self.left(most) <= first:
            return False
        box, root = self.tower.boxes[k], self.tower.settings.grid
        siblings = [(b.lower, b.upper) for b in self.tower.boxes if b.parent == k]
        cell = self.tower.nested(coarse_grid(root)).grids[k].cell_widths
        smallest = (root.upper - root.lower) / _SMALLEST
        for corners in with_room((low, up), (box.lower, box.upper), siblings, cell, smallest):
            number = self.tower.open(*corners, k, first)
            if self.tower.snap(coarse_grid(root), root):
                self.fill(number, first)
                return True
            self.tower.close()  # it would touch another one
        return False

    def draw_in(self, start: Array) -> None:
        """Make the only box smaller if a positive loss falls to as good as nothing in it.

        Args:
            start: The point that it has to hold, shape ``(d,)``.
        """
        for _ in range(_MOST_DRAWN_IN):
            settings = self.tower.settings
            grid = drawn_in(settings.grid, self.tower.everything, start)
            if grid is settings.grid:
                return
            self.tower.draw_in(dataclasses.replace(settings, grid=grid))
            root, n = self.tower.boxes[0], self.plan.first
            rng = np.random.default_rng([settings.seed, len(root.samples)])
            places = spread(grid.lower, grid.upper, n, rng)
            n = min(n - len(root.samples), self.left(self.plan.most))
            self._evaluate(0, places[: max(0, n)])
            root.n_first = len(root.samples)

    def surround(self, grid: CubicalGrid) -> None:
        """Put a larger box around all others, with samples in what it adds."""
        inner = self.tower.settings.grid
        settings = dataclasses.replace(self.tower.settings, grid=grid)
        # More than enough, so that some lie outside of the box there was.
        points = spread(grid.lower, grid.upper, _CANDIDATES_AROUND, self._rng())
        inside = np.all((points >= inner.lower) & (points <= inner.upper), axis=1)
        points = points[~inside][: self.cost_of_growth()]
        with self.clock("loss"):
            points, losses = evaluate_until(self.loss, points, self.is_over)
        self.tower.surround(settings, Samples(points, losses))
        # On the edges of the new grid some boxes may have no room any more.
        while not self.tower.snap(coarse_grid(grid), grid):
            self.tower.close()
