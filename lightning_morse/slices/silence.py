"""Evaluations that show nothing of what a user's code prints, logs or warns of."""

from __future__ import annotations

import logging
import operator
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import IO, Any, cast

from lightning_morse.slices.aside import Aside

# What a logger asks before it logs at a level.
Asked = Callable[[logging.Logger, int], bool]


class _Silence:
    """The threads whose evaluations are to show nothing at present.

    What other threads print, warn of and log is shown all the while.

    ``logging.disable`` would silence all of them, and empties a cache in every logger whenever it
    is called: half a millisecond where there are many, as long as a small network takes. So what
    loggers ask before they log is replaced, as long as there is such a thread.

    ``warnings.catch_warnings`` makes Python forget which warnings have been shown already. So a
    filter is added behind its back that matches in such a thread alone.
    """

    def __init__(self) -> None:
        self._threads: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._before = ExitStack()
        self._usual: Asked = logging.Logger.isEnabledFor
        # One and the same all the time: what others patch meanwhile may outlive a block.
        self._asked: Asked = lambda logger, level: not self.is_here() and self._usual(logger, level)

    def is_here(self) -> bool:
        """Whether this thread is to show nothing."""
        return threading.get_ident() in self._threads

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
            stack.enter_context(redirect_stdout(cast("IO[str]", Aside(sys.stdout, self.is_here))))
            stack.enter_context(redirect_stderr(cast("IO[str]", Aside(sys.stderr, self.is_here))))
            stack.enter_context(_filtered(self.is_here, ("ignore", Warning)))
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


class _Where:
    """Matches any message, in some threads: what a filter of warnings has in place of a pattern."""

    def __init__(self, is_here: Callable[[], bool]) -> None:
        self._is_here = is_here

    def match(self, text: str) -> bool:
        """Whether this is such a thread."""
        return self._is_here()


@contextmanager
def _filtered(is_here: Callable[[], bool], *wanted: tuple[str, type[Warning]]) -> Iterator[None]:
    """Filter warnings in some threads, and undo what others do meanwhile to how they are shown.

    What has been shown is remembered in the version of the filters that it was shown in. A warning
    that is ignored, or raised, is not remembered, so adding our filters is no new version.
    """
    where = _Where(is_here)
    ours: Any = [(action, where, category, None, 0) for action, category in wanted]
    filters: list[Any] = cast("list[Any]", warnings.filters)
    before, shown = list(filters), {name: getattr(warnings, name) for name in _SHOWN_BY}
    filters[:0] = ours
    try:
        yield
    finally:
        # Those that another thread has put there, if only for a while, have begun as a copy.
        for held in (filters, cast("list[Any]", warnings.filters)):
            for one in ours:
                with suppress(ValueError):
                    held.remove(one)
        if len(filters) != len(before) or any(map(operator.is_not, filters, before)):
            with warnings.catch_warnings():  # as entering and leaving it makes a new version
                filters[:] = before
        for name, value in shown.items():
            if getattr(warnings, name) is not value:
                setattr(warnings, name, value)


# What catch_warnings puts back as well.
_SHOWN_BY = tuple(n for n in ("showwarning", "_showwarnmsg_impl") if hasattr(warnings, n))


def _allow_logs(level: int) -> None:
    """Take back what a step has disabled for the whole process."""
    if logging.root.manager.disable != level:
        logging.disable(level)


_SILENCE = _Silence()
os.register_at_fork(after_in_child=_SILENCE.forget)


@contextmanager
def quiet() -> Iterator[None]:
    """Show nothing of what is printed, warned of or logged in this thread.

    What threads show that the code inside starts is shown.
    """
    _SILENCE.enter()
    try:
        yield
    finally:
        _SILENCE.leave()


@contextmanager
def raising(category: type[Warning]) -> Iterator[None]:
    """Raise warnings of a category in this thread, and show no others.

    Unlike ``warnings.catch_warnings`` it leaves it at that which warnings have been shown already.
    """
    here = threading.get_ident()
    with _filtered(lambda: threading.get_ident() == here, ("error", category), ("ignore", Warning)):
        yield
