"""What is certain of each cell: its basin, that it escapes and where, or nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Array, Mask
from lightning_morse.conley.morse_sets import MorseGraph
from lightning_morse.conley.reach import ESCAPES, UNDECIDED, Reach

_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)


def certain_labels(found: MorseGraph) -> NDArray[np.int32]:
    """Label each cell with the only thing that can become of it.

    A cell is certain for an attractor iff that attractor is the only Morse set it can reach and
    it cannot reach the exterior. It escapes iff it can reach the exterior and no Morse set.
    Everything else is undecided. It is not enough to ask for a single reachable *minimal* Morse
    set: where the band is wide, a Morse set in between may hide an attractor of its own.

    If the map is an outer approximation of a gradient flow and the Morse sets hold all its
    critical points, a label holds for every starting point in the cell.

    Args:
        found: The Morse graph of the map.

    Returns:
        Number of the attractor's Morse set, -1 undecided, -2 escapes; shape ``(n_cells,)``.
    """
    exterior = len(found.morse_sets)
    alone = _BITS_SET[found.reach].sum(axis=1) == 1
    labels = np.full(alone.size, UNDECIDED, dtype=np.int32)
    for attractor in found.attractors:
        labels[alone & found.reaches(attractor)] = attractor
    labels[alone & found.reaches(exterior)] = ESCAPES
    return labels[:-1]


def reach_of_cells(found: MorseGraph, number: Mapping[int, int]) -> Reach:
    """Which Morse sets each cell may reach, and whether it may leave the box.

    Args:
        found: The Morse graph of the map.
        number: The number under which each of its Morse sets is reported, a permutation.

    Returns:
        The distinct answers and whose they are.
    """
    bits = found.reach[:-1]
    words = np.zeros((len(bits), -(-bits.shape[1] // 8) * 8), dtype=np.uint8)
    words[:, : bits.shape[1]] = bits
    # Rows are compared eight bytes at a time: sorting them whole is slower by far.
    of = np.zeros(len(bits), dtype=np.int64)
    first = of[:1]
    for word in words.view(np.uint64).T:
        values, code = np.unique(word, return_inverse=True)
        _, first, of = np.unique(of * values.size + code, return_index=True, return_inverse=True)
    n = len(found.morse_sets)
    columns = [*sorted(range(n), key=lambda old: number[old]), n]
    kinds = np.unpackbits(bits[first], axis=1, count=n + 1, bitorder="little") == 1
    return Reach(kinds[:, columns], of.astype(np.int32))


def exit_volumes(
    found: MorseGraph,
    labels: NDArray[np.int32],
    exits: Mask,
    *,
    volumes: Array | None = None,
) -> Array:
    """Fraction of the box that escapes and can do so through each face of it.

    Args:
        found: The Morse graph of the map.
        labels: As :func:`certain_labels` gives them, shape ``(n_cells,)``.
        exits: Whether the image of a cell itself crosses each face, shape ``(n_cells, d, 2)``:
            axis, then lower and upper face.
        volumes: Each cell's part of the box, shape ``(n_cells,)``, as
            :attr:`~lightning_morse.grids.adaptive.AdaptiveGrid.volumes` gives it; the same for all
            cells by default.

    Returns:
        Shape ``(d, 2)``. A cell that can leave through several faces counts for each of them.
    """
    n_cells, dim, _ = exits.shape
    crossing = exits.reshape(n_cells, 2 * dim).T
    through = np.stack(
        [found.condensation.reaching(np.flatnonzero(face))[:-1] for face in crossing], axis=1
    )
    escapes = through & (labels == ESCAPES)[:, None]
    return np.average(escapes, axis=0, weights=volumes).reshape(dim, 2)
