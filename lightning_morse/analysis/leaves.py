"""Processes of their own in parts of the outermost box, where it holds many samples.

The box is cut into blocks with at most 96 samples (:mod:`lightning_morse.grids.partition`), the
*leaves*. Each has a process of its own, fitted to its samples and as many of those nearest around
it, with its own hyper-parameters and warp, and is *judged by itself*: residuals and held-out
derivatives raise the deviations of their leaf alone. What it costs grows linearly with the number
of samples. What the leaves say of the flow is put together in
:mod:`lightning_morse.analysis.patchwork`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lightning_morse._typing import Array, Mask
from lightning_morse.analysis.samples import Samples
from lightning_morse.analysis.tower import Box, Leaf, Leaves, Predicted, Tower
from lightning_morse.gp.calibration import (
    Calibrated,
    brought_up_to_date,
    check,
    inflate,
    prediction_errors,
    shows_noise,
    with_fine_structure,
)
from lightning_morse.gp.kinks import kinked_weight
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.partition import MOST_POINTS, Located, small_blocks

# A box has leaves once it holds more samples than this, as a learnt map. Up to that one process is
# as good, on most functions of many scales (docs/decisions.md).
MOST_FOR_ONE = 384
# On three axes and more what the parts of a box have in common is worth more.
_MOST_AXES = 2
# Cells per axis of the grid that boxes are cut on; its edges are near those of any other grid.
_CELLS = 64
# A leaf is cut once it holds this many times as many samples as a leaf may when it is made.
_OVERFULL = 1.25


@dataclass(frozen=True, eq=False)
class Part:
    """What is known of one leaf: a snapshot that later samples do not change.

    Attributes:
        leaf: The leaf.
        model: Its surrogate, doubted and judged.
        n_cells: Cells of the grid that the box was cut on, along each axis.
    """

    leaf: Leaf
    model: Calibrated
    n_cells: tuple[int, ...]

    def block_on(self, grid: CubicalGrid) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Index of its first cell on a grid of the box, and one past the last, for each axis."""
        first, last = (
            tuple(round(i * n / m) for i, n, m in zip(index, grid.shape, self.n_cells, strict=True))
            for index in (self.leaf.first, self.leaf.last)
        )
        return first, last


@dataclass(frozen=True, eq=False)
class Parts:
    """The surrogates of all leaves of a box.

    Attributes:
        grid: The grid that the box was cut on.
        parts: The leaves.
    """

    grid: CubicalGrid
    parts: tuple[Part, ...]

    @property
    def worst(self) -> Calibrated:
        """The surrogate whose deviations were raised most."""
        return max((part.model for part in self.parts), key=lambda model: model.factor)

    def holds(self, part: Part, points: Array) -> Mask:
        """Which points lie in a part; each lies in one, shape ``(n,)``."""
        return _holds(self.grid, part.leaf, points)

    def trusted_at(self, points: Array) -> Mask:
        """Whether the samples do not refute the surrogate at some points, shape ``(n,)``."""
        trusted = np.zeros(len(points), dtype=bool)
        for part in self.parts:
            trusted |= self.holds(part, points) & part.model.trusted
        return trusted

    def factor_at(self, points: Array) -> Array:
        """Factor by which deviations were raised at some points of the box, shape ``(n,)``."""
        factors = np.ones(len(points))
        for part in self.parts:
            factors[self.holds(part, points)] = part.model.factor
        return factors


def has_leaves(tower: Tower, k: int) -> bool:
    """Whether a box has several processes."""
    box, dim = tower.boxes[k], tower.settings.grid.dim
    return (
        tower.may_be_cut and k == 0 and dim <= _MOST_AXES and len(box.samples.finite) > MOST_FOR_ONE
    )


def parts_of(tower: Tower, whole: Callable[[], Calibrated]) -> Parts:
    """The surrogates of the leaves of the outermost box, with all samples it sees.

    Args:
        tower: The boxes and their samples.
        whole: Fits one surrogate for all of the box; it stands in where the samples of a leaf
            determine none, as on an exactly flat floor.

    Raises:
        SurrogateError: If that cannot be fitted either.
    """
    box = tower.boxes[0]
    leaves = _fitted(tower, whole)
    parts = []
    for leaf in leaves.leaves:
        assert leaf.model is not None, "it has just been fitted"
        errors = np.concatenate(
            [np.empty(0), *(j.errors[_holds(leaves.grid, leaf, j.points)] for j in box.judged)]
        )
        model = _doubted(box, leaf, leaves.grid, leaf.model)
        judged = inflate(model, float(errors.max(initial=0.0)), errors.size)
        parts.append(Part(leaf, judged, leaves.grid.shape))
    return Parts(leaves.grid, tuple(parts))


def errors_of_predictions(leaves: Leaves, samples: Samples) -> Array:
    """Errors of what the leaves, as last fitted, predict of some samples, shape ``(n,)``."""
    errors = np.zeros(len(samples))
    for leaf in leaves.leaves:
        mine = _holds(leaves.grid, leaf, samples.points)
        if leaf.model is not None and mine.any():
            errors[mine] = prediction_errors(leaf.model, samples.points[mine], samples.losses[mine])
    return errors


