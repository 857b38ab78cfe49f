"""Which errors end a run, and what becomes of the others."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import TracebackType

from lightning_morse.slices.requests import is_request

# Characters of an error that are told; libraries print whole tensors into theirs.
LONGEST_CAUSE = 300


class ProcessError(RuntimeError):
    """Raised where an analysis was ended by an error in another process.

    Attributes:
        ends_run: Whether that error is one that must end the run.
    """

    def __init__(self, message: str, ends_run: bool = False) -> None:
        super().__init__(message)
        self.ends_run = ends_run


def must_end_run(error: BaseException) -> bool:
    """Whether an error is no failure but a request to end the run.

    Requests are an interrupt, ``SystemExit`` and Optuna's ``TrialPruned``, subclasses included, and
    errors with an attribute ``ends_run``.

    Example:
        >>> must_end_run(ValueError()), must_end_run(KeyboardInterrupt())
        (False, True)
    """
    return is_request(error) or bool(getattr(error, "ends_run", False))


class Guard:
    """Keeps a failure inside a ``with`` block from ending the run; requests to end it pass.

    A class, not a generator, because training enters several at every step.

    Args:
        on_failure: Called with each failure, after which the program goes on behind the block.
        active: False to let failures pass too.

    Example:
        >>> failures = []
        >>> with Guard(failures.append):
        ...     raise ValueError("too large")
        >>> failures
        [ValueError('too large')]
    """

    __slots__ = ("_active", "_on_failure")

    def __init__(self, on_failure: Callable[[Exception], object], *, active: bool = True) -> None:
        self._on_failure = on_failure
        self._active = active

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not self._active or not isinstance(error, Exception) or must_end_run(error):
            return False
        self._on_failure(error)
        return True


def cause(error: BaseException) -> str:
    r"""An error in one line of a readable length.

    Example:
        >>> cause(ValueError("too large"))
        'ValueError: too large'
        >>> cause(ValueError("found invalid values:\ntensor([[nan, 1.0]])"))
        'ValueError: found invalid values ...'
    """
    said = f"{type(error).__name__}: {error}"
    if len(said) <= LONGEST_CAUSE and "\n" not in said:
        return said
    return f"{said.splitlines()[0][: LONGEST_CAUSE - 4].rstrip(': ')} ..."


def origin(error: BaseException) -> str:
    """The type of an error and the line that raised it, the same whenever a cause recurs."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__} {place}"
