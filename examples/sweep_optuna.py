"""Search learning rates and prune by what the slice still has to give.

    pip install optuna
    python -m examples.sweep_optuna --trials 5

A trial is judged by its validation accuracy, and pruned where the basin it is in certainly holds
nothing better: ``morse/headroom``, the loss now minus the loss at the attractor of the basin, is
small while the loss itself is still large.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Sequence

import optuna
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from examples.digits import DigitsModule, make_data
from lightning_morse import MorseMonitor


class PruneAtTheBottom(pl.Callback):
    """Give a trial up once its basin has nothing left and the loss is high."""

    def __init__(self, worst: float, least: float) -> None:
        self.worst, self.least = worst, least

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = trainer.callback_metrics
        certain = found["morse/basin_current"] >= 0 and not found["morse/failed"]
        if certain and found["morse/headroom"] < self.least and found["train_loss"] > self.worst:
            raise optuna.TrialPruned(f"basin holds no more than {found['morse/headroom']:.3f}")


def main(argv: Sequence[str] | None = None) -> optuna.Study:
    """Search; return the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--n-samples", type=int, default=64)
    parser.add_argument("--resolution", type=int, default=64)
    args = parser.parse_args(argv)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_morse").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    train, val = make_data()

    def objective(trial: optuna.Trial) -> float:
        pl.seed_everything(0, verbose=False)
        module = DigitsModule(lr=trial.suggest_float("lr", 1e-5, 1e-1, log=True))
        monitor = MorseMonitor(
            n_samples=args.n_samples, resolution=args.resolution, max_overhead=1.0
        )
        trainer = pl.Trainer(
            max_epochs=args.epochs,
            accelerator="cpu",
            callbacks=[monitor, PruneAtTheBottom(worst=1.0, least=0.05)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(
            module,
            DataLoader(train, batch_size=64, shuffle=True),
            DataLoader(val, batch_size=360),
        )
        trial.set_user_attr("barrier", float(trainer.callback_metrics["morse/barrier"]))
        return float(trainer.callback_metrics["val_accuracy"])

    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=args.trials)
    print(f"best: accuracy {study.best_value:.3f} with {study.best_params}")
    return study


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
