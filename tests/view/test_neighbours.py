"""One bad file among many spoils nothing, wherever runs are walked over."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_morse.view import report as report_module
from lightning_morse.view.hparams import read_hparams
from lightning_morse.view.report import report, write_report
from lightning_morse.view.runs import read_runs
from tests.plotting import test_basins_and_morse_graph as drawn
from tests.test_cli import command
from tests.view.test_report import Page, data_of, write_run

GOOD = ("a", "z")


@pytest.fixture
def folder(tmp_path):
    """Two good runs, and between them everything that has ended or hung a report."""
    root = tmp_path / "runs"
    for name in GOOD:
        write_run(root / name, 2, hparams="lr: 0.1\n")
    drawn.line().save(root / "archive.npz")
    data = (root / "archive.npz").read_bytes()
    (root / "archive.npz").unlink()
    for name in ("m", "pipe", "link", "gone"):
        (root / name).mkdir()
    (root / "m/damaged.npz").write_bytes(data[:200] + b"\xff" * 40 + data[240:])
    os.mkfifo(root / "pipe/step-0000001.view.json")
    os.mkfifo(root / "pipe/hparams.yaml")
    write_run(tmp_path / "elsewhere", 1)
    secret = tmp_path / "elsewhere/morse/step-0000009.view.json"
    (root / "link/step-0000001.view.json").symlink_to(secret)
    (root / "gone/step-0000001.view.json").symlink_to(root / "nowhere")
    write_run(root / "deep", 1, hparams="a: " + "[" * 50_000 + "\n")
    strange = write_run(root / "strange", 1)
    os.rename(strange, os.fsencode(root) + b"/\xff\x1b[2J")  # not UTF-8, and an escape sequence
    return root


SAID = ("damaged.npz", "pipe/step-0000001.view.json", "link/step-0000001", "gone/step-0000001")


@pytest.mark.parametrize("name", ["report", "show", "compare"])
def test_every_command_goes_on_and_says_what_it_left_out(folder, name, tmp_path):
    options = ["-o", tmp_path / "r.html"] if name == "report" else []
    done = command(name, folder, *options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for part in SAID:
        assert part in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    if name == "report":
        data = data_of(Page((tmp_path / "r.html").read_text()))
        names = [run["name"].rpartition("/")[2] for run in data["runs"]]
        assert names == ["a", "deep", "m", "z", "\udcff\x1b[2J"]
        assert [len(run["steps"]) for run in data["runs"]] == [2, 1, 1, 2, 1]
    else:
        assert all(f"{run}\n" in done.stdout or f"{run} " in done.stdout for run in GOOD)


def test_what_lies_outside_is_not_shown(folder):
    assert not [run for run in read_runs(folder) if run.name.endswith("link")]


def test_a_link_within_the_folder_is_followed(tmp_path):
    write_run(tmp_path / "a", 2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/last.view.json").symlink_to("../a/morse/step-0000019.view.json")
    runs = read_runs(tmp_path)
    assert [[r.step for r in run.readings] for run in runs] == [[9, 19], [19]]


def test_a_folder_that_vanishes_while_it_is_read(tmp_path):
    write_run(tmp_path / "a", 2)
    write_run(tmp_path / "b", 2)
    runs = read_runs(tmp_path)
    for path in (tmp_path / "a/morse").iterdir():
        path.unlink()
    (tmp_path / "a/morse").rmdir()
    said = []
    data = data_of(Page(report(runs, lambda *line: said.append(line))))
    assert len(said) == 2
    assert ["error" in step for run in data["runs"] for step in run["steps"]] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("at", range(8))
def test_a_folder_that_vanishes_while_it_is_walked(at, tmp_path, monkeypatch):
    """Before any look at the file system: what is still there is found, or nothing is, by name."""
    for name in ("a", "b"):
        write_run(tmp_path / "runs" / name, 2)
    looks, stat_of, walk = [], Path.stat, os.walk

    def looked():
        looks.append(len(looks))
        if len(looks) == at:
            shutil.rmtree(tmp_path / "runs/b")

    def stat(path, **options):
        looked()
        return stat_of(path, **options)

    def walked(*args, **options):
        for found in walk(*args, **options):
            looked()
            yield found

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(os, "walk", walked)
    said = []
    runs = read_runs(tmp_path / "runs", said.append)
    data = data_of(Page(report(runs, lambda *line: said.append(line))))
    assert "error" not in str(data["runs"][0])
    if (tmp_path / "runs/b").exists():
        assert at == 0 or at > len(looks)
    else:
        assert len(data["runs"]) == 1 or said


def test_links_to_folders_are_not_walked(tmp_path):
    """What is inside is met anyway, and a circle has no end."""
    write_run(tmp_path / "runs/a", 1)
    write_run(tmp_path / "elsewhere", 1)
    (tmp_path / "runs/again").symlink_to("a")
    (tmp_path / "runs/circle").symlink_to("..")
    (tmp_path / "runs/outside").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "runs/itself.view.json").symlink_to("itself.view.json")
    said = []
    assert [run.name for run in read_runs(tmp_path / "runs", said.append)] == [
        str(tmp_path / "runs/a")
    ]
    (line,) = said
    assert "itself.view.json" in line
    (tmp_path / "link").symlink_to("runs")
    assert len(read_runs(tmp_path / "link")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 10_000,
        "\n".join(f"{' ' * k}k{k}:" for k in range(100)),
        "a: 1\n" + "#" * 2**18,
        "? [1, 2]\n: 3\n",
        "a: 0x" + "f" * 10_000,
        "a: " + "9" * 10_000,
        "a: !!binary x\n",
        "a: &a [*a]\n",
        "a: &a {b: &b [1]}\nc: *z\n",
    ],
)
def test_hyper_parameters_of_any_kind_are_read_quickly_or_not(text, tmp_path):
    (tmp_path / "hparams.yaml").write_text(text)
    start = time.process_time()
    found = read_hparams(tmp_path)
    assert time.process_time() - start < 5  # a limit against hanging, not a measurement
    assert found in ({}, {"a": (16**10_000 - 1)})


def test_a_name_that_is_no_text_is_left_out(tmp_path):
    (tmp_path / "hparams.yaml").write_text("lr: 0.1\n2020-01-01: x\n3: y\nz: 2020-01-01\n")
    assert read_hparams(tmp_path) == {"lr": 0.1, "3": "y"}


class TestWriting:
    def test_what_fails_leaves_the_old_report(self, tmp_path, monkeypatch):
        write_run(tmp_path / "v0", 2)
        runs, path = read_runs(tmp_path / "v0"), tmp_path / "r.html"
        write_report(runs, path)
        old = path.read_bytes()
        for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):

            def stop(*_, error=error):
                raise error

            monkeypatch.setattr(report_module, "_entry", stop)
            with pytest.raises(type(error)):
                write_report(runs, path)
            assert path.read_bytes() == old
        assert sorted(os.listdir(tmp_path)) == ["r.html", "v0"]

    @pytest.mark.slow
    def test_kills_leave_the_old_report(self, tmp_path):
        """At random moments; what is there is always whole."""
        write_run(tmp_path / "v0", 12, make=lambda: drawn.plane(64))
        path, rng = tmp_path / "r.html", random.Random(1)
        write_report(read_runs(tmp_path / "v0"), path)
        old = path.read_bytes()
        code = (
            "import signal, sys; from lightning_morse.cli import main\n"
            # Interrupts end it in the background of a shell, too.
            "signal.signal(signal.SIGINT, signal.default_int_handler); print('on', flush=True)\n"
            "while True: main(sys.argv[1:])"
        )
        args = ["report", str(tmp_path / "v0"), "-o", str(path)]
        for _ in range(6):
            process = subprocess.Popen(
                [sys.executable, "-c", code, *args],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.3))
            process.send_signal(rng.choice([signal.SIGKILL, signal.SIGINT]))
            process.communicate(timeout=60)
            assert path.read_bytes() == old

    def test_a_large_report_is_split_by_runs_and_by_steps(self, tmp_path):
        for name in ("a", "b"):
            write_run(tmp_path / name, 3)
        runs, path = read_runs(tmp_path), tmp_path / "r.html"
        size = max(f.stat().st_size for f in tmp_path.rglob("*.view.json"))
        whole = write_report(runs, path, max_bytes=7 * size)
        assert (whole.records, whole.pages) == (6, 0)
        assert not (tmp_path / "r.pages").exists()
        parts = write_report(runs, path, max_bytes=2 * size + 1)
        assert (parts.records, parts.pages) == (6, 4)
        links = [a["href"] for tag, a in Page(path.read_text()).tags if tag == "a"]
        steps = [
            [s["step"] for s in data_of(Page((tmp_path / link).read_text()))["runs"][0]["steps"]]
            for link in links
        ]
        assert steps == [[9, 19], [29]] * 2

    def test_pages_that_nothing_leads_to_are_removed(self, tmp_path):
        write_run(tmp_path / "a", 2)
        runs, path = read_runs(tmp_path), tmp_path / "r.html"
        write_report(runs, path, max_bytes=1)
        (tmp_path / "r.pages/mine.html").write_text("kept")
        before = set(os.listdir(tmp_path / "r.pages"))
        write_report(runs, path, max_bytes=1)
        after = set(os.listdir(tmp_path / "r.pages"))
        assert before & after == {"mine.html"}
        assert len(after) == 3
        write_report(runs, path)
        assert os.listdir(tmp_path / "r.pages") == ["mine.html"]

    def test_names_stay_text_in_the_index(self, tmp_path):
        write_run(tmp_path / "<img src=x onerror=alert(1)>", 1)
        path = tmp_path / "r&#.html"
        write_report(read_runs(tmp_path), path, max_bytes=1)
        page = Page(path.read_text())
        assert "img" not in [tag for tag, _ in page.tags]
        (link,) = [a["href"] for tag, a in page.tags if tag == "a"]
        assert link.startswith("r%26%23.pages/0000-")


def test_no_command_keeps_more_than_one_record(tmp_path, monkeypatch):
    """Of 60 records, 2 are in memory at most: the one that is read and the one before."""
    import weakref

    from lightning_morse import cli
    from lightning_morse.view import runs as runs_module

    write_run(tmp_path / "v", 60, make=lambda: drawn.plane(8))
    alive, most = weakref.WeakSet(), []

    def counted(text):
        record = decode(text)
        alive.add(record)
        most.append(len(alive))
        return record

    decode = runs_module.decode
    monkeypatch.setattr(runs_module, "decode", counted)
    for args in (["show"], ["compare"], ["report", "-o", str(tmp_path / "r.html")]):
        most.clear()
        assert cli.main([args[0], str(tmp_path / "v"), *args[1:]]) == 0
        assert len(most) == (1 if args == ["compare"] else 60)
        assert max(most) <= 3


@pytest.mark.parametrize("name", ["report", "analyze"])
@pytest.mark.parametrize("kind", ["a folder", "a named pipe"])
def test_an_output_that_is_no_regular_file_is_noticed_before_the_work(name, kind, tmp_path):
    out = tmp_path / "out"
    out.mkdir() if kind == "a folder" else os.mkfifo(out)
    write_run(tmp_path / "v", 1)
    (tmp_path / "losses.py").write_text("def f(x):\n    raise SystemExit('the loss was asked')\n")
    what = [tmp_path / "v"]
    if name == "analyze":
        what = ["--callable", "losses:f", "--lower", "-1", "--upper", "1"]
    done = command(name, *what, "-o", out, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"it is {kind}; --output must be a file" in done.stderr
    assert not out.is_file()


def test_claims_and_names_reach_the_terminal_as_plain_text(tmp_path):
    write_run(tmp_path / "a\x1b[31m", 1, hparams='"x\\e[2J": 1\n')
    (path,) = tmp_path.rglob("*.view.json")
    raw = json.loads(path.read_text())
    raw["facts"] |= {"claim": "x\x1b]0;owned\x07", "verdict": "\x9b2J"}
    path.write_text(json.dumps(raw))
    (tmp_path / "b\x1b[1m").mkdir()
    (tmp_path / "b\x1b[1m/step-1.view.json").write_text('{"format": "\x1b"}')
    for args in (["show"], ["compare"], ["compare", "--csv"], ["report", "-o", "r\x1b.html"]):
        done = command(args[0], tmp_path, *args[1:], cwd=tmp_path)
        said = done.stdout + done.stderr
        assert said
        assert not [c for c in said if not c.isprintable() and c != "\n"]
