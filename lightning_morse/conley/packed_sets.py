"""Sets of a few hundred targets, one set per row, packed little-endian into bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Mask

PackedSets = NDArray[np.uint8]

_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)


def cardinality(packed: PackedSets) -> NDArray[np.unsignedinteger]:
    """Number of members of each set.

    Args:
        packed: Shape ``(n, n_bytes)``.

    Returns:
        Shape ``(n,)``.

    Example:
        >>> cardinality(np.array([[0b101], [0]], dtype=np.uint8)).tolist()
        [2, 0]
    """
    count: NDArray[np.unsignedinteger] = _BITS_SET[packed].sum(axis=1)
    return count


def unpacked(packed: PackedSets, n_targets: int) -> Mask:
    """Membership of each target in each set.

    Args:
        packed: Shape ``(n, n_bytes)``.
        n_targets: Number of targets; bits beyond it are ignored.

    Returns:
        Boolean, shape ``(n, n_targets)``.

    Example:
        >>> unpacked(np.array([[0b101]], dtype=np.uint8), 3).tolist()
        [[True, False, True]]
    """
    members: Mask = np.unpackbits(packed, axis=1, count=n_targets, bitorder="little") == 1
    return members
