"""Figure of the filtration over confidence: which attractors stand, merge or vanish."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_morse._typing import Array, Cells
from lightning_morse.plotting.style import (
    DARK,
    PAGE,
    PAGE_DPI,
    SMALL_TEXT,
    TEXT,
    attractor_colors,
    figure_style,
    new_figure,
)
from lightning_morse.result import MorseAnalysis
from lightning_morse.words import short_of_one

MAX_LANES = 14  # attractors drawn, those of least loss: as many as a page has room for

# Inches: per attractor, above the axes (title), per further line of the title, below (legend).
_LANE, _ABOVE, _TITLE_LINE, _BELOW = 0.3, 0.6, 0.16, 0.95
# Failure probabilities below the rounding of a double near 1 have no place of their own.
_LEAST_FAILURE = 1e-16
_MAX_TICKS = 5
# Where the axes begin, and how wide they are: shares of the page.
_LEFT, _WIDTH = 0.2, 0.65
# From here on, in powers of ten of the failure probability, 0.99... is written as 1 - 10^-k.
_LONG_POWER = 4.5
_ALONE: dict[str, Any] = {"marker": "D", "ms": 6.5, "mec": "black", "mew": 0.8, "linestyle": "none"}
_VANISHED: dict[str, Any] = {"marker": "x", "ms": 8, "mew": 2, "linestyle": "none"}
_ASKED: dict[str, Any] = {"color": "#777777", "linewidth": 1.2, "linestyle": (0, (2, 2))}
_CLAIM: dict[str, Any] = {"color": DARK, "linewidth": 1.4, "linestyle": (0, (7, 3))}


def plot_merge_diagram(
    result: MorseAnalysis, identities: Mapping[int, int] | None = None
) -> Figure:
    """Draw the attractors against the confidence, one line each, in the colours of the basins.

    Confidence rises to the right, on the logarithmic scale of the failure probability. Lines join
    where attracting blocks merge, and end in a cross where a block reaches the exterior. A diamond
    marks the confidence of each attractor by itself; it can lie beyond the filtration, because a
    single attractor needs the band in part of the box only. The row of numbers counts the blocks.
    Of more than 14 attractors, those of least loss are drawn.

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
        drawn = min(result.n_attractors, MAX_LANES)
        if not drawn or result.mu == 0:
            figure = new_figure(PAGE[0], 2, PAGE_DPI)
            why = "no attractor stands at the confidence asked for"
            if drawn:
                why = "no confidence in anything: the samples refute the surrogate"
            figure.text(0.5, 0.45, why, ha="center", va="center", fontsize=TEXT)
            figure.suptitle(f"Attractors against confidence: {result.claim}", fontsize=TEXT)
            return figure
        title = f"Attractors against confidence: {result.claim} · mu ≥ {short_of_one(result.mu)}"
        above = _ABOVE
        if drawn < result.n_attractors:
            title += f"\n{result.n_attractors - drawn} of higher loss not drawn"
            above += _TITLE_LINE
        lanes = min(_LANE * max(drawn, 2), PAGE[1] - above - _BELOW)
        height = above + lanes + _BELOW
        figure = new_figure(PAGE[0], height, PAGE_DPI)
        ax = figure.add_axes((_LEFT, _BELOW / height, _WIDTH, lanes / height))
        _draw(ax, result, colors, drawn)
        figure.text(0.5, 1 - 0.12 / height, title, ha="center", va="top", fontsize=TEXT)
        figure.legend(
            handles=_legend_handles(result, drawn),
            loc="lower center",
            bbox_to_anchor=(0.5, 0.04 / height),
            ncols=2,
            fontsize=SMALL_TEXT,
            frameon=False,
        )
    return figure


def _position(confidence: Any) -> Any:
    """Place of a confidence on the axis: minus the logarithm of the failure probability."""
    return -np.log10(np.maximum(1 - np.asarray(confidence), _LEAST_FAILURE))


