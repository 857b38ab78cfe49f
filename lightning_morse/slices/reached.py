"""What steps lead to by name: global variables, and what those of other files lead to.

No copy of a module holds these, and a step may draw from them or write to them.
"""

from __future__ import annotations

import dis
import functools
import queue
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_morse.slices.isolation import is_generator
from lightning_morse.slices.objects import attributes_of, in_slot, slots_of
from lightning_morse.slices.ownership import is_users_file, users_classes

# As many objects are looked at in a millisecond.
_MOST = 2_000
_BINDING = ("STORE_GLOBAL", "DELETE_GLOBAL")


@dataclass
class Reached:
    """What steps may draw from or write to and no copy of the module holds.

    Attributes:
        generators: Random number generators.
        classes: The user's classes.
        functions: The user's functions.
        holders: Containers, objects of the user's classes, tensors and arrays.
    """

    generators: list[Any] = field(default_factory=list)
    classes: list[type] = field(default_factory=list)
    functions: list[FunctionType] = field(default_factory=list)
    holders: list[Any] = field(default_factory=list)

    def note(self, one: Any) -> None:
        """Note an object, if it is one of these."""
        if is_generator(one):
            self.generators.append(one)
        elif isinstance(one, type):
            self.classes += users_classes(one)[:1]
        elif isinstance(one, FunctionType):
            if is_users_file(one.__module__):
                self.functions.append(one)
        elif isinstance(one, dict | list | set | deque | np.ndarray | Tensor) or _is_users(one):
            self.holders.append(one)


def reached_by_steps(module: nn.Module, loss_fn: Any = None) -> Reached:
    """What steps of a module lead to by name.

    Generators among the global variables of the files in which the classes of the module and of its
    parts are defined, or the loss function, are found whether or not they are named.

    Args:
        module: The module.
        loss_fn: The loss function, as :func:`~lightning_morse.slices.module_copy.copy_of_loss`
            takes it.
    """
    called = called_by(loss_fn)
    classes = dict.fromkeys(map(type, (*module.modules(), *called)))
    bases = dict.fromkeys(base for cls in classes for base in users_classes(cls))
    code = [*called, *(value for base in bases for value in vars(base).values())]
    files = {id(f.__globals__): f.__globals__ for f in code if isinstance(f, FunctionType)}
    found = Reached([v for names in files.values() for v in [*names.values()] if is_generator(v)])
    _follow([*called, *bases], found)
    found.generators = list({id(one): one for one in found.generators}.values())
    return found


def called_by(function: Any) -> list[Any]:
    """What is called where a function is: that of a partial, or of a bound method and its owner."""
    found = [function]
    for one in found:
        if isinstance(one, functools.partial):
            found.append(one.func)
        elif isinstance(one, MethodType):
            found += (one.__func__, one.__self__)
    return found


def stored_globals(function: FunctionType) -> tuple[str, ...]:
    """The names of the global variables that a function binds or deletes."""
    return _stored_in(function.__code__)


def _follow(starts: Iterable[Any], found: Reached) -> None:
    """Note what some functions and classes lead to, the nearest first."""
    seen: set[int] = set()
    todo = deque(starts)
    while todo and len(seen) < _MOST:
        one = todo.popleft()
        if id(one) not in seen:
            seen.add(id(one))
            found.note(one)
            todo.extend(_behind(one))


def _behind(one: Any) -> Iterable[Any]:
    """What a step that uses an object may use of it."""
    if isinstance(one, FunctionType):
        return _named_by(one) if is_users_file(one.__module__) else ()
    if isinstance(one, staticmethod | classmethod | MethodType):
        return (one.__func__, getattr(one, "__self__", None))
    if isinstance(one, functools.partial):
        return (one.func, *one.args, *one.keywords.values())
    if isinstance(one, property):
        return (one.fget,)
    if isinstance(one, type):
        return [value for base in users_classes(one) for value in vars(base).values()]
    if isinstance(one, dict):
        return list(one.values())
    if isinstance(one, list | tuple | set | frozenset | deque):
        return list(one)
    if isinstance(one, queue.Queue):  # its locks are others'
        return (one.queue,)
    if not _is_users(one):
        return ()
    slots = (in_slot(one, name) for name in slots_of(type(one)))
    return (type(one), *dict(attributes_of(one) or {}).values(), *slots)


def _is_users(one: Any) -> bool:
    """Whether something is a plain object of a class of the user's."""
    return not isinstance(one, nn.Module | Tensor | ModuleType) and bool(users_classes(type(one)))


def _named_by(function: FunctionType) -> list[Any]:
    """Global variables that a function names, and what it names of modules among them."""
    names, known = _names_in(function.__code__), function.__globals__
    found = [known[name] for name in names if name in known]
    files = [one for one in found if isinstance(one, ModuleType) and is_users_file(one.__name__)]
    found += [vars(file)[name] for file in files for name in names if name in vars(file)]
    cells = [cell for cell in function.__closure__ or () if not _is_empty(cell)]
    return [*found, *(cell.cell_contents for cell in cells), *(function.__defaults__ or ())]


def _is_empty(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


@functools.lru_cache(maxsize=1024)
def _names_in(code: CodeType) -> tuple[str, ...]:
    """The names of global variables and attributes in some code, functions inside it included."""
    inner = (name for c in code.co_consts if isinstance(c, CodeType) for name in _names_in(c))
    return tuple(dict.fromkeys((*code.co_names, *inner)))


@functools.lru_cache(maxsize=1024)
def _stored_in(code: CodeType) -> tuple[str, ...]:
    """The names of global variables that some code binds, functions inside it included."""
    inner = (name for c in code.co_consts if isinstance(c, CodeType) for name in _stored_in(c))
    own = (i.argval for i in dis.get_instructions(code) if i.opname in _BINDING)
    return tuple(dict.fromkeys((*own, *inner)))
