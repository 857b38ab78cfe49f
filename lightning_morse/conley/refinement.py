"""Morse graphs on adaptive grids: refine the recurrent cells, or the undecided ones as well."""

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
from lightning_morse.conley.morse_sets import MorseGraph, morse_graph, with_exterior
from lightning_morse.conley.packed_sets import cardinality
from lightning_morse.grids.adaptive import AdaptiveGrid
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.shares import share_of_box


@dataclass(frozen=True, eq=False)
class RefinedMorseGraph:
    """A Morse graph on an adaptive grid, as found by :func:`refined_morse_graph`.

    Attributes:
        grid: The adaptive grid.
        image: The combinatorial map on its cells, the exterior last.
        found: The Morse graph of the map.
        complete: Whether every cell to be refined has reached the full depth. If not, the limit on
            the number of cells was hit first; all statements about the cells still hold.
        sizes: Number of cells after each round, starting with the coarse grid.
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
        """Fraction of the box that has a label.

        Args:
            label: Number of an attractor's Morse set, -1 for undecided, -2 for escaping.
        """
        return share_of_box(self.labels == label, self.grid.volumes)


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

    Starting from a cubical grid, each round finds the Morse graph, halves the cells of Morse sets
    along every axis, computes the image boxes of the new cells and builds the map anew, until all
    cells of Morse sets have been halved ``depth`` times. With ``refine="undecided"`` it also
    halves the cells from which two attractors, or an attractor and the exterior, can be reached:
    those along the boundaries of basins.

    *Guarantee.* If the box of every cell of the last grid contains its image, the last map is an
    outer approximation, and everything that follows from one (recurrence lies in Morse sets, no
    path means no connecting orbit, certain labels) holds. Earlier rounds are not relied on.

    *Compared with the uniform grid* whose cells all have depth ``depth``: if image boxes are
    monotone (the box of a part of a cell lies in the box of the cell; a cell is ``critical`` if a
    part of it is) and the result is complete, the Morse sets are those of the uniform grid, cell
    for cell. Every path of the uniform map is also a path here, so every pair ordered there is
    ordered here, and no cell has different certain labels in the two. Coarse cells may add paths:
    the order may contain more pairs here, and fewer cells may be certain.

    *Cost.* Refinement pays off only where images shrink with the cells, and cells move by more
    than their size: use the time map of a flow for a sufficiently long time, not for a short step.

    Args:
        images: A function from the lower and upper corners of boxes of any size, two arrays of
            shape ``(n, d)``, to the corners of boxes that contain their images, likewise. See
            :func:`~lightning_morse.conley.box_maps.corner_box_map` and
            :func:`~lightning_morse.conley.box_maps.lipschitz_box_map`.
        grid: The grid to start from, without periodic axes.
        depth: How often a cell may be halved.
        refine: Which cells are refined.
        max_cells: A round that would lead to more cells is not carried out.
        critical: For gradient flows: a function from the corners of boxes to whether they can
            contain a critical point, boolean, shape ``(n,)``. Without it every recurrent component
            is a Morse set.

    Returns:
        The last grid, its map and Morse graph, and whether the depth was reached.

    Raises:
        ValueError: If ``depth`` is not a nonnegative integer, ``refine`` is unknown, the grid has a
            periodic axis, or ``images`` or ``critical`` return arrays of another shape or type, or
            boxes that are reversed or NaN.

    Example:
        x / 8 on [-1, 2]: only the cell with the fixed point is halved, down to a width of 3/8:

        >>> def shrink(lower, upper):
        ...     return lower / 8, upper / 8
        >>> result = refined_morse_graph(shrink, CubicalGrid([-1.0], [2.0], (1,)), 3)
        >>> [bound[:, 0].tolist() for bound in result.grid.cell_bounds()]
        [[-1.0, -0.25, 0.125, 0.5], [-0.25, 0.125, 0.5, 2.0]]
        >>> [cells.tolist() for cells in result.found.morse_sets], result.sizes
        ([[1]], (1, 2, 3, 4))
    """
    if depth != int(depth) or depth < 0:
        raise ValueError(f"depth must be an integer of at least 0, got {depth!r}")
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
        halved = _in_morse_sets(found)
        if refine == "undecided":
            halved |= _between_ends(found)
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


def _in_morse_sets(found: MorseGraph) -> Mask:
    """Cells that belong to a Morse set."""
    mask = np.zeros(found.condensation.component.size - 1, dtype=bool)
    for cells in found.morse_sets:
        mask[cells] = True
    return mask


def _between_ends(found: MorseGraph) -> Mask:
    """Cells that can reach two attractors, or an attractor and the exterior."""
    ends = with_exterior(found.members[list(found.attractors)], found.condensation)
    mask: Mask = cardinality(found.condensation.reach(ends)[:-1]) > 1
    return mask


def _evaluate(images: BoxMap, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Evaluate a box map and validate the image boxes."""
    pair = [np.asarray(corner, dtype=np.float64) for corner in images(lower, upper)]
    if len(pair) != 2 or any(corner.shape != lower.shape for corner in pair):
        raise ValueError(
            f"images must return lower and upper corners of shape {lower.shape}, got shapes "
            f"{[corner.shape for corner in pair]}"
        )
    wrong = ~(pair[0] <= pair[1]).all(axis=1)  # also true for NaN
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"images must return boxes with lower <= upper and without NaN, but maps the cell from "
            f"{lower[first].tolist()} to {upper[first].tolist()} to the box from "
            f"{pair[0][first].tolist()} to {pair[1][first].tolist()}"
        )
    return pair[0], pair[1]


def _candidates(critical: Callable[[Array, Array], Mask], lower: Array, upper: Array) -> Mask:
    """Evaluate the filter for critical points and validate its answer."""
    mask = np.asarray(critical(lower, upper))
    if mask.dtype != bool or mask.shape != (len(lower),):
        raise ValueError(
            f"critical must return one boolean for each of the {len(lower)} boxes, got "
            f"{mask.dtype} of shape {mask.shape}"
        )
    return mask
