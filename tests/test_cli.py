"""The command: what it prints, where it writes, and how it ends, as a process of its own."""

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys

import pytest

from lightning_morse import MorseAnalysis
from lightning_morse.view.record import encode
from tests.plotting import test_basins_and_morse_graph as drawn
from tests.view.test_report import write_run


def command(*args, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "lightning_morse.cli", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        check=False,
    )


def test_report(tmp_path):
    write_run(tmp_path / "v0")
    done = command("report", tmp_path / "v0", "-o", tmp_path / "r.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'r.html'}: 3 records of 1 run, ")
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")


def test_a_broken_record_is_reported_and_the_rest_written(tmp_path):
    write_run(tmp_path / "v0")
    (tmp_path / "v0/morse/step-0000009.view.json").write_text("{}")
    done = command("report", tmp_path / "v0", "-o", tmp_path / "r.html")
    assert done.returncode == 1
    assert 'step-0000009.view.json: broken view record: "format" should be' in done.stderr
    assert (tmp_path / "r.html").exists()


def test_show(tmp_path):
    write_run(tmp_path / "v0")
    done = command("show", tmp_path / "v0")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == str(tmp_path / "v0")
    head = "step epoch loss attractors unresolved mu basin barrier undecided escape"
    assert " ".join(lines[1].split()) == head
    assert lines[4].split()[:7] == ["29", "2", str(round(loss_now(), 3)), "3", "1", "0.9996", "0"]
    assert "Morse sets at step 29: at least 3 attractors" in lines
    assert len([line for line in lines if "saddle" in line]) == 2


def loss_now():
    return float(f"{drawn.plane().sample_losses[0]:.4g}")


def test_show_of_an_archive(tmp_path):
    drawn.line().save(tmp_path / "found.npz")
    done = command("show", tmp_path / "found.npz")
    assert done.returncode == 0
    assert "at least 2 attractors" in done.stdout


def test_compare_sorts_by_loss_and_knows_hyper_parameters(tmp_path):
    write_run(tmp_path / "a", 2, make=lambda: scaled(2.0), hparams="lr: 0.1\n")
    write_run(tmp_path / "b", 2, make=lambda: scaled(1.0), hparams="lr: 0.2\nact: relu\n")
    drawn.plane().save(tmp_path / "c.npz")
    done = command("compare", tmp_path / "a", tmp_path / "c.npz", tmp_path / "b", "--csv")
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["run"][-1] for row in rows] == ["b", "a", "z"]  # no loss: last
    assert [row["hparams.lr"] for row in rows] == ["0.2", "0.1", ""]
    assert [row["hparams.act"] for row in rows] == ["relu", "", ""]
    assert float(rows[1]["loss"]) == pytest.approx(2 * float(rows[0]["loss"]))
    assert {row["attractors"] for row in rows} == {"3"}
    assert rows[0]["barrier"] == "1.5"
    table = command("compare", tmp_path / "a", tmp_path / "b", "--sort", "hparams.lr")
    assert [line.split()[0][-1] for line in table.stdout.splitlines()[1:]] == ["a", "b"]


def test_compare_knows_switches_and_monitors_of_any_name(tmp_path):
    write_run(tmp_path / "a", 2)
    other = tmp_path / "a/morse_random"
    other.mkdir()
    text = encode(drawn.plane(), step=3, scalars={"morse_random/basin_switches": 2.0})
    (other / "step-0000003.view.json").write_text(text)
    (tmp_path / "a/hparams.yaml").write_text("lr: 0.1\n")
    done = command("compare", tmp_path, "--csv")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["run"]: row for row in csv.DictReader(io.StringIO(done.stdout))}
    assert [rows[str(tmp_path / name)]["switches"] for name in ("a", "a/morse_random")] == [
        "",
        "2.0",
    ]
    assert {row["hparams.lr"] for row in rows.values()} == {"0.1"}
    table = command("compare", tmp_path).stdout.splitlines()
    assert "switches" in table[0]
    assert {line.split()[0] for line in table[1:]} == {"a", "a/morse_random"}
    assert "switches" not in command("compare", tmp_path / "a" / "morse").stdout


