"""The slice in space, drawn by WebGL in a real browser: it is there, turns, and can be missing."""

import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from lightning_morse.view.report import report
from lightning_morse.view.runs import read_runs
from tests.plotting import test_basins_and_morse_graph as drawn
from tests.view.test_front_end import (  # noqa: F401
    CHOOSE_BOX,
    LEFT,
    browser,
    center,
    run_of,
    show,
)
from tests.view.test_report import write_run

pytestmark = pytest.mark.slow

BUTTON = "document.querySelector('.head button')"
SHOWN = "!document.querySelector('.surface').hidden"
MARKS = "document.querySelector('.surface svg').innerHTML"


def picture(page):
    """Pixels of the surface, as the screen has them."""
    x, y, width, height = page.run(
        "(() => {const r = document.querySelector('.surface canvas').getBoundingClientRect();"
        "return [r.x, r.y, r.width, r.height]})()"
    )
    page.run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
    whole = np.asarray(Image.open(io.BytesIO(page.picture())).convert("RGB"))
    return whole[int(y) : int(y + height), int(x) : int(x + width)]


def in_space(page):
    page.run(f"{BUTTON}.click()")
    page.wait(SHOWN)
    return picture(page)


def test_it_is_drawn_in_the_colours_of_the_basins(show, tmp_path):  # noqa: F811
    page = show(run_of(tmp_path / "v0", steps=1))
    seen = in_space(page)
    assert page.run("document.querySelector('.flat').hidden")
    hues = seen.astype(int)
    blue = (hues[..., 2] - hues[..., 0] > 40) & (hues[..., 2] > 100)
    yellow = (hues[..., 0] - hues[..., 2] > 40) & (hues[..., 0] > 100)
    green = (hues[..., 1] - hues[..., 0] > 40) & (hues[..., 1] > 100)
    for basin in (blue, yellow, green):
        assert basin.mean() > 0.02
    ground = (seen == 255).all(axis=2)
    assert ground.mean() > 0.2  # it is a surface with air around
    page.run(f"{BUTTON}.click()")
    assert page.run("document.querySelector('.surface').hidden")
    assert not page.run("document.querySelector('.flat').hidden")


def test_the_picture_lies_on_the_surface_as_the_marks_do(show, tmp_path):  # noqa: F811
    """Around the mark of each attractor is the colour of its basin: nothing is upside down."""
    page = show(run_of(tmp_path / "v0", steps=1))
    seen = in_space(page).astype(int)
    discs = page.run(
        "[...document.querySelectorAll('.surface svg circle')]"
        ".map((c) => [c.cx.baseVal.value, c.cy.baseVal.value, getComputedStyle(c).fill])"
    )
    assert len(discs) == 3
    for x, y, fill in discs:
        own = np.array([int(v) for v in re.findall(r"\d+", fill)[:3]])
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        columns, rows = np.rint(x + 16 * np.cos(angle)), np.rint(y + 16 * np.sin(angle))
        around = np.median(seen[rows.astype(int), columns.astype(int)], axis=0)
        assert np.argmax(around) == np.argmax(own)
        assert np.argmin(around) == np.argmin(own)


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("ArrowLeft", 37),
        ("ArrowRight", 39),
        ("ArrowUp", 38),
        ("ArrowDown", 40),
        ("+", 187),
        ("-", 189),
    ],
)
def test_the_keyboard_turns_it_and_changes_no_step(show, tmp_path, key, code):  # noqa: F811
    page = show(run_of(tmp_path / "v0"))
    before = in_space(page)
    marks, at = page.run(MARKS), page.run("document.querySelector('#view').dataset.shown")
    page.run("document.querySelector('.surface svg').focus()")
    page.press(key, code)
    after = picture(page)
    assert (before != after).any(axis=2).mean() > 0.05
    assert page.run(MARKS) != marks  # what lies on it turns with it
    assert page.run("document.querySelector('#view').dataset.shown") == at
    page.press("Home", 36)
    assert (picture(page) != before).any(axis=2).mean() < 0.001


