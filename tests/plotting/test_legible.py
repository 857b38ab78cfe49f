"""Marks are whole, labels keep off them, contours are round, small pictures can be read."""

import dataclasses
import functools

import numpy as np
import pytest
from matplotlib.contour import QuadContourSet

from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from lightning_morse.plotting.basins import plot_basins
from lightning_morse.plotting.levels import contour_levels, roundest
from lightning_morse.plotting.merge_diagram import plot_merge_diagram
from lightning_morse.plotting.morse_graph import plot_morse_graph
from lightning_morse.plotting.sections import MARK
from lightning_morse.plotting.staircase import plot_staircase
from tests.plotting import test_basins_and_morse_graph as drawn

SMALL = (400, 300)  # pixels, where TensorBoard shows a figure first
LEAST = 8  # pixels of the height of a line of text
VERDICT = (
    "Certainly in the basin of attractor 0: 0.0496 above its floor of 0.0631, barrier 0.0145. That "
    "is higher than the way out: training may still leave. Go on."
)
CORNERS = [(-2.95, -2.45), (2.95, 2.45), (-2.95, 2.45), (2.95, -2.45)]


def figure_of(result, now):
    path = np.linspace((0.0, 0.0), now, 9)
    labels = ["PC 1 (61 % of the trajectory)", "PC 2 (22 % of the trajectory)"]
    figure = plot_basins(result, path, now, labels, "epoch 3", verdict=VERDICT)
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("now", CORNERS)
@pytest.mark.parametrize("make", [drawn.plane, drawn.plane_tower])
def test_marks_in_corners_are_whole_and_no_label_is_on_one(make, now):
    figure = figure_of(make(), now)
    ax, page = figure.axes[0], figure.bbox
    marks = [a for a in ax.lines if a.get_gid() == MARK]
    (star,) = (m for m in marks if m.get_marker() == "*")
    assert not star.get_clip_on()
    x, y = ax.transData.transform(now)
    radius = 0.5 * star.get_markersize() * figure.dpi / 72
    assert page.x0 <= x - radius < x + radius <= page.x1
    assert page.y0 <= y - radius < y + radius <= page.y1
    seen = 0
    for panel in figure.axes:
        boxes = [t.get_window_extent() for t in labels_of(panel)]
        taken = [a.get_window_extent() for a in panel.lines if a.get_gid() == MARK]
        for k, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in [*boxes[k + 1 :], *taken])
        seen += len(boxes)
    assert seen >= 3  # some are left


@pytest.mark.parametrize("make", [drawn.plane, drawn.plane_tower])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_names_of_faces_are_not_on_marks(make, share):
    result = make()
    result = dataclasses.replace(result, exit_volumes=np.full((2, 2), 0.1))
    low, up = result.grid.lower, result.grid.upper
    at_a_face = low[0] + 0.02 * (up[0] - low[0]), low[1] + share * (up[1] - low[1])
    for now in (at_a_face, at_a_face[::-1]):
        ax = figure_of(result, now).axes[0]
        names = [t for t in ax.texts if t.get_gid() == MARK]
        marks = [a for a in ax.lines if a.get_gid() == MARK]
        assert len(names) == 4
        boxes = [t.get_window_extent() for t in names]
        assert not any(box.overlaps(m.get_window_extent()) for box in boxes for m in marks)


def labels_of(panel):
    sets = [c for c in panel.collections if isinstance(c, QuadContourSet)]
    written = [t for c in sets for t in getattr(c, "labelTexts", [])]
    return [t for t in written if t in panel.texts]


def written(figure):
    """All texts of a figure, and how many pixels a point is where TensorBoard shows it first."""
    width, height = figure.get_size_inches()
    scale = min(SMALL[0] / width, SMALL[1] / height) / 72
    texts = figure.findobj(lambda a: hasattr(a, "get_fontsize"))
    return [t for t in texts if t.get_text() and t.get_visible()], scale


def staircase():
    when = np.arange(100.0)
    strengths = 1 / (1 + np.exp(10 * np.arange(9) - when[:, None]))
    return plot_staircase(when, 5 - 0.04 * when, strengths, [5, 4, 3, 2, 1.5, 1.2, 1.1, 1.05, 1])


