"""A tree of blocks of grid cells with fewer and fewer points in them.

A k-d tree over the cells of the grid: a block is cut in two at the edge between cells that comes
closest to halving its points, along its longest axis in units of the box. Blocks with few enough
points may have processes of their own, fitted to the points in them and to those nearest around
them. A cell lies in one block of each level.

Only where points lie decides on the tree, never what is found there: the union bound over the
blocks of a learnt map (:mod:`lightning_morse.trajectories.local_map`) needs them fixed before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.grids.cubical import CubicalGrid

# Sound at any value; figures in docs/decisions.md.
#
# Up to the first number of points the box is one block and never cut. Up to the second it is still
# tried as a whole first: one process averages the noise of all points, at a cubic cost. Below that,
# blocks have processes of their own once they have no more points than the third.
NEVER_CUT, TRIED_WHOLE, MOST_POINTS = 128, 384, 96
# No cut leaves a block with fewer points.
LEAST_POINTS = 12
# A process is fitted to this many times the points of its block, and at least so many: from fewer
# the hyper-parameters are anyone's guess, and single cells between points count as unknown.
WITH_MARGIN, LEAST_POINTS_FITTED = 2, 48
# Points kept as candidates for the margins inside a block, as a multiple of its own.
_CANDIDATES = 8


@dataclass(frozen=True, eq=False)
class Part:
    """A block of grid cells.

    Attributes:
        first: Index of its first cell along each axis, ``d`` of them.
        last: One past the index of its last cell along each axis.
        points: Numbers of the points in it and in the margin around it, ascending, shape ``(n,)``.
        own: Which of these lie in it, shape ``(n,)``.
        fitted: Whether it may have processes of its own.
        halves: The two blocks it is cut into; empty at the bottom of the tree, where ``fitted``
            always holds.
    """

    first: tuple[int, ...]
    last: tuple[int, ...]
    points: Cells
    own: Mask
    fitted: bool
    halves: tuple[Part, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of cells along each axis."""
        return tuple(b - a for a, b in zip(self.first, self.last, strict=True))

    @property
    def cells(self) -> tuple[slice, ...]:
        """Its cells, as an index into an array of the grid's shape."""
        return tuple(slice(a, b) for a, b in zip(self.first, self.last, strict=True))

    def levels(self) -> list[list[Part]]:
        """The blocks that may have processes, by how many such blocks they lie in."""
        found: list[list[Part]] = []
        for depth, part in self._with_depth(0):
            found.extend([] for _ in range(depth + 1 - len(found)))
            found[depth].append(part)
        return found

    def _with_depth(self, depth: int) -> Iterator[tuple[int, Part]]:
        if self.fitted:
            yield depth, self
        for half in self.halves:
            yield from half._with_depth(depth + int(self.fitted))


def partition(points: Array, grid: CubicalGrid) -> Part:
    """The tree of blocks; a single one where there are at most 128 points.

    Args:
        points: Inside the box of the grid, shape ``(n, d)``.
        grid: The grid.

    Returns:
        The entire box, with the blocks it is cut into.
    """
    n = len(points)
    everything = np.arange(n)
    first, last = (0,) * grid.dim, grid.shape
    all_own = np.ones(n, dtype=bool)
    if n <= NEVER_CUT:
        return Part(first, last, everything, all_own, True)
    halves = _halves(Located.on(grid, points), first, last, everything, everything)
    return Part(first, last, everything, all_own, n <= TRIED_WHOLE or not halves, halves)


