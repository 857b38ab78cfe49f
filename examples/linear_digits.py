"""A three-layer linear network learns handwritten digits, one mode at a time.

Inputs are the first principal components of scikit-learn's digits, whitened; targets are the
classes, one-hot encoded and centred. From small weights the loss descends a staircase of critical
levels that are known before training starts. Run with ``python examples/linear_digits.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_morse as lm

# An epoch of full-batch descent is a single step; the data set repeats the batch instead.
STEPS_PER_EPOCH = 50


def white_digits(components: int) -> tuple[Tensor, Tensor]:
    images, digits = load_digits(return_X_y=True)
    left, _, _ = np.linalg.svd(images - images.mean(axis=0), full_matrices=False)
    classes = np.eye(10)[digits]
    inputs, targets = left[:, :components] * len(images) ** 0.5, classes - classes.mean(axis=0)
    return torch.from_numpy(inputs).float(), torch.from_numpy(targets).float()


class LinearNetwork(pl.LightningModule):
    def __init__(self, sizes: Sequence[int], scale: float, learning_rate: float) -> None:
        super().__init__()
        layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=scale)
        self.net = nn.Sequential(*layers)
        self.learning_rate = learning_rate

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


def main(argv: Sequence[str] | None = None) -> lm.DeepLinearMonitor:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--components", type=int, default=3, help="number of principal components")
    parser.add_argument(
        "--scale", type=float, default=1e-3, help="standard deviation of the initial weights"
    )
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--every", type=int, default=10, help="steps between reports")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/linear_digits"), help="output folder"
    )
    args = parser.parse_args(argv)

    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        network = LinearNetwork((args.components, 16, 16, 10), args.scale, learning_rate=5.0)
    monitor = lm.DeepLinearMonitor(every_n_steps=args.every)
    trainer = pl.Trainer(
        max_steps=args.steps,
        max_epochs=-1,
        callbacks=[monitor],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(args.out),
    )
    # Full-batch gradient descent.
    data = [white_digits(args.components)] * STEPS_PER_EPOCH
    trainer.fit(network, DataLoader(data, batch_size=None))

    args.out.mkdir(parents=True, exist_ok=True)
    monitor.figure().savefig(args.out / "staircase.png")
    seen = None
    for row in monitor.history:
        if row["linear/level"] not in (seen, -1.0):
            seen = row["linear/level"]
            print(
                f"step {row['step'] + 1:5d}: {seen:.0f} modes learned, "
                f"loss {row['linear/loss']:.5f}, critical level {row['linear/level_loss']:.5f}"
            )
    print(f"Picture: {args.out / 'staircase.png'}")
    return monitor


if __name__ == "__main__":
    main()
