"""Train a small network on scikit-learn's digits and watch the basins of its loss.

    python examples/digits.py --epochs 12 --activation tanh
    python examples/digits.py --fast

Prints what is known after each epoch, and at the end the commands to look further.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import shutil
import sys
import textwrap
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
WIDTH = 100  # of what is printed, in characters
USUAL = {"epochs": 12, "n_samples": 128, "resolution": 128}
FAST = {"epochs": 3, "n_samples": 64, "resolution": 64}


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
    """Print what is known after each epoch; after the monitor among the callbacks."""

    def __init__(self, monitor: MorseMonitor) -> None:
        self.monitor = monitor

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        print(
            f"epoch {trainer.current_epoch + 1:3d}   loss {found['train_loss']:.3f}   "
            f"val accuracy {found['val_accuracy']:.3f}   {self.counted(found)}"
        )
        if self.is_analysed(found):
            indent = 4 * " "
            said = self.monitor.sentence
            print(textwrap.fill(said, WIDTH, initial_indent=indent, subsequent_indent=indent))

    def is_analysed(self, found: Mapping[str, float]) -> bool:
        """Values are there after an analysis, and only then."""
        return "morse/mu" in found and not found["morse/failed"]

    def counted(self, found: Mapping[str, float]) -> str:
        """The number of attractors, as far as it is known."""
        if not self.is_analysed(found):
            return "no analysis this epoch"
        if not found["morse/mu"]:
            return "no certain attractor"
        count, least = found["morse/attractors"], found["morse/unresolved"]
        noun = "attractor" if count == 1 else "attractors"
        mu = short_of_one(found["morse/mu"])
        return f"{'at least' if least else 'exactly'} {count:.0f} {noun}, mu {mu}"


def commands(logs: Path) -> list[str]:
    """The commands to look further at runs, as they can be pasted here."""
    home, given = Path(sys.executable).parent, shlex.quote(str(logs))

    def program(name: str) -> str:
        own = home / name
        if not own.exists() or shutil.which(name) == str(own):
            return name
        # Not in the path, as the environment that make sets up.
        here = Path.cwd()
        return shlex.quote(str(own.relative_to(here) if own.is_relative_to(here) else own))

    page = shlex.quote(str(logs / "report.html"))
    return [
        f"{program('tensorboard')} --logdir {given}",
        f"{program('lightning-morse')} report {given} -o {page}",
        f"{program('lightning-morse')} compare {given}",
    ]


def main(argv: Sequence[str] | None = None) -> MorseMonitor:
    """Train; return the monitor with its findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few epochs, small analyses")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--log-dir", type=Path, default=Path("runs"))
    parser.add_argument("--activation", choices=ACTIVATIONS, default="tanh")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-samples", type=int, help="loss evaluations per analysis")
    parser.add_argument("--resolution", type=int, help="grid cells per axis")
    args = parser.parse_args(argv)
    for option, value in (FAST if args.fast else USUAL).items():
        if getattr(args, option) is None:
            setattr(args, option, value)

    # Lightning speaks under the name of whichever of its two packages was loaded last.
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
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
        callbacks=[monitor, EpochLine(monitor)],
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
        print(f"\nfigures of the last analysis, in {logger.log_dir}:")
        for name, figure in monitor.figures().items():
            figure.savefig(Path(logger.log_dir) / f"{name}.png")
            print(f"    {name}.png")
    print("\nto look further:")
    for command in commands(args.log_dir):
        print(f"    {command}")
    return monitor


if __name__ == "__main__":
    torch.set_num_threads(1)  # more only slow down a network this small
    main()
