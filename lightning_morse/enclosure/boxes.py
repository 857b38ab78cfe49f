r"""The box carried around the centre of a cell: in which frame, and how it grows in a step.

Let :math:`z = x - y` be the deviation of a trajectory of the differential inclusion from the centre
of its cell (:mod:`lightning_morse.enclosure.integrate`), :math:`H` the Jacobian of the posterior
mean :math:`m` of the gradient and :math:`w` the half-width of the band. Then

.. math:: z' = -\bar H z + e, \qquad \bar H = \int_0^1 H(y + s z)\, \mathrm{d}s, \quad |e| \le w.

In any orthonormal frame :math:`Q` and by the comparison theorem of Kamke and Mueller (Walter,
"Differential and Integral Inequalities", 1970, section 12), :math:`|Q^T z|` stays below the
solution of :math:`r' = A r + b`, where the diagonal of :math:`A` bounds that of
:math:`-Q^T \bar H Q` from above, its off-diagonal entries bound the absolute values of the others,
:math:`b` bounds :math:`|Q^T e|`, and all bounds hold throughout the step.

:class:`AxisBoxes` uses the coordinate axes as the frame and takes for :math:`A` the largest entries
of :math:`H` over a window that contains the box throughout the step.

:class:`FramedBoxes` is sharper and slower. It carries two boxes, one along the axes and one along
the eigenvectors of :math:`H` at the centre of the cell, in which a tilted minimum contracts from
all sides; :math:`x` lies in both. It also uses that :math:`H` changes little along a step. If
:math:`H` changes by at most :math:`L` per unit of length, :math:`\bar H` differs from :math:`H(y)`
by at most :math:`L |z| / 2`, and :math:`H(y)` differs from the mean of its values at the two ends
of a path by at most :math:`L` times half its length. A fixed frame per cell plays the part of the
parallelepipeds of Lohner ("Enclosing the solutions of ordinary initial and boundary value
problems", in: Computerarithmetic, 1987), which spare a box from being wrapped anew at every step.

*The centre's path.* The velocity :math:`v` along the path of the centre solves :math:`v' = J v`
with :math:`J` the Jacobian of the interpolated field. The matrix :math:`A` over the window bounds
:math:`J` in the same sense, so :math:`|v(s)| \le e^{sA} |v(0)|`, and the path is no longer along
axis :math:`i` than entry :math:`i` of :math:`\int_0^h e^{sA} |v(0)| \, \mathrm{d}s`. With
:math:`\mu` the largest row sum of :math:`A` (signed: its logarithmic norm), it is no longer in the
maximum norm than :math:`\|v(0)\| \int_0^h e^{\mu s} \mathrm{d}s`.

Everything that happens within a step is thus proved, given the bounds on :math:`H`; the factors
that only guess a size in advance are checked afterwards (:attr:`Grown.sound`).

Lengths are in lattice cells, with the lower corner of the box at 0; along frames other than the
axes they are in the units of ``x``. Arrays have one row per axis and one column per flight, so that
what is done to one coordinate of all flights runs over adjacent numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.enclosure import comparison
from lightning_morse.enclosure.bounds import FlowBounds

# Longest step of a centre, in grid cells. Soundness does not depend on it: longer steps need wider
# windows, shorter ones more time.
LONGEST_STRIDE = 0.75
# Guesses of how far a box reaches within a step, as multiples of what it reached before and of
# what the first round found. The second round checks them, so soundness does not depend on them; a
# guess that is too small costs a shorter step, one that is too large a wider box.
_GUESSED_REACH = 1.2
_CONFIRMED_REACH = 1.1
# The size of H that a step is planned with: over about half a stride and half a grown box.
# Soundness does not depend on it, because `Grown.sound` checks the matrix actually used.
_PLANNED_STRIDE, _PLANNED_REACH = 0.5, 0.6


class Place(NamedTuple):
    """Where the boxes of a step start.

    Attributes:
        y: Centres, shape ``(d, n)``.
        velocity: Velocities of the centres, same shape.
        cell: Numbers of the lattice cells that hold the centres, shape ``(n,)``.
        window: Numbers of the windows around these cells, same shape.
        forcing: Bounds on the forcing over the windows, shape ``(d, n)``.
    """

    y: Array
    velocity: Array
    cell: Cells
    window: Cells
    forcing: Array


class Stride(NamedTuple):
    """A step of the centres.

    Attributes:
        time: Length of the step in time, shape ``(n,)``.
        ahead: Where it leads, shape ``(d, n)``.
        velocity: The velocities there, same shape.
        error: Estimated errors of ``ahead``, same shape.
    """

    time: Array
    ahead: Array
    velocity: Array
    error: Array


class Grown(NamedTuple):
    """Boxes after a step.

    Attributes:
        size: Their sizes, in the measure of the kind of box.
        radius: Half-widths of enclosing boxes along the axes, shape ``(d, n)``.
        swept: The same for the whole step, not only its end.
        path: Bounds on the length of the centre's path along each axis, shape ``(d, n)``.
        sound: Whether the premises of these bounds are met by the bounds themselves, given that
            everything stayed in the window, shape ``(n,)``.
    """

    size: Array
    radius: Array
    swept: Array
    path: Array
    sound: Mask


class Growth(Protocol):
    """How boxes grow from a given place."""

    @property
    def norm(self) -> Array:
        """Norm of the matrix of the comparison system, shape ``(n,)``."""
        ...

    def after(self, stride: Stride) -> Grown:
        """The boxes after a step of the centres."""
        ...


class Boxes(Protocol):
    """The boxes of some cells on their flight, one column per cell."""

    size: Array

    def radius(self, flights: Cells) -> Array:
        """Half-widths of boxes along the axes that enclose those of the given flights."""
        ...

    def growth(self, flights: Cells, place: Place) -> Growth:
        """How the boxes of the given flights grow."""
        ...


MakeBoxes = Callable[[FlowBounds, Array, Array], Boxes]


class AxisBoxes:
    """Boxes along the axes, with bounds over windows.

    ``size`` has shape ``(d, n)``, in lattice cells.
    """

    def __init__(self, bounds: FlowBounds, center: Array, radius: Array) -> None:
        self.bounds = bounds
        self.size = radius

    def radius(self, flights: Cells) -> Array:
        """See :class:`Boxes`."""
        return self.size.take(flights, axis=-1)

    def growth(self, flights: Cells, place: Place) -> _AxisGrowth:
        """See :class:`Boxes`."""
        matrix = self.bounds.window_matrix(place.y, place.cell, place.window)
        return _AxisGrowth(matrix, place, self.size.take(flights, axis=-1))


@dataclass(frozen=True, eq=False)
class _AxisGrowth:
    matrix: Array
    place: Place
    size: Array

    @cached_property
    def norm(self) -> Array:
        return comparison.norm(self.matrix)

    def after(self, stride: Stride) -> Grown:
        matrix, forcing, time = self.matrix, self.place.forcing, stride.time
        # Box and path obey the same system from other beginnings: both at once take half the calls.
        forcings = np.stack([forcing, np.abs(self.place.velocity)], axis=1)
        starts = np.stack([self.size, np.zeros_like(self.size)], axis=1)
        grown, path = comparison.solution(matrix[:, :, None], forcings, starts, time).swapaxes(0, 1)
        grown = grown + stride.error
        swept = comparison.largest_within(matrix, forcing, self.size, grown, time)
        return Grown(grown, grown, swept, path, self.norm * time <= comparison.LARGEST_EXPONENT)


class FramedBoxes:
    """Boxes along the axes and along the eigenvectors of the Hessian at the start.

    ``size`` has shape ``(d, n_frames, n)``, in the units of ``x``; in one dimension there is one
    frame.
    """

    def __init__(self, bounds: FlowBounds, center: Array, radius: Array) -> None:
        self.bounds = bounds
        d, n = center.shape
        # Each frame has one vector per column: shape (d, d, n_frames, n).
        self.frames = np.tile(np.eye(d)[:, :, None, None], (1, 1, 1, n))
        if d > 1:
            _, vectors = np.linalg.eigh(np.moveaxis(bounds.hessian_at(center), 2, 0))
            vectors = np.moveaxis(vectors, 0, 2)[:, :, None]
            self.frames = np.concatenate([self.frames, vectors], axis=2)
        spacing = bounds.lattice.spacing[:, None]
        self.size = _along_frames(np.abs(self.frames), radius * spacing)

    def radius(self, flights: Cells) -> Array:
        """See :class:`Boxes`."""
        frames = np.abs(self.frames.take(flights, axis=-1))
        return _along_axes(frames, self.size.take(flights, axis=-1), self.bounds.lattice.spacing)

    def growth(self, flights: Cells, place: Place) -> _FramedGrowth:
        """See :class:`Boxes`."""
        of_flights = (self.frames.take(flights, axis=-1), self.size.take(flights, axis=-1))
        return _FramedGrowth(self.bounds, *of_flights, place)


class _FramedGrowth:
    def __init__(self, bounds: FlowBounds, frames: Array, size: Array, place: Place) -> None:
        self.bounds, self.frames, self.size = bounds, frames, size
        self.abs_frames = np.abs(frames)
        self.spacing = bounds.lattice.spacing
        where = place.cell, place.window
        self.bend = bounds.over(bounds.bend, *where)[bounds.entry]
        self.doubt = bounds.over(bounds.doubt, *where)[bounds.entry]
        self.beyond = bounds.beyond(place.y, place.window)
        window = bounds.window_matrix(place.y, *where)
        self.over_window = window * (self.spacing[:, None] / self.spacing)[:, :, None]
        self.log_norm = window.sum(axis=1).max(axis=0)
        self.speed = np.abs(place.velocity).max(axis=0)
        self.forcing = _along_frames(self.abs_frames, place.forcing * self.spacing[:, None])
        self.hessian = bounds.hessian_at(place.y)
        self.reach = _along_axes(self.abs_frames, size, self.spacing).max(axis=0)
        stride = LONGEST_STRIDE * max(bounds.lattice.refinement)
        self.planned_change = _PLANNED_STRIDE * stride + _PLANNED_REACH * self.reach

    @property
    def norm(self) -> Array:
        return comparison.norm(self._matrix(self.hessian, self.planned_change))

    def after(self, stride: Stride) -> Grown:
        time, exponent = stride.time, self.log_norm * stride.time
        # Longer steps are refused below; the minimum only avoids an overflow.
        path = self.speed * time
        path *= comparison.mean_growth(np.minimum(exponent, comparison.LARGEST_EXPONENT))
        ends = 0.5 * (self.hessian + self.bounds.hessian_at(stride.ahead))
        error = _along_frames(self.abs_frames, stride.error * self.spacing[:, None])
        reach = _GUESSED_REACH * self.reach
        for _ in range(2):  # the second time with what the first has found
            matrix = self._matrix(ends, 0.5 * (path + reach))
            grown = comparison.solution(matrix, self.forcing, self.size, time) + error
            inside = comparison.largest_within(matrix, self.forcing, self.size, grown, time)
            swept = _along_axes(self.abs_frames, inside, self.spacing)
            guessed, reach = reach, _CONFIRMED_REACH * swept.max(axis=0)
        sound = swept.max(axis=0) <= guessed
        sound &= comparison.norm(matrix) * time <= comparison.LARGEST_EXPONENT
        sound &= exponent <= comparison.LARGEST_EXPONENT
        grown = self._intersected(grown)
        return Grown(
            size=grown,
            radius=_along_axes(self.abs_frames, grown, self.spacing),
            swept=swept,
            path=np.repeat(path[None], len(self.spacing), axis=0),
            sound=sound,
        )

    def _intersected(self, size: Array) -> Array:
        """What lies in all boxes lies, along each frame, in the box that encloses any of them."""
        turned = self.frames.swapaxes(0, 1)
        enclosing = [
            _along_rows(np.abs(_product(turned, self.frames[:, :, [k]])), size[:, [k]])
            for k in range(size.shape[1])
        ]
        return np.asarray(np.minimum.reduce([size, *enclosing]))

    def _matrix(self, hessian: Array, change: Array) -> Array:
        """Matrix of the comparison system in each frame, for a Hessian that changes.

        Args:
            hessian: Shape ``(d, d, n)``.
            change: Over how many lattice cells it may change, shape ``(n,)``.

        Returns:
            Shape ``(d, d, n_frames, n)``.
        """
        middle, slack = -hessian, self.bend * change + self.doubt
        # Beyond the box the field is constant, so entries of that axis lie between their value
        # inside and 0.
        half = np.where(self.beyond, middle / 2, 0.0)
        middle, slack = middle - half, slack + np.abs(half)
        middle = self._turned(self.frames, middle)
        slack = self._turned(self.abs_frames, slack)
        diagonal = np.arange(len(hessian))
        matrix = np.abs(middle)
        matrix[diagonal, diagonal] = middle[diagonal, diagonal]
        matrix += slack
        np.minimum(matrix[:, :, 0], self.over_window, out=matrix[:, :, 0])
        return matrix

    @staticmethod
    def _turned(frames: Array, matrix: Array) -> Array:
        """A matrix, shape ``(d, d, n)``, in each frame."""
        return _product(frames.swapaxes(0, 1), _product(matrix[:, :, None], frames))


def _along_frames(abs_frames: Array, radius: Array) -> Array:
    """Half-widths along each frame that enclose a box along the axes.

    Args:
        abs_frames: Absolute values of the frames, one vector per column, shape
            ``(d, d, n_frames, n)``.
        radius: Half-widths of the box, shape ``(d, n)``.

    Returns:
        Shape ``(d, n_frames, n)``.
    """
    return _along_rows(abs_frames.swapaxes(0, 1), radius[:, None])


def _along_rows(abs_frames: Array, radius: Array) -> Array:
    """The same for frames with one vector per row, and half-widths of shape ``(d, 1, n)``."""
    out = abs_frames[:, 0] * radius[0]
    for j in range(1, len(radius)):
        out += abs_frames[:, j] * radius[j]
    return np.asarray(out)


def _product(left: Array, right: Array) -> Array:
    """Products of matrices, which come first: shapes ``(d, d, ...)``."""
    out = left[:, 0, None] * right[0]
    for j in range(1, len(right)):
        out += left[:, j, None] * right[j]
    return np.asarray(out)


def _along_axes(abs_frames: Array, size: Array, spacing: Array) -> Array:
    """Half-widths along the axes, in lattice cells, that enclose the common part of framed boxes.

    Args:
        abs_frames: As in :func:`_along_frames`.
        size: Half-widths along the frames, shape ``(d, n_frames, n)``.
        spacing: Spacing of the lattice, shape ``(d,)``.

    Returns:
        Shape ``(d, n)``.
    """
    return np.asarray(_along_rows(abs_frames, size).min(axis=1) / spacing[:, None])
