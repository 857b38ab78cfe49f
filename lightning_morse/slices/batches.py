"""Batches of any type: how many examples they hold, and copies of them."""

from __future__ import annotations

import copy
import io
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_morse.slices.objects import is_atomic, slots_of
from lightning_morse.slices.stand_ins import Untouchable

# More is no batch but a data set that it refers to: this many objects are copied in a tenth of a
# second, and again at each evaluation. Entries are numbers and texts too, which are only looked at.
MOST_OBJECTS, MOST_ENTRIES = 20_000, 500_000
# Tuples are copied from the inside, by recursion.
_MOST_NESTED = 100
# What is used up, or would be used by all who have it.
_ONLY_ONCE = (types.GeneratorType, io.IOBase)
_TOO_MUCH = "that refers to very many objects"
_USED_UP = "that is used up as it is read"
# Iterators that tell what they go through, and where they are.
_ITERATORS: tuple[type, ...] = (zip, map, enumerate, type(iter([])), type(iter(())))
# Containers whose entries are written one by one.
_WRITTEN: tuple[Any, ...] = (dict, list, deque, np.ndarray)


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
    twice, or an object to itself, its copy does.

    Shared with the original is what can hold nothing (a sentinel ``object()``), what says that it
    is its own copy (loggers, objects of which there is only one), and what cannot be copied. There
    is an :class:`~lightning_morse.slices.stand_ins.Untouchable` in place of generators, files, what
    does something when it is deleted, functions that keep something in attributes, and of
    containers and objects in which there is more than a batch holds, such as a data set.

    Args:
        batch: What a loader yields.
        change: Returns a new tensor for a tensor.

    Returns:
        The copy.
    """
    return _Mapping(change).of(batch)


class _Mapping:
    """One copy of a batch.

    Twins begin as shallow copies and are filled later, those nearest to the batch first. So objects
    may refer to each other in circles and in chains of any length, and where there are too many,
    the far ones are left out.
    """

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        self._change = change
        # By the id of the original, with the original, whose id it is.
        self._made: dict[int, tuple[Any, Any]] = {}
        self._unfilled: deque[tuple[Any, Any]] = deque()
        self._sets: list[tuple[set[Any], list[Any]]] = []
        self._room, self._entries = MOST_OBJECTS, MOST_ENTRIES
        self._depth = 0
        self._constant: dict[type, bool] = {}

    def of(self, batch: Any) -> Any:
        """The copy."""
        made = self._twin(batch)
        while self._unfilled:
            self._fill(*self._unfilled.popleft())
        for twin, parts in self._sets:  # by now they hash as they will
            set.clear(twin)
            set.update(twin, parts)
        return made

    def _twin(self, value: Any) -> Any:
        if self._is_constant(value) or isinstance(value, Untouchable):
            return value
        if id(value) in self._made:
            return self._made[id(value)][1]
        made = self._begun(value)
        self._made[id(value)] = value, made
        return made

    def _begun(self, value: Any) -> Any:
        if type(value) is Tensor:
            return self._change(value)
        if type(value) in (list, dict):
            return self._later(value, value.copy())
        if type(value) is tuple:
            return self._at_once(value)
        if isinstance(value, Tensor):
            return self._of_its_class(value) if _is_labelled(value) else self._change(value)
        if isinstance(value, np.ndarray) and value.dtype != object:
            return value.copy()
        if why := _why_untouchable(value):
            return _untouchable(why, value)
        if type(value) is weakref.ref:  # to what owns it, as a rule, which has its twin by then
            known = self._made.get(id(value()))
            return weakref.ref(known[1]) if known else value
        if isinstance(value, (tuple, frozenset, types.MethodType, *_ITERATORS)):
            return self._at_once(value)
        try:
            # A shallow copy of a generator draws from the same stream.
            is_stream = isinstance(value, (np.random.Generator, np.random.RandomState))
            twin: Any = copy.deepcopy(value) if is_stream else copy.copy(value)
        except Exception:  # what cannot be copied is passed on
            return value
        return self._later(value, twin) if _is_another(twin, value) else value

    def _later(self, value: Any, twin: Any) -> Any:
        """A shallow copy that is to be filled."""
        if not self._has_room_for(value):
            return _untouchable(_TOO_MUCH, value)
        if isinstance(value, set):
            self._sets.append((twin, [self._twin(part) for part in value]))
        self._unfilled.append((value, twin))
        return twin

    def _at_once(self, value: Any) -> Any:
        """The copy of what cannot be filled later, with twins that may have to be filled."""
        if self._depth >= _MOST_NESTED or not self._has_room_for(value):
            return _untouchable(_TOO_MUCH, value)
        self._depth += 1
        try:
            if isinstance(value, types.MethodType):
                return types.MethodType(value.__func__, self._twin(value.__self__))
            if isinstance(value, _ITERATORS):
                return self._iterator(value)
            parts = [self._twin(part) for part in value]
        finally:
            self._depth -= 1
        cls: Any = type(value)
        if cls is tuple:
            return tuple(parts)
        if hasattr(cls, "_fields"):
            made = cls(*parts)
        elif isinstance(value, frozenset) or hasattr(cls, "n_fields"):  # such as torch.max returns
            made = cls(parts)
        else:
            made = tuple.__new__(cls, parts)
        self._unfilled.append((value, made))
        return made

    def _iterator(self, value: Any) -> Any:
        """Another iterator at the same place: a shallow copy would use up the same ones."""
        try:
            make, given, *place = value.__reduce__()
            made = make(*[self._twin(one) for one in given])
            if place:
                made.__setstate__(*place)
        except Exception:  # over something untouchable
            return _untouchable(_USED_UP, value)
        return made

    def _of_its_class(self, value: Tensor) -> Any:
        """The numbers of a tensor changed, its class and attributes kept."""
        if not self._has_room_for(value):
            return _untouchable(_TOO_MUCH, value)
        with torch._C.DisableTorchFunctionSubclass():
            made = self._change(value.as_subclass(Tensor)).as_subclass(type(value))
        self._unfilled.append((value, made))
        return made

    def _has_room_for(self, value: Any) -> bool:
        """Whether what a value refers to is still within what a batch holds; it then belongs."""
        entries = objects = 0
        for part in _parts_of(value):
            entries += 1
            objects += not self._is_constant(part) and id(part) not in self._made
            if entries > self._entries or objects > self._room:
                return False
        self._entries -= entries
        self._room -= objects
        return True

    def _is_constant(self, value: Any) -> bool:
        """Whether a copy may share a value; asked once for each class, of which there are few."""
        cls = type(value)
        if cls is types.BuiltinFunctionType:  # bound to an object, or not
            return is_atomic(value)
        if cls not in self._constant:
            self._constant[cls] = is_atomic(value) or _holds_nothing(value)
        return self._constant[cls]

    def _fill(self, value: Any, twin: Any) -> None:
        for name, part in list(_attributes_of(value)):
            object.__setattr__(twin, name, self._twin(part))
        write = next((cls.__setitem__ for cls in _WRITTEN if isinstance(value, cls)), None)
        if write is not None:  # past what the class itself makes of it
            for key, part in _items_of(value):
                if not self._is_constant(part):
                    write(twin, key, self._twin(part))


def _why_untouchable(value: Any) -> str:
    """Why neither a batch nor its copy may share a value; empty if nothing is known against it."""
    if hasattr(type(value), "__del__"):
        return "that does something when it is deleted"
    if isinstance(value, _ONLY_ONCE):
        return _USED_UP
    # One that is written in Python is an object whose attributes say where it is.
    is_foreign = isinstance(value, Iterator) and not isinstance(
        type(value).__next__, types.FunctionType
    )
    if is_foreign and not isinstance(value, _ITERATORS):
        return _USED_UP
    # A copy would find them by the name of the function, and so write to the original.
    if isinstance(value, types.FunctionType) and any(
        not isinstance(kept, types.FunctionType) and not is_atomic(kept)
        for name, kept in vars(value).items()
        if name != "__wrapped__"  # by a decorator
    ):
        return "that keeps something in attributes"
    return ""


def _untouchable(why: str, value: Any) -> Untouchable:
    return Untouchable(f"a part of the batch {why}", type(value))


def _holds_nothing(value: Any) -> bool:
    """Whether an object has no place for anything: it is there to be compared with ``is``."""
    cls = type(value)
    return cls.__basicsize__ == object.__basicsize__ and not cls.__dictoffset__


def _is_another(twin: Any, value: Any) -> bool:
    """Whether a shallow copy may be written to without writing to the original."""
    if twin is value or type(twin) is not type(value):
        return False
    attributes = getattr(value, "__dict__", None)
    return attributes is None or getattr(twin, "__dict__", None) is not attributes


def _attributes_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Attributes of an object, in slots or not."""
    if type(value) in (list, dict, tuple):
        return
    yield from getattr(value, "__dict__", {}).items()
    for name in slots_of(type(value)):
        if hasattr(value, name):
            yield name, getattr(value, name)