@dataclass(frozen=True, eq=False)
class Located:
    """Points, shape ``(n, d)``, and in which cell of a grid they lie along each axis."""

    points: Array
    index: Cells
    grid: CubicalGrid

    @classmethod
    def on(cls, grid: CubicalGrid, points: Array) -> Located:
        """Points, shape ``(n, d)``; one outside the box counts for the cell next to it."""
        inside = np.clip(points, grid.lower, grid.upper)
        index = np.stack(np.unravel_index(grid.cell_of(inside), grid.shape), axis=1)
        return cls(points, index, grid)

    def inside(self, first: tuple[int, ...], last: tuple[int, ...]) -> Mask:
        """Which points lie in a block; one on a face that blocks share belongs to one of them."""
        return np.asarray(((self.index >= first) & (self.index < last)).all(axis=1))

    def around(self, first: tuple[int, ...], last: tuple[int, ...]) -> Cells:
        """The points that processes of a block are fitted to: its own, and the nearest others.

        Returns:
            Numbers, ascending.
        """
        away = self.away(np.arange(len(self.points)), first, last)
        n = max(WITH_MARGIN * int((away < 0).sum()), LEAST_POINTS_FITTED)
        return np.sort(np.argsort(away, kind="stable")[:n])

    def away(self, some: Cells, first: tuple[int, ...], last: tuple[int, ...]) -> Array:
        """Distance of some points from a block, in widths of the block; negative inside it."""
        low, up = self.grid.corner(first), self.grid.corner(last)
        x = self.points[some]
        distance: Array = (np.maximum(low - x, x - up) / (up - low)).max(axis=1)
        # A point on a face belongs to one block only.
        inside = self.inside(first, last)[some]
        return np.where(inside, -1.0, np.maximum(distance, 0.0))


def small_blocks(
    places: Located, first: tuple[int, ...], last: tuple[int, ...]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut a block until its parts hold no more points than a process of their own is fitted to.

    Args:
        places: The points.
        first: Index of the first cell of the block along each axis.
        last: One past the index of its last cell.

    Returns:
        The same of each part.
    """
    inside = places.inside(first, last)
    cut = _cut(places.index[inside], first, last, places.grid)
    if inside.sum() <= MOST_POINTS or cut is None:
        return [(first, last)]
    below, above = (first, _at(last, *cut)), (_at(first, *cut), last)
    return small_blocks(places, *below) + small_blocks(places, *above)


def _halves(
    places: Located, first: tuple[int, ...], last: tuple[int, ...], own: Cells, near: Cells
) -> tuple[Part, ...]:
    """The two parts of a block, with theirs; none where a part would have too few points."""
    cut = _cut(places.index[own], first, last, places.grid)
    if cut is None:
        return ()
    axis, edge = cut
    below = places.index[own, axis] < edge
    return (
        _part(places, first, _at(last, axis, edge), own[below], near),
        _part(places, _at(first, axis, edge), last, own[~below], near),
    )


def _part(
    places: Located, first: tuple[int, ...], last: tuple[int, ...], own: Cells, near: Cells
) -> Part:
    near = near[np.argsort(places.away(near, first, last), kind="stable")]
    near = near[: max(_CANDIDATES * own.size, LEAST_POINTS_FITTED)]
    halves = _halves(places, first, last, own, near)
    chosen = np.sort(near[: max(WITH_MARGIN * own.size, LEAST_POINTS_FITTED)])
    fitted = own.size <= MOST_POINTS or not halves
    return Part(first, last, chosen, np.isin(chosen, own), fitted, halves)


def _cut(
    index: Cells, first: tuple[int, ...], last: tuple[int, ...], grid: CubicalGrid
) -> tuple[int, int] | None:
    """Axis and edge at which to cut a block; None if a part would have too few points."""
    share = (np.array(last) - first) / np.array(grid.shape)
    for axis in np.argsort(-share, kind="stable").tolist():
        edges = np.arange(first[axis] + 1, last[axis])
        if not edges.size:
            continue
        below = np.searchsorted(np.sort(index[:, axis]), edges)
        smaller = np.minimum(below, len(index) - below)
        best = int(np.argmax(smaller))
        if smaller[best] >= LEAST_POINTS:
            return axis, int(edges[best])
    return None


def _at(corner: tuple[int, ...], axis: int, edge: int) -> tuple[int, ...]:
    return (*corner[:axis], edge, *corner[axis + 1 :])
