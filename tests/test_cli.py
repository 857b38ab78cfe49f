"""The command: what it prints, where it writes, and how it ends, as a process of its own."""

import csv
import dataclasses
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_morse import MorseAnalysis, cli
from lightning_morse.analysis.sentence import sentence
from lightning_morse.cli.about_functions import _usual_resolution, _why_too_many_cells
from lightning_morse.view.encoding import encode
from lightning_morse.words import short_of_one
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
    assert lines[1].startswith("Step 29: Certainly in the basin of attractor ")
    assert " ".join(lines[2].split()) == head
    assert lines[5].split()[:7] == ["29", "2", str(round(loss_now(), 3)), "3", "1", "0.9996", "0"]
    assert "Morse sets at step 29: at least 3 attractors" in lines
    assert len([line for line in lines if "saddle" in line]) == 2


def loss_now():
    return float(f"{drawn.plane().sample_losses[0]:.4g}")


@pytest.mark.slow
def test_show_of_an_archive(tmp_path):
    drawn.line().save(tmp_path / "found.npz")
    done = command("show", tmp_path / "found.npz")
    assert done.returncode == 0
    assert "at least 2 attractors" in done.stdout


@pytest.mark.slow
def test_compare_sorts_by_loss_and_knows_hyper_parameters(tmp_path):
    write_run(tmp_path / "a", 2, make=lambda: scaled(2.0), hparams="lr: 0.1\n")
    write_run(tmp_path / "b", 2, make=lambda: scaled(1.0), hparams="lr: 0.2\nact: relu\n")
    drawn.plane().save(tmp_path / "c.npz")
    done = command("compare", tmp_path / "a", tmp_path / "c.npz", tmp_path / "b", "--csv")
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["run"][-1] for row in rows] == ["b", "a", "z"]  # no loss: last
    assert "loss" not in rows[0]  # training may have gone on: it has a name of its own
    assert [row["hparams.lr"] for row in rows] == ["0.2", "0.1", ""]
    assert [row["hparams.act"] for row in rows] == ["relu", "", ""]
    assert float(rows[1]["analysed_loss"]) == pytest.approx(2 * float(rows[0]["analysed_loss"]))
    assert {row["attractors"] for row in rows} == {"3"}
    assert rows[0]["barrier"] == "1.5"
    table = command("compare", tmp_path / "a", tmp_path / "b", "--sort", "hparams.lr")
    *lines, blank, about = table.stdout.splitlines()
    assert [line.split()[0][-1] for line in lines[1:]] == ["a", "b"]
    assert (blank, about.startswith("analysed_loss: on the probe batches")) == ("", True)


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
    assert {line.split()[0] for line in table[1:-2]} == {"a", "a/morse_random"}
    assert "switches" not in command("compare", tmp_path / "a" / "morse").stdout


def test_no_bound_is_printed_where_nothing_is_claimed(tmp_path):
    write_run(tmp_path / "a", 2)
    (last,) = (tmp_path / "a").rglob("step-0000019.view.json")
    record = json.loads(last.read_text())
    said = "Undecided: it may settle in one of 5 sets."
    record["facts"] |= {"claim": "no certain attractor", "verdict": said}  # mu as in older records
    record["summary"]["claim"] = "no certain attractor"
    last.write_text(json.dumps(record))
    shown = command("show", tmp_path).stdout
    assert f"\nStep 19: {said}\n" in shown
    assert "\nMorse sets at step 19: no certain attractor\n" in shown
    done = command("compare", tmp_path, "--csv")
    assert [row["mu"] for row in csv.DictReader(io.StringIO(done.stdout))] == [""]


def scaled(factor):
    result = drawn.plane(8)
    return dataclasses.replace(result, sample_losses=factor * result.sample_losses)


def test_compare_in_an_unknown_order(tmp_path):
    write_run(tmp_path / "a", 1)
    done = command("compare", tmp_path / "a", "--sort", "lr")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--sort must be one of run, step, epoch, analysed_loss, " in done.stderr


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


