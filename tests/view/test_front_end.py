"""The front end in a real browser: what is pressed changes what is seen, and nothing complains."""

import dataclasses
import json

import numpy as np
import pytest

import lightning_morse as lm
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.plotting.style import identity_color
from lightning_morse.view.encoding import encode
from lightning_morse.view.report import report, write_report
from lightning_morse.view.runs import Run, read_runs
from lightning_morse.words import short_of_one
from tests.browser import Browser
from tests.landscapes import himmelblau
from tests.plotting import test_basins_and_morse_graph as drawn
from tests.view.test_report import HOSTILE, write_run

pytestmark = pytest.mark.slow

CANVAS = "document.querySelector('.slice canvas').toDataURL()"
LEFT, RIGHT, UP, ENTER = ("ArrowLeft", 37), ("ArrowRight", 39), ("ArrowUp", 38), ("Enter", 13)


@pytest.fixture(scope="module")
def browser():
    with Browser() as found:
        yield found


@pytest.fixture
def show(browser, tmp_path):
    def opened(runs, ready="document.querySelector('#view').dataset.shown"):
        path = tmp_path / "report.html"
        path.write_text(report(runs), encoding="utf-8")
        browser.complaints.clear()
        browser.requests.clear()
        browser.go("about:blank")
        browser.wait("location.href === 'about:blank'")
        browser.go(path.as_uri())
        browser.wait(ready)
        return browser

    browser.theme("light")
    browser.resize(1280, 800)
    yield opened
    assert browser.complaints == []
    assert {url.split(":")[0] for url in browser.requests} <= {"file", "about"}


def turning():
    """Landscapes of which each differs from the one before."""
    for k in range(9):
        result = drawn.plane(48)
        labels = np.where(result.labels == 0, -1 if k % 2 else 0, result.labels)
        yield dataclasses.replace(result, labels=labels, reach=None)


def run_of(folder, make=drawn.plane, **options):
    write_run(folder, make=make, **options)
    return read_runs(folder)


def center(browser, selector):
    box = f"document.querySelector({selector!r}).getBoundingClientRect()"
    return browser.run(f"(() => {{const r={box}; return [r.x + r.width/2, r.y + r.height/2]}})()")


def test_the_slider_changes_the_picture(show, tmp_path):
    landscapes = turning()
    page = show(run_of(tmp_path / "v0", make=lambda: next(landscapes)))
    assert page.run("document.querySelector('.when').textContent") == "step 29 · epoch 3"
    last = page.run(CANVAS)
    path = page.run("document.querySelector('.trajectory').getAttribute('points')")
    page.run("document.querySelector('.steps input').focus()")
    page.press(*LEFT)
    page.wait("document.querySelector('#view').dataset.shown.endsWith(' 19')")
    assert page.run("document.querySelector('.when').textContent") == "step 19 · epoch 2"
    assert page.run(CANVAS) != last
    assert page.run("document.querySelector('.trajectory').getAttribute('points')") != path
    page.run("document.activeElement.blur()")
    page.press(*RIGHT)
    page.wait("document.querySelector('#view').dataset.shown.endsWith(' 29')")
    assert page.run(CANVAS) == last


def test_playing_goes_through_the_steps_and_ends(show, tmp_path):
    page = show(run_of(tmp_path / "v0"))
    play = (
        "[...document.querySelectorAll('button')].find(b => ['Play','Stop'].includes(b.innerText))"
    )
    page.run(f"{play}.click()")
    page.wait("document.querySelector('#view').dataset.shown.endsWith(' 9')")
    page.wait("document.querySelector('#view').dataset.shown.endsWith(' 29')")
    page.wait(f"{play}.innerText === 'Play'")


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_choosing_a_node_lights_up_its_basin(show, tmp_path, how):
    page = show(run_of(tmp_path / "v0"))
    before = page.run(CANVAS)
    seen = [before]
    for n in (0, 4):
        if how == "mouse":
            page.click(*center(page, f'[data-set="{n}"] rect'))
        else:
            page.run(f"document.querySelector('[data-set=\"{n}\"]').focus()")
            page.press(*ENTER)
        chosen = page.run(
            "[...document.querySelectorAll('.selected[data-set]')].map(e => e.dataset.set)"
        )
        assert chosen == [str(n)]
        row = page.run("document.querySelector('tr.selected td').textContent")
        assert row == str(n)
        assert page.run(CANVAS) not in seen
        seen.append(page.run(CANVAS))
    page.click(*center(page, '[data-set="4"] rect'))
    assert page.run(CANVAS) == before


