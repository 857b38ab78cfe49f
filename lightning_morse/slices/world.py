"""The world of a module's copy: what stands in for which object that it does not own."""

from __future__ import annotations

import io
import multiprocessing.synchronize
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_morse.slices.copying import Check, Copier
from lightning_morse.slices.gradients import Gradients
from lightning_morse.slices.objects import attributes_of, is_atomic
from lightning_morse.slices.stand_ins import (
    Impatient,
    Inert,
    Overlay,
    Untouchable,
    changed,
    forget_writes,
    keep,
)

# Families of classes, by the modules that define them, of Lightning under either name. Subclasses
# belong to the family.
_LIGHTNING = ("pytorch_lightning.", "lightning.pytorch.", "lightning_fabric.", "lightning.fabric.")
# Others that write to the world outside, in threads of their own.
_WRITERS = ("torch.utils.tensorboard.", "tensorboardX.")
# Bars that can be told to show nothing.
_BARS = ("tqdm.",)
_SILENT = ("loggers.", "profilers.", "callbacks.progress.")
_PARTS = (
    *("trainer.", "callbacks.", "strategies.", "loops.", "accelerators.", "plugins.", "fabric"),
    *("core.datamodule", "core.hooks", "core.optimizer", "connector", "wrappers"),
    "utilities.combined_loader",
)
_LARGE_BYTES = 1 << 28
# Nobody else waits for a lock of the copy.
_LOCKS_OF_PROCESSES: dict[type, Callable[[], Any]] = {
    multiprocessing.synchronize.Lock: threading.Lock,
    multiprocessing.synchronize.RLock: threading.RLock,
}
# Names inside a module that say nothing of an attribute.
_CONTAINERS_OF_MODULES = ("_modules", "_buffers", "_parameters")


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
        gradients: Those of the copy.
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
        self.gradients = Gradients(self._trained)
        # Receives what is copied from the run while a step is running.
        self.remember: Callable[[Any], None] = lambda value: None
        self._overlays: list[weakref.ref[Any]] = []
        self._where: list[str] = ["self"]
        self._is_in_function = False
        self._found: tuple[int, list[Tensor]] = (-1, [])

    def _trained(self) -> list[Tensor]:
        """Copies of tensors that may have gradients, but none that is shared with the run."""
        memo, originals = self.copier.memo, self.copier.originals
        if self._found[0] != len(memo):
            found = [
                made
                for made in memo.values()
                if isinstance(made, Tensor) and originals.get(id(made), made) is not made
            ]
            may = [one for one in found if one.requires_grad or isinstance(one, nn.Parameter)]
            self._found = len(memo), may
        return self._found[1]

    def forget(self) -> None:
        """Undo all writes to the stand-ins."""
        alive = []
        for reference in self._overlays:
            overlay = reference()
            if overlay is not None:
                alive.append(reference)
                for where in changed(overlay):
                    self.note(where)
                forget_writes(overlay)
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
        if type(value) in _LOCKS_OF_PROCESSES:
            return _LOCKS_OF_PROCESSES[type(value)]()
        family = None if isinstance(value, dict | list) else _family(type(value))
        if family is None:
            return None
        made = self.overlay(value, self._place, Inert if family == "silent" else Overlay)
        if family == "bar":  # not inert, since it may be what a step loops over
            keep(made, "disable", True)
        return made

    def guarded(self, value: Any) -> Any:
        """The stand-in for an object that cannot be copied."""
        if isinstance(attributes_of(value), dict) and not isinstance(value, type):
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
        # Sparse tensors have no `nbytes`.
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
    """The family of classes a module does not own: ``"silent"``, ``"bar"``, ``"read"``, or None.

    A module is copied whatever else it is: a data set, or a LightningModule, which derives from
    some of these classes.
    """
    found = None
    if issubclass(cls, nn.Module):
        return None
    for base in cls.__mro__:
        home = f"{base.__module__}."
        if issubclass(base, torch.optim.Optimizer):
            return "silent"
        if home.startswith(_WRITERS):
            return "silent"
        if home.startswith(_BARS):
            return "bar"
        if home.startswith(("torch.optim.lr_scheduler.", "torch.utils.data.")):
            found = "read"
        inside = next((home.removeprefix(p) for p in _LIGHTNING if home.startswith(p)), None)
        if inside is None:
            continue
        if inside.startswith(_SILENT):
            return "silent"
        if inside.startswith(_PARTS):
            found = "read"
    return found
