"""What a step takes longer because of the callback, where it neither analyses nor records.

    python -m benchmarks.bench_hooks             # about two minutes

The callback is among those of the trainer in every second epoch. Printed are microseconds of a
step: without it, what it counts as its own, and what the step takes longer beside that, the median
over epochs with its standard error; the same for a callback that does nothing. What is not counted
is Lightning calling the hooks, and memory that has to be fetched again.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from unittest.mock import patch

import pytorch_lightning as pl
import torch

from benchmarks.bench_monitor import median_and_error, train
from lightning_morse import MorseMonitor
from lightning_morse.callbacks import _schedule


class Turns(pl.Callback):
    """Has a callback take part in every second epoch, and times all of them."""

    def __init__(self, other: pl.Callback) -> None:
        self.other = other
        self.epochs: list[tuple[float, float]] = []
        self.n_steps = 0

    @property
    def counted(self) -> float:
        """Seconds that the other one has counted so far."""
        return self.other._schedule.budget.spent() if hasattr(self.other, "_schedule") else 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        callbacks = [other for other in trainer.callbacks if other is not self.other]
        trainer.callbacks = [self.other, *callbacks] if trainer.current_epoch % 2 else callbacks
        self._start = time.perf_counter(), self.counted

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        start, before = self._start
        self.epochs.append((time.perf_counter() - start, self.counted - before))
        self.n_steps = int(trainer.num_training_batches)


def measured(net: str, callback: pl.Callback, epochs: int) -> str:
    """One line of the table."""
    turns = Turns(callback)
    train(net, epochs, callback, turns, batch_size=32)
    micro = 1e6 / turns.n_steps
    alone, watched = turns.epochs[2::2], turns.epochs[3::2]
    beside = [
        micro * (seconds - counted - before)
        for (seconds, counted), (before, _) in zip(watched, alone, strict=True)
    ]
    more, error = median_and_error(beside)
    return (
        f"{net}, {type(callback).__name__}: {micro * statistics.median(s for s, _ in alone):.0f} "
        f"without; {micro * statistics.median(c for _, c in watched):.0f} counted; "
        f"{more:.0f} +- {error:.0f} beside"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=160, help="of each run, an even number")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    # Without the estimate of what is measured here.
    with patch.object(_schedule, "CALLING_SECONDS", 0.0):
        for net in ("digits", "mlp", "cnn"):
            for callback in (pl.Callback(), MorseMonitor(grace=0.0, max_overhead=1e-6)):
                print(measured(net, callback, 2 * (args.epochs // 2)), flush=True)


if __name__ == "__main__":
    main()
