"""Stand-ins for the trainer of a module, and for everything else it refers to but does not own.

A step can read from them as from the real objects and call methods written in Python; whatever it
writes is forgotten before the next evaluation, and nothing reaches the run:

- :class:`Overlay` reads from an object and keeps writes to itself. Methods and properties written
  in Python run with the stand-in as ``self``, so their writes stay there as well.
- :class:`Inert` is an overlay whose methods do nothing: loggers, optimizers, progress bars.
- :class:`Untouchable` replaces an object that can be neither copied nor overlaid, such as a
  generator or an open file. Using it raises an error, since using the object would affect the run.
"""

from __future__ import annotations

import functools
import io
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_morse.slices.copying import Check, Copier, is_atomic

# Families of classes, by the modules that define them, of Lightning under either name. Subclasses
# belong to the family.
_LIGHTNING = ("pytorch_lightning.", "lightning.pytorch.", "lightning_fabric.", "lightning.fabric.")
# Others that write to the world outside, in threads of their own.
_WRITERS = ("torch.utils.tensorboard.", "tensorboardX.")
_SILENT = ("loggers.", "profilers.", "callbacks.progress.")
_PARTS = (
    *("trainer.", "callbacks.", "strategies.", "loops.", "accelerators.", "plugins.", "fabric"),
    *("core.datamodule", "core.hooks", "core.optimizer", "connector", "wrappers"),
    "utilities.combined_loader",
)
# Methods of a trainer that act on the world outside.
_ACTIONS = {
    *("save_checkpoint", "print", "fit", "validate", "test", "predict"),
    *("configure_logger", "save_hyperparameters", "teardown", "optimizer_step", "backward"),
}
_LARGE_BYTES = 1 << 28
# Names inside a module that say nothing of an attribute.
_CONTAINERS_OF_MODULES = ("_modules", "_buffers", "_parameters")


class Silence:
    """Accepts any call, attribute, item or ``with``, and does nothing."""

    def __call__(self, *args: Any, **kwargs: Any) -> Silence:
        """Nothing."""
        return self

    def __getattr__(self, name: str) -> Silence:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key: Any) -> Silence:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        """Nothing."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Untouchable:
    """Replaces an object that must not be used outside the run.

    Raises:
        UntouchableError: At any use other than passing it on.
    """

    def __init__(self, where: str, kind: type) -> None:
        object.__setattr__(self, "_told", f"{where}, a {kind.__name__}")

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise UntouchableError(
            f"{object.__getattribute__(self, '_told')}, cannot be copied, and using it would "
            "change the run. Pass loss_fn(module, batch) that does without it"
        )

    __call__ = __iter__ = __next__ = __getitem__ = __setitem__ = __len__ = _refuse
    __enter__ = __setattr__ = _refuse

    def __exit__(self, *error: object) -> None:
        """Never entered."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._refuse()


class UntouchableError(RuntimeError):
    """A step uses something that cannot be used in an evaluation outside the run."""


class Impatient(threading.Condition):
    """Replaces a condition, and with it queues, events, semaphores and barriers, which wait by one.

    Nobody stands at the other end of a copy, so a step would wait for ever.

    Raises:
        UntouchableError: Where it would have to wait.
    """

    def wait(self, timeout: float | None = None) -> bool:
        """Refuse."""
        raise UntouchableError(
            "the step waits for another thread, which does not know of an evaluation outside the "
            "run. Pass loss_fn(module, batch) that does without it"
        )


