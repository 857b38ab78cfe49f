"""What the callbacks tell people: each thing once, by the first process, where it can be seen."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, TextIO

from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_morse.distributed.errors import Guard, cause, origin

LOG = logging.getLogger("lightning_morse")


class Messages:
    """The messages of one callback; a warning is given once for each cause.

    Args:
        who: What to begin messages with where they come from no particular time of the run.

    Example:
        >>> messages = Messages("Recorder")
        >>> with messages.guard("writing"):
        ...     raise OSError("disk full")
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._said: set[str] = set()

    def forget(self) -> None:
        """Say everything again if it comes up again, as for a new run."""
        self._said.clear()

    def warn(self, message: str, where: str = "", about: str = "") -> None:
        """Give a warning, unless one about the same has been given.

        Args:
            message: What to say.
            where: When in the run this was; the name of the callback by default.
            about: What identifies the cause; the message by default.
        """
        if self._is_new(about or message):
            _tell(logging.WARNING, f"{where or self._who}: {message}")

    def inform(self, message: str, where: str, about: str = "") -> None:
        """Say something that is no reason to worry; with ``about``, once."""
        if not about or self._is_new(about):
            _tell(logging.INFO, f"{where}: {message}")

    def guard(self, what: str, *, active: bool = True) -> Guard:
        """Keep a failure of some work from ending the run, and warn of it.

        Args:
            what: What is being done, for the message.
            active: False to let failures pass.
        """
        return Guard(partial(self._failed, what), active=active)

    def _failed(self, what: str, error: Exception) -> None:
        self.warn(f"{what} failed: {cause(error)}", about=f"{what} {origin(error)}")
        LOG.debug("%s failed", what, exc_info=error)

    def _is_new(self, about: str) -> bool:
        new = about not in self._said
        self._said.add(about)
        return new


@rank_zero_only
def _tell(level: int, message: str) -> None:
    LOG.log(level, "%s", message)


# ------------------------------------------------------------------------------- the console


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:  # not generic at run time
    _StreamHandler = logging.StreamHandler


class _Console(_StreamHandler):
    """Writes to stderr, unless the user has configured logging in the meantime."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().hasHandlers():
            super().emit(record)


# The handler, and whether the level was set too. Not kept in a callback: handlers do not pickle.
_open: list[tuple[_Console, bool]] = []


def open_console() -> bool:
    """Show messages of level INFO on stderr where nobody has configured logging.

    Returns:
        Whether it was opened, and the caller has to call :func:`close_console`.
    """
    if LOG.hasHandlers():
        return False
    console = _Console()
    LOG.addHandler(console)
    _open.append((console, LOG.level == logging.NOTSET))
    if LOG.level == logging.NOTSET:  # then the root logger decides, which hides INFO
        LOG.setLevel(logging.INFO)
    return True


def close_console() -> None:
    """Leave logging as it was before :func:`open_console`."""
    while _open:
        console, levelled = _open.pop()
        LOG.removeHandler(console)
        if levelled:
            LOG.setLevel(logging.NOTSET)
