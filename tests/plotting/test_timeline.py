"""The figure of a run, against histories whose contents are known."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lightning_morse.plotting.course import read_course
from lightning_morse.plotting.style import OKABE_ITO, identity_color, tint
from lightning_morse.plotting.timeline import MAX_NAMED, plot_timeline


def row(
    step,
    basins,
    undecided=0.1,
    switches=0,
    forks=0,
    current=0,
    failed=0,
    name="morse",
    loss=0.5,
    headroom=0.2,
    barrier=0.4,
    mu=0.95,
    why="",
):
    facts = {
        "mu": mu,
        "undecided": undecided,
        "escape": 1 - undecided - sum(basins.values()),
        "basin_switches": switches,
        "basin_forks": forks,
        "identity_current": current,
        "headroom": headroom,
        "barrier": barrier,
        "failed": failed,
    }
    scalars = {f"{name}/{k}": float(v) for k, v in facts.items()}
    loss = None if failed else loss
    return {"step": step, "epoch": 0, "loss": loss, "why": why, **scalars, "basins": basins}


def failure(step, why="ValueError: no"):
    return row(step, {0: 0.5}, failed=1, why=why)


def left_out(first, last, count=2, why="no time"):
    return {"step": first, "epoch": 0, "until": last, "count": count, "why": why}


HISTORY = [
    row(9, {0: 0.5}),
    row(19, {1: 0.3, 0: 0.4}, current=-1),
    row(29, {1: 0.6}, switches=1, current=1),
    row(49, {1: 0.5, 2: 0.1}, switches=1, current=-2),
]
WITH_GAPS = [HISTORY[0], failure(19), left_out(24, 26, 3), *HISTORY[2:]]


def words(figure):
    figure.canvas.draw()
    return [t.get_text() for t in figure.legends[0].get_texts()]


def footer(figure):
    return figure.get_supxlabel().splitlines()


def areas(figure):
    return {p.get_gid(): p for p in figure.axes[1].collections}


def lines(ax):
    return {line.get_gid(): line for line in ax.lines if line.get_gid()}


def height(area, step):
    """Lower and upper edge of an area at a step of training."""
    (path,) = area.get_paths()
    inside = [y for y in np.linspace(0.0005, 0.9995, 1000) if path.contains_point((step, y))]
    return (min(inside), max(inside)) if inside else None


def backgrounds(figure):
    """Left edge, right edge and identity of the areas behind the losses."""
    found = [p for p in figure.axes[0].patches if str(p.get_gid()).startswith("in ")]
    ends = [p.get_extents().transformed(figure.axes[0].transData.inverted()) for p in found]
    return [
        (round(e.x0, 6), round(e.x1, 6), float(p.get_gid()[3:]))
        for p, e in zip(found, ends, strict=True)
    ]


def test_the_background_of_the_loss_is_the_basin_of_the_weights():
    figure = plot_timeline(HISTORY)
    assert backgrounds(figure) == [(4, 14, 0), (14, 24, -1), (24, 39, 1), (39, 59, -2)]
    looks = {float(p.get_gid()[3:]): p for p in figure.axes[0].patches}
    for i in (0, 1):
        assert to_hex(looks[i].get_facecolor()) == tint(identity_color(i))
    assert looks[-1].get_hatch()
    assert [t.get_text() for t in figure.axes[0].texts] == ["0", "1"]


def test_loss_floor_and_way_out_are_those_of_the_rows():
    history = [
        row(9, {0: 0.5}, loss=2.0, current=-2),
        row(19, {0: 0.5}, loss=0.9, headroom=0.4, barrier=0.7),
        row(29, {0: 0.5}, loss=0.6, headroom=0.1, barrier=0.0),
    ]
    drawn = lines(plot_timeline(history).axes[0])
    assert drawn["loss"].get_xydata().tolist() == [[9, 2.0], [19, 0.9], [29, 0.6]]
    known = {k: drawn[k].get_xydata() for k in ("floor", "way out")}
    known = {k: v[np.isfinite(v[:, 1])] for k, v in known.items()}
    assert known["floor"] == pytest.approx(np.array([[14, 24, 24, 24, 34], [0.5] * 5]).T)
    assert known["way out"] == pytest.approx(np.array([[14, 24, 24], [1.2] * 3]).T)
    legend = words(plot_timeline(history))
    assert legend[:3] == ["loss", "way out", "floor"]


def test_the_floor_of_another_basin_is_another_line():
    history = [row(9, {0: 0.5}), row(19, {1: 0.5}, current=1, headroom=0.4)]
    y = lines(plot_timeline(history).axes[0])["floor"].get_ydata()
    assert np.isnan(y[2])


@pytest.mark.parametrize(("highest", "scale"), [(5.0, "linear"), (500.0, "log")])
def test_losses_of_many_magnitudes_are_logarithmic(highest, scale):
    history = [row(9, {0: 0.5}, loss=highest), row(19, {0: 0.5}, headroom=0.1)]
    ax = plot_timeline(history).axes[0]
    assert ax.get_yscale() == scale
    low, high = ax.get_ylim()
    assert low < 0.4 < max(highest, 0.9) < high


def test_negative_losses_are_no_logarithms():
    history = [row(9, {0: 0.5}, loss=-1.0), row(19, {0: 0.5}, loss=80.0)]
    assert plot_timeline(history).axes[0].get_yscale() == "linear"


def test_the_shares_are_stacked_in_the_colours_of_the_identities():
    found = areas(plot_timeline(HISTORY))
    assert list(found) == ["identity 0", "identity 1", "identity 2", "undecided", "escapes"]
    for step, at in ((9.5, HISTORY[0]), (19, HISTORY[1]), (29, HISTORY[2]), (49, HISTORY[3])):
        floor = 0.0
        for i in range(3):
            share = at["basins"].get(i, 0.0)
            where = height(found[f"identity {i}"], step)
            if share:
                assert where == pytest.approx((floor, floor + share), abs=0.002)
            else:
                assert where is None
            floor += share
        top = floor + at["morse/undecided"]
        assert height(found["undecided"], step) == pytest.approx((floor, top), abs=0.002)
        assert height(found["escapes"], step) == pytest.approx((top, 1), abs=0.002)
    for i in range(3):
        (color,) = found[f"identity {i}"].get_facecolor()
        assert to_hex(color) == OKABE_ITO[i].lower()


@pytest.mark.parametrize("event", ["switch", "fork"])
def test_a_switch_or_fork_is_a_line_to_the_left_of_its_analysis(event):
    counted = {"morse/basin_switches": 0.0, "morse/basin_forks": 0.0}
    name = {"switch": "switches", "fork": "forks"}[event]
    history = [r | counted | {f"morse/basin_{name}": float(k > 1)} for k, r in enumerate(HISTORY)]
    figure = plot_timeline(history)
    for ax in figure.axes:
        upright = [
            line for line in ax.lines if len(set(line.get_xdata())) == 1 < len(line.get_xdata())
        ]
        assert [line.get_xdata()[0] for line in upright] == [24]
    certain = {"switch": "1 certain switch", "fork": "0 certain switches · 1 fork"}[event]
    assert figure.get_suptitle() == f"Over training: 3 basins seen · {certain}"
    assert any(word.startswith(event) for word in words(figure))


def test_mu_has_dots_in_the_colours_of_the_basins():
    low = plot_timeline(HISTORY).axes[2]
    assert lines(low)["mu"].get_xydata().tolist() == [[9, 0.95], [19, 0.95], [29, 0.95], [49, 0.95]]
    (dots,) = (c for c in low.collections if c.get_gid() == "dots")
    colors = [to_hex(c) for c in dots.get_facecolors()]
    assert colors == [tint(identity_color(0)), "#ffffff", tint(identity_color(1)), "#c4c4c4"]


def test_what_mu_lacks_to_one_is_seen():
    history = [row(10 * k, {0: 0.5}, mu=mu) for k, mu in enumerate((0.0, 0.9, 0.99, 1 - 1e-7))]
    ax = plot_timeline(history).axes[2]
    places = ax.transData.transform([(0, r["morse/mu"]) for r in history])[:, 1]
    assert np.diff(places[:3]) == pytest.approx(places[1] - places[0])
    assert places[3] - places[0] == pytest.approx(7 * (places[1] - places[0]))


def test_what_is_not_there_is_not_in_the_legend():
    full = [row(9, {0: 1.0}, undecided=0), row(19, {0: 1.0}, undecided=0)]
    figure = plot_timeline(full)
    assert figure.get_suptitle() == "Over training: 1 basin seen · 0 certain switches"
    assert words(figure) == ["loss", "way out", "floor", "identity 0"]
    assert footer(figure) == []


def test_many_identities_are_drawn_and_the_largest_named():
    many = [row(k, {20 * k + i: 0.04 - 0.001 * i for i in range(20)}) for k in range(2)]
    figure = plot_timeline(many)
    assert len(areas(figure)) == 42
    named = [w for w in words(figure) if w.startswith("identity")]
    largest = sorted([0, 20, 1, 21, 2, 22], key=lambda i: (i % 20, i))[:MAX_NAMED]
    assert named == [f"identity {i}" for i in sorted(largest)]
    assert "35 more" in words(figure)


def test_basins_that_were_not_kept_are_grey():
    cut = [{**r, "morse/escape": r["morse/escape"] - 0.2} for r in HISTORY]
    figure = plot_timeline(cut)
    assert "small basins" in words(figure)
    low, high = height(areas(figure)["small basins"], 29)
    assert high - low == pytest.approx(0.2, abs=0.002)


def test_nothing_is_drawn_where_nothing_is_known():
    figure = plot_timeline(WITH_GAPS)
    assert backgrounds(figure) == [(4, 14, 0), (27.5, 39, 1), (39, 59, -2)]
    for area in areas(figure).values():
        assert height(area, 20) is None
    assert np.isnan(lines(figure.axes[0])["loss"].get_ydata()[1])
    assert np.isnan(lines(figure.axes[2])["mu"].get_ydata()[1])


def test_what_is_missing_is_marked_and_the_reasons_are_listed():
    figure = plot_timeline(WITH_GAPS)
    marks = lines(figure.axes[3])
    assert marks["failed"].get_xdata().tolist() == [19]
    assert marks["left out"].get_xdata().tolist() == [24, 26]
    assert footer(figure) == ["▬ not analysed (3 times): no time", "✕ failed: ValueError: no"]
    many = [*HISTORY, *(failure(60 + k, f"ValueError: {k % 5}") for k in range(11))]
    assert footer(plot_timeline(many)) == [
        "✕ failed (3 times): ValueError: 0",
        "✕ failed (2 times): ValueError: 1",
        "✕ failed (2 times): ValueError: 2",
        "and 2 further reasons",
    ]
    long = plot_timeline([failure(1, "E: " + "word " * 60 + "\n" * 9)])
    (line,) = footer(long)
    assert len(line) < 80


def test_rows_in_any_order_and_of_any_name():
    mixed = [*HISTORY, left_out(24, 26), failure(15)]
    one, other = read_course(mixed), read_course(mixed[::-1])
    for key, value in vars(one).items():
        np.testing.assert_equal(getattr(other, key), value)
    named = [row(9, {0: 1.0}, undecided=0, name="a"), row(19, {0: 1.0}, undecided=0, name="a")]
    assert height(areas(plot_timeline(named))["identity 0"], 14)[1] > 0.99


@pytest.mark.parametrize(
    ("history", "panels"),
    [
        ([HISTORY[0]], 3),
        ([failure(9)], 1),
        ([failure(9), failure(19)], 1),
        ([left_out(9, 9)], 1),
        ([HISTORY[0], failure(19)], 4),
        ([HISTORY[3], left_out(59, 99)], 4),
    ],
)
def test_one_analysis_or_none_that_succeeded(history, panels):
    figure = plot_timeline(history)
    figure.canvas.draw()
    assert len(figure.axes) == panels
    low, high = figure.axes[-1].get_xlim()
    assert all(low <= r["step"] <= high and r.get("until", 0) <= high for r in history)
    assert ("no analysis succeeded" in figure.get_suptitle()) == (panels == 1)


def test_histories_without_losses():
    """Of checkpoints of 0.1, and of maps, for which no loss is evaluated."""
    bare = [{k: v for k, v in r.items() if k not in ("loss", "why")} for r in HISTORY]
    figure = plot_timeline([*bare, {**bare[0], "step": 60, "morse/failed": 1.0}])
    assert "losses are not known" in [t.get_text() for t in figure.axes[0].texts]
    assert not {"loss", "floor", "way out"} & set(lines(figure.axes[0]))
    assert footer(figure) == ["✕ failed: no reason kept"]


def test_unknown_numbers_may_be_nan():
    gone = {f"morse/{k}": np.nan for k in ("identity_current", "headroom", "barrier")}
    figure = plot_timeline([HISTORY[0], {**HISTORY[1], **gone}])
    assert backgrounds(figure) == [(4, 14, 0), (14, 24, -1)]


def test_200_analyses_are_drawn():
    many = [row(k, {k % 3: 0.5}, current=k % 3, loss=1 / (k + 1)) for k in range(200)]
    figure = plot_timeline(many)
    assert len(backgrounds(figure)) == 200
    assert not figure.axes[0].texts  # no room for numbers
    assert lines(figure.axes[0])["loss"].get_marker() == "None"


def test_text_has_eight_pixels_where_tensorboard_shows_it_first():
    for history in (HISTORY, WITH_GAPS):
        figure = plot_timeline(history)
        figure.canvas.draw()
        width, tall = figure.get_size_inches()
        scale = min(400 / width, 300 / tall) / 72
        texts = [t for t in figure.findobj(lambda a: hasattr(a, "get_fontsize")) if t.get_text()]
        assert min(t.get_fontsize() for t in texts) * scale >= 8
        outside = [figure._suptitle, *figure.legends[0].get_texts()]
        for t in [*outside, *([figure._supxlabel] if history is WITH_GAPS else [])]:
            box = t.get_window_extent()
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, t.get_text()
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, t.get_text()


def test_no_row_is_refused():
    with pytest.raises(ValueError, match="at least 1 analysis, got none"):
        plot_timeline([])


def test_rows_of_something_else_are_refused():
    with pytest.raises(
        ValueError, match=r"rows of MorseMonitor\.history, got one without 'failed'"
    ):
        plot_timeline([{"step": 1}, {"step": 2}])
