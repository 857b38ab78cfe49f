"""Random number generators that steps may draw from, and that no copy of a module holds."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from lightning_morse.slices.class_state import LIBRARIES, users_classes
from lightning_morse.slices.isolation import is_generator
from lightning_morse.slices.objects import slots_of

# Packages whose functions draw from no generators of their own but the global ones.
_OF_OTHERS = {*sys.stdlib_module_names, "numpy", "scipy", "sklearn", "pandas", "PIL", "torchvision"}
# As many objects are looked at in a millisecond.
_MOST = 2_000


def generators_beside(module: nn.Module, loss_fn: Any = None) -> list[Any]:
    """Random number generators that steps may draw from and that no copy of the module holds.

    These are global variables of the files in which the classes of the module and of its parts are
    defined, or the loss function. Also found are those in containers and objects that are global
    variables which their methods name, and what functions named there lead to in other files.

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
    found = [v for names in files.values() for v in list(names.values()) if is_generator(v)]
    found += _reached([*called, *bases])
    return list({id(one): one for one in found}.values())


def called_by(function: Any) -> list[Any]:
    """What is called where a function is: that of a partial, or of a bound method and its owner."""
    found = [function]
    for one in found:
        if isinstance(one, functools.partial):
            found.append(one.func)
        elif isinstance(one, MethodType):
            found += (one.__func__, one.__self__)
    return found


def _reached(starts: Iterable[Any]) -> Iterator[Any]:
    """The generators that some functions and classes lead to, the nearest first."""
    seen: set[int] = set()
    todo = deque(starts)
    while todo and len(seen) < _MOST:
        one = todo.popleft()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if is_generator(one):
            yield one
        else:
            todo.extend(_behind(one))


def _behind(one: Any) -> Iterable[Any]:
    """What may be drawn from where a step uses an object."""
    if isinstance(one, FunctionType):
        return _named_by(one) if _is_users(one.__module__) else ()
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
    if isinstance(one, nn.Module | Tensor | ModuleType) or not users_classes(type(one)):
        return ()
    slots = (getattr(one, name, None) for name in slots_of(type(one)))
    return (type(one), *getattr(one, "__dict__", {}).values(), *slots)


def _named_by(function: FunctionType) -> list[Any]:
    """Global variables that a function names, and what it names of modules among them."""
    names, known = _names_in(function.__code__), function.__globals__
    found = [known[name] for name in names if name in known]
    files = [one for one in found if isinstance(one, ModuleType) and _is_users(one.__name__)]
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


def _is_users(module: Any) -> bool:
    home = str(module)
    ours = f"{home}.".startswith((*LIBRARIES, "lightning_morse."))
    return not ours and home.partition(".")[0] not in _OF_OTHERS
