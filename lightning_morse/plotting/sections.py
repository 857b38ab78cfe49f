"""The basins along one axis of the box, and in a plane of two of its axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Transform
from numpy.typing import NDArray

from lightning_morse._typing import Array, Mask
from lightning_morse.conley.reach import ESCAPES
from lightning_morse.plotting.levels import contour_levels
from lightning_morse.plotting.marks import (
    DIVERGED,
    NOW,
    SAMPLE,
    START,
    area_looks,
    set_look,
)
from lightning_morse.plotting.planes import Plane, boxes_within, planes_through
from lightning_morse.plotting.style import DARK, ink
from lightning_morse.result import MorseAnalysis
from lightning_morse.words import percent

MAX_NUMBERED = 12  # Morse sets other than attractors numbered in a panel; more would overlap
POINTS_MARKED = 60  # about this many points of a trajectory get a dot, the line has them all
N_CONTOURS = 9
# Axes of a plane have the same scale, angles and all, unless that left a panel too thin to read.
WIDEST_TRUE_ASPECT = 3
FRAME_COLOR = "black"  # of the boxes inside
MARK = "mark"  # of what no label may cover
BESIDE = 0.9  # share of a panel up to which numbers stand to the right of marks and above
CLEAR_OF_CORNERS = 0.12  # names of faces keep away from corners by this share of a panel
# Shares of a panel, across and upwards, within which a name of a face would touch a mark: from the
# face inwards, and along it.
_INWARDS, _ALONG = (0.28, 0.16), (0.2, 0.13)
_ARROWS = "←→↓↑"  # out through the lower and upper face across, and upwards
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


def draw_line(ax: Axes, picture: Picture, shown: int = 0) -> None:
    """Draw one box of one dimension: the loss curve, if there is one, over bands for the basins.

    Boxes inside are drawn in place, between thin lines.

    Args:
        ax: Where to.
        picture: The figure it belongs to.
        shown: Number of the box.
    """
    result = picture.result
    across, unit = ax.get_xaxis_transform(), np.array([0.0, 1.0])
    inside = boxes_within(result, shown)
    for k in inside:
        box = result.boxes[k]
        (x,) = box.grid.edges
        field = np.where(box.diverged, DIVERGED, box.labels)[:, None]
        _draw_areas(ax, picture.colors, field, x, unit, across)
        if box.sets is not None:
            others = (box.sets >= 0) & ~np.isin(box.sets, result.attractors)
            strip = _rectangles(others[:, None], x, np.array([0.0, STRIP_HEIGHT]))
            ax.add_patch(PathPatch(strip, transform=across, facecolor=DARK, edgecolor="none"))
        if k != shown:
            draw_frame(ax, x[[0, -1]], unit, across)
    x, loss = _curve(result, inside)
    ax.plot(x, loss, color=DARK, linewidth=1.6, zorder=3)
    low, up = x[[0, -1]]
    at, losses = result.samples[:, 0], result.sample_losses
    ok = np.isfinite(losses) & (at >= low) & (at <= up)
    ax.plot(at[ok], losses[ok], **SAMPLE, zorder=3)

    def on_curve(points: Array) -> Array:
        return np.stack([points[..., 0], np.interp(points[..., 0], x, loss)], axis=-1)

    now = picture.now
    ax.set(xlim=(low, up), xlabel=picture.labels[0], ylabel="loss")
    if result.is_map:  # which has no loss
        ax.set(ylabel="", yticks=[])
    ax.margins(y=0.08)
    _draw_trajectory(ax, on_curve(picture.path), None if now is None else on_curve(now))
    marked = {i: (m.center[0], m.loss) for i, m in enumerate(result.morse_sets)}
    _draw_sets(ax, picture, {i: p for i, p in marked.items() if low <= p[0] <= up})


def _curve(result: MorseAnalysis, inside: Sequence[int]) -> tuple[Array, Array]:
    """Vertices of the finest grids and the mean loss there, ascending."""
    x, loss = (np.empty(0),) * 2
    for k in inside:  # each box replaces what is around it
        box = result.boxes[k]
        outside = (x < box.grid.lower) | (x > box.grid.upper)
        x = np.concatenate([x[outside], box.grid.edges[0]])
        loss = np.concatenate([loss[outside], box.mean_loss])
    order = np.argsort(x)
    return x[order], loss[order]


def draw_section(
    ax: Axes, picture: Picture, axes: tuple[int, int], point: Array, shown: int = 0
) -> Any:
    """Draw the plane of two axes of a box through a point.

    Boxes inside are drawn in place, at their own resolution and in a thin frame, with contours at
    the levels of the box that is shown. The trajectory is projected onto the plane; Morse sets are
    shown where the plane meets them.

    Args:
        ax: Where to.
        picture: The figure it belongs to.
        axes: The axis across and the one upwards.
        point: A point of the plane, shape ``(d,)``.
        shown: Number of the box.

    Returns:
        The contour set of the box, or None if its loss has no levels to draw.
    """
    result = picture.result
    planes = planes_through(result, axes, point, shown)
    levels, met, contours = _levels(planes[0].loss), set[int](), None
    for k, plane in enumerate(planes):
        # Labels of contours lie above all areas: none may belong to a line that is covered.
        plane.mask_loss_under(planes[k + 1 :])
        # What is drawn of a box covers all that is drawn of the boxes around it.
        drawn = _draw_plane(ax, picture, plane, levels, 1 + 2 * k / len(planes), 2 / len(planes))
        if k == 0:
            contours = drawn
        else:
            draw_frame(ax, plane.x[[0, -1]], plane.y[[0, -1]])
        met |= set(plane.owner[plane.owner >= 0].tolist())
    keep, now = list(axes), picture.now
    at = None if now is None else now[keep]
    labels, (x, y) = picture.labels, (planes[0].x, planes[0].y)
    ax.set(xlim=x[[0, -1]], ylim=y[[0, -1]], xlabel=labels[axes[0]], ylabel=labels[axes[1]])
    _draw_trajectory(ax, picture.path[:, keep], at)
    _draw_sets(ax, picture, {i: tuple(result.morse_sets[i].center[keep]) for i in sorted(met)})
    if shown == 0:
        _draw_exits(ax, picture, planes[0], axes)
    sides = np.array([x[-1] - x[0], y[-1] - y[0]])
    ax.set_aspect("equal" if sides.max() <= WIDEST_TRUE_ASPECT * sides.min() else "auto")
    return contours


def draw_frame(ax: Axes, x: Array, y: Array, transform: Transform | None = None) -> None:
    """Draw a thin frame between two coordinates across and two upwards."""
    frame = Rectangle((x[0], y[0]), x[1] - x[0], y[1] - y[0], fill=False, linewidth=1.1)
    frame.set(edgecolor=FRAME_COLOR, zorder=3.5, transform=transform or ax.transData)
    ax.add_patch(frame)


def _draw_plane(
    ax: Axes, picture: Picture, plane: Plane, levels: Array, zorder: float, room: float
) -> Any:
    """Draw areas, contours and outlines of one box, in ``room`` above a zorder."""
    x, y = plane.x, plane.y
    _draw_areas(ax, picture.colors, plane.field, x, y, ax.transData, zorder)
    separators = LineCollection(list(_faces(plane.field, x, y)), colors="#555555", linewidths=0.7)
    separators.set_zorder(zorder + 0.5 * room)
    ax.add_collection(separators)
    contours = _draw_contours(ax, x, y, plane.loss, levels, zorder + 0.75 * room)
    others = np.where(np.isin(plane.owner, picture.result.attractors), -1, plane.owner)
    outlines = LineCollection(list(_faces(others, x, y)), colors=DARK, linewidths=0.9, alpha=0.8)
    outlines.set_zorder(zorder + room)
    ax.add_collection(outlines)
    return contours


def _levels(loss: Any) -> Array:
    """Losses at which to draw contours; none if nothing lies between the extremes."""
    return contour_levels(loss.compressed(), N_CONTOURS)


def _draw_contours(ax: Axes, x: Array, y: Array, loss: Any, levels: Array, zorder: float) -> Any:
    """Draw level sets of the loss at the vertices; None if it has none at these levels."""
    finite = loss.compressed()
    if not finite.size:
        return None
    levels = levels[(levels > finite.min()) & (levels < finite.max())]
    if not levels.size:
        return None
    lines = ax.contour(x, y, loss.T, levels=levels, colors=DARK, linestyles="solid")
    lines.set(linewidth=0.6, alpha=0.65, zorder=zorder)
    return lines


def _draw_areas(
    ax: Axes,
    colors: Mapping[int, str],
    field: NDArray[Any],
    x: Array,
    y: Array,
    transform: Transform,
    zorder: float = 1,
) -> None:
    """Fill the cells by their labels."""
    looks = area_looks(colors)
    for value in np.unique(field):
        # Antialiasing would leave a white seam between neighbouring areas.
        patch = PathPatch(
            _rectangles(field == value, x, y),
            transform=transform,
            antialiased=False,
            linewidth=0,
            zorder=zorder,
            **looks[int(value)],
        )
        ax.add_artist(patch)  # as a patch, each of its corners would be asked for the limits


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


def _holds(ax: Axes, x: float, y: float) -> bool:
    """Whether a point lies in the panel, its edges included: then its mark is drawn whole."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    return left <= x <= right and low <= y <= high


