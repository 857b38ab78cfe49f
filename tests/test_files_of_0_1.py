"""Files that version 0.1 wrote: results, views, weights and checkpoints are still read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse.facts import MapFacts, SurrogateFacts
from lightning_morse.view.record import decode

FILES = Path(__file__).parent / "files_of_0_1"
EXPECTED = json.loads((FILES / "expected.json").read_text())


def test_an_analysis():
    result = lm.MorseAnalysis.load(FILES / "analysis.npz")
    assert result.claim == EXPECTED["claim"]
    assert result.mu == EXPECTED["mu"]
    assert result.undecided == EXPECTED["undecided"]
    facts = result.surrogate
    assert isinstance(facts, SurrogateFacts)
    assert facts.kernel == "product Matern-7/2"
    assert facts.n == len(result.samples) == 48
    assert facts.lengthscales == (8.253669221211174, 47.53699261558612)
    assert facts.loss_floor is None
    assert facts.largest_held_out == 0.0006910682660837946  # then called largest_held_back


def test_an_analysis_of_trajectories():
    result = lm.MorseAnalysis.load(FILES / "trajectory_analysis.npz")
    assert result.claim == EXPECTED["trajectory_claim"]
    facts = result.surrogate
    assert isinstance(facts, MapFacts)
    assert (facts.n, facts.n_outside, facts.n_runs, facts.lag) == (48, 0, 12, 1)
    assert facts.periods == (1, 1, 1)
    assert facts.betti == ((1, 0), (1, 0), (0, 1))
    assert facts.cut_runs == ()
    assert facts.step_level is None


@pytest.mark.parametrize("name", ["analysis.npz", "trajectory_analysis.npz"])
def test_an_old_analysis_is_saved_anew(name, tmp_path):
    old = lm.MorseAnalysis.load(FILES / name)
    old.save(tmp_path / "new.npz")
    new = lm.MorseAnalysis.load(tmp_path / "new.npz")
    assert new.surrogate == old.surrogate
    assert new.table() == old.table()
    assert np.array_equal(new.labels, old.labels)


def test_a_view():
    """That of the last analysis of the run."""
    record, last = decode((FILES / "view.json").read_text()), EXPECTED["history"][-1]
    assert (record.step, record.epoch) == (last["step"], last["epoch"]) == (11, 2)
    assert record.facts["claim"] == "exactly 1 attractor"
    assert record.facts["mu"] == last["morse/mu"]
    assert record.facts["undecided"] == last["morse/undecided"]
    assert record.scalars["morse/flow_angle"] == last["morse/flow_angle"]
    assert record.labels.shape == (16 * 16,)


def test_recorded_weights(tmp_path):
    shutil.copy(FILES / "weights.npz", tmp_path)
    (run,) = lm.load_runs(tmp_path)
    assert run.states.shape == (4, 4)
    assert len(run.steps) == len(run.losses) == 4
    assert np.isfinite(run.states).all()


def test_a_checkpoint():
    checkpoint = torch.load(FILES / "run.ckpt", weights_only=False)
    (state,) = (s for name, s in checkpoint["callbacks"].items() if "MorseMonitor" in name)
    monitor = lm.MorseMonitor(
        n_samples=32, resolution=16, max_overhead=1.0, max_snapshots=4, probe_batches=1
    )
    monitor.load_state_dict(state)
    assert len(monitor.history) == 3
    for row, expected in zip(monitor.history, EXPECTED["history"], strict=True):
        assert {str(k): v for k, v in row.items() if k != "basins"} == {
            k: v for k, v in expected.items() if k != "basins"
        }
        assert {str(k): v for k, v in row["basins"].items()} == expected["basins"]
