"""Peak memory of a run with a monitor, beyond that of the run itself.

    python benchmarks/bench_memory.py --weights 1e6 1e7    # a few minutes
    python benchmarks/bench_memory.py --weights 1e8 --epochs 2    # 6 GB

A module with so many weights, of which its forward pass reads a few, is trained for some epochs in
a process of its own, once without and once with a monitor. "Kept" are snapshots and slices of
earlier analyses, which ``max_memory`` bounds; "copies" is what analyses take on top, in copies of
the weights: at most ``dim + 4`` is promised, plus what does not depend on the weights (libraries, a
surrogate and its pictures of the plane, some 80 MB).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_morse import MorseMonitor
from lightning_morse.monitoring.memory import bytes_of

EPOCHS, BATCHES = 5, 8  # a snapshot at every step, so that a record of 32 is full
READ = 64
DIM = 2


class Wide(pl.LightningModule):
    """Many weights; the loss is a bowl in a few of them, with an axis for each batch to pull at."""

    def __init__(self, n_weights: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((n_weights,), 0.5))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        few = self.weights[:READ]
        curvature = torch.linspace(0.1, 2, READ)
        return (curvature * (few - batch[0].mean(dim=0)).square()).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def status(name: str) -> int:
    """A size from the status of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def train(n_weights: int, max_memory: str, room: int, epochs: int) -> dict[str, Any]:
    """Train in this process, and say what it took.

    Args:
        n_weights: Number of weights.
        max_memory: The limit of the monitor; empty for none.
        room: Bytes of address space that training may take from here on; 0 for no limit.
        epochs: Number of epochs, each with an analysis at its end.
    """
    watch = MorseMonitor(
        dim=DIM, max_memory=max_memory or None, n_samples=16, resolution=32, max_overhead=1.0
    )
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(8 * BATCHES, READ, generator=generator))
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[watch] if max_memory else [],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        before = status("VmRSS")
        if room:
            most = status("VmSize") + room
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        trainer.fit(Wide(n_weights), DataLoader(data, batch_size=8))
    kept = watch._run
    slices = len(kept.tracker._pictures) * (DIM + 1) * 4 * n_weights
    return {
        "peak": status("VmHWM") - before,
        "kept": kept.trajectory.n_bytes + slices,
        "snapshots": kept.plan.max_snapshots,
        "dtype": str(kept.plan.dtype).removeprefix("torch."),
        "slices": kept.plan.slices,
        "failed": [row["morse/failed"] for row in watch.history],
        "explained": watch.history[-1]["morse/explained"] if watch.history else None,
    }


def in_a_process(
    n_weights: int,
    max_memory: str = "",
    room: int = 0,
    epochs: int = EPOCHS,
    timeout: float = 1500,
) -> dict[str, Any]:
    """:func:`train` in a process of its own."""
    command = [sys.executable, __file__, "--one", str(n_weights), max_memory, str(room)]
    command += ["--epochs", str(epochs)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }
    done = subprocess.run(
        command, env=environment, timeout=timeout, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"training ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "said": done.stderr}


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print a row for each number of weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", nargs="+", type=float, default=[1e6, 1e7])
    parser.add_argument("--max-memory", default="2GB")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        n, limit, room = args.one
        print(json.dumps(train(int(n), limit, int(room), args.epochs)))
        return []
    print(f"max_memory {args.max_memory} ({bytes_of(args.max_memory) / 1e6:.0f} MB), dim {DIM}")
    print("| weights | run alone, MB | with monitor, MB | kept, MB | snapshots | slices | copies |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for n in map(int, args.weights):
        alone = in_a_process(n, epochs=args.epochs)
        watched = in_a_process(n, args.max_memory, epochs=args.epochs)
        copies = (watched["peak"] - alone["peak"] - watched["kept"]) / (4 * n)
        rows.append({"weights": n, **watched, "alone": alone["peak"], "copies": copies})
        kinds = f"{watched['snapshots']} {watched['dtype']}"
        sizes = " | ".join(
            f"{b / 1e6:.0f}" for b in (alone["peak"], watched["peak"], watched["kept"])
        )
        print(f"| {n:.0e} | {sizes} | {kinds} | {watched['slices']} | {copies:.1f} |", flush=True)
    return rows


if __name__ == "__main__":
    main()
