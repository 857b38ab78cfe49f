"""A limit to the time that a piece of code takes, kept from inside the process.

A loop in a step may end at the weights of training and nowhere else on a slice. Only a signal gets
out of it without a thread that watches, and it is delivered in the main thread alone. So there is a
limit where nobody else uses the alarm clock of the process, and none elsewhere.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

# Between two attempts, where the first has been swallowed.
_AGAIN_S = 0.5
# What a piece of code may take the first time, and later: at least, and over what it has taken.
_FIRST_S, _LEAST_S, _TIMES_AS_LONG = 600.0, 10.0, 100.0
# How deep a chain of errors is looked into.
_LONGEST_CHAIN = 32


class TooLongError(RuntimeError):
    """A piece of code has taken longer than it may."""


class StopBlock(BaseException):
    """Passes where a loop catches every ``Exception``, and never leaves the block."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Limit the time that the code inside takes.

    It is stopped between two instructions of Python: a call into a library ends first. Nothing is
    limited in other threads than the main one, without POSIX signals, and where SIGALRM has a
    handler or a timer, as inside of another such block.

    Args:
        seconds: The time there is, by the clock on the wall.

    Raises:
        TooLongError: If there was no time left, in place of any error that the code inside has
            made of that. What a signal raises passes.

    Example:
        >>> with at_most(60.0):
        ...     sum(range(3))
        3
    """
    alarm = _Alarm(seconds)
    late = False
    try:
        alarm.begin()
        yield
    except BaseException as error:
        if not alarm.has_caused(error):
            raise
        late = True
    finally:
        alarm.end()
    if late:
        raise TooLongError(
            f"an evaluation may take at most {seconds:.3g} s, and has not ended by then"
        )


class LimitOfTime:
    """How long one piece of code may take that is run again and again.

    Far longer than it has ever taken, since a machine may be busy, and ten seconds at least.
    """

    def __init__(self) -> None:
        self._longest: float | None = None  # it has not been run yet

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the limit inside of the block.

        Raises:
            TooLongError: As :func:`at_most`.
        """
        start, longest = time.monotonic(), self._longest
        with at_most(_FIRST_S if longest is None else max(_LEAST_S, _TIMES_AS_LONG * longest)):
            yield
        self._longest = max(time.monotonic() - start, longest or 0.0)


class _Alarm:
    """Stops the code of this thread once the time is up.

    Args:
        seconds: The time there is.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_set = False
        self._has_rung = False

    def begin(self) -> None:
        """Set the alarm, if nobody uses it."""
        if not _is_free():
            return
        # Only the main thread of the main interpreter may.
        with suppress(ValueError):
            signal.signal(signal.SIGALRM, self._ring)
            self._is_set = True
            signal.setitimer(signal.ITIMER_REAL, self._seconds, _AGAIN_S)

    def end(self) -> None:
        """Leave everything as it was."""
        if not self._is_set:
            return
        self._is_set = False  # from now on a late signal does nothing
        # What the code inside has set for itself stays.
        if signal.getitimer(signal.ITIMER_REAL)[1] == _AGAIN_S:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        if signal.getsignal(signal.SIGALRM) == self._ring:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def has_caused(self, error: BaseException) -> bool:
        """Whether an error is that which stopped the code, or what the code has made of it."""
        if not self._has_rung or isinstance(error, Exception):
            return self._has_rung
        one: BaseException | None = error
        for _ in range(_LONGEST_CHAIN):
            if one is None or isinstance(one, StopBlock):
                break
            one = one.__cause__ or one.__context__
        return isinstance(one, StopBlock)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._is_set and not _puts_back(frame):
            self._has_rung = True
            raise StopBlock


def _is_free() -> bool:
    """Whether this thread can set an alarm, and nobody else has."""
    if not hasattr(signal, "setitimer") or not _is_main():
        return False
    has_handler = signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL
    if has_handler or any(signal.getitimer(signal.ITIMER_REAL)):
        return False
    return signal.SIGALRM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _puts_back(frame: FrameType | None) -> bool:
    """Whether code is at work that must not be stopped half-way; there is another attempt."""
    if frame is not None and frame.f_code.co_filename == contextlib.__file__:
        return True
    while frame is not None:
        if frame.f_code.co_filename in _PUTTING_BACK:
            return True
        frame = frame.f_back
    return False


# Files whose code puts back what belongs to the process, and never calls that of a step.
_PUTTING_BACK = {
    str(Path(__file__).with_name(f"{name}.py")) for name in ("time_limit", "silence", "isolation")
}
