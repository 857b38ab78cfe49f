"""The search of ``sweep_optuna.py`` on Ray Tune, several trials at a time, pruned by ASHA.

    pip install "lightning-morse[ray]" scikit-learn
    python -m examples.sweep_ray --trials 20
    lightning-morse compare runs/ray

ASHA stops the worse half at each of its rungs by ``floor``, the loss minus what is left to gain in
the basin: a trial whose loss is high but can still fall far is kept, one at the bottom of a high
basin is not. On a cluster the same script takes ``--address auto`` and a ``--log-dir`` that all
machines see; the code must be importable on each.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.integration.pytorch_lightning import TuneReportCheckpointCallback
from ray.tune.schedulers import ASHAScheduler

from examples.sweep_space import ACTIVATIONS, LEARNING_RATES, train_trial

REPORTED = ("attractors", "unresolved", "mu", "basin_current", "barrier", "headroom")


def trial(config: Mapping[str, Any], *, epochs: int, n_samples: int, resolution: int) -> None:
    """One trial, in a process of its own; after each epoch it reports and may be stopped."""
    torch.set_num_threads(1)
    names = ["val_accuracy", "floor", *(f"morse/{name}" for name in REPORTED)]
    train_trial(
        config,
        Path(tune.get_context().get_trial_dir()),
        [
            TuneReportCheckpointCallback(
                {name: name for name in names}, save_checkpoints=False, on="train_epoch_end"
            )
        ],
        epochs=epochs,
        n_samples=n_samples,
        resolution=resolution,
    )


def main(argv: Sequence[str] | None = None) -> tune.ResultGrid:
    """Search; return the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--n-samples", type=int, default=64)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="trials at a time on this machine")
    parser.add_argument("--address", help="of a running cluster; this machine alone without it")
    parser.add_argument("--log-dir", type=Path, default=Path("runs/ray"))
    args = parser.parse_args(argv)

    if args.address:
        ray.init(address=args.address)
    else:
        ray.init(num_cpus=args.workers, include_dashboard=False)
    folder = args.log_dir.resolve()
    tuner = tune.Tuner(
        partial(trial, epochs=args.epochs, n_samples=args.n_samples, resolution=args.resolution),
        param_space={
            "lr": tune.loguniform(*LEARNING_RATES),
            "activation": tune.choice(ACTIVATIONS),
        },
        tune_config=tune.TuneConfig(
            metric="floor",
            mode="min",
            num_samples=args.trials,
            scheduler=ASHAScheduler(max_t=args.epochs, grace_period=1, reduction_factor=2),
            search_alg=tune.search.BasicVariantGenerator(random_state=0),
        ),
        run_config=tune.RunConfig(name=folder.name, storage_path=str(folder.parent), verbose=0),
    )
    try:
        results = tuner.fit()
    finally:
        ray.shutdown()
    best = results.get_best_result("val_accuracy", "max")
    print(f"best: accuracy {best.metrics['val_accuracy']:.3f} with {best.config}")
    print(f"all of them: lightning-morse compare {args.log_dir}")
    return results


if __name__ == "__main__":
    main()
