"""A callback for the Trainers of both Lightning packages.

``lightning.pytorch`` and ``pytorch_lightning`` are the same code under two names, each with a
``Callback`` class of its own that its Trainer insists on. To import either takes a third of a
second, so the one that nobody uses is left alone.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callback_classes() -> tuple[type, ...]:
    """The ``Callback`` classes that there are by now; the packages may be half imported."""
    packages = (sys.modules.get(name) for name in _PACKAGES)
    found = (getattr(package, "Callback", None) for package in packages)
    return tuple(each for each in found if each is not None)


if TYPE_CHECKING:
    # Type checkers see one package.
    from pytorch_lightning import Callback as _Callback
else:
    # Without a Trainer's package yet: the one that is always installed.
    _known = _callback_classes() or (importlib.import_module(_PACKAGES[1]).Callback,)
    _Callback = type("_Callback", _known, {})


class UnifiedCallback(_Callback):
    """A callback of every Lightning package that has been imported when it is made.

    Who makes one is about to hand it to a Trainer, and has imported that one's package by then.
    """

    def __init__(self) -> None:
        super().__init__()
        new = tuple(each for each in _callback_classes() if not issubclass(_Callback, each))
        if new:
            _Callback.__bases__ += new
