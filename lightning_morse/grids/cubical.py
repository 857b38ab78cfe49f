"""Cubical grids: a box divided into equal closed cells, numbered in C order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.arguments import real_numbers

# Vertices of the combinatorial map are stored as int32, and the exterior is one more vertex. Beyond
# this limit cell numbers would overflow, so soundness does depend on it.
MAX_CELLS = 2**31 - 2
# Narrowest cell of an analysis, in units in the last place of the largest coordinate. A box inside
# may be 64 times smaller, and cells are divided further: their faces must still be different
# floats. The allowance for rounding in images is about as wide, so nothing is lost.
_LEAST_ULPS = 2**12


@dataclass(frozen=True, eq=False)
class CubicalGrid:
    r"""A box :math:`\prod_j [l_j, u_j]` divided into closed cells of equal size.

    Cells are closed, so two cells that share a face, an edge or a corner meet. They are numbered
    in C order: the last axis varies fastest. All coordinates are those of the box.

    Args:
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner, same shape, ``lower < upper`` on every axis.
        shape: Number of cells per axis, ``d`` positive integers.
        periodic: Whether the two ends of each axis are identified, ``d`` booleans; by default no
            axis is periodic.

    Raises:
        ValueError: If a corner is not finite, the box is empty on some axis, ``shape`` is not one
            positive integer per axis or asks for more cells than an int32 can number, or
            ``periodic`` is not one boolean per axis.

    Example:
        >>> grid = CubicalGrid(lower=[0.0, 0.0], upper=[1.0, 3.0], shape=(2, 3))
        >>> grid.size, grid.cell_widths.tolist()
        (6, [0.5, 1.0])
        >>> grid.cell_of([[0.75, 0.5], [0.0, 2.5], [2.0, 0.0]]).tolist()
        [3, 2, -1]
    """

    lower: Array
    upper: Array
    shape: tuple[int, ...]
    periodic: tuple[bool, ...]

    def __init__(
        self,
        lower: ArrayLike,
        upper: ArrayLike,
        shape: Sequence[int],
        periodic: Sequence[bool] | None = None,
    ) -> None:
        low, up = check_box(lower, upper)
        cells = tuple(int(s) for s in shape)
        if len(cells) != len(low) or any(
            c != s or c < 1 for c, s in zip(cells, shape, strict=True)
        ):
            raise ValueError(
                f"shape must give one positive integer for each of the {len(low)} axes of the box, "
                f"got {tuple(shape)!r}"
            )
        if math.prod(cells) > MAX_CELLS:
            raise ValueError(
                f"shape {cells} asks for {math.prod(cells):.3g} cells; at most {MAX_CELLS} can be "
                f"numbered, and their map alone would take {math.prod(cells) * 4 / 2**30:.0f} GiB. "
                "Use a coarser grid or fewer axes"
            )
        wraps = (False,) * len(low) if periodic is None else tuple(periodic)
        if len(wraps) != len(low) or not all(isinstance(w, (bool, np.bool_)) for w in wraps):
            raise ValueError(
                f"periodic must give one boolean for each of the {len(low)} axes of the box, "
                f"got {periodic!r}"
            )
        object.__setattr__(self, "lower", low)
        object.__setattr__(self, "upper", up)
        object.__setattr__(self, "shape", cells)
        object.__setattr__(self, "periodic", tuple(bool(w) for w in wraps))

    @property
    def dim(self) -> int:
        """Number of axes ``d``."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    @cached_property
    def cell_widths(self) -> Array:
        """Edge lengths of a cell, shape ``(d,)``."""
        widths: Array = (self.upper - self.lower) / np.array(self.shape)
        return widths

    @cached_property
    def edges(self) -> tuple[Array, ...]:
        """Cell boundaries per axis, ascending, ``shape[j] + 1`` values for axis ``j``.

        Whether a cell meets a box is always decided by searching these very numbers: arithmetic
        on widths would lose contacts between faces to rounding.
        """
        return tuple(
            np.linspace(low, up, n + 1)
            for low, up, n in zip(self.lower, self.upper, self.shape, strict=True)
        )

    def corner(self, index: Sequence[int]) -> Array:
        """The corner of cells with an index along each axis, shape ``(d,)``, to the last bit."""
        return np.array([edges[i] for edges, i in zip(self.edges, index, strict=True)])

    def cell_bounds(self) -> tuple[Array, Array]:
        """Lower and upper corners of all cells, two arrays of shape ``(size, d)``."""
        lower = np.meshgrid(*(e[:-1] for e in self.edges), indexing="ij")
        upper = np.meshgrid(*(e[1:] for e in self.edges), indexing="ij")
        return (
            np.stack([a.ravel() for a in lower], axis=1),
            np.stack([a.ravel() for a in upper], axis=1),
        )

    def cell_centers(self) -> Array:
        """Centres of all cells, shape ``(size, d)``."""
        lower, upper = self.cell_bounds()
        return 0.5 * (lower + upper)

    def cell_of(self, points: ArrayLike) -> Cells:
        """Number of the cell that contains each point; -1 outside the box.

        A point on a face shared by two cells is assigned to the upper one; on the upper face of
        the box it belongs to the last cell. On a periodic axis no finite coordinate is outside: it
        is wrapped.

        Args:
            points: Shape ``(n, d)``, in the coordinates of the box.

        Returns:
            Cell numbers, shape ``(n,)``.

        Raises:
            ValueError: If the shape does not match the grid or a coordinate is NaN.
        """
        x = np.asarray(points, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"points must have shape (n, {self.dim}), got {x.shape}")
        if np.isnan(x).any():
            bad = int(np.flatnonzero(np.isnan(x).any(axis=1))[0])
            raise ValueError(f"points must not be NaN, but row {bad} is {x[bad].tolist()}")
        if any(self.periodic):
            period = self.upper - self.lower
            with np.errstate(invalid="ignore"):  # infinity cannot be wrapped: outside
                wrapped = x - np.floor((x - self.lower) / period) * period
            x = np.where(self.periodic, np.clip(wrapped, self.lower, self.upper), x)
        inside = np.all((x >= self.lower) & (x <= self.upper), axis=1)
        index = [
            np.clip(np.searchsorted(e, x[:, j], side="right") - 1, 0, n - 1)
            for j, (e, n) in enumerate(zip(self.edges, self.shape, strict=True))
        ]
        return np.where(inside, np.ravel_multi_index(index, self.shape), -1)


