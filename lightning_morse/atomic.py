"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that takes its name only once it is complete and on the disk.

    It is written beside ``path`` and renamed when the block ends. If the block raises, or the
    process dies, a file that was there before is still there, unchanged.

    Args:
        path: Where to; an existing file is replaced. Its folder must exist.

    Yields:
        The open file.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            # Renaming first and writing later is what a file system may do otherwise.
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write some bytes by :func:`written_whole`."""
    with written_whole(path) as file:
        file.write(content)