def test_colours_are_those_of_the_figures(show, tmp_path):
    """Each cell that no line crosses has the colour its label has in the figures."""
    result = drawn.plane(8)
    result = dataclasses.replace(
        result,
        labels=np.full(64, 1, np.int32),
        mean_loss=np.ones((9, 9)),
        loss_deviation=None,
        reach=None,
    )
    page = show(run_of(tmp_path / "v0", make=lambda: result))
    pixel = page.run(
        "(() => { const c = document.querySelector('.slice canvas');"
        "return [...c.getContext('2d').getImageData(c.width * .2, c.height * .2, 1, 1).data] })()"
    )
    tint = [round(0.42 * c + 0.58 * 255) for c in (0xE6, 0x9F, 0x00)]
    assert np.abs(np.array(pixel[:3]) - tint).max() <= 1
    faces = page.run("[...document.querySelectorAll('.node rect')].map(e => e.style.fill)")
    assert "rgb(0, 114, 178)" in faces


def test_a_basin_keeps_its_colour_over_training(show, tmp_path):
    """The second analysis numbers the same attractors another way round."""
    known = iter([{0: 0, 1: 1, 2: 2}, {0: 2, 1: 0, 2: 1}, {0: 2, 1: 0, 2: 7}])
    folder = tmp_path / "v0" / "morse"
    folder.mkdir(parents=True)
    for step in (9, 19, 29):
        text = encode(drawn.plane(8), step=step, identities=next(known))
        (folder / f"step-{step:07d}.view.json").write_text(text)
    page = show(read_runs(tmp_path / "v0"))
    fills = page.run("[...document.querySelectorAll('polygon')].map(e => e.getAttribute('fill'))")
    expected = [identity_color(i) for i in (0, 1, 2, 7)]
    assert [f for f in fills if f in expected] == expected


def test_pointing_at_a_cell_tells_what_it_is(show, tmp_path):
    result = drawn.plane(48)
    page = show(run_of(tmp_path / "v0", make=lambda: result))
    said = "document.querySelector('.probe').innerText"
    box = page.run("JSON.stringify(document.querySelector('.slice svg').getBoundingClientRect())")
    box = json.loads(box)
    for i, j in ((24, 24), (10, 20), (46, 46), (3, 3)):
        page.move(
            box["x"] + 52 + (i + 0.5) / 48 * (box["width"] - 68),
            box["y"] + 16 + (1 - (j + 0.5) / 48) * (box["height"] - 58),
        )
        lines = page.run(said).split("\n")
        label = -3 if result.diverged[48 * i + j] else int(result.labels[48 * i + j])
        names = {-1: "undecided", -2: "leaves the box", -3: "diverged"}
        assert lines[0].split(":")[0] == names.get(label, f"basin of attractor {label}")
        loss = result.mean_loss[i : i + 2, j : j + 2].mean()
        assert float(lines[1].split()[1]) == pytest.approx(loss, rel=0.02)
        owner = [k for k, m in enumerate(result.morse_sets) if 48 * i + j in m.cells]
        assert [line for line in lines if "Morse set" in line] == [
            line for line in lines if owner and f"in Morse set {owner[0]}," in line
        ]
        assert bool(owner) == any("Morse set" in line for line in lines)
    page.run("document.querySelector('.slice svg').focus()")
    before = page.run(said)
    page.press(*UP)
    assert page.run(said) != before


def slice_place(page):
    """Left, bottom, width and height of the plot of the slice in the window."""
    box = page.run(
        "(() => {const s = document.querySelector('.slice svg').getBoundingClientRect();"
        "return [s.x + 52, s.y + s.height - 42, s.width - 68, s.height - 58]})()"
    )
    return np.array(box)


def point_at(page, x, lower, upper):
    left, bottom, width, height = slice_place(page)
    u, v = (np.array(x) - lower) / (np.array(upper) - lower)
    page.move(left + u * width, bottom - v * height)
    return page.run("document.querySelector('.probe').innerText").split("\n")


SHOWN_BOX = "select[aria-label='box that is shown']"
CHOOSE_BOX = f"""((k) => {{
  const list = document.querySelector("{SHOWN_BOX}");
  list.value = k;
  list.dispatchEvent(new Event("change"));
}})"""


