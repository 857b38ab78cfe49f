"""A copy of a sharded network without FSDP, whose units can be filled while they compute."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from lightning_morse._compat_torch import (
    FSDPModule,
    class_before_fsdp,
    fsdp_state,
    is_of_fsdp,
    remove_fsdp_hooks,
)
from lightning_morse.distributed.sharding import is_unit
from lightning_morse.slices.module_copy import shadow_copy
from lightning_morse.slices.stand_ins import Silence
from lightning_morse.slices.world import World

# Protocol of object.__reduce_ex__ that copy.copy uses; its third item is the state of the object.
_COPY_PROTOCOL = 4


class Unit:
    """One unit of ``fully_shard`` in the copy, which holds its weights while it computes.

    Args:
        names: Names of its parameters in the network.
        label: Identifies its exchanges, another for every unit.
        fill: Gets the weights of parameters, given their names and the label.
        drop: Frees them again.

    Attributes:
        names: As given.
        depth: How many calls of its methods are in progress; it holds its weights if any is.
    """

    def __init__(
        self,
        names: Sequence[str],
        label: int,
        fill: Callable[[Iterable[str], int], None],
        drop: Callable[[Iterable[str]], None],
    ) -> None:
        self.names = names
        self.depth = 0
        self._label = label
        self._fill = fill
        self._drop = drop

    def surround(self, module: nn.Module, methods: Sequence[str]) -> None:
        """Hold the weights during forward passes of a module, and during some of its methods.

        Args:
            module: The unit in the copy.
            methods: Names of methods given to ``register_fsdp_forward_method``.
        """
        module.register_forward_pre_hook(lambda *_: self._enter(), prepend=True)
        module.register_forward_hook(lambda *_: self._leave(), always_call=True)
        for name in methods:
            del vars(module)[name]
            vars(module)[name] = self._surrounded(getattr(module, name))

    def _surrounded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def surrounded(*args: Any, **kwargs: Any) -> Any:
            self._enter()
            try:
                return method(*args, **kwargs)
            finally:
                self._leave()

        return surrounded

    def _enter(self) -> None:
        self.depth += 1
        if self.depth == 1:
            self._fill(self.names, self._label)

    def _leave(self) -> None:
        self.depth -= 1
        if not self.depth:
            self._drop(self.names)


class _Unsharded:
    """Goes before the class of a copied unit: the methods of FSDP are there and do nothing."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep out of any registry of subclasses that the class of the module has."""


for _name in vars(FSDPModule):
    if not _name.startswith("_"):
        setattr(_Unsharded, _name, Silence())


def copy_without_fsdp(module: nn.Module, world: World) -> nn.Module:
    """A shadow copy without FSDP, which forbids copies of its units.

    Args:
        module: A sharded network; never changed.
        world: Makes the copy; its memo must hold what stands for the parameters.

    Raises:
        PrivateAttributeError: If this version of torch keeps the state of FSDP somewhere else.
    """
    twins, memo = [], world.copier.memo
    for part in module.modules():
        if is_unit(part):
            cls: Any = class_before_fsdp(part)
            namespace = {"__module__": cls.__module__}
            twin = object.__new__(type(cls)(cls.__name__, (_Unsharded, cls), namespace))
            twins.append((part, twin))
            memo[id(part)] = twin
            state = fsdp_state(part)
            memo[id(state)] = state
    for part, twin in twins:
        twin.__setstate__(world.copier.copy(part.__reduce_ex__(_COPY_PROTOCOL)[2]))
    shadow = shadow_copy(module, world)
    remove_fsdp_hooks(shadow)
    return shadow


def forward_methods(unit: nn.Module) -> list[str]:
    """Names of the methods of a unit given to ``register_fsdp_forward_method``."""
    return [name for name, value in vars(unit).items() if is_of_fsdp(value)]
