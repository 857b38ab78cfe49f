"""Figures of an analysis: the basins in the box, and the Morse graph.

No figure here touches pyplot or the user's matplotlib settings, and none depends on them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Transform
from numpy.typing import ArrayLike, NDArray

from lightning_morse._typing import Array, Mask
from lightning_morse.plotting.style import (
    DARK,
    DIVERGED_COLOR,
    ESCAPE_COLOR,
    _bound,
    _ink,
    _percent,
    _tint,
    attractor_colors,
    figure_style,
    new_figure,
)
from lightning_morse.result import ESCAPES, UNDECIDED, MorseAnalysis, MorseSet

DIVERGED = -3

MAX_LEGEND = 12  # attractors listed by name beside the basins
MAX_NUMBERED = 12  # Morse sets other than attractors numbered in a panel


# --- Basins ---------------------------------------------------------------------------------


def plot_basins(
    result: MorseAnalysis,
    trajectory: ArrayLike | None = None,
    current: ArrayLike | None = None,
    axis_labels: Sequence[str] | None = None,
    title: str | None = None,
    identities: Mapping[int, int] | None = None,
) -> Figure:
    """Draw the basins in the box, the loss, the Morse sets and where training has been.

    One dimension: the loss curve over bands for the basins. Two: the plane. Three: the three
    axis-aligned sections through ``current`` (brought into the box), else through the attractor
    of least loss, else through the centre of the box; they show the Morse sets they meet, and the
    trajectory in projection.

    Args:
        result: The analysis, of one, two or three dimensions.
        trajectory: Earlier points, first to last, shape ``(T, d)``, coordinates of the box.
        current: Where training is now, shape ``(d,)``.
        axis_labels: One label an axis, say with the share of the trajectory it explains.
        title: A line above the one that states the claim, ``mu``, and what is undecided.
        identities: What each attractor is known as from one analysis to the next, by the number of
            its Morse set: decides its colour, and is named where it is not that number.

    Returns:
        A figure of its own, unknown to pyplot.

    Raises:
        ValueError: If the analysis has more than three dimensions, an argument does not have the
            dimension of the box, or the identities are not those of the attractors.
    """
    grid, d = result.grid, result.grid.dim
    if d > 3:
        raise ValueError(
            f"plot_basins draws 1, 2 or 3 dimensions, but the analysis has {d}; "
            "plot_morse_graph and MorseAnalysis.table() work in every dimension"
        )
    path = np.empty((0, d)) if trajectory is None else np.asarray(trajectory, dtype=np.float64)
    if path.ndim != 2 or path.shape[1] != d:
        raise ValueError(f"trajectory must have shape (T, {d}), got {path.shape}")
    now = None if current is None else np.asarray(current, dtype=np.float64)
    if now is not None and (now.shape != (d,) or not np.isfinite(now).all()):
        raise ValueError(f"current must be {d} finite numbers, got {current!r}")
    labels = tuple(axis_labels or (f"direction {j + 1}" for j in range(d)))
    if len(labels) != d:
        raise ValueError(f"axis_labels must be {d} labels, one an axis, got {axis_labels!r}")

    colors = attractor_colors(result, identities)
    facts = f"{result.claim} · {_bound(result.mu)}"
    facts += f" · undecided {_percent(result.undecided)}, escape {_percent(result.escape)}"
    with figure_style():
        figure = new_figure(8, 7 if d == 3 else 6, layout="constrained")
        heading = [textwrap.shorten(title, 72, placeholder=" …")] if title else []
        figure.suptitle("\n".join([*heading, facts]), fontsize=12)
        contours = None
        legend: dict[str, Any] = {"loc": "outside right center"}
        if d == 1:
            _draw_line(figure.subplots(), result, colors, path, now, labels[0])
        elif d == 2:
            ax = figure.subplots()
            contours = _draw_section(ax, result, colors, (0, 1), np.zeros(2), path, now, labels)
        else:
            point = now
            if point is None and result.n_attractors:
                point = result.morse_sets[result.attractors[0]].center
            if point is None:
                point = (grid.lower + grid.upper) / 2
            point = np.clip(point, grid.lower, grid.upper)
            panels = figure.subplots(2, 2)
            panels[1, 1].axis("off")
            # Placed like the views of a technical drawing: neighbours share an axis.
            for ax, axes in (
                (panels[0, 0], (0, 1)),
                (panels[1, 0], (0, 2)),
                (panels[0, 1], (2, 1)),
            ):
                _draw_section(ax, result, colors, axes, point, path, now, labels)
                fixed = 3 - sum(axes)
                name = textwrap.shorten(labels[fixed], 22, placeholder=" …")
                ax.set_title(f"section at {name} = {point[fixed]:.3g}", fontsize=10.5)
            legend = {
                "loc": "center",
                "bbox_to_anchor": (0.5, 0.5),
                "bbox_transform": panels[1, 1].transAxes,
                "title": "Morse sets where a section\nmeets them, path projected",
                "title_fontsize": 9.5,
                "ncols": 2,
            }
        handles = _legend_handles(result, colors, identities or {}, len(path) > 0, now)
        figure.legend(handles=handles, fontsize=9.5, frameon=False, handlelength=1.6, **legend)
        if contours is not None:
            # Gaps and angles of the labels are measured on the page: it must be laid out first.
            figure.draw_without_rendering()
            contours.clabel(contours.levels[1::3], fontsize=9, fmt=_significant)
    return figure


def _significant(value: float) -> str:
    return f"{value:.3g}"


def _draw_line(
    ax: Axes,
    result: MorseAnalysis,
    colors: Mapping[int, str],
    path: Array,
    now: Array | None,
    label: str,
) -> None:
    (x,) = result.grid.edges
    across, unit = ax.get_xaxis_transform(), np.array([0.0, 1.0])
    field = np.where(result.diverged, DIVERGED, result.labels)[:, None]
    _draw_areas(ax, colors, field, x, unit, across)
    for m in result.morse_sets:
        if not m.is_attractor:
            mask = np.zeros((result.grid.size, 1), dtype=bool)
            mask[m.cells] = True
            bar = _rectangles(mask, x, np.array([0.0, 0.015]))
            ax.add_patch(PathPatch(bar, transform=across, facecolor=DARK, edgecolor="none"))
    ax.plot(x, result.mean_loss, color=DARK, linewidth=1.6, zorder=3)
    ok = np.isfinite(result.sample_losses)
    ax.plot(result.samples[ok, 0], result.sample_losses[ok], **_SAMPLE, zorder=3)

    def on_curve(points: Array) -> Array:
        return np.stack([points[..., 0], np.interp(points[..., 0], x, result.mean_loss)], axis=-1)

    _draw_course(ax, on_curve(path), None if now is None else on_curve(now))
    _draw_sets(
        ax, result, colors, {i: (m.center[0], m.loss) for i, m in enumerate(result.morse_sets)}
    )
    ax.set(xlim=(x[0], x[-1]), xlabel=label, ylabel="loss")
    ax.margins(y=0.08)


def _draw_section(
    ax: Axes,
    result: MorseAnalysis,
    colors: Mapping[int, str],
    axes: tuple[int, int],
    point: Array,
    path: Array,
    now: Array | None,
    labels: Sequence[str],
) -> Any:
    """Draw the plane of two axes through a point; return its contours, None if there are none."""
    grid = result.grid
    x, y = (grid.edges[a] for a in axes)
    loss = result.mean_loss
    cell: list[Any] = [slice(None)] * grid.dim
    for k in set(range(grid.dim)) - set(axes):
        edges = grid.edges[k]
        i = int(np.clip(np.searchsorted(edges, point[k], side="right") - 1, 0, len(edges) - 2))
        t = (point[k] - edges[i]) / (edges[i + 1] - edges[i])
        near, far = (np.take(loss, [j], axis=k) for j in (i, i + 1))
        loss, cell[k] = (1 - t) * near + t * far, i
    swap = axes[0] > axes[1]

    def cut(values: NDArray[Any]) -> NDArray[Any]:
        plane = values.reshape(grid.shape)[tuple(cell)]
        return plane.T if swap else plane

    plane_loss = loss.squeeze(axis=tuple(set(range(grid.dim)) - set(axes)))
    plane_loss = np.ma.masked_invalid(plane_loss.T if swap else plane_loss)
    field = cut(np.where(result.diverged, DIVERGED, result.labels))
    _draw_areas(ax, colors, field, x, y, ax.transData)
    separators = _faces(field, x, y)
    ax.add_collection(LineCollection(list(separators), colors="#555555", linewidths=0.7, zorder=2))

    owner = np.full(grid.size, -1)
    for i, m in enumerate(result.morse_sets):
        owner[m.cells] = i
    owner = cut(owner)
    met = np.unique(owner[owner >= 0])
    owner[np.isin(owner, result.attractors)] = -1
    outlines = _faces(owner, x, y)
    ax.add_collection(
        LineCollection(list(outlines), colors=DARK, linewidths=0.9, alpha=0.8, zorder=3)
    )

    lines, finite = None, plane_loss.compressed()
    if finite.size:
        # Quantiles share the page evenly, however steep the loss is outside and flat inside.
        levels = np.unique(np.quantile(finite, np.linspace(0.01, 0.97, 13)))
        levels = levels[(levels > finite.min()) & (levels < finite.max())]
        if levels.size:
            lines = ax.contour(x, y, plane_loss.T, levels=levels, colors=DARK, linestyles="solid")
            lines.set(linewidth=0.6, alpha=0.65, zorder=2.5)

    keep = list(axes)
    _draw_course(ax, path[:, keep], None if now is None else now[keep])
    _draw_sets(ax, result, colors, {int(i): tuple(result.morse_sets[i].center[keep]) for i in met})
    ax.set(xlim=x[[0, -1]], ylim=y[[0, -1]], xlabel=labels[axes[0]], ylabel=labels[axes[1]])
    sides = (grid.upper - grid.lower)[keep]
    ax.set_aspect("equal" if sides.max() <= 3 * sides.min() else "auto")
    return lines


def _draw_areas(
    ax: Axes,
    colors: Mapping[int, str],
    field: NDArray[Any],
    x: Array,
    y: Array,
    transform: Transform,
) -> None:
    looks = _area_looks(colors)
    for value in np.unique(field):
        # Without smoothing: neighbouring areas would show a white seam.
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


def _area_looks(colors: Mapping[int, str]) -> dict[int, dict[str, Any]]:
    looks: dict[int, dict[str, Any]] = {
        UNDECIDED: {"facecolor": "white", "edgecolor": "#8a8a8a", "hatch": "////"},
        ESCAPES: {"facecolor": ESCAPE_COLOR, "edgecolor": "none"},
        DIVERGED: {"facecolor": DIVERGED_COLOR, "edgecolor": "none"},
    }
    for i, color in colors.items():
        looks[i] = {"facecolor": _tint(color), "edgecolor": "none"}
    return looks


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
    upright = np.stack([np.stack([x[i + 1], y[j + k]], axis=1) for k in (0, 1)], axis=1)
    i, j = np.nonzero(field[:, 1:] != field[:, :-1])
    level = np.stack([np.stack([x[i + k], y[j + 1]], axis=1) for k in (0, 1)], axis=1)
    return np.concatenate([upright, level])


_SAMPLE: dict[str, Any] = {
    "marker": "o",
    "ms": 4.5,
    "mfc": "white",
    "mec": DARK,
    "linestyle": "none",
}
_START: dict[str, Any] = {
    "marker": "s",
    "ms": 6,
    "mfc": "white",
    "mec": "black",
    "linestyle": "none",
}
_NOW: dict[str, Any] = {
    "marker": "*",
    "ms": 23,
    "mfc": "white",
    "mec": "black",
    "mew": 1.3,
    "linestyle": "none",
}


def _draw_course(ax: Axes, path: Array, now: Array | None) -> None:
    if len(path):
        every = max(1, len(path) // 60)
        ax.plot(*path.T, color="black", linewidth=1.3, marker=".", ms=5, markevery=every, zorder=4)
        ax.plot(*path[:1].T, **_START, zorder=4)
    if now is not None:
        # Wider than an attractor's disc and below it: both are seen where they coincide.
        ax.plot(*now, **_NOW, zorder=4.5)


def _draw_sets(
    ax: Axes,
    result: MorseAnalysis,
    colors: Mapping[int, str],
    at: dict[int, tuple[float, float]],
) -> None:
    """Mark and number Morse sets, but number no crowd of others than attractors."""
    numbered = len(at.keys() - colors.keys()) <= MAX_NUMBERED
    for i, (x, y) in at.items():
        look = _set_look(result.morse_sets[i], result.grid.dim, colors.get(i))
        # A crowd of unresolved sets must not cover the attractors.
        ax.plot(x, y, **look, zorder=6 if i in colors else 5)
        if i in colors:
            text = ax.text(x, y, str(i), fontsize=9, color=_ink(colors[i]), weight="bold", zorder=6)
            text.set(ha="center", va="center_baseline", clip_on=True)
        elif numbered:
            offset: dict[str, Any] = {"xytext": (6, 4), "textcoords": "offset points"}
            note = ax.annotate(str(i), (x, y), **offset, fontsize=9, zorder=5.5)
            note.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _set_look(m: MorseSet, dim: int, color: str | None) -> dict[str, Any]:
    look: dict[str, Any] = {"linestyle": "none", "mec": "black", "mfc": "white", "mew": 1.2}
    if m.is_attractor:
        return look | {"marker": "o", "ms": 14, "mfc": color}
    if not m.resolved:
        return look | {"marker": "D", "ms": 7}
    if m.index == dim:
        return look | {"marker": "^", "ms": 10}
    return look | {"marker": "X", "ms": 10, "mfc": {None: "#9a9a9a", 1: "white"}.get(m.index, DARK)}


def _kind(m: MorseSet, dim: int) -> str:
    if not m.resolved:
        return "unresolved"
    if m.index == dim:
        return "repeller"
    return "saddle or repeller" if m.index is None else f"saddle (index {m.index})"


def _legend_handles(
    result: MorseAnalysis,
    colors: Mapping[int, str],
    identities: Mapping[int, int],
    course: bool,
    now: Array | None,
) -> list[Artist]:
    grid = result.grid
    handles: list[Artist] = []
    shares = result.basin_volumes
    named_as_numbered = all(k == v for k, v in identities.items())
    listed = result.attractors if len(colors) <= MAX_LEGEND else result.attractors[:MAX_LEGEND]
    for i in listed:
        look = _set_look(result.morse_sets[i], grid.dim, colors[i]) | {"ms": 9}
        known = "" if named_as_numbered else f" (identity {identities[i]})"
        handles.append(Line2D([], [], **look, label=f"attractor {i}{known}: {_percent(shares[i])}"))
    if len(colors) > len(listed):
        rest = result.attractors[len(listed) :]
        share = _percent(sum(shares[i] for i in rest))
        handles.append(Line2D([], [], linestyle="none", label=f"{len(rest)} more: {share}"))
    kinds = {_kind(m, grid.dim): m for m in result.morse_sets if not m.is_attractor}
    for kind, m in sorted(kinds.items()):
        handles.append(Line2D([], [], **_set_look(m, grid.dim, None) | {"ms": 8}, label=kind))
    looks = _area_looks(colors)
    for value, name in ((UNDECIDED, "undecided"), (ESCAPES, "escapes"), (DIVERGED, "diverged")):
        if np.any(result.diverged if value == DIVERGED else result.labels == value):
            handles.append(Patch(**looks[value], label=name))
    if grid.dim == 1:
        handles.append(Line2D([], [], **_SAMPLE, label="loss samples"))
    if course:
        handles.append(Line2D([], [], color="black", marker=".", ms=5, label="trajectory"))
        handles.append(Line2D([], [], **_START, label="its start"))
    if now is not None:
        outside = np.any((now < grid.lower) | (now > grid.upper))
        label = "now: outside the box" if outside else "now"
        handles.append(Line2D([], [], **_NOW | {"ms": 13}, label=label))
    return handles
