"""Figures are drawn beside training, and arrive under the step of their analysis."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_morse import MorseMonitor
from lightning_morse.callbacks import _painter, _worker
from lightning_morse.callbacks._figures import painted
from lightning_morse.callbacks._messages import Messages
from lightning_morse.callbacks._painter import Painter
from lightning_morse.callbacks._worker import place_of
from lightning_morse.cli import main as command
from lightning_morse.monitoring.findings import View
from lightning_morse.view.runs import read_runs
from tests.callback_models import fit, monitor, stub_analysis
from tests.plotting.test_basins_and_morse_graph import plane

VIEW = View(np.zeros((2, 2)), np.zeros(2), ["a", "b"], "epoch 1", {0: 0, 1: 1, 2: 2}, "leaving")


# A process that takes only what is idle may wait long where the machine is busy.
LONG = 100.0


@pytest.fixture
def painter(monkeypatch):
    monkeypatch.setattr(_painter, "PATIENCE_SECONDS", LONG)
    made = Painter(Messages("test"))
    yield made
    made.finish(patience=0)


def together(got):
    """Pictures that came one by one."""
    assert all(len(some) == 1 for some in got)
    return dict(item for some in got for item in some.items())


def no_worker(module):
    raise OSError("no more processes")


@pytest.mark.slow
def test_pictures_are_those_drawn_here(painter):
    result, got = plane(16), []
    painter.submit(result, VIEW, [], got.append)
    assert not got  # that is the point
    worker = painter._worker
    painter.finish(LONG)
    assert together(got) == dict(painted(result, VIEW, []))
    assert next(iter(together(got))) == "basins"
    assert set(painter.seconds) == set(together(got))
    assert worker.process.returncode is not None
    assert not worker.folder.exists()


@pytest.mark.slow
def test_they_come_in_order_and_at_a_later_hook(painter):
    got = []
    for number in range(3):
        painter.submit(plane(8), VIEW, [], lambda _, number=number: got.append(number))
    deadline = time.monotonic() + 60
    while len(got) < 9 and time.monotonic() < deadline:
        painter.collect()
        time.sleep(0.01)
    assert got == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.slow
def test_the_process_imports_neither_torch_nor_lightning(tmp_path):
    job = tmp_path / "0"
    view = _painter.SimpleNamespace(**vars(VIEW))
    job.write_bytes(pickle.dumps((plane(8), view, [])))
    program = (
        "import sys; from pathlib import Path; from lightning_morse.callbacks._painting import *;"
        "from lightning_morse.callbacks._worker import heard;"
        "job = Path(sys.argv[1]); make_ready(); answer(job); end = heard(job, 3);"
        "assert isinstance(end, Done) and len(end.seconds) == 3;"
        "assert not {'torch', 'pytorch_lightning', 'tensorboard'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, str(job)], check=True, cwd=root, timeout=60)


@pytest.mark.slow
def test_what_a_dead_process_leaves_is_drawn_here(painter, caplog):
    got = []
    with caplog.at_level(logging.INFO, "lightning_morse"):
        for _ in range(2):
            painter.submit(plane(8), VIEW, [], got.append)
        os.kill(painter._worker.process.pid, signal.SIGKILL)
        painter._worker.process.wait()
        painter.submit(plane(8), VIEW, [], got.append)
        painter.finish(LONG)
    assert len(got) == 9
    assert together(got[:3]) == together(got[-3:]) == dict(painted(plane(8), VIEW, []))
    assert "the process that draws has ended" in caplog.text or "BrokenPipe" in caplog.text


def test_without_a_process_they_are_drawn_at_once(painter, monkeypatch, caplog):
    monkeypatch.setattr(_painter, "start", no_worker)
    got = []
    with caplog.at_level(logging.INFO, "lightning_morse"):
        for _ in range(2):
            painter.submit(plane(8), VIEW, [], got.append)
    assert len(got) == 6
    said = "figures are drawn in the process that trains (OSError: no more processes)"
    assert caplog.text.count(said) == 1


def test_no_process_is_started_for_the_last_analysis_alone(painter):
    got = []
    painter.submit(plane(8), VIEW, [], got.append, last=True)
    assert len(got) == 3
    assert painter._worker is None


@pytest.mark.slow
def test_a_fault_in_drawing_is_said(painter, caplog):
    got = []
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        painter.submit(plane(8), VIEW, [{"no": "history"}] * 2, got.append)
        painter.finish(LONG)
    assert list(together(got)) == ["basins", "graph", "merge"]
    assert "drawing failed: ValueError: history must be rows" in caplog.text


def test_too_many_are_left_out_and_so_are_late_ones(painter, monkeypatch, caplog):
    monkeypatch.setattr(_painter, "MOST_WAITING", 2)
    got = []
    with caplog.at_level(logging.INFO, "lightning_morse"):
        for _ in range(3):
            painter.submit(plane(8), VIEW, [], got.append)
        assert "left out, 2 others wait to be drawn" in caplog.text
        worker = painter._worker
        worker.process.send_signal(signal.SIGSTOP)  # for ever busy
        painter.finish(patience=0.1)
    assert "some figures of the last 2 analyses are left out, there was no more" in caplog.text
    assert worker.process.returncode == -signal.SIGKILL
    assert not worker.folder.exists()


def test_where_the_run_breaks_off_that_is_why_figures_are_left_out(caplog):
    watch = MorseMonitor()
    painter = watch._account.painter
    painter.submit(plane(8), VIEW, [], [].append)
    painter._worker.process.send_signal(signal.SIGSTOP)
    with caplog.at_level(logging.INFO, "lightning_morse"):
        watch.on_exception(None, None, KeyboardInterrupt())
    assert "some figures of the last analysis are left out, the run has been" in caplog.text
    assert "no more time" not in caplog.text


class Clock:
    """Goes on by itself, a little at each look."""

    now = 0.0

    def __call__(self):
        self.now += 0.01
        return self.now


def test_what_is_drawn_by_the_end_is_given_away(painter, caplog):
    """Figure by figure, that of the basins first."""
    got = []
    painter.submit(plane(8), VIEW, [], got.append)
    worker, job = painter._worker, painter._jobs[0]
    deadline = time.monotonic() + 60
    while not place_of(job.path, 0).exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    worker.process.send_signal(signal.SIGSTOP)
    place_of(job.path, 1).unlink(missing_ok=True)  # it may have been quick
    with caplog.at_level(logging.INFO, "lightning_morse"):
        painter.finish(patience=0.0)
    assert list(together(got)) == ["basins"]
    assert "some figures of the last analysis are left out" in caplog.text


@pytest.mark.parametrize(("patience", "kinds"), [(0.0, 0), (1.0, 1), (1.5, 2), (9.0, 3)])
def test_no_figure_is_begun_that_would_not_be_done(patience, kinds, monkeypatch, caplog):
    """Where this process draws: as many figures as there is time for, those of before known."""
    clock = Clock()

    def slow(result, view, history, *, after=0):
        for kind, seconds in zip(("basins", "graph", "merge"), (0.7, 0.5, 0.4), strict=True):
            clock.now += seconds
            yield kind, b""

    painter, got = Painter(Messages("test"), clock), []
    painter._here = True
    painter.seconds.update(basins=0.7, graph=0.5, merge=0.4)
    monkeypatch.setattr(_painter, "painted", slow)
    start = clock()
    with caplog.at_level(logging.INFO, "lightning_morse"):
        painter.submit(plane(8), VIEW, [], got.append, patience=patience)
    assert len(got) == kinds
    assert clock.now <= start + patience + 0.05
    assert ("some figures of the last analysis are left out" in caplog.text) == (kinds < 3)


def test_a_process_that_is_ready_has_been_started_before(painter):
    painter.make_ready()
    worker = painter._worker
    assert worker is not None
    painter.make_ready()
    painter.submit(plane(8), VIEW, [], lambda pictures: None, last=True)
    assert painter._worker is worker
    painter.finish(patience=0)


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="a policy of Linux")
def test_the_process_takes_only_what_is_idle(painter):
    painter.make_ready()
    pid = painter._worker.process.pid
    deadline = time.monotonic() + 30
    while os.sched_getscheduler(pid) != os.SCHED_IDLE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    # Linux shares time between sessions first; an interrupt goes to the group.
    assert os.getsid(pid) == os.getsid(0)
    assert os.getpgid(pid) == pid != os.getpgid(0)


@pytest.mark.slow
def test_a_process_that_may_not_step_back_draws_all_the_same(painter, monkeypatch):
    refused = "import os\ndef no(*a): raise PermissionError\nos.setpgid = os.nice = no\n"
    monkeypatch.setattr(_worker, "_PROGRAM", refused + _worker._PROGRAM)
    got = []
    painter.submit(plane(8), VIEW, [], got.append)
    worker = painter._worker
    painter.finish(LONG)
    assert len(got) == 3
    assert worker.process.returncode == -signal.SIGKILL  # ended here, not by an error


def test_a_copy_has_no_process(painter):
    painter.submit(plane(8), VIEW, [], lambda pictures: None)
    other = copy.deepcopy(painter)
    assert other._worker is None
    assert painter._worker is not None


class LeavesEarly(Callback):
    """Ends the run with an error, or looks at the worker before each end of an epoch."""

    def __init__(self, watch, epoch=None):
        self.watch, self.epoch, self.workers = watch, epoch, []

    def on_train_epoch_end(self, trainer, pl_module):
        self.workers.append(self.watch._account.painter._worker)
        if trainer.current_epoch == self.epoch:
            raise ValueError("enough")


@pytest.mark.slow
def test_steps_are_those_of_the_analyses_whenever_pictures_arrive(tmp_path, monkeypatch):
    stub_analysis(monkeypatch, pictures=True)
    deliver = Painter._deliver
    monkeypatch.setattr(Painter, "_deliver", lambda self: late(deliver, self))
    board = TensorBoardLogger(tmp_path, name="x", version=0)
    watch = monitor()
    looks = LeavesEarly(watch)
    fit(tmp_path, watch, looks, logger=board, max_epochs=3)
    events = EventAccumulator(str(tmp_path / "x" / "version_0"))
    events.Reload()
    steps = [row["step"] for row in watch.history]
    assert len(steps) == 3
    for kind in ("basins", "graph", "merge"):
        assert [e.step for e in events.Images(f"morse/{kind}")] == steps
    assert [e.step for e in events.Images("morse/timeline")] == steps[1:]
    assert events.Images("morse/basins")[0].encoded_image_string.startswith(b"\x89PNG")
    assert looks.workers[0] is not None
    assert looks.workers[0].process.returncode is not None
    assert watch._account.painter._worker is None
    assert set(watch.figures()) == {
        "basins",
        "graph",
        "merge",
        "timeline",
    }  # drawn here, on request


def late(deliver, painter):
    """As ``Painter._deliver``, but nothing is ready until all have been submitted."""
    if painter._n_jobs == 3:
        deliver(painter)


def test_a_run_that_fails_leaves_no_process(tmp_path, monkeypatch):
    stub_analysis(monkeypatch, pictures=True)
    watch = monitor()
    leaves = LeavesEarly(watch, epoch=1)
    with pytest.raises(ValueError, match="enough"):
        fit(tmp_path, watch, leaves, max_epochs=3)
    worker = leaves.workers[-1]
    assert worker is not None
    assert worker.process.returncode is not None
    assert not worker.folder.exists()
    assert watch._account.painter._worker is None


KILLED = """
import os, signal, sys
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger
from tests.callback_models import fit, monitor

