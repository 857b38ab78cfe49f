"""Evaluations that show nothing of what a user's code prints, logs or warns of."""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

# What a logger asks before it logs at a level.
Asked = Callable[[logging.Logger, int], bool]


class _Silence:
    """The threads whose evaluations are to show nothing at present.

    Output and warnings belong to the process, so nothing of them is shown as long as there is such
    a thread. What is logged is told apart by threads: others go on to log.

    ``logging.disable`` would silence all of them, and empties a cache in every logger whenever it
    is called: half a millisecond where there are many, as long as a small network takes. So what
    loggers ask before they log is replaced, as long as there is such a thread.
    """

    def __init__(self) -> None:
        self._threads: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._before = ExitStack()
        self._usual: Asked = logging.Logger.isEnabledFor
        # One and the same all the time: what others patch meanwhile may outlive a block.
        self._asked: Asked = lambda logger, level: (
            threading.get_ident() not in self._threads and self._usual(logger, level)
        )

    def enter(self) -> None:
        """This thread shows nothing, until it has left as often as it has entered."""
        with self._lock:
            if not self._threads:
                self._begin()
            self._threads[threading.get_ident()] += 1

    def leave(self) -> None:
        """One block less; the last one leaves everything as the first one found it."""
        with self._lock:
            self._threads -= Counter([threading.get_ident()])
            if not self._threads:
                self._before.close()

    def forget(self) -> None:
        """Of the threads of a process that was forked none but this one goes on."""
        self._lock = threading.Lock()
        if self._threads:
            self._threads.clear()
            self._before.close()

    def _begin(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(redirect_stdout(io.StringIO()))
            stack.enter_context(redirect_stderr(io.StringIO()))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.callback(_allow_logs, logging.root.manager.disable)
            if logging.Logger.isEnabledFor is not self._asked:  # else a patch has put it back
                self._usual = logging.Logger.isEnabledFor
                self._ask(self._asked)
            stack.callback(self._ask_as_usual)
            self._before = stack.pop_all()

    def _ask_as_usual(self) -> None:
        # What others have put there meanwhile stays. If it asks ours, that answers as usual.
        if logging.Logger.isEnabledFor is self._asked:
            self._ask(self._usual)

    @staticmethod
    def _ask(asked: Asked) -> None:
        setattr(logging.Logger, "isEnabledFor", asked)  # noqa: B010 (mypy forbids assigning it)


def _allow_logs(level: int) -> None:
    """Take back what a step has disabled for the whole process."""
    if logging.root.manager.disable != level:
        logging.disable(level)


_SILENCE = _Silence()
os.register_at_fork(after_in_child=_SILENCE.forget)


@contextmanager
def quiet() -> Iterator[None]:
    """Show nothing of what is printed or warned of, or logged in this thread.

    Logs of threads that the code inside starts are shown.
    """
    _SILENCE.enter()
    try:
        yield
    finally:
        _SILENCE.leave()
