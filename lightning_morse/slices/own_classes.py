"""Classes for copies, where a step could reach the original of a copy through its class."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

from lightning_morse.slices.objects import holds_something, is_atomic
from lightning_morse.slices.ownership import users_bases, users_classes
from lightning_morse.slices.stand_ins import Silence
from lightning_morse.slices.world import World

# Attributes of a class that are no data.
_CODE = (FunctionType, MethodType, staticmethod, classmethod, property, type)
# Methods that are not called on a copy, or must not be another's.
_NOT_CALLED = ("__new__", "__init__", "__init_subclass__", "__class_getitem__", "__del__")


def give_own_class(copied: Any, world: World) -> None:
    """Give a copy a class of its own where a step could reach the original through its class.

    That has copies of what the class holds, bases included: lists, dicts and arrays, and what
    methods keep in closures, default arguments and attributes of their own.

    Args:
        copied: The copy, whose class is still that of the original.
        world: Copies what classes hold, and knows which classes have been made already.
    """
    cls = type(copied)
    if hasattr(cls, "log_dict"):
        _keep_quiet(copied, world)
    if any(cls is own for own in world.own_classes):
        return
    if cls not in world.classes:
        world.classes[cls] = _made(cls, world)
    if world.classes[cls] is not cls:
        copied.__class__ = world.classes[cls]
        world.with_own_class.append(copied)


def take_own_classes(world: World) -> None:
    """Take the classes back that were made for copies, which are evaluated no more.

    A class is part of a cycle, and would stay among the ``__subclasses__()`` of the user's until
    the next collection of garbage, which takes too long to ask for.

    Args:
        world: That of the copies.
    """
    originals = {id(own): cls for cls, own in world.classes.items() if own is not cls}
    for copied in world.with_own_class:
        cls = originals.get(id(type(copied)))
        if cls is not None and not hasattr(cls, "__del__"):  # which is not to be called
            with contextlib.suppress(TypeError):
                copied.__class__ = cls
    world.with_own_class.clear()
    for own in world.own_classes:
        if not hasattr(own, "__del__"):
            with contextlib.suppress(TypeError):  # one with slots goes with the garbage
                own.__bases__ = own.__bases__[:1]


def _made(cls: Any, world: World) -> Any:
    """The class for copies of instances of a class; that class where another is not needed.

    It is not for constants: a step may ask for the type of a module, and what it binds in a class
    is put back (:mod:`lightning_morse.slices.class_state`).
    """
    held = {base: own for base in users_bases(cls) if (own := dict(_held(base, world)))}
    ends = hasattr(cls, "__del__")
    if not (ends or held):
        return cls
    first, namespace = preceding(Unregistered, cls), held.pop(cls, {})
    if ends:
        namespace["__del__"] = _nothing  # the end of the copy is not that of the module
    try:
        # Each right before the base it is for, so that super() finds the copy.
        layers = [derived(base, (_apart(), base), own) for base, own in held.items()]
        made = derived(cls, (first, cls, *layers), namespace)
    except TypeError:  # a metaclass or slots may forbid that
        layers = []
        made = derived(cls, (first, cls), namespace)
    world.own_classes += (made, *layers)
    return made


def _keep_quiet(copied: Any, world: World) -> None:
    """Let a copy that logs or prints do so no more."""
    names = vars(copied)
    names["log"] = names["log_dict"] = _Logs(world.silent_log)
    names["print"] = Silence()
    if not hasattr(type(copied), "logger"):
        names["logger"], names["loggers"] = Silence(), ()


class _Logs(Silence):
    """Hands on what is logged; a copy of it, which a step may make, does not.

    Args:
        told: Is called as ``log`` is.
    """

    def __init__(self, told: Callable[..., None]) -> None:
        self._told = told

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Hand on."""
        self._told(*args, **kwargs)

    def __reduce__(self) -> Any:
        return Silence, ()


