"""A stream that takes the place of the standard output while some threads are to show nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Aside:
    """Drops what is written where nothing is to be shown, and passes on everything else.

    A handler of logs or a progress bar that is made meanwhile keeps the stream for good. It writes
    to the real one through it, from other threads and later on.

    Args:
        real: The stream that it takes the place of; None in a process that has none.
        is_silent: Whether nothing is to be shown, in this thread and at present.
    """

    def __init__(self, real: Any, is_silent: Callable[[], bool]) -> None:
        self._real: Any = real._real if type(real) is Aside else real
        self._is_silent = is_silent
        self._nowhere: io.TextIOWrapper | None = None

    def write(self, text: str) -> int:
        """Write; returns the number of characters."""
        if self._real is None or self._is_silent():
            return len(text)
        return int(self._real.write(text) or 0)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the real stream, where something is shown."""
        if self._real is not None and not self._is_silent():
            self._real.flush()

    def close(self) -> None:
        """Close the real stream, where something is shown."""
        if self._real is not None and not self._is_silent():
            self._real.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._target(), name)

    def __enter__(self) -> Aside:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._target())

    def _target(self) -> Any:
        if self._real is not None and not self._is_silent():
            return self._real
        if self._nowhere is None:
            self._nowhere = io.TextIOWrapper(io.BytesIO(), "utf-8")
        return self._nowhere


io.TextIOBase.register(Aside)
