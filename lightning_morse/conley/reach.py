"""What each cell of a grid may reach: few distinct sets, and which of them is whose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Mask

UNDECIDED = -1
ESCAPES = -2


@dataclass(frozen=True, eq=False)
class Reach:
    """The Morse sets each cell may reach, and whether it may leave the box.

    Where the map is an outer approximation of the flow and the Morse sets hold all that is
    recurrent, every trajectory that starts in a cell ends in one of the sets the cell may reach, or
    leaves the box if the cell may; that it does reach any particular one of several is not said. To
    leave means here to reach the exterior: cells that count as exterior belong to it. A cell of a
    Morse set may reach that set.

    Attributes:
        kinds: The distinct answers, boolean, shape ``(k, n_sets + 1)``: one column for each Morse
            set, then one for the exterior.
        of: Row of ``kinds`` that holds for each cell, integers, shape ``(n_cells,)``.

    Raises:
        ValueError: If an array has another type or shape, or ``of`` names no row.

    Example:
        Two Morse sets, three cells; the last may reach either:

        >>> reach = Reach(np.array([[1, 0, 0], [1, 1, 0]], dtype=bool), np.array([0, 0, 1]))
        >>> reach.labels([0]).tolist(), reach.at(2)
        ([0, 0, -1], ((0, 1), False))
    """

    kinds: Mask
    of: NDArray[np.integer]

    def __post_init__(self) -> None:
        if self.kinds.dtype != bool or self.kinds.ndim != 2 or not self.kinds.shape[1]:
            raise ValueError(
                "kinds must be boolean with a column for each Morse set and one for the exterior, "
                f"got {self.kinds.dtype} of shape {self.kinds.shape}"
            )
        if self.of.dtype.kind not in "iu" or self.of.ndim != 1:
            raise ValueError(
                f"of must be one integer a cell, got {self.of.dtype} of shape {self.of.shape}"
            )
        if self.of.size and not 0 <= self.of.min() <= self.of.max() < len(self.kinds):
            raise ValueError(
                f"of must name rows of kinds, 0 to {len(self.kinds) - 1}, "
                f"got {self.of.min()} to {self.of.max()}"
            )

    def at(self, cell: int) -> tuple[tuple[int, ...], bool]:
        """Which Morse sets one cell may reach, ascending, and whether it may leave the box.

        Args:
            cell: Number of the cell.
        """
        *sets, leaves = self.kinds[self.of[cell]]
        return tuple(np.flatnonzero(sets).tolist()), bool(leaves)

    def labels(self, attractors: Iterable[int]) -> NDArray[np.int32]:
        """Certain basin of each cell (:func:`~lightning_morse.conley.basins.certain_labels`).

        Args:
            attractors: Numbers of the Morse sets that are attractors.

        Returns:
            Number of the attractor that is all a cell may reach, -2 where that is the exterior, -1
            elsewhere; shape ``(n_cells,)``.
        """
        label = np.full(self.kinds.shape[1], UNDECIDED, dtype=np.int32)
        label[-1] = ESCAPES
        known = np.array([*attractors], dtype=np.int32)
        label[known] = known
        alone = self.kinds.sum(axis=1) == 1
        return np.where(alone, label[self.kinds.argmax(axis=1)], UNDECIDED)[self.of]
