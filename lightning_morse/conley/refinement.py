"""Morse graphs on adaptive grids: halve what recurs, or what is undecided, until fine enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from lightning_morse._typing import Array, Mask
from lightning_morse.conley.adaptive_map import adaptive_outer_approximation
from lightning_morse.conley.basins import certain_labels
from lightning_morse.conley.box_maps import BoxMap
from lightning_morse.conley.morse_sets import MorseGraph, morse_graph
from lightning_morse.grids.adaptive import AdaptiveGrid
from lightning_morse.grids.cubical import CubicalGrid

_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)


@dataclass(frozen=True, eq=False)
class RefinedMorseGraph:
    """What :func:`refined_morse_graph` found.

    Attributes:
        grid: The cells.
        image: The map on them, the exterior last.
        found: Its Morse graph.
        complete: Whether every cell that was to be refined has the full depth. If not, the limit
            on the number of cells came first; what is said of the cells holds all the same.
        sizes: Number of cells of each grid on the way, the last one that of ``grid``.
    """

    grid: AdaptiveGrid
    image: csr_array
    found: MorseGraph
    complete: bool
    sizes: tuple[int, ...]

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Certain basin of each cell (:func:`~lightning_morse.conley.basins.certain_labels`)."""
        return certain_labels(self.found)

    def volume(self, label: int) -> float:
        """Part of the box that has a label.

        Args:
            label: Number of an attractor's Morse set, -1 for undecided, -2 for what escapes.
        """
        return float(self.grid.volumes[self.labels == label].sum())


def refined_morse_graph(
    images: BoxMap,
    grid: CubicalGrid,
    depth: int,
    *,
    refine: Literal["recurrent", "undecided"] = "recurrent",
    max_cells: int = 2_000_000,
    critical: Callable[[Array, Array], Mask] | None = None,
) -> RefinedMorseGraph:
    r"""Find the Morse graph of a map on a grid that is fine only where it has to be.

    Starting from a cubical grid, the Morse graph is found, the cells of Morse sets are halved on
    every axis, the images of the new cells are computed, and all edges between cells are found
    anew; so on until every Morse set consists of cells that were halved ``depth`` times. With
    ``refine="undecided"`` so are the cells from which two attractors, or an attractor and the
    exterior, can be reached: those along the boundaries of basins.

    *What holds.* If the box of every cell contains its image, the map of each step is an outer
    approximation on cells of its own, and all that is known of those (recurrence lies in Morse
    sets, no path no connection, certain labels) holds for the last one. Nothing of the steps
    before is relied on.

    *Beside the uniform grid* whose cells all have ``depth``: if smaller cells have smaller images
    (the box of a part of a cell lies in the box of the cell; a cell is ``critical`` if a part of it
    is) and the result is complete, the Morse sets are those of the uniform grid, cell for cell. A
    path of the uniform map is one here, so each pair in order there is in order here, and no cell
    has two different certain labels. Coarse cells may add paths: the order may hold more pairs
    here, and fewer cells may be certain.

    *What it takes.* Refining pays only where images shrink with the cells, and cells move by more
    than their size: take the map of a flow after a good while, not after a short step.

    Args:
        images: Takes the lower and upper corners of boxes of any size, two arrays of shape
            ``(n, d)``, to the corners of boxes that contain their images, likewise. See
            :func:`~lightning_morse.conley.box_maps.corner_box_map` and
            :func:`~lightning_morse.conley.box_maps.lipschitz_box_map`.
        grid: The grid to start from; no periodic axes.
        depth: How often a cell may be halved.
        refine: What is refined.
        max_cells: A step that would lead to more cells is not taken.
        critical: For the gradient flow: takes corners of boxes to whether they can hold a critical
            point, boolean, shape ``(n,)``. Without it every recurrent component is a Morse set.

    Returns:
        The last grid, its map and Morse graph, and whether the depth was reached.

    Raises:
        ValueError: If ``depth`` is negative, ``refine`` is unknown, the grid has a periodic axis,
            or ``images`` or ``critical`` return another shape, or boxes reversed or NaN.

    Example:
        x / 8 on [-1, 2]: only what holds the fixed point is halved, down to a cell of 3/8:

        >>> def shrink(lower, upper):
        ...     return lower / 8, upper / 8
        >>> result = refined_morse_graph(shrink, CubicalGrid([-1.0], [2.0], (1,)), 3)
        >>> [bound[:, 0].tolist() for bound in result.grid.cell_bounds()]
        [[-1.0, -0.25, 0.125, 0.5], [-0.25, 0.125, 0.5, 2.0]]
        >>> [cells.tolist() for cells in result.found.morse_sets], result.sizes
        ([[1]], (1, 2, 3, 4))
    """
    if depth != int(depth) or depth < 0:
        raise ValueError(f"depth must be an integer, 0 or larger, got {depth!r}")
    if refine not in ("recurrent", "undecided"):
        raise ValueError(f"refine must be 'recurrent' or 'undecided', got {refine!r}")
    tree = AdaptiveGrid.of(grid)
    corners = tree.cell_bounds()
    low, up = _evaluate(images, *corners)
    may_hold = None if critical is None else _candidates(critical, *corners)
    sizes = [tree.size]
    while True:
        image = adaptive_outer_approximation(low, up, tree)
        found = morse_graph(image, critical=may_hold)
        halved = _inside(found) if refine == "recurrent" else _inside(found) | _torn(found)
        halved &= tree.levels < depth
        complete = not halved.any()
        finer = tree.size + int(halved.sum()) * (2**tree.dim - 1)
        if complete or finer > max_cells:
            return RefinedMorseGraph(tree, image, found, complete, tuple(sizes))
        origin = tree.origins(halved)
        new = halved[origin]
        tree = tree.refine(halved)
        corners = tree.cell_bounds(new)
        low, up = low[origin], up[origin]
        low[new], up[new] = _evaluate(images, *corners)
        if critical is not None and may_hold is not None:
            may_hold = may_hold[origin]
            may_hold[new] = _candidates(critical, *corners)
        sizes.append(tree.size)


