"""Stand-ins for the trainer of a module, and for everything else it refers to but does not own.

A step can read from them as from the real objects and call methods written in Python; whatever it
writes is forgotten before the next evaluation, and nothing reaches the run:

- :class:`Overlay` reads from an object and keeps writes to itself. Methods and properties written
  in Python run with the stand-in as ``self``, so their writes stay there as well.
- :class:`Inert` is an overlay whose methods do nothing: loggers, optimizers, progress bars. The
  step of an optimizer calls the closure that it is given.
- :class:`Untouchable` replaces an object that can be neither copied nor overlaid, such as a
  generator or an open file. Using it raises an error, since using the object would affect the run.
"""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from lightning_morse.slices.gradients import Gradients
from lightning_morse.slices.objects import is_atomic
from lightning_morse.slices.special_methods import only_reads, special_methods, with_methods

# Methods of a trainer that act on the world outside.
_ACTIONS = {
    *("save_checkpoint", "print", "fit", "validate", "test", "predict"),
    *("configure_logger", "save_hyperparameters", "teardown", "optimizer_step", "backward"),
}
# Those that change gradients, and so are no use where there are none.
_CLIPPING = ("clip_gradients", "clip_grad_by_norm", "clip_grad_by_value")


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


class Sees(Protocol):
    """Decides what stand-ins show, and is told what they kept to themselves."""

    # Receives what is copied from the run while a step is running.
    remember: Callable[[Any], None]
    gradients: Gradients

    def seen(self, value: Any, where: str) -> Any:
        """What a step sees of something that belongs to the run."""

    def note(self, where: str) -> None:
        """Remember that something was kept away from the run."""


_OWN = ("_world", "_live", "_place", "_own", "_gone", "_read", "_entries")


class Overlay:
    """Reads from an object, keeps writes to itself.

    Args:
        world: Decides what is seen of attributes.
        live: The object.
        place: Its name in messages.
    """

    __slots__ = (*_OWN, "__weakref__")

    def __new__(cls, world: Sees, live: Any, place: str) -> Any:
        """One that can do what the object can."""
        kind: Any = cls
        return object.__new__(with_methods(kind, special_methods(type(live)), _forwarded))

    def __init__(self, world: Sees, live: Any, place: str) -> None:
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
        return keep(overlay, name, world.seen(instance[name], place))
    if isinstance(declared, functools.cached_property):
        return keep(overlay, name, declared.func(overlay))
    if isinstance(declared, types.FunctionType):
        if name in _ACTIONS:
            return _noted(world, place, _DONE_INSTEAD.get(name))
        if name in _CLIPPING and not torch.is_grad_enabled():
            return Silence()
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
    return keep(overlay, name, world.seen(value, place))


def keep(overlay: Overlay, name: str, value: Any) -> Any:
    """Keep what is read from now on: the same object each time, with any writes."""
    get = functools.partial(object.__getattribute__, overlay)
    get("_own")[name] = get("_read")[name] = value
    if type(value) in (list, dict):
        get("_entries")[name] = list(value.values()) if isinstance(value, dict) else list(value)
    get("_world").remember(value)
    return value


def changed(overlay: Overlay) -> Iterator[str]:
    """Names of the containers read from a stand-in whose entries are no longer those there were."""
    get = functools.partial(object.__getattribute__, overlay)
    for name, given in get("_read").items():
        before = get("_entries").get(name)
        if before is None:
            continue
        now = list(given.values()) if isinstance(given, dict) else list(given)
        if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
            yield f"{get('_place')}.{name}"


def forget_writes(overlay: Overlay) -> None:
    """Go back to what was read; whoever remembers contents restores these."""
    get = functools.partial(object.__getattribute__, overlay)
    get("_gone").clear()
    get("_own").clear()
    get("_own").update(get("_read"))


# What is done where a method is called that is kept away from the run.
Done = Callable[..., Any]


def _noted(world: Sees, place: str, instead: Done | None = None) -> Callable[..., Any]:
    def nothing(*args: Any, **kwargs: Any) -> Any:
        world.note(f"{place}()")
        return Silence() if instead is None else instead(world, *args, **kwargs)

    return nothing


def _backward(world: Sees, loss: Any = None, *_: Any, **options: Any) -> Any:
    """Gradients of the copy alone."""
    loss = next((options.pop(n) for n in ("closure_loss", "tensor") if n in options), loss)
    world.gradients.backward(loss, **options)
    return loss


def _step(world: Sees, *args: Any, **kwargs: Any) -> Any:
    """Call the closure that a step of an optimizer is given, and change no weights."""
    given = (*args, kwargs.get("closure"))
    closures = (a for a in given if callable(a) and not isinstance(a, torch.optim.Optimizer))
    closure = next(closures, None)
    return None if closure is None else closure()


_DONE_INSTEAD: dict[str, Done] = {"backward": _backward, "optimizer_step": _step}


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
            return _noted(get("_world"), f"{get('_place')}.{name}", _instead_of(self, name))
        return super().__getattribute__(name)


def _instead_of(inert: Inert, name: str) -> Done | None:
    """What a method of an optimizer does all the same."""
    if not isinstance(inert, torch.optim.Optimizer):
        return None
    if name == "zero_grad":
        return lambda world, *_, **__: world.gradients.forget(_parameters_of(inert))
    return _step if name == "step" else None


def _parameters_of(optimizer: Any) -> Iterator[Any]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _plain(value: Any) -> bool:
    return is_atomic(value) or isinstance(value, list | tuple | dict)


def _forwarded(name: str) -> Callable[..., Any]:
    """A special method of stand-ins."""

    def special(self: Overlay, *args: Any) -> Any:
        get = functools.partial(object.__getattribute__, self)
        live, world, place = get("_live"), get("_world"), f"{get('_place')}.{name}"
        if isinstance(self, Inert):
            return _inertly(name, place, type(live))
        declared = _declared(type(live), name)
        if isinstance(declared, types.FunctionType):
            return declared(self, *args)
        if declared is None:  # as where it is said that instances have no such method
            raise TypeError(f"{type(live).__name__!r} object has no {name}")
        if not only_reads(declared, type(live)):
            return Untouchable(place, type(live))._refuse()
        found = declared(live, *args)
        if name in ("__iter__", "__reversed__"):
            return (world.seen(item, place) for item in found)
        return world.seen(found, place)

    return special


def _inertly(name: str, place: str, kind: type) -> Any:
    """What a special method of something inert returns."""
    if name in ("__call__", "__enter__", "__getitem__"):
        return Silence()
    if name in ("__exit__", "__setitem__", "__delitem__"):
        return None
    return Untouchable(place, kind)._refuse()  # no answer would be right


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
