"""The figure of a run, against histories whose shares are known."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lightning_morse.plotting.style import OKABE_ITO, identity_color
from lightning_morse.plotting.timeline import MAX_NAMED, plot_timeline


def row(step, basins, undecided=0.1, switches=0, current=0, failed=0, name="morse"):
    facts = {
        "mu": 0.95,
        "undecided": undecided,
        "escape": 1 - undecided - sum(basins.values()),
        "basin_switches": switches,
        "identity_current": current,
        "failed": failed,
    }
    scalars = {f"{name}/{k}": float(v) for k, v in facts.items()}
    return {"step": step, "epoch": 0, **scalars, "basins": basins}


HISTORY = [
    row(9, {0: 0.5}),
    row(19, {1: 0.3, 0: 0.4}, current=-1),
    row(29, {1: 0.6}, switches=1, current=1),
    row(49, {1: 0.5, 2: 0.1}, switches=1, current=-2),
]


def words(figure):
    figure.canvas.draw()
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    return [figure.get_suptitle(), *legend]


def areas(figure):
    return {p.get_gid(): p for p in figure.axes[0].collections}


def height(area, step):
    """Lower and upper edge of an area at a step of training."""
    (path,) = area.get_paths()
    inside = [y for y in np.linspace(0.0005, 0.9995, 1000) if path.contains_point((step, y))]
    return (min(inside), max(inside)) if inside else None


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


def test_a_change_of_basins_is_a_line_to_the_left_of_its_analysis():
    figure = plot_timeline(HISTORY)
    for ax in figure.axes:
        lines = [
            line for line in ax.lines if len(set(line.get_xdata())) == 1 < len(line.get_xdata())
        ]
        assert [line.get_xdata()[0] for line in lines] == [24]
    assert words(figure)[0] == "Basins over training: 3 identities · 1 certain change of basins"
    assert "change of basins" in words(figure)[1:]


def test_the_line_of_mu_has_dots_in_the_colours_of_the_basins():
    bottom = plot_timeline(HISTORY).axes[1]
    (line,) = [line for line in bottom.lines if line.get_gid() == "mu"]
    assert line.get_xydata().tolist() == [[9, 0.95], [19, 0.95], [29, 0.95], [49, 0.95]]
    dots = [line.get_markerfacecolor() for line in bottom.lines if line.get_marker() == "o"]
    assert dots == [identity_color(0), "white", identity_color(1), "#c4c4c4"]


def test_what_is_not_there_is_not_in_the_legend():
    full = [row(9, {0: 1.0}, undecided=0), row(19, {0: 1.0}, undecided=0)]
    assert words(plot_timeline(full)) == [
        "Basins over training: 1 identity · 0 certain changes of basins",
        "identity 0",
        "basin of the weights",
    ]


def test_many_identities_are_drawn_and_the_largest_named():
    many = [row(k, {20 * k + i: 0.04 - 0.001 * i for i in range(20)}) for k in range(2)]
    figure = plot_timeline(many)
    assert len(areas(figure)) == 42
    named = [w for w in words(figure) if w.startswith("identity")]
    assert named == [f"identity {20 * k + i}" for k in range(2) for i in range(MAX_NAMED // 2)]
    assert "30 more" in words(figure)


def test_basins_that_were_not_kept_are_grey():
    cut = [{**r, "morse/escape": r["morse/escape"] - 0.2} for r in HISTORY]
    figure = plot_timeline(cut)
    assert "small basins" in words(figure)
    low, high = height(areas(figure)["others"], 29)
    assert high - low == pytest.approx(0.2, abs=0.002)


def test_failed_analyses_are_left_out_and_the_name_does_not_matter():
    rows = [row(9, {0: 1.0}, undecided=0, name="a"), row(14, {0: 0.0}, failed=1, name="a")]
    figure = plot_timeline([*rows, row(19, {0: 1.0}, undecided=0, name="a")])
    assert height(areas(figure)["identity 0"], 14)[1] > 0.99


@pytest.mark.parametrize("history", [[], HISTORY[:1], [HISTORY[0], row(19, {}, failed=1)]])
def test_too_few_analyses_are_refused(history):
    with pytest.raises(ValueError, match=r"at least 2 analyses that did not fail, got [01]"):
        plot_timeline(history)


def test_rows_of_something_else_are_refused():
    with pytest.raises(
        ValueError, match=r"rows of MorseMonitor\.history, got one without 'failed'"
    ):
        plot_timeline([{"step": 1}, {"step": 2}])
