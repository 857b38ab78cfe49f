"""The tab in TensorBoard: a real process over real event files, and a real browser."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from examples.himmelblau import himmelblau
from lightning_morse import analyze
from lightning_morse.callbacks.loggers import _add_record
from lightning_morse.view import asset
from lightning_morse.view.course import course_of
from lightning_morse.view.encoding import encode
from lightning_morse.view.record import decode
from tests.browser import Browser
from tests.plotting import test_basins_and_morse_graph as drawn

ROOT = Path(__file__).parents[2]
# As far as a file system lets a run be called.
HOSTILE = """a "b" 'c' <img src=x onerror=alert(1)> & %2e%2e"""
RUNS = ["plain", "deep/er/version_0", HOSTILE]


def entry_points_for(folder):
    """Make the plugin known to a process where the package is on the path but not installed."""
    if metadata.entry_points(group="tensorboard_plugins", name="morse"):
        return []
    (line,) = re.findall(r"^morse = \"(.*)\"$", (ROOT / "pyproject.toml").read_text(), re.M)
    info = folder / "morse_stand_in-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: morse-stand-in\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[tensorboard_plugins]\nmorse = {line}\n")
    return [str(folder)]


class Board:
    """A TensorBoard of its own on a free port."""

    def __init__(self, logdir, folder, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        # As in an environment without torch: the process must do without.
        blocker = folder / "sitecustomize.py"
        blocker.write_text(
            "import sys\n"
            "for name in ('torch', 'lightning', 'pytorch_lightning', 'matplotlib'):\n"
            "    sys.modules[name] = None\n"
        )
        path = [str(folder), str(ROOT), *entry_points_for(folder)]
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir)]
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), *options],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def get(self, path, **query):
        """Status, headers and content."""
        url = self.address + path + ("?" + urllib.parse.urlencode(query) if query else "")
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def until(self, ready, seconds=90):
        end = time.monotonic() + seconds
        while True:
            try:
                found = json.loads(self.get("/data/plugin/morse/runs")[2])
                if ready(found):
                    return found
            except (OSError, ValueError):
                pass
            self.log.seek(0)
            assert time.monotonic() < end, self.log.read()
            assert self.process.poll() is None, self.log.read()
            time.sleep(0.2)


def write_events(folder, texts):
    writer = SummaryWriter(folder)
    # What other plugins keep, under names that could be taken for ours.
    writer.add_scalar("morse/mu", 1.0, 0)
    writer.add_text("morse/record", "<b>no record</b>", 0)
    writer.add_text("other/record", "no record", 0)
    writer.close()
    writer = SummaryWriter(folder, filename_suffix=".more")
    for step, text in texts.items():
        _add_record(writer, text, step)
    writer.close()


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    path = np.array([[-1.0, 1.0], [0.0, 0.0]])
    for run in RUNS:
        texts = {k: encode(drawn.plane(24), step=k, epoch=k, trajectory=path) for k in range(15)}
        write_events(folder / run, texts)
    good = encode(drawn.plane(24), step=4)
    newer = good.replace('"version":2', '"version":99', 1)
    write_events(folder / "broken", {4: good, 5: good[:700], 6: newer, 7: ""})
    return folder


@pytest.fixture(scope="module", params=["fast", "python"])
def board(request, logs, tmp_path_factory):
    """With TensorBoard's own reader of event files, and with the one in Python."""
    options = ["--load_fast", "true" if request.param == "fast" else "false"]
    with Board(logs, tmp_path_factory.mktemp("board"), *options) as found:
        found.until(lambda runs: len(runs) == 4 and all(len(r["steps"]) > 3 for r in runs))
        yield found


pytestmark = pytest.mark.slow


