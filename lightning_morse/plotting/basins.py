"""Figure of the basins in the box of an analysis."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import ConnectionPatch
from numpy.typing import ArrayLike

from lightning_morse._typing import Array
from lightning_morse.arguments import course_in_slice
from lightning_morse.conley.reach import UNDECIDED
from lightning_morse.plotting.marks import Seen, legend_handles
from lightning_morse.plotting.planes import seen_in_sections
from lightning_morse.plotting.sections import (
    FRAME_COLOR,
    Picture,
    draw_line,
    draw_section,
    label_contours,
)
from lightning_morse.plotting.style import (
    PAGE,
    PAGE_DPI,
    SMALL_TEXT,
    TEXT,
    attractor_colors,
    claimed,
    figure_style,
    new_figure,
)
from lightning_morse.result import MorseAnalysis
from lightning_morse.words import percent

# Characters that fit on the page, in a heading and below one of three panels.
_HEADING_LENGTH, _AXIS_LABEL_LENGTH = 76, 18
_WIDER_PAGE = (6.2, 4.65)  # inches, of several panels; of the shape of PAGE
_GAP = 0.06  # inches between panels and what stands beside
_WIDTHS = (1.25, 1)  # of the whole box and of the one inside beside it
_LEGEND_COLUMNS = 3  # of a legend below
_SECTIONS = ((0, 1), (1, 2), (2, 0))  # each axis lies across once, with its whole label
_TICKS = (4, 3, 2, 1)  # intervals between ticks of a section: as many as there is room for

_PLAIN = (-2, 3)  # powers of ten whose numbers are written out there


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

    Boxes inside are drawn in place, each at its own resolution and in a thin frame; in one and two
    dimensions a second panel enlarges the innermost one at the current weights (else at the lowest
    attractor, else the last). In three dimensions sections show that box if there are current
    weights and a larger share of it is decided than of the whole.

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
    picture = _picture(result, trajectory, current, axis_labels, identities)
    inset = _enlarged(picture)
    facts = f"{claimed(result)} · undecided {percent(result.undecided)}"
    facts += f", escape {percent(result.escape)}"
    with figure_style():
        figure = new_figure(
            *(_WIDER_PAGE if inset or result.grid.dim == 3 else PAGE),
            PAGE_DPI,
            layout=ConstrainedLayoutEngine(w_pad=_GAP),
        )
        heading = [textwrap.shorten(title, _HEADING_LENGTH, placeholder=" …")] if title else []
        heading += _wrapped(verdict or "")
        figure.suptitle("\n".join([*heading, facts]), fontsize=TEXT)
        if result.grid.dim == 3:
            contours: list[Any] = []
            legend, seen = _draw_three_sections(figure, picture, inset)
        else:
            contours, legend = _draw_whole(figure, picture, inset)
            seen = Seen.everything(result)
        handles = legend_handles(
            result, picture.colors, identities or {}, len(picture.path) > 0, picture.now, seen
        )
        figure.legend(
            handles=handles, fontsize=SMALL_TEXT, frameon=False, handlelength=1.6, **legend
        )
        if result.grid.dim == 3:
            _thin_ticks(figure)
        if contours:
            # Gaps and angles of the labels are measured on the page: it must be laid out first.
            for _ in range(2):  # panels of equal scales are placed where the first layout ends
                _lay_out(figure)
            figure.set_layout_engine("none")  # and must stay as it is
        for lines in contours:
            label_contours(lines)
    return figure


def _lay_out(figure: Figure) -> None:
    """What :meth:`Figure.draw_without_rendering` does to the layout, without the drawing."""
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    for ax in figure.axes:
        ax.apply_aspect()


def _wrapped(text: str) -> list[str]:
    """Lines of a heading, no more than are needed and all about as long."""
    lines = textwrap.wrap(text, _HEADING_LENGTH)
    widths = range(max(map(len, text.split()), default=1), _HEADING_LENGTH)
    even = (textwrap.wrap(text, width) for width in widths)
    return next((found for found in even if len(found) <= len(lines)), lines)


def _enlarged(picture: Picture) -> int:
    """Number of the innermost box at the current weights; 0 if there are none with samples inside.

    Where the weights are in none of these, it is that of the lowest attractor, else the last.
    """
    result = picture.result
    points = [] if picture.now is None else [picture.now]
    points += [result.morse_sets[a].center for a in result.attractors]
    for point in points:
        within = [
            k
            for k, box in enumerate(result.boxes)
            if box.grid.cell_of(point[None])[0] >= 0 and (box.n_samples or not k)
        ]
        if within and within[-1]:
            return within[-1]
    return max((k for k, box in enumerate(result.boxes) if box.n_samples), default=0)


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
    path, now, labels = course_in_slice(d, trajectory, current, axis_labels)
    return Picture(result, attractor_colors(result, identities), labels, path, now)


def _draw_whole(figure: Figure, picture: Picture, inset: int) -> tuple[list[Any], dict[str, Any]]:
    """Draw the whole box and beside it one inside, if there is any.

    Returns:
        The contours that want labels, and where the legend goes.
    """
    shown_in_panels = (0, inset) if inset else (0,)
    n = len(shown_in_panels)
    panels, contours = np.ravel(figure.subplots(1, n, width_ratios=_WIDTHS[:n])), []
    for ax, shown in zip(panels, shown_in_panels, strict=True):
        if picture.result.grid.dim == 1:
            draw_line(ax, picture, shown)
        else:
            contours.append(draw_section(ax, picture, (0, 1), np.zeros(2), shown))
    if not inset:
        return [c for c in contours if c is not None], {"loc": "outside right center"}
    main, beside = panels
    beside.set(xlabel="", ylabel="")
    beside.set_title(_name_of_box(picture.result, inset), fontsize=TEXT)
    if picture.result.grid.dim == 2:
        _connect(figure, main, beside)
    where = {"loc": "outside lower center", "ncols": _LEGEND_COLUMNS}
    return [c for c in contours if c is not None], where


def _connect(figure: Figure, main: Axes, beside: Axes) -> None:
    """Lead the eye from what is enlarged to the panel beside that enlarges it."""
    (_, right), heights = beside.get_xlim(), beside.get_ylim()
    for height, corner in zip(heights, ((0, 0), (0, 1)), strict=True):
        line = ConnectionPatch(
            (right, height), corner, main.transData, beside.transAxes, color=FRAME_COLOR
        )
        line.set(linewidth=0.8, alpha=0.6, in_layout=False)
        figure.add_artist(line)


def _name_of_box(result: MorseAnalysis, k: int) -> str:
    whole, grid = result.grid, result.boxes[k].grid
    ratio = np.prod((whole.upper - whole.lower) / (grid.upper - grid.lower)) ** (1 / whole.dim)
    return f"inside box {k}: 1/{ratio:.{0 if ratio >= 10 else 1}f} of the width"


def _draw_three_sections(
    figure: Figure, picture: Picture, inset: int
) -> tuple[dict[str, Any], Seen]:
    """Draw the three sections of a box with three axes.

    Returns:
        Where the legend goes, and what is seen.
    """
    # Who asks about no point asks about the whole.
    shown = 0 if picture.now is None else _tells_more(picture.result, inset)
    point = _section_point(picture, shown)
    names = [label.partition(" (")[0] for label in picture.labels]
    for ax, axes in zip(figure.subplots(1, 3), _SECTIONS, strict=True):
        draw_section(ax, picture, axes, point, shown)
        across, upwards = axes
        ax.set_xlabel(textwrap.fill(picture.labels[across], _AXIS_LABEL_LENGTH))
        ax.set_ylabel(names[upwards])
        fixed = 3 - sum(axes)
        ax.set_title(f"at {names[fixed]} = {point[fixed]:.2g}", fontsize=TEXT)
        ax.locator_params(nbins=_TICKS[0])
        ax.ticklabel_format(scilimits=_PLAIN)
    note = "sections: Morse sets where one meets them, path projected"
    where = {
        "loc": "outside lower center",
        "title": f"{_name_of_box(picture.result, shown)}; {note}" if shown else note,
        "title_fontsize": SMALL_TEXT,
        "ncols": _LEGEND_COLUMNS,
        "columnspacing": 0.8,
        "handletextpad": 0.4,
    }
    return where, seen_in_sections(picture.result, _SECTIONS, point, shown)


def _thin_ticks(figure: Figure) -> None:
    """Leave out ticks until no two labels below a panel meet; a factor stands below the name."""
    _lay_out(figure)
    for ax in figure.axes:
        factor = ax.xaxis.get_offset_text()
        if factor.get_text():  # where it would be printed over the name
            ax.set_xlabel(f"{ax.get_xlabel()}\n({factor.get_text()})")
            factor.set_visible(False)
    for most in _TICKS[1:]:
        _lay_out(figure)  # how wide a label is depends on the numbers
        crowded = [ax for ax in figure.axes if _labels_meet(ax)]
        for ax in crowded:
            ax.locator_params(axis="x", nbins=most)
        if not crowded:
            return


def _labels_meet(ax: Axes) -> bool:
    labels = [label for label in ax.get_xticklabels() if label.get_text()]
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
    return any(a.x1 + a.height / 3 > b.x0 for a, b in itertools.pairwise(boxes))


def _tells_more(result: MorseAnalysis, inset: int) -> int:
    """The whole box or the one inside, whichever has the larger share of decided cells."""
    decided = [float(np.mean(result.boxes[k].labels != UNDECIDED)) for k in (0, inset)]
    return inset if decided[1] > decided[0] else 0


def _section_point(picture: Picture, shown: int) -> Array:
    """The point the sections pass through: current weights, lowest attractor, or the centre."""
    result, grid = picture.result, picture.result.boxes[shown].grid
    if picture.now is not None:
        point = picture.now
    elif result.n_attractors:
        point = result.morse_sets[result.attractors[0]].center
    else:
        point = (grid.lower + grid.upper) / 2
    return np.clip(point, grid.lower, grid.upper)
