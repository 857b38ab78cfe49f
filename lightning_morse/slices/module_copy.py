"""A copy of a module that can be evaluated without touching the original or its trainer."""

from __future__ import annotations

import functools
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from lightning_morse.slices.copying import is_atomic
from lightning_morse.slices.isolation import is_generator
from lightning_morse.slices.stand_ins import Silence, World

# Where a LightningModule keeps what it does not own; it drops these when it is copied.
_BACK_REFERENCES = ("_trainer", "_fabric", "_fabric_optimizers")
_SHARED = ("_device_mesh",)
# Attributes of a class that are no data.
_CODE = (FunctionType, MethodType, staticmethod, classmethod, property, type)
# Classes of these libraries hold nothing that a step would change.
_LIBRARIES = ("torch.", "pytorch_lightning.", "lightning.", "lightning_fabric.", "torchmetrics.")


def shadow_copy(module: nn.Module, world: World | None = None) -> nn.Module:
    """A copy of a module that can be evaluated without touching the original.

    It is in eval mode, uncompiled, and requires no gradients. Stand-ins take the place of its
    trainer and of everything else that the module refers to but does not own (optimizers,
    schedulers, callbacks, loggers, loaders); they can be read, and written to without the run
    noticing (:mod:`lightning_morse.slices.stand_ins`). ``log``, ``log_dict``, ``print`` and
    ``logger`` of the copy do nothing.

    Hooks are copied and run, since some of them compute weights (pruning, weight norm), together
    with what they close over. So are lists, dicts and arrays that are attributes of a class.
    What a step does to other global variables than generators (:func:`generators_beside`), to
    files or other processes is not undone.

    Args:
        module: Any module. Tensors that are part of an autograd graph are copied without the graph;
            an attribute that cannot be copied is replaced by a stand-in.
        world: Makes the stand-ins, and knows which parts of the module have been copied already.

    Returns:
        The copy, with tied weights still tied.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> shadow = shadow_copy(layer)
        >>> shadow.training, layer.training, shadow.weight.requires_grad
        (False, True, True)
    """
    world = World() if world is None else world
    copier = world.copier
    shadow: nn.Module = copier.copy(module)
    for part, copied in zip(module.modules(), shadow.modules(), strict=True):
        state = vars(copied)
        for name, value in vars(part).items():
            if name in _BACK_REFERENCES:
                state[name] = world.seen(value, f"self.{name.lstrip('_')}")
            if name in _SHARED:
                state[name] = value
            # A compiled method stays bound to the original when copied, and more graphs for it
            # could use up the original's recompilation limit.
            if isinstance(value, FunctionType | MethodType) and (
                eager := getattr(value, "_torchdynamo_orig_callable", None)
            ):
                state[name] = copier.copy(eager)
        if "_orig_mod" in state.get("_modules", {}):  # torch.compile(submodule)
            state["forward"] = state["_modules"]["_orig_mod"].__call__
        _own_class(copied, world)
    return shadow.eval()


def generators_beside(module: nn.Module, *functions: Any) -> list[Any]:
    """Random number generators that steps may draw from and that no copy of the module holds.

    These are global variables of the files in which the classes of the module and of its parts are
    defined, or the given functions.
    """
    code = [
        *functions,
        *(
            value
            for cls in dict.fromkeys(map(type, module.modules()))
            for base in _users_bases(cls)
            for value in vars(base).values()
        ),
    ]
    files = {id(f.__globals__): f.__globals__ for f in code if isinstance(f, FunctionType)}
    found = [v for names in files.values() for v in list(names.values()) if is_generator(v)]
    return list({id(one): one for one in found}.values())


def _own_class(copied: nn.Module, world: World) -> None:
    """Give a copy a class of its own where a step could reach the original through its class."""
    cls: Any = type(copied)
    if cls not in world.classes:
        own, logs = _own_attributes(cls, world), hasattr(cls, "log_dict")
        if not (logs or own or any(map(_holds_data, _users_bases(cls)))):
            return
        bases = (_Quiet, cls) if logs else (Unregistered, cls)
        namespace = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, **own}
        # Not by calling the metaclass, which may keep a registry.
        world.classes[cls] = type.__new__(type(cls), cls.__name__, bases, namespace)
    copied.__class__ = world.classes[cls]


def _own_attributes(cls: Any, world: World) -> dict[str, Any]:
    """What the class of a copy has of its own."""
    own = {
        name: world.copier.copy(value)
        for base in _users_bases(cls)
        for name, value in vars(base).items()
        if not name.startswith("__") and _can_change(value)
    }
    if hasattr(cls, "__del__"):
        own["__del__"] = _nothing  # the end of the copy is not that of the module
    if hasattr(cls, "log_dict"):
        own["log"], own["log_dict"] = world.silent_log, world.silent_log
        if not hasattr(cls, "logger"):
            own["logger"], own["loggers"] = Silence(), ()
    return own


def _users_bases(cls: type) -> list[type]:
    """The classes that a class derives from but those of libraries, the most general first."""
    return [
        base
        for base in reversed(cls.__mro__)
        if not f"{base.__module__}.".startswith(_LIBRARIES) and base is not object
    ]


def _holds_data(base: type) -> bool:
    """Whether a class has an attribute that a step could bind to something else, as a count."""
    return any(
        is_atomic(value) and not isinstance(value, (*_CODE, BuiltinFunctionType, ModuleType))
        for name, value in vars(base).items()
        if not name.startswith("__")
    )


def _nothing(self: Any) -> None:
    """Nothing."""


def _can_change(value: Any) -> bool:
    """Whether a class attribute holds something that a step could change: no code, no constant."""
    if isinstance(value, functools._lru_cache_wrapper):  # would keep copies of the module alive
        return True
    if is_atomic(value) or isinstance(value, _CODE) or hasattr(type(value), "__get__"):
        return False
    return type(value).__module__ != "_abc"  # the bookkeeping of abstract classes


class Unregistered:
    """Precedes the class of a copy in its bases."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep out of any registry of subclasses that the class of the module has."""


class _Quiet(Unregistered):
    """Precedes the class of a copy that logs or prints."""

    print = Silence()
