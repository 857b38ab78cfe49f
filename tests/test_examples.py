"""The examples, in a short form, as a user would start them."""

import csv
import io
import itertools
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_morse import cli
from lightning_morse.view.record import decode

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name, what="main"):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))[what]


def test_himmelblau(tmp_path, capsys):
    result = load("himmelblau")(["--resolution", "64", "--out", str(tmp_path)])
    assert result.n_attractors == 4
    assert {p.name for p in tmp_path.iterdir()} == {
        *("basins.png", "graph.png", "merge.png", "analysis.npz")
    }
    assert "4 attractors" in capsys.readouterr().out


def test_deep_linear(tmp_path, capsys):
    results = load("deep_linear")(["--slices", "chain", "--out", str(tmp_path)])
    assert results["chain"].n_attractors == 2
    assert (tmp_path / "chain.png").exists()
    assert "exactly 2 attractors" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_three_solutions_each_in_a_basin_of_its_own(activation, tmp_path):
    """128 samples, 128 x 128 cells: as the documentation says."""
    main = load("three_solutions")
    result, solutions = main(["--activation", activation, "--out", str(tmp_path)])
    assert result.claim == "exactly 3 attractors"
    assert sorted(m.index for m in result.morse_sets) == [0, 0, 0, 1, 1, 1, 2]
    assert sorted(result.basin_of(solutions)) == [0, 1, 2]
    assert result.mu_model >= 0.95
    assert len(result.samples) <= 128
    assert (tmp_path / "basins.png").exists()


def test_digits_says_where_there_was_no_analysis():
    line = load("digits", "EpochLine")(None)
    nothing = {"morse/overhead": 0.1, "morse/age": 23.0}
    assert line.counted(nothing) == "no analysis this epoch"
    found = {"morse/unresolved": 0.0, "morse/attractors": 1.0, "morse/mu": 0.9834}
    found["morse/failed"] = 0.0
    assert line.counted(found) == "exactly 1 attractor, mu 0.98"
    open_sets = {**found, "morse/unresolved": 2.0, "morse/attractors": 2.0}
    assert line.counted(open_sets) == "at least 2 attractors, mu 0.98"
    assert line.counted({**found, "morse/mu": 0.0}) == "no certain attractor"
    assert line.counted({**found, "morse/failed": 1.0}) == "no analysis this epoch"


def test_commands_of_the_demo_are_those_of_its_environment(tmp_path, monkeypatch):
    """Found beside the interpreter, unless the shell finds the same; paths with a space too."""
    commands = load("digits", "commands")
    home = tmp_path / "my env"
    home.mkdir()
    for name in ("tensorboard", "lightning-morse"):
        (home / name).write_text("")
        (home / name).chmod(0o755)
    monkeypatch.setattr("sys.executable", str(home / "python"))
    monkeypatch.chdir(tmp_path)
    assert commands(Path("my runs")) == [
        "'my env/tensorboard' --logdir 'my runs'",
        "'my env/lightning-morse' report 'my runs' -o 'my runs/report.html'",
        "'my env/lightning-morse' compare 'my runs'",
    ]
    monkeypatch.setenv("PATH", str(home))
    assert commands(Path("runs"))[2] == "lightning-morse compare runs"


@pytest.mark.slow
def test_the_fast_demo_says_a_sentence_for_each_epoch_and_what_to_do_next(tmp_path):
    """As make starts it; the commands it ends with work as they stand there."""
    options = {"capture_output": True, "text": True, "timeout": 600, "cwd": tmp_path, "check": True}
    root = str(EXAMPLES.parent)
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    started = [sys.executable, str(EXAMPLES / "digits.py"), "--fast"]
    lines = subprocess.run(started, env=environment, **options).stdout.splitlines()
    at = [k for k, line in enumerate(lines) if line.startswith("epoch")]
    assert len(at) == 3
    records = sorted(tmp_path.glob("runs/digits-tanh/version_0/morse/*.view.json"))
    assert len(records) == 3
    for start, record in zip(at, records, strict=True):
        said = itertools.takewhile(lambda line: line.startswith("    "), lines[start + 1 :])
        verdict = decode(record.read_bytes()).facts["verdict"]
        assert " ".join(line.strip() for line in said) == verdict != ""
    board, *others = [line.strip() for line in lines[lines.index("to look further:") + 1 :]]
    assert len(others) == 2
    for command in others:
        subprocess.run(command, shell=True, env=environment, **options)
    assert "digits-tanh/version_0" in (tmp_path / "runs" / "report.html").read_text()
    # It would serve forever: that it knows its options must do.
    assert "--logdir runs" in board
    subprocess.run(f"{board} --inspect", shell=True, env=environment, **options)


BESIDE_THE_DEMO = {
    "reading.md": (
        "The demo drew this after its last epoch",
        "the first two principal directions of the trajectory (98 % of it)",
        "The star marks the current weights, in the basin of attractor 0",
        "certain at the requested level (0.95)",
        "From the grey region the flow leaves the box, and the hatched one is undecided",
    ),
    "over-time.md": (
        "All twelve analyses find training certainly in the basin of the same attractor",
        "identity 0. Its floor falls",
    ),
}


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_the_pages_say_what_the_demo_draws(tmp_path):
    """What stands beside its two pictures there."""
    monitor = load("digits")(["--log-dir", str(tmp_path)])
    history, result = monitor.history, monitor.result
    for page, claims in BESIDE_THE_DEMO.items():
        text = " ".join((EXAMPLES.parent / "docs" / page).read_text(encoding="utf-8").split())
        for claim in claims:
            assert claim in text
    (axes,) = monitor.figures()["basins"].axes
    shares = re.findall(r"\((\d+) %", axes.get_xlabel() + axes.get_ylabel())
    assert sum(map(int, shares)) == 98
    assert history[-1]["morse/basin_current"] == 0
    assert result.confidence == 0.95
    assert min(result.escape, result.undecided) > 0.01
    assert [row["morse/identity_current"] for row in history] == [0] * 12
    floors = [row["loss"] - row["morse/headroom"] for row in history]
    assert floors[-1] < 0.5 * floors[0]