def test_the_innermost_box_answers_and_can_be_shown_alone(show, tmp_path):
    result = drawn.plane_tower(48)
    page = show(run_of(tmp_path / "v0", make=lambda: result, steps=2))
    options = f"""[...document.querySelector("{SHOWN_BOX}").options].map((o) => o.innerText)"""
    assert page.run(options) == ["whole box", "box 1 inside", "box 2 inside"]
    points = [(-1.95, -1.0), (-0.07, -1.87), (0.2, -1.9), (0.1, -1.45), (0.1, 2.0)]
    for shown in (0, 1, 2):
        page.run(f"{CHOOSE_BOX}({shown})")
        grid = result.boxes[shown].grid
        for x in points:
            if grid.cell_of([x])[0] < 0:
                continue
            lines = point_at(page, x, grid.lower, grid.upper)
            assert lines[0] == f"basin of attractor {result.basin_of([x]).item()}"
            box = result.boxes[int(result.box_at([x])[0])]
            at = box.grid.cell_centers()[box.grid.cell_of([x])[0]]
            said = [float(v) for v in lines[-1].strip("()").split(",")]
            np.testing.assert_allclose(said, at, atol=6e-3)
            loss = drawn.wells(drawn.WELLS, [0.3, 0.2, 0])(at) - 0.01 * (box.parent >= 0)
            assert float(lines[1].split()[1]) == pytest.approx(loss, rel=0.02)
    page.press(*LEFT)  # to the step before: the box stays chosen
    page.wait("document.querySelector('#view').dataset.shown.endsWith(' 9')")
    assert page.run(f"""document.querySelector("{SHOWN_BOX}").value""") == "2"


def test_arrow_keys_cross_the_edge_of_a_box(show, tmp_path):
    result = drawn.plane_tower(48)
    page = show(run_of(tmp_path / "v0", make=lambda: result, steps=1))
    grid, inner = result.grid, result.inner[0].grid
    x = (inner.lower[0] - 0.3 * grid.cell_widths[0], -0.5)
    point_at(page, x, grid.lower, grid.upper)
    page.run("document.querySelector('.slice svg').focus()")
    cross = "document.querySelector('.slice svg svg > rect:last-of-type')"
    width = f"Number({cross}.getAttribute('width'))"
    coarse = page.run(width)
    page.press(*RIGHT)
    fine = page.run(width)
    ratio = inner.cell_widths[0] / grid.cell_widths[0]
    assert fine / coarse == pytest.approx(ratio, rel=1e-6)
    page.press(*LEFT)
    assert page.run(width) == pytest.approx(coarse)


def test_without_boxes_inside_there_is_nothing_to_choose(show, tmp_path):
    page = show(run_of(tmp_path / "v0", make=lambda: drawn.plane(16), steps=1))
    assert page.run(f"""document.querySelector("{SHOWN_BOX}").checkVisibility()""") is False


def named(text):
    """The numbers that the text about an undecided cell stands for."""
    found = []
    for part in text.split(", "):
        first, *last = map(int, part.split(" to "))
        found += range(first, (last or [first])[0] + 1)
    return tuple(found)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("dim", [2, 3])
def test_pointing_at_an_undecided_cell_tells_what_it_may_reach(show, tmp_path, dim, theme):
    if dim == 2:
        result = lm.analyze(himmelblau, [-5, -5], [5, 5], n_samples=64, resolution=40)
    else:
        result = drawn.double_well()
    n = result.grid.shape[0]
    cells = np.arange(result.grid.size).reshape(result.grid.shape)
    if dim == 3:  # the section that is shown first: through the first attractor
        at = result.grid.cell_of(result.morse_sets[0].center[None])[0] % n
        cells = cells[:, :, at]
    page = show(run_of(tmp_path / "v0", make=lambda: result, steps=1))
    if theme == "dark":
        page.run("document.querySelector('.theme').click()")
    point = """(() => {const s = document.querySelector('.slice svg').getBoundingClientRect();
      return [s.x, s.y, s.width, s.height];})()"""
    x, y, width, height = page.run(point)
    seen = set()
    for i, j in np.argwhere(result.labels[cells] == -1)[::5]:
        page.move(
            x + 52 + (i + 0.5) / n * (width - 68), y + 16 + (1 - (j + 0.5) / n) * (height - 58)
        )
        lines = page.run("document.querySelector('.probe').innerText").split("\n")
        sets, leaves = result.reach.at(cells[i, j])
        said = lines[0].removeprefix("undecided: may ")
        assert said.endswith("leave the box") == leaves
        reached = said.removesuffix("leave the box").removesuffix(" or ")
        if " more" not in reached:
            assert named(reached.removeprefix("reach ")) == sets
        seen.add((sets, leaves))
        loss, error = map(float, lines[1].removeprefix("loss ").split(" ± "))
        corner = (i, j) if dim == 2 else (i, j, at)
        around = tuple(slice(k, k + 2) for k in corner)
        # What drawing adds is never less than nothing, nor more than the loss differs around.
        least = result.loss_deviation[around].mean()
        assert least * 0.94 <= error
        assert error <= 1.06 * result.loss_deviation[around].max() + np.ptp(result.mean_loss)
        assert abs(loss - result.mean_loss[around].mean()) <= max(0.01 * abs(loss), error)
    assert len(seen) > 1
    assert page.run("document.querySelector('.probe').scrollWidth") <= page.run(
        "document.querySelector('.probe').clientWidth + 1"
    )


