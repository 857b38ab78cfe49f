"""A disk that is full, by the device that always is, ends no run that would end well without us."""

import csv
import os

import pytest
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger

from tests.callback_models import Net, fit, monitor, stub_analysis

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")


class Full(Callback):
    """The disk is full from one epoch on, until another."""

    def __init__(self, first, last=99):
        self.first, self.last, self.path = first, last, None

    def on_train_epoch_start(self, trainer, pl_module):
        writer = trainer.logger.experiment
        self.path = self.path or writer.metrics_file_path
        full = self.first <= trainer.current_epoch < self.last
        writer.metrics_file_path = "/dev/full" if full else self.path


class Quiet(Net):
    """Logs nothing."""

    def log(self, name, *args, **options):
        if name == "mine":
            super().log(name, *args, **options)


class Logged(Quiet):
    """Logs a value of its own at the end of the last epoch."""

    def on_train_epoch_end(self):
        if self.current_epoch == 2:
            self.log("mine", 1.0)


def test_a_run_that_logs_nothing_else_ends_well(tmp_path, monkeypatch, caplog):
    stub_analysis(monkeypatch)
    logger, watch = CSVLogger(tmp_path), monitor()
    with caplog.at_level("WARNING", "lightning_morse"):
        _, runner = fit(tmp_path, Full(0), watch, logger=logger, module=Quiet(), max_epochs=3)
    assert runner.state.finished
    assert len(watch.history) == 3
    assert any("No space left on device" in r.getMessage() for r in caplog.records)


def test_what_others_log_is_written_once_there_is_room(tmp_path, monkeypatch):
    """Without a column of ours, and under its own name."""
    stub_analysis(monkeypatch)
    logger = CSVLogger(tmp_path)
    fit(tmp_path, Full(0, 2), monitor(), logger=logger, module=Logged(), max_epochs=3)
    with open(os.path.join(logger.log_dir, "metrics.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["mine"] for row in rows if row["mine"]] == ["1.0"]
    assert all(None not in row and None not in row.values() for row in rows)
