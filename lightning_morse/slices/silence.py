"""Evaluations that show nothing of what a user's code prints, logs or warns of."""

from __future__ import annotations

import io
import logging
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

# What a logger asks before it logs at a level.
Asked = Callable[[logging.Logger, int], bool]


class _Silence:
    """Threads that log nothing at present.

    ``logging.disable`` would silence all threads, and empties a cache in every logger whenever it
    is called: half a millisecond where there are many, as long as a small network takes. So what
    loggers ask before they log is replaced, as long as there is such a thread.
    """

    def __init__(self) -> None:
        self._blocks: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._usual: Asked = logging.Logger.isEnabledFor
        self._asked: Asked = logging.Logger.isEnabledFor

    def enter(self) -> None:
        """This thread logs nothing, until it has left as often as it has entered."""
        with self._lock:
            if not self._blocks:
                self._usual = logging.Logger.isEnabledFor
                self._asked = _unless_in(self._blocks, self._usual)
                self._put(self._asked)
            self._blocks[threading.get_ident()] += 1

    def leave(self) -> None:
        """One block less."""
        with self._lock:
            self._blocks -= Counter([threading.get_ident()])
            # What others have put there meanwhile stays. If it asks ours, that answers as usual.
            if not self._blocks and logging.Logger.isEnabledFor is self._asked:
                self._put(self._usual)

    @staticmethod
    def _put(asked: Asked) -> None:
        setattr(logging.Logger, "isEnabledFor", asked)  # noqa: B010 (mypy forbids assigning it)


def _unless_in(silent: Counter[int], usual: Asked) -> Asked:
    """What loggers ask instead: no in the threads of this counter, as usual in others."""

    def is_enabled_for(logger: logging.Logger, level: int) -> bool:
        return threading.get_ident() not in silent and usual(logger, level)

    return is_enabled_for


_SILENCE = _Silence()


@contextmanager
def quiet() -> Iterator[None]:
    """Show nothing of what is printed or warned of, or logged in this thread."""
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(_SILENCE.leave)
        _SILENCE.enter()
        yield
