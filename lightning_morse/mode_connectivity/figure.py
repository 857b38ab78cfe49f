"""Figure of the barriers between sets of weights."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_morse.mode_connectivity.record import APART, CONNECTED, Connectivity, Profile
from lightning_morse.plotting.style import DARK, figure_style, identity_color, new_figure

# Lines drawn in panels of their own; of more pairs, those with the highest barriers.
MOST_LINES = 9
_COLUMNS = 3
_COLOR = {CONNECTED: identity_color(2), APART: identity_color(5)}
_OPEN_COLOR = "#777777"
_NAME_LENGTH = 18  # characters of a name that fit beside the heat map


def plot_connectivity(record: Connectivity) -> Figure:
    """Draw the barriers as a heat map, and the losses along the lines with their bands.

    Args:
        record: The record. Of more than nine pairs, the lines of the nine highest barriers are
            drawn.

    Returns:
        A new figure, unknown to pyplot.
    """
    pairs = record.pairs
    order = sorted(range(len(pairs)), key=lambda n: -record.barriers[pairs[n]])[:MOST_LINES]
    columns = min(_COLUMNS, len(order))
    rows = -(-len(order) // columns)
    with figure_style():
        figure = new_figure(5.2 + 2.9 * columns, max(4.2, 2.5 * rows), layout="constrained")
        halves: Any = figure.subfigures(1, 2, width_ratios=(5.2, 2.9 * columns))
        left, right = halves
        _draw_heat_map(left.subplots(), record)
        panels = np.atleast_1d(right.subplots(rows, columns, sharex=True)).ravel()
        for axes, n in zip(panels, order, strict=False):
            i, j = pairs[n]
            title = f"{_short(record.names[i])} → {_short(record.names[j])}"
            _draw_line(axes, record.profiles[n], record.verdict(i, j), title)
        for axes in panels[len(order) :]:
            axes.set_visible(False)
        right.supxlabel("share of the way")
        right.supylabel("loss")
    return figure


def _short(name: str) -> str:
    """The last part of a path, if need be its end."""
    last = PurePath(name).name
    return last if len(last) <= _NAME_LENGTH else f"…{last[1 - _NAME_LENGTH :]}"


def _draw_heat_map(axes: Axes, record: Connectivity) -> None:
    k = len(record.names)
    shown = np.where(np.isfinite(record.barriers), record.barriers, np.nan)
    top = max(float(np.nanmax(shown)), record.tolerance)
    image = axes.imshow(shown, cmap="YlOrBr", vmin=0.0, vmax=top if top > 0 else 1.0)
    axes.figure.colorbar(image, ax=axes, shrink=0.7, label="barrier, units of the loss")
    names = [_short(name) for name in record.names]
    axes.set_xticks(range(k), names, rotation=45, ha="right", fontsize=9)
    axes.set_yticks(range(k), names, fontsize=9)
    if k <= 8:  # more numbers would overlap
        for i, j in record.pairs:
            for a, b in ((i, j), (j, i)):
                dark = np.isfinite(shown[a, b]) and shown[a, b] > 0.6 * top
                axes.text(b, a, _cell(record, a, b), ha="center", va="center", fontsize=8,
                          color="white" if dark else DARK)  # fmt: skip
    together = sum(record.verdict(i, j) == CONNECTED for i, j in record.pairs)
    axes.set_title(
        f"{together} of {len(record.pairs)} pairs connected at {record.confidence:g}\n"
        f"(barrier at most {record.tolerance:.3g})",
        fontsize=11,
    )


def _cell(record: Connectivity, i: int, j: int) -> str:
    low, value, high = (m[i, j] for m in (record.lower, record.barriers, record.upper))
    return f"{value:.3g}\n≥ {low:.3g}\n≤ {high:.3g}"


def _draw_line(axes: Axes, profile: Profile, verdict: str, title: str) -> None:
    color: Any = _COLOR.get(verdict, _OPEN_COLOR)
    shares = np.linspace(0.0, 1.0, profile.band.shape[1])
    mean, low, high = profile.band
    axes.fill_between(shares, low, high, color=color, alpha=0.25, linewidth=0)
    axes.plot(shares, mean, color=color, linewidth=1.6)
    axes.plot([0, 1], profile.losses[:2], color=DARK, linewidth=0.9, linestyle="--")
    axes.plot(profile.shares, profile.losses, ".", color=DARK, markersize=4)
    finite = profile.losses[np.isfinite(profile.losses)]
    room = max(float(np.ptp(finite)), 1e-3 * float(np.abs(finite).max()), 1e-12)
    axes.set_ylim(finite.min() - 0.25 * room, finite.max() + 0.35 * room)
    axes.set_title(f"{title}\n{verdict}", fontsize=9)
    axes.tick_params(labelsize=8)
