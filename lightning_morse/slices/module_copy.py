"""A copy of a module that can be evaluated, and reset, without touching the original."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Where a LightningModule keeps what it does not own.
_BACK_REFERENCES = ("_trainer", "_fabric", "_fabric_optimizers", "_device_mesh")


def shadow_copy(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy of a module that can be evaluated without touching the original.

    It is in eval mode, uncompiled, and without gradients. The trainer of a LightningModule is
    shared, not copied, so that ``self.trainer`` and ``self.current_epoch`` work; ``log``,
    ``log_dict``, ``print`` and ``logger`` of the copy do nothing.

    Hooks are copied and run, since some of them compute weights (pruning, weight norm). What code
    of the module does to objects outside of it (through a hook, or ``self.trainer``) is not undone.

    Args:
        module: Any module that ``copy.deepcopy`` can copy. Tensors it keeps that are part of an
            autograd graph are copied without it.
        memo: What stands for which object in the copy, by ``id``, as :func:`copy.deepcopy` takes
            it; by default :func:`stand_ins`.

    Returns:
        The copy, with tied weights still tied.

    Raises:
        ValueError: If an attribute cannot be copied.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> shadow = shadow_copy(layer)
        >>> shadow.training, layer.training, shadow.weight.requires_grad
        (False, True, False)
    """
    memo = stand_ins(module) if memo is None else memo
    shadow: nn.Module = deep_copy(module, memo, module)
    for part, copied in zip(module.modules(), shadow.modules(), strict=True):
        state = vars(copied)
        for name, value in vars(part).items():
            if name in _BACK_REFERENCES:  # LightningModule drops its trainer when copied
                state[name] = value
            # A compiled method stays bound to the original when copied, and more graphs for it
            # could use up the original's recompilation limit.
            if isinstance(value, FunctionType | MethodType) and (
                eager := getattr(value, "_torchdynamo_orig_callable", None)
            ):
                state[name] = copy.deepcopy(eager, memo)
        if "_orig_mod" in state["_modules"]:  # torch.compile(submodule)
            state["forward"] = state["_modules"]["_orig_mod"].__call__
        cls: Any = type(copied)
        if hasattr(cls, "log_dict"):
            copied.__class__ = type(cls)(
                cls.__name__, (_Quiet, cls), {"__module__": cls.__module__}
            )
    return shadow.eval().requires_grad_(False)


def stand_ins(module: nn.Module) -> dict[int, Any]:
    """What a copy of a module shares with it, and its tensors with a history without that."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        shared = [vars(part)[name] for name in _BACK_REFERENCES if name in vars(part)]
        memo.update({id(value): value for value in shared})
        # deepcopy refuses tensors with a history, such as a loss kept for the end of the epoch.
        graph = [t for t in tensors_in(vars(part)) if not t.is_leaf]
        memo.update({id(tensor): tensor.detach().clone() for tensor in graph})
    return memo


def deep_copy(value: Any, memo: dict[int, Any], module: nn.Module) -> Any:
    """:func:`copy.deepcopy` of a part of a module, with an error that says what to do."""
    try:
        return copy.deepcopy(value, memo)
    except TypeError as error:
        raise ValueError(
            f"module must be copyable by copy.deepcopy, got {type(module).__name__}, which is not: "
            f"{error}. Keep that attribute outside the module or give its class a __deepcopy__"
        ) from error


class Silence:
    """Takes any call, attribute or item, and does nothing."""

    def __call__(self, *args: Any, **kwargs: Any) -> Silence:
        """Nothing."""
        return self

    def __getattr__(self, name: str) -> Silence:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key: Any) -> Silence:
        return self


class _Quiet:
    """Goes before the class of a shadow copy, so that the copy tells nobody anything."""

    log = log_dict = print = logger = Silence()
    loggers = (logger,)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep out of any registry of subclasses that the class of the module has."""


class ModuleState:
    """What a module holds besides its parameters: buffers, counters, metric states, lists."""

    def __init__(self, module: nn.Module) -> None:
        namespaces = [vars(part) for part in module.modules()]
        self._bindings = [(names, names.copy()) for names in namespaces]
        self._originals = [
            (names, name, copy_of(value), copy_of)
            for names in namespaces
            for name, value in names.items()
            if (copy_of := _copier(value)) is not None
        ]
        self._contents = [
            (tensor, tensor.clone())
            for tensor in tensors_in(namespaces)
            if not isinstance(tensor, nn.Parameter)
        ]

    def restore(self) -> None:
        """Put back every binding and every content; lists and dicts one level deep."""
        for names, bindings in self._bindings:
            names.clear()
            names.update(bindings)
        for names, name, original, copy_of in self._originals:
            names[name] = copy_of(original)
        for tensor, content in self._contents:
            # Not copy_: an expanded buffer cannot be written in place.
            tensor.data = content.clone()


def _copier(value: Any) -> Callable[[Any], Any] | None:
    """How to copy an attribute that code changes without binding it anew, tensors apart."""
    if type(value) in (list, dict, set, OrderedDict):
        return type(value).copy
    if isinstance(value, torch.Generator | np.random.Generator | random.Random):
        return copy.deepcopy
    return None


def tensors_in(value: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """The tensors in nested containers and dataclasses, in order, each once."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    if isinstance(value, Tensor):
        seen.add(id(value))
        yield value
        return
    if isinstance(value, Mapping):
        children: Sequence[Any] = list(value.values())
    elif isinstance(value, list | tuple):
        children = value
    elif is_dataclass(value) and not isinstance(value, type):
        children = [getattr(value, field.name, None) for field in fields(value)]
    else:
        return
    seen.add(id(value))
    for child in children:
        yield from tensors_in(child, seen)
