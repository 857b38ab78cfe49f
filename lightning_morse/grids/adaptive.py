"""Adaptive grids: cells of a cubical grid halved on every axis, again and again, where asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.grids.cubical import MAX_CELLS, CubicalGrid, check_mask

# A picture of cells at their finest level may have so many.
_MAX_RASTER = 2**26


@dataclass(frozen=True, eq=False)
class AdaptiveGrid:
    r"""A box cut into closed cells of several sizes: the leaves of dyadic trees over a grid.

    Each cell of the coarse grid is a root. A node has no children, or the :math:`2^d` halves of
    it, numbered one after the other in C order. The cells are the leaves, in the order in which
    they come when the trees are read from left to right: refining a cell puts its children in its
    place and leaves the order of all others as it is. Without any refinement they are the cells of
    the coarse grid, with its numbers.

    The faces of a node of level ``l`` are edges of the grid with :math:`2^l` times as many cells
    on each axis, the same floating-point numbers: whatever meets is decided by these.

    Made by :meth:`of` and :meth:`refine`.

    Attributes:
        coarse: The grid of the roots; no axis of it is periodic.
        node_level: How often each node was halved, shape ``(n_nodes,)``; the roots first.
        node_index: Place of each node on the axes, in widths of its level, ``(n_nodes, d)``.
        first_child: First child of each node, -1 for a leaf, shape ``(n_nodes,)``.
        leaves: Node of each cell, shape ``(size,)``.

    Example:
        Two cells, of which the second is halved, and of its halves the first:

        >>> grid = AdaptiveGrid.of(CubicalGrid([0.0], [2.0], (2,)))
        >>> grid = grid.refine([False, True]).refine([False, True, False])
        >>> [bound[:, 0].tolist() for bound in grid.cell_bounds()]
        [[0.0, 1.0, 1.25, 1.5], [1.0, 1.25, 1.5, 2.0]]
        >>> grid.cell_of([[0.3], [1.25], [2.0], [2.1]]).tolist()
        [0, 2, 3, -1]
        >>> grid.levels.tolist(), grid.volumes.tolist()
        ([0, 2, 2, 1], [0.5, 0.125, 0.125, 0.25])
    """

    coarse: CubicalGrid
    node_level: NDArray[np.int8]
    node_index: Cells
    first_child: NDArray[np.int32]
    leaves: NDArray[np.int32]

    @classmethod
    def of(cls, grid: CubicalGrid) -> AdaptiveGrid:
        """Start from a cubical grid, with nothing refined.

        Raises:
            ValueError: If an axis of the grid is periodic.
        """
        if any(grid.periodic):
            raise ValueError(
                f"an adaptive grid cannot have periodic axes, got periodic={grid.periodic}; use "
                "the cubical grid itself, or a box that covers the circle more than once"
            )
        return cls(
            coarse=grid,
            node_level=np.zeros(grid.size, dtype=np.int8),
            node_index=np.stack(np.unravel_index(np.arange(grid.size), grid.shape), axis=1),
            first_child=np.full(grid.size, -1, dtype=np.int32),
            leaves=np.arange(grid.size, dtype=np.int32),
        )

    @property
    def dim(self) -> int:
        """Number of axes ``d``."""
        return self.coarse.dim

    @property
    def size(self) -> int:
        """Number of cells."""
        return self.leaves.size

    @property
    def levels(self) -> NDArray[np.int8]:
        """How often each cell was halved, shape ``(size,)``."""
        return self.node_level[self.leaves]

    @property
    def volumes(self) -> Array:
        """Each cell's part of the box, shape ``(size,)``."""
        return np.ldexp(1 / self.coarse.size, -self.dim * self.levels.astype(np.int32))

    @cached_property
    def middles(self) -> Array:
        """Where each node is halved, shape ``(d, n_nodes)``."""
        return self._edges(2 * self.node_index + 1, self.node_level + 1).T.copy()

    def cell_bounds(self, cells: ArrayLike | None = None) -> tuple[Array, Array]:
        """Lower and upper corners of cells, two arrays of shape ``(n, d)``.

        Args:
            cells: Numbers or a mask of cells; all of them by default.
        """
        nodes = self.leaves if cells is None else self.leaves[np.asarray(cells)]
        index, level = self.node_index[nodes], self.node_level[nodes]
        return self._edges(index, level), self._edges(index + 1, level)

    def cell_of(self, points: ArrayLike) -> Cells:
        """Number of the cell that holds each point; -1 outside the box.

        A point on a face is counted to the cell above it, as :meth:`CubicalGrid.cell_of` does.

        Args:
            points: Shape ``(n, d)``, coordinates of the box.

        Raises:
            ValueError: If the shape does not match the grid or a coordinate is NaN.
        """
        x = np.asarray(points, dtype=np.float64)
        nodes = self.coarse.cell_of(x)
        todo = np.flatnonzero(nodes >= 0)
        while todo.size:
            todo = todo[self.first_child[nodes[todo]] >= 0]
            node = nodes[todo]
            child = np.zeros(todo.size, dtype=np.int64)
            for axis in range(self.dim):
                child = 2 * child + (x[todo, axis] >= self.middles[axis, node])
            nodes[todo] = self.first_child[node] + child
        return np.where(nodes >= 0, self.leaf_number[nodes], -1)

    @cached_property
    def leaf_number(self) -> NDArray[np.int32]:
        """Number of the cell each node is, -1 for a node with children, shape ``(n_nodes,)``."""
        number = np.full(self.first_child.size, -1, dtype=np.int32)
        number[self.leaves] = np.arange(self.size, dtype=np.int32)
        return number

    def refine(self, chosen: ArrayLike) -> AdaptiveGrid:
        """Halve some cells on every axis.

        Args:
            chosen: Cells to halve, boolean, shape ``(size,)``.

        Returns:
            The finer grid. :meth:`origins` says where its cells come from.

        Raises:
            ValueError: If ``chosen`` is not such a mask, if there would be more nodes than an
                int32 can number, or cells too thin for floating point to tell their faces apart.
        """
        halved = check_mask(chosen, "chosen", self.size)
        parents = self.leaves[halved]
        children = 2**self.dim
        if self.first_child.size + children * parents.size > MAX_CELLS:
            raise ValueError(
                f"refining {parents.size} cells leads to "
                f"{self.first_child.size + children * parents.size:.3g} nodes; at most {MAX_CELLS} "
                "can be numbered. Refine fewer cells"
            )
        if not parents.size:
            return self
        level = self.node_level[parents] + 1
        self._check_level(int(level.max()))
        halves = np.stack(np.unravel_index(np.arange(children), (2,) * self.dim), axis=1)
        first = self.first_child.size + children * np.arange(parents.size, dtype=np.int32)
        first_child = np.concatenate(
            [self.first_child, np.full(children * parents.size, -1, dtype=np.int32)]
        )
        first_child[parents] = first
        leaves = self.leaves[self.origins(halved)]
        leaves[np.repeat(halved, np.where(halved, children, 1))] = np.arange(
            self.first_child.size, first_child.size, dtype=np.int32
        )
        return AdaptiveGrid(
            coarse=self.coarse,
            node_level=np.concatenate([self.node_level, np.repeat(level, children)]),
            node_index=np.concatenate(
                [
                    self.node_index,
                    (2 * self.node_index[parents][:, None, :] + halves).reshape(-1, self.dim),
                ]
            ),
            first_child=first_child,
            leaves=leaves,
        )

    def origins(self, chosen: ArrayLike) -> Cells:
        """Which cell of this grid each cell of the refined one is or comes from.

        Args:
            chosen: The mask given to :meth:`refine`.

        Returns:
            Cell numbers, shape ``(refined.size,)``.
        """
        halved = check_mask(chosen, "chosen", self.size)
        return np.repeat(np.arange(self.size), np.where(halved, 2**self.dim, 1))

    def _edges(self, index: Cells, level: NDArray[np.int8]) -> Array:
        """Coordinates of edges, ``index`` widths of ``level`` above the lower corner, ``(n, d)``.

        The arithmetic is that of :attr:`CubicalGrid.edges`: powers of two factor out of it.
        """
        count = np.array(self.coarse.shape) << level[:, None].astype(np.int64)
        step = (self.coarse.upper - self.coarse.lower) / count
        return np.where(index == count, self.coarse.upper, index * step + self.coarse.lower)

    def _check_level(self, level: int) -> None:
        """Faces of the cells must be different numbers, with some to spare between them."""
        largest = np.maximum(np.abs(self.coarse.lower), np.abs(self.coarse.upper))
        width = np.ldexp(self.coarse.cell_widths, -level)
        if (width < 8 * np.spacing(largest)).any():
            axis = int(np.argmin(width / largest))
            raise ValueError(
                f"cells of level {level} would be {width[axis]:.3g} wide on axis {axis}, where "
                f"coordinates go up to {largest[axis]:.3g}: too thin for double precision. Refine "
                "less often, or move the box towards the origin"
            )