class TestRoutes:
    def test_all_runs_and_all_their_steps(self, board):
        runs = {run["name"]: run["steps"] for run in board.until(bool)}
        assert set(runs) == {*RUNS, "broken"}
        for run in RUNS:
            assert [s["step"] for s in runs[run]] == list(range(15))
            assert {s["attractors"] for s in runs[run]} == {3}

    @pytest.mark.parametrize("run", RUNS)
    def test_a_record_whatever_the_run_is_called(self, board, run):
        status, headers, text = board.get("/data/plugin/morse/record", run=run, step=3)
        assert status == 200
        assert headers.get_content_type() == "application/json"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert np.array_equal(decode(text).labels, drawn.plane(24).labels)

    @pytest.mark.parametrize(
        ("step", "message"),
        [(5, "cut off"), (6, "update lightning_morse"), (7, "not a view record")],
    )
    def test_broken_records_say_what_is_wrong(self, board, step, message):
        status, _, text = board.get("/data/plugin/morse/record", run="broken", step=step)
        assert status == 200
        assert message in json.loads(text)["error"]
        (steps,) = [r["steps"] for r in board.until(bool) if r["name"] == "broken"]
        assert message in next(s["error"] for s in steps if s["step"] == step)

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ({"run": "plain", "step": 99}, 404),
            ({"run": "../plain", "step": 3}, 404),
            ({"run": "plain", "step": "x"}, 400),
            ({"run": "plain", "step": "--5"}, 400),
            ({"run": "plain", "step": "-"}, 400),
            ({"run": "plain", "step": "9" * 5000}, 400),
            ({"run": "plain", "step": "²"}, 400),
            ({"run": "plain", "step": "٣"}, 400),
            ({"run": "plain", "step": -5}, 404),
            ({"run": "\0", "step": 3}, 404),
            ({"run": "plain"}, 400),
            ({"step": 3}, 400),
        ],
    )
    def test_what_is_not_there(self, board, query, code):
        status, headers, text = board.get("/data/plugin/morse/record", **query)
        assert status == code
        assert headers.get_content_type() == "application/json"
        assert json.loads(text)["error"]

    @pytest.mark.parametrize(
        "path",
        [
            "../__init__.py",
            "..%2f__init__.py",
            "%2e%2e/__init__.py",
            "..%5c__init__.py",
            "/etc/passwd",
            "%2fetc%2fpasswd",
            "....//main.js/../../__init__.py",
            "__init__.py",
            "main.js%00.py",
            "vendor/../../__init__.py",
            "vendor/build.mjs",
            "vendor/",
            "",
        ],
    )
    def test_no_path_leads_out(self, board, path):
        with socket.create_connection(board.address.split("//")[1].split(":")) as connection:
            request = f"GET /data/plugin/morse/static/{path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"
            connection.sendall(request.encode())
            connection.settimeout(20)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.split(b"\r\n")[0].split()[1] in (b"404", b"400")
        assert b"root:" not in answer
        assert b"MorsePlugin" not in answer

    def test_the_front_end_is_two_files(self, board):
        for name, kind in (("tab.js", "javascript"), ("view.css", "css")):
            status, headers, text = board.get(f"/data/plugin/morse/static/{name}")
            assert (status, headers.get_content_type()) == (200, f"text/{kind}")
            if kind == "css":
                assert text.decode() == asset(name)
        script = board.get("/data/plugin/morse/static/tab.js")[2].decode()
        assert not re.search(r"^import ", script, re.M)
        assert "modules['main.js'] = " in script
        assert "Mike Bostock" in script  # the notice of vendored code

    def test_courses_are_those_of_the_summaries(self, board):
        courses = json.loads(board.get("/data/plugin/morse/courses")[2])
        summaries = board.until(bool)
        assert [run["name"] for run in courses] == [run["name"] for run in summaries]
        for run, whole in zip(courses, summaries, strict=True):
            assert run["course"] == course_of(whole["steps"])
            query = {"run": run["run"], "tag": run["tag"]}
            assert json.loads(board.get("/data/plugin/morse/runs", **query)[2]) == [whole]
        assert len(courses[0]["course"]["loss"]) == 15

    def test_a_run_that_is_not_there_has_no_steps(self, board):
        status, _, text = board.get("/data/plugin/morse/runs", run="plain", tag="morse/other")
        assert status == 404
        assert "there is no run 'plain'" in json.loads(text)["error"]

    def test_the_tab_is_listed(self, board):
        listed = json.loads(board.get("/data/plugins_listing")[2])["morse"]
        assert listed["tab_name"] == "Morse"
        assert listed["enabled"]


