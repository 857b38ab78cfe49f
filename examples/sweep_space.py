"""What both sweeps share: the space they search, a trial of it, and what it is pruned by.

``sweep_optuna.py`` and ``sweep_ray.py`` differ in who chooses the trials and when one is given up.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from examples.digits import DigitsModule, make_data
from lightning_morse import MorseMonitor

LEARNING_RATES = (1e-5, 1e-1)  # uniform in the logarithm
ACTIVATIONS = ("tanh", "relu")


class LogFloor(pl.Callback):
    """Log ``floor``: the training loss less what the slice shows is still to be gained.

    Where training is certainly in a basin that is ``morse/headroom``; elsewhere nothing is
    promised, and the floor is the loss itself.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = trainer.callback_metrics
        certain = found["morse/basin_current"] >= 0 and not found["morse/failed"]
        headroom = found["morse/headroom"] if certain else 0.0
        self.log("floor", found["train_loss"] - headroom)


def train_trial(
    config: Mapping[str, Any],
    folder: Path,
    callbacks: Sequence[pl.Callback],
    *,
    epochs: int,
    n_samples: int,
    resolution: int,
) -> dict[str, float]:
    """Train one trial, and leave its events, hyper-parameters and Morse records in a folder.

    Args:
        config: ``lr`` and ``activation``.
        folder: Where the files go; ``lightning-morse compare`` reads the folder above.
        callbacks: Called after the monitor and :class:`LogFloor`.
        epochs: Epochs to train, each with an analysis at its end.
        n_samples: Loss evaluations an analysis.
        resolution: Grid cells an axis.

    Returns:
        The last metrics.
    """
    for name in ("pytorch_lightning", "lightning_morse"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    pl.seed_everything(0, verbose=False)
    train, val = make_data()
    monitor = MorseMonitor(n_samples=n_samples, resolution=resolution, max_overhead=1.0)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[monitor, LogFloor(), *callbacks],
        logger=TensorBoardLogger(folder.parent, name="", version=folder.name),
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        DigitsModule(config["activation"], lr=config["lr"]),
        DataLoader(train, batch_size=64, shuffle=True),
        DataLoader(val, batch_size=360),
    )
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
