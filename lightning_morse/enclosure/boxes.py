r"""One flight of a cell: its box along the trajectory of its centre, until it says no more.

On the event of the band, the gradient flow of the warped loss solves the differential inclusion
:math:`x' \in -m(x) + [-w(x), w(x)]`, with :math:`m` the posterior mean of the gradient and
:math:`w` the half-width of the band. The centre :math:`y` of a cell follows :math:`-m`. What is
:math:`z = x - y` then solves

.. math:: z' = -\bar H z + e, \qquad \bar H = \int_0^1 H(y + s z)\, \mathrm{d}s, \quad |e| \le w,

:math:`H` the Jacobian of :math:`m`. In any orthonormal frame :math:`Q` and by the comparison
theorem of Kamke and Mueller (Walter, "Differential and Integral Inequalities", 1970, section 12),
:math:`|Q^T z|` stays below the solution of :math:`r' = A r + b` where :math:`A` bounds
:math:`-Q^T \bar H Q` on and its size off the diagonal, :math:`b` bounds :math:`|Q^T e|`, and all
bounds hold for the whole step.

A box in a frame of its own plays the part of the parallelepipeds with which Lohner
("Enclosing the solutions of ordinary initial and boundary value problems", in: Computerarithmetic,
1987) keeps boxes from being wrapped anew at every step.

:class:`AxisBoxes` takes the axes for the frame, and for :math:`A` the largest entries of :math:`H`
over a window that holds the box for the whole step. :class:`FramedBoxes` is sharper and takes
longer. It carries a box along the axes and one along the eigenvectors of :math:`H` at the cell's
centre, in which a tilted minimum contracts from all sides, and :math:`x` lies in both. And it knows
that :math:`H` changes little along the step: where :math:`H` changes by at most :math:`L` a unit of
length, :math:`\bar H` differs from :math:`H(y)` by at most :math:`L |z| / 2`, and :math:`H(y)` from
the mean of its values at both ends of a path by at most :math:`L` times half the path.

Lengths are in lattice cells, with the lower corner of the box at 0, but those along frames are in
units of the box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.enclosure.bounds import FlowBounds

# A step moves at most this many cells and lets the radius grow by about a factor e^this.
_STRIDE = 0.75


class Place(NamedTuple):
    """Where the boxes of a step are: centres, the numbers of their windows, and the forcing."""

    y: Array
    cell: Cells
    window: Cells
    forcing: Array


class Stride(NamedTuple):
    """A step of the centres: its length in time, where it leads, its error, the longest path."""

    time: Array
    ahead: Array
    velocity: Array
    error: Array
    path: Array


class Grown(NamedTuple):
    """Boxes after a step.

    Attributes:
        size: Their sizes, in whatever way the boxes are measured.
        radius: Half-widths of boxes along the axes that hold them, shape ``(n, d)``.
        swept: The same for all of the step.
        sound: Whether what was supposed of the step is true, shape ``(n,)``.
    """

    size: Array
    radius: Array
    swept: Array
    sound: Mask


class Growth(Protocol):
    """How boxes at a place grow."""

    @property
    def norm(self) -> Array:
        """Norm of the matrix of the comparison system, shape ``(n,)``."""
        ...

    def after(self, stride: Stride) -> Grown:
        """The boxes after a step of the centres."""
        ...


class Boxes(Protocol):
    """The boxes of some cells on their flight."""

    size: Array

    def radius(self, flying: Cells) -> Array:
        """Half-widths of boxes along the axes that hold those of the given rows."""
        ...

    def growth(self, flying: Cells, place: Place) -> Growth:
        """How those of the given rows grow."""
        ...


MakeBoxes = Callable[[FlowBounds, Array, Array], Boxes]


class AxisBoxes:
    """Boxes along the axes, by bounds over windows.

    ``size`` has shape ``(n, d)``, in lattice cells.
    """

    def __init__(self, bounds: FlowBounds, center: Array, radius: Array) -> None:
        self.bounds = bounds
        self.size = radius

    def radius(self, flying: Cells) -> Array:
        """See :class:`Boxes`."""
        return np.asarray(self.size[flying])

    def growth(self, flying: Cells, place: Place) -> _AxisGrowth:
        """See :class:`Boxes`."""
        return _AxisGrowth(_window_matrix(self.bounds, place), place.forcing, self.size[flying])


@dataclass(frozen=True, eq=False)
class _AxisGrowth:
    matrix: Array
    forcing: Array
    size: Array

    @property
    def norm(self) -> Array:
        return np.asarray(np.abs(self.matrix).sum(axis=2).max(axis=1))

    def after(self, stride: Stride) -> Grown:
        grown = _compare(self.matrix, self.forcing, self.size, stride.time) + stride.error
        return Grown(grown, grown, _swept(self.size, grown), np.ones(len(grown), dtype=bool))


class FramedBoxes:
    """Boxes along the axes and along the eigenvectors of the Hessian at the start.

    ``size`` has shape ``(n, n_frames, d)``, in units of the box; one axis has but one frame.
    """

    def __init__(self, bounds: FlowBounds, center: Array, radius: Array) -> None:
        self.bounds = bounds
        n, d = center.shape
        self.frames = np.tile(np.eye(d), (n, 1, 1, 1))
        if d > 1:
            _, vectors = np.linalg.eigh(bounds.hessian_at(center))
            self.frames = np.concatenate([self.frames, vectors[:, None]], axis=1)
        self.size = _along(np.abs(self.frames), radius * bounds.lattice.spacing)

    def radius(self, flying: Cells) -> Array:
        """See :class:`Boxes`."""
        return _hull(np.abs(self.frames[flying]), self.size[flying], self.bounds.lattice.spacing)

    def growth(self, flying: Cells, place: Place) -> _FramedGrowth:
        """See :class:`Boxes`."""
        return _FramedGrowth(self.bounds, self.frames[flying], self.size[flying], place)


class _FramedGrowth:
    def __init__(self, bounds: FlowBounds, frames: Array, size: Array, place: Place) -> None:
        d = place.y.shape[1]
        rows, columns = np.triu_indices(d)
        entry = np.empty((d, d), dtype=np.int64)
        entry[rows, columns] = entry[columns, rows] = np.arange(len(rows))
        self.bounds, self.frames, self.size, self.place = bounds, frames, size, place
        self.sizes_of_frames = np.abs(frames)
        self.spacing = bounds.lattice.spacing
        self.bend = bounds.bend[place.window, place.cell][:, entry]
        self.doubt = bounds.doubt[place.window, place.cell][:, entry]
        self.beyond = bounds.beyond(place.y, place.window)[:, None, :]
        self.over_window = _window_matrix(bounds, place) * (self.spacing[:, None] / self.spacing)
        self.forcing = _along(self.sizes_of_frames, place.forcing * self.spacing)
        self.hessian = bounds.hessian_at(place.y)
        self.reach = _hull(self.sizes_of_frames, size, self.spacing).max(axis=1)
        stride = _STRIDE * max(bounds.lattice.refinement)
        self.longest = 0.5 * stride + 0.6 * self.reach

    @property
    def norm(self) -> Array:
        return _norm(self._matrix(self.hessian, self.longest))

    def after(self, stride: Stride) -> Grown:
        ends = 0.5 * (self.hessian + self.bounds.hessian_at(stride.ahead))
        error = _along(self.sizes_of_frames, stride.error * self.spacing)
        reach = 1.2 * self.reach
        for _ in range(2):  # the second time with what the first has found
            matrix = self._matrix(ends, 0.5 * (stride.path + reach))
            grown = _compare(matrix, self.forcing, self.size, stride.time) + error
            swept = _hull(self.sizes_of_frames, _swept(self.size, grown), self.spacing)
            supposed, reach = reach, 1.1 * swept.max(axis=1)
        sound = (swept.max(axis=1) <= supposed) & (_norm(matrix) * stride.time <= 1)
        # What lies in both boxes lies in the box along one frame that holds the other.
        held = [
            _along(np.abs(self.frames.swapaxes(2, 3) @ self.frames[:, [k]]), grown[:, k], False)
            for k in range(grown.shape[1])
        ]
        grown = np.minimum.reduce([grown, *held])
        return Grown(grown, _hull(self.sizes_of_frames, grown, self.spacing), swept, sound)

    def _matrix(self, hessian: Array, change: Array) -> Array:
        """Matrix of the comparison system in each frame, for a Hessian that changes.

        Args:
            hessian: Shape ``(n, d, d)``.
            change: Over how many lattice cells it may change, shape ``(n,)``.

        Returns:
            Shape ``(n, n_frames, d, d)``.
        """
        middle, slack = -hessian, self.bend * change[:, None, None] + self.doubt
        # Beyond the box the field is constant: what comes of that axis is somewhere down to 0.
        half = np.where(self.beyond, middle / 2, 0.0)
        middle, slack = middle - half, slack + np.abs(half)
        middle = self.frames.swapaxes(2, 3) @ (middle[:, None] @ self.frames)
        slack = self.sizes_of_frames.swapaxes(2, 3) @ (slack[:, None] @ self.sizes_of_frames)
        diagonal = np.arange(hessian.shape[1])
        matrix = np.abs(middle)
        matrix[..., diagonal, diagonal] = middle[..., diagonal, diagonal]
        matrix += slack
        matrix[:, 0] = np.minimum(matrix[:, 0], self.over_window)
        return matrix


def _window_matrix(bounds: FlowBounds, place: Place) -> Array:
    """Matrix of the comparison system along the axes, in lattice cells, shape ``(n, d, d)``."""
    d = place.y.shape[1]
    matrix = bounds.matrix[place.window, place.cell].reshape(-1, d, d)
    # Beyond the box the field is constant, so a radius reaching there does not contract.
    diagonal = np.arange(d)
    on = matrix[:, diagonal, diagonal]
    beyond = bounds.beyond(place.y, place.window)
    matrix[:, diagonal, diagonal] = np.where(beyond, np.maximum(on, 0), on)
    return np.asarray(matrix)


def _compare(matrix: Array, forcing: Array, r: Array, step: Array) -> Array:
    """Solution of ``r' = A r + b`` after a step, rounded up; a matrix for each vector.

    ``r(h) = r + h phi(h A)(A r + b)`` with ``phi(z) = (e^z - 1) / z`` as a power series.
    """
    h = step.reshape(-1, *[1] * (r.ndim - 1))
    term = h * (np.einsum("...ij,...j->...i", matrix, r) + forcing)
    total = r + term
    for k in range(2, 10):
        term = h * np.einsum("...ij,...j->...i", matrix, term) / k
        total += term
    # The rest of the series is below the last term for h ||A|| <= 1, and rounding below both.
    return np.asarray(np.maximum(total + np.abs(term), 0.0) * (1 + 1e-12))


def _swept(before: Array, after: Array) -> Array:
    """What the radii stay below in between: more than at both ends, by second order in the step."""
    return np.maximum(before, after) + 0.1 * np.abs(after - before).max(axis=-1, keepdims=True)


def _norm(matrix: Array) -> Array:
    return np.asarray(np.abs(matrix).sum(axis=-1).max(axis=(-1, -2)))


def _along(sizes: Array, radius: Array, transposed: bool = True) -> Array:
    """Half-widths along each frame that hold a box along the axes, shape ``(n, n_frames, d)``.

    Args:
        sizes: Entries of the frames, in size, shape ``(n, n_frames, d, d)``, a column an axis.
        radius: Half-widths of the box, shape ``(n, d)``.
        transposed: Whether the frames' columns are meant, else their rows.
    """
    return np.einsum("nfji,nj->nfi" if transposed else "nfij,nj->nfi", sizes, radius)


def _hull(sizes: Array, size: Array, spacing: Array) -> Array:
    """Half-widths along the axes, in lattice cells, that hold boxes along frames."""
    held = np.einsum("nfij,nfj->nfi", sizes, size).min(axis=1)
    return np.asarray(held / spacing)
