"""Checkpoints stay small, and a resumed run is the uninterrupted one."""

import dataclasses
import os
import shutil
import weakref

import pytest
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import nn

from lightning_morse.monitoring import state_files
from tests.callback_models import Net, fit, monitor, seed_all, stub_analysis

WIDTH = 400


class Wide(Net):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Linear(3, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh()),
            nn.Linear(WIDTH, 1),
        )


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    stub_analysis(monkeypatch)


def checkpoint(root, *watch, **options):
    seed_all()
    saver = ModelCheckpoint(root, filename="{epoch}", save_top_k=-1)
    fit(root, saver, *watch, module=Wide(), enable_checkpointing=True, **options)
    return root / "epoch=1.ckpt"


def test_a_checkpoint_grows_by_less_than_a_megabyte(tmp_path):
    bare = checkpoint(tmp_path / "a", max_epochs=2).stat().st_size
    watched = checkpoint(tmp_path / "b", monitor(), max_epochs=2)
    assert watched.stat().st_size < bare + 2**20
    torch.load(watched, weights_only=True)
    files = list((tmp_path / "b").rglob("state/*.pt"))
    assert sum(f.stat().st_size for f in files) > 10 * WIDTH**2 * 4


def test_what_comes_back_is_what_was_kept(tmp_path):
    kept, back = monitor(), monitor()
    path = checkpoint(tmp_path, kept, max_epochs=2)
    back.load_state_dict(torch.load(path, weights_only=True)["callbacks"][kept.state_key])
    assert back._run.trajectory.snapshots().equal(kept._run.trajectory.snapshots())
    assert back._run.trajectory.stride == kept._run.trajectory.stride
    for batch, of_state in zip(kept._run.probe, back._run.probes_of_all[0], strict=True):
        assert all(map(torch.equal, batch, of_state))
    assert back.history == kept.history
    pictures = [p.subspace.origin for p in kept._run.tracker._pictures]
    assert all(map(torch.equal, pictures, [p.subspace.origin for p in back._run.tracker._pictures]))


def test_a_record_that_is_gone_begins_anew_and_says_so(tmp_path, caplog):
    path = checkpoint(tmp_path, monitor(), max_epochs=2)
    shutil.rmtree(next(tmp_path.rglob("state")))
    watch = monitor()
    fit(tmp_path, watch, module=Wide(), max_epochs=3, ckpt_path=str(path))
    assert "begins anew" in caplog.text
    assert len(watch.history) == 3
    assert not any(row["morse/failed"] for row in watch.history)


def test_without_a_place_to_write_the_record_stays_in_memory(tmp_path, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("lightning_morse.monitoring.state_files.write_whole", full)
    watch = monitor()
    path = checkpoint(tmp_path, watch, max_epochs=2)
    assert "the record is not in checkpoints (OSError: no space left on device)" in caplog.text
    assert len(watch._run.trajectory) > 2
    state = torch.load(path, weights_only=True)["callbacks"]
    (ours,) = (v for k, v in state.items() if k.startswith("MorseMonitor"))
    assert "trajectory" not in ours


def test_a_record_that_began_anew_is_what_comes_back(tmp_path):
    """Snapshots are known by their step, and steps are counted anew."""

    class Unfreezes(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.net[0].requires_grad_(trainer.current_epoch > 1)

    kept, back = monitor(), monitor()
    path = checkpoint(tmp_path, Unfreezes(), kept, max_epochs=4).with_stem("epoch=3")
    back.load_state_dict(torch.load(path, weights_only=True)["callbacks"][kept.state_key])
    assert len(kept._run.trajectory) > 3
    assert back._run.trajectory.snapshots().equal(kept._run.trajectory.snapshots())


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for the superuser")
def test_a_read_only_folder_is_no_place_to_write(tmp_path, caplog):
    root = tmp_path / "log"
    root.mkdir()
    root.chmod(0o500)
    state = kept_by(root / "state")
    assert "trajectory" not in state
    assert "the record is not in checkpoints (PermissionError" in caplog.text


def test_a_folder_that_is_a_file_is_no_place_to_write(tmp_path, caplog):
    (tmp_path / "state").touch()
    assert "trajectory" not in kept_by(tmp_path / "state")
    assert "the record is not in checkpoints (FileExistsError" in caplog.text


def kept_by(folder):
    watch = monitor()
    watch._run.begin(Wide(), 1, "cpu")
    return watch._run.state_dict(folder)


def test_a_snapshot_cut_short_begins_the_record_anew(tmp_path, caplog):
    path = checkpoint(tmp_path, monitor(), max_epochs=2)
    rows = [p for p in tmp_path.rglob("state/*.pt") if p.stat().st_size > 4 * WIDTH**2]
    for row in rows:  # the folder may hold rows that this checkpoint does not name
        row.write_bytes(row.read_bytes()[:-1000])
    watch = monitor()
    fit(tmp_path, watch, module=Wide(), max_epochs=3, ckpt_path=str(path))
    assert "begins anew" in caplog.text
    assert "is not what was written" in caplog.text
    assert len(watch.history) == 3
    assert not any(row["morse/failed"] for row in watch.history)


def test_a_record_is_read_row_by_row(tmp_path, monkeypatch):
    """A resumed run has no second copy of its record in memory."""
    kept, back = monitor(), monitor()
    path = checkpoint(tmp_path, kept, max_epochs=2)
    state = torch.load(path, weights_only=True)["callbacks"][kept.state_key]
    read, rows = state_files._read, []

    def reading(path):
        assert sum(row() is not None for row in rows) <= 1
        tensor = read(path)
        if tensor.ndim == 1 and len(tensor) > WIDTH**2:
            rows.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(state_files, "_read", reading)
    back._run._settings = dataclasses.replace(back.settings, dynamics="trajectory")  # no slices
    back._run.load_state_dict(state)
    assert back._run.trajectory.snapshots().equal(kept._run.trajectory.snapshots())
    assert len(rows) > len(kept._run.trajectory)  # the first one twice