def raster(
    grid: AdaptiveGrid, cells: Mask, masks: Sequence[Mask]
) -> tuple[CubicalGrid, list[Mask]]:
    """Draw sets of cells on a uniform grid that covers some cells and a seam around them.

    Its cells are as small as the smallest that is drawn, so the sets are drawn exactly.

    Args:
        grid: The adaptive grid.
        cells: Cells to cover, boolean, shape ``(grid.size,)``, at least one.
        masks: Sets of cells to draw, likewise.

    Returns:
        The uniform grid, one unit a cell, and the masks of the sets on it.

    Raises:
        ValueError: If that grid would have more than 2^26 cells.

    Example:
        >>> grid = AdaptiveGrid.of(CubicalGrid([0.0], [3.0], (3,))).refine([False, True, False])
        >>> middle, left = np.arange(4) == 1, np.arange(4) == 0
        >>> window, (drawn, covered) = raster(grid, middle, [left, middle])
        >>> drawn.tolist(), covered.tolist()
        ([True, False, False], [False, True, False])
    """
    level, index = grid.levels.astype(np.int64), grid.node_index[grid.leaves]
    drawn = np.any([cells, *masks], axis=0)
    finest = int(level[drawn].max())
    scale = (1 << (finest - np.minimum(level, finest)))[:, None]
    first, last = index * scale, (index + 1) * scale
    begin = np.maximum(first[cells].min(axis=0) - 1, 0)
    end = np.minimum(last[cells].max(axis=0) + 1, np.array(grid.coarse.shape) << finest)
    shape = tuple(int(n) for n in end - begin)
    if math.prod(shape) > _MAX_RASTER:
        raise ValueError(
            f"the cells reach over {shape} cells of level {finest}, more than {_MAX_RASTER}; "
            "refine them less, or ask for a smaller set"
        )
    out = []
    for mask in masks:
        picture = np.zeros(shape, dtype=bool)
        low = np.clip(first[mask] - begin, 0, shape)
        high = np.clip(last[mask] - begin, 0, shape)
        seen = (low < high).all(axis=1)
        small = seen & (scale[mask][:, 0] == 1)
        picture[tuple(low[small].T)] = True
        for a, b in zip(low[seen & ~small], high[seen & ~small], strict=True):
            picture[tuple(slice(i, j) for i, j in zip(a, b, strict=True))] = True
        out.append(picture.ravel())
    return CubicalGrid(np.zeros(grid.dim), np.array(shape, dtype=float), shape), out
