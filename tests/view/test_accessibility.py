"""What axe-core finds in the report, its index and the tab: nothing serious, in both themes.

axe-core comes with ``npm ci``, as the linter of the front end does; no page of ours loads it.
"""

import json
from pathlib import Path

import pytest

from lightning_morse.view.encoding import encode
from lightning_morse.view.report import write_report
from lightning_morse.view.runs import read_runs
from tests.browser import Browser
from tests.plotting import test_basins_and_morse_graph as drawn
from tests.tensorboard_plugin.test_plugin import Board, write_events
from tests.view.test_report import write_run

pytestmark = pytest.mark.slow

AXE = Path(__file__).parent.parent.parent / "node_modules/axe-core/axe.min.js"
MAKES = [drawn.plane, drawn.plane_tower, drawn.nothing, drawn.line, drawn.solid_tower]
SERIOUS = ("serious", "critical")
SHOWN = "document.querySelector('#view').dataset.shown"
CLICK = "document.querySelector({!r}).click()"
# What a person may have opened when a page is looked at.
STATES = {
    "as it opens": "",
    "a set chosen": "document.querySelector('[data-set]').dispatchEvent(new Event('click'))",
    "in space": CLICK.format(".head button"),
    "runs side by side": "document.querySelectorAll('.choices input').forEach((e) => e.click())",
    "the table sorted": "document.querySelectorAll('.runs thead button')[3].click()",
}


@pytest.fixture(scope="module")
def axe():
    if not AXE.exists():
        pytest.skip("axe-core is not installed: npm ci")
    return AXE.read_text()


@pytest.fixture(scope="module")
def browser(axe):
    with Browser() as found:
        yield found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "runs"
    scalars = {"morse/explained": 0.9, "morse/headroom": 0.1}
    for make in MAKES:
        name = make.__name__
        write_run(folder / name, 2, make=make, hparams=f"kind: {name}\n", more=scalars)
    return folder


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(read_runs(runs), path)
    return path.as_uri()


def complaints(page, axe):
    """What axe-core holds to be serious, each with the elements it means."""
    page.run(f"if (!window.axe) {{ {axe}; }}")
    options = json.dumps({"resultTypes": ["violations"]})
    found = page.run(
        f"axe.run(document, {options}).then((r) => r.violations.map((v) => ["
        "v.impact, v.id, v.nodes.map((n) => [n.target.join(' '), n.failureSummary])]))"
    )
    return [one for one in found if one[0] in SERIOUS]


def opened(page, url, ready, theme, width=1280):
    page.theme(theme)
    page.resize(width, 800)
    page.go("about:blank")
    page.wait("location.href === 'about:blank'")
    page.go(url)
    page.wait(ready)
    return page


def test_axe_core_does_find_faults(browser, axe, report):
    page = opened(browser, report, SHOWN, "light")
    page.run("document.querySelector('.theme').style.color = '#ddd'")
    page.run("document.querySelector('.steps input').removeAttribute('aria-label')")
    found = {rule for _, rule, _ in complaints(page, axe)}
    assert {"color-contrast", "label"} <= found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
def test_a_report(browser, axe, report, runs, theme, make):
    page = opened(browser, report, SHOWN, theme)
    k = sorted(m.__name__ for m in MAKES).index(make.__name__)
    page.run(f"document.querySelectorAll('.runs .name')[{k}].click()")
    page.wait(f"{SHOWN}.includes('/{make.__name__} ')")
    for state in ("as it opens", "a set chosen"):
        if make is not drawn.nothing or state == "as it opens":
            page.run(STATES[state] or "0")
            assert complaints(page, axe) == [], state


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_that_can_be_opened(browser, axe, report, theme):
    page = opened(browser, report, SHOWN, theme)
    page.run(CLICK.format(".runs .name[title$='/plane']"))
    page.wait(f"{SHOWN}.includes('/plane ')")
    for state, what in STATES.items():
        page.run(what or "0")
        page.run("new Promise((r) => setTimeout(r, 300))")
        assert complaints(page, axe) == [], state


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_an_index_and_a_page_that_says_what_is_wrong(browser, axe, runs, tmp_path, theme):
    write_report(read_runs(runs), tmp_path / "r.html", max_bytes=1000)
    index = (tmp_path / "r.html").as_uri()
    page = opened(browser, index, "!!document.querySelector('.runs tbody tr')", theme)
    assert complaints(page, axe) == []
    write_run(tmp_path / "v0", 1)
    (record,) = (tmp_path / "v0").rglob("*.view.json")
    second = record.with_name("step-0000019.view.json")
    second.write_text("{")
    write_report(read_runs(tmp_path / "v0"), tmp_path / "one.html")
    page = opened(
        browser, (tmp_path / "one.html").as_uri(), "!!document.querySelector('.card')", theme
    )
    page.wait("!document.querySelector('.message').hidden")
    assert complaints(page, axe) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_tab(browser, axe, tmp_path, theme):
    """As a page of its own: the frame that TensorBoard makes of it is another one's."""
    for make in MAKES:
        texts = {k: encode(make(), step=k, epoch=k) for k in range(2)}
        write_events(tmp_path / "logs" / make.__name__, texts)
    (tmp_path / "board").mkdir()
    with Board(tmp_path / "logs", tmp_path / "board") as board:
        board.until(lambda found: len(found) == len(MAKES))
        url = f"{board.address}/data/plugin_entry.html?name=morse"
        page = opened(browser, url, SHOWN, theme)
        assert complaints(page, axe) == []
