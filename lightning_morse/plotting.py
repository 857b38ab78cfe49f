"""Figures of an analysis: the basins in the box, and the Morse graph.

No figure here touches pyplot or the user's matplotlib settings, and none depends on them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from decimal import ROUND_FLOOR, Decimal
from functools import cache
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, PathPatch
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Transform
from numpy.typing import ArrayLike, NDArray

from lightning_morse.record import ESCAPES, UNDECIDED, MorseAnalysis, MorseSet

DIVERGED = -3
ESCAPE_COLOR, DIVERGED_COLOR, DARK = "#c4c4c4", "#3a3a3a", "#222222"
# Okabe and Ito's colours, neighbours in the list chosen far apart; black and grey are taken.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")

MAX_LEGEND = 12  # attractors listed by name beside the basins
MAX_NUMBERED = 12  # Morse sets other than attractors numbered in a panel
MAX_DRAWN, MAX_UNRESOLVED = 30, 20  # Morse sets in the graph, unresolved ones if there are more


class _Figure(Figure):
    """A figure drawn in this module's style: artists ask rcParams again when they are drawn."""

    def draw(self, renderer: RendererBase) -> None:
        with figure_style():
            super().draw(renderer)


def figure_style() -> AbstractContextManager[None]:
    """Settings of every figure, whatever the user's are."""
    own = {"font.family": "DejaVu Sans", "font.size": 10.5, "hatch.linewidth": 0.8}
    return style.context(["default", own])


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """Make an empty figure, unknown to pyplot; lengths in inches."""
    figure = _Figure(figsize=(width, height), dpi=100, facecolor="white", **options)
    FigureCanvasAgg(figure)
    return figure


def identity_color(identity: int) -> str:
    """Colour of an attractor's identity, the same in every figure of a run.

    The first seven are the colour-blind-safe ones of Okabe and Ito; each further one lies as far
    as possible, perceptually, from all before it and from white, black and grey.

    Args:
        identity: 0, 1, 2, ...

    Returns:
        Hexadecimal; they repeat from 200 on.

    Example:
        >>> identity_color(0), identity_color(200)
        ('#0072B2', '#0072B2')
    """
    colors = _palette(len(OKABE_ITO) if identity < len(OKABE_ITO) else 200)
    return colors[identity % len(colors)]


def attractor_colors(
    result: MorseAnalysis, identities: Mapping[int, int] | None = None
) -> dict[int, str]:
    """Colour of each attractor, the same in every figure: :func:`identity_color`.

    Args:
        result: The analysis.
        identities: What each attractor is known as from one analysis to the next, by the number of
            its Morse set; by default their order here.

    Returns:
        Hexadecimal colour for the number of each attractor's Morse set.

    Raises:
        ValueError: If the identities are not whole numbers of at least 0, one for each attractor.
    """
    if identities is None:
        identities = {a: k for k, a in enumerate(result.attractors)}
    wrong = set(identities) != set(result.attractors)
    if wrong or any(i != int(i) or i < 0 for i in identities.values()):
        raise ValueError(
            "identities must be a number of at least 0 for each of the attractors "
            f"{result.attractors}, got {dict(identities)!r}"
        )
    return {a: identity_color(identities[a]) for a in result.attractors}


@cache
def _palette(count: int) -> tuple[str, ...]:
    """Extend Okabe and Ito's colours by farthest-first choice in the OKLab colour space."""
    levels = np.linspace(0, 1, 13)
    rgb = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    lab = _oklab(rgb)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    # Too dark hides the marker's edge, too light its tint; grey means escape, neon hurts.
    usable = (lab[:, 0] > 0.4) & (lab[:, 0] < 0.9) & (chroma > 0.07) & (chroma < 0.23)
    rgb, lab = rgb[usable], lab[usable]
    colors = list(OKABE_ITO)
    taken = _oklab(np.array([to_rgb(c) for c in (*colors, "white", "black", ESCAPE_COLOR)]))
    distance = np.linalg.norm(lab[:, None] - taken, axis=2).min(axis=1)
    while len(colors) < count:
        best = int(np.argmax(distance))
        colors.append(to_hex(rgb[best]))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[best], axis=1))
    return tuple(colors)


