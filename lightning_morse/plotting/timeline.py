"""Figure of a run: the basin of the weights, their loss and the way out, and what is not known."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, product
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from lightning_morse._typing import Array
from lightning_morse.conley.reach import ESCAPES
from lightning_morse.plotting.course import Course, Gap, read_course
from lightning_morse.plotting.style import (
    DARK,
    ESCAPE_COLOR,
    PAGE,
    PAGE_DPI,
    SMALL_TEXT,
    TEXT,
    figure_style,
    identity_color,
    new_figure,
    tint,
)

MAX_NAMED = 5  # identities in the legend, those with the largest shares
# Less than this unaccounted for is the rounding of a sum of shares, not basins left out.
_ROUNDING = 1e-9
# Losses that differ by more than this factor are drawn on a logarithmic scale.
_LOG_FROM = 30.0
# Up to so many analyses are dots beside lines.
_MOST_DOTS = 60
# A basin that takes less than this share of the run has no number in it.
_LEAST_NUMBERED = 0.05
# Failure probabilities below this have no place of their own.
_LEAST_FAILURE = 1e-12
_NINES = 4  # most ticks of the scale of mu beside that of nothing claimed
# Reasons that are listed, and characters of one that fit on a line.
_MOST_REASONS, _REASON_LENGTH = 3, 76
_HEIGHT_OF_GAPS = 1.6  # inches, of a page that shows nothing else
_FAILED_MARK, _LEFT_OUT_MARK = "✕", "▬"

_UNDECIDED: dict[str, Any] = {"facecolor": "white", "edgecolor": "#b0b0b0", "hatch": "////"}
_ESCAPES: dict[str, Any] = {"facecolor": ESCAPE_COLOR, "edgecolor": "none"}
_OTHERS: dict[str, Any] = {"facecolor": "#8f8f8f", "edgecolor": "none"}
_FORK: dict[str, Any] = {"color": "black", "linewidth": 1.0, "linestyle": (0, (6, 2, 1, 2))}
_SWITCH: dict[str, Any] = {"color": "black", "linewidth": 1.4, "linestyle": (0, (1, 1))}
_DOT: dict[str, Any] = {"marker": "o", "ms": 5.5, "mec": "black", "mew": 0.9}
_LOSS: dict[str, Any] = {"color": "black", "linewidth": 1.4}
_FLOOR: dict[str, Any] = {"color": DARK, "linewidth": 2.2}
_WAY_OUT: dict[str, Any] = {"color": DARK, "linewidth": 1.6, "linestyle": (0, (4, 2))}


def plot_timeline(history: Sequence[Mapping[str, Any]]) -> Figure:
    r"""Draw the course of a run.

    One column per analysis, from half way after the previous one to half way before the next:
    nothing is known in between. One colour per identity, the same as in the figures of the single
    analyses. From top to bottom:

    - the loss of the weights on the colour of the basin they are in (hatched where that is
      undecided, grey where they leave the box), with the floor of that basin and the way out of it,
      the lowest saddle: the barrier is between the two. The scale is logarithmic where losses
      differ by more than a factor of 30;
    - the shares of the box that certain basins take, stacked, and above them what is undecided and
      what escapes. The box may change from one analysis to the next;
    - ``mu``, on the logarithmic scale of what it lacks to 1; 0 where nothing is claimed;
    - analyses that failed, or were due and not made, with the reasons. Their columns are empty.

    A dotted line stands to the left of an analysis that found the weights certainly in another
    basin than before.

    Args:
        history: Rows of :attr:`lightning_morse.MorseMonitor.history`; with those of
            :attr:`lightning_morse.MorseMonitor.left_out` also what was due and not made.

    Returns:
        A new figure, unknown to pyplot.

    Raises:
        ValueError: If there is no row, or one is not of such a history.

    Example:
        >>> from lightning_morse import MorseMonitor
        >>> common = {"morse/mu": 0.97, "morse/escape": 0.1, "morse/undecided": 0.3,
        ...           "morse/headroom": 0.02, "morse/barrier": 0.4, "morse/failed": 0.0,
        ...           "morse/basin_switches": 0.0, "morse/identity_current": 0.0}
        >>> figure = plot_timeline([
        ...     {"step": 9, "basins": {0: 0.6}, "loss": 0.5, **common},
        ...     {"step": 19, "basins": {0: 0.5, 1: 0.1}, "loss": 0.3, **common},
        ... ])
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'share of\nthe box', 'mu']
    """
    course = read_course(history)
    heights = [3.0, 2.0, 1.2] * bool(len(course.steps)) + [0.25] * bool(course.gaps)
    with figure_style():
        height = PAGE[1] if len(course.steps) else _HEIGHT_OF_GAPS
        layout = ConstrainedLayoutEngine(h_pad=0.03, hspace=0.0)
        figure = new_figure(PAGE[0], height, PAGE_DPI, layout=layout)
        panels = np.ravel(figure.subplots(len(heights), sharex=True, height_ratios=heights))
        handles: list[Artist] = []
        if len(course.steps):
            handles += _draw_loss(panels[0], course)
            handles += _draw_shares(panels[1], course)
            _draw_mu(panels[2], course)
        if course.gaps:
            _draw_gaps(panels[-1], course.gaps)
            lines = _reasons(course.gaps)
            figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=SMALL_TEXT)
        for ax in panels:
            ax.tick_params(labelsize=SMALL_TEXT)
        for label, look, steps in (
            ("switch", _SWITCH, course.switches),
            ("fork: one basin\nis two", _FORK, course.forks),
        ):
            for ax, step in product(panels, steps):
                ax.axvline(step, **look, zorder=4)
            if len(steps):
                handles.append(Line2D([], [], **look, label=label))
        _draw_steps(panels[-1], course)
        figure.suptitle(_title(course), fontsize=TEXT, x=0.01, ha="left")
        figure.legend(
            handles=handles,
            loc="outside right upper",
            fontsize=SMALL_TEXT,
            frameon=False,
            handlelength=1.7,
            labelspacing=0.35,
        )
    return figure


def _title(course: Course) -> str:
    n, k, forks = len(course.shares), len(course.switches), len(course.forks)
    if not len(course.steps):
        return "Over training: no analysis succeeded"
    basins = f"{n or 'no'} basin{'s'[: n != 1]} seen"
    split = f" · {forks} fork{'s'[: forks != 1]}" if forks else ""
    return f"Over training: {basins} · {k} certain switch{'es'[: 2 * (k != 1)]}{split}"


# ---------------------------------------------------------------------------------- the loss


def _look(identity: float) -> dict[str, Any]:
    """How the background of a column looks."""
    if identity >= 0:
        return {"facecolor": tint(identity_color(int(identity))), "edgecolor": "none"}
    return _ESCAPES if identity == ESCAPES else _UNDECIDED


def _draw_loss(ax: Axes, course: Course) -> list[Artist]:
    """Draw loss, floor and way out on the colours of the basins; return their legend."""
    start, end = course.ends
    for identity, at in _runs(course):
        left, right = course.left[at[0]], course.right[at[-1]]
        ax.axvspan(left, right, **_look(identity), linewidth=0, zorder=1, gid=f"in {identity:g}")
        if identity >= 0 and right - left >= _LEAST_NUMBERED * (end - start):
            ax.annotate(
                *(f"{identity:g}", (0.5 * (left + right), 1)),
                xycoords=("data", "axes fraction"),
                xytext=(0, -3),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=SMALL_TEXT,
                weight="bold",
            )
    dots = _DOT | {"mfc": "white"} if len(course.steps) <= _MOST_DOTS else {}
    lines = []
    for values, look, label in (
        (course.way_out, _WAY_OUT, "way out"),
        (course.floor, _FLOOR, "floor"),
    ):
        if np.isfinite(values).any():
            x = np.stack([course.left, course.right, course.right], axis=1).ravel()
            y = np.stack([values, values, _broken(course, values)], axis=1).ravel()
            ax.plot(x, y, **look, zorder=3, gid=label, path_effects=_halo(look))
            lines.append(Line2D([], [], **look, label=label))
    if np.isfinite(course.loss).any():
        breaks = np.flatnonzero(course.left[1:] > course.right[:-1]) + 1
        x, y = (np.insert(v, breaks, np.nan) for v in (course.steps, course.loss))
        ax.plot(x, y, **_LOSS, **dots, zorder=3.5, gid="loss", path_effects=_halo(_LOSS))
        lines.insert(0, Line2D([], [], **_LOSS, **_DOT, mfc="white", label="loss"))
    else:
        ax.set_yticks([])
        ax.text(0.5, 0.45, "losses are not known", transform=ax.transAxes, ha="center", zorder=4)
    shown = np.concatenate([course.loss, course.floor, course.way_out])
    _scale_losses(ax, shown[np.isfinite(shown)])
    ax.set_ylabel("loss", fontsize=SMALL_TEXT)
    return list(lines)


def _runs(course: Course) -> Iterator[tuple[float, list[int]]]:
    """Stretches of neighbouring columns in the same basin: its identity, numbers of analyses."""
    gap_before = np.array([False, *(course.left[1:] > course.right[:-1])])
    part = np.cumsum(gap_before)
    keys = list(zip(course.current.tolist(), part.tolist(), strict=True))
    for (identity, _), at in groupby(range(len(keys)), key=keys.__getitem__):
        yield identity, list(at)


def _broken(course: Course, values: Array) -> Array:
    """What follows each column: its value again, or NaN where a line is to end."""
    ends = np.array([*(course.left[1:] > course.right[:-1]), True])
    # Another basin has another floor: a step between the two would be no loss of anything.
    other = np.array([*(np.diff(course.current) != 0), True])
    return np.where(ends | other, np.nan, values)


def _halo(look: Mapping[str, Any]) -> list[Any]:
    """A white edge: lines must be seen on hatches."""
    return [withStroke(linewidth=look["linewidth"] + 1.6, foreground="white", alpha=0.8)]


def _scale_losses(ax: Axes, shown: Array) -> None:
    if not shown.size:
        return
    low, high = float(shown.min()), float(shown.max())
    if low > 0 and high > _LOG_FROM * low:
        ax.set_yscale("log")
        room = (high / low) ** 0.08
        ax.set_ylim(low / room, high * room**2.5)  # numbers of basins are at the top
        ax.minorticks_off()
        return
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    ax.set_ylim(low - room, high + 2.5 * room)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4))


# ---------------------------------------------------------------------- the rest of the panels


def _draw_shares(ax: Axes, course: Course) -> list[Artist]:
    """Stack the shares; return their legend."""
    floor = np.zeros_like(course.escape)
    named = sum(course.shares.values(), floor)
    others = np.clip(1 - named - course.undecided - course.escape, 0, None)
    layers: list[tuple[str, Array, dict[str, Any]]] = [
        (f"identity {i}", share, {"facecolor": identity_color(i), "edgecolor": "white"})
        for i, share in course.shares.items()
    ]
    layers += [("small basins", others, _OTHERS)] if others.max() > _ROUNDING else []
    layers += [("undecided", course.undecided, _UNDECIDED), ("escapes", course.escape, _ESCAPES)]
    x = np.stack([course.left, course.right], axis=1).ravel()
    for name, share, look in layers:
        roof = floor + share
        low, high = (_with_gaps(course, v) for v in (floor, roof))
        ax.fill_between(
            _with_gaps(course, x, pairs=True),
            *(low, high),
            linewidth=0.4,
            gid=name,
            zorder=2,
            **look,
        )
        floor = roof
    ax.set(ylim=(0, 1), yticks=(0, 1))
    ax.set_ylabel("share of\nthe box", fontsize=SMALL_TEXT)
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
    return _legend_of_shares(course, layers)


def _with_gaps(course: Course, values: Array, *, pairs: bool = False) -> Array:
    """Values at both ends of each column, and nothing in the columns of what is not known."""
    flat = values if pairs else np.repeat(values, 2)
    breaks = 2 * np.flatnonzero(course.left[1:] > course.right[:-1]) + 2
    if not pairs:
        return np.insert(flat, np.repeat(breaks, 2), 0.0)
    ends = np.stack([course.right[breaks // 2 - 1], course.left[breaks // 2]], axis=1).ravel()
    return np.insert(flat, np.repeat(breaks, 2), ends)


def _legend_of_shares(
    course: Course, layers: Sequence[tuple[str, Array, dict[str, Any]]]
) -> list[Artist]:
    """The areas that are there, by the names of the largest identities; also of backgrounds."""
    largest = sorted(course.shares, key=lambda i: -course.shares[i].max())[:MAX_NAMED]
    in_basins = {"undecided": -1, "escapes": ESCAPES}
    found: list[Artist] = []
    for k, (name, share, look) in enumerate(layers):
        if k == len(course.shares) > len(largest):
            rest = len(course.shares) - len(largest)
            found.append(Line2D([], [], linestyle="none", label=f"{rest} more"))
        is_identity = k < len(course.shares)
        if is_identity and list(course.shares)[k] not in largest:
            continue
        there = share.any() or (course.current == in_basins.get(name, np.nan)).any()
        if there:
            found.append(Patch(**look, label=name))
    return found


def _draw_mu(ax: Axes, course: Course) -> None:
    def nines(mu: Array) -> Array:
        return -np.log10(np.clip(1 - np.asarray(mu), _LEAST_FAILURE, None))

    def back(place: Any) -> Any:
        return 1 - 10.0 ** -np.asarray(place)

    breaks = np.flatnonzero(course.left[1:] > course.right[:-1]) + 1
    x, y = (np.insert(v, breaks, np.nan) for v in (course.steps, course.mu))
    ax.set_yscale("function", functions=(nines, back))
    ax.plot(x, y, color=DARK, linewidth=1.1, zorder=3, gid="mu")
    if len(course.steps) <= _MOST_DOTS:
        ax.scatter(
            *(course.steps, course.mu),
            s=_DOT["ms"] ** 2,
            c=[_look(i)["facecolor"] for i in course.current],
            edgecolors="black",
            linewidths=_DOT["mew"],
            zorder=5,
            clip_on=False,
            gid="dots",
        )
    most = max(1, int(np.ceil(nines(course.mu).max())))
    ticks = [back(k) for k in range(0, most + 1, -(-most // _NINES))]
    ax.set(ylim=(back(-0.25), back(most + 0.1)), yticks=ticks)
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:.6g}" if v < 1 - 2e-7 else "1")
    ax.set_ylabel("mu", fontsize=SMALL_TEXT)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_gaps(ax: Axes, gaps: Sequence[Gap]) -> None:
    for gap in gaps:
        if gap.failed:
            ax.plot(gap.first, 0, "x", color="black", ms=5.5, mew=1.5, clip_on=False, gid="failed")
        else:
            ax.plot([gap.first, gap.last], [0, 0], color="#777777", lw=4, gid="left out")
            ax.plot(gap.first, 0, "s", color="#777777", ms=4, clip_on=False)
    ax.set(ylim=(-1, 1), yticks=[])
    ax.set_ylabel("missing", rotation=0, ha="right", va="center", fontsize=SMALL_TEXT)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _reasons(gaps: Sequence[Gap]) -> list[str]:
    """A line for each of the most frequent reasons."""
    counts: Counter[tuple[bool, str]] = Counter()
    for gap in gaps:
        counts[gap.failed, " ".join(gap.why.split())] += gap.count
    lines = []
    for (failed, why), count in counts.most_common(_MOST_REASONS):
        mark, what = (_FAILED_MARK, "failed") if failed else (_LEFT_OUT_MARK, "not analysed")
        line = f"{what} ({count} times): {why}" if count > 1 else f"{what}: {why}"
        lines.append(f"{mark} {textwrap.shorten(line, _REASON_LENGTH, placeholder=' …')}")
    rest = len(counts) - len(lines)
    return [*lines, *([f"and {rest} further reason{'s'[: rest != 1]}"] if rest else [])]


def _draw_steps(ax: Axes, course: Course) -> None:
    start, end = course.ends
    ax.set_xlim(start, end)
    ax.set_xlabel("step", fontsize=SMALL_TEXT, labelpad=1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