def preceding(first: type, cls: type) -> Any:
    """A class that may precede another, so that its instances can be given one derived from both.

    Python asks that the part of both classes that lays out an instance, as the first one with a
    dictionary, has the same base. That is not ``object`` where the module derives from
    :class:`abc.ABC` or :class:`typing.Generic` first, and from :class:`torch.nn.Module` then.

    Args:
        first: A class derived from ``object`` alone.
        cls: The class of a module.

    Returns:
        ``first``, or one like it.
    """
    root: Any = cls
    while _layout(root) == _layout(root.__base__):
        root = root.__base__
    base: Any = root.__base__
    if base is object or _layout(base) != _layout(object):
        return first
    own = [vars(one) for one in reversed(first.__mro__[:-1])]
    slots = "__dict__", "__weakref__"
    namespace = {name: v for names in own for name, v in names.items() if name not in slots}
    made = type.__new__(type(base), first.__name__, (_Slotless,), namespace)
    # Only now, since to derive from it is what registries, and Generic, would notice.
    made.__bases__ = (base,)
    return made


def _layout(cls: Any) -> tuple[int, int, int]:
    return cls.__basicsize__, cls.__dictoffset__, cls.__weakrefoffset__


def derived(cls: Any, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
    """A class that passes for another."""
    named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, **namespace}
    # Not by calling the metaclass, which may keep a registry.
    return type.__new__(type(cls), cls.__name__, bases, named)


def _held(base: type, world: World) -> Iterator[tuple[str, Any]]:
    """What a class has that has to be another for copies, by name."""
    for name, value in list(vars(base).items()):
        if name in _NOT_CALLED or _is_plain(value):
            continue
        if isinstance(value, _CODE) or not name.startswith("__"):
            made = _own(value, f"{base.__name__}.{name}", world)
            if made is not value:
                yield name, made


def _is_plain(value: Any) -> bool:
    """Whether it can be told at a glance that an attribute of a class holds nothing."""
    if isinstance(value, FunctionType):
        return not holds_something(value)
    return type(value) is not property and (isinstance(value, ModuleType) or is_atomic(value))


def _own(value: Any, where: str, world: World) -> Any:
    """What an attribute of a class is for copies; itself if it holds nothing that could change."""

    def of_code(function: Any) -> Any:
        return world.held_by(function, where) if isinstance(function, FunctionType) else function

    cls = type(value)
    if isinstance(value, FunctionType):
        return of_code(value)
    if cls in (staticmethod, classmethod):
        made = of_code(value.__func__)
        return value if made is value.__func__ else cls(made)
    if cls is property:
        parts = value.fget, value.fset, value.fdel
        get, put, delete = map(of_code, parts)
        unchanged = (get, put, delete) == parts
        return value if unchanged else property(get, put, delete, value.__doc__)
    if cls is functools.cached_property:
        made = of_code(value.func)
        return value if made is value.func else functools.cached_property(made)
    if isinstance(value, functools._lru_cache_wrapper):  # would keep copies of the module alive
        return world.copier.copy(value)
    if isinstance(value, _CODE) or cls.__module__ == "_abc":
        return value
    if hasattr(cls, "__get__"):
        if not isinstance(cls.__get__, FunctionType) or not hasattr(value, "__dict__"):
            return value
        # One of the user's may keep something for each module; without a copy it is put back.
        made = world.copier.copy(value) if users_classes(cls) else value
        return made if type(made) is cls else value
    return world.copier.copy(value)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Nothing."""


def _apart() -> type:
    """A class like :class:`Unregistered` that stands nowhere else in an order of bases."""
    return type("Unregistered", (), {"__init_subclass__": classmethod(_nothing)})


class _Slotless:
    """Lays out instances as :class:`abc.ABC` does."""

    __slots__ = ()


class Unregistered:
    """Precedes the class of a copy in its bases."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep out of any registry of subclasses that the class of the module has."""
