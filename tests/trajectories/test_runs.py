"""Files of recorded runs: round trip, joining, and what is refused."""

import dataclasses
import os

import numpy as np
import pytest

import lightning_morse as lm
from lightning_morse import DamagedFile
from lightning_morse.files import archive
from lightning_morse.trajectories.runs import Run, load_runs


def run(run_id="a", steps=(0, 2, 4), **change):
    steps = np.array(steps)
    states = steps[:, None] * np.array([1.0, 10.0])
    given = {"seed": 3, "hyper_parameters": {"lr": 0.1}} | change
    return Run(run_id, steps, states.astype(np.float32), 0.5 * steps, **given)


def test_round_trip(tmp_path):
    original = run()
    original.states[1, 0] = np.nan
    original.save(tmp_path / "a.npz")
    again = Run.load(tmp_path / "a.npz")
    for field in dataclasses.fields(Run):
        before, after = getattr(original, field.name), getattr(again, field.name)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            assert np.array_equal(before, after, equal_nan=True)
        else:
            assert before == after


def test_runs_are_sorted_and_parts_joined(tmp_path):
    run("b").save(tmp_path / "1.npz")
    (tmp_path / "later").mkdir()
    run("a", (4, 6, 8)).save(tmp_path / "later" / "2.npz")
    run("a", (0, 2, 4)).save(tmp_path / "2.npz")
    runs = load_runs(tmp_path)
    assert [r.run_id for r in runs] == ["a", "b"]
    assert runs[0].steps.tolist() == [0, 2, 4, 6, 8]
    assert runs[0].states[:, 1].tolist() == [0, 20, 40, 60, 80]
    assert runs[0].losses.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, r"both are of run 'a', got \(3, "),
        ({"hyper_parameters": {"lr": 0.2}}, "0.2"),
    ],
)
def test_two_runs_of_one_id_are_refused(change, message, tmp_path):
    run().save(tmp_path / "1.npz")
    run(steps=(6, 8), **change).save(tmp_path / "2.npz")
    with pytest.raises(ValueError, match=message):
        load_runs(tmp_path)


def test_parts_that_contradict_each_other_are_refused(tmp_path):
    run().save(tmp_path / "1.npz")
    other = run(steps=(0, 2, 4, 6))
    other.states[2] = 0
    other.save(tmp_path / "2.npz")
    with pytest.raises(ValueError, match="different states at step 4"):
        load_runs(tmp_path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    run().save(tmp_path / "a.npz")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        run(steps=(0, 1)).save(tmp_path / "a.npz")
    assert os.listdir(tmp_path) == ["a.npz"]
    assert Run.load(tmp_path / "a.npz").steps.tolist() == [0, 2, 4]


def test_partial_files_of_a_killed_process_are_ignored(tmp_path):
    run().save(tmp_path / "a.npz")
    (tmp_path / ".a.npz.123.partial").write_bytes(b"half a file")
    assert len(load_runs(tmp_path)) == 1


def test_empty_folders_and_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="recorded runs"):
        load_runs(tmp_path)
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="does not hold a recorded run"):
        load_runs(tmp_path)
    (tmp_path / "a.npz").write_bytes(b"PK nonsense")
    with pytest.raises(ValueError, match="does not hold a recorded run"):
        load_runs(tmp_path)
    with pytest.raises(FileNotFoundError):
        Run.load(tmp_path / "none.npz")


def test_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_morse.trajectories.runs.RUN_FORMAT", 9)
    run().save(tmp_path / "a.npz")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="its format is 9, this version reads 1"):
        Run.load(tmp_path / "a.npz")


def test_arrays_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"states must have shape \(2, p\)"):
        Run("a", np.arange(2), np.zeros((3, 1)), np.zeros(2))
    with pytest.raises(ValueError, match="must increase"):
        Run("a", np.array([1, 1]), np.zeros((2, 1)), np.zeros(2))


def test_steps_that_fall_are_refused_whatever_their_type():
    """Differences of unsigned numbers never fall."""
    for steps in (np.array([3, 1], dtype=np.uint64), np.array([0.0, 1.0])):
        with pytest.raises(ValueError, match="must increase"):
            Run("a", steps, np.zeros((2, 1)), np.zeros(2))


@pytest.mark.parametrize(
    ("facts", "member"),
    [({"run_id": ["a"]}, "run_id"), ({"run_id": 3}, "run_id"), ({"seed": "x"}, "seed")],
)
def test_facts_of_another_type_are_refused(facts, member, tmp_path):
    good = {"run_id": "a", "seed": 1, "hyper_parameters": {}}
    arrays = {"steps": np.arange(2), "states": np.zeros((2, 1)), "losses": np.zeros(2)}
    archive.write(tmp_path / "a.npz", good | facts, arrays, version=1)
    with pytest.raises(DamagedFile, match="does not hold a recorded run") as error:
        load_runs(tmp_path)
    assert error.value.member == member


