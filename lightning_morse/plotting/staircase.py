"""Figure of a linear network in training: the loss on its staircase, and the modes over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lightning_morse._typing import Array
from lightning_morse.plotting.style import (
    DARK,
    OKABE_ITO,
    PAGE,
    PAGE_DPI,
    SMALL_TEXT,
    TEXT,
    figure_style,
    new_figure,
)

# Most modes drawn: one for each colour of the palette.
MOST_MODES = len(OKABE_ITO)
# Level numbers that fit above one another without overlapping.
LABELS_PER_HEIGHT = 14
GUIDE_COLOR, LABEL_COLOR = "#9a9a9a", "#666666"


def plot_staircase(
    steps: ArrayLike, losses: ArrayLike, strengths: ArrayLike, levels: Sequence[float]
) -> Figure:
    """Draw the loss against the critical levels, and below it the strength of each mode.

    Args:
        steps: Optimizer steps, shape ``(k,)``.
        losses: The loss at each step, shape ``(k,)``.
        strengths: Strength of each mode relative to its target, shape ``(k, r)``; the first seven
            are drawn.
        levels: Critical values of the staircase: no mode learned, one mode, and so on.

    Returns:
        The figure, not registered with pyplot.

    Raises:
        ValueError: If the shapes do not fit each other.

    Example:
        >>> figure = plot_staircase([0, 1], [5.0, 0.6], [[0.0], [0.9]], [5.0, 0.5])
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'strength / target']
    """
    when, values = np.asarray(steps, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    parts = np.asarray(strengths, dtype=np.float64)
    if when.ndim != 1 or values.shape != when.shape or parts.ndim != 2 or len(parts) != len(when):
        raise ValueError(
            "steps and losses must have shape (k,) and strengths (k, r), got "
            f"{when.shape}, {values.shape} and {parts.shape}"
        )
    with figure_style():
        figure = new_figure(*PAGE, PAGE_DPI, layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for k, level in enumerate(levels):
            label = "critical levels" if k == 0 else None
            upper.axhline(level, color=GUIDE_COLOR, linewidth=0.9, linestyle="--", label=label)
        _number_levels(upper, levels, values)
        upper.plot(when, values, color=DARK, linewidth=1.8, label="loss")
        upper.set_ylabel("loss", fontsize=TEXT)
        style = {"frameon": False, "fontsize": SMALL_TEXT, "handlelength": 1.6}
        upper.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, **style)
        for a in range(min(parts.shape[1], MOST_MODES)):
            lower.plot(when, parts[:, a], color=OKABE_ITO[a], linewidth=1.6, label=f"mode {a}")
        lower.axhline(1.0, color=GUIDE_COLOR, linewidth=0.9, linestyle="--")
        lower.set_ylabel("strength / target", fontsize=TEXT)
        lower.set_xlabel("optimizer step", fontsize=TEXT)
        if parts.shape[1]:
            place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
            lower.legend(**place, labelspacing=0.3, **style)
        lower.set_ylim(min(-0.05, parts.min(initial=0.0)), max(1.15, parts.max(initial=0.0)))
    return figure


def _number_levels(axes: Axes, levels: Sequence[float], values: Array) -> None:
    """Label levels with their number of learned modes at the right edge, without overlaps."""
    low = min([*levels, *values[np.isfinite(values)]])
    high = max([*levels, *values[np.isfinite(values)]])
    room = max(high - low, np.finfo(float).tiny) / LABELS_PER_HEIGHT
    last = np.inf
    for k, level in enumerate(levels):
        if last - level >= room:
            axes.annotate(
                f"{k} learned",
                (1.0, level),
                xycoords=axes.get_yaxis_transform(),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=SMALL_TEXT,
                color=LABEL_COLOR,
            )
            last = level