def _oklab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert sRGB in [0, 1] to Ottosson's OKLab, where distance follows perception."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_lms = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(linear @ np.array(to_lms).T) @ np.array(to_lab).T


def _tint(color: str) -> str:
    red, green, blue = (0.42 * c + 0.58 for c in to_rgb(color))
    return to_hex((red, green, blue))


def _ink(color: str) -> str:
    return "white" if _oklab(np.array(to_rgb(color)))[0] < 0.65 else "black"


def _percent(share: float) -> str:
    """Say a share in percent; 0 % and 100 % are kept for nothing and everything."""
    if 0 < share < 0.01:
        return "< 1 %"
    if 0.99 < share < 1:
        return "> 99 %"
    return f"{share:.0%}".replace("%", " %")


def _bound(mu: float) -> str:
    """Print a lower bound with three decimals at most; rounding up would claim too much."""
    floored = Decimal(repr(float(mu))).quantize(Decimal("0.001"), ROUND_FLOOR)
    return f"mu ≥ {f'{floored:.3f}'.rstrip('0').rstrip('.')}"


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
    path: NDArray[np.float64],
    now: NDArray[np.float64] | None,
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

    def on_curve(points: NDArray[np.float64]) -> NDArray[np.float64]:
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
    point: NDArray[np.float64],
    path: NDArray[np.float64],
    now: NDArray[np.float64] | None,
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
    x: NDArray[np.float64],
    y: NDArray[np.float64],
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


def _rectangles(mask: NDArray[np.bool_], x: NDArray[np.float64], y: NDArray[np.float64]) -> Path:
    """Cover the cells of a mask by one path, a rectangle for each run of cells along ``x``."""
    step = np.diff(mask.astype(np.int8), axis=0, prepend=0, append=0)
    row, start = np.nonzero(step.T == 1)
    _, stop = np.nonzero(step.T == -1)
    corners = [(start, row), (stop, row), (stop, row + 1), (start, row + 1), (start, row)]
    vertices = np.stack([np.stack([x[i], y[j]], axis=1) for i, j in corners], axis=1)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(vertices.reshape(-1, 2), np.tile(codes, len(row)).astype(Path.code_type))