def test_one_bad_file_takes_no_other_with_it(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    folder = tmp_path / "in"
    run("a").save(folder / "a.npz")
    run("b").save(tmp_path / "out" / "b.npz")
    run("c").save(folder / "c.run")
    (folder / "bad.npz").write_bytes(b"PK nonsense")
    np.savez(folder / "other.npz", x=np.zeros(3))
    os.mkfifo(folder / "pipe.npz")
    (folder / "gone.npz").symlink_to(folder / "nowhere")
    (folder / "outside.npz").symlink_to(tmp_path / "out" / "b.npz")
    (folder / "inside.npz").symlink_to(folder / "c.run")
    os.link(folder / "a.npz", os.fsencode(folder) + b"/\xff.npz")  # not UTF-8
    with pytest.warns(UserWarning, match="left out") as warned:
        runs = load_runs(folder)
    assert [r.run_id for r in runs] == ["a", "c"]
    said = " ".join(str(w.message) for w in warned)
    assert len(warned) == 5
    for name in ("bad.npz", "other.npz", "pipe.npz", "gone.npz", "outside.npz"):
        assert name in said


def test_a_file_that_vanishes_while_others_are_read(tmp_path, monkeypatch):
    for name in ("a", "b"):
        run(name).save(tmp_path / f"{name}.npz")
    read = Run.load

    def load(path):
        (tmp_path / "b.npz").unlink(missing_ok=True)
        return read(path)

    monkeypatch.setattr(Run, "load", load)
    with pytest.warns(UserWarning, match=r"left out: .*b\.npz"):
        assert [r.run_id for r in load_runs(tmp_path)] == ["a"]


def saved(folder, run_id, states):
    """Write the file of a run with one state per step."""
    array = np.asarray(states, dtype=np.float32)
    steps = np.arange(len(array))
    Run(run_id, steps, array, np.zeros(len(array))).save(folder / f"{run_id}.npz")


def analyzed(folder, **options):
    runs = load_runs(folder)
    return lm.analyze_trajectories(
        [r.states for r in runs],
        run_ids=[r.run_id for r in runs],
        steps=[r.steps for r in runs],
        resolution=32,
        **options,
    )


def halving(start, length=5, dim=1):
    return np.full((1, dim), start) * 0.5 ** np.arange(length)[:, None]


def test_runs_of_different_dimensions_are_named(tmp_path):
    saved(tmp_path, "narrow", halving(1.0))
    saved(tmp_path, "wide", halving(1.0, dim=2))
    with pytest.raises(ValueError, match="got 1 for run 'narrow' and 2 for run 'wide'"):
        analyzed(tmp_path)


def test_a_run_of_a_single_snapshot_is_named(tmp_path):
    saved(tmp_path, "long", halving(1.0))
    saved(tmp_path, "short", halving(1.0, length=1))
    with pytest.raises(ValueError, match="got 1 in run 'short'"):
        analyzed(tmp_path)


def test_runs_of_different_lengths_and_one_that_diverged(tmp_path):
    """The finite part is used; pairs that start outside the box are dropped and counted."""
    for i, start in enumerate((-1.0, -0.7, 0.4, 0.9)):
        saved(tmp_path, f"r{i}", halving(start, length=3 + i))
    bad = halving(-0.9, length=6)
    bad[3] = np.inf
    bad[4:] = np.nan
    saved(tmp_path, "bad", bad)
    saved(tmp_path, "far", [[5.0], [2.5], [0.8], [0.4]])
    result = analyzed(tmp_path, lower=[-1.2], upper=[1.2])
    assert result.surrogate.cut_runs == ("bad",)
    assert result.surrogate.n == (2 + 3 + 4 + 5) + 2 + 1
    assert result.surrogate.n_outside == 2
    assert result.n_attractors == 1


def test_runs_that_all_diverged_at_once_are_named(tmp_path):
    for name in ("a", "b"):
        saved(tmp_path, name, np.full((4, 1), np.nan))
    with pytest.raises(ValueError, match=r"no run has two finite states .*\['a', 'b'\]"):
        analyzed(tmp_path)


def test_one_run_too_short_for_a_surrogate_is_refused(tmp_path):
    saved(tmp_path, "only", halving(1.0, length=4))
    with pytest.raises(ValueError, match=r"at least 6 pairs .* got 3 of 3"):
        analyzed(tmp_path)
