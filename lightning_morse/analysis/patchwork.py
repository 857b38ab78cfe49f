r"""A grid on which several charts tell of the gradient flow, each of a block of cells.

One stationary process is the wrong model for a box of many scales, and more samples make it worse.
So the outermost box, where it holds many samples, is cut into blocks of cells with processes of
their own (:mod:`lightning_morse.analysis.leaves`). The chart of a block is drawn on its cells and a
margin of cells around them. *Each cell is followed by the chart of its block*; a flight that leaves
the margin ends on its face.

*What is guaranteed.* On the event that all bands hold, a trajectory that starts in a cell and stays
in the margin of its block is in the image box at the end of the flight. One that leaves the margin
has crossed a face of it, in the box that the flight sweeps: then that box takes the place of the
image box. So the map is an outer approximation, with times that differ from point to point, as
among boxes inside boxes. A step that ends on a face has crossed the margin, so that no trajectory
takes infinitely many of these in finite time: see "Processes in parts of a box" in docs/mu.md.

*How probable that is.* Each block has its share of the probability that the bands of the grid may
fail with, by the number of points of its lattice. The union bound needs no independence, and which
blocks there are depends on the samples alone. A block whose samples refute its process makes no
claim, and takes none away from the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.analysis.charts import Chart, MakeBandOf, Patch
from lightning_morse.conley.nested_map import BoxImages, own_cells
from lightning_morse.grids.cubical import CubicalGrid

# Cells around a block on which its chart is drawn. A cell is followed over about three, in a box of
# at most two and a half; sound at any value.
MARGIN = 6


@dataclass(frozen=True, eq=False)
class Patchwork:
    """The gradient flow in one box according to the surrogates of its parts; see :class:`Chart`.

    Attributes:
        grid: The grid.
        patches: Its parts, disjoint; together they are all of it.
        shares: Share of the probability of failure of each, shape ``(n_patches,)``.
    """

    grid: CubicalGrid
    patches: tuple[Patch, ...]
    shares: Array

    @classmethod
    def of(cls, grid: CubicalGrid, patches: Sequence[Patch]) -> Patchwork:
        """Put parts of a grid together."""
        return cls(grid, tuple(patches), shares_of([p.chart.lattice.n_points for p in patches]))

    def at(self, point: Array) -> Chart:
        """The chart that tells of a point, shape ``(d,)``, in the box."""
        chart: Chart = self.patches[int(self.part_of(point[None])[0])].chart
        return chart

    def part_of(self, points: Array) -> Cells:
        """Number of the part that each point lies in, or is next to, shape ``(n,)``."""
        inside = np.clip(points, self.grid.lower, self.grid.upper)
        return self.of_cell[self.grid.cell_of(inside)]

    @cached_property
    def of_cell(self) -> Cells:
        """Number of the part that each cell belongs to, shape ``(grid.size,)``."""
        number = np.empty(self.grid.size, dtype=np.int64)
        for i, patch in enumerate(self.patches):
            number[patch.cells] = i
        return number

    @property
    def failure(self) -> float:
        """Probability that one of the bands fails."""
        return sum(patch.chart.failure for patch in self.patches)

    @property
    def trusted(self) -> bool:
        """Whether at least one surrogate is not refuted by its samples."""
        return any(patch.chart.trusted for patch in self.patches)

    @cached_property
    def critical(self) -> Mask:
        """Cells that may hold a critical point, shape ``(grid.size,)``."""
        return self._gathered([patch.chart.critical for patch in self.patches])

    @cached_property
    def diverged(self) -> Mask:
        """Cells that count as exterior, shape ``(grid.size,)``."""
        return self._gathered([patch.chart.diverged for patch in self.patches])

    @property
    def box_images(self) -> BoxImages:
        """Images of all cells, as the combinatorial map takes them."""
        return self._put_together([patch.chart.box_images for patch in self.patches])

    def sharpened(self, cells: Cells) -> BoxImages:
        """The same with those of some cells enclosed more sharply."""
        chosen = np.zeros(self.grid.size, dtype=bool)
        chosen[cells] = True
        return self._put_together(
            [patch.chart.sharpened(patch.inside[chosen[patch.cells]]) for patch in self.patches]
        )

    def with_band(self, make_band_of: MakeBandOf) -> Patchwork:
        """The same for other bands on the gradient, made for shares of the probability."""
        return Patchwork(
            self.grid,
            tuple(
                dataclasses.replace(patch, chart=patch.chart.with_band(_part(make_band_of, share)))
                for patch, share in zip(self.patches, self.shares.tolist(), strict=True)
            ),
            self.shares,
        )

    def _put_together(self, parts: Sequence[BoxImages]) -> BoxImages:
        # Where nothing is known, on the edges of this grid to the last bit: cells have to touch.
        out = own_cells(self.grid, self.diverged)
        for patch, images in zip(self.patches, parts, strict=True):
            if patch.chart.trusted:
                found = _within(self.grid, patch.chart.grid, images)
                for name in ("lower", "upper", "exits", "swept_lower", "swept_upper"):
                    getattr(out, name)[patch.cells] = getattr(found, name)[patch.inside]
        return out

    def _gathered(self, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Values on all cells, from those on all cells of each chart's grid."""
        out = np.empty((self.grid.size, *values[0].shape[1:]), dtype=values[0].dtype)
        for patch, each in zip(self.patches, values, strict=True):
            out[patch.cells] = each[patch.inside]
        return out


AnyChart = Chart | Patchwork


def shares_of(n_points: Sequence[int]) -> Array:
    """Shares of parts with so many lattice points: all bands have the same number of deviations."""
    n = np.array(n_points, dtype=np.float64)
    shares: Array = n / n.sum()
    return shares


def _part(make_band_of: MakeBandOf, share: float) -> MakeBandOf:
    return lambda part: make_band_of(share * part)


def _within(whole: CubicalGrid, margin: CubicalGrid, images: BoxImages) -> BoxImages:
    """Images on the grid of a part, as images on the whole.

    Of cells whose flights may end on a face of the margin within the box, the image is all that
    they sweep.
    """
    beyond = np.stack([images.lower < margin.lower, images.upper > margin.upper], axis=2)
    exits = images.exits | beyond
    of_whole = np.stack([margin.lower == whole.lower, margin.upper == whole.upper], axis=1)
    stops = (exits & ~of_whole).any(axis=(1, 2))[:, None]
    low = np.minimum(np.maximum(images.lower, margin.lower), images.swept_lower)
    up = np.maximum(np.minimum(images.upper, margin.upper), images.swept_upper)
    return BoxImages(
        lower=np.where(stops, low, images.lower),
        upper=np.where(stops, up, images.upper),
        exits=exits & of_whole,
        swept_lower=images.swept_lower,
        swept_upper=images.swept_upper,
        exterior=images.exterior,
    )
