"""Memory of a process that makes many analyses: it must not grow with their number.

    python benchmarks/bench_many_analyses.py    # four minutes

A small network is trained with an analysis after every step, by the monitor's own path: TensorBoard
gets scalars, records and figures, which a process of its own draws and which are left out where it
falls behind. What may grow is the history, some kilobytes per analysis. The first twenty analyses
fill what has a limit: snapshots, earlier slices, the pools of the allocator.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_morse import MorseMonitor

sys.path.insert(0, str(Path(__file__).parent))
from bench_memory import status

LOOKS = (1, 20, 100, 200, 300)


class Small(pl.LightningModule):
    """Regression with 33 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Look(pl.Callback):
    """Notes the resident memory after so many analyses."""

    def __init__(self, watch: MorseMonitor, looks: Sequence[int]) -> None:
        self.watch, self.left = watch, sorted(looks)
        self.rows: list[tuple[int, int]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self.left and len(self.watch.history) >= self.left[0]:
            gc.collect()
            self.rows.append((self.left.pop(0), status("VmRSS")))
            n, size = self.rows[-1]
            print(f"| {n} | {size / 2**20:.1f} |", flush=True)


def main(argv: Sequence[str] | None = None) -> list[tuple[int, int]]:
    """Print a row for each number of analyses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--looks", nargs="+", type=int, default=LOOKS)
    args = parser.parse_args(argv)
    logging.getLogger("lightning_morse").setLevel(logging.ERROR)  # pictures that are left out
    watch = MorseMonitor(
        every_n_steps=1, n_samples=16, resolution=8, max_snapshots=8, max_overhead=1.0
    )
    look = Look(watch, args.looks)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 2, generator=generator)
    data = DataLoader(TensorDataset(x, (x[:, :1] * x[:, 1:]).tanh()), batch_size=8)
    print("| analyses | resident, MiB |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_steps=max(args.looks),
            accelerator="cpu",
            callbacks=[watch, look],
            logger=TensorBoardLogger(folder, name="", version=0),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(Small(), data)
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    failed = sum(row["morse/failed"] for row in watch.history)
    print(f"{len(watch.history)} analyses, {failed:.0f} failed; files {size / 2**20:.1f} MiB")
    return look.rows


if __name__ == "__main__":
    main()