def test_an_older_record_says_less(show, tmp_path):
    result = dataclasses.replace(drawn.plane(48), loss_deviation=None, reach=None)
    page = show(run_of(tmp_path / "v0", make=lambda: result, steps=1))
    undecided = np.argwhere(
        (result.labels == -1).reshape(48, 48) & ~result.diverged.reshape(48, 48)
    )
    i, j = undecided[0]
    x, y, width, height = page.run(
        "(() => {const s = document.querySelector('.slice svg').getBoundingClientRect();"
        "return [s.x, s.y, s.width, s.height]})()"
    )
    page.move(x + 52 + (i + 0.5) / 48 * (width - 68), y + 16 + (1 - (j + 0.5) / 48) * (height - 58))
    lines = page.run("document.querySelector('.probe').innerText").split("\n")
    assert lines[0] == "undecided"
    assert "±" not in lines[1]


CENTERS = """(() => [...document.querySelectorAll('.graph [data-set]')].map((g) => {
  const r = g.querySelector('rect').getBoundingClientRect();
  return [Number(g.dataset.set), r.left, r.right, r.top, r.bottom];
}))()"""
# Points along each edge, away from its two ends.
EDGES = """(() => {
  const page = document.querySelector('.graph svg').getBoundingClientRect();
  return [...document.querySelectorAll('.graph .edge')].map((p) => {
    const all = p.getTotalLength();
    return Array.from({ length: 60 }, (_, k) => {
      const q = p.getPointAtLength(((k + 2) / 64) * all);
      return [page.left + q.x, page.top + q.y];
    });
  });
})()"""


@pytest.mark.parametrize("width", [1280, 1920])
@pytest.mark.parametrize("make", [drawn.plane, drawn.twelve, lambda: drawn.crowd(30)])
def test_the_graph_has_attractors_in_its_lowest_row_and_no_edge_behind_a_node(
    show, tmp_path, make, width
):
    result = make()
    page = show(run_of(tmp_path / "v0", make=make, steps=1))
    page.resize(width, 800 if width == 1280 else 1080)
    page.run("new Promise(r => setTimeout(r, 300))")
    boxes = {n: box for n, *box in page.run(CENTERS)}
    lowest = max(box[2] for box in boxes.values())
    assert {n for n, box in boxes.items() if box[2] == lowest} == set(result.attractors)
    for u, v in result.graph.edges:
        if u in boxes and v in boxes:
            assert boxes[u][3] < boxes[v][2]  # downhill is down
    ordered = sorted(boxes.values())
    for k, a in enumerate(ordered):
        assert not any(b[0] < a[1] and b[2] < a[3] and a[2] < b[3] for b in ordered[k + 1 :])
    edges = page.run(EDGES)
    assert edges
    for points in edges:
        for x, y in points:
            inside = [n for n, b in boxes.items() if b[0] < x < b[1] and b[2] < y < b[3]]
            assert inside == []


def many_wells():
    """48 attractors, each with a pass, under unresolved sets: as many as no card has room for."""
    rng = np.random.default_rng(2)
    grid = CubicalGrid([-3.0, -3.0], [3.0, 3.0], (64, 64))
    centers = rng.uniform(-2.7, 2.7, (160, 2))
    rise = rng.permutation(48) * 0.1 + 0.1
    sets = [drawn.morse_set(grid, c, 0.01 * k, attractor=True) for k, c in enumerate(centers[:48])]
    sets += [drawn.morse_set(grid, centers[48 + k], 0.01 * k + rise[k], index=1) for k in range(48)]
    sets += [
        drawn.morse_set(grid, c, 9 + 0.1 * k, resolved=False) for k, c in enumerate(centers[96:])
    ]
    edges = [(48 + k, k) for k in range(48)]
    edges += [(96 + k, 48 + int(j)) for k in range(64) for j in rng.choice(48, 5, replace=False)]
    labels = np.full(grid.size, -1)
    labels[: 48 * 64] = np.repeat(np.arange(48), 64)
    height = lambda p: np.square(p).sum(-1)  # noqa: E731
    return drawn.analysis(grid, sets, edges, labels, height), set(np.argsort(-rise)[:12].tolist())


