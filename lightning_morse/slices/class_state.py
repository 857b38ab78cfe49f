"""What the classes of a network hold, so that it can be put back after steps that change it.

A step may write to its class by name (``Net.calls += 1``), past any class that its copy has.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from lightning_morse.slices.contents import ContentInRun
from lightning_morse.slices.copying import Check
from lightning_morse.slices.ownership import is_of_library, is_of_python
from lightning_morse.slices.remembered import Remembered

# Python's own modules whose objects are looked into; others are handles, as loggers and threads.
_CONTAINING = ("builtins", "collections", "types", "random", "functools", "weakref")


class ClassState(Remembered):
    """Bindings and contents of what classes hold, which training goes on with.

    What belongs to the run itself, such as a trainer or a data set, is passed over, and so is what
    functions close over.

    Args:
        classes: The classes.
        passed_over: What is put back by others.
        check: As :class:`~lightning_morse.slices.remembered.Remembered` takes it.
    """

    def __init__(
        self, classes: Iterable[type], passed_over: Iterable[Any] = (), check: Check | None = None
    ) -> None:
        super().__init__(passed_over=passed_over, classes=classes, check=check)

    def _belongs_to_others(self, one: Any) -> bool:
        if super()._belongs_to_others(one) or not _can_hold(type(one)):
            return True
        return not isinstance(one, Tensor | nn.Module) and any(
            is_of_library(base) for base in type(one).__mro__
        )

    def _content_of(self, tensor: Tensor) -> ContentInRun:
        return ContentInRun(tensor)

    def _behind(self, function: Any) -> Iterator[Any]:
        if not isinstance(function, types.FunctionType):
            return
        yield from function.__defaults__ or ()
        yield from (function.__kwdefaults__ or {}).values()
        if vars(function):
            yield vars(function)

    def _remember(self, one: Any) -> Iterator[Any]:
        if isinstance(one, staticmethod | classmethod):
            yield one.__func__
        elif isinstance(one, functools.partial | functools.partialmethod):
            yield one.func
        elif not isinstance(one, types.CellType | types.MethodType):
            yield from super()._remember(one)


def _can_hold(cls: type) -> bool:
    return not is_of_python(cls) or cls.__module__ in _CONTAINING
