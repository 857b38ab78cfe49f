"""Figure of a Morse graph."""

from __future__ import annotations

import textwrap
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.text import Text

from lightning_morse.plotting.graph_choice import by_barrier, graph_of
from lightning_morse.plotting.layered_layout import Chains, Node, placed, rows_of
from lightning_morse.plotting.style import (
    DARK,
    PAGE,
    PAGE_DPI,
    SMALL_TEXT,
    TEXT,
    attractor_colors,
    claimed,
    figure_style,
    ink,
    new_figure,
)
from lightning_morse.result import MorseAnalysis
from lightning_morse.words import kind_with_index, percent

_LINE_LENGTH = 12  # characters of a node on one line
# The page is not enlarged further than this: where TensorBoard shows it first, at 400 x 300 pixels,
# text is 8 pixels high. More sets than these never fit.
_LARGEST_SCALE, _MOST = SMALL_TEXT * 400 / 72 / PAGE[0] / 8, 30

# Lengths in inches.
# Room for the title, each further line, the note, on a page that is not enlarged.
_TOP, _TITLE_LINE, _BOTTOM = 0.4, 0.16, 0.45
_SIDES = 0.3  # both margins together
_SPANS = (5.4, 7.6, 10.4)  # that rows may always take; the first fills a page of the usual size
_PAD_ACROSS, _PAD_DOWN = 0.16, 0.14  # between the text and the edge of a box, both sides together
_LEAST_GAP, _LARGEST_GAP = 0.35, 1.2  # between rows: arrows stay visible, and short


def plot_morse_graph(result: MorseAnalysis, identities: Mapping[int, int] | None = None) -> Figure:
    """Draw the Morse graph, downhill down the page, attractors at the bottom in their colours.

    Each node gives the number of the Morse set, its loss, and the certain share of the box of its
    basin or its kind. The figure is legible at 400 x 300 pixels. Where not all sets fit in that
    size nodes are briefer, and where that is not enough the attractors and passes of the highest
    barriers are shown (:func:`lightning_morse.plotting.graph_choice.by_barrier`), and the title
    says how many more there are; edges then join the sets shown (paths through missing ones become
    edges).

    Args:
        result: The analysis, of any dimension.
        identities: Identity of each attractor from one analysis to the next, by the number of its
            Morse set: decides its colour.

    Returns:
        A new figure, unknown to pyplot.

    Raises:
        ValueError: If the identities are not those of the attractors.
    """
    colors = attractor_colors(result, identities)
    with figure_style():
        figure = new_figure(*PAGE, PAGE_DPI)
        title = f"Morse graph: {claimed(result)}"
        if not result.morse_sets:
            figure.text(
                0.5,
                0.5,
                f"no Morse set: {_why_none(result)}",
                ha="center",
                va="center",
                fontsize=TEXT,
            )
            figure.suptitle(title, fontsize=TEXT)
            return figure
        _draw_graph(figure, result, colors, title)
    return figure


def _why_none(result: MorseAnalysis) -> str:
    if result.escape == 1:
        return "every trajectory leaves the box"
    if result.escape == 0:
        return "nothing is certain"
    return f"{percent(result.escape)} of the box escapes, nothing else is certain"


@dataclass(frozen=True)
class _Page:
    """Where everything is on the page, inches from its lower left corner.

    Attributes:
        size: Width and height of the page.
        scale: How much larger it is than usual.
        box: Width and height of the box of a Morse set.
        x: Centre of each node across the page.
        y: Centre of each node up the page.
        chains: For each edge the nodes it passes through, both ends included.
    """

    size: tuple[float, float]
    scale: float
    box: tuple[float, float]
    x: Mapping[Node, float]
    y: Mapping[Node, float]
    chains: Chains


def _draw_graph(
    figure: Figure, result: MorseAnalysis, colors: Mapping[int, str], title: str
) -> None:
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    texts, page, brief = _fitted(ax, result, colors)
    title += _on_missing(result, texts)
    width, height = page.size
    # One unit of the axes is one inch, so that boxes measured in inches fit.
    figure.set_size_inches(width, height)
    ax.set(xlim=(0, width), ylim=(0, height))
    for edge in page.chains:
        _draw_edge(ax, page, edge)
    for i, text in texts.items():
        text.set_position((page.x[i], page.y[i]))
        _draw_box(ax, page, i, colors.get(i, "white"), dashed=not result.morse_sets[i].resolved)
    notes = ["second number: the loss"] if brief else []
    if not all(result.morse_sets[i].resolved for i in texts):
        notes.append("dashed: may hide a minimum")
    note = "arrows point downhill · coloured: attractors, with their certain share"
    note = "\n".join([note, " · ".join(notes)] if notes else [note])
    margin, scale = 0.08 * page.scale / height, page.scale
    figure.text(
        *(0.5, margin, note), ha="center", va="bottom", fontsize=SMALL_TEXT * scale, color=DARK
    )
    figure.text(0.5, 1 - margin, title, ha="center", va="top", fontsize=TEXT * scale)


def _on_missing(result: MorseAnalysis, shown: Collection[int]) -> str:
    """A line on what is not drawn; empty if all is."""
    missing = result.n_morse_sets - len(shown)
    if not missing:
        return ""
    attractors = sum(a not in shown for a in result.attractors)
    which = f", {attractors} of them attractors" if attractors else ""
    return f"\nand {missing} more{which}, none with a higher barrier"


