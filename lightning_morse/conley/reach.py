"""The Morse sets that each cell may reach: the distinct answers, and one index per cell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Mask

# Labels of cells that are in no certain basin. Not numbers of Morse sets, which start at 0.
UNDECIDED = -1
ESCAPES = -2


@dataclass(frozen=True, eq=False)
class Reach:
    """The Morse sets that each cell may reach, and whether it may leave the box.

    If the map is an outer approximation of the flow and the Morse sets contain all recurrence,
    every trajectory that starts in a cell ends in one of the sets the cell may reach, or leaves the
    box if the cell may. Where a cell may reach several sets, nothing is claimed about any one of
    them. Leaving means reaching the exterior, which includes the cells declared exterior. A cell of
    a Morse set may reach that set.

    Where the cells declared exterior are those of which nothing is known, a trajectory that comes
    to one has not left: it may return, or settle there.

    Attributes:
        kinds: The distinct answers, boolean, shape ``(k, n_sets + 1)``: one column per Morse set,
            then one for the exterior.
        of: Row of ``kinds`` that applies to each cell, integers, shape ``(n_cells,)``.
        unknown: Whether cells with each answer may come to cells of which nothing is known, shape
            ``(k,)``; these may reach the exterior. None: there are no such cells.

    Raises:
        ValueError: If an array has the wrong type or shape, ``of`` refers to a missing row, or
            cells come to the unknown without reaching the exterior.

    Example:
        Two Morse sets and three cells, of which the last may reach either set:

        >>> reach = Reach(np.array([[1, 0, 0], [1, 1, 0]], dtype=bool), np.array([0, 0, 1]))
        >>> reach.labels([0]).tolist(), reach.at(2)
        ([0, 0, -1], ((0, 1), False))
    """

    kinds: Mask
    of: NDArray[np.integer]
    unknown: Mask | None = None

    def __post_init__(self) -> None:
        if self.kinds.dtype != bool or self.kinds.ndim != 2 or not self.kinds.shape[1]:
            raise ValueError(
                "kinds must be boolean with one column per Morse set and one for the exterior, "
                f"got {self.kinds.dtype} of shape {self.kinds.shape}"
            )
        if self.of.dtype.kind not in "iu" or self.of.ndim != 1:
            raise ValueError(
                f"of must be one integer per cell, got {self.of.dtype} of shape {self.of.shape}"
            )
        if self.of.size and not 0 <= self.of.min() <= self.of.max() < len(self.kinds):
            raise ValueError(
                f"of must name rows of kinds, 0 to {len(self.kinds) - 1}, "
                f"got {self.of.min()} to {self.of.max()}"
            )
        if self.unknown is not None:
            fits = self.unknown.dtype == bool and self.unknown.shape == (len(self.kinds),)
            if not fits or (self.unknown & ~self.kinds[:, -1]).any():
                raise ValueError(
                    f"unknown must have one boolean for each of the {len(self.kinds)} rows of "
                    "kinds, and none may be set where the exterior is not reached, got "
                    f"{self.unknown.dtype} of shape {self.unknown.shape}"
                )

    def coming_to_unknown(self, cells: Mask) -> Reach:
        """The same, with what may come to cells of which nothing is known told apart.

        Args:
            cells: Whether each cell may, shape ``(n_cells,)``; these may reach the exterior.
        """
        rows, of = np.unique(2 * self.of.astype(np.int64) + cells, return_inverse=True)
        return Reach(self.kinds[rows // 2], of.astype(np.int32), rows % 2 == 1)

    def at(self, cell: int) -> tuple[tuple[int, ...], bool]:
        """The Morse sets that one cell may reach, ascending, and whether it may leave the box.

        Args:
            cell: Number of the cell.
        """
        *sets, leaves = self.kinds[self.of[cell]]
        return tuple(np.flatnonzero(sets).tolist()), bool(leaves)

    def comes_to_unknown(self, cell: int) -> bool:
        """Whether one cell may come to cells of which nothing is known.

        Args:
            cell: Number of the cell.
        """
        return self.unknown is not None and bool(self.unknown[self.of[cell]])

    def labels(self, attractors: Iterable[int]) -> NDArray[np.int32]:
        """Certain basin of each cell (:func:`~lightning_morse.conley.basins.certain_labels`).

        Args:
            attractors: Numbers of the Morse sets that are attractors.

        Returns:
            The attractor, where it is the only thing a cell may reach; -2 where that is the
            exterior and what is unknown is not met before; -1 elsewhere. Shape ``(n_cells,)``.
        """
        label = np.full(self.kinds.shape[1], UNDECIDED, dtype=np.int32)
        label[-1] = ESCAPES
        known = np.array([*attractors], dtype=np.int32)
        label[known] = known
        alone = self.kinds.sum(axis=1) == 1
        if self.unknown is not None:
            alone &= ~self.unknown
        of_kind = np.where(alone, label[self.kinds.argmax(axis=1)], np.int32(UNDECIDED))
        labels: NDArray[np.int32] = of_kind[self.of]
        return labels
