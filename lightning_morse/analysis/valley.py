"""Valleys: where the flow from a point seems to rest, and a box shaped and turned as the loss is.

Around a minimum a loss is a paraboloid, often a hundred times as steep across a valley as along it.
A box whose axes are those of the paraboloid, each as long as the loss takes to rise by as much, is
easy for everything that follows: one lengthscale along each axis fits, and the flow points inwards
through all faces. In a box along other axes the valley is a thin oblique stripe, which no lattice
resolves. None of it bears on soundness: it decides which box is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.analysis.descent import Descent
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.analysis.sharpness import slope_and_curvature

# Curvatures below the largest divided by the square of this count as that much: no box is thinner.
_THINNEST = 64.0
# Along each axis the box reaches this many times as far from the bottom as the point does, and this
# share of how far a paraboloid takes to rise to the height of the point.
_BEYOND, _LEVEL = 1.3, 0.6
# Its longest side is at least this share of that of the outermost box, where the point is all but
# at the bottom.
_SMALLEST = 1 / 8


@dataclass(frozen=True, eq=False)
class TurnedBox:
    """A box along other axes.

    Attributes:
        axes: Orthonormal columns, shape ``(d, d)``: a point ``x`` has the coordinates
            ``axes.T @ x``.
        lower: Lower corner, in these coordinates, shape ``(d,)``.
        upper: Upper corner, likewise.
    """

    axes: Array
    lower: Array
    upper: Array


def valley_of(portrait: PhasePortrait, way: Descent, level: float = _LEVEL) -> TurnedBox | None:
    """A box along the valley into which a way leads: its bottom, where the way begins, and walls.

    Args:
        portrait: The portrait so far.
        way: The mean flow from a point.
        level: How far the box reaches along each axis at least, over how far a paraboloid takes to
            rise to the height of the point: beyond 1 the loss is higher on all faces.

    Returns:
        The box, the flattest axis first, as far as surrogates tell the valley. None if the mean
        curves downwards along all axes where the way ends.
    """
    point = way.path[0]
    surrogate = portrait.charts[way.box].at(way.end).surrogate
    mean = surrogate.derivative_distribution(way.end[None])[0][0]
    _, hessian = slope_and_curvature(mean, len(point), 1 / surrogate.warp.scale)
    if not np.isfinite(hessian).all():
        return None
    curvatures, axes = np.linalg.eigh(hessian)
    if not curvatures[-1] > 0:
        return None
    # The sign of an eigenvector is arbitrary: its largest entry shall be positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(len(point))])
    bends = np.sqrt(np.maximum(curvatures, curvatures[-1] / _THINNEST**2))
    away = np.abs(axes.T @ (point - way.end))
    half = np.maximum(_BEYOND * away, level * float(np.linalg.norm(bends * away)) / bends)
    root = portrait.nested.grids[0]
    least = 0.5 * _SMALLEST * float((root.upper - root.lower).max())
    half *= max(1.0, least / float(half.max())) if half.any() else 0.0
    half = half if half.any() else least * bends.min() / bends
    bottom = axes.T @ way.end
    return TurnedBox(axes, bottom - half, bottom + half)
