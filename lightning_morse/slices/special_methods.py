"""Special methods of stand-ins, which Python looks up on the class: those of the object's class."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

_BINARY = (
    *("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow"),
    *("lshift", "rshift", "and", "or", "xor"),
)
_ARITHMETIC = (
    *(f"__{name}__" for name in _BINARY),
    *(f"__r{name}__" for name in _BINARY),
    *("__neg__", "__pos__", "__abs__", "__invert__"),
)
_COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__")
_CONVERSIONS = (
    *("__int__", "__float__", "__complex__", "__index__", "__array__"),
    *("__round__", "__trunc__", "__floor__", "__ceil__"),
    *("__repr__", "__str__", "__format__", "__bytes__"),
)
_LOOKS_INSIDE = ("__len__", "__contains__", "__getitem__", "__iter__", "__reversed__")
_FORWARDED = frozenset(
    (
        *(*_ARITHMETIC, *_COMPARISONS, *_CONVERSIONS, *_LOOKS_INSIDE),
        *(f"__i{name}__" for name in _BINARY if name != "divmod"),
        *("__call__", "__next__", "__setitem__", "__delitem__", "__length_hint__", "__missing__"),
        *("__enter__", "__exit__", "__await__", "__aiter__", "__anext__"),
        *("__aenter__", "__aexit__"),
    )
)
# Those of lists, numbers and the like that only read.
_READ_ONLY = frozenset((*_ARITHMETIC, *_COMPARISONS, *_CONVERSIONS, *_LOOKS_INSIDE))
_DATA = (int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset)


def special_methods(cls: type) -> frozenset[str]:
    """Names of the special methods that a class has beyond those of any object."""
    own = (name for base in cls.__mro__ if base is not object for name in vars(base))
    return _FORWARDED.intersection(own)


def only_reads(declared: Any, cls: type) -> bool:
    """Whether a special method of a class is one of a built-in type, and writes to nothing."""
    home = getattr(declared, "__objclass__", None)
    may_add = home is dict and hasattr(cls, "__missing__")
    return home in _DATA and declared.__name__ in _READ_ONLY and not may_add


@functools.cache
def with_methods(
    kind: type, names: frozenset[str], forward: Callable[..., Callable[..., Any]]
) -> type:
    """A class of stand-ins with special methods.

    Args:
        kind: What it derives from.
        names: Names of the methods. A class must not have others, since Python asks the class what
            an object can do: whether it can be called, looped over or added.
        forward: Makes the method of a name.
    """
    if not names:
        return kind
    methods = {name: forward(name) for name in names}
    if "__eq__" in names and "__hash__" not in names:
        methods["__hash__"] = kind.__hash__
    return types.new_class(kind.__name__, (kind,), {}, lambda body: body.update(methods, **_OWN))


_OWN: dict[str, Any] = {"__slots__": (), "__module__": __name__}