def _draw(ax: Axes, result: MorseAnalysis, colors: Mapping[int, str], drawn: int) -> None:
    ladder = result.ladder
    x = _position(ladder.levels)
    own = [result.morse_sets[a].mu or 0.0 for a in result.attractors]
    lane = {a: float(k) for k, a in enumerate(_order(ladder.blocks[:, :drawn]))}
    left, right = float(x[0]), float(max(x[-1], *_position(own), _position(result.mu)))
    margin = 0.04 * max(right - left, 0.5)

    for a in range(drawn):
        color = colors[result.attractors[a]]
        path = ladder.blocks[:, a]
        stays = int(np.argmax(path != a)) if (path != a).any() else len(path)
        end = float(x[stays - 1])
        line: dict[str, Any] = {"color": color, "linewidth": 3, "zorder": 3}
        ax.plot([left, end], [lane[a]] * 2, **line, solid_capstyle="butt", gid=f"line {a}")
        if stays < len(path) and path[stays] < 0:
            at = 0.5 * (end + x[stays])
            ax.plot([end, at], [lane[a]] * 2, **line, solid_capstyle="butt")
            ax.plot(at, lane[a], **_VANISHED, mec=color, zorder=5, gid=f"vanished {a}")
        elif stays < len(path):
            into = lane[int(path[stays])]
            ax.plot([end, x[stays]], [lane[a], into], **line, gid=f"merge {a}")
        ax.plot([end, max(end, _position(own[a]))], [lane[a]] * 2, color=color, lw=0.9, ls=":")
        ax.plot(_position(own[a]), lane[a], **_ALONE, mfc=color, zorder=6, gid=f"alone {a}")

    ax.axvline(_position(result.confidence), **_ASKED, zorder=1, gid="asked")
    ax.axvline(_position(result.mu), **_CLAIM, zorder=2, gid="mu")
    ax.set(xlim=(left - margin, right + margin), ylim=(max(drawn, 2) - 0.4, -0.6))
    if drawn == 1:
        ax.set_ylim(1, -1)
    _count_blocks(ax, x, ladder.counts)
    names = sorted(lane, key=lane.__getitem__)
    ax.set_yticks(
        [lane[a] for a in names],
        [f"attractor {result.attractors[a]}" for a in names],
        fontsize=SMALL_TEXT,
    )
    ax.tick_params(axis="y", length=0)
    for a in range(drawn):
        ax.text(
            *(1.015, lane[a], short_of_one(own[a])),
            transform=ax.get_yaxis_transform(),
            va="center",
            fontsize=SMALL_TEXT,
        )
    ax.text(
        1.015, 1.0, "own mu ≥", transform=ax.transAxes, va="bottom", fontsize=SMALL_TEXT, color=DARK
    )
    ax.spines[["top", "right", "left"]].set_visible(False)
    ticks = _ticks(result.confidence, left - margin, right + margin)
    ax.set_xticks(
        [_position(t) for t in ticks], [_confidence(t) for t in ticks], fontsize=SMALL_TEXT
    )
    ax.set_xlabel("confidence given the model")


def _order(blocks: Cells) -> list[int]:
    """Order attractors so that blocks that merge are neighbours, the first to merge closest."""
    n = blocks.shape[1]
    groups: dict[int, list[int]] = {a: [a] for a in range(n)}
    for row in blocks:
        for a in range(n):
            into = int(row[a])
            if a in groups and into >= 0 and into != a:
                groups[into] += groups.pop(a)
    return [a for members in groups.values() for a in members]


def _count_blocks(ax: Axes, x: Array, counts: Cells) -> None:
    """Write the number of blocks above the lines, once for each run of equal counts."""
    above = ax.get_xaxis_transform()
    ax.text(
        *(-0.01, 1.0, "attractors left"),
        transform=ax.transAxes,
        ha="right",
        va="bottom",
        fontsize=SMALL_TEXT,
    )
    level = 0
    for count, same in groupby(counts.tolist()):
        last = level + len(list(same)) - 1
        middle = 0.5 * (x[level] + x[last])
        ax.text(middle, 1.0, str(count), transform=above, ha="center", va="bottom", weight="bold")
        if last + 1 < len(x):
            between = 0.5 * (x[last] + x[last + 1])
            ax.annotate(
                *("", (between, 1.0)),
                xycoords=above,
                xytext=(0, 13),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": DARK, "linewidth": 0.8, "shrinkB": 0},
                annotation_clip=False,
            )
        level = last + 1


def _ticks(asked: float, left: float, right: float) -> list[float]:
    """Confidences to label: powers of ten of the failure, or the requested one if there is none."""
    powers = range(math.ceil(left), math.floor(right) + 1)
    every = max(1, math.ceil(len(powers) / _MAX_TICKS))
    return [1 - 10.0**-k for k in powers if k % every == 0 and k > 0] or [asked]


def _confidence(value: float) -> str:
    """Write a confidence such as 0.999, or by what it falls short of 1 where that is little."""
    power = -math.log10(1 - value)
    if abs(power - round(power)) > 1e-6:
        return short_of_one(value)
    return f"{value:.4g}" if power < _LONG_POWER else f"$1 - 10^{{-{round(power)}}}$"


def _legend_handles(result: MorseAnalysis, drawn: int) -> list[Line2D]:
    handles = [
        Line2D([], [], **_ASKED, label=f"asked for: {result.confidence:g}"),
        Line2D([], [], **_CLAIM, label=f"mu of “{result.claim}”"),
        Line2D([], [], **_ALONE, mfc="white", label="mu of one attractor by itself"),
    ]
    if (result.ladder.blocks[:, :drawn] < 0).any():
        handles.append(Line2D([], [], **_VANISHED, mec=DARK, label="vanishes: may leave the box"))
    return handles