def _fitted(
    ax: Axes, result: MorseAnalysis, colors: Mapping[int, str]
) -> tuple[dict[int, Text], _Page, bool]:
    """The texts of as many nodes as can be read, the page with their places, and if it is brief."""
    order = by_barrier(result)[:_MOST]
    texts = _write_nodes(ax, result, colors, order, brief=False)
    if len(order) == result.n_morse_sets:
        page = _page(result, order, _box_around(texts))
        if page.scale <= _LARGEST_SCALE:
            return texts, page, False
    for text in texts.values():
        text.remove()
    texts = _write_nodes(ax, result, colors, order, brief=True)
    box = _box_around(texts)
    # More sets may by luck take less room; those found are certainly not too many.
    more = range(2, len(order) + 1)
    fits = 1 + bisect_left(
        more, True, key=lambda k: _page(result, order[:k], box).scale > _LARGEST_SCALE
    )
    for i in order[fits:]:
        texts.pop(i).remove()
    return texts, _page(result, order[:fits], box), True


def _write_nodes(
    ax: Axes,
    result: MorseAnalysis,
    colors: Mapping[int, str],
    chosen: Sequence[int],
    *,
    brief: bool,
) -> dict[int, Text]:
    """Write the texts of nodes, to be moved once their sizes are known."""
    shares = {i: percent(share) for i, share in result.basin_volumes.items()}
    found = {}
    for i in chosen:
        m, is_attractor = result.morse_sets[i], i in colors
        kind = kind_with_index(m.resolved, m.index, result.grid.dim)
        if brief:
            # What may hide a minimum is dashed, which is said below.
            what = shares[i] if is_attractor else kind if m.resolved else ""
            lines = [f"{i}: {what}" if what else f"{i}", f"{m.loss:.3g}"]
        else:
            what = f"{shares[i]} of box" if is_attractor else kind
            lines = [f"{i}", f"loss {m.loss:.3g}", what]
        found[i] = ax.text(
            *(0, 0, "\n".join(textwrap.fill(line, _LINE_LENGTH) for line in lines)),
            fontsize=SMALL_TEXT,
            ha="center",
            va="center",
            color=ink(colors[i]) if is_attractor else "black",
            linespacing=1.15,
            zorder=3,
            gid=f"set {i}",
        )
    return found


def _box_around(texts: Mapping[int, Text]) -> tuple[float, float]:
    """Width and height of a box, in inches, that holds each of the texts."""
    extents = [t.get_window_extent() for t in texts.values()]
    return (
        max(e.width for e in extents) / PAGE_DPI + _PAD_ACROSS,
        max(e.height for e in extents) / PAGE_DPI + _PAD_DOWN,
    )


def _page(result: MorseAnalysis, shown: Sequence[int], box: tuple[float, float]) -> _Page:
    """Lay out sets on the smallest page, of those with rows of the lengths tried."""
    graph, lines = graph_of(result, shown), 1 + (len(shown) < result.n_morse_sets)
    pages = (_page_of_rows(graph, result, box, lines, span) for span in _SPANS)
    return min(pages, key=lambda page: page.scale)


def _page_of_rows(
    graph: nx.DiGraph,
    result: MorseAnalysis,
    box: tuple[float, float],
    title_lines: int,
    least_span: float,
) -> _Page:
    """Lay out the graph in rows, and make the page as large as it needs."""
    width, height = box
    loss = {i: result.morse_sets[i].loss for i in graph}
    bottom_row = frozenset(i for i in graph if result.morse_sets[i].is_attractor)
    rows, chains = rows_of(graph, loss, bottom_row, width, least_span)
    x, span = placed(rows, chains, width, least_span)
    top = _TOP + _TITLE_LINE * (title_lines - 1)
    usual = PAGE[1] - top - _BOTTOM  # inches between title and note
    free = usual - len(rows) * height
    gap = float(np.clip(free / max(1, len(rows) - 1), _LEAST_GAP, _LARGEST_GAP))
    content = len(rows) * height + (len(rows) - 1) * gap
    # Shown as small as a usual page, title and note are to be as large as there.
    scale = max(1.0, (span + _SIDES) / PAGE[0], content / usual)
    top, bottom = top * scale, _BOTTOM * scale
    page_width, page_height = scale * PAGE[0], max(PAGE[1], top + bottom + content)
    first = bottom + (page_height - top - bottom + content) / 2 - height / 2
    shift = (page_width - span) / 2
    return _Page(
        size=(page_width, page_height),
        scale=scale,
        box=box,
        x={n: at + shift for n, at in x.items()},
        y={n: first - r * (height + gap) for r, row in enumerate(rows) for n in row},
        chains=chains,
    )


def _draw_edge(ax: Axes, page: _Page, edge: tuple[int, int]) -> None:
    """Draw an arrow from the foot of one box to the top of another."""
    u, v = edge
    x, y, (_, height) = page.x, page.y, page.box
    points = [(x[u], y[u] - height / 2)]
    for n in page.chains[edge][1:-1]:
        # Straight down between the boxes of a row: an edge never passes through a node.
        points += [(x[n], y[n] + s * height / 2) for s in (1, -1)]
    points.append((x[v], y[v] + height / 2))
    ax.add_patch(
        FancyArrowPatch(
            path=Path(points),
            arrowstyle="-|>",
            mutation_scale=11,
            color="#555555",
            linewidth=1,
            zorder=1,
            gid=f"edge {u} {v}",
        )
    )


def _draw_box(ax: Axes, page: _Page, i: int, color: str, *, dashed: bool) -> None:
    width, height = page.box
    ax.add_patch(
        FancyBboxPatch(
            (page.x[i] - width / 2, page.y[i] - height / 2),
            *(width, height),
            boxstyle="round,pad=0,rounding_size=0.1",
            facecolor=color,
            edgecolor="black",
            linewidth=1.2,
            linestyle=(0, (4, 2)) if dashed else "-",
            zorder=2,
            gid=f"box {i}",
        )
    )
