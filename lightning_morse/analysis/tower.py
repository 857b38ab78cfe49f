"""A tower of boxes: which boxes there are, their samples, and those each surrogate sees."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lightning_morse._typing import Array, Cells
from lightning_morse.analysis.charts import Chart
from lightning_morse.analysis.design import far_apart
from lightning_morse.analysis.samples import Samples
from lightning_morse.analysis.settings import Settings
from lightning_morse.gp.calibration import Calibrated
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.nested import NestedGrid

# A surrogate also sees the samples of the boxes around it within this share of its width outside of
# its faces, and this many, spread out, of the samples of each box inside it: near a face a gradient
# is known only if there are samples on both sides.
_MARGIN = 0.3
_FROM_INSIDE = 24
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


@dataclass(eq=False)
class Leaf:
    """A part of a box with a process of its own (:mod:`lightning_morse.analysis.leaves`).

    Attributes:
        first: Index of its first cell along each axis of the grid that the box was cut on.
        last: One past the index of its last cell.
        seen: The samples that are near; it was last fitted to them.
        model: The surrogate that was last fitted.
        has_own: Whether that is one of its own, and not the one of the whole box.
        n_searched: How many samples its lengthscales, noise and warp were last fitted to.
        kinked: Probability that the loss has kinks in it, when that was last asked.
        charts: The last chart, by what it depends on.
    """

    first: tuple[int, ...]
    last: tuple[int, ...]
    seen: Samples = field(default_factory=lambda: Samples(np.empty((0, 1)), np.empty(0)))
    model: Calibrated | None = None
    has_own: bool = False
    n_searched: int = 0
    kinked: float = 0.0
    charts: dict[tuple[object, ...], Chart] = field(default_factory=dict)


@dataclass(eq=False)
class Leaves:
    """The leaves of a box.

    Attributes:
        grid: The grid that the box was cut on.
        leaves: Disjoint blocks of its cells, together all of them.
    """

    grid: CubicalGrid
    leaves: list[Leaf]


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
        leaves: Its leaves, once it has been cut.
        judged: Errors of held-out derivatives, where there are leaves.
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
    leaves: Leaves | None = None
    judged: list[Predicted] = field(default_factory=list)

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
        may_be_cut: Whether the outermost box may have leaves.
        left_out: Evaluations outside of a box that was drawn in, which no surrogate sees.
    """

    def __init__(self, settings: Settings, samples: Samples, *, may_be_cut: bool = False) -> None:
        grid = settings.grid
        self.settings, self.may_be_cut = settings, may_be_cut
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
        leaves = self.boxes[0].leaves
        kinked = () if leaves is None else tuple(leaf.kinked for leaf in leaves.leaves)
        return *corners, *of_boxes, self.boxes[0].n_judged, kinked

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

    def nested(self, grid: CubicalGrid) -> NestedGrid:
        """The grids of all boxes, where the outermost has the given one."""
        out = NestedGrid.of(grid)
        cells = _CELLS_INSIDE.get(grid.dim, _CELLS_INSIDE_IN_HIGHER_DIMENSION)
        cells = min(cells, max(grid.shape))
        for box in self.boxes[1:]:
            out = out.around(box.lower, box.upper, box.parent, cells)
        return out

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
