"""Train a small network on scikit-learn's digits and watch the basins of its loss.

    python examples/digits.py --epochs 12 --activation tanh
    tensorboard --logdir runs

Prints one line per epoch; the rest is in TensorBoard, under ``morse``.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_morse import MorseMonitor
from lightning_morse.words import short_of_one

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}
N_TRAIN = 1437  # the usual 80 %; the other 360 images are for validation


def make_data() -> tuple[TensorDataset, TensorDataset]:
    """The 1,797 images, 8 x 8 pixels in [0, 1], for training and for validation."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32)
    y = torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, val = order[:N_TRAIN], order[N_TRAIN:]
    return TensorDataset(x[train], y[train]), TensorDataset(x[val], y[val])


class DigitsModule(pl.LightningModule):
    """64-32-10 perceptron; weight decay is part of the loss, so that the slices show it."""

    def __init__(self, activation: str = "tanh", decay: float = 1e-3, lr: float = 5e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(64, 32), ACTIVATIONS[activation](), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        x, y = batch
        squares = sum(p.square().sum() for p in self.parameters())
        return nn.functional.cross_entropy(self(x), y) + 0.5 * self.hparams.decay * squares

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = self.loss(batch)
        self.log("val_loss", loss)
        self.log("val_accuracy", (self(x).argmax(dim=1) == y).float().mean())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


class EpochLine(pl.Callback):
    """Print one line per epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        print(
            f"epoch {trainer.current_epoch + 1:3d}   loss {found['train_loss']:.3f}   "
            f"val accuracy {found['val_accuracy']:.3f}   {self.said_by_analysis(found)}"
        )

    def said_by_analysis(self, found: Mapping[str, float]) -> str:
        """The findings of this epoch's analysis: values are there after one, and only then."""
        if found.get("morse/failed", 1) or "morse/mu" not in found:
            return "no analysis this epoch"
        basin = int(found["morse/basin_current"])
        where = {-1: "undecided", -2: "escapes"}.get(basin, f"{basin}")
        least = ">=" if found["morse/unresolved"] else "="
        mu = short_of_one(found["morse/mu"]) if found["morse/mu"] else "-"
        return (
            f"attractors {least} {found['morse/attractors']:.0f}   "
            f"mu {mu:11s}   "
            f"basin {where:9s}   largest basin {found['morse/basin_max']:4.0%}"
        )


def main(argv: Sequence[str] | None = None) -> MorseMonitor:
    """Train; return the monitor with its findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--log-dir", type=Path, default=Path("runs"))
    parser.add_argument("--activation", choices=ACTIVATIONS, default="tanh")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-samples", type=int, default=128, help="loss evaluations per analysis")
    parser.add_argument("--resolution", type=int, default=128, help="grid cells per axis")
    args = parser.parse_args(argv)

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_morse").setLevel(logging.WARNING)  # EpochLine says the same
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    pl.seed_everything(args.seed, verbose=False)

    train, val = make_data()
    monitor = MorseMonitor(
        n_samples=args.n_samples,
        resolution=args.resolution,
        seed=args.seed,
        max_overhead=1.0,  # the run is shorter than an analysis, and is to show one per epoch
    )
    logger = TensorBoardLogger(args.log_dir, name=f"digits-{args.activation}")
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        callbacks=[monitor, EpochLine()],
        logger=logger,
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        DigitsModule(args.activation),
        DataLoader(train, batch_size=64, shuffle=True),
        DataLoader(val, batch_size=360),
    )
    if monitor.result is not None:
        for name, figure in monitor.figures().items():
            path = Path(logger.log_dir) / f"{name}.png"
            figure.savefig(path)
            print(f"last {name} figure: {path}")
    print(f"everything: tensorboard --logdir {args.log_dir}")
    return monitor


if __name__ == "__main__":
    torch.set_num_threads(1)  # more only slow down a network this small
    main()
