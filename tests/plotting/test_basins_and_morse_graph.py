"""Figures state what the analysis holds, and nothing on the page covers anything else."""

import dataclasses
import itertools
import subprocess
import sys
from itertools import combinations, pairwise

import matplotlib
import matplotlib.colors as mcolors
import networkx as nx
import numpy as np
import pytest
from matplotlib.contour import QuadContourSet
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.text import Text

from lightning_morse.conley.reach import Reach
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.plotting import marks, style
from lightning_morse.plotting.basins import plot_basins
from lightning_morse.plotting.graph_choice import MAX_ATTRACTORS
from lightning_morse.plotting.merge_diagram import MAX_LANES, plot_merge_diagram
from lightning_morse.plotting.morse_graph import plot_morse_graph
from lightning_morse.plotting.style import attractor_colors
from lightning_morse.result import Ladder, MorseAnalysis, MorseSet
from lightning_morse.words import percent
from tests.towers import with_boxes


def morse_set(grid, center, loss, attractor=False, resolved=True, index=None):
    """A Morse set of the cells around a point."""
    center = np.atleast_1d(np.asarray(center, dtype=float))
    near = np.all(np.abs(grid.cell_centers() - center) <= 1.01 * grid.cell_widths, axis=1)
    cells = np.flatnonzero(near)
    if attractor and resolved:
        index = 0
    mu = 0.96 if attractor else None
    return MorseSet(cells, attractor, resolved, index, center, loss, cells.size / grid.size, mu)


