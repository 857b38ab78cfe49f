"""Search learning rates and prune by what the slice still has to give.

    pip install optuna
    python -m examples.sweep_optuna --trials 20
    lightning-morse compare runs/optuna

A trial is judged by its validation accuracy, and pruned where the basin it is in certainly holds
nothing better: ``floor``, the loss at the attractor of the basin, is high, and so little is left of
``morse/headroom``, the loss now minus that, that the slice is not about to show another one.

With ``--storage`` and ``--study`` several processes, on one machine or on many, work on the same
study: start the script once in each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytorch_lightning as pl
import torch

from examples.sweep_space import ACTIVATIONS, LEARNING_RATES, train_trial


class PruneAtTheBottom(pl.Callback):
    """Give a trial up once its basin has nothing left and the loss is high."""

    def __init__(self, worst: float, least: float) -> None:
        self.worst, self.least = worst, least

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = trainer.callback_metrics
        certain = found["morse/basin_current"] >= 0 and not found["morse/failed"]
        if certain and found["morse/headroom"] < self.least and found["floor"] > self.worst:
            raise optuna.TrialPruned(f"basin holds no more than {found['morse/headroom']:.3f}")


def main(argv: Sequence[str] | None = None) -> optuna.Study:
    """Search; return the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--n-samples", type=int, default=64)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--log-dir", type=Path, default=Path("runs/optuna"))
    parser.add_argument("--storage", help="a database of Optuna, such as sqlite:///sweep.db")
    parser.add_argument("--study", help="name of the study in it")
    args = parser.parse_args(argv)

    def objective(trial: optuna.Trial) -> float:
        config = {
            "lr": trial.suggest_float("lr", *LEARNING_RATES, log=True),
            "activation": trial.suggest_categorical("activation", ACTIVATIONS),
        }
        found = train_trial(
            config,
            args.log_dir / f"trial-{trial.number:03d}",
            [PruneAtTheBottom(worst=1.0, least=0.05)],
            epochs=args.epochs,
            n_samples=args.n_samples,
            resolution=args.resolution,
        )
        trial.set_user_attr("barrier", found["morse/barrier"])
        return found["val_accuracy"]

    sampler = optuna.samplers.TPESampler(seed=None if args.storage else 0)
    study = optuna.create_study(
        direction="maximize",
        sampler=sampler,
        storage=args.storage,
        study_name=args.study,
        load_if_exists=args.study is not None,
    )
    study.optimize(objective, n_trials=args.trials)
    print(f"best: accuracy {study.best_value:.3f} with {study.best_params}")
    print(f"all of them: lightning-morse compare {args.log_dir}")
    return study


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
