"""Values in ``trainer.callback_metrics``, which are there only while they are news.

EarlyStopping counts every look at a value that has not improved. A value that it has seen before
says nothing new, so it is removed once callbacks have had the chance to look; with ``strict=False``
an absent key is passed over. ModelCheckpoint raises if its key is absent, so a key that one watches
stays, and is NaN, its worst value, before the first analysis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from lightning_morse._compat import checks_at_end_of_training_epoch
from lightning_morse.callbacks._lightning import TrainerLike, callbacks_of, publish
from lightning_morse.callbacks._messages import Messages
from lightning_morse.monitoring.scalars import published


class Bulletin:
    """What a monitor publishes for other callbacks.

    Args:
        name: Name of the monitor.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._kept: set[str] = set()
        # Whether each key that is there, and does not stay, has been seen.
        self._shown: dict[str, bool] = {}
        self._looks_at_epochs = False

    def begin(self, trainer: TrainerLike, messages: Messages) -> None:
        """Look who watches values of the monitor, before a run.

        An EarlyStopping that insists on its key would end the run where there is none; it is made
        to pass over it, and the user is told.
        """
        self._kept, self._looks_at_epochs = set(), not trainer.enable_validation
        watchers = [
            other
            for other in callbacks_of(trainer)
            if str(getattr(other, "monitor", None)).startswith(f"{self._name}/")
        ]
        for other in watchers:
            watched = other.monitor
            self._looks_at_epochs |= checks_at_end_of_training_epoch(other)
            if hasattr(other, "best_model_path"):
                self._kept.add(watched)
            elif getattr(other, "strict", False):
                other.strict = False
                messages.warn(
                    f"{type(other).__name__}(monitor={watched!r}) is used with strict=False: the "
                    "value is there after an analysis only, and what was seen before is no news"
                )
        for config in getattr(trainer, "lr_scheduler_configs", ()):
            if str(config.monitor).startswith(f"{self._name}/"):  # Lightning insists on the key
                self._kept.add(config.monitor)
        for other in watchers:
            if other.monitor in self._kept and getattr(other, "check_finite", False):
                other.check_finite = False  # there is no number before the first analysis
        for key in self._kept:  # of an earlier fit, in which nobody watched it
            self._shown.pop(key, None)
        missing = {key: math.nan for key in self._kept if key not in trainer.callback_metrics}
        publish(trainer, missing)

    def show(self, trainer: TrainerLike, scalars: Mapping[str, float]) -> None:
        """Publish scalars, by bare name, until they have been seen."""
        named = published(self._name, scalars)
        publish(trainer, named)
        self._shown.update(dict.fromkeys(named.keys() - self._kept, False))

    def validation_ends(self) -> None:
        """Those that look at the end of validation have looked."""
        self._shown = dict.fromkeys(self._shown, True)

    def epoch_ends(self) -> None:
        """So have those that look at the end of an epoch of training, if any do."""
        if self._looks_at_epochs:
            self.validation_ends()

    @property
    def has_news(self) -> bool:
        """Whether anything is there that will be taken away."""
        return bool(self._shown)

    def batch_starts(self, trainer: TrainerLike) -> None:
        """Take away what has been seen."""
        stale = [key for key, seen in self._shown.items() if seen]
        if stale:
            metrics = trainer.callback_metrics
            for key in stale:
                metrics.pop(key, None)
                del self._shown[key]
