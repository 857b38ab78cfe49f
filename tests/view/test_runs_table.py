"""The table of runs in a real browser: sorted, filtered, saved, and a way to each run."""

import csv
import io
import json

import pytest

from lightning_morse.view.report import write_report
from lightning_morse.view.runs import Run, read_runs
from tests.view.test_front_end import browser, show  # noqa: F401
from tests.view.test_report import HOSTILE, write_run

pytestmark = pytest.mark.slow

NAMES = "[...document.querySelectorAll('.runs tbody .name')].map(e => e.textContent)"
LOSSES = {"a": 0.5, "b": 0.03, "c": None, "d": 2.5, "e": 0.1}
SORTED = (
    "Object.fromEntries([...document.querySelectorAll('.runs thead th')]"
    ".map(e => [e.innerText.replace(/ [▲▼]/, ''), e.ariaSort]))"
)


def sort_by(page, name):
    page.run(
        "[...document.querySelectorAll('.runs thead button')]"
        f".find(b => b.textContent === {name!r}).click()"
    )


def filter_by(page, text):
    page.run(
        f"(() => {{const f = document.querySelector('.runs input'); f.value = {text!r};"
        "f.dispatchEvent(new Event('input'))})()"
    )


@pytest.fixture
def sweep(tmp_path):
    """Runs with known losses; that of c is not known."""
    for k, (name, loss) in enumerate(LOSSES.items()):
        write_run(tmp_path / "runs" / name, 2 + k % 2, hparams=f"lr: {10.0**-k}\nseed: 3\n")
        for path in (tmp_path / "runs" / name / "morse").iterdir():
            raw = json.loads(path.read_text())
            raw["facts"] |= {"loss_now": loss, "basin_floor": 0.02}
            raw["summary"] |= {"loss": loss, "floor": 0.02}
            path.write_text(json.dumps(raw, separators=(",", ":")))
    return tmp_path / "runs"


def test_any_column_sorts_and_what_is_not_known_is_last(show, sweep):  # noqa: F811
    page = show(read_runs(sweep))
    assert page.run(NAMES) == list("abcde")
    assert page.run(SORTED)["run"] == "ascending"
    sort_by(page, "loss")
    assert page.run(NAMES) == list("beadc")
    assert page.run(SORTED)["loss"] == "ascending"
    assert page.run(SORTED)["run"] == "none"
    sort_by(page, "loss")
    assert page.run(NAMES) == list("daebc")
    assert page.run(SORTED)["loss"] == "descending"
    sort_by(page, "headroom")
    assert page.run(NAMES) == list("beadc")
    sort_by(page, "lr")  # the hyper-parameter that differs has a column, the other one none
    assert page.run(NAMES) == list("edcba")
    assert "seed" not in page.run(SORTED)


def test_by_keyboard_alone(show, sweep):  # noqa: F811
    page = show(read_runs(sweep))
    page.run("document.querySelectorAll('.runs thead button')[3].focus()")
    name = page.run("document.activeElement.textContent")
    page.press("Enter", 13)
    page.call("Input.dispatchKeyEvent", type="char", text="\r")
    assert page.run(SORTED)[name] == "ascending"
    assert page.run("document.activeElement.textContent") == name


def test_the_filter_takes_words_and_the_file_has_what_is_seen(show, sweep):  # noqa: F811
    page = show(read_runs(sweep))
    filter_by(page, "RUNS/ 0.0")  # part of a name, part of what is written of the run
    assert page.run(NAMES) == list("bcde")
    assert page.run("document.querySelector('.runs [role=status]').innerText") == "4 of 5"
    sort_by(page, "lr")
    page.run(
        "(() => { window.saved = []; const own = URL.createObjectURL;"
        "URL.createObjectURL = (b) => { window.saved.push(b); return own.call(URL, b) } })()"
    )
    page.run("document.querySelector('.runs .tools button').click()")
    text = page.run("window.saved[0].text()")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["run"].rpartition("/")[2] for row in rows] == page.run(NAMES)
    for row in rows:
        loss = LOSSES[row["run"].rpartition("/")[2]]
        assert row["loss"] == ("" if loss is None else str(loss))
        assert row["step"] in ("19", "29")
    filter_by(page, "no such run")
    assert page.run(NAMES) == []


def test_a_name_leads_to_its_run_and_it_is_marked(show, sweep):  # noqa: F811
    page = show(read_runs(sweep))
    current = "document.querySelector('.runs tr[aria-current] .name').textContent"
    assert page.run(current) == "a"
    sort_by(page, "loss")
    page.run("document.querySelector('.runs tbody .name').click()")
    page.wait(f"document.querySelector('#view').dataset.shown === '{sweep}/b 29'")
    assert page.run(current) == "b"
    assert page.run("document.querySelector('#morse-run').value") == "b"
    assert page.run("document.querySelectorAll('.runs path.loss').length") == 5
    assert page.run("[...document.querySelectorAll('.runs tbody svg')].map(e => e.ariaLabel)")[
        0
    ].startswith("loss from 0.03 to 0.03, floor from 0.02")


def test_one_run_has_no_table_and_two_have_a_folded_one(show, tmp_path):  # noqa: F811
    for name in "ab":
        write_run(tmp_path / "runs" / name, 1)
    page = show(read_runs(tmp_path / "runs" / "a"))
    assert page.run("document.querySelector('.runs').hidden")
    page = show(read_runs(tmp_path / "runs"))
    assert not page.run("document.querySelector('.runs').open")
    page.run("document.querySelector('.runs summary').click()")
    page.wait(f"({NAMES}).length === 2")


def test_a_run_of_failures_only_is_a_row_without_numbers(show, sweep):  # noqa: F811
    for path in (sweep / "a/morse").iterdir():
        path.write_text("{")
    ready = "!document.querySelector('.message').hidden"
    page = show(read_runs(sweep), ready)
    assert page.run(NAMES) == list("abcde")
    cells = page.run("[...document.querySelector('.runs tbody tr').cells].map(c => c.innerText)")
    assert cells[:5] == ["a", "", "2", "19", ""]


def test_names_in_the_table_are_text(show, tmp_path):  # noqa: F811
    write_run(tmp_path / "a", 1, hparams="")
    (run,) = read_runs(tmp_path / "a")
    runs = [Run(f"{HOSTILE}{k}", run.readings, {HOSTILE: HOSTILE * k}) for k in range(5)]
    page = show(runs)
    assert page.run(NAMES)[0] == f"{HOSTILE}0".rpartition("/")[2]
    assert page.run("document.images.length") == 0


def test_the_index_of_a_large_report_is_such_a_table(browser, sweep, tmp_path):  # noqa: F811
    written = write_report(read_runs(sweep), tmp_path / "r#.html", max_bytes=60_000)
    assert written.pages >= 5
    browser.complaints.clear()
    browser.go("about:blank")
    browser.go((tmp_path / "r#.html").as_uri())
    browser.wait(f"({NAMES}).length === {written.pages}")
    sort_by(browser, "loss")
    assert browser.run(NAMES)[0] == "b"
    browser.run("document.querySelector('.runs tbody a').click()")
    browser.wait("document.querySelector('#view')?.dataset.shown.includes('/b ')")
    assert browser.complaints == []
