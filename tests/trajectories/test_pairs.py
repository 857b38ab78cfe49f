"""Pairs of states: which states belong together, and which are refused."""

import numpy as np
import pytest

from lightning_morse.trajectories.pairs import aligned_pairs, pairs_of_runs


def run(length, start=0.0, dim=2):
    return start + np.arange(length)[:, None] * np.ones(dim)


def test_pairs_are_of_one_run_and_lag_steps_apart():
    runs = [run(7), run(4, 100.0)]
    pairs = pairs_of_runs(runs, lag=2, overlapping=True)
    assert pairs.start[:, 0].tolist() == [0, 1, 2, 3, 4, 100, 101]
    assert (pairs.displacement == 2).all()
    assert pairs.run.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert pairs.step.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert pairs.run_ids == ("0", "1")


def test_pairs_share_no_step_unless_asked():
    pairs = pairs_of_runs([run(8)], lag=3)
    assert pairs.step.tolist() == [0, 3]


def test_a_missing_step_gives_no_pair():
    pairs = pairs_of_runs([run(4)], steps=[[0, 1, 5, 6]])
    assert pairs.step.tolist() == [0, 5]
    assert pairs.start[:, 0].tolist() == [0, 2]


def test_a_run_that_diverges_is_cut_there_and_named():
    bad = run(6)
    bad[3, 1] = np.inf
    pairs = pairs_of_runs([run(3), bad], run_ids=["good", "bad"])
    assert pairs.cut == ("bad",)
    assert pairs.start[pairs.run == 1][:, 0].tolist() == [0, 1]


def test_a_run_that_diverges_at_once_is_named_and_gives_no_pair():
    pairs = pairs_of_runs([run(3), np.full((5, 2), np.nan)])
    assert pairs.cut == ("1",)
    assert set(pairs.run.tolist()) == {0}


def test_a_single_run_is_enough():
    assert len(pairs_of_runs([run(5)])) == 4


def test_pairs_in_a_box_start_there():
    pairs = pairs_of_runs([run(6)]).starting_in([1.0, 1.0], [3.0, 3.0])
    assert pairs.start[:, 0].tolist() == [1, 2, 3]
    assert pairs.end[-1].tolist() == [4, 4]
    assert pairs.step.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trajectories": []}, "at least one run"),
        ({"lag": 0}, "lag must be an integer of at least 1, got 0"),
        ({"lag": 1.5}, "lag must be an integer"),
        ({"lag": True}, "lag must be an integer"),
        ({"trajectories": [run(3), run(3, dim=1)]}, "2 for run 'a' and 1 for run 'b'"),
        ({"trajectories": [run(3), run(1)]}, "at least 2 states for a lag of 1, got 1 in run 'b'"),
        ({"trajectories": [run(3), np.zeros(3)]}, r"run 'b' must have shape \(T, d\)"),
        ({"run_ids": ["a", "a"]}, r"'a' for runs \[0, 1\]"),
        ({"run_ids": ["a"]}, "name each of the 2 runs, got 1"),
        ({"steps": [[0, 1, 2]]}, "one array for each of the 2 runs, got 1"),
        ({"steps": [[0, 1, 2], [0, 2, 1]]}, "steps of run 'b' .* do not increase"),
        ({"steps": [[0, 1, 2], [0, 1]]}, "steps of run 'b' must be 3 increasing integers"),
        ({"steps": [[0, 1, 2], [0.0, 1, 2]]}, r"steps\[1\] must be integers"),
        ({"trajectories": [np.full((3, 1), np.nan)] * 2}, "no run has two finite states"),
        ({"steps": [[0, 2, 4]] * 2}, "no run has two finite states 1 steps apart"),
    ],
)
def test_runs_that_do_not_fit_are_refused(change, message):
    given = {"trajectories": [run(3), run(3)], "run_ids": ["a", "b"]} | change
    if not given["trajectories"]:
        given["run_ids"] = None
    with pytest.raises(ValueError, match=message):
        pairs_of_runs(**given)


def aligned(**change):
    given = {
        "start": [[0.0], [1.0], [7.0]],
        "end": [[1.0], [2.0], [8.0]],
        "start_run": ["a", "a", "b"],
        "end_run": ["a", "a", "b"],
        "start_step": [0, 1, 0],
        "end_step": [1, 2, 1],
    }
    return aligned_pairs(**(given | change))


def test_aligned_pairs_equal_those_of_the_runs():
    pairs, same = aligned(), pairs_of_runs([[[0.0], [1], [2]], [[7.0], [8]]], run_ids=["a", "b"])
    for name in ("start", "end", "run", "step"):
        assert np.array_equal(getattr(pairs, name), getattr(same, name))
    assert pairs.run_ids == same.run_ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end_run": ["a", "b", "b"]}, "runs 'a' and 'b' in pair 1"),
        ({"end_step": [1, 3, 1]}, "1 steps apart, got steps 1 and 3 in pair 1 of run 'a'"),
        ({"lag": 2}, "2 steps apart"),
        ({"start_step": [0, 0, 0], "end_step": [1, 1, 1]}, "two pairs that start at step 0"),
        ({"end": [[1.0], [np.nan], [8.0]]}, "must be finite, .* in pair 1 of run 'a'"),
        ({"end": [[1.0], [2.0]]}, r"both have shape \(n, d\)"),
        ({"start_run": ["a"]}, "start_run must have one entry for each of the 3 pairs, got 1"),
        ({"end_step": [1, 2]}, "end_step must have one entry"),
        ({"end_step": [1.0, 2.0, 1.0]}, "end_step must be integers"),
    ],
)
def test_pairs_that_do_not_belong_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        aligned(**change)
