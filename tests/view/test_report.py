"""Runs are read as they are on disk, and a report holds all of them, safely and in little space."""

import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lightning_morse.view import asset, asset_names
from lightning_morse.view.encoding import encode
from lightning_morse.view.report import MAX_PAGE_BYTES, report, write_report
from lightning_morse.view.runs import Run, read_runs
from tests.plotting import test_basins_and_morse_graph as drawn

HOSTILE = """a "quoted" 'run' </script><img src=x onerror=alert(1)> & <!-- b"""


def write_run(folder, steps=3, make=drawn.plane, hparams=None, more=None, **options):
    """A log directory as the callback leaves it."""
    (folder / "morse").mkdir(parents=True)
    for k in range(steps):
        path = np.stack([np.linspace(-1, 0, 4 + k), np.linspace(1, 0, 4 + k) ** 2], axis=1)
        result = make()
        scalars = {"morse/basin_current": 0.0, "morse/barrier": 0.5 + k, **(more or {})}
        text = encode(
            result,
            step=10 * k + 9,
            epoch=k,
            scalars=scalars,
            **({"trajectory": path, "current": path[-1]} if result.grid.dim == 2 else {}),
            **options,
        )
        (folder / "morse" / f"step-{10 * k + 9:07d}.view.json").write_text(text)
    if hparams is not None:
        (folder / "hparams.yaml").write_text(hparams)
    return folder


