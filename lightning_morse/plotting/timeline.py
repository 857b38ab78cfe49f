"""Figure of a run: the share of the box that each basin takes over training, and switches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lightning_morse._typing import Array
from lightning_morse.conley.reach import ESCAPES
from lightning_morse.plotting.style import (
    DARK,
    ESCAPE_COLOR,
    figure_style,
    identity_color,
    new_figure,
)

MAX_NAMED = 10  # identities in the legend, those with the largest shares
# Less than this unaccounted for is the rounding of a sum of shares, not basins left out.
_ROUNDING = 1e-9

_UNDECIDED: dict[str, Any] = {"facecolor": "white", "edgecolor": "#8a8a8a", "hatch": "////"}
_ESCAPES: dict[str, Any] = {"facecolor": ESCAPE_COLOR, "edgecolor": "none"}
_OTHERS: dict[str, Any] = {"facecolor": "#8f8f8f", "edgecolor": "none"}
_SWITCH: dict[str, Any] = {"color": "black", "linewidth": 1.6, "linestyle": (0, (4, 2))}
_DOT: dict[str, Any] = {"marker": "o", "ms": 7, "mec": "black", "mew": 0.9, "linestyle": "none"}


def plot_timeline(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the certain basins over training, stacked, and ``mu`` below them.

    One column per analysis, from half way after the previous one to half way before the next:
    nothing is known in between. One colour per identity, the same as in the figures of the single
    analyses. On top are the undecided share, hatched, and the share that escapes, grey. All shares
    are of the box of that analysis, which may change from one to the next. A dashed line stands to
    the left of an analysis that found the weights certainly in another basin than before; the dots
    on the curve of ``mu`` have the colour of the basin that the weights are in.

    Args:
        history: Rows of :attr:`lightning_morse.MorseMonitor.history`; failed analyses are skipped.

    Returns:
        A new figure, unknown to pyplot.

    Raises:
        ValueError: If fewer than two analyses succeeded, or a row is not of such a history.

    Example:
        >>> from lightning_morse import MorseMonitor
        >>> common = {"morse/mu": 0.97, "morse/escape": 0.1, "morse/failed": 0.0,
        ...           "morse/basin_switches": 0.0, "morse/identity_current": 0.0}
        >>> figure = plot_timeline([
        ...     {"step": 9, "basins": {0: 0.6}, "morse/undecided": 0.3, **common},
        ...     {"step": 19, "basins": {0: 0.5, 1: 0.2}, "morse/undecided": 0.2, **common},
        ... ])
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['share of the box', 'mu']
    """
    try:
        rows = [r for r in map(_plain, history) if not r["failed"]]
        steps = np.array([r["step"] for r in rows], dtype=np.float64)
        mu, undecided, escape, switches, current = (
            np.array([r[name] for r in rows], dtype=np.float64)
            for name in ("mu", "undecided", "escape", "basin_switches", "identity_current")
        )
        basins = [{int(i): float(v) for i, v in r["basins"].items()} for r in rows]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"history must be rows of MorseMonitor.history, got one without {error}"
        ) from error
    if len(rows) < 2:
        raise ValueError(
            f"history must hold at least 2 analyses that did not fail, got {len(rows)}. Draw it "
            "later in the run"
        )
    names = sorted({i for row in basins for i in row})
    shares = {i: np.array([row.get(i, 0.0) for row in basins]) for i in names}
    middle = 0.5 * (steps[1:] + steps[:-1])
    edges = np.array([2 * steps[0] - middle[0], *middle, 2 * steps[-1] - middle[-1]])
    changed = middle[np.diff(switches) > 0]
    with figure_style():
        figure = new_figure(8, 5, layout="constrained")
        top, bottom = figure.subplots(2, sharex=True, height_ratios=(5, 1))
        others = _draw_shares(top, edges, shares, undecided, escape)
        _draw_mu(bottom, steps, mu, current)
        for ax in (top, bottom):
            for step in changed:
                ax.axvline(step, **_SWITCH, zorder=4)
        n = int(switches[-1])
        figure.suptitle(
            f"Basins over training: {len(names)} identit{'y' if len(names) == 1 else 'ies'} · "
            f"{n} certain change{'s'[: n != 1]} of basins",
            fontsize=12,
        )
        handles = _legend_handles(shares, others, undecided, escape, current, len(changed) > 0)
        figure.legend(handles=handles, loc="outside right center", fontsize=9.5, frameon=False)
    return figure


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without the prefix of its monitor."""
    return {k.split("/")[-1]: v for k, v in row.items()}


def _draw_shares(
    ax: Axes,
    edges: Array,
    shares: Mapping[int, Array],
    undecided: Array,
    escape: Array,
) -> bool:
    """Stack the shares; return whether some basins were too small to have a name of their own."""
    floor = np.zeros_like(escape)
    others = np.clip(1 - sum(shares.values(), floor) - undecided - escape, 0, None)
    some = bool(others.max() > _ROUNDING)
    layers: list[tuple[str, Array, dict[str, Any]]] = [
        (f"identity {i}", share, {"facecolor": identity_color(i), "edgecolor": "white"})
        for i, share in shares.items()
    ]
    layers += [("others", others, _OTHERS)] if some else []
    layers += [("undecided", undecided, _UNDECIDED), ("escapes", escape, _ESCAPES)]
    for name, share, look in layers:
        roof = floor + share
        # The last value again, at the right edge of the last column.
        low, high = (np.append(v, v[-1]) for v in (floor, roof))
        ax.fill_between(edges, low, high, step="post", linewidth=0.6, gid=name, zorder=2, **look)
        floor = roof
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, 1), ylabel="share of the box")
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
    return some


def _draw_mu(ax: Axes, steps: Array, mu: Array, current: Array) -> None:
    ax.plot(steps, mu, color=DARK, linewidth=1.1, zorder=3, gid="mu")
    for step, height, identity in zip(steps, mu, current, strict=True):
        ax.plot(step, height, **_DOT, mfc=_dot_color(identity), zorder=5, clip_on=False)
    ax.set(ylim=(-0.08, 1.15), yticks=(0, 1), xlabel="step", ylabel="mu")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    ax.spines[["top", "right"]].set_visible(False)


def _dot_color(identity: float) -> str:
    if identity >= 0:
        return identity_color(int(identity))
    return ESCAPE_COLOR if identity == ESCAPES else "white"


def _legend_handles(
    shares: Mapping[int, Array],
    others: bool,
    undecided: Array,
    escape: Array,
    current: Array,
    changed: bool,
) -> list[Line2D | Patch]:
    largest = sorted(shares, key=lambda i: -shares[i].max())[:MAX_NAMED]
    handles: list[Line2D | Patch] = [
        Patch(facecolor=identity_color(i), label=f"identity {i}") for i in sorted(largest)
    ]
    if len(shares) > len(largest):
        rest = len(shares) - len(largest)
        handles.append(Line2D([], [], linestyle="none", label=f"{rest} more"))
    for share, look, label in (
        (np.array([others]), _OTHERS, "small basins"),
        (undecided, _UNDECIDED, "undecided"),
        (escape, _ESCAPES, "escapes"),
    ):
        if share.any():
            handles.append(Patch(**look, label=label))
    if changed:
        handles.append(Line2D([], [], **_SWITCH, label="change of basins"))
    colors = {_dot_color(i) for i in current}
    dot = colors.pop() if len(colors) == 1 else "#dddddd"
    handles.append(Line2D([], [], **_DOT, mfc=dot, label="basin of the weights"))
    return handles