def judge(
    tower: Tower, whole: Callable[[], Calibrated], start: Samples, end: Samples, typical: float
) -> None:
    """Judge the leaves by held-out samples before they have seen them.

    Args:
        tower: The boxes and their samples.
        whole: As in :func:`parts_of`.
        start: Samples that the held-out ones lie beside.
        end: The held-out ones, all finite.
        typical: Absolute value of a loss that is typical of the function.
    """
    box = tower.boxes[0]
    for leaf in () if box.leaves is None else box.leaves.leaves:
        leaf.model = None
    leaves = _fitted(tower, whole)
    noisy, errors = [], np.zeros(len(end))
    for leaf in leaves.leaves:
        mine = _holds(leaves.grid, leaf, end.points)
        about = start.points[mine], end.points[mine], start.losses[mine], end.losses[mine]
        if leaf.model is not None and mine.any():
            noisy.append(shows_noise(leaf.model, *about))
    box.is_noisy = bool(noisy) and all(noisy)
    for leaf in leaves.leaves:
        assert leaf.model is not None, "it has just been fitted"
        model = _doubted(box, leaf, leaves.grid, leaf.model)
        for i in np.flatnonzero(_holds(leaves.grid, leaf, end.points)):
            one = slice(i, i + 1)
            pair = start.points[one], end.points[one], start.losses[one], end.losses[one]
            errors[i] = check(model, *pair, typical)
    box.judged.append(Predicted(end.points, errors))


def ask_for_kinks(tower: Tower, whole: Callable[[], Calibrated]) -> None:
    """Weigh the surrogate of each leaf against a process with kinks.

    Args:
        tower: The boxes and their samples.
        whole: As in :func:`parts_of`.
    """
    box, leaves = tower.boxes[0], _fitted(tower, whole)
    of_whole: float | None = None
    for leaf in leaves.leaves:
        assert leaf.model is not None, "it has just been fitted"
        if leaf.has_own:
            corners = _corners(leaves.grid, leaf)
            leaf.kinked = kinked_weight(leaf.model.surrogate, leaf.seen.losses, *corners)
        else:
            if of_whole is None:
                losses = tower.seen_by(0).finite.losses
                of_whole = kinked_weight(leaf.model.surrogate, losses, box.lower, box.upper)
            leaf.kinked = of_whole


def _fitted(tower: Tower, whole: Callable[[], Calibrated]) -> Leaves:
    """The leaves with surrogates of all samples that are near, cut where these have become many."""
    box, seen, root = tower.boxes[0], tower.seen_by(0).finite, tower.settings.grid
    if box.leaves is None:
        shape = tuple(min(n, _CELLS) for n in root.shape)
        grid = CubicalGrid(root.lower, root.upper, shape)
        box.leaves = Leaves(grid, [Leaf((0,) * grid.dim, shape)])
    places = Located.on(box.leaves.grid, seen.points)
    box.leaves.leaves = [small for leaf in box.leaves.leaves for small in _cut(leaf, places)]
    for leaf in box.leaves.leaves:
        chosen = seen.at(places.around(leaf.first, leaf.last))
        if leaf.model is None or not np.array_equal(chosen.points, leaf.seen.points):
            leaf.seen, leaf.charts = chosen, {}
            _fit(leaf, _corners(box.leaves.grid, leaf), whole)
    return box.leaves


def _cut(leaf: Leaf, places: Located) -> list[Leaf]:
    """The parts of a leaf that holds too many samples; itself if it does not."""
    if places.inside(leaf.first, leaf.last).sum() <= _OVERFULL * MOST_POINTS:
        return [leaf]
    blocks = small_blocks(places, leaf.first, leaf.last)
    return [Leaf(*block) for block in blocks] if len(blocks) > 1 else [leaf]


def _fit(leaf: Leaf, block: tuple[Array, Array], whole: Callable[[], Calibrated]) -> None:
    x, y = leaf.seen.points, leaf.seen.losses
    corners = np.minimum(block[0], x.min(axis=0)), np.maximum(block[1], x.max(axis=0))
    own = leaf.model if leaf.has_own else None
    try:
        leaf.model, leaf.n_searched = brought_up_to_date(own, leaf.n_searched, x, y, *corners)
        leaf.has_own = True
    except SurrogateError:
        leaf.model, leaf.n_searched, leaf.has_own = whole(), 0, False


def _doubted(box: Box, leaf: Leaf, grid: CubicalGrid, model: Calibrated) -> Calibrated:
    """The surrogate with what is too fine for it, unless the loss has noise."""
    if box.is_noisy:
        return model
    low, up = _corners(grid, leaf)
    x = model.surrogate.x
    return with_fine_structure(
        model, np.maximum(up, x.max(axis=0)) - np.minimum(low, x.min(axis=0))
    )


def _corners(grid: CubicalGrid, leaf: Leaf) -> tuple[Array, Array]:
    return grid.corner(leaf.first), grid.corner(leaf.last)


def _holds(grid: CubicalGrid, leaf: Leaf, points: Array) -> Mask:
    """Which points lie in the block of a leaf; each lies in one."""
    return Located.on(grid, points).inside(leaf.first, leaf.last)
