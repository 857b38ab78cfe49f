"""Which loss does training with batch norm follow? Angle and length with either kind of statistics.

    python benchmarks/batch_norm.py [--epochs 8] [--every 2] [--seeds 0]

A small residual network with batch norm is trained on digits by SGD with momentum 0.9, and two
monitors watch the same run: one evaluates the loss with the statistics of each batch, as a training
step does, one with the running statistics, as after training. Expected if the slice describes the
optimiser: small angles, and lengths that tend to 10.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, random_split

sys.path.insert(0, str(Path(__file__).parent))
from ordinary_runs import res_net

from lightning_morse import MorseMonitor
from lightning_morse.slices.batch_statistics import CHOICES

COLUMNS = ("flow_angle", "flow_length", "basin_current", "undecided")


class Classifier(pl.LightningModule):
    """A residual network and its optimiser."""

    def __init__(self) -> None:
        super().__init__()
        self.net = res_net()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def watched(seed: int, epochs: int, every: int, samples: int) -> dict[str, list[dict[str, float]]]:
    """The histories of both monitors over one run."""
    pl.seed_everything(seed, verbose=False)
    module = Classifier()
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    train, _ = random_split(data, [0.8, 0.2])
    monitors = {
        kind: MorseMonitor(
            every_n_epochs=every, n_samples=samples, max_overhead=1.0, batch_norm=kind, name=kind
        )
        for kind in CHOICES
    }
    with tempfile.TemporaryDirectory() as folder:  # pictures, that nobody looks at
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=list(monitors.values()),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, DataLoader(train, batch_size=64, shuffle=True))
    return {kind: monitor.history for kind, monitor in monitors.items()}


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    """Print a table; return its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--every", type=int, default=2, help="epochs between two analyses")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--samples", type=int, default=128)
    given = parser.parse_args(arguments)
    for name in ("pytorch_lightning", "lightning_morse"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    torch.set_num_threads(1)
    print("| seed | epoch | statistics | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    table: list[dict[str, object]] = []
    for seed in given.seeds:
        histories = watched(seed, given.epochs, given.every, given.samples)
        for kind, history in histories.items():
            for row in history:
                shown = {c: row[f"{kind}/{c}"] for c in COLUMNS}
                cells = " | ".join(f"{v:.3g}" for v in shown.values())
                print(f"| {seed} | {row['epoch'] + 1} | {kind} | {cells} |", flush=True)
                table.append({"seed": seed, "epoch": row["epoch"] + 1, "kind": kind, **shown})
    return table


if __name__ == "__main__":
    main()
