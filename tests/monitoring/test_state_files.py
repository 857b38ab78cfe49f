"""What is too large for a checkpoint is in files, and is found again or said to be gone."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightning_morse.monitoring.state_files import (
    MissingStateError,
    StateFiles,
    fetched,
    n_bytes,
)


def state(seed=0):
    generator = torch.Generator().manual_seed(seed)
    large = torch.randn(3, 9000, generator=generator)
    return {
        "rows": list(large),
        "probe": [({"x": torch.randn(20000, generator=generator).bfloat16()}, 3)],
        "small": torch.arange(3),
        "facts": [1, "a", None, 0.5],
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if type(a) in (list, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_everything_comes_back_and_little_is_left(tmp_path):
    whole = state()
    small = StateFiles().put_away(whole, tmp_path)
    assert n_bytes(small) < 1000 < 100_000 < n_bytes(whole)
    assert same(fetched(small, tmp_path), whole)
    assert len(list(tmp_path.glob("*.pt"))) == 4


def test_what_is_known_is_not_written_again(tmp_path, monkeypatch):
    files, whole = StateFiles(), state()
    numbered = {id(row): (step, row) for step, row in enumerate(whole["rows"])}
    first = files.put_away(whole, tmp_path, numbered)
    monkeypatch.setattr("lightning_morse.monitoring.state_files._written", None)
    # Rows are known by their numbers: those of a buffer are other objects each time.
    again = {**whole, "rows": [row.view(-1) for row in whole["rows"]]}
    numbered = {id(row): (step, row) for step, row in enumerate(again["rows"])}
    assert same(files.put_away(again, tmp_path, numbered), first)


def test_files_of_the_last_two_states_stay(tmp_path):
    files = StateFiles()
    states = [files.put_away(state(seed), tmp_path) for seed in range(3)]
    for kept in states[1:]:
        fetched(kept, tmp_path)
    with pytest.raises(MissingStateError, match="cannot be read"):
        fetched(states[0], tmp_path)


@pytest.mark.parametrize("damage", [b"", b"x", None], ids=["empty", "changed", "gone"])
def test_a_damaged_file_is_said_to_be(damage, tmp_path):
    small = StateFiles().put_away(state(), tmp_path)
    path = sorted(tmp_path.glob("*.pt"))[0]
    path.unlink() if damage is None else path.write_bytes(damage + path.read_bytes()[1:])
    with pytest.raises(MissingStateError, match=path.name):
        fetched(small, tmp_path)


def test_a_file_that_was_lost_is_written_again(tmp_path):
    files, whole = StateFiles(), state()
    files.put_away(whole, tmp_path)
    for path in tmp_path.glob("*.pt"):
        path.unlink()
    assert same(fetched(files.put_away(whole, tmp_path), tmp_path), whole)


def test_runs_that_share_a_folder_leave_each_others_files_alone(tmp_path):
    """Even where these hold the same."""
    one, other = StateFiles(), StateFiles()
    kept = one.put_away(state(), tmp_path)
    for seed in (0, 1, 2, 3):
        last = other.put_away(state(seed), tmp_path)
    assert same(fetched(kept, tmp_path), state())
    assert same(fetched(last, tmp_path), state(3))
    assert len(list(tmp_path.glob("*.pt"))) == 3 * 4  # of the one, and the last two of the other


def test_files_of_the_checkpoint_resumed_from_go_in_time(tmp_path):
    first = StateFiles().put_away(state(), tmp_path)
    after = StateFiles()
    after.take_over(first)
    after.put_away(state(1), tmp_path)
    assert same(fetched(first, tmp_path), state())  # a run killed now may be resumed from it again
    after.put_away(state(2), tmp_path)
    with pytest.raises(MissingStateError):
        fetched(first, tmp_path)


def test_numbers_that_begin_anew_are_of_other_rows(tmp_path):
    files = StateFiles()
    for seed in (0, 1):
        whole = state(seed)
        numbered = {id(row): (step, row) for step, row in enumerate(whole["rows"])}
        small = files.put_away(whole, tmp_path, numbered)
        assert same(fetched(small, tmp_path), whole)
        files.forget()


def test_what_is_known_is_not_kept_alive(tmp_path):
    files, whole = StateFiles(), {"w": torch.ones(9000)}
    gone = weakref.ref(whole["w"])
    files.put_away(whole, tmp_path)
    whole.clear()
    assert gone() is None
    zeros = {"w": torch.zeros(9000)}  # perhaps in the same place
    assert same(fetched(files.put_away(zeros, tmp_path), tmp_path), zeros)


def test_the_last_of_a_disk_is_left_to_the_checkpoint(tmp_path, monkeypatch):
    """Only what is still to be written counts."""
    files, whole = StateFiles(), state()
    size = n_bytes(whole["rows"]) + n_bytes(whole["probe"])
    usage = SimpleNamespace(free=2**40)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr("lightning_morse.files.disk.LEFT_BYTES", 0)
    usage.free = 5 * size - 5
    with pytest.raises(OSError, match="No space left"):
        files.put_away(whole, tmp_path / "state")
    assert not list(tmp_path.iterdir())
    usage.free = 5 * size
    first = files.put_away(whole, tmp_path / "state")
    usage.free = 5 * 4 * 9000
    assert same(files.put_away(whole, tmp_path / "state"), first)
    files.put_away({**whole, "one more": torch.randn(9000)}, tmp_path / "state")
    with pytest.raises(OSError, match="No space left"):
        files.put_away({**whole, "more": list(torch.randn(2, 9000))}, tmp_path / "state")


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        StateFiles().put_away(state(), tmp_path / "file")


def test_training_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", None)
    assert same(fetched(StateFiles().put_away(state(), tmp_path), tmp_path), state())


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
from lightning_morse.monitoring.state_files import StateFiles
from tests.monitoring.test_state_files import state
folder = Path(sys.argv[1])
(folder / "small").write_bytes(pickle.dumps(StateFiles().put_away(state(), folder)))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_what_a_killed_process_has_put_away_is_whole(tmp_path):
    root = Path(__file__).parents[2]
    order = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(order, cwd=root, check=False, timeout=60).returncode == -signal.SIGKILL
    small = pickle.loads((tmp_path / "small").read_bytes())
    assert same(fetched(small, tmp_path), state())