@pytest.mark.parametrize("width", [700, 1280])
def test_of_a_large_graph_the_highest_barriers_are_drawn_side_by_side(show, tmp_path, width):
    result, highest = many_wells()
    page = show(run_of(tmp_path / "v0", make=lambda: result, steps=1))
    page.resize(width, 800)
    page.run("new Promise(r => setTimeout(r, 300))")
    boxes = {n: box for n, *box in page.run(CENTERS)}
    assert len(boxes) == 30
    assert highest | {48 + n for n in highest} <= boxes.keys()
    ordered = sorted(boxes.values())
    for k, a in enumerate(ordered):
        assert not any(b[0] < a[1] and b[2] < a[3] and a[2] < b[3] for b in ordered[k + 1 :])
    left, right = page.run(
        "(() => {const r = document.querySelector('.graph svg').getBoundingClientRect();"
        "return [r.left, r.right]})()"
    )
    assert all(left <= box[0] and box[1] <= right for box in ordered)
    note = page.run("document.querySelector('.graph .note').innerText")
    assert "130 more Morse sets are not drawn: none has a higher barrier." in note
    # What does not fit is scrolled, within its card.
    assert page.run("document.documentElement.scrollWidth") <= width


def test_exits_are_marked_with_their_share(show, tmp_path):
    result = dataclasses.replace(drawn.plane(), exit_volumes=np.array([[0.25, 0], [0, 0.1]]))
    page = show(run_of(tmp_path / "v0", make=lambda: result, steps=1))
    said = page.run("[...document.querySelectorAll('.slice .exit title')].map(e => e.textContent)")
    assert said == [f"{k} % of the box may leave through this face" for k in (25, 10)]
    page = show(run_of(tmp_path / "v1", steps=1))
    assert page.run("document.querySelectorAll('.slice .exit').length") == int(
        (drawn.plane().exit_volumes > 0).sum()
    )


CHOOSE = """((...chosen) => {
  const boxes = [...document.querySelectorAll('.choices input')];
  for (const k of chosen) { boxes[k].checked = true; boxes[k].dispatchEvent(new Event('change')); }
})"""


def test_runs_side_by_side(show, tmp_path):
    def wide():
        result = drawn.plane(24)
        grid = CubicalGrid(2 * result.grid.lower, 2 * result.grid.upper, result.grid.shape)
        return dataclasses.replace(result, grid=grid)

    write_run(tmp_path / "runs/a", 3)
    write_run(tmp_path / "runs/b", 2, make=wide)
    write_run(tmp_path / "runs/c", 1)
    (tmp_path / "runs/c/morse/step-0000009.view.json").write_text("{")
    page = show(read_runs(tmp_path / "runs"))
    options = "[...document.querySelectorAll('#morse-run option')].map(o => o.textContent)"
    assert page.run(options) == ["a", "b", "c"]
    page.run(f"{CHOOSE}(0, 1, 2)")
    page.wait("document.querySelectorAll('.beside .slice').length === 3")
    said = "[...document.querySelectorAll('.beside .card')].map(e => e.innerText)"
    texts = page.run(said)
    assert "step 29 · at least 3 attractors" in texts[0]
    assert "step 19 · at least 3 attractors" in texts[1]  # its last up to the step shown
    assert "cut off" in texts[2]
    canvas = "[...document.querySelectorAll('.beside canvas')].slice(0, 2).map(c => c.toDataURL())"
    before = page.run(canvas)
    page.run("document.querySelector('#morse-same').click()")
    after = page.run(canvas)
    assert after[0] != before[0]  # the smaller box lies in the frame of the larger
    assert after[1] == before[1]
    page.press(*LEFT)
    page.press(*LEFT)
    page.wait(f"({said})[1].includes('step 9')")
    page.run("document.querySelectorAll('.choices input').forEach(b => b.checked && b.click())")
    page.wait("document.querySelector('.beside').hidden")


def test_names_are_only_ever_text(show, tmp_path):
    (run,) = run_of(tmp_path / "v0", axis_labels=[HOSTILE, HOSTILE], title=HOSTILE)
    page = show([Run(HOSTILE, run.readings, {})])
    assert (
        page.run("document.querySelector('#morse-run').selectedOptions[0].textContent") == HOSTILE
    )
    assert page.run("document.images.length") == 0
    axis = page.run("[...document.querySelectorAll('.slice text')].map(t => t.textContent)")
    assert axis.count(HOSTILE) == 2


def test_a_broken_record_is_said_so_and_the_others_are_shown(show, tmp_path):
    write_run(tmp_path / "v0")
    (tmp_path / "v0/morse/step-0000019.view.json").write_text("<b>")
    page = show(read_runs(tmp_path / "v0"))
    page.press(*LEFT)
    page.wait("!document.querySelector('.message').hidden")
    said = page.run("document.querySelector('.message').innerText")
    assert (
        "step-0000019.view.json: not a view record: it should be JSON that is not cut off" in said
    )
    page.press(*LEFT)
    page.wait("document.querySelector('#view').dataset.shown.endsWith(' 9')")
    assert page.run("document.querySelector('.message').hidden")


def cyclic(raw):
    raw["edges"] += [[v, u] for u, v in raw["edges"]]


