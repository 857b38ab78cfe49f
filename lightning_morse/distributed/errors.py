"""What becomes of an error inside an analysis."""

from __future__ import annotations

import traceback

# Optuna's way of ending a trial is an Exception. Known by name: the package need not be there.
_ENDS_A_RUN = ("TrialPruned",)


class ProcessError(RuntimeError):
    """An analysis that was ended by an error in another process.

    Attributes:
        ends_run: Whether the error there was one that must end the run.
    """

    def __init__(self, message: str, ends_run: bool = False) -> None:
        super().__init__(message)
        self.ends_run = ends_run


def must_end_run(error: BaseException) -> bool:
    """Whether an error is not a failure but somebody's wish to end the run.

    Example:
        >>> must_end_run(ValueError()), must_end_run(KeyboardInterrupt())
        (False, True)
    """
    if not isinstance(error, Exception) or getattr(error, "ends_run", False):
        return True
    return any(cls.__name__ in _ENDS_A_RUN for cls in type(error).__mro__)


def cause(error: BaseException) -> str:
    """The error in one line.

    Example:
        >>> cause(ValueError("too large"))
        'ValueError: too large'
    """
    return f"{type(error).__name__}: {error}"


def origin(error: BaseException) -> str:
    """Which kind of error came from which line: the same for a cause that comes up again."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__} {place}"
