"""Search learning rates with Optuna, by validation loss and by the basin in which it is reached.

    pip install optuna
    python -m examples.sweep_optuna --trials 20
    python -m examples.sweep_optuna --trials 20 --objective pareto
    tensorboard --logdir runs/optuna        # the tab HParams has the columns of the table

``--objective loss``: the validation loss alone. A trial is pruned if its basin certainly contains
nothing better: its attractor stands (``morse/mu_current``), and ``morse/headroom``, the current
loss minus the loss there, is small while the loss itself is still large.

``--objective pareto``: low validation loss and a high ``morse/barrier`` around the basin, which
counts only if the basin is certain (``morse/attractors`` and ``morse/mu_current``). Optuna does not
prune when there are two objectives.

With ``--storage`` and ``--study`` several processes, on one machine or on many, work on the same
study: start the script once in each.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
import pytorch_lightning as pl
import torch

from examples.sweep_space import ACTIVATIONS, LEARNING_RATES, train_trial
from lightning_morse.cli import main as compare

MU = 0.95


class PruneAtTheBottom(pl.Callback):
    """Give up a trial once its basin certainly has nothing left to gain and the loss is high."""

    def __init__(self, worst: float, least: float) -> None:
        self.worst, self.least = worst, least

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = trainer.callback_metrics
        if found.get("morse/failed", 1):  # there was no analysis this epoch, or it failed
            return
        certain = found["morse/mu_current"] >= MU
        if certain and found["morse/headroom"] < self.least and found["floor"] > self.worst:
            raise optuna.TrialPruned(f"basin holds no more than {found['morse/headroom']:.3f}")


def certain_barrier(found: Mapping[str, float]) -> float:
    """The barrier around the basin that training is in; 0 where that is not certain."""
    certain = found.get("morse/attractors", 0) >= 1 and found.get("morse/mu_current", 0) >= MU
    return found["morse/barrier"] if certain else 0.0


def main(argv: Sequence[str] | None = None) -> optuna.Study:
    """Search; return the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--objective", choices=("loss", "pareto"), default="loss")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--n-samples", type=int, default=128)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--log-dir", type=Path, default=Path("runs/optuna"))
    parser.add_argument("--storage", help="an Optuna database, such as sqlite:///sweep.db")
    parser.add_argument("--study", help="name of the study in it")
    args = parser.parse_args(argv)

    pareto = args.objective == "pareto"

    def objective(trial: optuna.Trial) -> float | tuple[float, float]:
        config = {
            "lr": trial.suggest_float("lr", *LEARNING_RATES, log=True),
            "activation": trial.suggest_categorical("activation", ACTIVATIONS),
        }
        found = train_trial(
            config,
            args.log_dir / f"trial-{trial.number:03d}",
            [] if pareto else [PruneAtTheBottom(worst=1.0, least=0.05)],
            epochs=args.epochs,
            n_samples=args.n_samples,
            resolution=args.resolution,
        )
        for name in ("attractors", "mu", "barrier"):
            trial.set_user_attr(name, found.get(f"morse/{name}"))
        loss = found["val_loss"]
        return (loss, certain_barrier(found)) if pareto else loss

    sampler = optuna.samplers.TPESampler(seed=None if args.storage else 0)
    study = optuna.create_study(
        directions=["minimize", "maximize"] if pareto else ["minimize"],
        sampler=sampler,
        storage=args.storage,
        study_name=args.study,
        load_if_exists=args.study is not None,
    )
    study.optimize(objective, n_trials=args.trials)
    compare(["compare", str(args.log_dir)])
    for best in study.best_trials:
        values = ", ".join(f"{value:.3f}" for value in best.values)
        print(f"best: trial {best.number}, {values}, with {best.params}")
    return study


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