@pytest.mark.slow
def test_analyze(tmp_path):
    (tmp_path / "losses.py").write_text(FUNCTION)
    options = ["--lower", "-1", "-1", "--upper", "1", "1", "--samples", "48", "--resolution", "24"]
    done = command("analyze", "--callable", "losses:bowl", *options, "-o", "f.npz", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    result = MorseAnalysis.load(tmp_path / "f.npz")
    bound = short_of_one(result.mu)
    said, claim, *_ = done.stdout.splitlines()
    assert said == sentence(result)
    assert result.claim_in_full.startswith("exactly 1 attractor wider than ")
    assert claim.startswith(f"{result.claim_in_full}, mu >= {bound}; undecided ")
    assert result.n_attractors == 1


@pytest.mark.slow
def test_what_analyze_suggests_works_and_harms_nothing(tmp_path):
    """An archive may have any name; what cannot be read does not replace a report."""
    (tmp_path / "losses.py").write_text(FUNCTION)
    options = ["--lower", "-1", "--upper", "1", "--samples", "32", "-o", "my found"]
    done = command("analyze", "--callable", "losses:bowl", *options, cwd=tmp_path)
    name, suggested = done.stdout.splitlines()[-1].split("; to look at it: ")
    assert name == "written: my found"
    args = shlex.split(suggested)
    assert args[0] == "lightning-morse"
    done = command(*args[1:], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "report.html").read_text()
    assert "exactly 1 attractor" in page
    (tmp_path / "damaged").write_bytes((tmp_path / "my found").read_bytes()[:200])
    done = command("report", "damaged", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "so no report is written" in done.stderr
    assert (tmp_path / "report.html").read_text() == page


def test_too_many_cells_are_refused_before_anything_is_evaluated(tmp_path):
    (tmp_path / "losses.py").write_text("def never(x):\n    raise AssertionError\n")
    box = ["--lower", *["-1"] * 4, "--upper", *["1"] * 4, "--resolution", "128"]
    done = command("analyze", "--callable", "losses:never", *box, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "lightning-morse: a grid of 268,435,456 cells on 4 axes does not fit into memory; "
        "--resolution may be 32 at most\n"
    )
    assert _why_too_many_cells(32, 4) == ""
    assert "--resolution" not in _why_too_many_cells(4, 9)


def test_memory_that_runs_out_is_told(monkeypatch, capsys):
    def greedy(*_, **__):
        raise MemoryError

    monkeypatch.setattr("lightning_morse.analysis.pipeline.analyze", greedy)
    box = ["--lower", "-1", "--upper", "1"]
    assert cli.main(["analyze", "--callable", "tests.landscapes:hill", *box]) == 1
    assert "not enough memory" in capsys.readouterr().err


def test_the_usual_resolution_fits_into_memory():
    assert [_usual_resolution(d) for d in (1, 2, 3, 4, 8)] == [128, 128, 40, 16, 4]
    assert all(not _why_too_many_cells(_usual_resolution(d), d) for d in range(1, 9))


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_tables_are_markdown_only_where_it_is_asked_for(tmp_path, form):
    write_run(tmp_path / "v0", 1)
    asked = [] if form == "text" else ["--format", form]
    lines = command("show", tmp_path / "v0", *asked).stdout.splitlines()
    assert any(line.startswith("|---|---|") for line in lines) == (form == "markdown")
    drawn.line().save(tmp_path / "found.npz")
    result = MorseAnalysis.load(tmp_path / "found.npz")
    assert result.table("text").splitlines()[1].startswith("  0  attractor ")
    assert result.table().startswith("| set | what |")
    with pytest.raises(ValueError, match="form must be one of text, markdown, got 'html'"):
        result.table("html")


@pytest.mark.slow
def test_the_commands_of_the_readme_work_in_a_clone(tmp_path):
    """As they stand there, with runs where the demo writes them."""
    root = Path(__file__).parent.parent
    shutil.copytree(root / "examples", tmp_path / "examples")
    write_run(tmp_path / "runs/digits-tanh/version_0", hparams="lr: 0.1\n")
    lines = (root / "README.md").read_text().splitlines()
    given = [line.removeprefix("$ ") for line in lines if line.startswith("$ lightning-morse ")]
    assert {line.split()[1] for line in given} == {"report", "show", "compare", "analyze"}
    for line in given:
        args = shlex.split(line, comments=True)[1:]
        done = command(*args, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), line
    assert "exactly 4 attractors" in (tmp_path / "found.html").read_text()


@pytest.mark.slow
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
