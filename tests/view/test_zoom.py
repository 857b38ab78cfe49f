"""Into the boxes inside a slice and out again, by mouse and by keyboard alone."""

import pytest

from tests.plotting import test_basins_and_morse_graph as drawn
from tests.view.test_front_end import (  # noqa: F401
    CANVAS,
    ENTER,
    SHOWN_BOX,
    browser,
    run_of,
    show,
    slice_place,
)

pytestmark = pytest.mark.slow

SHOWN = f"""document.querySelector("{SHOWN_BOX}").value"""
HINT = "document.querySelector('.section .note').textContent"
ESCAPE = ("Escape", 27)
INSIDE = ".slice .flat .inside"


@pytest.fixture
def tower(show, tmp_path):  # noqa: F811
    result = drawn.plane_tower(48)
    return show(run_of(tmp_path / "v0", make=lambda: result, steps=2)), result


def double_click(page, x, lower, upper):
    left, bottom, width, height = slice_place(page)
    u, v = ((x[k] - lower[k]) / (upper[k] - lower[k]) for k in (0, 1))
    place = {"x": left + u * width, "y": bottom - v * height, "button": "left"}
    for count in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            page.call("Input.dispatchMouseEvent", type=kind, clickCount=count, **place)


def test_a_double_click_zooms_into_the_innermost_box_there(tower):
    page, result = tower
    whole, *inner = result.boxes
    before = page.run(CANVAS)
    outside = whole.grid.lower + 1e-3
    assert result.box_at([outside])[0] == 0
    double_click(page, outside, whole.grid.lower, whole.grid.upper)
    assert page.run(SHOWN) == "0"  # around the boxes inside there is none to zoom into
    assert page.run(CANVAS) == before
    point = inner[0].grid.cell_centers()[0]
    number = int(result.box_at([point])[0])
    double_click(page, point, whole.grid.lower, whole.grid.upper)
    assert page.run(SHOWN) == str(number)
    assert page.run(CANVAS) != before
    assert "Escape goes back" in page.run(HINT)
    page.press(*ESCAPE)
    assert page.run(CANVAS) == before


def test_the_keyboard_goes_in_and_out(tower):
    page, result = tower
    before = page.run(CANVAS)
    count = page.run(f"document.querySelectorAll('{INSIDE}').length")
    assert count == len(result.inner)
    page.run(f"document.querySelector('{INSIDE}').focus()")
    name = page.run("document.activeElement.getAttribute('aria-label')")
    assert name == "box 1 inside: Enter zooms into it"
    page.press(*ENTER)
    assert page.run(SHOWN) == "1"
    assert page.run("document.activeElement === document.querySelector('.slice .flat > svg')")
    around = [box.parent for box in result.boxes]
    page.press(*ESCAPE)
    assert page.run(SHOWN) == str(max(around[1], 0))
    while page.run(SHOWN) != "0":
        page.press(*ESCAPE)
    assert page.run(CANVAS) == before
    page.press(*ESCAPE)  # nothing lies around the whole
    assert page.run(CANVAS) == before


def test_without_boxes_inside_nothing_is_said_of_zooming(show, tmp_path):  # noqa: F811
    page = show(run_of(tmp_path / "v0", steps=1))
    assert page.run(HINT) == ""
    assert page.run(f"document.querySelectorAll('{INSIDE}').length") == 0


NARROW = """(() => {
  const wide = [...document.querySelectorAll('#view *')].filter((e) => {
    const r = e.getBoundingClientRect();
    return r.width && r.right > innerWidth + 1 && !e.closest('.scroll, .below > .card');
  });
  const own = document.documentElement.scrollWidth > innerWidth ? ['page'] : [];
  return [...own, ...wide.map((e) => e.tagName + '.' + e.getAttribute('class'))];
})()"""


@pytest.mark.parametrize(
    "make",
    [drawn.plane, drawn.plane_tower, drawn.solid_tower, drawn.line, lambda: drawn.crowd(30)],
    ids=["plane", "tower", "solid", "line", "crowd"],
)
def test_a_screen_of_360_pixels(show, tmp_path, make):  # noqa: F811
    for name in "abcd":
        run = run_of(tmp_path / "runs" / name, make=make, steps=2)
    page = show(run)
    page.resize(360, 740)
    page.run("new Promise((r) => setTimeout(r, 300))")
    assert page.run(NARROW) == []