class World:
    """Everything that the copy of a module refers to but does not own.

    Args:
        memo: Copies that there are already, by the ``id`` of the original.
        check: As :class:`~lightning_morse.slices.copying.Copier` takes it.

    Attributes:
        copier: Makes the copy of the module; knows what replaces which object.
        kept_away: Names of what a step wrote or called that was kept away from the run, in order.
        classes: The class of the copy, by that of the original.
        own_classes: Classes made for the copy alone.
        with_own_class: What has been given one of them.
        shared: What the copy shares with the original, though it might be written to.
        written: Tensors of the copy that are written before or during every evaluation.
        batch_size: The batch size that the last call of ``self.log`` passed; None if none did.
    """

    def __init__(self, memo: dict[int, Any] | None = None, check: Check | None = None) -> None:
        self.copier = Copier(self.replaced, self.guarded, memo, check)
        self.kept_away: dict[str, None] = {}
        self.classes: dict[type, type] = {}
        self.own_classes: list[type] = []
        self.with_own_class: list[Any] = []
        self.shared: list[Any] = []
        self.written: list[Tensor] = []
        self.batch_size: int | None = None
        # Receives what is copied from the run while a step is running.
        self.remember: Callable[[Any], None] = lambda value: None
        self._overlays: list[weakref.ref[Any]] = []
        self._where: list[str] = ["self"]
        self._is_in_function = False

    def forget(self) -> None:
        """Undo all writes to the stand-ins."""
        alive = []
        for reference in self._overlays:
            overlay = reference()
            if overlay is not None:
                alive.append(reference)
                self._note_changes(overlay)
                _forget_writes(overlay)
        self._overlays = alive

    def silent_log(self, *args: Any, **kwargs: Any) -> None:
        """Replaces ``log`` and ``log_dict`` of the copy; remembers the size of the batch."""
        size = kwargs.get("batch_size")
        if isinstance(size, int) and not isinstance(size, bool) and size > 0:
            self.batch_size = size

    def note(self, where: str) -> None:
        """Remember that something was kept away from the run; private names are not reported."""
        path, _, name = where.rpartition(".")
        if not name.startswith("_"):
            self.kept_away.setdefault(f"{path.replace('._', '.')}.{name}")

    def _note_changes(self, overlay: Any) -> None:
        where = object.__getattribute__(overlay, "_place")
        for name, given in object.__getattribute__(overlay, "_read").items():
            before = object.__getattribute__(overlay, "_entries").get(name)
            if before is None:
                continue
            now = list(given.values()) if isinstance(given, dict) else list(given)
            if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
                self.note(f"{where}.{name}")

    def replaced(self, value: Any) -> Any | None:
        """The stand-in for an object that a module refers to but does not own; otherwise None."""
        if self._is_in_function and _is_large(value):
            return self._share(value)
        if type(value).__name__ == "DistributedDataParallel":  # copying one talks to the others
            return self.copier.copy(value.module)
        if any(base.__name__ == "LightningOptimizer" for base in type(value).__mro__):
            return self.copier.copy(value.optimizer)  # of which it is a wrapper
        if isinstance(value, threading.Condition):
            lock: Any = vars(value)["_lock"]  # several may share it
            return Impatient(self.copier.copy(lock))
        family = None if isinstance(value, dict | list) else _family(type(value))
        if family is None:
            return None
        return self.overlay(value, self._place, Inert if family == "silent" else Overlay)

    def guarded(self, value: Any) -> Any:
        """The stand-in for an object that cannot be copied."""
        if isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, type):
            return self.overlay(value, self._place, Overlay)
        if self._is_in_function and not isinstance(value, Iterator | io.IOBase):
            return self._share(value)
        return Untouchable(self._place, type(value))

    def _share(self, value: Any) -> Any:
        self.shared.append(value)
        return value

    @property
    def _place(self) -> str:
        """What the object that is being copied is called from the module."""
        names = [n.lstrip("_") for n in self.copier.path if n not in _CONTAINERS_OF_MODULES]
        return ".".join([self._where[-1], *filter(None, names)])

    def overlay(self, value: Any, where: str, kind: type) -> Any:
        """Make a stand-in that reads from an object and keeps writes to itself."""
        made = kind(self, value, where)
        self._overlays.append(weakref.ref(made))
        return made

    def seen(self, value: Any, where: str) -> Any:
        """What a step sees of something that belongs to the run."""
        if is_atomic(value):
            return value
        self._where.append(where)
        try:
            return self.copier.copy(value)
        finally:
            self._where.pop()

    def held_by(self, function: Any, where: str) -> Any:
        """The copy of a function of the user's, or of another callable, with what it holds.

        A script that is one function has data sets and handles there that a step only reads: what
        is very large it shares with the original, and so what has no copy, unless reading uses it
        up.
        """
        before, self._is_in_function = self._is_in_function, True
        try:
            return self.seen(function, where)
        finally:
            self._is_in_function = before


