"""What is known of any object of Python: whether it can change, and where it keeps things."""

from __future__ import annotations

import contextvars
import datetime
import enum
import mmap
import pathlib
import re
import types
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch

_ATOMIC = (
    *(
        type(None),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        range,
        type,
        type(...),
        type(NotImplemented),
    ),
    *(types.ModuleType, types.BuiltinFunctionType, types.CodeType, property),
    *(enum.Enum, re.Pattern, pathlib.PurePath, datetime.date, datetime.timedelta, datetime.tzinfo),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size),
    *(np.generic, np.dtype, contextvars.ContextVar),
)
# The cell by which super() finds the class of a method. Nobody writes to it.
OWN_CLASS = ("__class__",)


def is_atomic(value: Any) -> bool:
    """Whether a value cannot change, so that a copy may share it."""
    if type(value) in weakref.ProxyTypes:  # one whose object is gone cannot even be asked
        return False
    if isinstance(value, types.BuiltinFunctionType):
        return value.__self__ is None or isinstance(value.__self__, types.ModuleType)
    # One that is a mere object is there to be told from all others.
    return type(value) is object or isinstance(value, _ATOMIC)


def holds_something(function: types.FunctionType) -> bool:
    """Whether a function may keep something: in cells, default arguments or its attributes."""
    cells = function.__code__.co_freevars
    if cells and cells != OWN_CLASS:
        return True
    return bool(function.__defaults__ or function.__kwdefaults__ or function.__dict__)


def cannot_be_written(array: np.ndarray[Any, Any]) -> bool:
    """Whether nobody can write to an array: not through it, nor to the array that it is a view of.

    So are those that were made read-only, and files mapped into memory to be read.
    """
    one: Any = array
    while isinstance(one, np.ndarray):
        if one.flags.writeable:
            return False
        one = one.base
    if isinstance(one, memoryview):
        return one.readonly
    return one is None or isinstance(one, bytes | mmap.mmap)


def slots_of(cls: type) -> Iterator[str]:
    """Names of the slots of a class, as Python mangles them."""
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name.startswith("__") and not name.endswith("__"):
                owner = base.__name__.lstrip("_")
                yield f"_{owner}{name}" if owner else name
            elif name not in ("__dict__", "__weakref__"):
                yield name


def attributes_of(one: Any) -> Any:
    """The ``__dict__`` of an object, whatever its class makes of attributes; None without one."""
    with suppress(Exception):  # a property may raise anything
        return object.__getattribute__(one, "__dict__")
    return None


def in_slot(owner: Any, name: str, default: Any = None) -> Any:
    """What a slot of an object holds, whatever its class makes of attributes."""
    with suppress(Exception):
        return object.__getattribute__(owner, name)
    return default


def put_in_slot(owner: Any, name: str, content: Any) -> None:
    """Bind a slot of an object, frozen or not."""
    try:
        object.__setattr__(owner, name, content)
    except TypeError:  # one of a class that is not written in Python
        setattr(owner, name, content)
