"""Pictures of earlier slices that are kept, and what one of them shows of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_morse._typing import Array, Cells
from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.slices.subspace import AffineSubspace

# Largest distance from a slice at which a point still counts as seen in it, as a fraction of the
# room around an attractor. Identities are a convention, and so is this number: what is certain of
# the points of a slice does not depend on it.
TOLERANCE = 0.25
# Rows of the weight vectors converted to float64 at a time, to bound memory.
_ROWS_PER_BLOCK = 1 << 16


@dataclass(frozen=True, eq=False)
class Picture:
    """The part of an analysis that is kept. Labels are identities, -1 undecided, -2 escapes.

    Grids and labels are those of all boxes, the outermost first.
    """

    subspace: AffineSubspace
    grids: tuple[CubicalGrid, ...]
    labels: tuple[Cells, ...]
    centers: Array
    identities: Cells
    current: Array
    certain: bool

    def basin(self, x: Array) -> int:
        """Label at a point of the slice, in the innermost box that holds it."""
        for grid, labels in zip(reversed(self.grids), reversed(self.labels), strict=True):
            cell = int(grid.cell_of(x[None])[0])
            if cell >= 0:
                return int(labels[cell])
        return ESCAPES

    @property
    def home(self) -> int:
        """Label at the weights; undecided if nothing in the analysis is certain."""
        return self.basin(self.current) if self.certain else UNDECIDED

    def room(self, identity: int) -> float:
        """Distance from an attractor to the nearest other, capped at the smallest half-width."""
        distances = np.linalg.norm(
            self.centers - self.centers[self.identities == identity], axis=1
        )[self.identities != identity]
        whole = self.grids[0]
        return float(min([*distances, 0.5 * (whole.upper - whole.lower).min()]))

    def renamed(self, known: Mapping[int, int]) -> Picture:
        """The same picture with identities in place of the numbers of Morse sets."""
        names = np.array([known[i] for i in self.identities.tolist()], dtype=np.int64)
        # Attractors are the first Morse sets, so their numbers are positions in the table. The
        # labels -1 and -2 index it from the end.
        table = np.concatenate([names, [ESCAPES, UNDECIDED]])
        return Picture(
            subspace=self.subspace,
            grids=self.grids,
            labels=tuple(table[labels] for labels in self.labels),
            centers=self.centers,
            identities=names,
            current=self.current,
            certain=self.certain,
        )

    def state_dict(self) -> dict[str, Any]:
        """The complete state, in plain containers and tensors."""
        whole, *inner = map(_stored_box, self.grids, self.labels)
        return {
            "origin": self.subspace.origin,
            "directions": self.subspace.directions,
            **whole,
            "inner": inner,
            "centers": self.centers.tolist(),
            "identities": self.identities.tolist(),
            "current": self.current.tolist(),
            "certain": self.certain,
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Picture:
        """The picture of a state that :meth:`state_dict` returned."""
        subspace = AffineSubspace(state["origin"], state["directions"]).to("cpu")
        # Older states have no boxes inside.
        grids, labels = zip(*map(_restored_box, [state, *state.get("inner", [])]), strict=True)
        return cls(
            subspace=subspace,
            grids=grids,
            labels=labels,
            centers=np.array(state["centers"], dtype=np.float64).reshape(-1, subspace.dim),
            identities=np.array(state["identities"], dtype=np.int64),
            current=np.array(state["current"], dtype=np.float64),
            certain=state["certain"],
        )


def _stored_box(grid: CubicalGrid, labels: Cells) -> dict[str, Any]:
    """A grid and runs of equal labels."""
    values, counts = torch.unique_consecutive(torch.tensor(labels), return_counts=True)
    return {
        "lower": grid.lower.tolist(),
        "upper": grid.upper.tolist(),
        "shape": list(grid.shape),
        "labels": values,
        "counts": counts,
    }


def _restored_box(state: Mapping[str, Any]) -> tuple[CubicalGrid, Cells]:
    grid = CubicalGrid(state["lower"], state["upper"], state["shape"])
    labels = state["labels"].cpu().repeat_interleave(state["counts"].cpu())
    return grid, labels.numpy()


def seen(source: Picture, points: Array, target: Picture) -> list[int]:
    """Label of each point of one picture in another; undecided if too far from its slice."""
    if not len(points):  # weights need not be read
        return []
    at, off = carried(source.subspace, points, target.subspace)
    labels = [target.basin(x) for x in at]
    return [
        UNDECIDED if label >= 0 and distance > TOLERANCE * target.room(label) else label
        for label, distance in zip(labels, off.tolist(), strict=True)
    ]


def carried(source: AffineSubspace, points: Array, target: AffineSubspace) -> tuple[Array, Array]:
    """Coordinates in the target slice of points of the source, shape ``(n, d)``, and distances.

    Both follow from ``d + 1`` weight vectors, whatever the number of points.
    """

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        parts = (source.origin, source.directions, target.origin, target.directions)
        for o, along, p, onto in zip(
            *(torch.split(t, _ROWS_PER_BLOCK) for t in parts), strict=True
        ):
            offset = (o.double() - p.double())[:, None]
            yield torch.cat([offset, along.double()], dim=1), onto.double()

    d = points.shape[1]
    within = sum((onto.T @ columns for columns, onto in blocks()), torch.zeros(d, d + 1).double())
    # From the residual of each vector rather than a difference of squares, which would cancel:
    # small distances keep their digits.
    left = (columns - onto @ within for columns, onto in blocks())
    gram = sum((rest.T @ rest for rest in left), torch.zeros(d + 1, d + 1).double())
    x = torch.cat([torch.ones(len(points), 1, dtype=torch.float64), torch.tensor(points)], dim=1)
    squares = ((x @ gram) * x).sum(dim=1).clamp(min=0)
    return (x @ within.T).numpy(), squares.sqrt().numpy()


def worth_keeping(pictures: list[Picture], most: int) -> list[Picture]:
    """The last picture, that of the last certain basin, and the last ones of lost attractors."""
    home = next((p for p in reversed(pictures) if p.home >= 0), None)
    shown: set[int] = set()
    kept: list[Picture] = []
    for picture in reversed(pictures):
        names = set(picture.identities.tolist())
        if not kept or picture is home or names - shown:
            kept.append(picture)
            shown |= names
    while len(kept) > most:
        others = [p for p in kept[1:] if p is not home]
        kept.remove((others or kept)[-1])
    return kept[::-1]
