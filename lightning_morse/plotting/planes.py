"""Planes of two axes of a box: what an analysis says in them, before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_morse._typing import Array, Mask
from lightning_morse.plotting.marks import DIVERGED, Seen
from lightning_morse.result import MorseAnalysis


def boxes_within(result: MorseAnalysis, shown: int) -> list[int]:
    """Numbers of a box and of all boxes inside it, outermost first."""
    inside = [shown]
    for k, box in enumerate(result.boxes):
        if box.parent in inside:
            inside.append(k)
    return inside


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane of two axes of a box; arrays have the horizontal axis first.

    Attributes:
        x: Edges of the cells across.
        y: Edges of the cells upwards.
        field: Labels of the cells.
        owner: Morse sets of the cells, -1 for none.
        loss: The mean loss at the vertices, interpolated linearly; masked where not finite.
    """

    x: Array
    y: Array
    field: NDArray[Any]
    owner: NDArray[Any]
    loss: NDArray[Any]

    @classmethod
    def through(
        cls, result: MorseAnalysis, k: int, axes: tuple[int, int], point: Array
    ) -> Plane | None:
        """The plane through a point, of one box; None if it does not meet it."""
        box = result.boxes[k]
        grid, loss = box.grid, box.mean_loss
        others = tuple(set(range(grid.dim)) - set(axes))
        cell: list[Any] = [slice(None)] * grid.dim
        for j in others:
            if not grid.lower[j] <= point[j] <= grid.upper[j]:
                return None
            edges = grid.edges[j]
            i = int(np.clip(np.searchsorted(edges, point[j], side="right") - 1, 0, len(edges) - 2))
            t = (point[j] - edges[i]) / (edges[i + 1] - edges[i])
            near, far = (np.take(loss, [n], axis=j) for n in (i, i + 1))
            loss, cell[j] = (1 - t) * near + t * far, i
        loss = loss.squeeze(axis=others)

        def cut(values: NDArray[Any]) -> NDArray[Any]:
            found: NDArray[Any] = values.reshape(grid.shape)[tuple(cell)]
            return found.T if axes[0] > axes[1] else found

        return cls(
            x=grid.edges[axes[0]],
            y=grid.edges[axes[1]],
            field=cut(np.where(box.diverged, DIVERGED, box.labels)),
            owner=cut(np.full(grid.size, -1) if box.sets is None else box.sets),
            loss=np.ma.masked_invalid(loss.T if axes[0] > axes[1] else loss),
        )

    def cells_under(self, other: Plane) -> tuple[Mask, Mask]:
        """Which columns and rows of cells another plane lies over, if it lies inside this one."""
        x, y = ((0.5 * (edges[:-1] + edges[1:])) for edges in (self.x, self.y))
        return _within(x, other.x), _within(y, other.y)

    def mask_loss_under(self, others: Sequence[Plane]) -> None:
        """Mask the loss at the vertices that planes of boxes inside cover."""
        for other in others:
            covered = _within(self.x, other.x), _within(self.y, other.y)
            self.loss[np.ix_(*covered)] = np.ma.masked


def planes_through(
    result: MorseAnalysis, axes: tuple[int, int], point: Array, shown: int
) -> list[Plane]:
    """The planes of a box and of those inside that are met, each after the one around it."""
    found = (Plane.through(result, k, axes, point) for k in boxes_within(result, shown))
    return [plane for plane in found if plane is not None]


def seen_in_sections(
    result: MorseAnalysis, sections: Sequence[tuple[int, int]], point: Array, shown: int
) -> Seen:
    """What is seen in several planes of a box.

    Args:
        result: The analysis.
        sections: For each plane its two axes.
        point: A point of all planes, shape ``(d,)``.
        shown: Number of the box.
    """
    labels, sets = set[int](), set[int]()
    for axes in sections:
        planes = planes_through(result, axes, point, shown)
        for k, plane in enumerate(planes):
            hidden = np.zeros(plane.field.shape, dtype=bool)
            for other in planes[k + 1 :]:
                hidden[np.ix_(*plane.cells_under(other))] = True
            labels |= set(plane.field[~hidden].tolist())
            sets |= set(plane.owner[plane.owner >= 0].tolist())
    return Seen(labels, sets, exits=shown == 0)


def _within(places: Array, edges: Array) -> Mask:
    """Which places lie between the first and the last of some edges."""
    inside: Mask = (places > edges[0]) & (places < edges[-1])
    return inside
