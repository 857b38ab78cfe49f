"""One of the two processes of test_processes: several runs, and a report of each."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy

import lightning_morse.callbacks._schedule as schedule
import lightning_morse.monitoring.batch_parts as parts
import lightning_morse.monitoring.costs as costs
import lightning_morse.monitoring.exploring as home
import lightning_morse.monitoring.probed_loss as probed
from lightning_morse.monitoring.batch_parts import part_of
from lightning_morse.monitoring.budget import Budget
from lightning_morse.slices.steps import loss_from_steps
from tests.callback_models import Net, draw_nothing, loader, monitor, rng_state, seed_all

RANK = int(os.environ["LOCAL_RANK"])
ROOT = Path(sys.argv[1])
TIME_LIMIT = timedelta(seconds=60)


class TrialPruned(Exception):
    """As in Optuna."""


# Of each loss that fails, by its number: its own count would be that of a copy, and one that is a
# global variable would be put back.
CALLS: list[SimpleQueue[None]] = []


class Fails:
    """A loss that fails in one process, in the second analysis."""

    def __init__(self, rank: int, error: Exception, call: int = 5) -> None:
        self.rank, self.error, self.call = rank, error, call
        self.number = len(CALLS)
        CALLS.append(SimpleQueue())

    def __call__(self, module, batch):
        if self.watch.history and self.rank == RANK:
            CALLS[self.number].put(None)
            if CALLS[self.number].qsize() == self.call:
                raise self.error
        return loss_from_steps(module, batch)


def run(name, watch=None, epochs=3, ckpt_path=None, keep=False):
    seed_all()
    if watch is not None and isinstance(watch.loss_fn, Fails):
        watch.loss_fn.watch = watch
    callbacks = [watch] if watch else []
    if keep:
        callbacks.append(ModelCheckpoint(dirpath=ROOT / name, save_last=True))
    module = Net()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo", timeout=TIME_LIMIT),
        max_epochs=epochs,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=keep,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(ROOT / name),
    )
    ended = ""
    try:
        trainer.fit(module, loader(), ckpt_path=ckpt_path)
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"
    facts = {
        "weights": [p.tolist() for p in module.state_dict().values()],
        "seen": module.seen,
        "generators": str(rng_state()),
        "ended": ended,
    }
    if watch is not None:
        metrics = trainer.callback_metrics
        facts["metrics"] = {k: float(v) for k, v in metrics.items() if k.startswith("morse/")}
        facts["history"] = watch.history
        facts["found"] = watch.result is not None
        facts["probe"] = [x.tolist() for x, _ in watch._run.probe]
        part = watch._schedule._pace.portions.part
        facts["part"] = part and [part.n, part.of]
        facts["snapshots"] = len(watch._run.trajectory)
        if watch._run.probe and not ended:
            module.eval()
            module.net[1].train()
            with torch.no_grad():
                kept = watch._run.probe
                if part is not None:
                    kept = [part_of(batch, part.n, 0) for batch in kept]
                losses = [float((module.net(x) - y).square().mean()) for x, y in kept]
            facts["own_loss"] = sum(losses) / len(losses)
        if watch.result is not None:
            facts["centre_loss"] = float(watch.result.sample_losses[0])
    (ROOT / f"{name}-{RANK}.json").write_text(json.dumps(facts))


def small(**options):
    return monitor(**{"n_samples": 16, "resolution": 8, "dim": 1, **options})


def main():
    run("bare")
    run("watched", small(), keep=True)
    draw_nothing(pytest.MonkeyPatch())  # once is enough
    run("resumed", small(), epochs=4, ckpt_path=str(ROOT / "watched" / "last.ckpt"))
    run("first_fails", small(loss_fn=Fails(0, MemoryError("lost"))))
    run("second_fails", small(loss_fn=Fails(1, MemoryError("lost"))))
    run("second_fails_at_once", small(loss_fn=Fails(1, MemoryError("lost"), call=1)))

    make_slice = probed.LossSlice
    broken = small()

    def no_slice(*args, **options):
        if broken.history and RANK == 1:
            raise MemoryError("no room for a copy")
        return make_slice(*args, **options)

    probed.LossSlice = no_slice
    run("second_has_no_copy", broken)
    probed.LossSlice = make_slice

    analyze, numerics = home.analyze_turning, small()

    def no_analysis(*args, **options):
        if numerics.history:
            raise torch.linalg.LinAlgError("not positive-definite")
        return analyze(*args, **options)

    home.analyze_turning = no_analysis
    run("numerics_fail", numerics)
    home.analyze_turning = analyze

    run("raises", small(loss_fn=Fails(1, MemoryError("lost")), on_error="raise"))
    run("pruned", small(loss_fn=Fails(1, TrialPruned("not promising"))))

    timed, divisible = probed.ProbedLoss._timed_here, probed.n_divisible

    def slow(self, clock):
        found = timed(self, clock)
        return replace(found, seconds=0.1 * (found.n_examples or 8))

    probed.ProbedLoss._timed_here = slow
    parts.FEWEST_WITH_STATISTICS = 4
    dear = {"n_samples": "auto", "max_overhead": 0.05, "grace": 16.0, "probe_batches": 1}
    # Half of the batch is affordable, all of it is not, however slow this machine is.
    ticks = iter(range(10**9))
    schedule.Budget = partial(Budget, clock=lambda: 1e-3 * next(ticks))
    run("part", small(**dear))
    if RANK == 1:
        probed.n_divisible = lambda batch: 0
    run("second_cannot_be_cut", small(**dear))
    probed.ProbedLoss._timed_here, probed.n_divisible = timed, divisible

    # The clock of the second process runs a hundred times as fast: by itself it would go on.
    ticks = iter(range(10**9))
    scale = 1e-3 * (1 + 99 * RANK)
    # A tick is no second: what an analysis is taken to cost before one has been measured.
    costs.FIXED_SECONDS, costs.PLACE_SECONDS = 0.05, 0.001
    schedule.Budget = partial(Budget, clock=lambda: scale * next(ticks))
    run("budget", small(max_overhead=0.4, grace=0.6, every_n_epochs=1), epochs=8)
    schedule.Budget = partial(Budget, clock=lambda: scale * next(ticks))
    run("chosen", small(max_overhead=0.4, grace=0.6), epochs=8)


if __name__ == "__main__":
    main()
