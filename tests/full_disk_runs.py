"""Short trainings on a disk that is full for a time, each with and without a monitor.

``python -m tests.full_disk_runs FOLDER CASE`` prints how they ended, and what they had logged, as
JSON. A process of its own, since a limit on the size of files is one on whatever it writes.
"""

from __future__ import annotations

import csv
import json
import resource
import shutil
import sys
from pathlib import Path

import pytest
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.callback_models import Net, fit, monitor, seed_all, stub_analysis

KINDS = {"csv": CSVLogger, "tensorboard": TensorBoardLogger}
_, HARD = resource.getrlimit(resource.RLIMIT_FSIZE)


class Quota(Callback):
    """Files may hardly grow in the second of five epochs."""

    def on_train_epoch_start(self, trainer, pl_module):
        files = [p for p in Path(trainer.log_dir).iterdir() if p.is_file()]
        room = max((p.stat().st_size for p in files), default=0) + 30
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (room if trainer.current_epoch == 1 else HARD, HARD)
        )


class LogsLater(Net):
    """Logs from some epoch on."""

    def __init__(self, first):
        super().__init__()
        self.first = first

    def log(self, *args, **options):
        if self.current_epoch >= self.first:
            super().log(*args, **options)


def logged(logger):
    """Steps and values of the loss that the run has logged."""
    if isinstance(logger, CSVLogger):
        path = Path(logger.experiment.metrics_file_path)
        rows = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
        found = [(int(r["step"]), r["train_loss_step"]) for r in rows if r.get("train_loss_step")]
        return [(step, round(float(loss), 5)) for step, loss in found]
    read = EventAccumulator(logger.log_dir).Reload()
    if "train_loss_step" not in read.scalars.Keys():
        return []
    return [(s.step, round(s.value, 5)) for s in read.Scalars("train_loss_step")]


def run(folder, kind, first, watched, *callbacks, **options):
    """Train once, and say how it ended."""
    logger = KINDS[kind](folder, name="", version=f"{kind}_{first}_{watched}")
    watch = [monitor()] if watched else []
    seed_all()
    try:
        _, runner = fit(
            folder, *callbacks, *watch, logger=logger, module=LogsLater(first), **options
        )
        ended = "well" if runner.state.finished else "early"
    except Exception as error:
        ended = type(error).__name__
    resource.setrlimit(resource.RLIMIT_FSIZE, (HARD, HARD))
    return {"ended": ended, "logged": logged(logger)}


def main(folder, case):
    """Run a case for both loggers, with and without a monitor."""
    stub_analysis(pytest.MonkeyPatch())
    found = {}
    for kind in KINDS:
        for first in (0,) if case == "disk" else (0, 2, 9):
            given = (Quota(),) if case == "quota" else ()
            options = {"max_epochs": 5}
            pair = [run(folder, kind, first, on, *given, **options) for on in (False, True)]
            found[f"{kind} {first}"] = pair
    print(json.dumps({"disk": shutil.disk_usage(folder).total, **found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
