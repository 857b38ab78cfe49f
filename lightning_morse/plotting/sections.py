"""The basins along one axis of the box, and in a plane of two of its axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Transform
from numpy.typing import NDArray

from lightning_morse._typing import Array, Mask
from lightning_morse.plotting.marks import DIVERGED, NOW, SAMPLE, START, area_looks, set_look
from lightning_morse.plotting.style import DARK, ink
from lightning_morse.result import MorseAnalysis

MAX_NUMBERED = 12  # Morse sets other than attractors numbered in a panel; more would overlap
POINTS_MARKED = 60  # about this many points of a trajectory get a dot, the line has them all
# Quantiles of the loss that get a contour line. The page is shared evenly among them, however
# steep the loss outside and flat inside; the extremes would be specks and the rim of the box.
CONTOUR_QUANTILES = np.linspace(0.01, 0.97, 13)
# Axes of a plane have the same scale, angles and all, unless that left a panel too thin to read.
WIDEST_TRUE_ASPECT = 3
STRIP_HEIGHT = 0.015  # of the marks of Morse sets at the foot of a loss curve, in axes heights


@dataclass(frozen=True, eq=False)
class Picture:
    """Everything a panel needs to know about the figure it belongs to.

    Attributes:
        result: The analysis, ``d`` dimensions.
        colors: Colour of each attractor, by the number of its Morse set.
        labels: One label per axis of the box.
        path: Trajectory in coordinates of the box, shape ``(T, d)``; ``T`` may be zero.
        now: The current weights, shape ``(d,)``, if known.
    """

    result: MorseAnalysis
    colors: Mapping[int, str]
    labels: Sequence[str]
    path: Array
    now: Array | None


def draw_line(ax: Axes, picture: Picture) -> None:
    """Draw a one-dimensional slice: the loss curve over bands for the basins."""
    result = picture.result
    (x,) = result.grid.edges
    across, unit = ax.get_xaxis_transform(), np.array([0.0, 1.0])
    field = np.where(result.diverged, DIVERGED, result.labels)[:, None]
    _draw_areas(ax, picture.colors, field, x, unit, across)
    for m in result.morse_sets:
        if not m.is_attractor:
            mask = np.zeros((result.grid.size, 1), dtype=bool)
            mask[m.cells] = True
            strip = _rectangles(mask, x, np.array([0.0, STRIP_HEIGHT]))
            ax.add_patch(PathPatch(strip, transform=across, facecolor=DARK, edgecolor="none"))
    ax.plot(x, result.mean_loss, color=DARK, linewidth=1.6, zorder=3)
    ok = np.isfinite(result.sample_losses)
    ax.plot(result.samples[ok, 0], result.sample_losses[ok], **SAMPLE, zorder=3)

    def on_curve(points: Array) -> Array:
        return np.stack([points[..., 0], np.interp(points[..., 0], x, result.mean_loss)], axis=-1)

    now = picture.now
    _draw_trajectory(ax, on_curve(picture.path), None if now is None else on_curve(now))
    _draw_sets(ax, picture, {i: (m.center[0], m.loss) for i, m in enumerate(result.morse_sets)})
    ax.set(xlim=(x[0], x[-1]), xlabel=picture.labels[0], ylabel="loss")
    ax.margins(y=0.08)


def draw_section(ax: Axes, picture: Picture, axes: tuple[int, int], point: Array) -> Any:
    """Draw the plane of two axes of the box through a point.

    The trajectory is projected onto the plane; Morse sets are shown where the plane meets them.

    Returns:
        The contour set, or None if the loss has no levels to draw.
    """
    result, grid = picture.result, picture.result.grid
    x, y = (grid.edges[a] for a in axes)
    plane = _Plane.through(result, axes, point)
    field = plane.cut(np.where(result.diverged, DIVERGED, result.labels))
    _draw_areas(ax, picture.colors, field, x, y, ax.transData)
    separators = _faces(field, x, y)
    ax.add_collection(LineCollection(list(separators), colors="#555555", linewidths=0.7, zorder=2))

    owner = np.full(grid.size, -1)
    for i, m in enumerate(result.morse_sets):
        owner[m.cells] = i
    owner = plane.cut(owner)
    met = np.unique(owner[owner >= 0])
    owner[np.isin(owner, result.attractors)] = -1
    outlines = _faces(owner, x, y)
    ax.add_collection(
        LineCollection(list(outlines), colors=DARK, linewidths=0.9, alpha=0.8, zorder=3)
    )
    contours = _draw_contours(ax, x, y, plane.loss)

    keep, now = list(axes), picture.now
    _draw_trajectory(ax, picture.path[:, keep], None if now is None else now[keep])
    _draw_sets(ax, picture, {int(i): tuple(result.morse_sets[i].center[keep]) for i in met})
    labels = picture.labels
    ax.set(xlim=x[[0, -1]], ylim=y[[0, -1]], xlabel=labels[axes[0]], ylabel=labels[axes[1]])
    sides = (grid.upper - grid.lower)[keep]
    ax.set_aspect("equal" if sides.max() <= WIDEST_TRUE_ASPECT * sides.min() else "auto")
    return contours


@dataclass(frozen=True, eq=False)
class _Plane:
    """A plane of two axes of a grid.

    Attributes:
        shape: Cells per axis of the grid.
        cell: Index of the cells that the plane meets, in an array of that shape.
        swapped: Whether the horizontal axis comes after the vertical one in the grid.
        loss: The mean loss at the vertices, interpolated linearly; masked where not finite.
    """

    shape: tuple[int, ...]
    cell: tuple[Any, ...]
    swapped: bool
    loss: NDArray[Any]

    @classmethod
    def through(cls, result: MorseAnalysis, axes: tuple[int, int], point: Array) -> _Plane:
        grid = result.grid
        others = tuple(set(range(grid.dim)) - set(axes))
        loss = result.mean_loss
        cell: list[Any] = [slice(None)] * grid.dim
        for k in others:
            edges = grid.edges[k]
            i = int(np.clip(np.searchsorted(edges, point[k], side="right") - 1, 0, len(edges) - 2))
            t = (point[k] - edges[i]) / (edges[i + 1] - edges[i])
            near, far = (np.take(loss, [j], axis=k) for j in (i, i + 1))
            loss, cell[k] = (1 - t) * near + t * far, i
        loss = loss.squeeze(axis=others)
        swapped = axes[0] > axes[1]
        masked = np.ma.masked_invalid(loss.T if swapped else loss)
        return cls(tuple(grid.shape), tuple(cell), swapped, masked)

    def cut(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of the cells in the plane, horizontal axis first."""
        found: NDArray[Any] = values.reshape(self.shape)[self.cell]
        return found.T if self.swapped else found