def _faces(
    field: NDArray[Any], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
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


def _draw_course(ax: Axes, path: NDArray[np.float64], now: NDArray[np.float64] | None) -> None:
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
    now: NDArray[np.float64] | None,
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


# --- Morse graph ----------------------------------------------------------------------------


def plot_morse_graph(result: MorseAnalysis, identities: Mapping[int, int] | None = None) -> Figure:
    """Draw the Morse graph, downhill down the page, attractors at the bottom in their colours.

    Each node gives the number of the Morse set, its loss, and the certain share of the box of its
    basin or its Morse index. Of more than 30 Morse sets it shows all attractors, all resolved
    ones and the 20 unresolved ones of least loss, and says how many are missing; edges then join
    the sets shown.

    Args:
        result: The analysis, of any dimension.
        identities: What each attractor is known as from one analysis to the next, by the number of
            its Morse set: decides its colour.

    Returns:
        A figure of its own, unknown to pyplot.

    Raises:
        ValueError: If the identities are not those of the attractors.
    """
    colors = attractor_colors(result, identities)
    with figure_style():
        figure = new_figure(8, 5)
        title = f"Morse graph: {result.claim} · {_bound(result.mu)}"
        if not result.morse_sets:
            if result.escape == 1:
                why = "every trajectory leaves the box"
            elif result.escape == 0:
                why = "nothing is certain"
            else:
                why = f"{_percent(result.escape)} of the box escapes, nothing else is certain"
            figure.text(0.5, 0.5, f"no Morse set: {why}", ha="center", va="center")
            figure.suptitle(title, fontsize=12)
            return figure
        graph = _shown(result)
        missing = result.n_morse_sets - len(graph)
        if missing:
            title += (
                f"\n{missing} unresolved Morse set{'s'[: missing > 1]} of higher loss not drawn"
            )
        _draw_graph(figure, result, colors, graph, title)
    return figure


def _shown(result: MorseAnalysis) -> nx.DiGraph:
    """Morse graph on the sets worth drawing: paths through those left out become edges."""
    sets = result.morse_sets
    if len(sets) <= MAX_DRAWN:
        return result.graph
    unresolved = [i for i, m in enumerate(sets) if not (m.is_attractor or m.resolved)]
    left_out = sorted(unresolved, key=lambda i: sets[i].loss)[MAX_UNRESOLVED:]
    if not left_out:
        return result.graph
    order = nx.transitive_closure_dag(result.graph)
    order.remove_nodes_from(left_out)
    return nx.transitive_reduction(order)


def _draw_graph(
    figure: Figure,
    result: MorseAnalysis,
    colors: Mapping[int, str],
    graph: nx.DiGraph,
    title: str,
) -> None:
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    shares = result.basin_volumes
    texts: dict[int, Text] = {}
    for i in graph:
        m = result.morse_sets[i]
        what = f"{_percent(shares[i])} of box" if i in colors else _kind(m, result.grid.dim)
        if m.resolved and i not in colors:
            what = "index ?" if m.index is None else f"index {m.index}"
        texts[i] = ax.text(
            *(0, 0, f"{i}\nloss {m.loss:.3g}\n{what}"),
            fontsize=10,
            ha="center",
            va="center",
            color=_ink(colors[i]) if i in colors else "black",
            linespacing=1.15,
            zorder=3,
            gid=f"set {i}",
        )
    extents = [t.get_window_extent() for t in texts.values()]
    width = max(e.width for e in extents) / figure.dpi + 0.16
    height = max(e.height for e in extents) / figure.dpi + 0.14

    rows, chains = _rows(graph, result, max_per_row=int(7.6 / (width + 0.2)))
    x, span = _abscissae(rows, chains, width)
    page_width, top, bottom = max(8.0, span + 0.4), 0.6 + 0.2 * title.count("\n"), 0.6
    free = 5 - top - bottom - len(rows) * height
    gap = float(np.clip(free / max(1, len(rows) - 1), 0.5, 1.2))
    content = len(rows) * height + (len(rows) - 1) * gap
    page_height = max(5.0, top + bottom + content)
    first = bottom + (page_height - top - bottom + content) / 2 - height / 2
    y = {n: first - r * (height + gap) for r, row in enumerate(rows) for n in row}

    # One unit of the axes is one inch, so that boxes measured in inches fit.
    figure.set_size_inches(page_width, page_height)
    ax.set(xlim=(0, page_width), ylim=(0, page_height))
    shift = (page_width - span) / 2
    for (u, v), chain in chains.items():
        points = [(x[u] + shift, y[u] - height / 2)]
        for n in chain[1:-1]:
            # Straight down between the boxes of a row: an edge never passes through a node.
            points += [(x[n] + shift, y[n] + s * height / 2) for s in (1, -1)]
        points.append((x[v] + shift, y[v] + height / 2))
        arrow = FancyArrowPatch(
            path=Path(points),
            arrowstyle="-|>",
            mutation_scale=11,
            color="#555555",
            linewidth=1,
            zorder=1,
            gid=f"edge {u} {v}",
        )
        ax.add_patch(arrow)
    for i, text in texts.items():
        text.set_position((x[i] + shift, y[i]))
        ax.add_patch(
            FancyBboxPatch(
                (x[i] + shift - width / 2, y[i] - height / 2),
                *(width, height),
                boxstyle="round,pad=0,rounding_size=0.1",
                facecolor=colors.get(i, "white"),
                edgecolor="black",
                linewidth=1.2,
                linestyle="-" if result.morse_sets[i].resolved else (0, (4, 2)),
                zorder=2,
                gid=f"box {i}",
            )
        )
    note = "arrows point downhill · coloured: attractors, with the certain share of the box"
    if result.n_unresolved:
        note += "\ndashed: may hide a further attractor"
    figure.text(0.5, 0.08 / page_height, note, ha="center", va="bottom", fontsize=9.5, color=DARK)
    figure.text(0.5, 1 - 0.12 / page_height, title, ha="center", va="top", fontsize=12)


_Node = int | tuple[int, int, int]  # a Morse set, or where an edge crosses a row


def _rows(
    graph: nx.DiGraph, result: MorseAnalysis, max_per_row: int
) -> tuple[list[list[_Node]], dict[tuple[int, int], list[_Node]]]:
    """Layer the graph by longest paths, attractors lowest; wide layers take several rows.

    Returns:
        The rows from the top, with a node wherever an edge crosses one; the nodes of each edge.
    """
    layer: dict[int, int] = {}
    for i in reversed(list(nx.topological_sort(graph))):
        below = 1 + max((layer[j] for j in graph.successors(i)), default=0)
        layer[i] = 0 if result.morse_sets[i].is_attractor else below
    rows: list[list[_Node]] = []
    for level in sorted(set(layer.values()), reverse=True):
        nodes = sorted(
            (i for i in graph if layer[i] == level), key=lambda i: -result.morse_sets[i].loss
        )
        pieces = -(-len(nodes) // max(1, max_per_row))
        rows += [sorted(piece.tolist()) for piece in np.array_split(nodes, pieces)]
    row_of = {n: r for r, row in enumerate(rows) for n in row}
    chains: dict[tuple[int, int], list[_Node]] = {}
    for u, v in graph.edges:
        crossings: list[_Node] = [(u, v, r) for r in range(row_of[u] + 1, row_of[v])]
        chains[u, v] = [u, *crossings, v]
        for r, n in enumerate(crossings, start=row_of[u] + 1):
            rows[r].append(n)
    return rows, chains


def _abscissae(
    rows: list[list[_Node]], chains: dict[tuple[int, int], list[_Node]], width: float
) -> tuple[dict[_Node, float], float]:
    """Order the rows by barycentres (few crossings) and place them without overlap.

    Returns:
        The horizontal position of each node, in inches, and the width of the page they take.
    """
    above: dict[_Node, list[_Node]] = {n: [] for row in rows for n in row}
    below: dict[_Node, list[_Node]] = {n: [] for row in rows for n in row}
    for chain in chains.values():
        for u, v in pairwise(chain):
            below[u].append(v)
            above[v].append(u)

    half = {n: width / 2 if isinstance(n, int) else 0.0 for n in above}

    def apart(a: _Node, b: _Node) -> float:
        return half[a] + half[b] + (0.2 if isinstance(a, int) and isinstance(b, int) else 0.1)

    # Every order of a row must fit: at most all its Morse sets stand side by side.
    needs = [sum(2 * half[n] + (0.1 if half[n] == 0 else 0.2) for n in row) for row in rows]
    span = max(7.6, *needs)
    x = {n: span * (k + 0.5) / len(row) for row in rows for k, n in enumerate(row)}

    def place(row: list[_Node], wish: dict[_Node, float]) -> None:
        steps = [apart(a, b) for a, b in pairwise(row)]
        at = np.concatenate([[0.0], np.cumsum(steps)])
        slack = np.array([wish[n] for n in row]) - at
        # Pushed to the right and pushed to the left both keep apart, hence so does their mean.
        right = np.maximum.accumulate(slack)
        left = np.minimum.accumulate(slack[::-1])[::-1]
        low, high = half[row[0]], span - half[row[-1]] - at[-1]
        x.update(zip(row, np.clip((left + right) / 2, low, high) + at, strict=True))

    for sweep in range(12):
        near, order = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        for row in order:
            wish = {n: float(np.mean([x[m] for m in near[n]])) if near[n] else x[n] for n in row}
            row.sort(key=wish.__getitem__)
            place(row, wish)
    for row in rows * 3:
        both = {n: [x[m] for m in above[n] + below[n]] or [x[n]] for n in row}
        place(row, {n: float(np.mean(both[n])) for n in row})
    return x, span