class Dies(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if len(watch.history) == 2:
            worker = watch._account.painter._worker
            print(worker.process.pid, worker.folder, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

watch = monitor(n_samples=16, resolution=8, dim=1)
fit(sys.argv[1], watch, Dies(), logger=CSVLogger(sys.argv[1], "x", version=0), max_epochs=4)
"""


@pytest.mark.slow
def test_a_killed_run_loses_pictures_only_and_leaves_no_process(tmp_path, capsys):
    root = Path(__file__).parents[2]
    order = [sys.executable, "-c", KILLED, str(tmp_path)]
    run = subprocess.run(order, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    pid, folder = run.stdout.split()[-2:]
    (found,) = read_runs(tmp_path / "x" / "version_0")
    assert [reading.step for reading in found.readings] == [5, 11]
    assert all(reading.read() is not None for reading in found.readings)
    page = tmp_path / "report.html"
    assert command(["report", str(tmp_path / "x"), "-o", str(page)]) == 0
    assert "2 records of 1 run" in capsys.readouterr().out
    assert page.stat().st_size > 10_000
    deadline = time.monotonic() + 30
    while (Path(folder).exists() or alive(int(pid))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(folder).exists()
    assert not alive(int(pid))


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_pictures_that_no_logger_takes_are_files(tmp_path, monkeypatch, caplog):
    """A logger that took the text but not the picture."""

    class Half(CSVLogger):
        @property
        def experiment(self):
            writer = super().experiment
            writer.add_image = writer.add_text = writer.flush = lambda *args, **options: None
            return writer

    stub_analysis(monkeypatch)
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        fit(tmp_path, monitor(), logger=Half(tmp_path, name="", version=0), max_epochs=1)
    assert "drawing to Half failed: AttributeError" in caplog.text
    names = {p.name for p in (tmp_path / "version_0" / "morse").iterdir()}
    assert names >= {f"step-0000005-{kind}.png" for kind in ("basins", "graph", "merge")}