def _inside(found: MorseGraph) -> Mask:
    """Cells of Morse sets."""
    mask = np.zeros(found.condensation.component.size - 1, dtype=bool)
    for cells in found.morse_sets:
        mask[cells] = True
    return mask


def _torn(found: MorseGraph) -> Mask:
    """Cells from which two of the attractors and the exterior can be reached."""
    exterior = found.condensation.component.size - 1
    ends = np.array([*(found.morse_sets[a][0] for a in found.attractors), exterior])
    met = found.condensation.reach(ends)[:-1]
    return _BITS_SET[met].sum(axis=1) > 1


def _evaluate(images: BoxMap, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Image boxes, or what is wrong with them and for which box."""
    pair = [np.asarray(corner, dtype=np.float64) for corner in images(lower, upper)]
    if len(pair) != 2 or any(corner.shape != lower.shape for corner in pair):
        raise ValueError(
            f"images must return lower and upper corners of shape {lower.shape}, got shapes "
            f"{[corner.shape for corner in pair]}"
        )
    wrong = ~(pair[0] <= pair[1]).all(axis=1)  # true for NaN as well
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"images must return boxes with lower <= upper and without NaN, but the cell from "
            f"{lower[first].tolist()} to {upper[first].tolist()} goes to {pair[0][first].tolist()} "
            f"and {pair[1][first].tolist()}"
        )
    return pair[0], pair[1]


def _candidates(critical: Callable[[Array, Array], Mask], lower: Array, upper: Array) -> Mask:
    mask = np.asarray(critical(lower, upper))
    if mask.dtype != bool or mask.shape != (len(lower),):
        raise ValueError(
            f"critical must return one boolean for each of the {len(lower)} boxes, got "
            f"{mask.dtype} of shape {mask.shape}"
        )
    return mask