def assert_compared(folder, capsys, n=2):
    """``lightning-morse compare`` has a row a trial, with what was searched."""
    capsys.readouterr()
    assert cli.main(["compare", str(folder), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == n
    assert all(float(row["hparams.lr"]) > 0 and row["hparams.activation"] for row in rows)
    losses = [float(row["analysed_loss"]) for row in rows]
    assert losses == sorted(losses)


@pytest.mark.slow
def test_sweep_on_ray(tmp_path, capsys):
    pytest.importorskip("ray", reason="needs the extra ray: pip install lightning-morse[ray]")
    options = ["--trials", "2", "--epochs", "2", "--n-samples", "32", "--resolution", "32"]
    results = load("sweep_ray")([*options, "--log-dir", str(tmp_path / "ray")])
    assert len(results) == 2
    assert not results.errors
    for result in results:
        assert {"floor", "morse/mu", "morse/headroom"} <= set(result.metrics)
    assert_compared(tmp_path / "ray", capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("objective", ["loss", "pareto"])
def test_sweep(objective, tmp_path, capsys):
    pytest.importorskip("optuna")
    options = ["--trials", "2", "--epochs", "2", "--n-samples", "32", "--resolution", "32"]
    main = load("sweep_optuna")
    study = main([*options, "--objective", objective, "--log-dir", str(tmp_path)])
    assert len(study.trials) == 2
    assert {t.state.name for t in study.trials} <= {"COMPLETE", "PRUNED"}
    assert study.best_trials[0].values[0] < 3
    assert len(study.directions) == {"loss": 1, "pareto": 2}[objective]
    assert study.best_trials[0].user_attrs.keys() == {"attractors", "mu", "barrier"}
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if line.startswith("trial-")]
    assert "best: trial" in printed
    for trial in study.trials:  # the tab HParams of TensorBoard
        events = EventAccumulator(str(tmp_path / f"trial-{trial.number:03d}")).Reload()
        metrics = events.Tags()["scalars"]
        if trial.state.name == "COMPLETE":
            assert {"val_loss", "morse/attractors", "morse/mu", "morse/barrier"} <= set(metrics)
            tags = events.summary_metadata
            assert any(name.startswith("_hparams_") for name in tags)


def test_a_barrier_counts_where_the_basin_is_certain():
    certain = load("sweep_optuna", "certain_barrier")
    found = {"morse/attractors": 1.0, "morse/mu_current": 0.99, "morse/barrier": 2.0}
    assert certain(found) == 2.0
    assert certain({**found, "morse/mu_current": 0.9}) == 0.0
    assert certain({**found, "morse/attractors": 0.0}) == 0.0


def test_runs_on_iris(capsys):
    main = load("doodl3")
    short = ["--runs", "20", "--epochs", "20", "--batches", "40", "--resolution", "24"]
    results = main(["--tasks", "iris", *short])
    assert set(results) == {("iris", 40, 20, s) for s in ("first and last", "all epochs")}
    printed = capsys.readouterr().out
    assert printed.count("| iris | 40 | 20 |") == 2
    first_and_last, all_epochs = results.values()
    assert first_and_last.surrogate.n == 20
    assert all_epochs.surrogate.n == 20 * 10
    # Two of nine weights are not the whole state, and that shows as noise.
    assert max(all_epochs.surrogate.noise_deviation) > 1e-3


@pytest.mark.slow
def test_runs_on_two_digits(tmp_path, capsys):
    main = load("doodl3")
    short = ["--runs", "16", "--epochs", "3", "--batches", "45", "--resolution", "16"]
    results = main(["--tasks", "digits", "--depths", "2", *short, "--out", str(tmp_path)])
    assert len(results) == 2
    assert (tmp_path / "digits_depth_2_45_3_all_epochs_basins.png").exists()
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if line.startswith("| digits depth 2 | 45 | 3 |")]
    assert {line.count("|") for line in lines} == {printed[0].count("|")}
    # No attractor from three epochs, and so no mu.
    assert all(result.n_attractors == 0 for result in results.values())


def test_the_runs_of_a_batch_are_runs_of_one():
    """Weights of two runs trained together are those of torch.optim.Adam, one run at a time."""
    module = runpy.run_path(str(EXAMPLES / "doodl3.py"))
    task = module["digits"](1, 0)
    path = module["train"](task, 2, 2, 50, 0.01, 0.1, 7)
    generator = torch.Generator().manual_seed(7)
    x, y = task.train
    start = 2 * torch.rand(2, len(task.scale), generator=generator) - 1
    orders = [torch.rand(2, len(y), generator=generator).argsort(dim=1) for _ in range(2)]
    for run in range(2):
        w = torch.nn.Parameter(start[run] * task.scale)
        optimizer = torch.optim.Adam([w], lr=0.01, weight_decay=0.1)
        for order in orders:
            for chosen in order[run].split(50):
                optimizer.zero_grad()
                task.loss(w, x[chosen], y[chosen]).backward()
                optimizer.step()
        assert path[run, -1].tolist() == pytest.approx(w.tolist(), abs=2e-4)
