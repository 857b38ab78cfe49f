"""Figure of a Morse graph."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.text import Text

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

# More Morse sets than this make a graph too crowded to read; then at most so many unresolved ones.
MAX_DRAWN, MAX_UNRESOLVED = 30, 20
_KIND_LENGTH = 12  # characters of a kind on one line

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
    basin or its kind. Of more than 30 Morse sets, all attractors, all resolved ones and the
    20 unresolved ones of least loss are shown, and the title says how many are missing; edges then
    join the sets shown (paths through missing ones become edges). A large graph has a large page,
    on which title and note are larger too.

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
        graph = _shown(result)
        missing = result.n_morse_sets - len(graph)
        if missing:
            title += f"\n{missing} that may hide minima, of higher loss, not drawn"
        _draw_graph(figure, result, colors, graph, title)
    return figure


def _why_none(result: MorseAnalysis) -> str:
    if result.escape == 1:
        return "every trajectory leaves the box"
    if result.escape == 0:
        return "nothing is certain"
    return f"{percent(result.escape)} of the box escapes, nothing else is certain"


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
    figure: Figure,
    result: MorseAnalysis,
    colors: Mapping[int, str],
    graph: nx.DiGraph,
    title: str,
) -> None:
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    shares = {i: percent(share) for i, share in result.basin_volumes.items()}
    texts = {i: _write_node(ax, result, i, colors.get(i), shares.get(i, "")) for i in graph}
    extents = [t.get_window_extent() for t in texts.values()]
    box = (
        max(e.width for e in extents) / figure.dpi + _PAD_ACROSS,
        max(e.height for e in extents) / figure.dpi + _PAD_DOWN,
    )
    page = _page(graph, result, box, title_lines=1 + title.count("\n"))
    width, height = page.size
    # One unit of the axes is one inch, so that boxes measured in inches fit.
    figure.set_size_inches(width, height)
    ax.set(xlim=(0, width), ylim=(0, height))
    for edge in page.chains:
        _draw_edge(ax, page, edge)
    for i, text in texts.items():
        text.set_position((page.x[i], page.y[i]))
        _draw_box(ax, page, i, colors.get(i, "white"), dashed=not result.morse_sets[i].resolved)
    note = "arrows point downhill · coloured: attractors, with their certain share"
    if result.n_unresolved:
        note += "\ndashed: may hide a minimum"
    margin, scale = 0.08 * page.scale / height, page.scale
    figure.text(
        *(0.5, margin, note), ha="center", va="bottom", fontsize=SMALL_TEXT * scale, color=DARK
    )
    figure.text(0.5, 1 - margin, title, ha="center", va="top", fontsize=TEXT * scale)


def _write_node(ax: Axes, result: MorseAnalysis, i: int, color: str | None, share: str) -> Text:
    """Write the text of a node, to be moved once its size is known.

    ``color`` and ``share`` are those of its basin, for an attractor.
    """
    m = result.morse_sets[i]
    if color is not None:
        what = f"{share} of box"
    else:
        what = textwrap.fill(kind_with_index(m.resolved, m.index, result.grid.dim), _KIND_LENGTH)
    return ax.text(
        *(0, 0, f"{i}\nloss {m.loss:.3g}\n{what}"),
        fontsize=SMALL_TEXT,
        ha="center",
        va="center",
        color="black" if color is None else ink(color),
        linespacing=1.15,
        zorder=3,
        gid=f"set {i}",
    )


def _page(
    graph: nx.DiGraph, result: MorseAnalysis, box: tuple[float, float], title_lines: int
) -> _Page:
    """Lay out the graph on the smallest page, of those with rows of the lengths tried."""
    pages = (_page_of_rows(graph, result, box, title_lines, span) for span in _SPANS)
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