def _parts_of(value: Any) -> Iterator[Any]:
    """What an object or a container refers to."""
    if isinstance(value, tuple | set | frozenset):
        yield from value
    for _, part in chain(_attributes_of(value), _items_of(value)):
        yield part


def _items_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a container holds that can be written to, and where."""
    if isinstance(value, dict):
        yield from dict.items(value)
    elif isinstance(value, list | deque):
        yield from enumerate(value)
    elif isinstance(value, np.ndarray) and value.dtype == object:
        yield from np.ndenumerate(value)


def _is_labelled(value: Tensor) -> bool:
    """Whether the class of a tensor is one that adds attributes or methods to its numbers.

    Parameters do not, and a class with a dispatch of its own holds its numbers elsewhere.
    """
    cls = type(value)
    plain = cls.__torch_dispatch__ is Tensor.__torch_dispatch__
    return plain and cls not in (Tensor, nn.Parameter)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested containers, dataclasses and objects: in order, each once."""
    seen: set[int] = set()
    todo = [iter((value,))]  # no recursion: objects may hang together in long chains
    while todo:
        one = next(todo[-1], todo)
        if one is todo:
            todo.pop()
        elif not is_atomic(one) and id(one) not in seen:
            seen.add(id(one))
            if isinstance(one, Tensor):
                yield one
            else:
                todo.append(iter(_searched(one)))


def _searched(value: Any) -> Iterable[Any]:
    """Where tensors of a batch may be."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in fields(value)]
    if type(getattr(value, "__dict__", None)) is dict:
        return list(vars(value).values())
    return ()


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
    lengths = {t.size(0) for t in tensors_in(batch) if t.ndim}  # nested ones have no len
    return lengths.pop() if len(lengths) == 1 else 1
