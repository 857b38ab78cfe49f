"""Checkpoints stay small, and a resumed run is the uninterrupted one."""

import shutil

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

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
    assert back._trajectory.snapshots().equal(kept._trajectory.snapshots())
    assert back._trajectory.stride == kept._trajectory.stride
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
    assert len(watch._trajectory) > 2
    state = torch.load(path, weights_only=True)["callbacks"]
    (ours,) = (v for k, v in state.items() if k.startswith("MorseMonitor"))
    assert "trajectory" not in ours
