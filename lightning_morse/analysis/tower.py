"""A tower of boxes: which boxes there are, the samples each surrogate sees, and their charts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from lightning_morse._typing import Array, Cells
from lightning_morse.analysis.charts import Chart, MakeBand, chart
from lightning_morse.analysis.design import far_apart
from lightning_morse.analysis.phase_portrait import PhasePortrait, phase_portrait
from lightning_morse.analysis.samples import HeldOut, Samples, nearest_diverged
from lightning_morse.analysis.settings import Settings
from lightning_morse.analysis.wells import Survey
from lightning_morse.enclosure.flow_map import AT_REST, NEARLY_AT_REST
from lightning_morse.gp.calibration import (
    Calibrated,
    check,
    fit_calibrated,
    inflate,
    prediction_errors,
    refit,
    shows_noise,
    with_fine_structure,
)
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_3_2
from lightning_morse.gp.kinks import kinked_weight
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.grids.nested import NestedGrid
from lightning_morse.stopwatch import Stopwatch

# A surrogate also sees the samples of the boxes around it within this share of its width outside of
# its faces, and this many, spread out, of the samples of each box inside it: near a face a gradient
# is known only if there are samples on both sides.
_MARGIN = 0.3
_FROM_INSIDE = 24
# Share of `1 - confidence` of the outermost box where there are others; these have equal parts of
# the rest. By itself it has all of it.
_SHARE_OF_OUTERMOST = 0.5
# Boxes inside that shares are made for while it is open how many there will be.
_EXPECTED_INSIDE = 4
# In a sketch no more than this share of the cells of a grid are followed once more.
_MOST_SHARP = 0.5
# Lengthscales, noise and warp are fitted anew once there are this many times as many samples as
# when they were last.
_GROWN = 1.25
# About how many cells a box inside has along each axis, by dimension.
_CELLS_INSIDE = {1: 128, 2: 64, 3: 16}
_CELLS_INSIDE_IN_HIGHER_DIMENSION = 8


@dataclass(frozen=True, eq=False)
class Predicted:
    """Losses that a surrogate predicted before it had seen them.

    Attributes:
        points: Where, shape ``(n, d)``; those at which the loss is finite.
        errors: Absolute errors, in deviations before calibration, shape ``(n,)``.
    """

    points: Array
    errors: Array

    @classmethod
    def by(cls, model: Calibrated, samples: Samples) -> Predicted:
        """Predict some samples by a surrogate that has not seen them."""
        usable = samples.finite
        return cls(usable.points, prediction_errors(model, usable.points, usable.losses))


@dataclass(eq=False)
class Box:
    """One box of a tower.

    Attributes:
        lower: Lower corner of what it has to contain, shape ``(d,)``.
        upper: Upper corner, same shape.
        parent: Number of the box around it; -1 for the outermost.
        samples: The samples that were placed for it.
        n_first: How many samples filled it at first; those held out lie beside these.
        model: The surrogate that was last fitted.
        n_own: How many samples of its own it was fitted to.
        n_searched: How many samples its lengthscales, noise and warp were last fitted to.
        verdict: Largest standardised error of held-out derivatives when the surrogate was last
            judged, and how many there were.
        n_judged: How often it was judged.
        is_noisy: Whether held-out losses show that the loss has noise.
        kinked: Probability that the loss has kinks, when that was last asked.
        predicted: Losses that were predicted before they were used.
        charts: The last chart, by what it depends on.
    """

    lower: Array
    upper: Array
    parent: int
    samples: Samples
    n_first: int
    model: Calibrated | None = None
    n_own: int = 0
    n_searched: int = 0
    verdict: tuple[float, int] = (0.0, 0)
    n_judged: int = 0
    is_noisy: bool = False
    kinked: float = 0.0
    predicted: list[Predicted] = field(default_factory=list)
    charts: dict[tuple[object, ...], Chart] = field(default_factory=dict)

    @classmethod
    def filled(cls, grid: CubicalGrid, samples: Samples) -> Box:
        """The outermost box, with the samples that fill it."""
        return cls(grid.lower, grid.upper, -1, samples, len(samples))

    @property
    def first(self) -> Samples:
        """The samples that filled the box at first."""
        return Samples(self.samples.points[: self.n_first], self.samples.losses[: self.n_first])


class Tower:
    """Boxes inside boxes, the outermost first.

    Attributes:
        settings: The settings of the analysis.
        boxes: The boxes; each comes after the one around it.
        left_out: Evaluations outside of a box that was drawn in, which no surrogate sees.
    """

    def __init__(self, settings: Settings, samples: Samples) -> None:
        grid = settings.grid
        self.settings = settings
        self.left_out = Samples(np.empty((0, grid.dim)), np.empty(0))
        self._given = Box.filled(grid, samples)
        self.boxes = [self._given]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def n_samples(self) -> int:
        """Number of all evaluations."""
        return len(self.left_out) + sum(len(box.samples) for box in self.boxes)

    @property
    def state(self) -> tuple[object, ...]:
        """What a sketch depends on; equal states have equal sketches."""
        grid = self.settings.grid
        corners = grid.lower.tobytes(), grid.upper.tobytes()
        of_boxes = [
            (len(b.samples), b.verdict, b.kinked, b.parent, b.lower.tobytes(), b.upper.tobytes())
            for b in self.boxes
        ]
        return *corners, *of_boxes

    @property
    def everything(self) -> Samples:
        """All evaluations in boxes, those of the box that was given first."""
        others = [box for box in self.boxes if box is not self._given]
        out = self._given.samples
        for box in others:
            out = out.followed_by(box.samples.points, box.samples.losses)
        return out

    @property
    def lowest(self) -> Array | None:
        """Where the loss is lowest of all evaluations in the outermost box, shape ``(d,)``."""
        found = self.everything.finite
        found = found.at(self.settings.grid.cell_of(found.points) >= 0)
        return found.points[found.losses.argmin()] if len(found) else None

    def seen_by(self, k: int) -> Samples:
        """The samples that the surrogate of a box is fitted to: its own, then of others."""
        box = self.boxes[k]
        seen = box.samples
        room = _MARGIN * (box.upper - box.lower)
        around = box.parent
        while around >= 0:
            other = self.boxes[around].samples
            low, up = box.lower - room, box.upper + room
            near = ((other.points >= low) & (other.points <= up)).all(axis=1)
            seen = seen.followed_by(other.points[near], other.losses[near])
            around = self.boxes[around].parent
        for inner in range(len(self.boxes)):
            if self.boxes[inner].parent == k:
                held = self._within(inner)
                chosen = _spread_out(held.points, box.upper - box.lower, _FROM_INSIDE)
                seen = seen.followed_by(held.points[chosen], held.losses[chosen])
        return seen

    def _within(self, k: int) -> Samples:
        """The samples of a box and of all boxes inside it."""
        first, *others = self.inside(k)
        out = self.boxes[first].samples
        for number in others:
            samples = self.boxes[number].samples
            out = out.followed_by(samples.points, samples.losses)
        return out

    def inside(self, k: int) -> list[int]:
        """Numbers of a box and of all boxes inside it, ascending."""
        found = [k]
        for number in range(k + 1, len(self.boxes)):
            if self.boxes[number].parent in found:
                found.append(number)
        return found

    def fitted(self, k: int) -> Calibrated:
        """A surrogate of what a box sees, of the model chosen before if there is one.

        Its deviations are those that the last judgement calls for. Lengthscales, noise and warp are
        fitted anew only if the samples have become many more since they were.

        Raises:
            SurrogateError: If the samples determine none.
        """
        return inflate(self._doubted(k, self._fit(k)), *self.boxes[k].verdict)

    def sketched(self, k: int) -> Calibrated:
        """A surrogate that has seen all samples of a box, if not the latest of other boxes.

        Raises:
            SurrogateError: If the samples determine none.
        """
        box = self.boxes[k]
        model = box.model
        if model is None or box.n_own != len(box.samples):
            model = self._fit(k)
        return inflate(self._doubted(k, model), *box.verdict)

    def judge(self, k: int, held_out: HeldOut) -> None:
        """Judge a surrogate of all samples of a box by held-out ones before it has seen them."""
        box, usable = self.boxes[k], held_out.finite
        box.model = None
        start, before = box.samples.points[usable.partners], box.samples.losses[usable.partners]
        model, about = self._fit(k), (start, usable.points, before, usable.losses)
        box.is_noisy = shows_noise(model, *about)
        typical = float(np.median(np.abs(self.everything.finite.losses)))
        largest = check(self._doubted(k, model), *about, typical)
        self.add(k, held_out.points, held_out.losses)
        box.verdict, box.n_judged = (largest, len(usable)), box.n_judged + 1

    def ask_for_kinks(self, k: int) -> None:
        """Weigh the surrogate of a box against a process with kinks.

        Raises:
            SurrogateError: If the samples determine no surrogate.
        """
        box, seen = self.boxes[k], self.seen_by(k).finite
        box.kinked = kinked_weight(self._fit(k).surrogate, seen.losses, box.lower, box.upper)

    def _doubted(self, k: int, model: Calibrated) -> Calibrated:
        """The surrogate with what is too fine for it, unless the loss has noise."""
        box = self.boxes[k]
        if box.is_noisy:
            return model
        n, dim = model.surrogate.x.shape
        return with_fine_structure(model, (box.upper - box.lower) * n ** (-1 / dim))

    def _fit(self, k: int) -> Calibrated:
        box, seen = self.boxes[k], self.seen_by(k).finite
        if not len(seen):
            raise SurrogateError(
                f"the loss is not finite at any of the {len(self.seen_by(k))} samples: the box "
                "has to be smaller, or the loss is broken"
            )
        keep = box.model is not None and len(seen) < _GROWN * box.n_searched
        if box.model is None:
            box.model = fit_calibrated(seen.points, seen.losses, box.lower, box.upper)
        elif len(box.model.surrogate.y) != len(seen):
            box.model = refit(box.model, seen.points, seen.losses, box.lower, box.upper, keep=keep)
        box.n_own, box.n_searched = len(box.samples), box.n_searched if keep else len(seen)
        return box.model

    def nested(self, grid: CubicalGrid) -> NestedGrid:
        """The grids of all boxes, where the outermost has the given one."""
        out = NestedGrid.of(grid)
        cells = _CELLS_INSIDE.get(grid.dim, _CELLS_INSIDE_IN_HIGHER_DIMENSION)
        cells = min(cells, max(grid.shape))
        for box in self.boxes[1:]:
            out = out.around(box.lower, box.upper, box.parent, cells)
        return out

    def shares(self, final: bool) -> Array:
        """Share of the failure probability of each box, shape ``(n_boxes,)``; at most 1 together.

        They depend on the number of boxes alone.
        """
        n = len(self.boxes) - 1
        if not n:
            return np.ones(1)
        inside = n if final else max(n, _EXPECTED_INSIDE)
        rest = (1 - _SHARE_OF_OUTERMOST) / inside
        return np.array([_SHARE_OF_OUTERMOST, *[rest] * n])

    def sketch(self, grid: CubicalGrid, clock: Stopwatch) -> PhasePortrait:
        """A portrait with proved bands, to see where to look next.

        Only charts of boxes with new samples of their own are made anew.

        Args:
            grid: The grid of the outermost box.
            clock: Takes the time of the stages.

        Raises:
            SurrogateError: If the samples of a box determine no surrogate.
        """
        nested, shares = self.nested(grid), self.shares(final=False)
        charts = [
            self._kept_chart(k, nested.grids[k], float(share), clock)
            for k, share in enumerate(shares)
        ]
        failure = self.settings.failure_beside_band
        return phase_portrait(nested, charts, failure, clock, _MOST_SHARP)

    def _kept_chart(self, k: int, grid: CubicalGrid, share: float, clock: Stopwatch) -> Chart:
        """The chart of a box, made anew if something has changed."""
        box, model = self.boxes[k], self.sketched(k)
        corners = grid.lower.tobytes(), grid.upper.tobytes()
        key = (id(box.model), box.verdict, box.kinked, share, *corners, grid.shape)
        if key not in box.charts:
            make_band = self.settings.with_share(share).proved_band
            lattice = Lattice.of_sketch(grid)
            box.charts = {key: self._chart(k, model, lattice, make_band, clock, NEARLY_AT_REST)}
        return box.charts[key]

    def chart(self, k: int, grid: CubicalGrid, make_band: MakeBand, clock: Stopwatch) -> Chart:
        """What the surrogate of a box says on a grid of that box."""
        return self._chart(k, self.fitted(k), Lattice.of(grid), make_band, clock)

    def _chart(
        self,
        k: int,
        model: Calibrated,
        lattice: Lattice,
        make_band: MakeBand,
        clock: Stopwatch,
        at_rest: float = AT_REST,
    ) -> Chart:
        diverged, trusted = nearest_diverged(lattice.grid, self.seen_by(k)), model.trusted
        about = diverged, clock, trusted, at_rest, self.boxes[k].kinked
        return chart(model.surrogate, lattice, make_band, *about)

    def survey(
        self, k: int, point: Array, chart: Chart | None = None, finest: CubicalGrid | None = None
    ) -> Survey | None:
        """The values of the loss in a box; None if the samples say nothing certain of them.

        Args:
            k: Number of the box.
            point: A point in it, shape ``(d,)``.
            chart: What is known on a grid on it; if left out, that of the outermost box is taken.
            finest: The grid whose cell is that of the point, if it is another.

        Raises:
            SurrogateError: If the samples determine no surrogate.
        """
        seen, box = self.seen_by(k), self.boxes[k]
        if chart is None:
            model, lattice = self.sketched(k), Lattice.of(self.settings.grid)
            smooth, trusted, values = model.surrogate, model.trusted, None
        else:
            lattice, smooth = chart.lattice, chart.surrogate
            trusted, values = chart.trusted, chart.posterior
        if not trusted:
            return None
        samples, corners = seen.finite, (box.lower, box.upper)
        warped = math.isfinite(smooth.warp.scale)
        try:
            given = samples.points, samples.losses, *corners, MATERN_3_2, warped
            rough = fit(*given, start=smooth)
        except SurrogateError:
            return None
        diverged = nearest_diverged(lattice.grid, seen)
        views = [
            (smooth, values or smooth.lattice_values(lattice.axes)),
            (rough, rough.lattice_values(lattice.axes)),
        ]
        failure = self.settings.failure_of_well
        return Survey.of(views, lattice, diverged, point, failure, finest)

    def place(self, k: int, points: Array, losses: Array) -> None:
        """Add samples to a box, whose surrogate, if it has one, has predicted them."""
        box = self.boxes[k]
        if box.model is not None:
            box.predicted.append(Predicted.by(box.model, Samples(points, losses)))
        self.add(k, points, losses)

    def add(self, k: int, points: Array, losses: Array) -> None:
        """Add samples to a box."""
        self.boxes[k].samples = self.boxes[k].samples.followed_by(points, losses)

    def open(self, lower: Array, upper: Array, parent: int, n_first: int) -> int:
        """Open a box inside another one; it has no samples of its own yet.

        Returns:
            Its number.
        """
        dim = len(lower)
        none = Samples(np.empty((0, dim)), np.empty(0))
        self.boxes.append(Box(lower, upper, parent, none, n_first))
        return len(self.boxes) - 1

    def close(self) -> None:
        """Take back the box that was opened last; its samples go to the one around it."""
        self._hand_over(self.boxes.pop())

    def remove(self, k: int) -> None:
        """Take out a box and all inside it; their samples go to the boxes around them."""
        for inner in reversed(range(k + 1, len(self.boxes))):
            if self.boxes[inner].parent == k:
                self.remove(inner)
        gone = self.boxes.pop(k)
        for box in self.boxes:
            box.parent -= box.parent > k
        self._hand_over(gone)

    def _hand_over(self, gone: Box) -> None:
        """Give the samples of a box that was taken out to the one around it."""
        around = self.boxes[gone.parent]
        if gone is self._given:  # its first sample stays the first
            around.samples = gone.samples.followed_by(around.samples.points, around.samples.losses)
            self._given = around
        else:
            self.add(gone.parent, gone.samples.points, gone.samples.losses)

    def snap(self, *grids: CubicalGrid) -> bool:
        """Move the faces of all boxes inside to edges of the grids around them.

        Args:
            grids: Grids of the outermost box on which all boxes must have room; the faces are
                moved to edges of the first.

        Returns:
            Whether they have.
        """
        before = [(box.lower, box.upper) for box in self.boxes[1:]]
        try:
            inner = self.nested(grids[0]).grids[1:]
            for box, snapped in zip(self.boxes[1:], inner, strict=True):
                box.lower, box.upper = snapped.lower, snapped.upper
            # Edges of boxes inside boxes need not be edges on the other grids.
            for grid in grids[1:]:
                self.nested(grid)
        except ValueError:
            for box, corners in zip(self.boxes[1:], before, strict=True):
                box.lower, box.upper = corners
            return False
        return True

    def depth(self, k: int) -> int:
        """How many boxes lie around a box."""
        depth = 0
        while self.boxes[k].parent >= 0:
            k, depth = self.boxes[k].parent, depth + 1
        return depth

    def draw_in(self, settings: Settings) -> None:
        """Make the only box smaller; its first sample stays the first, wherever it lies.

        Args:
            settings: The settings with the grid of the smaller box.
        """
        samples = self._given.samples
        held = settings.grid.cell_of(samples.points) >= 0
        held[0] = True
        out = samples.at(~held)
        self.left_out = self.left_out.followed_by(out.points, out.losses)
        self.settings = settings
        self._given = Box.filled(settings.grid, samples.at(held))
        self.boxes = [self._given]

    def surround(self, settings: Settings, samples: Samples) -> None:
        """Put a larger box around all others.

        Args:
            settings: The settings with the grid of the new outermost box.
            samples: Its samples.
        """
        grid = settings.grid
        self.settings = settings
        for box in self.boxes:
            box.parent += 1
        self.boxes.insert(0, Box.filled(grid, samples))


def _spread_out(points: Array, widths: Array, n: int) -> Cells:
    """Numbers of some points far from each other, the first one among them."""
    if len(points) <= n:
        return np.arange(len(points))
    return np.concatenate([[0], far_apart(points, widths, n - 1)])
