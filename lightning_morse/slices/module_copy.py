"""A copy of a module that can be evaluated without touching the original or its trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from lightning_morse.slices.own_classes import give_own_class
from lightning_morse.slices.ownership import users_bases
from lightning_morse.slices.reached import called_by
from lightning_morse.slices.world import World

# Where a LightningModule keeps what it does not own; it drops these when it is copied.
_BACK_REFERENCES = ("_trainer", "_fabric", "_fabric_optimizers")
_SHARED = ("_device_mesh",)


def shadow_copy(module: nn.Module, world: World | None = None) -> nn.Module:
    """A copy of a module that can be evaluated without touching the original.

    It is in eval mode, uncompiled, and requires no gradients. Stand-ins take the place of its
    trainer and of everything else that the module refers to but does not own (optimizers,
    schedulers, callbacks, loggers, loaders); they can be read, and written to without the run
    noticing (:mod:`lightning_morse.slices.stand_ins`). ``log``, ``log_dict``, ``print`` and
    ``logger`` of the copy do nothing.

    Hooks are copied and run, since some of them compute weights (pruning, weight norm), together
    with what they close over. So are lists, dicts and arrays that are attributes of a class, and
    what its methods close over and have as default arguments.
    What a step does to global variables is undone elsewhere
    (:mod:`lightning_morse.slices.global_state`), and to files or other processes it is not.

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
        give_own_class(copied, world)
    for part in shadow.modules():
        # Not eval(): one of the user's may return nothing, or merge weights that are to move.
        part.training = False
    return shadow


def copy_of_loss(loss_fn: Callable[..., Any] | None, world: World) -> Callable[..., Any] | None:
    """A copy of a loss function, to be called on the copy of a module.

    It has copies of what the original keeps in closures, default arguments and attributes. A bound
    method of the module is one of its copy.

    Args:
        loss_fn: A function, a bound method, a :class:`functools.partial`, or an object that is
            called; None for none.
        world: That of the copy of the module.
    """
    if isinstance(loss_fn, FunctionType) and _is_ours(loss_fn):  # and hands on what it finds
        world.shared.append(loss_fn)
        return loss_fn
    made: Callable[..., Any] | None = world.held_by(loss_fn, "loss_fn")
    for part in called_by(made):
        if not isinstance(part, FunctionType | type) and users_bases(type(part)):
            with contextlib.suppress(TypeError):  # a class whose instances cannot change theirs
                give_own_class(part, world)
    return made


def _is_ours(function: FunctionType) -> bool:
    return str(function.__globals__.get("__name__")).startswith("lightning_morse.")
