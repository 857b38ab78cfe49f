"""Small modules, data and Trainers for the tests of the callback."""

from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import networkx as nx
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_morse import CubicalGrid, Ladder, MorseAnalysis, MorseMonitor, MorseSet
from lightning_morse.analysis.design import design
from lightning_morse.analysis.samples import evaluate


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


class Outside(ModuleType):
    """What a loss can write to and no analysis copies or puts back, as a file of Python code is."""

    def __init__(self, **values: Any) -> None:
        super().__init__("outside")
        vars(self).update(values)


def loader(n: int = 48, shuffle: bool = True, batch_size: int = 8) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=generator)
    y = (x[:, :1] * x[:, 1:2]).tanh()
    return DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=shuffle)


def monitor(**options: object) -> MorseMonitor:
    """A monitor with little to do and no limit on its time."""
    defaults = {"n_samples": 24, "resolution": 24, "probe_batches": 2, "max_overhead": 1.0}
    return MorseMonitor(**{**defaults, **options})  # type: ignore[arg-type]


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


def one_attractor(
    loss, start, lower, upper, farthest, n_samples, resolution, confidence, seed, **limits
):
    """Stand-in for the analysis: one attractor at the centre, a saddle beside it."""
    samples = design(lower, upper, n_samples // 2, seed)
    losses = evaluate(loss, samples)
    if not np.isfinite(losses).any():
        raise ValueError("the loss is not finite at any sample")
    grid = CubicalGrid(lower, upper, (resolution,) * len(lower))
    half = np.asarray(upper, dtype=float)
    sets = [
        MorseSet(np.array([grid.size // 2]), True, True, 0, 0 * half, 0.125, 1 / grid.size, 0.97),
        MorseSet(np.array([1]), False, False, None, 0.9 * half, 0.5, 1 / grid.size),
    ]
    labels = np.zeros(grid.size, dtype=np.int32)
    labels[0], labels[1] = -2, -1
    return MorseAnalysis(
        grid=grid,
        morse_sets=tuple(sets),
        graph=nx.DiGraph([(1, 0)]),
        labels=labels,
        diverged=np.zeros(grid.size, dtype=bool),
        exit_volumes=np.zeros((grid.dim, 2)),
        mu=0.9515,
        confidence=confidence,
        mean_loss=np.ones([n + 1 for n in grid.shape]),
        samples=samples,
        sample_losses=losses,
        calibration=1.5,
        surrogate=None,
        seconds={},
        ladder=Ladder(np.array([confidence]), np.zeros((1, 1), dtype=np.int64)),
    )


def one_answer(*args: object, **options: object) -> tuple[MorseAnalysis, None]:
    """The same, as an analysis that was not turned."""
    return one_attractor(*args, **options), None


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Pictures are most of what a small run costs, wherever nobody looks at them."""
    patch.setattr("lightning_morse.callbacks._painter.Painter.submit", lambda *_, **__: None)
    patch.setattr("lightning_morse.callbacks._painter.Painter.make_ready", lambda _: None)


def stub_analysis(patch: pytest.MonkeyPatch, *, pictures: bool = False) -> None:
    """Replace the analysis, and unless ``pictures`` the figures, by quick stand-ins."""
    patch.setattr("lightning_morse.monitoring.exploring.analyze_turning", one_answer)
    if not pictures:
        for name in ("plot_basins", "plot_morse_graph", "plot_timeline"):
            plot = lambda *_, **__: Figure(figsize=(1, 1))  # noqa: E731
            patch.setattr(f"lightning_morse.callbacks._figures.{name}", plot)
        # The stand-ins are known in this process only, where they are drawn at once.
        patch.setattr("lightning_morse.callbacks._painter.Painter._hand_over", lambda *_: False)
        patch.setattr("lightning_morse.callbacks._painter.Painter.make_ready", lambda _: None)