def _is_large(value: Any) -> bool:
    """Whether it is a tensor or an array that is too large to be copied along with a function."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size() > _LARGE_BYTES
    return isinstance(value, np.ndarray) and value.nbytes > _LARGE_BYTES


# Weak, since the class of a copy goes with it.
_families: weakref.WeakKeyDictionary[type, str | None] = weakref.WeakKeyDictionary()


def _family(cls: type) -> str | None:
    """The family of a class, see :func:`_found_family`."""
    if cls not in _families:
        _families[cls] = _found_family(cls)
    return _families[cls]


def _found_family(cls: type) -> str | None:
    """The family of classes a module does not own: ``"silent"``, ``"read"``, or None otherwise."""
    found = None
    for base in cls.__mro__:
        home = f"{base.__module__}."
        if issubclass(base, torch.optim.Optimizer):
            return "silent"
        if home.startswith(_WRITERS):
            return "silent"
        if home.startswith(("torch.optim.lr_scheduler.", "torch.utils.data.")):
            found = "read"
        inside = next((home.removeprefix(p) for p in _LIGHTNING if home.startswith(p)), None)
        if inside is None:
            continue
        if inside.startswith(_SILENT):
            return "silent"
        if inside.startswith(_PARTS):
            # A LightningModule inherits from some of these, and is copied.
            found = found or (None if issubclass(cls, nn.Module) else "read")
    return found


_OWN = ("_world", "_live", "_place", "_own", "_gone", "_read", "_entries")


class Overlay:
    """Reads from an object, keeps writes to itself.

    Args:
        world: Decides what is seen of attributes.
        live: The object.
        place: Its name in messages.
    """

    __slots__ = (*_OWN, "__weakref__")

    def __init__(self, world: World, live: Any, place: str) -> None:
        for name, value in (
            *(("_world", world), ("_live", live), ("_place", place)),
            *(("_own", {}), ("_gone", set()), ("_read", {}), ("_entries", {})),
        ):
            object.__setattr__(self, name, value)

    def __getattribute__(self, name: str) -> Any:
        get = functools.partial(object.__getattribute__, self)
        live = get("_live")
        if name == "__class__":
            return type(live)
        own = get("_own")
        if name == "__dict__":
            return {n: getattr(self, n) for n in {**vars(live), **own} if n not in get("_gone")}
        if name in own:
            return own[name]
        if name in get("_gone"):
            raise AttributeError(name)
        return _looked_up(self, live, name)

    def __setattr__(self, name: str, value: Any) -> None:
        get = functools.partial(object.__getattribute__, self)
        get("_world").note(f"{get('_place')}.{name}")
        declared = _declared(type(get("_live")), name)
        if isinstance(declared, property):
            if declared.fset is None:
                raise AttributeError(f"property {name!r} has no setter")
            declared.fset(self, value)
            return
        get("_gone").discard(name)
        get("_own")[name] = value

    def __delattr__(self, name: str) -> None:
        get = functools.partial(object.__getattribute__, self)
        getattr(self, name)
        get("_world").note(f"{get('_place')}.{name}")
        get("_own").pop(name, None)
        get("_gone").add(name)


def _declared(cls: type, name: str) -> Any:
    """What a class or its bases declare under a name; None if nothing."""
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def _looked_up(overlay: Overlay, live: Any, name: str) -> Any:
    """Look up an attribute of a stand-in by the rules of :meth:`object.__getattribute__`."""
    get = functools.partial(object.__getattribute__, overlay)
    world, place, cls = get("_world"), f"{get('_place')}.{name}", type(live)
    declared = _declared(cls, name)
    if isinstance(declared, property) and declared.fget is not None:
        return declared.fget(overlay)
    instance = getattr(live, "__dict__", {})
    if name in instance:
        return _kept(overlay, name, world.seen(instance[name], place))
    if isinstance(declared, functools.cached_property):
        return _kept(overlay, name, declared.func(overlay))
    if isinstance(declared, types.FunctionType):
        if name in _ACTIONS:
            return _noted(world, place)
        return types.MethodType(declared, overlay)
    if isinstance(declared, staticmethod | classmethod):
        return declared.__get__(None, cls)
    if declared is None:
        fallback = _declared(cls, "__getattr__")
        if isinstance(fallback, types.FunctionType):
            return fallback(overlay, name)
    value = getattr(live, name)  # raises where there is none
    if isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType):
        return Untouchable(place, type(value))
    return _kept(overlay, name, world.seen(value, place))


def _kept(overlay: Overlay, name: str, value: Any) -> Any:
    """Keep what was read, so that reading it again gives the same object, with any writes."""
    get = functools.partial(object.__getattribute__, overlay)
    get("_own")[name] = get("_read")[name] = value
    if type(value) in (list, dict):
        get("_entries")[name] = list(value.values()) if isinstance(value, dict) else list(value)
    get("_world").remember(value)
    return value


def _forget_writes(overlay: Overlay) -> None:
    """Go back to what was read; whoever remembers contents restores these."""
    get = functools.partial(object.__getattribute__, overlay)
    get("_gone").clear()
    get("_own").clear()
    get("_own").update(get("_read"))


def _noted(world: World, place: str) -> Callable[..., Silence]:
    def nothing(*args: Any, **kwargs: Any) -> Silence:
        world.note(f"{place}()")
        return Silence()

    return nothing


class Inert(Overlay):
    """Reads from an object; its methods, and whatever they return, do nothing."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        get = functools.partial(object.__getattribute__, self)
        live, own = get("_live"), get("_own")
        if name == "__class__" or name in own or name in get("_gone"):
            return super().__getattribute__(name)
        instance = getattr(live, "__dict__", {})
        if name in instance and not callable(instance[name]):
            return super().__getattribute__(name)
        if name in instance:
            return _noted(get("_world"), f"{get('_place')}.{name}")
        declared = _declared(type(live), name)
        if declared is None or name == "experiment":  # asking a logger for that may start it
            return Silence()
        if isinstance(declared, property):
            value = declared.__get__(live, type(live)) if declared.fget is not None else None
            return get("_world").seen(value, f"{get('_place')}.{name}") if _plain(value) else value
        if callable(declared) or isinstance(declared, staticmethod | classmethod):
            return _noted(get("_world"), f"{get('_place')}.{name}")
        return super().__getattribute__(name)