def analysis(grid, sets, edges, labels, loss, mu=0.9537, diverged=None):
    """An analysis with everything a figure reads; ``loss`` is a function of points."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(sets)))
    graph.add_edges_from(edges)
    vertices = np.stack(np.meshgrid(*grid.edges, indexing="ij"), axis=-1)
    rng = np.random.default_rng(0)
    samples = grid.lower + (grid.upper - grid.lower) * rng.random((24, grid.dim))
    samples[0] = (grid.lower + grid.upper) / 2
    return MorseAnalysis(
        grid=grid,
        morse_sets=tuple(sets),
        graph=nx.transitive_reduction(graph),
        labels=np.asarray(labels, dtype=np.int32),
        diverged=np.zeros(grid.size, bool) if diverged is None else diverged,
        exit_volumes=np.zeros((grid.dim, 2)),
        mu=mu,
        confidence=0.95,
        mean_loss=loss(vertices),
        samples=samples,
        sample_losses=loss(samples),
        calibration=1.0,
        surrogate=None,
        seconds={},
        ladder=Ladder(np.array([0.95]), np.arange(sum(m.is_attractor for m in sets))[None]),
        loss_deviation=0.001 + 0.05 * np.abs(np.sin(3 * vertices).sum(-1)) * loss(vertices),
        reach=reach_of(grid, np.asarray(labels), sets),
    )


def reach_of(grid, labels, sets):
    """What cells may reach: their label, or where undecided, various sets of nearby Morse sets."""
    n, x = len(sets), grid.cell_centers()
    may = np.zeros((grid.size, n + 1), dtype=bool)
    for i, m in enumerate(sets):
        near = np.linalg.norm(x - m.center, axis=1)
        may[:, i] = near < np.quantile(near, 0.4)
    may[:, n] = x.sum(1) > 0
    may[may.sum(1) == 1] = n > 0
    certain = labels != -1
    may[certain] = labels[certain, None] % (n + 2) == np.arange(n + 1)
    kinds, of = np.unique(may, axis=0, return_inverse=True)
    return Reach(kinds, of.ravel().astype(np.int32))


def nearest(x, centers, undecided_within, escapes_beyond):
    """Labels of a landscape whose basins are the Voronoi cells of its attractors."""
    distance = np.linalg.norm(x[:, None] - np.asarray(centers, dtype=float), axis=2)
    two = np.sort(distance, axis=1)[:, :2]
    labels = np.argmin(distance, axis=1)
    labels[np.diff(two, axis=1)[:, 0] < undecided_within] = -1
    labels[two[:, 0] > escapes_beyond] = -2
    return labels


def wells(centers, depths):
    centers = np.asarray(centers, dtype=float)

    def loss(x):
        square = ((x[..., None, :] - centers) ** 2).sum(-1)
        return np.exp(1.3 * np.min(np.sqrt(square) - np.asarray(depths), axis=-1))

    return loss


WELLS = [(-1.5, -0.8), (1.6, -0.9), (0.1, 1.4)]


def plane(n=48):
    """Three attractors, four other Morse sets; undecided, escaping and diverged cells."""
    grid = CubicalGrid([-3.0, -2.5], [3.0, 2.5], (n, n))
    centers = WELLS
    x = grid.cell_centers()
    labels = nearest(x, centers, 0.35, 2.1)
    diverged = (x[:, 0] > 2.3) & (x[:, 1] > 1.7)
    sets = [
        morse_set(grid, centers[0], 0.0213, attractor=True),
        morse_set(grid, centers[1], 0.0487, attractor=True),
        morse_set(grid, centers[2], 0.113, attractor=True),
        morse_set(grid, (0.05, -0.95), 0.412, index=1),
        morse_set(grid, (-0.8, 0.35), 0.523, resolved=False),
        morse_set(grid, (0.95, 0.3), 0.561, index=1),
        morse_set(grid, (0.1, -0.05), 0.905, index=2),
    ]
    edges = [(3, 0), (3, 1), (4, 0), (4, 2), (5, 1), (5, 2), (6, 3), (6, 4), (6, 5)]
    return analysis(grid, sets, edges, labels, wells(centers, [0.3, 0.2, 0]), 0.9996, diverged)


def plane_tower(n=48):
    """The plane with a box inside on the border of two basins, and another one in that.

    Less is undecided inside, and the loss is lower by 0.01.
    """
    boxes = [((-1.0, -2.0), (1.0, 0.0), 0, 64), ((-0.3, -1.6), (0.3, -1.1), 1, 60)]
    outside = wells(WELLS, [0.3, 0.2, 0])
    return with_boxes(
        plane(n),
        boxes,
        lambda x: nearest(x, WELLS, 0.02, 2.1),
        lambda x: outside(x) - 0.01,
    )


def line_tower():
    return with_boxes(
        line(),
        [((-0.5,), (0.5,), 0, 64), ((-0.1,), (0.1,), 1, 64)],
        lambda x: np.where(np.abs(x[:, 0]) < 0.01, -1, (x[:, 0] > 0).astype(int)),
        lambda p: ((p**2 - 1) ** 2).sum(-1),
    )


def solid_tower():
    """Eight attractors; a box around the middle, where all basins meet."""
    minima = [m.center for m in double_well().morse_sets if m.is_attractor]
    return with_boxes(
        double_well(),
        [((-0.5,) * 3, (0.5,) * 3, 0, 16)],
        lambda x: nearest(x, minima, 0.02, 3.0),
        lambda p: ((p**2 - 1) ** 2).sum(-1),
    )


def line():
    grid = CubicalGrid([-2.0], [2.0], (64,))
    x = grid.cell_centers()[:, 0]
    labels = np.where(x < 0, 0, 1)
    labels[np.abs(x) < 0.15] = -1
    labels[x > 1.6] = -2
    sets = [
        morse_set(grid, -1.0, 0.01, attractor=True),
        morse_set(grid, 1.0, 0.02, attractor=True),
        morse_set(grid, 0.0, 1.0, index=1),
        morse_set(grid, 1.6, 2.4, resolved=False),
    ]
    edges = [(2, 0), (2, 1), (3, 1)]
    return analysis(grid, sets, edges, labels, lambda p: ((p**2 - 1) ** 2).sum(-1) + 0.01, 0.95)


def double_well(dim=3, n=14):
    """Sum of ``(x^2 - 1)^2`` over the axes: 2^d attractors, all 3^d critical points."""
    grid = CubicalGrid([-2.0] * dim, [2.0] * dim, (n,) * dim)
    points = sorted(np.ndindex(*(3,) * dim), key=lambda p: sum(c == 1 for c in p))
    at = [np.array(p) - 1 for p in points]
    index = [int((a == 0).sum()) for a in at]
    sets = [morse_set(grid, a, k + 0.01, k == 0, True, k) for a, k in zip(at, index, strict=True)]
    edges = [
        (i, j)
        for i, a in enumerate(at)
        for j, b in enumerate(at)
        if index[i] > index[j] and np.all((a == b) | (a == 0))
    ]
    x = grid.cell_centers()
    minima = np.array([a for a, k in zip(at, index, strict=True) if k == 0])
    labels = nearest(x, minima, 0.3, 3.0)
    return analysis(grid, sets, edges, labels, lambda p: ((p**2 - 1) ** 2).sum(-1), 1.0)


def ring(attractors):
    """Attractors on a circle, a saddle between any two neighbours, a repeller in the middle."""
    grid = CubicalGrid([-1.5, -1.5], [1.5, 1.5], (60, 60))
    angle = 2 * np.pi * np.arange(2 * attractors) / (2 * attractors)
    around = 1.1 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    centers = around[::2]
    sets = [morse_set(grid, c, 0.1 + k / 100, attractor=True) for k, c in enumerate(centers)]
    sets += [morse_set(grid, c, 0.5 + k / 50, index=1) for k, c in enumerate(around[1::2])]
    sets += [morse_set(grid, (0.0, 0.0), 2.0, index=2)]
    n = attractors
    edges = [(n + k, m) for k in range(n) for m in (k, (k + 1) % n)]
    edges += [(2 * n, n + k) for k in range(n)]
    labels = nearest(grid.cell_centers(), centers, 0.03, 0.9)
    return analysis(grid, sets, edges, labels, wells(centers, np.zeros(n)))


def crowd(total=60):
    """Three attractors below many unresolved sets in long chains."""
    rng = np.random.default_rng(4)
    grid = CubicalGrid([-3.0, -3.0], [3.0, 3.0], (50, 50))
    centers = [(-1.5, -1.0), (1.5, -1.0), (0.0, 1.5)]
    sets = [morse_set(grid, c, 0.01 * (k + 1), attractor=True) for k, c in enumerate(centers)]
    losses = np.sort(rng.uniform(0.2, 3.0, total - 3))
    for k, value in enumerate(losses):
        at = rng.uniform(-2.6, 2.6, 2)
        sets.append(morse_set(grid, at, value, resolved=k % 20 == 7, index=1 if k == 7 else None))
    edges = [
        (i, int(j))
        for i in range(3, total)
        for j in rng.choice(i if i > 8 else 3, size=2, replace=False)
    ]
    labels = nearest(grid.cell_centers(), centers, 0.9, 2.4)
    return analysis(grid, sets, edges, labels, wells(centers, [0, 0, 0]), 0.5)


def nothing(label=-2):
    grid = CubicalGrid([0.0, 0.0], [1.0, 1.0], (8, 8))
    return analysis(grid, [], [], np.full(64, label), lambda p: p[..., 0] + 2.0)


LANDSCAPES = {
    "plane": plane,
    "line": line,
    "space": double_well,
    "ring15": lambda: ring(15),
    "ring40": lambda: ring(40),
    "crowd": crowd,
    "nothing": nothing,
    "plane_tower": plane_tower,
    "line_tower": line_tower,
    "solid_tower": solid_tower,
}


def pixels(figure):
    if figure.stale:
        figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255


def colors_around(figure, ax, point, reach=6):
    """Colours of the pixels around a point of the axes, the most frequent first."""
    image = pixels(figure)
    column, up = ax.transData.transform(point).astype(int)
    row = image.shape[0] - 1 - up
    patch = image[row - reach : row + reach + 1, column - reach : column + reach + 1]
    colors, counts = np.unique(patch.reshape(-1, 3), axis=0, return_counts=True)
    return colors[np.argsort(-counts)]


def shows(figure, ax, point, color):
    return np.allclose(colors_around(figure, ax, point)[0], mcolors.to_rgb(color), atol=2 / 255)


def words(figure):
    return "\n".join(t.get_text() for t in figure.findobj(Text) if t.get_text())


def graph_layout(figure):
    """Boxes (left, bottom, right, top), labels and edges of a drawn Morse graph, in inches."""
    boxes, edges = {}, {}
    for patch in figure.axes[0].patches:
        _, *ids = patch.get_gid().split()
        if isinstance(patch, FancyBboxPatch):
            x, y = patch.get_x(), patch.get_y()
            boxes[int(ids[0])] = (x, y, x + patch.get_width(), y + patch.get_height())
        elif isinstance(patch, FancyArrowPatch):
            edges[tuple(map(int, ids))] = patch._path_original.vertices
    texts = {int(t.get_gid().split()[1]): t for t in figure.axes[0].texts}
    return boxes, texts, edges


@pytest.fixture(params=LANDSCAPES)
def landscape(request):
    return LANDSCAPES[request.param]()


class TestColors:
    def test_first_are_okabe_and_ito(self):
        assert attractor_colors(plane()) == {0: "#0072B2", 1: "#E69F00", 2: "#009E73"}

    @pytest.mark.parametrize("count", [7, 8, 15, 40])
    def test_any_number_is_distinct(self, count):
        result = ring(count)
        colors = attractor_colors(result)
        assert tuple(colors) == result.attractors
        lab = style._oklab(np.array([mcolors.to_rgb(c) for c in colors.values()]))
        apart = [np.linalg.norm(a - b) for a, b in combinations(lab, 2)]
        assert min(apart) > 0.07

    def test_more_attractors_do_not_change_the_earlier_colors(self):
        few, many = attractor_colors(ring(15)), attractor_colors(ring(40))
        assert all(many[i] == c for i, c in few.items())

    def test_no_attractor(self):
        assert attractor_colors(nothing()) == {}
        assert attractor_colors(nothing(), {}) == {}

    def test_an_identity_has_its_color_in_every_figure(self):
        known = {0: 2, 1: 9, 2: 0}
        colors = attractor_colors(plane(), known)
        assert colors == {a: attractor_colors(ring(15))[i] for a, i in known.items()}
        basins = plot_basins(plane(), identities=known)
        ax = basins.axes[0]
        for i in (0, 1, 2):
            assert shows(basins, ax, plane().morse_sets[i].center, colors[i])
        assert "attractor 1 (identity 9): " in words(basins)
        graph = plot_morse_graph(plane(), known)
        faces = {p.get_gid(): p.get_facecolor() for p in graph.axes[0].patches}
        assert all(mcolors.to_hex(faces[f"box {i}"]) == colors[i].lower() for i in colors)
        merge = plot_merge_diagram(three(), known)
        lines = {line.get_gid(): line.get_color() for line in merge.axes[0].lines}
        assert all(lines[f"line {i}"] == colors[i] for i in colors)

    def test_identities_that_are_the_numbers_are_not_named(self):
        assert "identity" not in words(plot_basins(plane(), identities={0: 0, 1: 1, 2: 2}))

    @pytest.mark.parametrize("known", [{}, {0: 0, 1: 1}, {0: 0, 1: 1, 2: -1}, {0: 0, 1: 1, 5: 2}])
    def test_identities_of_other_attractors_are_refused(self, known):
        for plot in (plot_basins, plot_morse_graph, plot_merge_diagram):
            with pytest.raises(ValueError, match=r"for each of the attractors \(0, 1, 2\), got"):
                plot(plane(), identities=known)


class TestWords:
    @pytest.mark.parametrize(
        ("mu", "said"),
        [
            (0.99996, "1 - 4e-05"),
            (0.95879, "0.95"),
            (0.57, "0.57"),
            (1.0, "1 - 2e-16"),
            (0.0, "0"),
        ],
    )
    def test_mu_is_never_rounded_up(self, mu, said):
        assert style.probability_bound(mu) == f"mu ≥ {said}"

    @pytest.mark.parametrize(
        ("share", "said"),
        [(0, "0 %"), (1e-6, "< 1 %"), (0.07, "7 %"), (0.9999, "> 99 %"), (1, "100 %")],
    )
    def test_a_little_is_not_nothing(self, share, said):
        assert percent(share) == said


@pytest.mark.parametrize("plot", [plot_basins, plot_morse_graph, plot_merge_diagram])
def test_no_mu_where_nothing_is_claimed(plot):
    """Something is unresolved and nothing certain, or the samples refute the surrogate."""
    hidden = [morse_set(plane(16).grid, (0, 0), 1.0, resolved=False)]
    grid = plane(16).grid
    vague = analysis(grid, hidden, [], np.full(grid.size, -1), lambda x: x[..., 0], mu=0.0)
    for result, claim in (
        (vague, "no certain attractor"),
        (dataclasses.replace(plane(16), mu=0.0), "3 attractors, not certain"),
    ):
        figure = plot(result)
        said = "\n".join([figure.get_suptitle(), words(figure)])
        assert claim in said
        assert "mu" not in said.split()
    assert "mu" in words(plot(plane(16))).split()


class TestBasins:
    def test_colors_of_the_plane(self):
        result = plane()
        figure = plot_basins(result)
        ax = figure.axes[0]
        for i, point in enumerate([(-2.2, -1.3), (2.2, -1.4), (-0.6, 1.8)]):
            assert result.basin_of([point]).item() == i
            assert shows(figure, ax, point, style.tint(attractor_colors(result)[i]))
            assert shows(figure, ax, result.morse_sets[i].center, attractor_colors(result)[i])
        assert result.basin_of([(-2.7, 2.0)]).item() == -2
        assert shows(figure, ax, (-2.7, 2.0), style.ESCAPE_COLOR)
        assert shows(figure, ax, (2.6, 2.1), style.DIVERGED_COLOR)
        assert result.basin_of([(0.1, -1.6)]).item() == -1
        hatched = colors_around(figure, ax, (0.1, -1.6))
        assert np.allclose(hatched[0], 1)
        assert len(hatched) > 5
        assert np.ptp(hatched, axis=1).max() < 0.02  # no tint of any basin

    def test_says_what_is_known(self):
        result = plane()
        figure = plot_basins(
            result,
            trajectory=[(-2.5, -2.0), (-1.4, -0.7)],
            current=(-1.4, -0.7),
            axis_labels=("PC 1 (61 %)", "PC 2 (22 %)"),
            title="epoch 3",
            verdict="in the basin of attractor 0",
        )
        assert figure.get_suptitle() == (
            "epoch 3\nin the basin of attractor 0\n"
            "at least 3 attractors · mu ≥ 0.9996 · undecided 10 %, escape 10 %"
        )
        ax = figure.axes[0]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("PC 1 (61 %)", "PC 2 (22 %)")
        said = [t.get_text() for t in figure.legends[0].get_texts()]
        assert said == [
            *(f"attractor {i}: {s}" for i, s in enumerate(("29 %", "27 %", "24 %"))),
            *("may hide a minimum", "repeller", "saddle"),
            *("undecided", "escapes", "diverged", "trajectory", "its start", "now"),
        ]
        assert {t.get_text() for t in ax.texts} >= set("0123456")

    def test_current_outside_the_box_is_said(self):
        assert "now: outside the box" in words(plot_basins(plane(), current=(9.0, 0.0)))

    def test_many_attractors_are_summed_up_in_the_legend(self):
        said = [t.get_text() for t in plot_basins(ring(15)).legends[0].get_texts()]
        assert sum(s.startswith("attractor ") for s in said) == marks.MAX_LEGEND
        assert any(s.startswith(f"{15 - marks.MAX_LEGEND} more: ") for s in said)

    def test_line(self):
        result = line()
        figure = plot_basins(result, trajectory=[[-1.9], [-1.2]], current=[-1.2])
        ax = figure.axes[0]
        colors = attractor_colors(result)
        assert shows(figure, ax, (-1.0, 5.0), style.tint(colors[0]))
        assert shows(figure, ax, (1.0, 5.0), style.tint(colors[1]))
        assert shows(figure, ax, (1.75, 7.0), style.ESCAPE_COLOR)
        assert np.ptp(colors_around(figure, ax, (0.0, 5.0), 3), axis=1).max() < 0.02
        assert ax.get_xlim() == (-2.0, 2.0)

    @pytest.mark.parametrize("current", [None, (1.0, -1.0, 1.0)])
    def test_each_section_shows_the_basins_of_its_plane(self, current):
        result = double_well()
        figure = plot_basins(result, current=current)
        point = result.morse_sets[0].center if current is None else np.array(current)
        colors = attractor_colors(result)
        for ax, axes in zip(figure.axes, [(0, 1), (1, 2), (2, 0)], strict=True):
            fixed = 3 - sum(axes)
            assert ax.get_title() == f"at direction {fixed + 1} = {point[fixed]:.2g}"
            assert ax.get_xlabel() == f"direction {axes[0] + 1}"
            assert ax.get_ylabel() == f"direction {axes[1] + 1}"
            for corner in [(-1.75, -0.5), (1.75, -0.5), (-1.75, 0.55), (1.75, 0.55)]:
                full = point.copy()
                full[list(axes)] = corner
                basin = result.basin_of([full]).item()
                assert basin >= 0
                assert shows(figure, ax, corner, style.tint(colors[basin]))

    def test_sections_without_attractor_pass_through_the_centre(self):
        grid = CubicalGrid([0.0, 0.0, 2.0], [1.0, 1.0, 4.0], (4, 4, 4))
        result = analysis(grid, [], [], np.full(64, -2), lambda p: p.sum(-1))
        assert plot_basins(result).axes[0].get_title() == "at direction 3 = 3"

    def test_section_interpolates_the_loss(self):
        grid = CubicalGrid([0.0] * 3, [1.0] * 3, (4, 4, 4))
        result = analysis(grid, [], [], np.full(64, -2), lambda p: p[..., 0] + 10 * p[..., 2])
        ax = plot_basins(result, current=(0.5, 0.5, 0.6)).axes[0]
        (drawn,) = (c for c in ax.collections if isinstance(c, QuadContourSet))
        assert drawn.zmin == pytest.approx(6.0)
        assert drawn.zmax == pytest.approx(7.0)

    @pytest.mark.parametrize(("side", "aspect"), [(2.0, 1.0), (40.0, "auto")])
    def test_aspect(self, side, aspect):
        grid = CubicalGrid([0.0, 0.0], [1.0, side], (4, 4))
        result = analysis(grid, [], [], np.full(16, -1), lambda p: p[..., 0])
        assert plot_basins(result).axes[0].get_aspect() == aspect

    @pytest.mark.parametrize(
        "loss",
        [
            lambda p: np.zeros(p.shape[:-1]),
            lambda p: np.where((p == 0).all(-1), 1.0, 0.0),
            lambda p: np.where(p[..., 0] > 0.5, np.nan, p.sum(-1)),
            lambda p: np.full(p.shape[:-1], np.nan),
        ],
    )
    @pytest.mark.parametrize("dim", [1, 2])
    @pytest.mark.filterwarnings("error")
    def test_flat_or_broken_losses_are_drawn_without_complaint(self, loss, dim):
        grid = CubicalGrid([0.0] * dim, [1.0] * dim, (6,) * dim)
        result = analysis(grid, [], [], np.full(6**dim, -1), loss)
        plot_basins(result).canvas.draw()

    def test_refuses(self):
        with pytest.raises(ValueError, match="1, 2 or 3 dimensions, but the analysis has 4"):
            plot_basins(double_well(4, 4))
        with pytest.raises(ValueError, match=r"trajectory must have shape \(T, 2\), got \(2,\)"):
            plot_basins(plane(), trajectory=[0.0, 1.0])
        with pytest.raises(ValueError, match="current must be 2 finite numbers"):
            plot_basins(plane(), current=[0.0, np.nan])
        with pytest.raises(ValueError, match="axis_labels must be 2 labels"):
            plot_basins(plane(), axis_labels=["one"])

    def test_legend_and_title_cover_nothing(self, landscape):
        figure = plot_basins(landscape, title="epoch 7", current=np.zeros(landscape.grid.dim))
        figure.canvas.draw()
        legend = figure.legends[0].get_window_extent()
        assert figure.bbox.contains(*legend.min)
        assert figure.bbox.contains(*legend.max)
        title = figure._suptitle.get_window_extent()
        assert 0 <= title.x0 < title.x1 <= figure.bbox.x1
        assert not title.overlaps(legend)
        for ax in figure.axes:
            if ax.axison:
                assert not ax.get_tightbbox().overlaps(legend)
                assert not ax.get_tightbbox().overlaps(title)


def frames(ax):
    """Lower left and upper right corners of the frames in a panel."""
    drawn = [p for p in ax.patches if isinstance(p, Rectangle)]
    return [[p.get_xy(), (p.get_x() + p.get_width(), p.get_y() + p.get_height())] for p in drawn]


class TestBoxesInside:
    def test_are_drawn_in_place_at_their_own_resolution(self):
        result, wide = plane_tower(), plane()
        main, beside = plot_basins(result).axes
        assert plot_basins(wide).axes[1:] == []
        colors = attractor_colors(result)
        # Undecided in the outermost grid, decided in the box inside and in the one inside that.
        for point, basin in [((-0.07, -1.87), 0), ((0.2, -1.9), 1), ((0.1, -1.45), 1)]:
            assert wide.basin_of([point]).item() == -1
            assert result.basin_of([point]).item() == basin
            assert shows(main.figure, main, point, style.tint(colors[basin]))
        assert shows(main.figure, beside, (0.1, -1.45), style.tint(colors[1]))
        row = np.stack([np.linspace(-0.29, 0.29, 581), np.full(581, -1.15)], axis=1)
        middle = row[result.basin_of(row) == -1].mean(axis=0)
        assert result.basin_of([middle]).item() == -1
        hatched = colors_around(main.figure, beside, middle, 2)
        assert np.ptp(hatched, axis=1).max() < 0.02

    def test_have_a_frame_each_and_the_innermost_is_enlarged(self):
        result = plane_tower()
        main, beside = plot_basins(result, current=(0.1, -1.2)).axes
        corners = [[b.grid.lower, b.grid.upper] for b in result.inner]
        np.testing.assert_allclose(frames(main), corners)
        assert frames(beside) == []
        assert beside.get_xlim() == tuple(result.inner[1].grid.edges[0][[0, -1]])
        assert beside.get_title() == "inside box 2: 1/9.3 of the width"

    @pytest.mark.parametrize(
        ("current", "box"), [((0.1, -1.2), 2), ((0.8, -0.5), 1), ((2.0, 2.0), 2), (None, 2)]
    )
    def test_the_one_at_the_weights_is_enlarged_else_the_last(self, current, box):
        result = plane_tower()  # no attractor lies in a box inside
        beside = plot_basins(result, current=current).axes[1]
        grid = result.boxes[box].grid
        assert beside.get_xlim() == (grid.lower[0], grid.upper[0])
        assert beside.get_ylim() == (grid.lower[1], grid.upper[1])
        assert len(frames(beside)) == 2 - box

    def test_the_one_at_the_lowest_attractor_is_enlarged_without_weights(self):
        boxes = [((-2.0, -1.2), (-1.0, -0.3), 0, 64), ((1.0, -0.5), (2.0, 1.0), 0, 64)]
        result = with_boxes(plane(), boxes, lambda x: np.zeros(len(x)), lambda p: p.sum(-1))
        assert plot_basins(result).axes[1].get_title().startswith("inside box 1:")
        title = plot_basins(result, current=(1.5, 0.0)).axes[1].get_title()
        assert title.startswith("inside box 2:")

    def test_contours_are_of_the_finest_box_and_of_no_other(self):
        result = plane_tower()
        main, beside = plot_basins(result).axes
        of_main = [c for c in main.collections if isinstance(c, QuadContourSet)]
        inner, cell = result.inner[0].grid, result.grid.cell_widths
        for path in of_main[0].get_paths():
            x = path.vertices  # in the cells at the corners they may go on under the box
            inside = np.all((x > inner.lower + cell) & (x < inner.upper - cell), axis=1)
            assert not inside.any()
        assert set(of_main[1].levels) <= set(of_main[0].levels)
        (own,) = (c for c in beside.collections if isinstance(c, QuadContourSet))
        assert own.zmin == pytest.approx(result.inner[1].mean_loss.min())
        assert 7 <= len(own.levels) <= 9

    def test_the_panel_beside_hides_nothing_of_the_whole(self):
        figure = plot_basins(plane_tower(), current=(0.1, -1.2))
        figure.canvas.draw()
        main, beside = (ax.get_window_extent() for ax in figure.axes)
        assert not main.overlaps(beside)

    def test_weights_at_the_edge_of_a_box_are_seen_whole(self):
        result = plane_tower()
        x, y = result.inner[1].grid.lower
        _, beside = plot_basins(result, current=(x, y + 0.2)).axes
        (star,) = (line for line in beside.lines if line.get_marker() == "*")
        assert not star.get_clip_on()
        beside = plot_basins(result, current=(9.0, 0.0)).axes[1]
        (star,) = (line for line in beside.lines if line.get_marker() == "*")
        assert star.get_clip_on()

    def test_a_curve_takes_the_finest_loss_everywhere(self):
        result = line_tower()
        figure = plot_basins(result, current=[0.05])
        main, beside = figure.axes
        curve = max(main.lines, key=lambda drawn: len(drawn.get_xdata()))
        x = curve.get_xdata()
        assert (np.diff(x) > 0).all()
        inside = np.abs(x) <= 0.5
        shift = np.where(inside, 0.0, 0.01)  # of the whole, see line()
        np.testing.assert_allclose(curve.get_ydata(), (x**2 - 1) ** 2 + shift, atol=1e-12)
        assert beside.get_xlim() == tuple(result.inner[1].grid.edges[0][[0, -1]])
        tint = style.tint(attractor_colors(result)[1])
        assert line().basin_of([[0.06]]).item() == -1
        assert shows(figure, beside, (0.06, sum(beside.get_ylim()) / 2), tint)

    def test_sections_show_the_box_that_tells_more(self):
        result = solid_tower()
        grid = result.inner[0].grid
        now = (grid.lower + grid.upper) / 2
        ax, legend = (figure := plot_basins(result, current=now)).axes[0], figure.legends[0]
        assert ax.get_xlim() == (grid.lower[0], grid.upper[0])
        assert legend.get_title().get_text().startswith("inside box 1: 1/3.5 of the width; ")
        open_ = dataclasses.replace(result.inner[0], labels=np.full(grid.size, -1))
        figure = plot_basins(dataclasses.replace(result, inner=(open_,)), current=(0.1, 0.1, 0.1))
        assert figure.axes[0].get_xlim() == (-2.0, 2.0)
        assert len(frames(figure.axes[0])) == 1
        assert figure.legends[0].get_title().get_text().startswith("sections: ")
        away = plot_basins(dataclasses.replace(result, inner=(open_,)), current=(1.5, 1.5, 1.5))
        assert frames(away.axes[0]) == []  # the plane does not meet the box

    def test_without_current_weights_sections_show_the_whole_box(self):
        result = solid_tower()
        (lowest, *_), figure = result.attractors, plot_basins(solid_tower())
        for ax, fixed in zip(figure.axes, (2, 0, 1), strict=True):
            assert ax.get_xlim() == ax.get_ylim() == (-2.0, 2.0)
            at = result.morse_sets[lowest].center[fixed]
            assert ax.get_title() == f"at direction {fixed + 1} = {at:.2g}"

    def test_the_legend_of_sections_names_what_they_meet(self):
        result = double_well()
        top = next(i for i, m in enumerate(result.morse_sets) if m.index == 3)
        named = {t.get_text().partition(":")[0] for t in plot_basins(result).legends[0].get_texts()}
        assert {"attractor 0", "saddle (index 1)", "saddle (index 2)"} <= named
        assert "repeller" not in named  # it is in the middle
        away = [a for a in result.attractors if (result.morse_sets[a].center > 0).all()]
        assert not named & {f"attractor {a}" for a in away}
        figure = plot_basins(result, current=result.morse_sets[top].center)
        assert "repeller" in {t.get_text() for t in figure.legends[0].get_texts()}

    @pytest.mark.parametrize("width", [1.0, 4.0, 1e-3, 1e4])
    def test_ticks_of_sections_do_not_meet(self, width):
        grid = CubicalGrid([-1.5 * width] * 3, [-0.5 * width] * 3, (4, 4, 4))
        result = analysis(grid, [], [], np.full(64, -2), lambda p: p.sum(-1))
        figure = plot_basins(result)
        figure.draw_without_rendering()
        for ax in figure.axes:
            boxes = [t.get_window_extent() for t in ax.get_xticklabels() if t.get_text()]
            assert boxes
            assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
            factor = ax.xaxis.get_offset_text()
            assert not factor.get_visible() or not factor.get_text()
            assert (f"({factor.get_text()})" in ax.get_xlabel()) == bool(factor.get_text())

    def test_the_legend_names_areas_that_only_a_box_inside_has(self):
        boxes = [((0.3, 0.3), (0.6, 0.6), 0, 8)]
        inside = with_boxes(nothing(-1), boxes, lambda x: np.full(len(x), -2), lambda p: p.sum(-1))
        said = [t.get_text() for t in plot_basins(inside).legends[0].get_texts()]
        assert said == ["undecided", "escapes"]


class TestMorseGraph:
    def test_layout(self, landscape):
        if not landscape.morse_sets:
            return
        figure = plot_morse_graph(landscape)
        figure.canvas.draw()
        boxes, texts, edges = graph_layout(figure)
        page = figure.get_size_inches()
        for i, (x0, y0, x1, y1) in boxes.items():
            assert 0 <= x0 < x1 <= page[0]
            assert 0 <= y0 < y1 <= page[1]
            extent = texts[i].get_window_extent().transformed(figure.dpi_scale_trans.inverted())
            assert x0 < extent.x0 < extent.x1 < x1
            assert y0 < extent.y0 < extent.y1 < y1
        for a, b in combinations(boxes.values(), 2):
            assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
        for (u, v), line in edges.items():
            assert np.all(np.diff(line[:, 1]) < 0), f"edge {u} -> {v} does not fall all the way"
            assert line[0, 1] == pytest.approx(boxes[u][1])
            assert line[-1, 1] == pytest.approx(boxes[v][3])
            points = np.concatenate([np.linspace(a, b, 30) for a, b in pairwise(line)])
            for n, (x0, y0, x1, y1) in boxes.items():
                within = (points > (x0, y0 + 1e-9)) & (points < (x1, y1 - 1e-9))
                assert not within.all(axis=1).any(), f"edge {u} -> {v} passes through {n}"
        inches = figure.dpi_scale_trans.inverted()
        for text in figure.texts:
            extent = text.get_window_extent().transformed(inches)
            assert 0 <= extent.x0 < extent.x1 <= page[0]
            assert all(extent.y0 > b[3] or extent.y1 < b[1] for b in boxes.values())

    def test_nodes_say_what_they_are(self):
        result = plane()
        figure = plot_morse_graph(result)
        boxes, texts, edges = graph_layout(figure)
        assert set(edges) == set(result.graph.edges)
        assert texts[0].get_text() == "0\nloss 0.0213\n29 % of box"
        assert texts[3].get_text() == "3\nloss 0.412\nsaddle"
        assert texts[4].get_text() == "4\nloss 0.523\nmay hide a\nminimum"
        assert texts[6].get_text() == "6\nloss 0.905\nrepeller"
        lowest = min(b[1] for b in boxes.values())
        patches = {p.get_gid(): p for p in figure.axes[0].patches}
        for i, m in enumerate(result.morse_sets):
            face = mcolors.to_hex(patches[f"box {i}"].get_facecolor())
            assert face == attractor_colors(result).get(i, "#ffffff").lower()
            assert (boxes[i][1] == pytest.approx(lowest)) == m.is_attractor
            assert (patches[f"box {i}"].get_linestyle() == "-") == m.resolved
        assert "at least 3 attractors · mu ≥ 0.9996" in words(figure)

    @pytest.mark.parametrize(
        "make", [lambda: crowd(60), lambda: crowd(25), lambda: ring(15), lambda: ring(40)]
    )
    def test_a_crowd_is_summed_up_not_silently(self, make):
        result = make()
        figure = plot_morse_graph(result)
        boxes, _, edges = graph_layout(figure)
        hidden = set(range(result.n_morse_sets)) - set(boxes)
        lost = len(hidden & set(result.attractors))
        which = f", {lost} of them attractors" if lost else ""
        assert f"and {len(hidden)} more{which}, none with a higher barrier" in words(figure)
        assert len(boxes) >= 14
        assert lost == max(0, result.n_attractors - MAX_ATTRACTORS)
        barriers = {a: result.barrier(a) for a in result.attractors}
        if lost:
            least = min(barriers[a] for a in barriers if a in boxes)
            assert max(barriers[a] for a in hidden & set(barriers)) <= least
        drawn = nx.DiGraph(list(edges))
        for u in boxes:
            below = nx.descendants(drawn, u) if u in drawn else set()
            assert below == nx.descendants(result.graph, u) & set(boxes)

    def test_all_that_fit_are_drawn_briefly_if_need_be(self):
        figure = plot_morse_graph(ring(8))
        boxes, texts, _ = graph_layout(figure)
        assert len(boxes) == 17
        assert texts[8].get_text() == "8: saddle\n0.5"
        assert texts[0].get_text() == "0: 10 %\n0.1"
        assert "second number: the loss" in words(figure)
        assert "more" not in words(figure)
        assert "second number" not in words(plot_morse_graph(plane()))

    def test_what_may_hide_a_minimum_is_dashed_and_briefly_a_number(self):
        figure = plot_morse_graph(crowd(60))
        boxes, texts, _ = graph_layout(figure)
        patches = {p.get_gid(): p for p in figure.axes[0].patches}
        dashed = {f"box {i}" for i in boxes if patches[f"box {i}"].get_linestyle() != "-"}
        sets = crowd(60).morse_sets
        assert dashed == {f"box {i}" for i in boxes if not sets[i].resolved}
        for i in boxes:
            if not sets[i].resolved:
                assert texts[i].get_text() == f"{i}\n{sets[i].loss:.3g}"
        assert "dashed: may hide a minimum" in words(figure)

    @pytest.mark.parametrize(
        ("labels", "sentence"),
        [
            (-2, "no Morse set: every trajectory leaves the box"),
            (-1, "no Morse set: nothing is certain"),
            (np.repeat([-1, -2], 32), "no Morse set: 50 % of the box escapes"),
        ],
    )
    def test_nothing(self, labels, sentence):
        assert sentence in words(plot_morse_graph(nothing(labels)))

    def test_one_set_only(self):
        grid = CubicalGrid([-1.0], [1.0], (8,))
        sets = [morse_set(grid, 0.0, 1.0, index=1)]
        result = analysis(grid, sets, [], np.full(8, -2), lambda p: -(p**2).sum(-1))
        assert "repeller" in words(plot_morse_graph(result))


def laddered(result, events, mus, mu=0.96, n_levels=11):
    """The analysis with a filtration: at level ``j`` block ``a`` joins ``b``, or vanishes (-1)."""
    blocks = np.tile(np.arange(result.n_attractors), (n_levels, 1))
    for j, a, b in events:
        blocks[j:] = np.where(blocks[j:] == a, b, blocks[j:])
    sets = list(result.morse_sets)
    for i, value in enumerate(mus):
        sets[i] = dataclasses.replace(sets[i], mu=value)
    climb = Ladder(1 - np.geomspace(0.05, 1e-6, n_levels), blocks)
    return dataclasses.replace(result, ladder=climb, mu=mu, morse_sets=tuple(sets))


def three():
    """Two of three attractors merge at level 4; their block vanishes at level 8."""
    return laddered(plane(), [(4, 2, 1), (8, 1, -1)], [1 - 3.21e-8, 0.9995, 0.9991], 0.9985)


def twelve():
    events = [(1, 11, -1), (2, 5, 3), (2, 9, 8), (4, 3, 0), (5, 10, -1), (6, 8, 0), (9, 0, -1)]
    mus = np.append(1 - np.geomspace(1e-9, 0.03, 11), 0.951)
    return laddered(ring(12), events, mus)


LADDERS = {
    "none": nothing,
    "one": lambda: laddered(
        analysis(
            CubicalGrid([-1.0], [1.0], (8,)),
            [morse_set(CubicalGrid([-1.0], [1.0], (8,)), 0.0, 1.0, attractor=True)],
            *([], np.zeros(8), lambda p: (p**2).sum(-1)),
        ),
        *([], [1 - 2e-8], 1 - 1e-6),
    ),
    "three": three,
    "twelve": twelve,
    "forty": lambda: laddered(ring(40), [(3, k, k - 1) for k in range(39, 20, -2)], [0.96] * 40),
    "no levels": plane,
    "very sure": lambda: dataclasses.replace(
        laddered(plane(), [], [1 - 1e-12] * 3, 1 - 2e-11, 1),
        ladder=Ladder(np.array([1 - 3.3e-11]), np.arange(3)[None]),
        confidence=1 - 3.3e-11,
    ),
    "half": lambda: dataclasses.replace(
        plane(), ladder=Ladder(np.array([0.5]), np.arange(3)[None]), confidence=0.5, mu=0.55
    ),
}


class TestMergeDiagram:
    def lines(self, figure):
        return {ln.get_gid(): ln for ln in figure.axes[0].lines if ln.get_gid()}

    def test_lines_end_where_attractors_merge_or_vanish(self):
        result = three()
        lines = self.lines(plot_merge_diagram(result))
        x = -np.log10(1 - result.ladder.levels)
        assert [lines[f"line {a}"].get_xdata()[1] for a in range(3)] == pytest.approx(x[[-1, 7, 3]])
        assert lines["merge 2"].get_xdata() == pytest.approx(x[[3, 4]])
        assert lines["merge 2"].get_ydata().tolist() == [
            lines["line 2"].get_ydata()[0],
            lines["line 1"].get_ydata()[0],
        ]
        assert x[7] < lines["vanished 1"].get_xdata()[0] < x[8]
        assert "vanished 2" not in lines  # merged before
        assert "vanished 0" not in lines

    def test_marks_each_confidence_on_the_scale_of_failures(self):
        result = three()
        lines = self.lines(plot_merge_diagram(result))
        for a in range(3):
            mu = result.morse_sets[a].mu
            assert lines[f"alone {a}"].get_xdata()[0] == pytest.approx(-np.log10(1 - mu))
        assert lines["mu"].get_xdata()[0] == pytest.approx(-np.log10(1 - 0.9985))
        assert lines["asked"].get_xdata()[0] == pytest.approx(-np.log10(0.05))
        ticks = {t.get_text() for t in plot_merge_diagram(result).axes[0].get_xticklabels()}
        assert {"0.99", "0.9999", "$1 - 10^{-6}$"} <= ticks

    def test_says_what_is_known(self):
        said = words(plot_merge_diagram(three())).split("\n")
        assert "Attractors against confidence: at least 3 attractors · mu ≥ 0.998" in said
        assert [s for s in said if s in ("1", "2", "3")] == ["3", "2", "1"]  # numbers of blocks
        assert {"attractor 0", "1 - 4e-08", "0.9995", "asked for: 0.95"} <= set(said)
        assert "vanishes: may leave the box" in said

    def test_colors_are_those_of_the_basins(self):
        result = twelve()
        lines = self.lines(plot_merge_diagram(result))
        for a, color in attractor_colors(result).items():
            assert mcolors.to_hex(lines[f"line {a}"].get_color()) == color.lower()
            assert mcolors.to_hex(lines[f"alone {a}"].get_markerfacecolor()) == color.lower()

    def test_a_line_that_joins_another_crosses_none_that_stands(self):
        result = twelve()
        lines = self.lines(plot_merge_diagram(result))
        lanes = {a: lines[f"line {a}"].get_ydata()[0] for a in range(12)}
        assert sorted(lanes.values()) == list(range(12))
        merges = [line.get_ydata() for name, line in lines.items() if name.startswith("merge")]
        ends = [line.get_xdata() for name, line in lines.items() if name.startswith("merge")]
        assert len(merges) == 4
        for (y0, y1), (start, _) in zip(merges, ends, strict=True):
            for a, y in lanes.items():
                if min(y0, y1) < y < max(y0, y1):
                    assert lines[f"line {a}"].get_xdata()[1] <= start + 1e-9

    @pytest.mark.parametrize("name", LADDERS)
    def test_no_text_covers_another_or_leaves_the_page(self, name):
        figure = plot_merge_diagram(LADDERS[name]())
        figure.canvas.draw()
        texts = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
        boxes = [t.get_window_extent() for t in texts]
        for text, box in zip(texts, boxes, strict=True):
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text
        for (s, a), (t, b) in combinations(zip(texts, boxes, strict=True), 2):
            assert not a.overlaps(b), (s, t)

    def test_a_crowd_is_summed_up_not_silently(self):
        figure = plot_merge_diagram(LADDERS["forty"]())
        assert f"{40 - MAX_LANES} of higher loss not drawn" in words(figure)
        assert sum(name.startswith("line") for name in self.lines(figure)) == MAX_LANES

    def test_nothing(self):
        assert "no attractor stands" in words(plot_merge_diagram(nothing()))
        refuted = dataclasses.replace(plane(), mu=0.0)
        assert "the samples refute the surrogate" in words(plot_merge_diagram(refuted))


class TestManners:
    @pytest.mark.slow
    def test_every_figure_can_be_saved(self, landscape, tmp_path):
        for k, figure in enumerate(
            [plot_basins(landscape), plot_morse_graph(landscape), plot_merge_diagram(landscape)]
        ):
            figure.savefig(tmp_path / f"{k}.png")
            assert (tmp_path / f"{k}.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize("plot", [plot_basins, plot_morse_graph, plot_merge_diagram])
    def test_user_settings_neither_matter_nor_change(self, plot):
        result = plane(16)
        expected = pixels(plot(result))
        hostile = {
            "font.size": 30,
            "font.family": "monospace",
            "hatch.linewidth": 9,
            "axes.facecolor": "red",
            "axes.spines.top": False,
            "lines.linewidth": 7,
            "axes.unicode_minus": False,
            "figure.dpi": 37,
            "figure.constrained_layout.use": True,
        }
        with matplotlib.rc_context(hostile):
            before = dict(matplotlib.rcParams)
            drawn = pixels(plot(result))
            assert dict(matplotlib.rcParams) == before
        np.testing.assert_array_equal(drawn, expected)

    def test_loads_neither_pyplot_nor_torch(self):
        code = (
            "import sys, lightning_morse.plotting.merge_diagram\n"
            "bad = {'matplotlib.pyplot', 'torch', 'lightning', 'pytorch_lightning'}\n"
            "assert not bad & set(sys.modules), bad & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
