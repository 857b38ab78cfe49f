"""The examples, in a short form, as a user would start them."""

import csv
import io
import runpy
from pathlib import Path

import pytest

from lightning_morse import cli

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


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
    assert result.mu >= 0.95
    assert len(result.samples) <= 128
    assert (tmp_path / "basins.png").exists()


def assert_compared(folder, capsys, n=2):
    """``lightning-morse compare`` has a row a trial, with what was searched."""
    capsys.readouterr()
    assert cli.main(["compare", str(folder), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == n
    assert all(float(row["hparams.lr"]) > 0 and row["hparams.activation"] for row in rows)
    losses = [float(row["loss"]) for row in rows]
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
def test_sweep_prunes_by_the_headroom(tmp_path, capsys):
    pytest.importorskip("optuna")
    options = ["--trials", "2", "--epochs", "2", "--n-samples", "32", "--resolution", "32"]
    study = load("sweep_optuna")([*options, "--log-dir", str(tmp_path)])
    assert len(study.trials) == 2
    assert_compared(tmp_path, capsys)
    assert {t.state.name for t in study.trials} <= {"COMPLETE", "PRUNED"}
    assert study.best_value > 0.5


def test_runs_on_iris(tmp_path, capsys):
    main = load("doodl3")
    short = ["--runs", "20", "--epochs", "40", "--lag", "8", "--resolution", "24"]
    results = main([*short, "--out", str(tmp_path)])
    assert len(results) == 2
    assert (tmp_path / "principal_basins.png").exists()
    printed = capsys.readouterr().out
    assert printed.count("| start in | runs | training loss | test accuracy |") == 2
    for result in results.values():
        assert result.surrogate["n"] == 20 * 5
        # Two of nine weights are not the whole state, and that shows as noise.
        assert max(result.surrogate["noise_deviation"]) > 1e-3
