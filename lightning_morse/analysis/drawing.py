"""Drawing a tower: the chart of each box, the portrait of all of them, and surveys for wells."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.analysis.charts import Chart, MakeBandOf, Patch, chart
from lightning_morse.analysis.leaves import Parts
from lightning_morse.analysis.patchwork import MARGIN, AnyChart, Patchwork, shares_of
from lightning_morse.analysis.phase_portrait import PhasePortrait, phase_portrait
from lightning_morse.analysis.samples import nearest_diverged
from lightning_morse.analysis.surrogates import fitted, sketched
from lightning_morse.analysis.tower import Tower
from lightning_morse.analysis.wells import Survey
from lightning_morse.enclosure.flow_map import AT_REST, NEARLY_AT_REST
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_3_2
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.stopwatch import Stopwatch

# Share of `1 - confidence` of the outermost box where there are others; these have equal parts of
# the rest. By itself it has all of it.
_SHARE_OF_OUTERMOST = 0.5
# Boxes inside that shares are made for while it is open how many there will be.
_EXPECTED_INSIDE = 4
# In a sketch no more than this share of the cells of a grid are followed once more.
_MOST_SHARP = 0.5


def shares(tower: Tower, final: bool) -> Array:
    """Share of the failure probability of each box, shape ``(n_boxes,)``; at most 1 together.

    They depend on the number of boxes alone.
    """
    n = len(tower.boxes) - 1
    if not n:
        return np.ones(1)
    inside = n if final else max(n, _EXPECTED_INSIDE)
    rest = (1 - _SHARE_OF_OUTERMOST) / inside
    return np.array([_SHARE_OF_OUTERMOST, *[rest] * n])


def sketch(tower: Tower, grid: CubicalGrid, clock: Stopwatch) -> PhasePortrait:
    """A portrait with proved bands, to see where to look next.

    Only charts of boxes with new samples of their own are made anew.

    Args:
        tower: The boxes and their samples.
        grid: The grid of the outermost box.
        clock: Takes the time of the stages.

    Raises:
        SurrogateError: If the samples of a box determine no surrogate.
    """
    nested = tower.nested(grid)
    charts = [
        _kept_chart(tower, k, nested.grids[k], float(share), clock)
        for k, share in enumerate(shares(tower, final=False))
    ]
    failure = tower.settings.failure_beside_band
    return phase_portrait(nested, charts, failure, clock, _MOST_SHARP)


def _kept_chart(
    tower: Tower, k: int, grid: CubicalGrid, share: float, clock: Stopwatch
) -> AnyChart:
    """The chart of a box, made anew where something has changed."""
    box, model = tower.boxes[k], sketched(tower, k)
    make_band_of = tower.settings.proved_bands(share)
    lattice = Lattice.of_sketch(grid)
    if isinstance(model, Parts):
        return _patchwork(tower, model, lattice, share, make_band_of, clock, NEARLY_AT_REST)
    corners = grid.lower.tobytes(), grid.upper.tobytes()
    key = id(box.model), box.n_own, box.verdict, box.kinked, share, *corners, grid.shape
    if key not in box.charts:
        diverged = nearest_diverged(grid, tower.seen_by(k))
        about = make_band_of(1.0), diverged, clock, model.trusted, NEARLY_AT_REST, box.kinked
        box.charts = {key: chart(model.surrogate, lattice, *about)}
    return box.charts[key]


def chart_of(tower: Tower, k: int, grid: CubicalGrid, share: float, clock: Stopwatch) -> AnyChart:
    """What the surrogates of a box say on a grid of it, with its share of what may fail."""
    model, lattice, make_band_of = fitted(tower, k), Lattice.of(grid), tower.settings.bands(share)
    if isinstance(model, Parts):
        return _patchwork(tower, model, lattice, share, make_band_of, clock, AT_REST)
    diverged = nearest_diverged(grid, tower.seen_by(k))
    about = make_band_of(1.0), diverged, clock, model.trusted, AT_REST, tower.boxes[k].kinked
    return chart(model.surrogate, lattice, *about)


def _patchwork(
    tower: Tower,
    model: Parts,
    lattice: Lattice,
    share: float,
    make_band_of: MakeBandOf,
    clock: Stopwatch,
    at_rest: float,
) -> Patchwork:
    """The charts of all leaves of the outermost box, made anew where something has changed."""
    grid = lattice.grid
    places = [_Margin.around(grid, *part.block_on(grid)) for part in model.parts]
    lattices = [place.lattice(lattice) for place in places]
    parts = shares_of([of_part.n_points for of_part in lattices]).tolist()
    diverged = nearest_diverged(grid, tower.seen_by(0)).reshape(grid.shape)
    patches = []
    for part, place, own, of_box in zip(model.parts, places, lattices, parts, strict=True):
        leaf, outside = part.leaf, diverged[place.cells].ravel()
        corners = own.grid.lower.tobytes(), own.grid.upper.tobytes(), own.grid.shape
        key = part.model.factor, leaf.kinked, share, of_box, at_rest, outside.tobytes(), *corners
        if key not in leaf.charts:
            about = outside, clock, part.model.trusted, at_rest, leaf.kinked
            made = chart(part.model.surrogate, own, make_band_of(of_box), *about)
            leaf.charts = {key: made}
        patches.append(Patch(leaf.charts[key], place.first, place.last, place.before, grid.shape))
    return Patchwork.of(grid, patches)


@dataclass(frozen=True)
class _Margin:
    """A block of cells of a grid, from ``first`` up to ``last``, with cells around it.

    Attributes:
        first: Index of the first cell of the block along each axis.
        last: One past the index of its last cell.
        before: How many cells there are before the block.
        after: How many there are after it.
    """

    first: tuple[int, ...]
    last: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def around(cls, grid: CubicalGrid, first: tuple[int, ...], last: tuple[int, ...]) -> _Margin:
        """As many cells around a block as there are, up to a margin."""
        before = tuple(min(a, MARGIN) for a in first)
        after = tuple(min(n - b, MARGIN) for b, n in zip(last, grid.shape, strict=True))
        return cls(first, last, before, after)

    @property
    def cells(self) -> tuple[slice, ...]:
        """All its cells, as an index into an array of the grid's shape."""
        lows = (a - m for a, m in zip(self.first, self.before, strict=True))
        ups = (b + m for b, m in zip(self.last, self.after, strict=True))
        return tuple(slice(low, up) for low, up in zip(lows, ups, strict=True))

    def lattice(self, whole: Lattice) -> Lattice:
        """The part of a lattice that these cells hold."""
        start, stop = ([getattr(s, end) for s in self.cells] for end in ("start", "stop"))
        corners = whole.grid.corner(start), whole.grid.corner(stop)
        grid = CubicalGrid(*corners, [b - a for a, b in zip(start, stop, strict=True)])
        return Lattice(grid, whole.refinement)


def survey(
    tower: Tower,
    k: int,
    point: Array,
    chart: Chart | None = None,
    finest: CubicalGrid | None = None,
) -> Survey | None:
    """The values of the loss in a box; None if the samples say nothing certain of them.

    None also where a box has several processes, none of which tells of all its walls.

    Args:
        tower: The boxes and their samples.
        k: Number of the box.
        point: A point in it, shape ``(d,)``.
        chart: What is known on a grid on it; if left out, that of the outermost box is taken.
        finest: The grid whose cell is that of the point, if it is another.

    Raises:
        SurrogateError: If the samples determine no surrogate.
    """
    seen, box = tower.seen_by(k), tower.boxes[k]
    if chart is None:
        model, lattice = sketched(tower, k), Lattice.of(tower.settings.grid)
        if isinstance(model, Parts):
            return None
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
    failure = tower.settings.failure_of_well
    return Survey.of(views, lattice, diverged, point, failure, finest)
