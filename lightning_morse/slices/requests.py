"""Requests to end the run: those that a step makes itself, and those from outside.

A step may end the run where the loss is high: ``sys.exit()``, Optuna's ``TrialPruned``. Evaluated
at a point where training is not, it ends nothing. What a signal asks for meanwhile (Ctrl-C, a
handler of SIGTERM that exits) is no matter of the step, and passes. The two are told apart by the
traceback: a signal handler is called with the frame that it interrupts, and an interrupt without a
handler is raised where no code raises it. Where that leaves it open, the run ends.
"""

from __future__ import annotations

import dis
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

from lightning_morse.slices.time_limit import StopBlock

# Optuna ends a trial by raising an Exception. Known by name, since Optuna may not be installed.
_NAMES_OF_REQUESTS = ("TrialPruned",)
# How deep a chain of errors is looked into.
_LONGEST_CHAIN = 32


class EndedByStepError(RuntimeError):
    """A step asks to end the run in an evaluation outside of it."""


def is_request(error: BaseException) -> bool:
    """Whether an error is no failure but a request to end the run.

    Requests are an interrupt, ``SystemExit`` and Optuna's ``TrialPruned``, subclasses included.
    """
    named = any(cls.__name__ in _NAMES_OF_REQUESTS for cls in type(error).__mro__)
    return named or not isinstance(error, Exception)


@contextmanager
def ending_nothing() -> Iterator[None]:
    """Turn the requests of a step to end the run into failures; those from outside pass.

    What a signal handler raises ends the run even if it is an ordinary error: it has an attribute
    ``ends_run`` then.

    Raises:
        EndedByStepError: In place of a request of the code inside.
    """
    try:
        yield
    except BaseException as error:
        if is_from_outside(error):
            if not is_request(error):
                with suppress(AttributeError):  # an error with slots
                    error.ends_run = True  # type: ignore[attr-defined]
            raise
        if not is_request(error):
            raise
        raise EndedByStepError(
            "a step must not end the run where it is evaluated outside of it, got "
            f"{type(error).__name__}{f': {error}' if str(error) else ''}. Return the loss, or pass "
            "loss_fn(module, batch) that does"
        ) from error


def is_from_outside(error: BaseException) -> bool:
    """Whether a signal has raised an error, or one that it was raised from or instead of.

    Also true where it cannot be told, of a request that is no ordinary error.
    """
    pending: list[BaseException | None] = [error]
    for one in pending:
        if one is not None and len(pending) < _LONGEST_CHAIN:
            pending += (one.__cause__, one.__context__)
    return any(one is not None and _is_of_signal(one) for one in pending)


def _is_of_signal(error: BaseException) -> bool:
    if isinstance(error, StopBlock):  # the signal of a limit to the time of a step
        return False
    path = list(_entries(error.__traceback__))
    frames = [entry.tb_frame for entry in path]
    if any(map(_handles_signal, frames[1:], frames)):
        return True
    if isinstance(error, Exception) or not path:
        return False
    return not _raises(path[-1], error)


def _entries(entry: TracebackType | None) -> Iterator[TracebackType]:
    while entry is not None:
        yield entry
        entry = entry.tb_next


def _handles_signal(frame: FrameType, interrupted: FrameType) -> bool:
    """Whether a frame is that of a signal handler, which is given a number and what it interrupts.

    Args:
        frame: The frame.
        interrupted: The one that has called it, or been interrupted.
    """
    given: list[Any] = []
    for value in list(frame.f_locals.values()):
        given += value if type(value) is tuple else (value,)
    if not any(value is interrupted for value in given):
        return False
    numbers = signal.valid_signals()
    return any(isinstance(value, int) and value in numbers for value in given)


def _raises(entry: TracebackType, error: BaseException) -> bool:
    """Whether the code where an error appeared has raised it by itself."""
    code = entry.tb_frame.f_code
    instruction = dis.opname[code.co_code[entry.tb_lasti]] if entry.tb_lasti >= 0 else ""
    if isinstance(error, KeyboardInterrupt):  # where a signal may be raised as well
        return instruction == "RAISE_VARARGS" and type(error).__name__ in code.co_names
    calls = instruction.startswith(("CALL", "PRECALL"))
    return instruction == "RAISE_VARARGS" or (calls and isinstance(error, SystemExit))
