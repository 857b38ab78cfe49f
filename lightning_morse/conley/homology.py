"""Relative homology of pairs of sets of grid cells, over the field of two elements."""

from __future__ import annotations

import itertools

import numpy as np

from lightning_morse._typing import Mask
from lightning_morse.grids.cubical import CubicalGrid

# Reductions only save time: elimination alone gives the same Betti numbers. Up to this many cubes
# it is faster than looking for reductions first.
_ELIMINATE_AT_ONCE_UP_TO = 400
# Up to this many cubes elimination is faster than another round of sweeps, if the last round has
# cancelled less than half of the cubes.
_STOP_SLOW_SWEEPS_UP_TO = 20_000


def relative_betti(upper: Mask, lower: Mask, grid: CubicalGrid) -> tuple[int, ...]:
    r"""Betti numbers of a pair of sets of cells, :math:`\dim H_k(|P_1|, |P_0|; \mathbb{Z}_2)`.

    The cubes of all dimensions that are faces of a cell of :math:`P_1` and of no cell of
    :math:`P_0` span the relative chain complex (Kaczynski, Mischaikow, Mrozek, "Computational
    Homology", 2004). First, pairs of a cube and one of its faces are cancelled wherever that
    changes no other boundary: the face lies in no other cube (a reduction), or the cube has no
    other face (a coreduction; Mrozek and Batko, "Coreduction homology algorithm", 2009). Gaussian
    elimination does the rest.

    Args:
        upper: The cells of :math:`P_1`, boolean, shape ``(grid.size,)``.
        lower: The cells of :math:`P_0`, likewise; cells outside :math:`P_1` are ignored.
        grid: The grid; the two ends of a periodic axis are identified.

    Returns:
        One Betti number per dimension from 0 to ``d``.

    Raises:
        ValueError: If a mask is not boolean or has another shape.

    Example:
        An interval by itself, relative to one of its ends, and relative to both:

        >>> grid = CubicalGrid([0.0], [1.0], (4,))
        >>> interval = np.ones(4, dtype=bool)
        >>> for ends in ([], [0], [0, 3]):
        ...     relative_betti(interval, np.isin(np.arange(4), ends), grid)
        (1, 0)
        (0, 0)
        (0, 1)
    """
    for name, mask in (("upper", upper), ("lower", lower)):
        if np.asarray(mask).dtype != bool or np.shape(mask) != (grid.size,):
            raise ValueError(
                f"{name} must be boolean with one entry for each of the {grid.size} cells, "
                f"got {np.asarray(mask).dtype} of shape {np.shape(mask)}"
            )
    cells = (upper & ~lower).reshape(grid.shape)
    if not cells.any():
        return (0,) * (grid.dim + 1)
    window = _window(cells, grid)
    kept = upper.reshape(grid.shape)[window]
    glued = [
        wraps and part == slice(None) for wraps, part in zip(grid.periodic, window, strict=True)
    ]
    cubes = _closure(kept, glued) & ~_closure((kept & lower.reshape(grid.shape)[window]), glued)
    if cubes.sum() > _ELIMINATE_AT_ONCE_UP_TO:
        _cancel(cubes, glued)
    return _betti(cubes, glued)


def _window(cells: Mask, grid: CubicalGrid) -> tuple[slice, ...]:
    """Slices of the grid that contain all marked cells and their neighbours."""
    out = []
    for axis, (n, wraps) in enumerate(zip(grid.shape, grid.periodic, strict=True)):
        others = tuple(a for a in range(grid.dim) if a != axis)
        marked = np.flatnonzero(cells.any(axis=others))
        first, last = int(marked[0]) - 1, int(marked[-1]) + 2
        if wraps and (first < 0 or last > n):
            out.append(slice(None))
        else:
            out.append(slice(max(first, 0), min(last, n)))
    return tuple(out)


def _closure(cells: Mask, glued: list[bool]) -> Mask:
    """All faces, of all dimensions, of a set of cells.

    A cube has one coordinate per axis: ``2 i + 1`` for the interval of cell ``i``, ``2 i`` for its
    lower end. On a glued axis the last end is the first one.
    """
    cubes = cells
    for axis, wraps in enumerate(glued):
        cubes = np.moveaxis(cubes, axis, 0)
        n = len(cubes)
        grown = np.zeros((2 * n + (not wraps), *cubes.shape[1:]), dtype=bool)
        grown[1::2] = cubes
        grown[0 : 2 * n : 2] = cubes
        if wraps:
            grown[2::2] |= cubes[:-1]
            grown[0] |= cubes[-1]
        else:
            grown[2::2] |= cubes
        cubes = np.moveaxis(grown, 0, axis)
    return np.ascontiguousarray(cubes)


