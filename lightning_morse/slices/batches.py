"""Batches of any type: how many examples they hold, and copies of them."""

from __future__ import annotations

import copy
import io
import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_morse.slices.copying import is_atomic, slots_of
from lightning_morse.slices.stand_ins import Untouchable

# What is used up, or would be used by all who have it.
_ONLY_ONCE = (types.GeneratorType, io.IOBase)


def listed_batches(batches: Any) -> tuple[Any, ...]:
    """The batches in any finite iterable, such as a list, a loader or a generator; one pass.

    Args:
        batches: The iterable.

    Raises:
        ValueError: If it is none, or is a mapping or a text, whose keys or letters are no batches.

    Example:
        >>> listed_batches(torch.full((2,), n) for n in (1, 2))
        (tensor([1, 1]), tensor([2, 2]))
    """
    try:
        if isinstance(batches, Mapping | str | bytes):
            raise TypeError
        found = iter(batches)
    except TypeError:
        raise ValueError(
            f"batches must be a list of batches or another iterable, got {type(batches).__name__}. "
            "Put a single batch into a list"
        ) from None
    return tuple(found)


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a batch with its tensors changed.

    Containers, named tuples, dataclasses (also frozen ones, and fields that ``__init__`` does not
    take) and plain objects are copied all the way down. Tensors of a class of their own keep it,
    with its attributes: ``change`` gets to see their numbers. Where a batch refers to one object
    twice, its copy does. In place of generators, files, and what does something when it is deleted,
    there is an :class:`~lightning_morse.slices.stand_ins.Untouchable`.

    Args:
        batch: What a loader yields.
        change: Returns a new tensor for a tensor.

    Returns:
        The copy.
    """
    return _mapped(batch, change, {})


def _mapped(value: Any, change: Callable[[Tensor], Tensor], made: dict[int, Any]) -> Any:
    if is_atomic(value):
        return value
    if id(value) in made:
        return made[id(value)][1]
    copied = _one(value, change, made)
    made[id(value)] = value, copied  # with the original, whose id it is
    return copied


def _one(value: Any, change: Callable[[Tensor], Tensor], made: dict[int, Any]) -> Any:
    def inside(part: Any) -> Any:
        return _mapped(part, change, made)

    if isinstance(value, Tensor):
        return _of_its_class(value, change, inside) if _is_labelled(value) else change(value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.copy()
    if isinstance(value, MutableMapping) and type(value).__module__ in ("builtins", "collections"):
        copied = copy.copy(value)
        for key in value:
            copied[key] = inside(value[key])
        return copied
    if type(value) in (list, set, frozenset):
        return type(value)(map(inside, value))
    if isinstance(value, tuple):
        parts = map(inside, value)
        return (
            type(value)(*parts) if hasattr(value, "_fields") else tuple.__new__(type(value), parts)
        )
    if isinstance(value, _ONLY_ONCE) or hasattr(type(value), "__del__"):
        return Untouchable("part of the batch", type(value))
    try:
        # A shallow copy of a generator draws from the same stream.
        is_stream = isinstance(value, (np.random.Generator, np.random.RandomState))
        twin: Any = copy.deepcopy(value) if is_stream else copy.copy(value)
    except Exception:  # what cannot be copied is passed on
        return value
    for name, part in list(_parts_of(value)):
        object.__setattr__(twin, name, inside(part))
    if isinstance(value, dict):
        for key, part in value.items():
            dict.__setitem__(twin, key, inside(part))
    if isinstance(value, list):
        twin[:] = map(inside, value)
    return twin


def _of_its_class(
    value: Tensor, change: Callable[[Tensor], Tensor], inside: Callable[[Any], Any]
) -> Tensor:
    """The numbers of a tensor changed, its class and attributes kept."""
    with torch._C.DisableTorchFunctionSubclass():
        made = change(value.as_subclass(Tensor)).as_subclass(type(value))
    for name, part in list(_parts_of(value)):
        object.__setattr__(made, name, inside(part))
    return made


def _parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Attributes of an object, in slots or not."""
    yield from getattr(value, "__dict__", {}).items()
    for name in slots_of(type(value)):
        if hasattr(value, name):
            yield name, getattr(value, name)


def _is_labelled(value: Tensor) -> bool:
    """Whether the class of a tensor is one that adds attributes or methods to its numbers.

    Parameters do not, and a class with a dispatch of its own holds its numbers elsewhere.
    """
    cls = type(value)
    plain = cls.__torch_dispatch__ is Tensor.__torch_dispatch__
    return plain and cls not in (Tensor, nn.Parameter)


def tensors_in(value: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """The tensors in nested containers, dataclasses and objects: in order, each once."""
    seen = set() if seen is None else seen
    if is_atomic(value) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for child in list(value.values()):
            yield from tensors_in(child, seen)
    elif isinstance(value, list | tuple | set | frozenset):
        for child in value:
            yield from tensors_in(child, seen)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name, None), seen)
    elif type(getattr(value, "__dict__", None)) is dict:
        yield from tensors_in(vars(value), seen)


def _attribute(part: Any, name: str) -> Any:
    try:
        return getattr(part, name, None)
    except Exception:  # batches that look names up in a dict may raise what they like
        return None


def batch_size(batch: Any) -> int:
    """How many examples a batch holds, as far as it tells; 1 where nothing is sure.

    ``num_graphs`` or else ``batch_size`` if the batch has such a count (batches of graphs and
    molecules have as many rows as nodes or atoms). Otherwise the leading length of its tensors, if
    it is the same for all that have one. Lightning takes that of the first tensor, which may be a
    number of nodes.

    Args:
        batch: What a loader yields, or ``(batch, batch_idx, dataloader_idx)``.

    Example:
        >>> import torch
        >>> batch_size([torch.zeros(4, 2), torch.zeros(4)])
        4
        >>> batch_size({"atoms": torch.zeros(9, 3), "energy": torch.zeros(2)})
        1
    """
    for name in ("num_graphs", "batch_size"):
        for part in (batch, *(batch if isinstance(batch, list | tuple) else ())):
            count = None if isinstance(part, Tensor) else _attribute(part, name)
            if isinstance(count, int) and not isinstance(count, bool) and count > 0:
                return count
    lengths = {len(t) for t in tensors_in(batch) if t.ndim}
    return lengths.pop() if len(lengths) == 1 else 1
