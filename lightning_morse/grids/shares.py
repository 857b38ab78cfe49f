"""Shares of a box: how much of it some of its cells fill."""

from __future__ import annotations

import numpy as np

from lightning_morse._typing import Array, Mask

_SHORT_OF_ALL = float(np.nextafter(1.0, 0.0))


def share_of_box(found: Mask, volumes: Array | None = None) -> float:
    """Share of a box that some of its cells fill: 0 for none, 1 for all and only for all.

    Volumes that are rounded do not sum to 1, and "all of it" must be told from "almost all".

    Args:
        found: Which cells, shape ``(n_cells,)``.
        volumes: Share of the box that each cell fills, same shape; equal by default.

    Example:
        >>> volumes = np.array([0.7, 0.2, 0.1])
        >>> float(volumes.sum()), share_of_box(volumes > 0, volumes)
        (0.9999999999999999, 1.0)
        >>> share_of_box(volumes > 1, volumes), share_of_box(volumes > 0.5, volumes)
        (0.0, 0.7)
    """
    if volumes is None:
        return float(np.mean(found))
    if found.all():
        return 1.0
    return min(float(volumes[found].sum()), _SHORT_OF_ALL)