def _plain(value: Any) -> bool:
    return is_atomic(value) or isinstance(value, list | tuple | dict)


def _forwarded(name: str) -> Callable[..., Any]:
    """A special method, which Python looks up on the class: the one of the object's class."""

    def special(self: Overlay, *args: Any) -> Any:
        live = object.__getattribute__(self, "_live")
        if isinstance(self, Inert):
            return Silence()
        declared = _declared(type(live), name)
        if declared is None:
            raise TypeError(f"{type(live).__name__!r} object has no {name}")
        if isinstance(declared, types.FunctionType):
            return declared(self, *args)
        place = object.__getattribute__(self, "_place")
        return Untouchable(f"{place}.{name}", type(live))._refuse()

    return special


for _name in (
    *("__call__", "__len__", "__iter__", "__next__", "__getitem__", "__setitem__", "__delitem__"),
    *("__contains__", "__enter__", "__exit__", "__add__", "__lt__", "__le__", "__gt__", "__ge__"),
):
    setattr(Overlay, _name, _forwarded(_name))


def _bool(self: Overlay) -> bool:
    live = object.__getattribute__(self, "_live")
    for name in ("__bool__", "__len__"):
        declared = _declared(type(live), name)
        if isinstance(declared, types.FunctionType):
            return bool(declared(self))
        if declared is not None and not isinstance(self, Inert):
            return bool(live)
    return True


Overlay.__bool__ = _bool  # type: ignore[attr-defined]