FRAME = "document.querySelector('iframe').contentDocument"


@pytest.fixture
def page(board):
    with Browser(1280, 900) as found:
        found.go(f"{board.address}/#morse")
        found.wait(f"{FRAME}.querySelector('#view').dataset.shown || null", 60)
        yield found
        assert [c for c in found.complaints if "morse" in c.lower()] == []


class TestTab:
    def test_steps_runs_and_nodes(self, page, tmp_path):
        canvas = f"{FRAME}.querySelector('.slice canvas').toDataURL()"
        options = f"[...{FRAME}.querySelectorAll('#morse-run option')].map(o => o.textContent)"
        assert set(page.run(options)) == {*RUNS, "broken"}
        k = page.run(options).index(HOSTILE)
        page.run(
            f"(() => {{const s = {FRAME}.querySelector('#morse-run'); s.selectedIndex = {k};"
            "s.dispatchEvent(new Event('change'))})()"
        )
        page.wait(f"{FRAME}.querySelector('#view').dataset.shown === {HOSTILE + ' 14'!r}")
        assert page.run(f"{FRAME}.images.length") == 0
        before = page.run(canvas)
        page.run(f"{FRAME}.querySelector('[data-set=\"0\"]').dispatchEvent(new Event('click'))")
        assert page.run(canvas) != before
        page.run(
            f"(() => {{const s = {FRAME}.querySelector('.steps input'); s.value = 3;"
            "s.dispatchEvent(new Event('input'))})()"
        )
        page.wait(f"{FRAME}.querySelector('#view').dataset.shown === {HOSTILE + ' 3'!r}")

    def test_a_broken_record(self, page):
        page.run(
            f"(() => {{const s = {FRAME}.querySelector('#morse-run'); s.selectedIndex ="
            "[...s.options].findIndex(o => o.textContent === 'broken');"
            "s.dispatchEvent(new Event('change'))})()"
        )
        page.wait(f"!{FRAME}.querySelector('.message').hidden")
        assert "not a view record" in page.run(f"{FRAME}.querySelector('.message').innerText")

    def test_scripts_come_from_the_server_only(self, page, board):
        assert page.run(
            f"[...{FRAME}.scripts].every(s => s.textContent === '' || !s.closest('main'))"
        )
        policy = board.get("/data/plugin_entry.html", name="morse")[1]["Content-Security-Policy"]
        (scripts,) = re.findall(r"script-src ([^;]*)", policy)
        assert "unsafe-inline" not in scripts
        ours = [u for u in page.requests if "/plugin/morse/" in u]
        assert ours
        assert all(u.startswith(board.address) for u in ours)
        static = [u.rpartition("/static/")[2] for u in ours if "/static/" in u]
        assert sorted(static) == ["tab.js", "view.css"]


def test_two_monitors_of_a_run_are_both_there(tmp_path):
    writer = SummaryWriter(tmp_path / "logs" / "v0")
    _add_record(writer, encode(drawn.plane(24), step=1), 1, "morse")
    _add_record(writer, encode(drawn.line(), step=1), 1, "morse_random")
    writer.close()
    (tmp_path / "board").mkdir()
    with Board(tmp_path / "logs", tmp_path / "board") as board, Browser() as page:
        runs = board.until(lambda runs: len(runs) == 2)
        assert [run["name"] for run in runs] == ["v0", "v0 (morse_random)"]
        for run, shape in zip(runs, [(24, 24), (64,)], strict=True):
            query = {"run": run["run"], "tag": run["tag"], "step": 1}
            assert decode(board.get("/data/plugin/morse/record", **query)[2]).shape == shape
        assert board.get("/data/plugin/morse/record", run="v0", tag="x", step=1)[0] == 404
        page.go(f"{board.address}/#morse")
        page.wait(f"{FRAME}.querySelector('#view').dataset.shown === 'v0 1'", 60)
        page.run(
            f"(() => {{const s = {FRAME}.querySelector('#morse-run'); s.selectedIndex = 1;"
            "s.dispatchEvent(new Event('change'))})()"
        )
        page.wait(f"{FRAME}.querySelector('#view').dataset.shown === 'v0 (morse_random) 1'")


