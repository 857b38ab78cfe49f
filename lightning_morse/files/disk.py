"""Room on the disk, of which whoever watches a run leaves enough to the run itself."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

# What is left of a disk belongs to the checkpoints and logs of the run. A checkpoint with the state
# of Adam is three times as large as one snapshot of the weights.
LARGEST_SHARE = 0.2
LEFT_BYTES = 2**24


def leave_room(folder: str | os.PathLike[str], n_bytes: int) -> None:
    """Refuse to write what would leave too little room on a disk.

    Of what is free a fifth may be taken, and 16 MiB stay free. Where nobody knows what is free, as
    in a store that is no disk, nothing is refused; quotas are not known either.

    Args:
        folder: Where something is to be written; it need not exist yet.
        n_bytes: How much.

    Raises:
        OSError: If too little would be left (``ENOSPC``).
    """
    free = _free(folder)
    if n_bytes > min(LARGEST_SHARE * free, free - LEFT_BYTES):
        said = f"{n_bytes / 2**20:.3g} MiB would be taken of {free / 2**20:.3g} MiB that are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {said}", os.fspath(folder))


def _free(folder: str | os.PathLike[str]) -> float:
    """Bytes that are free; infinite where nobody knows."""
    if "://" in os.fspath(folder):
        return float("inf")
    path = Path(folder)
    for place in (path, *path.absolute().parents):
        try:
            return float(shutil.disk_usage(place).free)
        except OSError:
            continue
    return float("inf")
