"""The figure of a Morse graph."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import networkx as nx
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.text import Text

from lightning_morse.plotting.basins import _kind
from lightning_morse.plotting.style import (
    DARK,
    _bound,
    _ink,
    _percent,
    attractor_colors,
    figure_style,
    new_figure,
)
from lightning_morse.result import MorseAnalysis

MAX_DRAWN, MAX_UNRESOLVED = 30, 20  # Morse sets in the graph, unresolved ones if there are more


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