FIGURES = {
    "plane": lambda: figure_of(drawn.plane(), (0.0, 0.0)),
    "tower": lambda: figure_of(drawn.plane_tower(), (0.0, 0.0)),
    "line": lambda: plot_basins(drawn.line()),
    "line tower": lambda: plot_basins(drawn.line_tower()),
    "sections": lambda: plot_basins(drawn.double_well()),
    "sections of a tower": lambda: plot_basins(drawn.solid_tower()),
    "graph": lambda: plot_morse_graph(drawn.plane()),
    "graph of 17": lambda: plot_morse_graph(drawn.ring(8)),
    "graph of 27": lambda: plot_morse_graph(drawn.double_well()),
    "graph of 60": lambda: plot_morse_graph(drawn.crowd()),
    "graph of 81": lambda: plot_morse_graph(drawn.ring(40)),
    "merge": lambda: plot_merge_diagram(drawn.three()),
    "merge of many": lambda: plot_merge_diagram(drawn.LADDERS["forty"]()),
    "staircase": staircase,
}


@pytest.mark.parametrize("name", FIGURES)
def test_text_can_be_read_where_tensorboard_shows_it_first(name):
    texts, scale = written(FIGURES[name]())
    assert len(texts) > 8
    assert min(t.get_fontsize() for t in texts) * scale >= LEAST


@functools.cache
def laid_out(make):
    """A figure that is only looked at."""
    figure = plot_basins(make(), verdict=VERDICT)
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize(
    "make", [drawn.plane_tower, drawn.solid_tower, drawn.double_well, lambda: drawn.ring(15)]
)
def test_nothing_outside_the_panels_covers_anything(make):
    figure = laid_out(make)
    renderer = figure.canvas.get_renderer()
    outside = [figure._suptitle.get_window_extent(), figure.legends[0].get_window_extent()]
    panels = [ax.get_tightbbox(renderer) for ax in figure.axes]
    assert not outside[0].overlaps(outside[1])
    assert not any(a.overlaps(b) for a in outside for b in panels)


def test_headings_and_legend_are_on_the_page():
    for make in (drawn.plane, drawn.plane_tower, drawn.solid_tower, drawn.line):
        figure = laid_out(make)
        texts = [figure._suptitle, *figure.legends[0].get_texts()]
        for text in texts:
            box = text.get_window_extent()
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text.get_text()
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text.get_text()


def test_exit_faces_are_named_with_their_shares():
    result = dataclasses.replace(drawn.plane(), exit_volumes=np.array([[0.05, 0.2], [0, 0.004]]))
    figure = plot_basins(result)
    said = [t.get_text() for t in figure.axes[0].texts]
    assert {"← 5 %", "→ 20 %", "↑ < 1 %"} <= set(said)
    assert not any(text.startswith("↓") for text in said)
    named = [t.get_text() for t in figure.legends[0].get_texts()]
    assert "→ share that may leave" in named
    none = [t.get_text() for t in plot_basins(drawn.plane()).legends[0].get_texts()]
    assert "→ share that may leave" not in none


def test_names_of_two_faces_that_only_a_corner_leaves_through_do_not_meet():
    plane = drawn.plane()
    x, y = np.unravel_index(np.arange(plane.grid.size), plane.grid.shape)
    labels = np.where((x < 1) & (y < 1), ESCAPES, UNDECIDED)
    shares = np.array([[0.01, 0], [0.01, 0]])
    figure = plot_basins(dataclasses.replace(plane, labels=labels, exit_volumes=shares))
    figure.draw_without_rendering()
    named = [t for t in figure.axes[0].texts if t.get_text() in ("← 1 %", "↓ 1 %")]
    assert len(named) == 2
    left, down = (text.get_window_extent() for text in named)
    assert not left.overlaps(down)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 3e5])
def test_contours_are_round_numbers_that_share_the_page(scale):
    rng = np.random.default_rng(0)
    losses = scale * np.exp(rng.normal(size=(80, 80)))
    levels = contour_levels(losses, 9)
    assert len(levels) == 9
    assert (np.diff(levels) > 0).all()
    for level in levels:
        assert float(f"{level:.2g}") == level  # two digits do
    shares = np.diff([np.mean(losses < level) for level in levels])
    assert shares.max() < 0.25
    shifted = contour_levels(1000 + losses / scale, 9)
    assert all(float(f"{level:.5g}") == level for level in shifted)


def test_contours_of_what_has_none():
    assert contour_levels(np.full((3, 3), np.nan), 9).size == 0
    assert contour_levels(np.ones((3, 3)), 9).size == 0
    two = contour_levels(np.array([1.0, 1.0 + 2e-16]), 9)
    assert two.size == 0
    low = 1.0
    high = np.nextafter(low, 2)
    assert low <= roundest(low, high) <= high
    assert roundest(-0.024, -0.011) == -0.02
