"""Files of arrays and plain facts: one NumPy archive, without pickled objects."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_morse.atomic import written_whole

# To be raised when a reader of the old version could not make sense of the new one.
FORMAT_VERSION = 2


def write(
    path: str | os.PathLike[str], facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write facts and arrays to one file, which appears as a whole or not at all.

    Args:
        path: The file; an existing one is replaced.
        facts: Values that JSON can hold, by name.
        arrays: The arrays, by name.
    """
    text = json.dumps({"format": FORMAT_VERSION, **facts})
    named: dict[str, Any] = {"facts": np.frombuffer(text.encode(), dtype=np.uint8), **arrays}
    with written_whole(path) as file:
        np.savez_compressed(file, **named)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read facts and arrays written by :func:`write`.

    Args:
        path: The file.

    Raises:
        ValueError: If the file has another format; whatever a damaged file makes NumPy raise, see
            :func:`explained`.
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive.items())
    facts = json.loads(arrays.pop("facts").tobytes().decode())
    version = facts["format"]
    if version != FORMAT_VERSION:
        raise ValueError(
            f"its format is {version}, this version reads {FORMAT_VERSION}; analyse again"
        )
    return facts, arrays


@contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise whatever goes wrong with a file's content as a ``ValueError`` that names the file."""
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as err:
        raise ValueError(f"{path} does not hold a Morse analysis: {err}") from err