DAMAGE = {
    "edges": cyclic,
    "labels": lambda raw: raw.update(labels=[0, 10**9]),
    "owner": lambda raw: raw.update(owner=[99, 32 * 32]),
    "shape": lambda raw: raw.update(shape=[10**6, 10**6]),
    "loss": lambda raw: raw["loss"].update(data="AAAA"),
    "sets": lambda raw: raw["sets"][0].update(center=None),
    "reach": lambda raw: raw["reach"].update(kinds=[]),
    "trajectory": lambda raw: raw.update(trajectory=[[1]]),
    "mu": lambda raw: raw["facts"].update(mu="x"),
    "ladder": lambda raw: raw["ladder"].update(blocks=[[9, 9, 9]]),
}


def test_damage_that_reaches_the_page_is_said_and_spoils_no_other_step(show, tmp_path, monkeypatch):
    """Whatever slipped in after the records were checked: a cycle of the graph hung the page."""
    write_run(tmp_path / "v0", len(DAMAGE) + 2, make=lambda: drawn.plane(32))
    texts = [p.read_text() for p in sorted((tmp_path / "v0/morse").iterdir())]
    for k, change in enumerate(DAMAGE.values()):
        raw = json.loads(texts[k])
        change(raw)
        texts[k] = json.dumps(raw)
    texts[len(DAMAGE)] = texts[len(DAMAGE)].replace('"title":""', '"title":"","more":NaN')
    monkeypatch.setattr(
        "lightning_morse.view.report._in_script",
        lambda text: texts[json.loads(text)["epoch"]] if text.startswith('{"format"') else text,
    )
    page = show(read_runs(tmp_path / "v0"))
    said = "document.querySelector('.message')"
    page.press(*LEFT)
    page.wait(f"!{said}.hidden && {said}.innerText.includes('JSON')")
    for name in reversed(DAMAGE):
        page.press(*LEFT)
        page.wait(f"{said}.innerText.includes({json.dumps(name)})")
    for _ in range(len(DAMAGE) + 1):
        page.press(*RIGHT)
    page.wait(f"{said}.hidden")


def test_a_hundred_thousand_equal_edges_are_refused_at_once(show, tmp_path):
    write_run(tmp_path / "v0", 2)
    path = tmp_path / "v0/morse/step-0000009.view.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "edges": [[3, 0]] * 100_000}))
    page = show(read_runs(tmp_path / "v0"))
    page.press(*LEFT)
    page.wait("document.querySelector('.message').innerText.includes('edges')")


def test_a_split_report_is_read_page_by_page(browser, tmp_path):
    for name in ("a#1", "b 50%", HOSTILE.replace("/", "|")):
        write_run(tmp_path / "runs" / name, 2)
    written = write_report(read_runs(tmp_path / "runs"), tmp_path / "r#.html", max_bytes=1000)
    assert (written.records, written.pages) == (6, 6)
    browser.complaints.clear()
    browser.go((tmp_path / "r#.html").as_uri())
    browser.wait("document.querySelectorAll('a').length === 6")
    browser.run("document.querySelectorAll('a')[3].click()")
    browser.wait("document.querySelector('#view')?.dataset.shown.endsWith(' 19')")
    assert browser.complaints == []


def test_the_theme_is_that_of_the_system_until_chosen(show, tmp_path):
    page = show(run_of(tmp_path / "v0"))
    ground = "getComputedStyle(document.querySelector('#view')).backgroundColor"
    light, picture = page.run(ground), page.run(CANVAS)
    page.theme("dark")
    page.wait(f"{ground} !== {light!r}")
    assert page.run(CANVAS) != picture
    page.run("document.querySelector('.theme').click()")
    assert page.run(ground) == light


@pytest.mark.parametrize(
    "make",
    [drawn.line, drawn.double_well, drawn.line_tower, drawn.solid_tower],
    ids=["line", "solid", "line_tower", "solid_tower"],
)
def test_other_dimensions(show, tmp_path, make):
    page = show(run_of(tmp_path / "v0", make=make))
    before = page.run(CANVAS)
    solid = make in (drawn.double_well, drawn.solid_tower)
    assert page.run("document.querySelector('.cut').hidden") != solid
    tower = make in (drawn.line_tower, drawn.solid_tower)
    assert page.run("document.querySelector('.section').hidden") != (solid or tower)
    if tower:
        page.run(f"{CHOOSE_BOX}(1)")
        assert page.run(CANVAS) != before
        page.run(f"{CHOOSE_BOX}(0)")
        assert page.run(CANVAS) == before
    if solid:
        page.run("document.querySelector('.section input').focus()")
        page.press(*RIGHT)
        assert page.run(CANVAS) != before
        page.run(
            "(() => {const s = document.querySelector('.section select'); s.selectedIndex = 2;"
            "s.dispatchEvent(new Event('change'))})()"
        )
        assert page.run(CANVAS) != before


