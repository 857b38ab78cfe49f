"""A disk that is full ends no run that would end well without us."""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

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


def ends(*command):
    """What :mod:`tests.full_disk_runs` says of its runs, without and with a monitor."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_quota_ends_no_run_that_would_end_well_without_a_monitor(tmp_path):
    """Nobody knows of it before a write fails; afterwards, all that others log is there."""
    found = ends(sys.executable, "-m", "tests.full_disk_runs", str(tmp_path), "quota")
    del found["disk"]
    assert len(found) == 6
    for case, (bare, watched) in found.items():
        if case.endswith("0"):  # its own values have no room, a table's are written at the end
            assert watched["ended"] == bare["ended"], case
        else:
            assert watched == bare == {"ended": "well", "logged": bare["logged"]}, case
    assert [len(bare["logged"]) for case, (bare, _) in found.items() if case.endswith("2")] == [
        18
    ] * 2


@pytest.mark.slow
def test_a_small_disk_has_room_for_what_others_log(tmp_path):
    """The real thing, 120 kB: pictures would fill it."""
    mount = f"mount -t tmpfs -o size=120k tmpfs {shlex.quote(str(tmp_path))}"
    private = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*private, mount], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    line = shlex.join([sys.executable, "-m", "tests.full_disk_runs", str(tmp_path), "disk"])
    found = ends(*private, f"{mount} && exec {line}")
    assert found.pop("disk") == 120 * 1024
    for bare, watched in found.values():
        assert watched == bare == {"ended": "well", "logged": bare["logged"]}
        assert len(bare["logged"]) == 30
