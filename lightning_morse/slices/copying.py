"""Copies of everything a module refers to, including what :func:`copy.deepcopy` refuses.

A copy shares nothing with the original that could be written to. An object that cannot be copied is
replaced by a stand-in (:mod:`lightning_morse.slices.stand_ins`), so that it can at least be read.
"""

from __future__ import annotations

import collections
import contextlib
import copyreg
import functools
import io
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lightning_morse.slices.objects import (
    OWN_CLASS,
    cannot_be_written,
    holds_something,
    is_atomic,
    put_in_slot,
    slots_of,
)

# Modules of torch whose objects are handles of processes and devices, and are shared.
_HANDLES = ("torch.distributed", "torch._C._distributed")
_WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
# A copy would be another handle of the same thing.
_ATTACHED = (SharedMemory,)
_LOCKS = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}
_SAID_OF_FUNCTIONS = (
    *("__module__", "__qualname__", "__doc__"),
    "__annotate__" if sys.version_info >= (3, 14) else "__annotations__",
)
_CONTAINERS = (list, dict, set, collections.OrderedDict, collections.defaultdict, collections.deque)


def bare_clone(tensor: Tensor) -> Tensor:
    """A detached copy of the values of a tensor, whatever ``clone`` means to its class."""
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.clone(Tensor.detach(tensor))


# Raises where there is no time left for more.
Check = Callable[[], None]
_CHECKED_EVERY = 256


class Paced:
    """Counts objects, and asks every few hundred whether there is time for more.

    Args:
        check: Raises if there is not; None if there always is.

    Attributes:
        given_up: Whether it has raised.
    """

    def __init__(self, check: Check | None) -> None:
        self._check = check
        self._n = 0
        self.given_up = False

    def one_more(self) -> None:
        """Count one object.

        Raises:
            Exception: What the check raises, and again if it is asked once more.
        """
        self._n += 1
        if self._check is not None and (self.given_up or self._n % _CHECKED_EVERY == 0):
            self.given_up = True
            self._check()
            self.given_up = False

    def through(self, items: Iterable[Any]) -> Iterator[Any]:
        """Count the objects as they are taken."""
        if self._check is None:
            yield from items
            return
        for item in items:
            self.one_more()
            yield item