# Texts that leave their drawing or lie on another, and cards that must be scrolled sideways.
FAULTS = """(() => {
  const faults = [];
  for (const svg of document.querySelectorAll('.card div > svg, .slice > svg')) {
    const page = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].filter((t) => !t.closest('svg svg'));
    const boxes = texts.map((t) => t.getBoundingClientRect());
    boxes.forEach((a, i) => {
      const inside = a.left >= page.left - 1 && a.right <= page.right + 1;
      if (!inside || a.top < page.top - 1 || a.bottom > page.bottom + 1)
        faults.push('cut: ' + texts[i].textContent);
      boxes.slice(i + 1).forEach((b, j) => {
        const over = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (over > 1 && down > 3)
          faults.push(texts[i].textContent + ' on ' + texts[i + 1 + j].textContent);
      });
    });
  }
  for (const card of document.querySelectorAll('.card'))
    if (!card.hidden && card.scrollWidth > card.clientWidth + 1)
      faults.push('wide: ' + card.getAttribute('aria-label'));
  return document.querySelectorAll('svg text').length > 5 ? faults : ['no text was found'];
})()"""


@pytest.mark.parametrize("width", [1280, 1920])
@pytest.mark.parametrize(
    "make",
    [
        drawn.plane,
        drawn.nothing,
        lambda: drawn.crowd(60),
        drawn.twelve,
        drawn.line,
        drawn.plane_tower,
        drawn.line_tower,
    ],
    ids=["plane", "nothing", "crowd", "twelve", "line", "plane_tower", "line_tower"],
)
def test_nothing_is_cut_off_and_no_text_covers_another(show, tmp_path, make, width):
    page = show(run_of(tmp_path / "v0", make=make))
    page.resize(width, 800 if width == 1280 else 1080)
    page.run("new Promise(r => setTimeout(r, 300))")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    faults = page.run(FAULTS)
    assert faults == []


def test_a_run_without_attractors_and_a_single_step(show, tmp_path):
    page = show(run_of(tmp_path / "v0", make=drawn.nothing, steps=1))
    assert "No Morse set" in page.run("document.querySelector('.graph').innerText")
    assert page.run("document.querySelector('.steps').hidden")


def test_terms_are_explained_to_mouse_and_keyboard(show, tmp_path):
    more = {"morse/explained": 0.9, "morse/headroom": 0.1, "morse/flow_length": 1.5}
    page = show(run_of(tmp_path / "v0", steps=1, more=more))
    terms = page.run("[...document.querySelectorAll('.term')].map(e => e.textContent)")
    wanted = {"headroom", "explained", "calibration", "flow_length", "may hide a minimum", "saddle"}
    assert wanted <= set(terms)
    tip = "document.querySelector('#morse-tip')"
    assert page.run(f"{tip}.hidden")
    page.run(
        "[...document.querySelectorAll('dt .term')].find(e => e.textContent === 'headroom').focus()"
    )
    assert page.run(f"{tip}.innerText").startswith("Loss still to gain in this slice")
    assert page.run("document.activeElement.getAttribute('aria-describedby')") == "morse-tip"
    page.press("Escape", 27)
    assert page.run(f"{tip}.hidden")
    page.move(*center(page, "dt .term"))
    page.wait(f"!{tip}.hidden")
    inside = f"(() => {{const r = {tip}.getBoundingClientRect(); return r.left >= 0 && r.top >= 0"
    assert page.run(f"{inside} && r.right <= innerWidth && r.bottom <= innerHeight}})()")
    page.move(1, 1)
    page.wait(f"{tip}.hidden")


def test_a_bound_is_written_as_the_record_has_it(show, tmp_path):
    """One function decides how mu is written; older records have no text of it."""
    write_run(tmp_path / "v0", 2)
    path = tmp_path / "v0/morse/step-0000009.view.json"
    raw = json.loads(path.read_text())
    for facts in (raw["facts"], *raw["sets"]):
        del facts["bound"]
    path.write_text(json.dumps(raw))
    page = show(read_runs(tmp_path / "v0"))
    bound = "document.querySelector('dl dd').textContent"
    own = "document.querySelector('tbody td:nth-child(7)').textContent"
    result = drawn.plane()
    assert page.run(bound) == short_of_one(result.mu)
    assert page.run(own) == short_of_one(result.morse_sets[0].mu)
    page.press(*LEFT)
    page.wait("document.querySelector('#view').dataset.shown.endsWith(' 9')")
    assert (page.run(bound), page.run(own)) == ("0.999", "0.96")


