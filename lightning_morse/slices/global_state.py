"""What steps write to by name, so that it can be put back: global variables and what they hold.

A count, a cache, an attribute of a function: a step may keep something where no copy of the network
has it (``global N; N += 1``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from types import FunctionType
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_morse.slices.class_state import ClassState
from lightning_morse.slices.copying import Check
from lightning_morse.slices.objects import attributes_of
from lightning_morse.slices.ownership import is_of_library, is_users_file, users_classes
from lightning_morse.slices.reached import Reached, stored_globals

# A step may name a whole data set: what holds more is no count, and would take too long to compare
# at every evaluation. So would many containers and objects that hold more in all.
_MOST_ENTRIES, _MOST_IN_ALL = 1_000, 2_000
_MOST_BYTES, _MOST_BYTES_IN_ALL = 1 << 16, 1 << 20
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_UNSET = object()


class GlobalState(ClassState):
    """Bindings of what steps lead to by name, which training goes on with.

    These are the global variables that the user's functions bind; what classes, containers and
    objects among those that they name hold; default arguments and attributes of functions; and
    contents of small tensors and arrays that nobody trains.

    Args:
        reached: What steps lead to.
        passed_over: What is put back by others.
        check: As :class:`~lightning_morse.slices.remembered.Remembered` takes it.
    """

    def __init__(
        self, reached: Reached, passed_over: Iterable[Any] = (), check: Check | None = None
    ) -> None:
        self._variables = [
            (function.__globals__, name, function.__globals__.get(name, _UNSET))
            for function in reached.functions
            for name in stored_globals(function)
        ]
        self._room, self._bytes = _MOST_IN_ALL, _MOST_BYTES_IN_ALL
        super().__init__(reached.classes, passed_over, check)
        for root in (*reached.functions, *reached.holders, *(v for *_, v in self._variables)):
            self.track(root)

    def restore(self) -> None:
        """Restore every binding."""
        for names, name, value in self._variables:
            if names.get(name, _UNSET) is value:
                continue
            if value is _UNSET:
                names.pop(name, None)
            else:
                names[name] = value
        super().restore()

    def _belongs_to_others(self, one: Any) -> bool:
        if super()._belongs_to_others(one):
            return True
        if isinstance(one, Tensor | np.ndarray):  # training changes what requires gradients
            return getattr(one, "requires_grad", False) or self._is_too_large(one)
        if not _may_count(one):
            return True
        size = len(one if isinstance(one, _CONTAINERS) else attributes_of(one) or ())
        if size > min(_MOST_ENTRIES, self._room):
            return True
        self._room -= 1 + size
        return False

    def _is_too_large(self, one: Tensor | np.ndarray[Any, Any]) -> bool:
        size = one.nbytes if isinstance(one, np.ndarray) else one.numel() * one.element_size()
        if size > min(_MOST_BYTES, self._bytes):
            return True
        self._bytes -= size
        return False


def _may_count(one: Any) -> bool:
    """Whether an object is of a kind in which a step may count: nothing that belongs to the run."""
    if isinstance(one, FunctionType):
        return is_users_file(one.__module__)
    if isinstance(one, (*_CONTAINERS, staticmethod, classmethod)):
        return True
    is_plain = not isinstance(one, nn.Module) and bool(users_classes(type(one)))
    return is_plain and not any(map(is_of_library, type(one).__mro__))