def _cancel(cubes: Mask, glued: list[bool]) -> None:
    """Remove pairs of a cube and one of its faces that change no other boundary, in place.

    The slices of the array are swept along each axis in both directions, so that a convex set
    shrinks to a point, or to a single cube, in as many sweeps as there are axes.
    """
    left = int(cubes.sum())
    while left:
        before = left
        for axis, upward in itertools.product(range(cubes.ndim), (True, False)):
            for backwards in (False, True):
                _sweep(cubes, glued, axis, backwards=backwards, faces_first=upward)
        left = int(cubes.sum())
        # Progress can be slow: a staircase, for example, gets shorter by one step per round.
        if left == before or (left <= _STOP_SLOW_SWEEPS_UP_TO and 2 * left > before):
            return


def _sweep(
    cubes: Mask,
    glued: list[bool],
    axis: int,
    *,
    backwards: bool,
    faces_first: bool,
) -> None:
    """Cancel pairs that are neighbours along one axis, slice by slice, in place.

    With ``faces_first`` the sweep meets the face first, and it must lie in no other cube; otherwise
    it meets the cube first, which must have no other face. The pairs of one slice whose cubes have
    the same dimension are disjoint, and removing some of them leaves the others free.
    """
    along = np.moveaxis(cubes, axis, 0)
    length = len(along)
    across = [(a, w) for a, w in enumerate(g for b, g in enumerate(glued) if b != axis)]
    odd = [np.arange(n) % 2 == 1 for n in along.shape[1:]]
    grid_of_odd = np.meshgrid(*odd, indexing="ij") if odd else []
    extent = sum(o.astype(np.int8) for o in grid_of_odd) + np.zeros(along.shape[1:], dtype=np.int8)
    classes = range(cubes.ndim)
    step = -1 if backwards else 1
    for place in range(length)[::step]:
        if (place % 2 == 0) != faces_first or not along[place].any():
            continue
        other = place + step
        if glued[axis]:
            other %= length
        elif not 0 <= other < length:
            continue
        for size in reversed(classes) if faces_first else classes:
            here = along[place]
            free = here & along[other] & (extent == size)
            if not free.any():
                continue
            # A cube has cofaces along the axes where its coordinate is even, faces where it is odd.
            count = np.zeros(here.shape, dtype=np.int8)
            for neighbour in (place - 1, place + 1):
                if glued[axis] or 0 <= neighbour < length:
                    count += along[neighbour % length]
            for a, wraps in across:
                before, after = _shifted(here, a, wraps)
                count += (before.astype(np.int8) + after) * (grid_of_odd[a] != faces_first)
            free &= count == 1
            along[place] &= ~free
            along[other] &= ~free


def _shifted(cubes: Mask, axis: int, wraps: bool) -> tuple[Mask, Mask]:
    """Whether the neighbours before and after each cube along an axis are present."""
    before, after = np.roll(cubes, 1, axis), np.roll(cubes, -1, axis)
    if not wraps:
        np.moveaxis(before, axis, 0)[0] = False
        np.moveaxis(after, axis, 0)[-1] = False
    return before, after


def _betti(cubes: Mask, glued: list[bool]) -> tuple[int, ...]:
    """Betti numbers by Gaussian elimination; a column is an integer whose bits are the faces."""
    place = np.argwhere(cubes)
    extent = (place % 2).sum(axis=1)
    number = np.zeros(cubes.shape, dtype=np.int64)
    count = [0] * (cubes.ndim + 1)
    for k in range(cubes.ndim + 1):
        at = place[extent == k]
        count[k] = len(at)
        number[tuple(at.T)] = np.arange(len(at))
    ranks = [0] * (cubes.ndim + 2)
    for k in range(1, cubes.ndim + 1):
        columns = [0] * count[k]
        at = place[extent == k]
        for axis, step in itertools.product(range(cubes.ndim), (-1, 1)):
            owner = np.flatnonzero(at[:, axis] % 2)
            face = at[owner].copy()
            face[:, axis] += step
            if glued[axis]:
                face[:, axis] %= cubes.shape[axis]
            there = cubes[tuple(face.T)]
            numbers = number[tuple(face.T)]
            for column, row in zip(owner[there].tolist(), numbers[there].tolist(), strict=True):
                columns[column] ^= 1 << row
        ranks[k] = _rank(columns)
    return tuple(count[k] - ranks[k] - ranks[k + 1] for k in range(cubes.ndim + 1))


def _rank(columns: list[int]) -> int:
    """Rank of a matrix over the field of two elements."""
    by_pivot: dict[int, int] = {}
    for column in columns:
        while column:
            pivot = column.bit_length()
            if pivot not in by_pivot:
                by_pivot[pivot] = column
                break
            column ^= by_pivot[pivot]
    return len(by_pivot)