class Copier:
    """Copies objects, each once, together with everything they refer to.

    Args:
        replaced: Takes an object and returns its replacement in the copy, or None if it is to be
            copied like any other.
        guarded: Takes an object that cannot be copied and returns its replacement.
        check: Called after every few hundred objects; what it raises ends the copying.

    Attributes:
        memo: Copies by the ``id`` of the original, as in :func:`copy.deepcopy`. Entries that are
            there beforehand are used.
        originals: Tensors by the ``id`` of their copies.
    """

    def __init__(
        self,
        replaced: Callable[[Any], Any | None],
        guarded: Callable[[Any], Any],
        memo: dict[int, Any] | None = None,
        check: Check | None = None,
    ) -> None:
        self._paced = Paced(check)
        self.memo: dict[int, Any] = {} if memo is None else memo
        # Names of the attributes on the way to the object that is being copied.
        self.path: list[str] = []
        self._replaced = replaced
        self._guarded = guarded
        self.originals: dict[int, Tensor] = {}
        # Keeps originals and copies alive: the id of a dead object may be used again.
        self._alive: list[Any] = []

    def copy(self, value: Any) -> Any:
        """The copy of an object; the same for the same object."""
        if type(value) in weakref.ProxyTypes:  # which passes for what it leads to
            return self._behind_proxy(value)
        if is_atomic(value):
            return value
        if id(value) in self.memo:
            return self.memo[id(value)]
        self._paced.one_more()
        made = self._replaced(value)
        if made is None:
            made = self._copied(value)
        return self._known(value, made)

    def _behind_proxy(self, value: Any) -> Any:
        try:
            return self.copy(value.__init__.__self__)  # a bound method knows its owner
        except ReferenceError:  # it is gone
            return value

    def _known(self, value: Any, made: Any) -> Any:
        self.memo[id(value)] = made
        self._alive += (value, made)
        if isinstance(value, Tensor):
            self.originals[id(made)] = value
        return made

    def _copied(self, value: Any) -> Any:
        cls = type(value)
        if isinstance(value, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            return self._as_it_says(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        if cls in _WEAK:
            return self._weak_container(value)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if cls in _CONTAINERS:
            return self._container(value)
        if cls is tuple:
            copied = tuple(map(self.copy, value))
            return value if all(map(_same, copied, value)) else copied
        if cls is frozenset:
            return frozenset(map(self.copy, value))
        if cls in _LOCKS:  # nobody else waits for a lock of the copy
            return _LOCKS[cls]()
        if cls is types.MethodType:
            return types.MethodType(self.copy(value.__func__), self.copy(value.__self__))
        if cls is types.FunctionType:
            return self._function(value)
        if cls is types.CellType:
            return self._cell(value)
        if cls is weakref.WeakMethod:
            bound = value()
            return value if bound is None else weakref.WeakMethod(self.copy(bound))
        if cls is functools._lru_cache_wrapper:
            return functools.lru_cache(**value.cache_parameters())(self.copy(value.__wrapped__))
        if cls is types.MappingProxyType:
            return types.MappingProxyType(self.copy(dict(value)))
        if cls is weakref.ref:
            target = value()
            return value if target is None else weakref.ref(self.copy(target))
        if isinstance(value, io.IOBase):
            return self._guarded(value)
        return self._object(value)

    def _container(self, value: Any) -> Any:
        made = value.copy()  # keeps order, default factory and maximal length
        self._known(value, made)
        made.clear()
        if isinstance(value, dict):
            made.update({self.copy(k): self._named(k, v) for k, v in value.items()})
        elif isinstance(value, set):
            made.update(map(self.copy, value))
        else:
            made.extend(map(self.copy, value))
        return made

    def _named(self, name: Any, value: Any) -> Any:
        """The copy of a value under a name, by which messages call it."""
        self.path.append(str(name) if isinstance(name, str) else "")
        try:
            return self.copy(value)
        finally:
            self.path.pop()

    def _module(self, module: nn.Module) -> nn.Module:
        """A module by its attributes, whatever it makes of copying and pickling itself."""
        made: nn.Module = self._known(module, object.__new__(type(module)))
        names = {name: self._named(name, value) for name, value in vars(module).items()}
        vars(made).update(names)
        for name in slots_of(type(module)):
            if hasattr(module, name):
                put_in_slot(made, name, self.copy(getattr(module, name)))
        return made

    def _weak_container(self, value: Any) -> Any:
        made = self._known(value, type(value)())
        if isinstance(value, weakref.WeakSet):
            for member in list(value):
                made.add(self.copy(member))
        else:
            for key, content in list(value.items()):
                made[self.copy(key)] = self.copy(content)
        return made

    def _as_it_says(self, value: Any) -> Any:
        """What the object's own ``__deepcopy__`` makes; one that fails leaves nothing behind."""
        known = dict(self.memo)
        try:
            return value.__deepcopy__(self.memo)
        except Exception:
            self.memo.clear()
            self.memo.update(known)
            return self._guarded(value)

    def _tensor(self, value: Tensor) -> Tensor:
        if str(type(value).__module__).startswith(_HANDLES) and type(value) is not Tensor:
            return value  # a piece of a sharded tensor
        made = self._known(value, self._bare_tensor(value))
        # A parameter says nothing of its attributes when it is copied.
        lost = {name: v for name, v in vars(value).items() if name not in vars(made)}
        vars(made).update({name: self._named(name, v) for name, v in lost.items()})
        return cast("Tensor", made)

    def _bare_tensor(self, value: Tensor) -> Tensor:
        """A copy of a tensor that may lack attributes that were given to it."""
        if type(value) is Tensor and not value.is_leaf:  # deepcopy refuses tensors with a graph
            return value.detach().clone()
        if type(value) is Tensor or _is_part_of_storage(value):
            bare = value.detach()  # without attributes, which may have no copy
            made = _deep_copy(bare, self.memo)  # keeps views of one storage together
            del self.memo[id(bare)]
            if type(value) is nn.Parameter:
                return nn.Parameter(made, value.requires_grad)
            return made.requires_grad_(value.requires_grad)
        try:
            if value.is_leaf:
                return _deep_copy(value, self.memo)
        except Exception:  # a subclass may refuse in any way
            pass
        made = bare_clone(value)
        return made if type(made) is type(value) else made.as_subclass(type(value))

    def _function(self, value: types.FunctionType) -> types.FunctionType:
        """A function with copies of what it holds: a hook may close over its module."""
        eager = getattr(value, "_torchdynamo_orig_callable", None)
        if isinstance(eager, types.FunctionType):
            return cast("types.FunctionType", self._known(value, self.copy(eager)))
        if not holds_something(value):
            return value
        defaults, keywords = value.__defaults__ or (), value.__kwdefaults__ or {}
        if not value.__dict__ and value.__code__.co_freevars in ((), OWN_CLASS):
            held = (*defaults, *keywords.values())
            if all(map(_same, map(self.copy, held), held)):
                return value
        named = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        cells = tuple(c if name in OWN_CLASS else self.copy(c) for name, c in named)
        if (known := self.memo.get(id(value))) is not None:  # it closes over itself
            return cast("types.FunctionType", known)
        made = types.FunctionType(
            value.__code__, value.__globals__, value.__name__, None, cells or None
        )
        self._known(value, made)
        made.__defaults__ = tuple(map(self.copy, defaults)) or None
        made.__kwdefaults__ = {k: self.copy(v) for k, v in keywords.items()} or None
        made.__dict__.update({k: self.copy(v) for k, v in vars(value).items()})
        for name in _SAID_OF_FUNCTIONS:
            if hasattr(value, name):
                setattr(made, name, getattr(value, name))
        return made

    def _cell(self, cell: types.CellType) -> types.CellType:
        """Always another one: what a function keeps with ``nonlocal`` is written to the cell."""
        made = types.CellType()
        self._known(cell, made)
        with contextlib.suppress(ValueError):  # still empty
            made.cell_contents = self.copy(cell.cell_contents)
        return made

    def _object(self, value: Any) -> Any:
        """An object copied as :func:`copy.deepcopy` would, or guarded where that fails."""
        if isinstance(value, np.ndarray) and value.dtype != object:
            return value if cannot_be_written(value) else value.copy()
        cls = type(value)
        if str(cls.__module__).startswith(_HANDLES):
            return value
        if hasattr(cls, "__del__") or isinstance(value, _ATTACHED):
            return self._guarded(value)  # what becomes of the copy in the end, becomes of all
        own = getattr(cls, "__deepcopy__", None)
        if own is not None and not isinstance(own, types.FunctionType):
            return self._as_it_says(value)
        try:
            reducer = copyreg.dispatch_table.get(cls)
            recipe = reducer(value) if reducer else value.__reduce_ex__(4)
            return value if isinstance(recipe, str) else self._rebuilt(value, *recipe)
        except Exception:
            if self._paced.given_up:
                raise
            self.memo.pop(id(value), None)
            return self._guarded(value)

    def _rebuilt(
        self,
        value: Any,
        make: Callable[..., Any],
        arguments: tuple[Any, ...],
        state: Any = None,
        items: Any = None,
        pairs: Any = None,
        *_: Any,
    ) -> Any:
        made = make(*map(self.copy, arguments))
        if made is value:  # there is only one: a constant, unless it holds something of its own
            if getattr(value, "__dict__", None):
                raise TypeError(f"a {type(value).__name__} has no copy")
            return value
        self._known(value, made)
        replaces = isinstance(state, dict) and type(state) is not dict  # self.__dict__ = self
        replaces = replaces and state is getattr(value, "__dict__", None)
        state = self.copy(state)
        if replaces:
            made.__dict__ = state
        elif hasattr(type(made), "__setstate__") and state is not None:
            made.__setstate__(state)
        elif state is not None:
            names, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
            if names:
                vars(made).update(names)
            for name, content in (slots or {}).items():
                put_in_slot(made, name, content)
        for item in items or ():
            made.append(self.copy(item))
        for key, content in pairs or ():
            made[self.copy(key)] = self.copy(content)
        return made


def _is_part_of_storage(value: Tensor) -> bool:
    """Whether a weight is a view of something larger, as of one vector of all."""
    if type(value) is not nn.Parameter or value.layout is not torch.strided or value.is_meta:
        return False
    if type(value.data) is not Tensor or value.is_nested:
        return False
    return 0 < value.numel() * value.element_size() < value.untyped_storage().nbytes()


def _deep_copy(tensor: Any, memo: dict[int, Any]) -> Tensor:
    copied: Tensor = tensor.__deepcopy__(memo)
    return copied


def _same(a: Any, b: Any) -> bool:
    return a is b
