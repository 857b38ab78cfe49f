"""Small modules, data and Trainers for the tests of the callback."""

from __future__ import annotations

import random

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_morse import MorseMonitor


class Net(pl.LightningModule):
    """Regression with dropout, batch normalisation and Adam; logs what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1)
        )
        self.seen: list[float] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        self.seen.append(float(x.sum()))
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("val_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.02)


def loader(n: int = 48, shuffle: bool = True, batch_size: int = 8) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=generator)
    y = (x[:, :1] * x[:, 1:2]).tanh()
    return DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=shuffle)


def monitor(**options: object) -> MorseMonitor:
    """A monitor with little to do."""
    return MorseMonitor(**{"n_samples": 24, "resolution": 24, "probe_batches": 2, **options})  # type: ignore[arg-type]


def seed_all(seed: int = 0) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def rng_state() -> tuple[object, ...]:
    numpy_state = np.random.get_state()
    return torch.get_rng_state().tolist(), str(numpy_state), random.getstate()


def trainer(root: object, *callbacks: pl.Callback, **options: object) -> pl.Trainer:
    settings: dict[str, object] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": str(root),
        **options,
    }
    return pl.Trainer(callbacks=list(callbacks), **settings)  # type: ignore[arg-type]


def fit(
    root: object,
    *callbacks: pl.Callback,
    module: pl.LightningModule | None = None,
    ckpt_path: str | None = None,
    **options: object,
) -> tuple[pl.LightningModule, pl.Trainer]:
    """Train from a fixed seed."""
    seed_all()
    module = module or Net()
    runner = trainer(root, *callbacks, **options)
    runner.fit(module, loader(), loader(16, shuffle=False), ckpt_path=ckpt_path)
    return module, runner
