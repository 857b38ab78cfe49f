"""Runs that stop, are resumed or are killed, and several monitors in one Trainer."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lightning_morse import MorseAnalysis
from lightning_morse.monitoring.scalars import UNKNOWN, published
from lightning_morse.view.record import decode
from tests.callback_models import Net, loader, monitor, seed_all, stub_analysis, trainer
from tests.forks import run_forked

CLOCKS = ("morse/seconds", "morse/overhead")


class Calm(Net):
    """Training draws no random numbers, so a resumed run can be bit-identical."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


def train(root, watch, epochs, ckpt_path=None, keep=False):
    seed_all()
    keeper = [ModelCheckpoint(dirpath=root, save_last=True)] if keep else []
    runner = trainer(root, watch, *keeper, max_epochs=epochs, enable_checkpointing=keep)
    runner.fit(Calm(), loader(shuffle=False), ckpt_path=ckpt_path)
    return runner


def facts(rows):
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows]


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("directions", ["pca", "random"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_gives_the_same_analyses(directions, dtype, tmp_path):
    def small():
        return monitor(
            directions=directions, snapshot_dtype=dtype, n_samples=16, resolution=8, dim=1
        )

    through = small()
    train(tmp_path / "a", through, 4)
    train(tmp_path / "b", small(), 2, keep=True)
    after = small()
    torch.rand(7)  # wherever the global generators stand
    train(tmp_path / "c", after, 4, ckpt_path=str(tmp_path / "b" / "last.ckpt"))
    assert len(through.history) == 4
    assert not any(row["morse/failed"] for row in through.history)
    assert facts(after.history) == facts(through.history)
    for a, b in zip(after._run.probe, through._run.probe, strict=True):
        assert all(x.equal(y) for x, y in zip(a, b, strict=True))
    assert after._run.trajectory.snapshots().equal(through._run.trajectory.snapshots())
    assert np.array_equal(after.result.samples, through.result.samples)
    assert np.array_equal(after.result.sample_losses, through.result.sample_losses)
    assert np.array_equal(after.result.labels, through.result.labels)


def test_a_run_resumed_with_fewer_snapshots_thins_its_record(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    train(tmp_path / "b", monitor(), 2, keep=True)
    after = monitor(max_snapshots=3)
    train(tmp_path / "c", after, 3, ckpt_path=str(tmp_path / "b" / "last.ckpt"))
    assert 2 <= len(after._run.trajectory) <= 3
    assert not after.history[-1]["morse/failed"]


# ------------------------------------------------------------------------- checkpoints of 0.1

OF_0_1 = Path(__file__).parents[1] / "files_of_0_1"
# Scalars that later versions have.
SHARPNESS = ("sharpness", "sharpness_attractor", "sharpness_limit", "sharpness_critical")
NEWER = {
    f"morse/{name}"
    for name in ("exit_face", "mu_model", "finest", "settled", "basin_forks", *SHARPNESS)
}


class Plane(Net):
    """The network of the run whose checkpoint was kept."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def test_a_checkpoint_of_0_1_is_read():
    watch = monitor()
    state = torch.load(OF_0_1 / "run.ckpt", weights_only=True)["callbacks"][watch.state_key]
    watch.load_state_dict(state)
    expected = json.loads((OF_0_1 / "expected.json").read_text())["history"]
    for row, known in zip(watch.history, expected, strict=True):
        basins = {str(k): v for k, v in row["basins"].items()}
        assert {**row, "basins": basins} == known
    assert all(name.startswith("morse/") for name in state["scalars"])
    assert published("morse", watch._account._scalars) == state["scalars"]
    added = {"analysed_step", "run_folder", "probe_indices", "weights", "pace", "memory"}
    added |= {"left_out", "tensors"}
    assert set(watch.state_dict()) - added == set(state) - {"longest"}


def test_a_run_of_0_1_goes_on(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    path = OF_0_1 / "run.ckpt"
    before = torch.load(path, weights_only=True)
    watch = monitor()
    runner = trainer(tmp_path, watch, max_epochs=before["epoch"] + 2)
    runner.fit(Plane(), loader(shuffle=False), ckpt_path=str(path))
    old, new = watch.history[:-1], watch.history[-1]
    assert old == before["callbacks"][watch.state_key]["history"]
    assert set(new) == set(old[-1]) | NEWER | {"loss", "why"}
    assert new["morse/failed"] == 0
    assert float(runner.callback_metrics["morse/mu"]) == pytest.approx(0.9515)


# --------------------------------------------------------------------------------- killed

IMPORTS = """
import os, signal, sys
from pathlib import Path
from lightning_morse.callbacks._painter import Painter
from lightning_morse.slices.steps import loss_from_steps
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tests.callback_models import fit, monitor
"""

KILLED = """
root, place = sys.argv[1], sys.argv[2]
logger = {"csv": CSVLogger, "tensorboard": TensorBoardLogger}[sys.argv[3]](root, "x", version=0)
watch = monitor(n_samples=16, resolution=8, dim=1)
replace = Path.replace

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def loss_fn(module, batch):
    if watch.history:
        watch.calls = getattr(watch, "calls", 0) + 1
        if place == "analysis" and watch.calls == 9:
            die()
    return loss_from_steps(module, batch)

def killed_replace(path, target):
    if watch.history and str(target).endswith(place):
        path.write_bytes(path.read_bytes()[:100])
        die()
    return replace(path, target)

if place.endswith(".png"):  # at once, by the process that is killed
    Painter._hand_over = lambda *_: False
watch.loss_fn = loss_fn
Path.replace = killed_replace
fit(root, watch, logger=logger, max_epochs=3)
"""


KILLED_AT = [
    ("analysis", "csv"),
    ("analysis", "tensorboard"),
    (".npz", "csv"),
    (".json", "csv"),
    ("-graph.png", "csv"),
]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folders of runs that were killed, by where and what took their metrics."""
    root = tmp_path_factory.mktemp("killed")
    folders = {at: root / "-".join(at) for at in KILLED_AT}
    runs = [(str(folder), *at) for at, folder in folders.items()]
    ends = run_forked(IMPORTS, KILLED, runs, root)
    assert [end.code for end in ends] == [-9] * len(ends), ends
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("at", KILLED_AT, ids="-".join)
def test_a_killed_run_leaves_what_it_had_found(at, killed):
    place, logger = at
    folder = killed[at] / "x" / "version_0"
    if logger == "tensorboard":
        events = EventAccumulator(str(folder))
        events.Reload()
        assert [e.step for e in events.Scalars("morse/mu")] == [5]
        assert [e.step for e in events.Tensors("morse/record")] == [5]
        return
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("morse/mu")]
    assert [int(row["step"]) for row in rows] == [5]
    written = sorted((folder / "morse").glob("step-*"))
    # Pictures of the first analysis may be on their way, unless it is this process that draws.
    drawn = ("-basins.png", "-graph.png", "-merge.png") if place.endswith(".png") else ()
    ends = (".npz", ".json", ".view.json", *drawn)
    assert {p.name for p in written} >= {f"step-0000005{end}" for end in ends}
    for path in written:  # including files of the second analysis, as far as it got
        if path.suffix == ".npz":
            assert MorseAnalysis.load(path).n_morse_sets >= 0
        elif path.name.endswith(".view.json"):
            assert decode(path.read_text())
        elif path.suffix == ".json":
            assert json.loads(path.read_text())["morse/mu"] >= 0
        else:
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    assert len(written) < 12


# ------------------------------------------------------------------------- several monitors


def test_two_monitors_side_by_side(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    one = monitor()
    two = monitor(name="morse_random", directions="random", every_n_steps=4, seed=1)
    logger = TensorBoardLogger(tmp_path, name="x", version=0)
    seed_all()
    keeper = ModelCheckpoint(dirpath=tmp_path, save_last=True, monitor="morse_random/mu")
    callbacks = (one, two, keeper)
    runner = trainer(tmp_path, *callbacks, logger=logger, enable_checkpointing=True)
    runner.fit(Calm(), loader(shuffle=False))
    assert [row["step"] for row in one.history] == [5, 11]
    assert [row["step"] for row in two.history] == [3, 7, 11]
    assert "morse_random/mu" in two.history[0]
    assert "morse/mu" not in two.history[0]
    names = {k for p in ("morse", "morse_random") for k in published(p, UNKNOWN)}
    assert names <= set(runner.callback_metrics)
    events = EventAccumulator(str(tmp_path / "x" / "version_0"), size_guidance={"tensors": 0})
    events.Reload()
    assert [e.step for e in events.Scalars("morse/explained")] == [5, 11]
    assert [e.step for e in events.Scalars("morse_random/explained")] == [3, 7, 11]
    assert [e.step for e in events.Images("morse_random/graph")] == [3, 7, 11]
    assert [e.step for e in events.Images("morse_random/timeline")] == [7, 11]
    assert one._account.view.axis_labels[0].startswith("PC")
    assert two._account.view.axis_labels[0].startswith("random")
    states = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert len({one.state_key, two.state_key} & set(states)) == 2


def test_the_files_of_two_monitors_are_apart(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    logger = CSVLogger(tmp_path, name="x", version=0)
    runner = trainer(tmp_path, monitor(), monitor(name="b"), logger=logger, max_epochs=1)
    runner.fit(Calm(), loader())
    folder = tmp_path / "x" / "version_0"
    assert len(list((folder / "morse").iterdir())) == len(list((folder / "b").iterdir())) == 6
    assert json.loads((folder / "b" / "step-0000005.json").read_text())["b/mu"] > 0


def test_two_monitors_of_one_name_are_refused(tmp_path):
    module = Calm()
    runner = trainer(tmp_path, monitor(), monitor(dim=1))
    with pytest.raises(ValueError, match=r"name must differ between the monitors.*'morse' twice"):
        runner.fit(module, loader())
    assert module.seen == []