def test_the_mouse_turns_it(show, tmp_path):  # noqa: F811
    page = show(run_of(tmp_path / "v0", steps=1))
    before = in_space(page)
    x, y = center(page, ".surface svg")
    mouse = {"button": "left", "clickCount": 1}
    page.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, **mouse)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 80, y=y + 20, **mouse)
    page.call("Input.dispatchMouseEvent", type="mouseReleased", x=x + 80, y=y + 20, **mouse)
    turned = picture(page)
    assert (before != turned).any(axis=2).mean() > 0.05
    page.move(x - 60, y)  # the button is up
    assert (picture(page) != turned).any(axis=2).mean() < 0.001


@pytest.mark.parametrize(
    "make", [drawn.plane_tower, drawn.solid_tower, drawn.nothing], ids=["tower", "solid", "nothing"]
)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_other_slices_and_themes(show, tmp_path, make, theme):  # noqa: F811
    page = show(run_of(tmp_path / "v0", make=make, steps=1))
    page.theme(theme)
    seen = in_space(page)
    ground = seen[2, 2]
    assert (ground.mean() > 128) == (theme == "light")
    assert (seen != ground).any(axis=2).mean() > 0.1
    if make is not drawn.nothing:
        page.run(f"{CHOOSE_BOX}(1)")
        assert (picture(page) != seen).any(axis=2).mean() > 0.05


def test_a_step_further_it_is_still_in_space(show, tmp_path):  # noqa: F811
    results = iter(
        [drawn.plane(32), dataclasses.replace(drawn.plane(32), mean_loss=np.ones((33, 33)))]
    )
    page = show(run_of(tmp_path / "v0", steps=2, make=lambda: next(results)))
    flat = in_space(page)  # the same loss everywhere
    page.run("document.activeElement.blur()")
    page.press(*LEFT)
    page.wait("document.querySelector('#view').dataset.shown.endsWith(' 9')")
    assert page.run(SHOWN)
    assert (picture(page) != flat).any(axis=2).mean() > 0.05


def test_a_loss_that_is_nowhere_finite_spoils_nothing(show, tmp_path):  # noqa: F811
    result = dataclasses.replace(
        drawn.plane(16), mean_loss=np.full((17, 17), np.nan), loss_deviation=None
    )
    page = show(run_of(tmp_path / "v0", steps=1, make=lambda: result))
    in_space(page)
    assert page.run("document.querySelector('.surface .note').innerText") == "No finite loss here."


def test_without_webgl_the_flat_view_stays(show, tmp_path):  # noqa: F811
    page = show(run_of(tmp_path / "v0", steps=1))
    page.run(
        "(() => { const own = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
        "return kind === 'webgl' ? null : own.call(this, kind, ...rest) } })()"
    )
    page.run(f"{BUTTON}.click()")
    assert page.run(f"{BUTTON}.disabled")
    assert page.run("document.querySelector('.surface').hidden")
    assert not page.run("document.querySelector('.flat').hidden")
    assert page.run(f"{BUTTON}.title") == "This browser has no WebGL."


def test_a_context_that_is_lost_brings_the_flat_view_back(show, tmp_path):  # noqa: F811
    page = show(run_of(tmp_path / "v0", steps=1))
    in_space(page)
    page.run(
        "document.querySelector('.surface canvas').getContext('webgl')"
        ".getExtension('WEBGL_lose_context').loseContext()"
    )
    page.wait("document.querySelector('.surface').hidden")
    assert not page.run("document.querySelector('.flat').hidden")
    page.run(f"{BUTTON}.click()")
    assert page.run(f"{BUTTON}.disabled")


def test_a_line_has_no_surface(show, tmp_path):  # noqa: F811
    page = show(run_of(tmp_path / "v0", make=drawn.line, steps=1))
    assert page.run(f"{BUTTON}.hidden")


def test_a_report_of_thirty_analyses_stays_below_two_megabytes(tmp_path):
    write_run(tmp_path, 30, make=lambda: drawn.plane(128))
    assert len(report(read_runs(tmp_path)).encode()) < 2_000_000