def check_box(lower: ArrayLike, upper: ArrayLike) -> tuple[Array, Array]:
    """Validate the two corners of a box and return them as float64 vectors.

    Args:
        lower: Lower corner, ``d >= 1`` numbers.
        upper: Upper corner, ``d`` numbers.

    Returns:
        Fresh read-only arrays of shape ``(d,)``.

    Raises:
        ValueError: If a corner is not a vector of real numbers, the lengths differ, a value is not
            finite, or ``lower >= upper`` on some axis.
    """
    low, up = real_numbers("lower", lower), real_numbers("upper", upper)
    for name, corner in (("lower", low), ("upper", up)):
        if corner.ndim != 1 or corner.size == 0:
            raise ValueError(
                f"{name} must be a sequence of one number per axis, got shape {corner.shape}"
            )
        if not np.isfinite(corner).all():
            raise ValueError(f"{name} must be finite, got {corner.tolist()}")
    if low.shape != up.shape:
        raise ValueError(f"lower and upper must have the same length, got {low.size} and {up.size}")
    if not (low < up).all():
        axis = int(np.flatnonzero(~(low < up))[0])
        raise ValueError(
            f"lower must be below upper on every axis, but on axis {axis} lower is {low[axis]} "
            f"and upper is {up[axis]}"
        )
    with np.errstate(over="ignore"):
        width = up - low
    if not np.isfinite(width).all():
        raise ValueError(f"upper - lower must be finite, got {width.tolist()}")
    low.flags.writeable = up.flags.writeable = False
    return low, up


def check_resolved(grid: CubicalGrid) -> None:
    """Refuse a grid whose cells are so narrow that neighbouring floats do not resolve them.

    Raises:
        ValueError: If they are.
    """
    ulp = np.spacing(np.maximum(np.abs(grid.lower), np.abs(grid.upper)))
    for axis in np.flatnonzero(grid.cell_widths / ulp < _LEAST_ULPS):
        raise ValueError(
            f"the box is too small for floats: on axis {axis}, from {grid.lower[axis]:.17g} to "
            f"{grid.upper[axis]:.17g}, its cells are {grid.cell_widths[axis]:.3g} wide, where "
            f"neighbouring floats are {ulp[axis]:.3g} apart; at least {_LEAST_ULPS} of them have "
            "to fit. Use a larger box, fewer cells, or move the origin closer"
        )


def check_mask(mask: ArrayLike | None, name: str, size: int) -> Mask:
    """Validate a mask of cells and return it as a fresh array, all false for None.

    Args:
        mask: Boolean, shape ``(size,)``, or None.
        name: Name of the argument, for error messages.
        size: Number of cells.

    Raises:
        ValueError: If it is not boolean or has another shape.
    """
    if mask is None:
        return np.zeros(size, dtype=bool)
    out = np.array(mask)
    if out.dtype != bool or out.shape != (size,):
        raise ValueError(
            f"{name} must be boolean with one entry for each of the {size} cells, "
            f"got {out.dtype} of shape {out.shape}"
        )
    return out
