r"""A learnt map with processes of its own in each block of a partition of the box.

One stationary process has one set of lengthscales and one noise for the entire box. A map that
bends sharply in one place and hardly in another refutes it, the more plainly the more pairs there
are; and the largest residual inflates every deviation. Here each *leaf*, a block of grid cells out
of a tree of blocks (:mod:`lightning_morse.grids.partition`), has processes of its own,
fitted to its pairs and to those of a margin around it, with their own hyper-parameters, and is
*calibrated by itself*: residuals inflate the deviations of their leaf alone
(:mod:`lightning_morse.trajectories.local_fit` chooses the leaves). A leaf whose pairs refute its
processes, or to which none can be fitted, is *void*: its cells count as unknown, and nothing is
claimed of them. The cost grows linearly with the number of pairs, as long as no single cell holds
very many.

*Premise.* For each leaf :math:`l` that is not void and each coordinate :math:`i`, the displacement
:math:`g_i` restricted to the leaf and its margin is a sample path of the process of :math:`l` and
:math:`i`. Nothing is assumed of how the paths of different leaves hang together: they are parts of
one function, and the processes need not be independent.

*Why the union over the leaves is sound.* On a closed block :math:`l` with :math:`N_l` lattice
points, those on its faces included, the band of :mod:`lightning_morse.bands.value` fails with
probability at most :math:`2 d N_l Q(c) (1 + \eta)` if its processes are right. The union bound
needs no independence and holds for any part of the box. Let :math:`N = \sum_l N_l` be the sum over
*all* blocks of the tree that may have processes, at every level and on both sides of each cut. Then
the probability that the band fails in one of the blocks where the processes are right is at most
:math:`2 d N Q(c) (1 + \eta)`, which is ``1 - confidence`` with one and the same :math:`c`: each
block has the share :math:`N_l / N`. The tree, and with it the shares, depends on where pairs start
alone; *which* of its blocks become leaves, and which of these are void, may depend on where the
pairs end, because all bands hold together. With four levels below 96 pairs this costs 5 % in
:math:`c`. On this event the image of each cell lies in the box that the band of *its* leaf gives.
Cells do not straddle leaves, because leaves are blocks of cells.

*Why attractors may reach over leaves.* The argument of :mod:`lightning_morse.trajectories.ladder`
needs a map that is continuous on the closed block of an attractor and whose values lie in the boxes
of its cells. The map is *one* function, continuous on each closed leaf that is not void, and there
are finitely many: it is continuous on their union. The cells of an attractor's block count their
points in every block of the tree, level by level. Void cells are in no attractor's block.

*Why a void leaf costs the others nothing.* What is said of the other leaves follows from their
bands and their premise, which does not mention it: the pairs of a leaf refute the processes of that
leaf. One process for the entire box has a premise for the entire box, so it stands or falls as a
whole.

With a single block all this is the map of one process, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.bands.value import ValueBand, value_bands
from lightning_morse.gp.calibration import PLAINLY_WRONG
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.grids.partition import Part
from lightning_morse.trajectories.learned_map import MapValues, TrajectoryMap


@dataclass(frozen=True, eq=False)
class LocalMap:
    """The map over ``lag`` steps on a lattice, with processes of its own in each leaf.

    Attributes:
        lattice: The lattice of the whole box.
        tree: All blocks that might have become leaves.
        leaves: Blocks of the tree that are disjoint and cover the box.
        models: The map in each leaf; None where none could be fitted.
    """

    lattice: Lattice
    tree: Part
    leaves: tuple[Part, ...]
    models: tuple[TrajectoryMap | None, ...]

    @cached_property
    def void(self) -> Mask:
        """Which leaves make no claim, shape ``(n_leaves,)``; never one that is the entire box.

        If the pairs refute the only leaf, ``factors`` says so, and so does a ``mu`` of 0.
        """
        alone = len(self.leaves) == 1
        return np.array(
            [m is None or (m.factors.max() >= PLAINLY_WRONG and not alone) for m in self.models]
        )

    @cached_property
    def standing(self) -> tuple[TrajectoryMap, ...]:
        """The maps of the leaves that are not void; all there are if each of them is."""
        there = [m for m in self.models if m is not None]
        stand = [m for m, void in zip(self.models, self.void, strict=True) if m and not void]
        return tuple(stand or there)

    @cached_property
    def factors(self) -> Array:
        """Largest factor of inflation of any leaf that is not void, per coordinate, ``(d,)``."""
        largest: Array = np.max([m.factors for m in self.standing], axis=0)
        return largest

    @cached_property
    def leaf_of_cell(self) -> Cells:
        """Number of the leaf that holds each grid cell, shape ``(grid.size,)``."""
        number = np.empty(self.lattice.grid.shape, dtype=np.int64)
        for leaf_number, leaf in enumerate(self.leaves):
            number[leaf.cells] = leaf_number
        return number.ravel()

    @cached_property
    def values(self) -> tuple[MapValues | None, ...]:
        """Posterior at the lattice points of each leaf; None where there is no map."""
        return tuple(
            None if model is None else model.values(part, self._axes(leaf))
            for model, part, leaf in zip(self.models, self.lattices, self.leaves, strict=True)
        )

    @cached_property
    def lattices(self) -> tuple[Lattice, ...]:
        """The lattice of each leaf."""
        if len(self.leaves) == 1:
            return (self.lattice,)
        edges, refinement = self.lattice.grid.edges, self.lattice.refinement
        return tuple(
            Lattice(
                CubicalGrid(
                    [e[i] for e, i in zip(edges, leaf.first, strict=True)],
                    [e[i] for e, i in zip(edges, leaf.last, strict=True)],
                    leaf.shape,
                ),
                refinement,
            )
            for leaf in self.leaves
        )

    def bands(self, confidence: float) -> tuple[ValueBand, ...]:
        """The bands of all leaves; they hold simultaneously with at least this probability.

        Args:
            confidence: In (0, 1).
        """
        groups = [() if model is None else model.processes for model in self.models]
        n = sum(self._n_points_of(part) for level in self._levels for part in level)
        return value_bands(groups, self.lattices, n, self.lattice.dim, confidence)

    def n_points(self, cells: Cells) -> int:
        """Number of lattice points in some closed grid cells, summed over the blocks of the tree.

        Args:
            cells: Numbers of grid cells.
        """
        points, most = self.lattice.points_of(cells), self.lattice.n_points
        total = 0
        for home in self._homes:
            held = home[cells] >= 0
            total += int(np.unique(points[held] + home[cells][held, None] * most).size)
        return total

    def image_boxes(
        self,
        bands: Sequence[ValueBand],
        step_level: float | None = None,
        cells: Cells | None = None,
    ) -> tuple[Array, Array]:
        """Boxes that contain the images of grid cells on the event of the bands.

        Args:
            bands: From :meth:`bands`.
            step_level: As in
                :meth:`~lightning_morse.trajectories.learned_map.TrajectoryMap.image_boxes`.
            cells: Numbers of ``k`` grid cells; by default all ``grid.size`` cells.

        Returns:
            Lower and upper corners, two arrays of shape ``(k, d)``; infinite in leaves without a
            map.
        """
        return self._boxes("image_boxes", bands, step_level, cells)

    def displacement_boxes(
        self, bands: Sequence[ValueBand], step_level: float | None = None
    ) -> tuple[Array, Array]:
        """Boxes that contain the displacements of the points of each cell, as :meth:`image_boxes`.

        Args:
            bands: From :meth:`bands`.
            step_level: As in :meth:`image_boxes`.

        Returns:
            Lower and upper corners, two arrays of shape ``(grid.size, d)``.
        """
        return self._boxes("displacement_boxes", bands, step_level, None)

    def _boxes(
        self,
        what: str,
        bands: Sequence[ValueBand],
        step_level: float | None,
        cells: Cells | None,
    ) -> tuple[Array, Array]:
        asked = np.arange(self.lattice.grid.size) if cells is None else cells
        low = np.full((asked.size, self.lattice.dim), -np.inf)
        up = -low
        home = self.leaf_of_cell[asked]
        for number in np.unique(home).tolist():
            model, values = self.models[number], self.values[number]
            if model is None or values is None:
                continue
            here = home == number
            inside = None if cells is None else self._number_in_leaf(asked[here], number)
            boxes = getattr(model, what)
            low[here], up[here] = boxes(
                self.lattices[number], values, bands[number], step_level, inside
            )
        return low, up

    def unknown_cells(self) -> Mask:
        """Cells in which the pairs do not determine the map, or refute it; shape ``(grid.size,)``.

        The cells of void leaves, and those of
        :meth:`~lightning_morse.trajectories.learned_map.TrajectoryMap.unknown_cells`.
        """
        unknown = np.zeros(self.lattice.grid.shape, dtype=bool)
        for leaf, model, part, values, void in zip(
            self.leaves, self.models, self.lattices, self.values, self.void, strict=True
        ):
            if model is None or values is None or void:
                unknown[leaf.cells] = True
            else:
                unknown[leaf.cells] = model.unknown_cells(part, values).reshape(leaf.shape)
        return unknown.ravel()

    def mean(self, points: ArrayLike) -> Array:
        """Posterior mean of the images of some states, by the nearest leaf outside the box.

        Args:
            points: Shape ``(m, d)``.

        Returns:
            Shape ``(m, d)``; a state in a leaf without a map stays where it is.
        """
        x = np.asarray(points, dtype=np.float64)
        if len(self.leaves) == 1 and self.models[0] is not None:
            return self.models[0].mean(x)
        grid, out = self.lattice.grid, x.copy()
        home = self.leaf_of_cell[grid.cell_of(np.clip(x, grid.lower, grid.upper))]
        for number in np.unique(home).tolist():
            model = self.models[number]
            if model is not None:
                out[home == number] = model.mean(x[home == number])
        return out

    @cached_property
    def _levels(self) -> list[list[Part]]:
        return self.tree.levels()

    @cached_property
    def _homes(self) -> list[Cells]:
        """Number of the block that holds each cell at each level of the tree; -1 for none."""
        homes = []
        for level in self._levels:
            home = np.full(self.lattice.grid.shape, -1, dtype=np.int64)
            for number, part in enumerate(level):
                home[part.cells] = number
            homes.append(home.ravel())
        return homes

    def _n_points_of(self, part: Part) -> int:
        return math.prod(
            n * k + 1 for n, k in zip(part.shape, self.lattice.refinement, strict=True)
        )

    def _axes(self, leaf: Part) -> list[Array]:
        """Coordinates of the lattice points of a leaf: those of the whole lattice, to the bit."""
        return [
            axis[a * k : b * k + 1]
            for axis, a, b, k in zip(
                self.lattice.axes, leaf.first, leaf.last, self.lattice.refinement, strict=True
            )
        ]

    def _number_in_leaf(self, cells: Cells, number: int) -> Cells:
        leaf = self.leaves[number]
        index = np.unravel_index(cells, self.lattice.grid.shape)
        inside: Cells = np.ravel_multi_index(
            tuple(i - a for i, a in zip(index, leaf.first, strict=True)), leaf.shape
        )
        return inside
