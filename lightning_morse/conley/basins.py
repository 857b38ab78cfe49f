"""What is certain of each cell: its basin, that it escapes and through which face, or nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Array, Mask
from lightning_morse.conley.morse_sets import MorseGraph
from lightning_morse.conley.packed_sets import cardinality, unpacked
from lightning_morse.conley.reach import ESCAPES, UNDECIDED, Reach
from lightning_morse.grids.shares import share_of_box


def certain_labels(found: MorseGraph) -> NDArray[np.int32]:
    """Label each cell with its certain basin, or as escaping, or as undecided.

    A cell is certain for an attractor iff that attractor is the only Morse set it can reach and
    it cannot reach the exterior. It escapes iff it can reach the exterior and no Morse set. All
    other cells are undecided. A single reachable *minimal* Morse set is not enough: where the band
    is wide, a Morse set on the way may hide an attractor of its own.

    If the map is an outer approximation of a gradient flow and the Morse sets contain all its
    critical points, a label holds for every starting point in the cell.

    Args:
        found: The Morse graph of the map.

    Returns:
        Number of the attractor's Morse set, -1 for undecided, -2 for escaping; shape
        ``(n_cells,)``.
    """
    exterior = len(found.morse_sets)
    alone = cardinality(found.reach) == 1
    labels = np.full(alone.size, UNDECIDED, dtype=np.int32)
    for attractor in found.attractors:
        labels[alone & found.reaches(attractor)] = attractor
    labels[alone & found.reaches(exterior)] = ESCAPES
    return labels[:-1]


def reach_of_cells(found: MorseGraph, number: Mapping[int, int]) -> Reach:
    """The Morse sets that each cell may reach, and whether it may leave the box.

    Args:
        found: The Morse graph of the map.
        number: The number under which each Morse set of ``found`` is reported, a permutation.

    Returns:
        The distinct answers and an index into them per cell.
    """
    bits = found.reach[:-1]
    words = np.zeros((len(bits), -(-bits.shape[1] // 8) * 8), dtype=np.uint8)
    words[:, : bits.shape[1]] = bits
    # Rows are compared eight bytes at a time: sorting whole rows is far slower.
    of = np.zeros(len(bits), dtype=np.int64)
    first = of[:1]
    for word in words.view(np.uint64).T:
        values, code = np.unique(word, return_inverse=True)
        _, first, of = np.unique(of * values.size + code, return_index=True, return_inverse=True)
    n = len(found.morse_sets)
    columns = [*sorted(range(n), key=lambda old: number[old]), n]
    kinds = unpacked(bits[first], n + 1)
    return Reach(kinds[:, columns], of.astype(np.int32))


def separatrix(found: MorseGraph, one: int, other: int) -> Mask:
    """Cells that can reach both of two attractors.

    They contain every cell with points of both basins.

    Args:
        found: A Morse graph.
        one: Number of an attractor.
        other: Number of another attractor.

    Returns:
        Cell mask, shape ``(n_cells,)``.

    Raises:
        ValueError: If the two are not different attractors.
    """
    if one == other or not {one, other} <= set(found.attractors):
        raise ValueError(
            f"one and other must be two of the attractors {found.attractors}, got {one} and {other}"
        )
    return (found.reaches(one) & found.reaches(other))[:-1]


def exit_volumes(
    found: MorseGraph,
    labels: NDArray[np.int32],
    exits: Mask,
    *,
    volumes: Array | None = None,
) -> Array:
    """Fraction of the box that escapes and may do so through each of its faces.

    Args:
        found: The Morse graph of the map.
        labels: As :func:`certain_labels` gives them, shape ``(n_cells,)``.
        exits: Whether the image of each cell crosses each face of the box, shape
            ``(n_cells, d, 2)``: axis, then lower and upper face.
        volumes: Fraction of the box that each cell takes up, shape ``(n_cells,)``, as in
            :attr:`~lightning_morse.grids.adaptive.AdaptiveGrid.volumes`; equal by default.

    Returns:
        Shape ``(d, 2)``. A cell that may leave through several faces counts for each of them.
    """
    return escaping_volumes(leaving_through(found, exits), labels, volumes=volumes)


def leaving_through(found: MorseGraph, exits: Mask) -> Mask:
    """Whether a trajectory from each cell may leave the box through each of its faces.

    Args:
        found: The Morse graph of the map.
        exits: As in :func:`exit_volumes`.

    Returns:
        Shape ``(n_cells, d, 2)``.
    """
    n_cells, dim, _ = exits.shape
    crossing = exits.reshape(n_cells, 2 * dim).T
    through = [found.condensation.reaching(np.flatnonzero(face))[:-1] for face in crossing]
    return np.stack(through, axis=1).reshape(n_cells, dim, 2)


def escaping_volumes(
    through: Mask, labels: NDArray[np.int32], *, volumes: Array | None = None
) -> Array:
    """As :func:`exit_volumes`, from what :func:`leaving_through` gives, shape ``(d, 2)``."""
    escapes = through & (labels == ESCAPES)[:, None, None]
    by_face = escapes.reshape(len(escapes), -1).T
    return np.array([share_of_box(face, volumes) for face in by_face]).reshape(escapes.shape[1:])