def test_no_bound_is_printed_where_nothing_is_claimed(tmp_path):
    write_run(tmp_path / "a", 2)
    (last,) = (tmp_path / "a").rglob("step-0000019.view.json")
    record = json.loads(last.read_text())
    said = "undecided: it may end in 5 unresolved Morse sets, more samples would help"
    record["facts"] |= {"claim": "no certain attractor", "verdict": said}  # mu as in older records
    last.write_text(json.dumps(record))
    shown = command("show", tmp_path).stdout
    assert f"Morse sets at step 19: no certain attractor; {said}" in shown
    done = command("compare", tmp_path, "--csv")
    assert [row["mu"] for row in csv.DictReader(io.StringIO(done.stdout))] == [""]


def scaled(factor):
    result = drawn.plane(8)
    return dataclasses.replace(result, sample_losses=factor * result.sample_losses)


def test_compare_in_an_unknown_order(tmp_path):
    write_run(tmp_path / "a", 1)
    done = command("compare", tmp_path / "a", "--sort", "lr")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--sort must be one of run, step, epoch, loss, " in done.stderr


def test_compare_nothing_that_can_be_read(tmp_path):
    (tmp_path / "step-1.view.json").write_text("{")
    done = command("compare", tmp_path)
    assert done.returncode == 1
    assert "none of the records can be read" in done.stderr


@pytest.mark.parametrize("name", ["report", "show", "compare"])
def test_nothing_there(tmp_path, name):
    done = command(name, tmp_path / "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"lightning-morse: {tmp_path / 'nowhere'}: no such file or folder\n"
    assert not list(tmp_path.iterdir())


def test_a_report_that_cannot_be_written(tmp_path):
    write_run(tmp_path / "v0", 1)
    done = command("report", tmp_path / "v0", "-o", tmp_path / "no" / "r.html")
    assert done.returncode == 1
    assert "there is no folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_cannot_move_the_cursor(tmp_path):
    write_run(tmp_path / "v0", 1, hparams='name: "\\e[2Jx"\n')
    done = command("compare", tmp_path / "v0")
    assert "?[2Jx" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_reader_may_stop_early(tmp_path):
    write_run(tmp_path / "v0", 3)
    script = f"{sys.executable} -m lightning_morse.cli show {tmp_path / 'v0'} | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("args", [[], ["fly"], ["report"], ["analyze", "--lower", "1"]])
def test_wrong_usage(args):
    done = command(*args)
    assert done.returncode == 2
    assert "usage: lightning-morse" in done.stderr


FUNCTION = "def bowl(x):\n    return (x**2).sum(1)\nthree = 3\n"


def test_analyze(tmp_path):
    (tmp_path / "losses.py").write_text(FUNCTION)
    options = ["--lower", "-1", "-1", "--upper", "1", "1", "--samples", "48", "--resolution", "24"]
    done = command("analyze", "--callable", "losses:bowl", *options, "-o", "f.npz", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("exactly 1 attractor, undecided ")
    assert MorseAnalysis.load(tmp_path / "f.npz").n_attractors == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--callable", "losses"], "expected MODULE:FUNCTION"),
        (["--callable", "nowhere:f"], "--callable nowhere:f: No module named 'nowhere'"),
        (["--callable", "losses:cup"], "has no attribute 'cup'"),
        (["--callable", "losses:three"], "it is a int, not a function"),
        (["--callable", "losses:bowl", "-o", "no/f.npz"], "no/f.npz: there is no folder no"),
        (["--callable", "losses:bowl", "--upper", "1", "1"], "one number per axis, got 1 and 2"),
        (["--callable", "losses:bowl", "--upper", "-2"], "lower"),
    ],
)
def test_analyze_what_cannot_be(tmp_path, options, message):
    (tmp_path / "losses.py").write_text(FUNCTION)
    done = command("analyze", "--lower", "-1", "--upper", "1", *options, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert re.search(message, done.stderr)