def _draw_contours(ax: Axes, x: Array, y: Array, loss: Any) -> Any:
    """Draw level sets of the loss at the vertices; None if nothing lies between its extremes."""
    finite = loss.compressed()
    if not finite.size:
        return None
    levels = np.unique(np.quantile(finite, CONTOUR_QUANTILES))
    levels = levels[(levels > finite.min()) & (levels < finite.max())]
    if not levels.size:
        return None
    lines = ax.contour(x, y, loss.T, levels=levels, colors=DARK, linestyles="solid")
    lines.set(linewidth=0.6, alpha=0.65, zorder=2.5)
    return lines


def _draw_areas(
    ax: Axes,
    colors: Mapping[int, str],
    field: NDArray[Any],
    x: Array,
    y: Array,
    transform: Transform,
) -> None:
    """Fill the cells by their labels."""
    looks = area_looks(colors)
    for value in np.unique(field):
        # Antialiasing would leave a white seam between neighbouring areas.
        ax.add_patch(
            PathPatch(
                _rectangles(field == value, x, y),
                transform=transform,
                antialiased=False,
                linewidth=0,
                zorder=1,
                **looks[int(value)],
            )
        )


def _rectangles(mask: Mask, x: Array, y: Array) -> Path:
    """Cover the cells of a mask by one path, a rectangle for each run of cells along ``x``."""
    step = np.diff(mask.astype(np.int8), axis=0, prepend=0, append=0)
    row, start = np.nonzero(step.T == 1)
    _, stop = np.nonzero(step.T == -1)
    corners = [(start, row), (stop, row), (stop, row + 1), (start, row + 1), (start, row)]
    vertices = np.stack([np.stack([x[i], y[j]], axis=1) for i, j in corners], axis=1)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(vertices.reshape(-1, 2), np.tile(codes, len(row)).astype(Path.code_type))


def _faces(field: NDArray[Any], x: Array, y: Array) -> Array:
    """Segments between neighbouring cells of different value, shape ``(n, 2, 2)``."""
    i, j = np.nonzero(field[1:] != field[:-1])
    vertical = np.stack([np.stack([x[i + 1], y[j + k]], axis=1) for k in (0, 1)], axis=1)
    i, j = np.nonzero(field[:, 1:] != field[:, :-1])
    horizontal = np.stack([np.stack([x[i + k], y[j + 1]], axis=1) for k in (0, 1)], axis=1)
    return np.concatenate([vertical, horizontal])


def _draw_trajectory(ax: Axes, path: Array, now: Array | None) -> None:
    if len(path):
        every = max(1, len(path) // POINTS_MARKED)
        ax.plot(*path.T, color="black", linewidth=1.3, marker=".", ms=5, markevery=every, zorder=4)
        ax.plot(*path[:1].T, **START, zorder=4)
    if now is not None:
        # Below the attractors' discs, which are smaller.
        ax.plot(*now, **NOW, zorder=4.5)


def _draw_sets(ax: Axes, picture: Picture, at: dict[int, tuple[float, float]]) -> None:
    """Mark and number Morse sets; a crowd of sets other than attractors gets no numbers."""
    result, colors = picture.result, picture.colors
    numbered = len(at.keys() - colors.keys()) <= MAX_NUMBERED
    for i, (x, y) in at.items():
        look = set_look(result.morse_sets[i], result.grid.dim, colors.get(i))
        # A crowd of unresolved sets must not cover the attractors.
        ax.plot(x, y, **look, zorder=6 if i in colors else 5)
        if i in colors:
            text = ax.text(x, y, str(i), fontsize=9, color=ink(colors[i]), weight="bold", zorder=6)
            text.set(ha="center", va="center_baseline", clip_on=True)
        elif numbered:
            offset: dict[str, Any] = {"xytext": (6, 4), "textcoords": "offset points"}
            note = ax.annotate(str(i), (x, y), **offset, fontsize=9, zorder=5.5)
            note.set_path_effects([withStroke(linewidth=2, foreground="white")])