def test_what_may_hide_a_minimum_has_no_colour_of_an_attractor(show, tmp_path):
    page = show(run_of(tmp_path / "v0"))
    strokes = page.run(
        "[...document.querySelectorAll('.charts polyline')].map(e => e.getAttribute('stroke'))"
    )
    assert strokes
    assert not {identity_color(k) for k in range(7)} & set(strokes)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ("switch", "Dotted upright: training certainly changed basins"),
        ("fork", "Broken upright: one basin was found to be two"),
    ],
)
def test_switches_and_forks_are_marked_over_training(show, tmp_path, event, said):
    """Between the two analyses; where a count is not known there is nothing to mark."""
    name = {"switch": "switches", "fork": "forks"}[event]
    counts = [0.0, 0.0, 1.0, None, 3.0, 4.0, 4.0]
    write_run(tmp_path / "v0", len(counts))
    for path, count in zip(sorted((tmp_path / "v0/morse").iterdir()), counts, strict=True):
        raw = json.loads(path.read_text())
        raw["summary"][name] = count
        if count is not None:
            raw["scalars"][f"morse/basin_{name}"] = count
        path.write_text(json.dumps(raw))
    page = show(read_runs(tmp_path / "v0"))
    marks = page.run(
        "[...document.querySelectorAll('.charts svg')].map((chart) => "
        f"[...chart.querySelectorAll('.{event}')].map((line) => Number(line.getAttribute('x1'))))"
    )
    dots = "document.querySelectorAll('.charts svg:first-child circle')"
    at = page.run(f"[...{dots}].map((dot) => Number(dot.getAttribute('cx')))")[: len(counts)]
    halfway = [(at[1] + at[2]) / 2, (at[4] + at[5]) / 2]
    assert marks == [pytest.approx(halfway, abs=0.1)] * 3
    assert page.run("document.querySelector('.charts .note').innerText") == (
        f"{said}, between steps 19 and 29, 49 and 59."
    )


def test_without_a_switch_nothing_is_said_of_one(show, tmp_path):
    write_run(tmp_path / "v0", more={"morse/basin_switches": 0.0, "morse/basin_forks": 0.0})
    page = show(read_runs(tmp_path / "v0"))
    marks = "document.querySelectorAll('.charts .switch, .charts .fork, .charts .note')"
    assert page.run(f"{marks}.length") == 0


def test_the_sentence_stands_on_top(show, tmp_path):
    page = show(run_of(tmp_path / "v0", steps=1))
    (record,) = (tmp_path / "v0").rglob("*.view.json")
    said = json.loads(record.read_text())["facts"]["verdict"]
    assert page.run("document.querySelector('.verdict').innerText") == said
    first = "document.querySelector('.verdict').getBoundingClientRect().bottom"
    assert page.run(f"{first} < document.querySelector('.top').getBoundingClientRect().top")


def test_a_small_loss_has_room_in_its_node(show, tmp_path):
    write_run(tmp_path / "v0", 1)
    (path,) = (tmp_path / "v0/morse").glob("*.view.json")
    raw = json.loads(path.read_text())
    raw["sets"][0]["loss"] = 0.0000063123
    path.write_text(json.dumps(raw))
    page = show(read_runs(tmp_path / "v0"))
    said = page.run("[...document.querySelectorAll('#view svg text')].map(t => t.textContent)")
    assert any("6.31e-6" in text for text in said)


def test_a_learnt_map_is_shown_without_a_loss_and_unknown_where_it_is(show, tmp_path):
    """x -> 2x or so is known on [-1, 1] only: it leaves below, and above nobody knows."""
    x = np.random.default_rng(0).uniform(-1, 1, (40, 1))
    runs = list(np.stack([x, 2 * x + 0.08 * np.sin(10 * x)], axis=1))
    result = lm.analyze_trajectories(runs, lower=[-1.0], upper=[3.0], resolution=64)
    assert result.diverged.any()
    page = show(run_of(tmp_path / "v0", make=lambda: result))
    assert page.run("document.querySelector('.slice').closest('section').innerText").startswith(
        "Map of recorded runs"
    )
    legend = page.run("document.querySelector('.legend').innerText").split("\n")
    assert {"undecided", "leaves the box", "unknown"} <= {line.strip() for line in legend}
    text = page.run("document.body.innerText")
    assert "diverged" not in text
    assert "exactly" not in text
    box = json.loads(
        page.run("JSON.stringify(document.querySelector('.slice svg').getBoundingClientRect())")
    )
    said = []
    for share in (0.1, 0.4, 0.9):
        page.move(box["x"] + 52 + share * (box["width"] - 68), box["y"] + 40)
        said.append(page.run("document.querySelector('.probe').innerText").split("\n")[0])
    assert said[0] == "leaves the box"
    assert said[1].startswith("undecided: may")
    assert said[1].endswith("come to what is unknown")
    assert said[2] == "unknown"
