"""A step that writes to whatever it can reach changes nothing outside of an evaluation."""

from __future__ import annotations

import contextlib
import copy
import enum
import random
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_morse.slices.bases import random_directions
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.subspace import AffineSubspace
from tests.callback_models import rng_state, seed_all
from tests.callbacks.test_no_trace import differences, metrics

DEPTH = 6
WRITES = 12


class Neighbour(Callback):
    def __init__(self) -> None:
        self.counts = {"steps": 0, "seen": [1, 2]}
        self.bank = torch.arange(6.0)

    def on_train_batch_end(self, *args: Any) -> None:
        self.counts["steps"] += 1


class Data(pl.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.drawn = [0]
        self.table = np.arange(5.0)

    def train_dataloader(self) -> DataLoader:
        x = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, x[:, :1] * x[:, 1:2]), 8, shuffle=True)


class Helper:
    """An object of the module's own, with some of everything in it."""

    shared = [0]  # noqa: RUF012

    def __init__(self) -> None:
        self.values, self.names, self.group = [1.0, 2.0], {"a": [1]}, {1, 2}
        self.array, self.tensor = np.zeros(3), torch.zeros(3)
        self.generator = random.Random(0)


class Scribbler(pl.LightningModule):
    """Writes all over the place wherever it is evaluated outside of training."""

    table: list[int] = [0]  # noqa: RUF012 (what a class keeps can be reached as well)

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
        self.net[2].register_forward_hook(lambda *args: self.calls.append(len(self.calls)))
        self.calls: list[int] = []
        self.helper, self.seed, self.written = Helper(), seed, 0
        self.queue: Any = iter(range(100))
        self.automatic = {"nested": {"deep": [torch.ones(2)]}}
        self.register_buffer("count", torch.zeros(1))

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        x, y = batch
        self.count += 1
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        if not self.training:
            self.scribble()
        return loss

    def scribble(self) -> None:
        rng = random.Random(f"{self.seed} {float(self.net[0].weight.detach().sum())}")
        for _ in range(WRITES):
            where: Any = rng.choice([self, self.trainer, self.optimizers(), self.helper])
            for _ in range(rng.randrange(DEPTH)):
                inside = reachable(where)
                if not inside:
                    break
                where = rng.choice(inside)
            with contextlib.suppress(Exception):  # not all can be written to
                write(where, rng)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


def reachable(where: Any) -> list[Any]:
    if isinstance(where, dict):
        return list(where.values())
    if isinstance(where, list | tuple | set):
        return list(where)
    found = []
    for name in sorted({*getattr(where, "__dict__", {}), *dir(type(where))}):
        if name.startswith("__"):
            continue
        try:
            found.append(getattr(where, name))
        except Exception:
            continue
    return found


def write(where: Any, rng: random.Random) -> None:
    if isinstance(where, enum.Enum | type | types.ModuleType):
        return  # shared by the whole process: no copy of them can be made
    if isinstance(where, torch.Tensor):
        rng.choice([lambda: where.add_(1), lambda: where.data.zero_(), lambda: where.detach_()])()
    elif isinstance(where, np.ndarray):
        where[...] = 7
    elif isinstance(where, list):
        rng.choice([lambda: where.append(1), where.clear, where.reverse])()
    elif isinstance(where, dict):
        rng.choice([lambda: where.update(new=1), where.clear])()
    elif isinstance(where, set):
        where.clear()
    elif isinstance(where, random.Random):
        where.random()
    elif isinstance(where, torch.optim.Optimizer):
        rng.choice([where.step, where.zero_grad, lambda: where.param_groups.clear()])()
    elif isinstance(where, nn.Module):
        rng.choice([where.train, where.double, lambda: where.requires_grad_(False)])()
    elif callable(where) and getattr(where, "__name__", "") in CALLED:
        where()
    else:
        names = [n for n in getattr(where, "__dict__", {}) if not n.startswith("__")]
        name = rng.choice([*names, "something_new"])
        if rng.random() < 0.2 and name in names:
            delattr(where, name)
        else:
            setattr(where, name, rng.choice([None, True, 0, "text", [1]]))


CALLED = {"step", "zero_grad", "save", "finalize", "barrier", "reset", "teardown", "setup", "stop"}


class Evaluates(Callback):
    """Evaluates the loss of a slice every few steps."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.losses: list[Any] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx % 2:
            return
        weights = flat_parameters(pl_module)
        columns, _ = random_directions(
            list(pl_module.parameters()), 2, torch.Generator().manual_seed(0)
        )
        plane = AffineSubspace(weights, columns)
        try:
            loss = LossSlice(pl_module, plane, [batch], failing="nan")
            points = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.2]])
            self.losses.append((loss(points), loss(points)))
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}")


def footprint(root: Path, seed: int, *watch: Callback) -> dict[str, Any]:
    seed_all()
    Scribbler.table[:], Helper.shared[:] = [0], [0]
    module, data, neighbour = Scribbler(seed), Data(), Neighbour()
    logger = CSVLogger(root, name="", version=0)
    runner = pl.Trainer(
        max_epochs=2, logger=logger, callbacks=[neighbour, ModelCheckpoint(root), *watch],
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        accelerator="cpu", default_root_dir=root,
    )  # fmt: skip
    runner.fit(module, datamodule=data)
    helper = {k: v for k, v in vars(module.helper).items() if k != "generator"}
    return {
        "state": copy.deepcopy(dict(module.state_dict())),
        "gradients": {k: p.grad for k, p in module.named_parameters()},
        "trained": [p.requires_grad for p in module.parameters()],
        "modes": [m.training for m in module.modules()],
        "attributes": [module.calls, module.automatic, next(module.queue), Scribbler.table],
        "helper": {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in helper.items()},
        "class": Helper.shared,
        "drawn": module.helper.generator.getstate(),
        "optimizers": [copy.deepcopy(o.state_dict()) for o in runner.optimizers],
        "schedulers": [
            copy.deepcopy(c.scheduler.state_dict()) for c in runner.lr_scheduler_configs
        ],
        "neighbour": [neighbour.counts, neighbour.bank],
        "data": [data.drawn, data.table.tolist()],
        "generators": rng_state(),
        "rows": metrics(Path(logger.log_dir)),
        "callback_metrics": dict(runner.callback_metrics),
        "stopped": [runner.current_epoch, runner.global_step, runner.should_stop],
        "checkpoints": sorted(p.name for p in root.glob("*.ckpt")),
    }


@pytest.mark.parametrize("seed", range(8))
def test_a_step_that_writes_everywhere_leaves_no_trace(seed, tmp_path):
    bare = footprint(tmp_path / "a", seed)
    watch = Evaluates()
    watched = footprint(tmp_path / "b", seed, watch)
    assert differences(bare, watched) == []
    assert watch.losses or watch.errors
