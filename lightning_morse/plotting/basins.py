"""Figure of the basins in the box of an analysis."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lightning_morse._typing import Array
from lightning_morse.plotting.marks import legend_handles
from lightning_morse.plotting.sections import Picture, draw_line, draw_section
from lightning_morse.plotting.style import (
    attractor_colors,
    claimed,
    figure_style,
    new_figure,
    percent,
)
from lightning_morse.result import MorseAnalysis

# Characters that fit on the page, in a heading and above one of four panels.
_HEADING_LENGTH, _AXIS_NAME_LENGTH = 72, 22


def plot_basins(
    result: MorseAnalysis,
    trajectory: ArrayLike | None = None,
    current: ArrayLike | None = None,
    axis_labels: Sequence[str] | None = None,
    title: str | None = None,
    identities: Mapping[int, int] | None = None,
    verdict: str | None = None,
) -> Figure:
    """Draw the basins in the box, the loss, the Morse sets and where training has been.

    In one dimension: the loss curve over bands for the basins. In two: the plane. In three: the
    three axis-aligned sections through ``current`` (clipped to the box), else through the attractor
    of least loss, else through the centre of the box; they show the Morse sets they meet, and the
    trajectory in projection.

    Args:
        result: The analysis, of one, two or three dimensions.
        trajectory: Earlier points, first to last, shape ``(T, d)``, in coordinates of the box.
        current: Where training is now, shape ``(d,)``.
        axis_labels: One label per axis, say with the share of the trajectory it explains.
        title: A line above those that state the claim, its ``mu``, and how much is undecided.
        identities: Identity of each attractor from one analysis to the next, by the number of its
            Morse set: decides its colour, and is named where it is not that number.
        verdict: What becomes of the current point, in a sentence; stands below the title.

    Returns:
        A new figure, unknown to pyplot.

    Raises:
        ValueError: If the analysis has more than three dimensions, an argument does not have the
            dimension of the box, or the identities are not those of the attractors.
    """
    d = result.grid.dim
    picture = _picture(result, trajectory, current, axis_labels, identities)
    shares = f"undecided {percent(result.undecided)}, escape {percent(result.escape)}"
    with figure_style():
        figure = new_figure(8, 7 if d == 3 else 6, layout="constrained")
        heading = [textwrap.shorten(title, _HEADING_LENGTH, placeholder=" …")] if title else []
        heading += textwrap.wrap(verdict or "", _HEADING_LENGTH)
        figure.suptitle("\n".join([*heading, f"{claimed(result)} · {shares}"]), fontsize=12)
        contours = None
        legend: dict[str, Any] = {"loc": "outside right center"}
        if d == 1:
            draw_line(figure.subplots(), picture)
        elif d == 2:
            contours = draw_section(figure.subplots(), picture, (0, 1), np.zeros(2))
        else:
            legend = _draw_three_sections(figure, picture)
        handles = legend_handles(
            result, picture.colors, identities or {}, len(picture.path) > 0, picture.now
        )
        figure.legend(handles=handles, fontsize=9.5, frameon=False, handlelength=1.6, **legend)
        if contours is not None:
            # Gaps and angles of the labels are measured on the page: it must be laid out first.
            figure.draw_without_rendering()
            contours.clabel(contours.levels[1::3], fontsize=9, fmt=_three_digits)
    return figure


def _picture(
    result: MorseAnalysis,
    trajectory: ArrayLike | None,
    current: ArrayLike | None,
    axis_labels: Sequence[str] | None,
    identities: Mapping[int, int] | None,
) -> Picture:
    """Check the arguments of :func:`plot_basins` against each other."""
    d = result.grid.dim
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
        raise ValueError(f"axis_labels must be {d} labels, one per axis, got {axis_labels!r}")
    return Picture(result, attractor_colors(result, identities), labels, path, now)


def _draw_three_sections(figure: Figure, picture: Picture) -> dict[str, Any]:
    """Draw the three sections of a box with three axes; return where the legend goes."""
    point = _section_point(picture)
    panels = figure.subplots(2, 2)
    panels[1, 1].axis("off")
    # Arranged like the views of a technical drawing: neighbours share an axis.
    for ax, axes in (
        (panels[0, 0], (0, 1)),
        (panels[1, 0], (0, 2)),
        (panels[0, 1], (2, 1)),
    ):
        draw_section(ax, picture, axes, point)
        fixed = 3 - sum(axes)
        name = textwrap.shorten(picture.labels[fixed], _AXIS_NAME_LENGTH, placeholder=" …")
        ax.set_title(f"section at {name} = {point[fixed]:.3g}", fontsize=10.5)
    return {
        "loc": "center",
        "bbox_to_anchor": (0.5, 0.5),
        "bbox_transform": panels[1, 1].transAxes,
        "title": "Morse sets where a section\nmeets them, path projected",
        "title_fontsize": 9.5,
        "ncols": 2,
    }


def _section_point(picture: Picture) -> Array:
    """The point the sections pass through: current weights, lowest attractor, or the centre."""
    result, grid = picture.result, picture.result.grid
    if picture.now is not None:
        point = picture.now
    elif result.n_attractors:
        point = result.morse_sets[result.attractors[0]].center
    else:
        point = (grid.lower + grid.upper) / 2
    return np.clip(point, grid.lower, grid.upper)


def _three_digits(value: float) -> str:
    return f"{value:.3g}"