def _draw_trajectory(ax: Axes, path: Array, now: Array | None) -> None:
    if len(path):
        every = max(1, len(path) // POINTS_MARKED)
        ax.plot(*path.T, color="black", linewidth=1.3, marker=".", ms=5, markevery=every, zorder=4)
        ax.plot(*path[:1].T, **START, zorder=4, clip_on=not _holds(ax, *path[0]), gid=MARK)
    if now is not None:
        # Below the attractors' discs, which are smaller.
        ax.plot(*now, **NOW, zorder=4.5, clip_on=not _holds(ax, *now), gid=MARK)


def _draw_sets(ax: Axes, picture: Picture, at: dict[int, tuple[float, float]]) -> None:
    """Mark and number Morse sets; a crowd of sets other than attractors gets no numbers."""
    result, colors = picture.result, picture.colors
    numbered = len(at.keys() - colors.keys()) <= MAX_NUMBERED
    for i, (x, y) in at.items():
        look = set_look(result.morse_sets[i], result.grid.dim, colors.get(i))
        whole = _holds(ax, x, y)
        # A crowd of unresolved sets must not cover the attractors.
        ax.plot(x, y, **look, zorder=6 if i in colors else 5, clip_on=not whole, gid=MARK)
        if i in colors:
            text = ax.text(x, y, str(i), fontsize=9, color=ink(colors[i]), weight="bold", zorder=6)
            text.set(ha="center", va="center_baseline", clip_on=not whole)
        elif numbered and whole:
            _number(ax, i, x, y)


def _number(ax: Axes, i: int, x: float, y: float) -> None:
    """Write the number of a Morse set beside its mark, on the side where there is room."""
    share = ax.transAxes.inverted().transform(ax.transData.transform((x, y)))
    right, up = (1 if s < BESIDE else -1 for s in share)
    note = ax.annotate(
        *(str(i), (x, y)),
        xytext=(6 * right, 4 * up),
        textcoords="offset points",
        fontsize=9,
        ha="left" if right > 0 else "right",
        va="baseline" if up > 0 else "top",
        zorder=5.5,
    )
    note.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _draw_exits(ax: Axes, picture: Picture, plane: Plane, axes: tuple[int, int]) -> None:
    """Name each face of the whole box through which a share of it may leave, with the share."""
    marks = np.array(
        [np.asarray(mark.get_xydata())[0] for mark in ax.lines if mark.get_gid() == MARK]
    )
    for k, (axis, side) in enumerate((a, s) for a in axes for s in (0, 1)):
        share = picture.result.exit_volumes[axis, side]
        if not share:
            continue
        across = k < 2  # out to the left or right
        along = _place_of_name(ax, plane, 0 if across else 1, side, marks)
        at = (plane.x[-side], along) if across else (along, plane.y[-side])
        inwards = 1 - 2 * side
        text = ax.annotate(
            *(f"{_ARROWS[k]} {percent(share)}", at),
            xytext=(3 * inwards, 0) if across else (0, 3 * inwards),
            textcoords="offset points",
            ha=("left", "right")[side] if across else "center",
            va="center" if across else ("bottom", "top")[side],
            fontsize=9,
            weight="bold",
            zorder=5.5,
            gid=MARK,
        )
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _place_of_name(ax: Axes, plane: Plane, axis: int, side: int, marks: Array) -> float:
    """Where along a face its name stands: the middle of the cells there that certainly leave.

    But clear of the corners, where names of two faces would meet, and of marks as far as it can be.
    """
    cells = np.take(plane.field, -side, axis=axis)
    leaving = np.flatnonzero(cells == ESCAPES)
    clear = int(CLEAR_OF_CORNERS * len(cells))
    last = len(cells) - 1 - clear
    middle = min(max(leaving[len(leaving) // 2] if leaving.size else len(cells) // 2, clear), last)
    edges = (plane.y, plane.x)[axis]
    places = 0.5 * (edges[:-1] + edges[1:])
    if len(marks):
        on_page = ax.transLimits.transform(marks)
        across, along = on_page[:, axis], on_page[:, 1 - axis]
        beside = np.abs(across - side) < _INWARDS[axis]
        taken = along[beside] * (edges[-1] - edges[0]) + edges[0]
        room = _ALONG[1 - axis] * (edges[-1] - edges[0])
        free = (np.abs(places[:, None] - taken) > room).all(axis=1)
        free[:clear] = free[last + 1 :] = False
        wanted = free & np.isin(np.arange(len(cells)), leaving)
        if free.any():
            found = np.flatnonzero(wanted if wanted.any() else free)
            middle = found[np.abs(found - middle).argmin()]
    return float(places[middle])


def label_contours(contours: Any) -> None:
    """Write losses on some of the contours, where no mark and no other label is in the way.

    Where things are is measured on the page: it must be laid out before.
    """
    ax = contours.axes
    taken = [mark.get_window_extent() for mark in ax.findobj(lambda a: a.get_gid() == MARK)]
    taken += [t.get_window_extent() for t in ax.texts]
    page = ax.get_window_extent()
    texts = contours.clabel(contours.levels[::2], fontsize=9, fmt=_short, inline=False, colors=DARK)
    for text in texts:
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        box = text.get_window_extent()
        cut = not (page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1))
        if cut or any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)


def _short(value: float) -> str:
    return f"{value:.4g}"
