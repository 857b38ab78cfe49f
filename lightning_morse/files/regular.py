"""Files that are read or replaced: regular ones only, and of those in folders none from outside."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; a pipe or a device, which might never answer, is refused.

    Args:
        path: The file; links are followed.

    Raises:
        OSError: If there is no such file, or it is no regular one.
    """
    # Opening a pipe waits for a writer unless it is told not to.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(f"{os.fspath(path)} is no regular file")
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


# What else there is, in words, by the type that the system gives it.
_SPECIAL = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def special_kind(path: str | os.PathLike[str]) -> str:
    """What there is under a name, in words, if it is no regular file; else empty.

    Args:
        path: The name; links are followed. Nothing is opened, so that nothing waits.

    Example:
        >>> special_kind("/"), special_kind("/no/such/file")
        ('a folder', '')
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:  # nothing there, or nothing that can be looked at
        return ""
    return "" if stat.S_ISREG(mode) else _SPECIAL.get(stat.S_IFMT(mode), "no regular file")


def files_below(
    root: Path, wanted: Callable[[str], bool], left_out: Callable[[str], None]
) -> Iterator[Path]:
    """The regular files below a folder with a name that is wanted, in order of their paths.

    Links to folders are not followed (what is inside the folder is met anyway), links to files
    only where they end inside the folder. Folders that vanish meanwhile have no files.

    Args:
        root: The folder; it may be a link itself.
        wanted: Tells by its name whether a file is wanted.
        left_out: Takes a line for each file with such a name that is left out.

    Yields:
        Paths that begin with ``root``.
    """
    end = root.resolve()
    for folder, inner, names in os.walk(root, onerror=lambda error: left_out(str(error))):
        inner.sort()
        for path in (Path(folder) / name for name in sorted(filter(wanted, names))):
            try:
                is_regular = stat.S_ISREG(path.stat().st_mode)
                outside = path.is_symlink() and not path.resolve().is_relative_to(end)
            except (OSError, RuntimeError) as error:  # gone, or links in a circle
                left_out(f"{path}: {error}")
                continue
            if not is_regular:
                left_out(f"{path}: no regular file")
            elif outside:
                left_out(f"{path}: a link out of {root}")
            else:
                yield path