class Page(HTMLParser):
    """Elements and data of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.open = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag == "script"
        if self.open:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.open = False

    def names(self):
        """What the scripts are called, in their order; None for the one that runs."""
        return [attrs.get("id") for tag, attrs in self.tags if tag == "script"]

    def script(self, name):
        return self.scripts[self.names().index(name)]

    def handle_data(self, data):
        if self.open:
            self.scripts[-1] += data


def data_of(page):
    """What a page lists."""
    return json.loads(page.script("data"))


class TestReading:
    def test_a_log_directory_or_its_folder(self, tmp_path):
        write_run(tmp_path / "v0", hparams="lr: 0.1\nname: x\nodd: [1]\n")
        (run,) = read_runs(tmp_path / "v0")
        assert [r.step for r in run.readings] == [9, 19, 29]
        assert run.hparams == {"lr": 0.1, "name": "x"}
        assert run.last().step == 29
        (same,) = read_runs(tmp_path / "v0" / "morse")
        assert same.name == run.name == str(tmp_path / "v0")

    def test_all_runs_below_a_folder(self, tmp_path):
        write_run(tmp_path / "b" / "v0", 1)
        write_run(tmp_path / "a", 2)
        assert [len(run.readings) for run in read_runs(tmp_path)] == [2, 1]

    def test_an_archive(self, tmp_path):
        result = drawn.line()
        result.save(tmp_path / "found.npz")
        for path in (tmp_path / "found.npz", tmp_path):
            (run,) = read_runs(path)
            assert np.array_equal(run.last().labels, result.labels)

    def test_view_records_go_before_archives(self, tmp_path):
        write_run(tmp_path, 2)
        drawn.line().save(tmp_path / "morse" / "step-0000009.npz")
        (run,) = read_runs(tmp_path)
        assert [len(r.read().shape) for r in run.readings] == [2, 2]

    def test_broken_records_are_kept_with_their_reason(self, tmp_path):
        write_run(tmp_path)
        path = tmp_path / "morse" / "step-0000019.view.json"
        path.write_text(path.read_text()[:500])
        (run,) = read_runs(tmp_path)
        assert [r.tried()[0] is None for r in run.readings] == [False, True, False]
        assert run.readings[1].step == 19
        assert (
            "step-0000019.view.json: not a view record: it should be JSON that is not cut off"
            in run.readings[1].tried()[1]
        )
        drawn.double_well(4, 4).save(tmp_path / "four.npz")
        (run,) = read_runs(tmp_path / "four.npz")
        assert "the analysis has 4" in run.readings[0].tried()[1]
        assert run.last() is None

    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
            read_runs(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match=r"no Morse records in it; .*MorseMonitor\(\)"):
            read_runs(tmp_path)

    @pytest.mark.parametrize("text", ["a: !!python/object:os.system {}", "[1]", ": :", "\0"])
    def test_hyper_parameters_that_cannot_be_read_are_none(self, tmp_path, text):
        write_run(tmp_path, 1, hparams=text)
        assert read_runs(tmp_path)[0].hparams == {}


class TestPage:
    def test_nothing_is_loaded_from_anywhere(self, tmp_path):
        write_run(tmp_path / "v0")
        page = report(read_runs(tmp_path / "v0"))
        for tag, attrs in Page(page).tags:
            assert tag not in ("link", "img", "iframe", "object", "embed", "base")
            assert not {"src", "href", "style"} & set(attrs)
            assert not any(name.startswith("on") for name in attrs)
        addresses = set(re.findall(r"https?://[^\s\"')]+", page))
        assert addresses == {"http://www.w3.org/2000/svg"}
        (policy,) = [a["content"] for t, a in Page(page).tags if t == "meta" and "http-equiv" in a]
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in policy

    def test_names_cannot_leave_the_data(self, tmp_path):
        write_run(tmp_path / "v0", 1, title=HOSTILE, axis_labels=[HOSTILE, "\u2028"])
        (run,) = read_runs(tmp_path / "v0")
        page = Page(report([Run(HOSTILE, run.readings, {})]))
        harmless = Page(report([Run("x", run.readings, {})]))
        assert [t for t, _ in page.tags] == [t for t, _ in harmless.tags]
        assert data_of(page)["runs"][0]["name"] == HOSTILE
        assert json.loads(page.script("record-0"))["axes"] == [HOSTILE, "\u2028"]

    def test_what_is_seen_first_comes_before_all_other_records(self, tmp_path):
        write_run(tmp_path / "a", 3)
        write_run(tmp_path / "b", 2)
        others = [f"record-{k}" for k in (0, 1, 3, 4)]
        page = Page(report(read_runs(tmp_path)))
        assert page.names() == ["data", "record-2", None, *others]
        steps = [json.loads(page.script(f"record-{k}"))["step"] for k in range(5)]
        assert steps == [9, 19, 29, 9, 19]

    def test_records_that_wait_in_a_file_are_the_same(self, tmp_path, monkeypatch):
        write_run(tmp_path, 3, title="ä\u2028" + HOSTILE)
        whole = report(read_runs(tmp_path))
        monkeypatch.setattr("lightning_morse.view.report._IN_MEMORY", 1)
        assert report(read_runs(tmp_path)) == whole

    @pytest.mark.slow
    def test_a_long_run_takes_little(self, tmp_path):
        write_run(tmp_path, 30, make=lambda: drawn.plane(128))
        assert len(report(read_runs(tmp_path)).encode()) < 2_000_000

    def test_broken_records_are_said_so(self, tmp_path):
        write_run(tmp_path)
        (tmp_path / "morse" / "step-0000019.view.json").write_text("{")
        page = Page(report(read_runs(tmp_path)))
        data = data_of(page)
        shown = {s["step"]: s.get("record") for s in data["runs"][0]["steps"]}
        assert shown == {9: 0, 19: None, 29: 1}
        records = [page.script(f"record-{k}") for k in range(2)]
        assert [json.loads(text)["step"] for text in records] == [9, 29]
        assert "cut off" in data["runs"][0]["steps"][1]["error"]

    @pytest.mark.parametrize("max_bytes", [MAX_PAGE_BYTES, 1])
    def test_a_report_of_nothing_replaces_none(self, tmp_path, max_bytes):
        write_run(tmp_path / "v0")
        for path in (tmp_path / "v0").rglob("*.view.json"):
            path.write_text("{")
        page = tmp_path / "r.html"
        page.write_text("the one before")
        with pytest.raises(ValueError, match="none of the records can be read"):
            write_report(read_runs(tmp_path / "v0"), page, max_bytes=max_bytes)
        assert page.read_text() == "the one before"
        assert not list(tmp_path.glob("r.pages/*"))

    def test_of_two_records_at_a_step_the_one_that_can_be_read_is_shown(self, tmp_path):
        write_run(tmp_path, 1)
        (tmp_path / "morse" / "step-00000009.view.json").write_text("{")
        assert len(read_runs(tmp_path)[0].readings) == 2
        data = data_of(Page(report(read_runs(tmp_path))))
        assert [s.get("error") for s in data["runs"][0]["steps"]] == [None]

    def test_no_run(self):
        with pytest.raises(ValueError, match="at least one run"):
            report([])

    def test_the_script_is_whole_and_cannot_end_its_element(self, tmp_path):
        write_run(tmp_path, 1)
        script = Page(report(read_runs(tmp_path))).script(None)
        assert "mount(document.getElementById" in script
        assert not re.search(r"^(import|export)\b", script, re.M)
        for name in asset_names():
            assert "</script" not in asset(name)
            assert "<!--" not in asset(name)

    def test_notices_of_vendored_code_come_along(self, tmp_path):
        write_run(tmp_path, 1)
        page = report(read_runs(tmp_path))
        assert re.search(r"Parts of d3-array [\d.]+\.\nCopyright .* Mike Bostock\n", page)
        assert "THE SOFTWARE IS PROVIDED" in page


class TestAssets:
    def test_all_files_of_the_front_end_are_there(self):
        names = asset_names()
        assert {"main.js", "page.js", "tab.js", "view.css", "vendor/d3.js"} <= set(names)
        assert "export async function mount" in asset("main.js")

    @pytest.mark.parametrize(
        "name",
        ["../report.py", "vendor/../main.js", "/etc/passwd", "vendor", "vendor/build.mjs", ""],
    )
    def test_no_other_path_is_followed(self, name):
        with pytest.raises(ValueError, match="expected a file of the front end"):
            asset(name)

    def test_no_line_of_ours_is_too_long_for_reading(self):
        for name in asset_names():
            if not name.startswith("vendor/"):
                assert max(map(len, asset(name).splitlines())) <= 100, name


def test_text_from_data_is_never_parsed_as_html():
    """The ways by which a string becomes markup or code are not used at all."""
    ways = ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser"]
    for name in asset_names():
        assert not [way for way in ways if way in asset(name)], name


def test_a_pipe_is_not_waited_for_and_not_replaced(tmp_path):
    write_run(tmp_path / "v", 1)
    os.mkfifo(tmp_path / "r.html")
    with pytest.raises(OSError, match=r"r\.html must be a new file .*, but it is a named pipe"):
        write_report(read_runs(tmp_path / "v"), tmp_path / "r.html")
    assert (tmp_path / "r.html").is_fifo()
