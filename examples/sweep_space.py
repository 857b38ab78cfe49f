"""What both sweeps share: the search space, a trial, and the quantity trials are pruned by.

``sweep_optuna.py`` and ``sweep_ray.py`` differ in how trials are chosen and when one is given up.
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
COLUMNS = ("val_loss", "val_accuracy", "morse/attractors", "morse/mu", "morse/barrier")


class LogFloor(pl.Callback):
    """Log ``floor``: the current loss minus what the slice shows is left to gain.

    Where training certainly is in a basin, this is the loss at its attractor; elsewhere nothing is
    promised, and the floor is the loss itself. The loss is that of the current weights on the
    monitor's probe batches: the mean over the epoch, ``train_loss``, lags far behind at first. It
    stands in where there was no analysis.
    """

    def __init__(self, monitor: MorseMonitor) -> None:
        self.monitor = monitor

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found, result = trainer.callback_metrics, self.monitor.result
        if result is None or found.get("morse/failed", 1):  # no value: no analysis this epoch
            floor = float(found["train_loss"])
        else:
            # The first sample is the centre of the box: with the default extent, the weights.
            floor = float(result.sample_losses[0])
            if found["morse/basin_current"] >= 0:
                floor -= float(found["morse/headroom"])
        self.log("floor", floor)


def train_trial(
    config: Mapping[str, Any],
    folder: Path,
    callbacks: Sequence[pl.Callback],
    *,
    epochs: int,
    n_samples: int,
    resolution: int,
) -> dict[str, float]:
    """Train one trial, and write its events, hyper-parameters and Morse records to a folder.

    Args:
        config: ``lr`` and ``activation``.
        folder: Where the files go; ``lightning-morse compare`` reads the folder above.
        callbacks: Called after the monitor and :class:`LogFloor`.
        epochs: Epochs to train, each with an analysis at its end.
        n_samples: Loss evaluations per analysis.
        resolution: Grid cells per axis.

    Returns:
        The last metrics.
    """
    for name in ("pytorch_lightning", "lightning_morse"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    pl.seed_everything(0, verbose=False)
    train, val = make_data()
    logger = TensorBoardLogger(folder.parent, name="", version=folder.name, default_hp_metric=False)
    module = DigitsModule(config["activation"], lr=config["lr"])
    monitor = MorseMonitor(n_samples=n_samples, resolution=resolution, max_overhead=1.0)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[monitor, LogFloor(monitor), *callbacks],
        logger=logger,
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        module,
        DataLoader(train, batch_size=64, shuffle=True),
        DataLoader(val, batch_size=360),
    )
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    # What TensorBoard shows in the tab HParams, beside the hyper-parameters.
    logger.log_hyperparams(module.hparams, {k: found[k] for k in COLUMNS if k in found})
    logger.save()
    return found
