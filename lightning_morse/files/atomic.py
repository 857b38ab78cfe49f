"""Files that are written whole or not at all."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lightning_morse.files.regular import special_kind

# No write takes so long: what is older was left by a process that was killed.
_LEFT_OVER_AFTER = 86_400.0  # seconds
_PARTIAL = re.compile(r"\..+?\.(\d+)(?:\.\d+)?\.partial", re.DOTALL)
_numbers = itertools.count()


@contextmanager
def written_whole(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file that takes its name only once it is complete.

    It is written beside ``path`` and renamed when the block ends. If the block raises, or the
    process dies, a file that was there before is still there, unchanged. Of two that write at the
    same time, each writes a file of its own, and the last one to end counts. What killed processes
    left in the folder is removed after a day.

    Args:
        path: Where to; an existing file is replaced, also one that a link leads to. Its folder must
            exist.
        durable: Whether it is on the disk by then, so that this also holds if the machine stops.
            Otherwise it holds as long as the operating system goes on, and is quicker: whoever
            reads the file has to see for himself whether it is what was written.

    Yields:
        The open file.

    Raises:
        OSError: If it cannot be written, or what is there is no regular file: a device or a pipe
            that others use must not become one.
    """
    refuse_special(path)
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{os.getpid()}.{next(_numbers)}.partial")
    _remove_left_overs(target.parent)
    try:
        with partial.open("wb") as file:
            yield file
            if durable:
                file.flush()
                # Renaming first and writing later is what a file system may do otherwise.
                os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def refuse_special(path: str | os.PathLike[str]) -> None:
    """Raise unless a file may take a name: one that is free, or that of a regular file."""
    if kind := special_kind(path):
        raise OSError(
            f"{os.fspath(path)} must be a new file or a regular one to replace, but it is {kind}; "
            "give another name"
        )


def write_whole(
    path: str | os.PathLike[str], content: bytes | memoryview, *, durable: bool = True
) -> None:
    """Write some bytes by :func:`written_whole`."""
    with written_whole(path, durable=durable) as file:
        file.write(content)


def _remove_left_overs(folder: Path) -> None:
    """Remove partial files of writes that died; whatever goes wrong there is no matter."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                match = _PARTIAL.fullmatch(entry.name)
                if match is None or not entry.is_file(follow_symlinks=False):
                    continue
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if age > _LEFT_OVER_AFTER and not _is_alive(int(match[1])):
                    os.unlink(entry.path)
    except OSError:
        pass


def _is_alive(process: int) -> bool:
    """Whether a process with this number runs here; on another machine it is one too."""
    if os.name == "nt":  # asking would end it
        return process == os.getpid()
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
