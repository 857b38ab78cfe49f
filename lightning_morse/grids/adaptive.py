"""Adaptive grids: a cubical grid in which chosen cells are halved along every axis, repeatedly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_morse._typing import Array, Cells
from lightning_morse.grids.cubical import MAX_CELLS, CubicalGrid, check_mask

# Narrowest cell allowed, in units in the last place of the largest coordinate. The faces of a cell
# must be distinct floating-point numbers after a few roundings: contact is decided by comparing
# them, so soundness depends on some such limit; a few units would do, and 8 leaves a margin.
_MIN_WIDTH_IN_ULPS = 8


@dataclass(frozen=True, eq=False)
class AdaptiveGrid:
    r"""A box divided into closed cells of several sizes: the leaves of :math:`2^d`-trees.

    Each cell of the coarse grid is the root of a tree. A node is a leaf or has :math:`2^d`
    children, numbered consecutively in C order. The cells of the adaptive grid are the leaves,
    numbered as the trees are traversed from left to right: refining a cell puts its children in
    its place and keeps the order of all other cells. Without refinement the cells and their
    numbers are those of the coarse grid.

    The faces of a node of level ``l`` are edges of the cubical grid with :math:`2^l` times as many
    cells per axis, to the last bit. These numbers alone decide which cells meet.

    Build one with :meth:`of` and :meth:`refine`.

    Attributes:
        coarse: The grid of the roots, without periodic axes.
        node_level: Depth of each node in its tree, shape ``(n_nodes,)``; the roots come first.
        node_index: Position of each node per axis, in cell widths of its level, shape
            ``(n_nodes, d)``.
        first_child: First child of each node, -1 for a leaf, shape ``(n_nodes,)``.
        leaves: Node of each cell, shape ``(size,)``.

    Example:
        Two cells; the second is halved, then the first of its halves:

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
        """The cells of a cubical grid, with nothing refined.

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
        """How often each cell has been halved, shape ``(size,)``."""
        return self.node_level[self.leaves]

    @property
    def volumes(self) -> Array:
        """Fraction of the box that each cell takes up, shape ``(size,)``."""
        return np.ldexp(1 / self.coarse.size, -self.dim * self.levels.astype(np.int32))

    @cached_property
    def middles(self) -> Array:
        """Coordinates at which each node is halved, shape ``(d, n_nodes)``."""
        return self._edges(2 * self.node_index + 1, self.node_level + 1).T.copy()

    def cell_bounds(self, cells: ArrayLike | None = None) -> tuple[Array, Array]:
        """Lower and upper corners of cells, two arrays of shape ``(n, d)``.

        Args:
            cells: Cell numbers or a mask of cells; all cells by default.
        """
        nodes = self.leaves if cells is None else self.leaves[np.asarray(cells)]
        index, level = self.node_index[nodes], self.node_level[nodes]
        return self._edges(index, level), self._edges(index + 1, level)

    def cell_of(self, points: ArrayLike) -> Cells:
        """Number of the cell that contains each point; -1 outside the box.

        A point on a shared face is assigned to the upper cell, as in :meth:`CubicalGrid.cell_of`.

        Args:
            points: Shape ``(n, d)``, in the coordinates of the box.

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
        """Cell number of each node that is a leaf, -1 for the others, shape ``(n_nodes,)``."""
        number = np.full(self.first_child.size, -1, dtype=np.int32)
        number[self.leaves] = np.arange(self.size, dtype=np.int32)
        return number

    def refine(self, chosen: ArrayLike) -> AdaptiveGrid:
        """Halve chosen cells along every axis.

        Args:
            chosen: Cells to halve, boolean, shape ``(size,)``.

        Returns:
            The finer grid; :meth:`origins` maps its cells to those of this one.

        Raises:
            ValueError: If ``chosen`` is not such a mask, if there would be more nodes than an
                int32 can number, or if cells would be too thin for their faces to be distinct
                floating-point numbers.
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
        """The cell of this grid that each cell of the refined grid is, or is a part of.

        Args:
            chosen: The mask given to :meth:`refine`.

        Returns:
            Cell numbers, shape ``(refined.size,)``.
        """
        halved = check_mask(chosen, "chosen", self.size)
        return np.repeat(np.arange(self.size), np.where(halved, 2**self.dim, 1))

    def _edges(self, index: Cells, level: NDArray[np.int8]) -> Array:
        """Coordinates of edges, ``index`` widths of ``level`` above the lower corner, ``(n, d)``.

        The same floating-point operations as in :attr:`CubicalGrid.edges`, where powers of two
        factor out: hence the same numbers, to the last bit.
        """
        count = np.array(self.coarse.shape) << level[:, None].astype(np.int64)
        step = (self.coarse.upper - self.coarse.lower) / count
        return np.where(index == count, self.coarse.upper, index * step + self.coarse.lower)

    def _check_level(self, level: int) -> None:
        """Refuse a level at which the faces of a cell are no longer safely distinct numbers."""
        largest = np.maximum(np.abs(self.coarse.lower), np.abs(self.coarse.upper))
        width = np.ldexp(self.coarse.cell_widths, -level)
        if (width < _MIN_WIDTH_IN_ULPS * np.spacing(largest)).any():
            axis = int(np.argmin(width / largest))
            raise ValueError(
                f"cells of level {level} would be {width[axis]:.3g} wide on axis {axis}, where "
                f"coordinates reach {largest[axis]:.3g}: too thin for double precision. Refine "
                "less often, or move the box closer to the origin"
            )
