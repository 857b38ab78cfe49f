"""A callback whose messages are seen during a fit, and logging as it was before and after."""

from __future__ import annotations

from typing import Any

from lightning_morse.callbacks._lightning import TrainerLike
from lightning_morse.callbacks._messages import close_console, open_console
from lightning_morse.callbacks._unified import UnifiedCallback


class TellingCallback(UnifiedCallback):
    """Shows messages where nobody has configured logging, from the start of a fit to its end."""

    _opened_console = False

    def on_fit_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Let messages be seen."""
        self._opened_console = open_console()

    def teardown(self, trainer: TrainerLike, pl_module: Any, stage: str) -> None:
        """Leave logging as it was before the fit."""
        self._close_console()

    def on_exception(self, trainer: TrainerLike, pl_module: Any, exception: BaseException) -> None:
        """Leave logging as it was before the fit; there is no teardown then."""
        self._close_console()

    def _close_console(self) -> None:
        if self._opened_console:
            close_console()
            self._opened_console = False
