"""Does the slice describe the optimiser? Angle and length on digits, optimiser by optimiser.

    python benchmarks/optimizer_flow.py [--epochs 12] [--period 4]

A 64-32-10 perceptron (tanh, cross-entropy, batches of 32 of 1,400 images) is trained from the same
weights with three optimisers and watched with ``MorseMonitor(dynamics="both")`` in the plane of the
two principal directions. Expected: plain SGD with small steps follows the flow, with length 1;
with momentum 0.9 the length tends to 10; for Adam there is no such number.
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
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_morse import MorseMonitor

sys.path.insert(0, str(Path(__file__).parent))
from ordinary_runs import quiet_trainer

N_TRAIN = 1400
OPTIMIZERS = {
    "SGD, rate 0.1": lambda weights: torch.optim.SGD(weights, lr=0.1),
    "SGD, rate 0.02, momentum 0.9": lambda weights: torch.optim.SGD(weights, lr=0.02, momentum=0.9),
    "Adam, rate 0.001": lambda weights: torch.optim.Adam(weights, lr=1e-3),
}
COLUMNS = ("explained", "flow_angle", "flow_length", "trajectory_attractors", "trajectory_unknown")


class Perceptron(pl.LightningModule):
    """Trained by the optimiser of a name."""

    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
        self.optimizer = optimizer

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.optimizer](self.parameters())


def watched(optimizer: str, epochs: int, period: int, resolution: int) -> list[dict[str, float]]:
    """The history of a monitor over a run."""
    pl.seed_everything(0, verbose=False)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(
        torch.tensor(images[:N_TRAIN] / 16, dtype=torch.float32), torch.tensor(labels[:N_TRAIN])
    )
    monitor = MorseMonitor(
        dynamics="both", every_n_epochs=period, resolution=resolution, max_overhead=1.0
    )
    with tempfile.TemporaryDirectory() as folder:  # pictures, that nobody looks at
        trainer = quiet_trainer(epochs, monitor, folder)
        trainer.fit(Perceptron(optimizer), DataLoader(data, batch_size=32, shuffle=True))
    return monitor.history


def main(arguments: list[str] | None = None) -> dict[str, list[dict[str, float]]]:
    """Print a table; return the histories by optimiser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--period", type=int, default=4, help="epochs between two analyses")
    parser.add_argument("--resolution", type=int, default=64)
    given = parser.parse_args(arguments)
    for name in ("pytorch_lightning", "lightning_morse"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    print("| optimiser | epoch | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    histories = {}
    for name in OPTIMIZERS:
        histories[name] = watched(name, given.epochs, given.period, given.resolution)
        for row in histories[name]:
            cells = " | ".join(f"{row[f'morse/{c}']:.3g}" for c in COLUMNS)
            print(f"| {name} | {row['epoch'] + 1} | {cells} |", flush=True)
    return histories


if __name__ == "__main__":
    main()