def test_an_event_file_still_being_written(tmp_path):
    """What has arrived in whole is shown; the rest when it comes."""
    for folder in ("whole", "logs/run", "board"):
        (tmp_path / folder).mkdir(parents=True)
    writer = SummaryWriter(tmp_path / "whole")
    for k in range(3):
        _add_record(writer, encode(drawn.plane(24), step=k), k)
    writer.close()
    (source,) = (tmp_path / "whole").iterdir()
    data = source.read_bytes()
    with (tmp_path / "logs/run" / source.name).open("wb") as growing:
        growing.write(data[:-1000])
        growing.flush()
        with Board(tmp_path / "logs", tmp_path / "board", "--reload_interval", "1") as board:
            board.until(lambda runs: runs and [s["step"] for s in runs[0]["steps"]] == [0, 1])
            growing.write(data[-1000:])
            growing.flush()
            board.until(lambda runs: [s["step"] for s in runs[0]["steps"]] == [0, 1, 2])


def test_an_answer_for_a_large_real_analysis_is_small(tmp_path):
    result = analyze(himmelblau, [-5, -5], [5, 5], n_samples=96, resolution=256)
    path = np.random.default_rng(0).normal(size=(200, 2))
    text = encode(result, trajectory=path, current=path[-1])
    write_events(tmp_path / "logs" / "run", {0: text})
    (tmp_path / "board").mkdir()
    with Board(tmp_path / "logs", tmp_path / "board") as board:
        board.until(lambda runs: len(runs) == 1)
        status, _, content = board.get("/data/plugin/morse/record", run="run", step=0)
    assert status == 200
    assert np.array_equal(decode(content).labels, result.labels)
    assert len(content) < 150_000


def test_a_run_without_records_is_told_what_to_add(tmp_path):
    write_events(tmp_path / "logs" / "plain", {})
    (tmp_path / "board").mkdir()
    with Board(tmp_path / "logs", tmp_path / "board") as board, Browser() as page:
        board.until(lambda runs: runs == [])
        page.go(f"{board.address}/#morse")
        page.wait(f"!{FRAME}.querySelector('.message').hidden", 60)
        said = page.run(f"{FRAME}.querySelector('.message').innerText")
        assert "No run here has Morse data" in said
        assert "Trainer(callbacks=[MorseMonitor()])" in said


def test_the_number_of_records_kept_is_the_users_to_choose():
    from argparse import Namespace

    from lightning_morse.tensorboard_plugin import MAX_RECORDS, MorseLoader

    for given, expected in (({}, MAX_RECORDS), ({"morse": 5}, 5)):
        flags = Namespace(samples_per_plugin=given)
        MorseLoader().fix_flags(flags)
        assert flags.samples_per_plugin == {"morse": expected}
    MorseLoader().fix_flags(Namespace())  # a TensorBoard without the option


def test_the_plugin_loads_without_torch_lightning_and_matplotlib():
    code = (
        "import sys\n"
        "for name in ('torch', 'lightning', 'pytorch_lightning', 'matplotlib', 'networkx'):\n"
        "    sys.modules[name] = None\n"
        "import lightning_morse.tensorboard_plugin as p\n"
        "p.MorseLoader().load(type('Context', (), {'data_provider': None}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
