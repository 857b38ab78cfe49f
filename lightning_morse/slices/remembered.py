"""Bindings and contents of objects, remembered so that they can be put back."""

from __future__ import annotations

import collections
import functools
import operator
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_morse.slices.contents import ArrayContent, Content
from lightning_morse.slices.copying import Check, Paced
from lightning_morse.slices.isolation import put_back_of
from lightning_morse.slices.objects import (
    attributes_of,
    cannot_be_written,
    in_slot,
    is_atomic,
    put_in_slot,
    slots_of,
)
from lightning_morse.slices.stand_ins import Inert, Overlay, Silence, Untouchable

_STAND_INS = (Overlay, Inert, Silence, Untouchable)
# Objects of this package that a hook refers to are not the module's.
_OUR_OWN = ("lightning_morse.", "torch.distributed", "torch._C._distributed")
_SEQUENCES = (list, collections.deque)
_UNSET = object()


class Remembered:
    """Bindings and contents of everything reachable from some objects and classes.

    Restoring takes time for what a step has changed and for a look at the rest: containers are
    compared by the identity of their entries, small tensors and arrays by content, large tensors by
    their version counter. Writes that bypass the counter (through ``.data`` or NumPy) are found by
    comparing contents once, after the first evaluation; a tensor written in that way is compared
    every time from then on.

    Args:
        roots: Where to start: modules, or any objects.
        passed_over: What does not belong to the state: tensors that the caller writes before every
            evaluation, and what others own.
        classes: Classes whose attributes belong to the state as well.
        check: Called after every few hundred objects, until the state has been restored once; what
            it raises ends that.
    """

    def __init__(
        self,
        *roots: Any,
        passed_over: Iterable[Any] = (),
        classes: Iterable[type] = (),
        check: Check | None = None,
    ) -> None:
        self._paced = Paced(check)
        self._classes = [(cls, bound(cls)) for cls in classes]
        self._seen: set[int] = {id(one) for one in passed_over}
        self._alive: list[Any] = []
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._empty: list[Any] = []
        self._sequences: list[tuple[Any, list[Any]]] = []
        self._sets: list[tuple[set[Any], set[Any]]] = []
        self._slots: list[tuple[Any, str, Any]] = []
        self._cells: list[tuple[types.CellType, Any]] = []
        self._tensors: list[Content] = []
        self._arrays: list[ArrayContent] = []
        self._generators: list[Callable[[], Any]] = []
        self._fresh: list[Content] = []
        self._used = False
        for root in (*roots, *(names for _, names in self._classes)):
            self.track(root)

    def track(self, value: Any) -> None:
        """Remember an object and everything it refers to, as they are now."""
        pending = [value]
        while pending:
            one = pending.pop()
            if is_atomic(one) or id(one) in self._seen or self._belongs_to_others(one):
                continue
            self._paced.one_more()
            self._seen.add(id(one))
            self._alive.append(one)
            pending.extend(self._remember(one))

    def _belongs_to_others(self, one: Any) -> bool:
        """Whether an object, and what it refers to, is put back by others or not at all."""
        if type(one) in (*_STAND_INS, *weakref.ProxyTypes) or isinstance(one, type):
            return True
        return str(type(one).__module__).startswith(_OUR_OWN)

    def _content_of(self, tensor: Tensor) -> Content:
        return Content(tensor, None)

    def _behind(self, function: Any) -> Iterator[Any]:
        return behind(function)

    def _remember(self, one: Any) -> Iterator[Any]:
        """Remember one object and yield what it refers to."""
        if isinstance(one, Tensor):
            wraps = type(one).__torch_dispatch__ is not Tensor.__torch_dispatch__
            if wraps or one.layout is not torch.strided or one.is_meta or one.is_nested:
                return  # has no storage of its own that could be compared
            if one.numel() and not one.data_ptr():
                return  # its storage has been freed for a while
            content = self._content_of(one)
            self._tensors.append(content)
            self._fresh.append(content)
            yield vars(one)
            return
        if isinstance(one, np.ndarray):
            plain = one.dtype == object or not one.dtype.hasobject
            if plain and not cannot_be_written(one):
                self._arrays.append(ArrayContent(one))
            if one.dtype == object:
                yield from list(one.flat)
            return
        if (put_back := put_back_of(one)) is not None:
            self._generators.append(put_back)
            return
        if isinstance(one, types.FunctionType | types.MethodType | functools.partial):
            yield from self._behind(one)
            return
        if isinstance(one, types.CellType):
            try:
                content = one.cell_contents
            except ValueError:  # still empty
                return
            self._cells.append((one, content))
            yield content
            return
        if isinstance(one, tuple | frozenset):
            yield from one
        elif isinstance(one, dict):
            yield from self._remember_dict(one)
        elif isinstance(one, _SEQUENCES):
            if one:
                self._sequences.append((one, list(one)))
            else:
                self._empty.append(one)
            yield from list(one)
        elif isinstance(one, set):
            self._sets.append((one, set(one)))
            yield from one
        names = attributes_of(one)
        if type(names) is dict:
            self._seen.add(id(names))
            yield from self._remember_dict(names)
        elif isinstance(names, dict):
            yield names
        for name in slots_of(type(one)):
            held = in_slot(one, name, _UNSET)
            self._slots.append((one, name, held))
            yield held

    def _remember_dict(self, one: dict[Any, Any]) -> Iterator[Any]:
        if one:
            self._dicts.append((one, dict(one)))
        else:
            self._empty.append(one)
        yield from list(one.values())

    def restore(self) -> None:
        """Restore every binding and every content."""
        each = self._paced.through
        for empty in each(self._empty):
            if empty:
                empty.clear()
        for names, before in each(self._dicts):
            if not _same_items(names, before):
                names.clear()
                names.update(before)
        for cls, names in self._classes:
            _bind(cls, names)
        for sequence, entries in each(self._sequences):
            if not _same_entries(sequence, entries):
                sequence.clear()
                sequence.extend(entries)
        for group, members in each(self._sets):
            if group != members:
                group.clear()
                group.update(members)
        for owner, name, content in each(self._slots):
            if in_slot(owner, name, _UNSET) is content:
                continue
            if content is _UNSET:
                delattr(owner, name)
            else:
                put_in_slot(owner, name, content)
        for cell, content in each(self._cells):
            cell.cell_contents = content
        for array in each(self._arrays):
            array.restore()
        for put_back in self._generators:
            put_back()
        if self._used:  # nothing has been evaluated before the first time
            for content in self._fresh:
                content.look_closely()
            self._fresh = []
        self._used = True
        for tensor in each(self._tensors):
            tensor.restore()
        # From now on it is known how long that takes, as of all else in an evaluation.
        self._paced = Paced(None)


