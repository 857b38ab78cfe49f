"""A logger is what it was before a write of ours that failed, by a limit on the size of files."""

import csv
import errno
import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_morse.callbacks._taken_back import taken_back
from lightning_morse.callbacks.logger_kinds import kind_of_logger

# The thread of an event file says how it ended.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@contextmanager
def limited(n_bytes):
    """No file grows beyond a size; a real error, and not in the way of what a test prints."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def events(logger):
    return sorted(Path(logger.log_dir).glob("events*"), key=os.path.getmtime)


def scalars(logger):
    # Files of one second are read in the order of their names, in which the tenth comes before the
    # ninth.
    read = EventAccumulator(logger.log_dir).Reload()
    return {
        tag: sorted((s.step, s.value) for s in read.Scalars(tag)) for tag in read.scalars.Keys()
    }


def fails(logger, n_bytes, name="ours"):
    """Give a value for which there is no room."""

    def give():
        with limited(n_bytes), taken_back(logger):
            logger.log_metrics({name: 2.0}, step=1)
            logger.save()

    with pytest.raises(OSError, match="File too large"):
        give()


class TestEventFile:
    @pytest.fixture
    def logger(self, tmp_path):
        logger = TensorBoardLogger(tmp_path, name="", version=0)
        logger.log_metrics({"theirs": 1.0}, step=0)
        return logger

    def test_others_go_on_and_lose_nothing(self, logger):
        logger.experiment.flush()
        logger.log_metrics({"theirs": 1.5}, step=1)  # in the queue of the thread, or written
        logger.experiment.flush()
        fails(logger, events(logger)[0].stat().st_size + 20)
        logger.log_metrics({"theirs": 3.0}, step=2)
        logger.finalize("success")
        assert scalars(logger) == {"theirs": [(0, 1.0), (1, 1.5), (2, 3.0)]}

    def test_a_run_that_logs_nothing_more_ends_well(self, logger):
        logger.experiment.flush()
        fails(logger, events(logger)[0].stat().st_size + 20)
        logger.finalize("success")
        assert scalars(logger) == {"theirs": [(0, 1.0)]}

    def test_pictures_are_written_before_the_block_ends(self, logger):
        """Not by the thread later on, where its error would be that of others."""
        png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1" + bytes(5000)
        logger.experiment.flush()
        with pytest.raises(OSError, match="File too large"), limited(2000), taken_back(logger):
            kind_of_logger(logger).show(logger, {"basins": png}, 3, "morse")
        logger.finalize("success")

    def test_what_never_has_room_leaves_no_files(self, logger):
        logger.experiment.flush()
        size = events(logger)[0].stat().st_size
        for _ in range(5):
            fails(logger, size + 20)
        assert len(events(logger)) == 1
        with taken_back(logger):
            logger.log_metrics({"ours": 2.0}, step=9)
        assert len(events(logger)) == 2
        assert scalars(logger)["ours"] == [(9, 2.0)]

    def test_threads_of_files_that_were_given_up_end(self, logger):
        logger.experiment.add_scalars("several", {"a": 1.0}, 0)  # an event file of its own
        logger.experiment.flush()
        threads = [
            w.event_writer._async_writer._worker for w in logger.experiment.all_writers.values()
        ]
        assert len(threads) == 2
        fails(logger, events(logger)[0].stat().st_size + 20)
        assert not any(thread.is_alive() for thread in threads)

    def test_what_others_could_not_write_stays_their_failure(self, logger):
        logger.experiment.flush()
        with limited(events(logger)[0].stat().st_size + 20):
            logger.log_metrics({"theirs": 2.0}, step=1)  # the thread will end by it
            with pytest.raises(OSError, match="File too large"), taken_back(logger):
                pytest.fail("nothing is given to a logger that has failed")
        with pytest.raises(OSError, match="File too large"):
            logger.finalize("success")


class TestTable:
    @pytest.fixture
    def logger(self, tmp_path):
        logger = CSVLogger(tmp_path, name="", version=0)
        for step in range(20):
            logger.log_metrics({"theirs": float(step)}, step=step)
        logger.save()
        logger.log_metrics({"theirs": -1.0}, step=20)  # not yet written
        return logger

    def rows(self, logger):
        with open(logger.experiment.metrics_file_path, newline="") as file:
            return list(csv.DictReader(file))

    def expect(self, logger):
        logger.finalize("success")
        rows = self.rows(logger)
        assert [int(row["step"]) for row in rows] == list(range(21))
        assert [set(row) for row in rows] == [{"step", "theirs"}] * 21

    def test_a_new_column_does_not_cost_the_rows_that_were_written(self, logger):
        path = logger.experiment.metrics_file_path
        fails(logger, os.path.getsize(path) + 5)
        self.expect(logger)

    def test_rows_are_not_written_twice(self, logger):
        fails(logger, os.path.getsize(logger.experiment.metrics_file_path) + 5, name="theirs")
        self.expect(logger)

    def test_a_file_that_was_not_there_is_not_there(self, tmp_path):
        logger = CSVLogger(tmp_path, name="", version=0)
        fails(logger, 5)
        assert not os.path.exists(logger.experiment.metrics_file_path)
        logger.finalize("success")
        assert not os.path.exists(logger.experiment.metrics_file_path)


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_the_last_of_a_disk_is_left_to_others(kind, tmp_path, monkeypatch):
    logger = kind(tmp_path, name="", version=0)
    logger.log_metrics({"theirs": 1.0}, step=0)
    logger.save()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**24))
    with pytest.raises(OSError, match="No space left") as caught, taken_back(logger):
        pytest.fail("there is no room")
    assert caught.value.errno == errno.ENOSPC


def test_loggers_of_other_kinds_are_left_alone():
    for logger in (DummyLogger(), object()):
        with pytest.raises(ZeroDivisionError), taken_back(logger):
            raise ZeroDivisionError
