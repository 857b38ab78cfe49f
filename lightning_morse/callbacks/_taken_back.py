"""What becomes of a logger where a write of ours has failed, as on a full disk: what it was before.

Loggers keep what they could not write, or the error of it, and fail once more when others log, or
when the run ends: a run that would have ended well but for our values.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning_morse.files.disk import leave_room

# What we give at a time, but for a large table that is written anew.
_USUAL_BYTES = 2**20


@contextmanager
def taken_back(logger: Any) -> Iterator[None]:
    """If the block fails, bring a logger to where it was; others have lost nothing by it.

    Loggers are told apart by what they have: a ``CSVLogger``, or one with a ``SummaryWriter``.
    Whatever the block gives is on the disk when it ends.

    Args:
        logger: The logger that the block gives values to.

    Raises:
        OSError: If there is too little room on its disk, and the block has not been run.
    """
    writer: Any = getattr(logger, "experiment", None)
    if all(isinstance(getattr(writer, name, None), list) for name in ("metrics", "metrics_keys")):
        with _rows_taken_back(writer):
            yield
    elif has_event_file(writer):
        leave_room(writer.log_dir, _USUAL_BYTES)
        with _events_taken_back(writer):
            yield
    else:
        yield


def has_event_file(writer: Any) -> bool:
    """Whether an ``experiment`` of a logger is a ``SummaryWriter``."""
    # A stand-in of Lightning's has every attribute that is asked for: a function.
    is_on_disk = isinstance(getattr(writer, "log_dir", None), str | os.PathLike)
    return is_on_disk and hasattr(writer, "file_writer") and hasattr(writer, "all_writers")


@contextmanager
def _rows_taken_back(writer: Any) -> Iterator[None]:
    """Of a CSVLogger: rows that are not written yet, and its file.

    Where a column is new the logger writes its file anew, and loses it where that fails.
    """
    rows, keys = list(writer.metrics), list(writer.metrics_keys)
    path = getattr(writer, "metrics_file_path", "")
    before = None
    if path and os.path.isfile(path):
        before = Path(path).read_bytes()
        leave_room(os.path.dirname(path), len(before) + _USUAL_BYTES)
    elif path:
        leave_room(os.path.dirname(path), _USUAL_BYTES)
    try:
        yield
    except Exception:
        writer.metrics, writer.metrics_keys = rows, keys
        with suppress(OSError):
            _put_back(path, before)
        raise


def _put_back(path: str, before: bytes | None) -> None:
    """Give a file the content it had; None where there was none."""
    if not os.path.isfile(path):
        return
    if before is None:
        os.unlink(path)
        return
    with open(path, "rb") as file:
        same = file.read(len(before)) == before
    if same:  # rows were added, which takes no room to undo
        os.truncate(path, len(before))
    else:
        Path(path).write_bytes(before)


@contextmanager
def _events_taken_back(writer: Any) -> Iterator[None]:
    """Of a SummaryWriter: its event file, given up for another where the block fails.

    An event file is written by a thread. It ends with its first error and raises that whenever
    something is logged or closed from then on. The next value begins an event file, as after
    ``close``.
    """
    if writer.file_writer is None and os.path.isdir(writer.log_dir):
        # Each further attempt would leave a file without content, where a quota is used up.
        with tempfile.TemporaryFile(dir=writer.log_dir) as file:
            file.write(bytes(_USUAL_BYTES))
    writer.flush()  # what others have logged; its failure is theirs
    try:
        yield
        writer.flush()
    except Exception as error:
        for of_folder in (writer.all_writers or {}).values():
            with suppress(Exception):  # the error of the thread once more
                of_folder.close()
        writer.file_writer = writer.all_writers = None
        if isinstance(error.__cause__, OSError):  # the logger says that the value is of no type
            raise error.__cause__ from None
        raise