def bound(cls: type) -> dict[str, Any]:
    """What a class has by name, but for what Python itself keeps in it."""
    return {
        name: value
        for name, value in vars(cls).items()
        if isinstance(value, types.FunctionType)
        or not (name.startswith("__") and name.endswith("__"))
    }


def _bind(cls: type, names: Mapping[str, Any]) -> None:
    """Give a class what it had, whatever its metaclass says to that."""
    for name in {*bound(cls), *names}:
        if name not in names:
            type.__delattr__(cls, name)
        elif vars(cls).get(name, _UNSET) is not names[name]:
            type.__setattr__(cls, name, names[name])


def _same_items(now: dict[Any, Any], before: dict[Any, Any]) -> bool:
    return (
        len(now) == len(before)
        and all(map(operator.is_, now, before))
        and all(map(operator.is_, now.values(), before.values()))
    )


def _same_entries(now: Any, before: list[Any]) -> bool:
    return len(now) == len(before) and all(map(operator.is_, now, before))


def behind(function: Any) -> Iterator[Any]:
    """What a function, method or partial refers to, globals excepted."""
    if isinstance(function, types.MethodType):
        yield from (function.__self__, function.__func__)
        return
    if isinstance(function, functools.partial):
        yield from (function.func, *function.args, *function.keywords.values())
    else:
        yield from function.__closure__ or ()
        yield from function.__defaults__ or ()
        yield from (function.__kwdefaults__ or {}).values()
    if vars(function):  # one without attributes may be that of the run
        yield vars(function)
