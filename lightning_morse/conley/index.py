"""Conley indices of Morse sets: which kind of invariant set a Morse set stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from lightning_morse._typing import Mask
from lightning_morse.conley.condensation import gather_rows
from lightning_morse.conley.homology import relative_betti
from lightning_morse.conley.morse_sets import MorseGraph
from lightning_morse.grids.adaptive import AdaptiveGrid
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.raster import raster


@dataclass(frozen=True)
class ConleyIndex:
    r"""Homology of an index pair of a Morse set, over the field of two elements.

    Attributes:
        betti: :math:`\dim H_k(|P_1|, |P_0|; \mathbb{Z}_2)` for each ``k`` from 0 to ``d``.
    """

    betti: tuple[int, ...]

    @property
    def kind(self) -> str:
        """The simplest invariant set of a flow that has this index, in words.

        ``"attractor"``, ``"saddle of index k"`` and ``"repeller"`` are the indices of hyperbolic
        fixed points; ``"periodic attractor"`` and ``"periodic orbit of index k"`` those of
        hyperbolic periodic orbits with ``k`` unstable directions transverse to the orbit. Different
        invariant sets may share an index. An index that is not ``"trivial"`` implies a nonempty
        invariant set (the Wazewski property); ``"trivial"`` implies nothing. All other indices are
        ``"other"``.

        Example:
            >>> [ConleyIndex(b).kind for b in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0))]
            ['attractor', 'saddle of index 1', 'repeller', 'periodic attractor']
        """
        where = [k for k, b in enumerate(self.betti) if b]
        top = len(self.betti) - 1
        if not where:
            return "trivial"
        if any(b > 1 for b in self.betti):
            return "other"
        if len(where) == 1:
            k = where[0]
            return "attractor" if k == 0 else "repeller" if k == top else f"saddle of index {k}"
        if len(where) == 2 and where[1] == where[0] + 1:
            k = where[0]
            return "periodic attractor" if k == 0 else f"periodic orbit of index {k}"
        return "other"


def index_pair(image: csr_array, cells: ArrayLike) -> tuple[Mask, Mask] | None:
    r"""Index pair of a Morse set: the set together with its image, and the image without the set.

    :math:`P_1 = M \cup F(M)` and :math:`P_0 = F(M) \setminus M` (Arai, Kalies, Kokubu,
    Mischaikow, Oka, Pilarczyk, "A database schema for the analysis of global dynamics of
    multiparameter systems", 2009). ``M`` is a strongly connected component, so no path leads from
    :math:`P_0` back to it. Suppose that ``image`` is an outer approximation of a continuous map
    and that the image of each cell lies in the interior (relative to the box) of the union of the
    cells it maps to, as is the case where contact counts as intersection, for instance in
    :func:`~lightning_morse.conley.combinatorial_map.outer_approximation`. Then
    :math:`(|P_1|, |P_0|)` is an index pair of that map for the invariant set in ``M``: points of
    :math:`|M| \cap |P_0|` leave :math:`|M|` in the next step, so the invariant set does not meet
    :math:`|P_0|`.

    Args:
        image: Adjacency of the combinatorial map, the exterior last.
        cells: Cell numbers of the Morse set, shape ``(k,)``.

    Returns:
        Masks of :math:`P_1` and :math:`P_0`, boolean, shape ``(n_cells,)``; None if the image of
        the set leaves the box, where the dynamics is unknown.

    Raises:
        ValueError: If ``cells`` is empty, not one-dimensional, or contains anything but cell
            numbers.

    Example:
        Two fixed cells, and one between them that maps to itself and to both:

        >>> image = csr_array(np.array([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
        >>> [mask.tolist() for mask in index_pair(image, [1])]
        [[True, True, True], [True, False, True]]
    """
    chosen = np.asarray(cells)
    exterior = image.shape[0] - 1
    if (
        chosen.ndim != 1
        or chosen.size == 0
        or not np.issubdtype(chosen.dtype, np.integer)
        or chosen.min() < 0
        or chosen.max() >= exterior
    ):
        raise ValueError(
            f"cells must be numbers of cells, from 0 to {exterior - 1}, and at least one, got "
            f"{cells!r}"
        )
    reached, _, _ = gather_rows(image, chosen)
    upper = np.zeros(exterior + 1, dtype=bool)
    upper[reached] = True
    if upper[exterior]:
        return None
    lower = upper.copy()
    lower[chosen] = False
    upper[chosen] = True
    return upper[:-1], lower[:-1]


def conley_indices(
    image: csr_array, found: MorseGraph, grid: CubicalGrid | AdaptiveGrid
) -> tuple[ConleyIndex | None, ...]:
    r"""Betti numbers of an index pair of each Morse set.

    *For the time map of a flow*, the homological Conley index of the flow is the part of the
    homology of the index pair that survives all iterates of the induced map (which acts on it as
    the identity). The Betti numbers of the pair bound its dimensions from above, and are equal to
    them if all of the homology survives; that is so in every case with a known answer in the
    tests, and is not checked here. If each cell is followed for a time of its own, as in
    :mod:`~lightning_morse.enclosure.flow_map`, the image boxes are not those of a single map: there
    this interpretation rests on the tested cases alone. *For other maps*, the Conley index is the
    shift-equivalence class of the induced map (Mrozek, "Leray functor and cohomological Conley
    index for discrete dynamical systems", 1990), which is not computed: two fixed points that
    differ only in orientation, for example, are not distinguished.

    Args:
        image: Adjacency of the combinatorial map, as returned by
            :func:`~lightning_morse.conley.combinatorial_map.outer_approximation`.
        found: Its Morse graph.
        grid: Its grid. On an adaptive grid the cells of an index pair are subdivided to the size
            of the smallest, which changes neither of the two sets.

    Returns:
        The index of each Morse set, in order; None for a set whose image leaves the box.

    Raises:
        ValueError: If the sizes of the map and the grid do not match, or a Morse set on an adaptive
            grid spans more than 2^26 of its smallest cells.

    Example:
        A double well in one dimension, x' = x - x^3, and the Morse sets with a nontrivial index:

        >>> from lightning_morse.conley.box_maps import corner_images
        >>> from lightning_morse.conley.combinatorial_map import outer_approximation
        >>> from lightning_morse.conley.morse_sets import morse_graph
        >>> from lightning_morse.conley.point_maps import time_map
        >>> grid = CubicalGrid([-2.0], [2.0], (101,))
        >>> flow = time_map(lambda x: x - x**3, 0.5, 20)
        >>> image = outer_approximation(*corner_images(flow, grid), grid)
        >>> indices = conley_indices(image, morse_graph(image), grid)
        >>> [index.kind for index in indices if index.kind != "trivial"]
        ['attractor', 'repeller', 'attractor']
    """
    if image.shape != (grid.size + 1, grid.size + 1):
        raise ValueError(
            f"image must have one row for each of the {grid.size} cells of the grid and one for "
            f"the exterior, got shape {image.shape}"
        )
    out: list[ConleyIndex | None] = []
    for cells in found.morse_sets:
        pair = index_pair(image, cells)
        out.append(None if pair is None else ConleyIndex(_betti(*pair, grid)))
    return tuple(out)


def _betti(upper: Mask, lower: Mask, grid: CubicalGrid | AdaptiveGrid) -> tuple[int, ...]:
    if isinstance(grid, CubicalGrid):
        return relative_betti(upper, lower, grid)
    # By excision, only cells that touch P_1 without P_0, the Morse set, contribute.
    window, (upper, lower) = raster(grid, upper & ~lower, [upper, lower])
    return relative_betti(upper, lower, window)
