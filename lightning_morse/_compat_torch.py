"""Parts of torch that are private or not in every version, each with the versions it was seen in.

Nothing else in the package reads them. Where one is gone, the error says so and what to do.
"""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

try:  # public since torch 2.6, in builds with distributed
    from torch.distributed.fsdp import FSDPModule as FSDPModule
    from torch.distributed.fsdp import FullyShardedDataParallel as FullyShardedDataParallel
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor as DTensor
    from torch.distributed.tensor import Replicate as Replicate
    from torch.distributed.tensor import Shard as Shard
except ImportError:  # pragma: no cover (not with the pinned torch)

    class _Absent:
        """Nothing is an instance of it: without these classes no network is sharded."""

    FSDPModule = FullyShardedDataParallel = DTensor = Replicate = Shard = _Absent  # type: ignore
    fully_shard = None  # type: ignore[assignment]

_FSDP_HOME = "torch.distributed.fsdp"
_WITHOUT_FSDP = "Networks sharded by fully_shard cannot be analysed"


class PrivateAttributeError(RuntimeError):
    """A private attribute of torch is missing."""

    def __init__(self, what: str, seen_in: str, without: str = _WITHOUT_FSDP) -> None:
        super().__init__(
            f"{what} is missing from torch {torch.__version__}; it was seen in torch {seen_in}. "
            f"{without} without it: install a version that has it, or leave the monitor out"
        )


def fsdp_state(unit: nn.Module) -> object:
    """The object in which ``fully_shard`` keeps its state of a unit.

    ``fully_shard.state``, seen in torch 2.13.

    Raises:
        PrivateAttributeError: If there is no such function.
    """
    state_of = getattr(fully_shard, "state", None)
    if state_of is None:
        raise PrivateAttributeError("fully_shard.state", "2.13")
    return state_of(unit)


def class_before_fsdp(unit: nn.Module) -> type[Any]:
    """The class that a unit had before ``fully_shard`` derived one from it and ``FSDPModule``.

    Bases ``(FSDPModule, <class>)`` of the new class, seen in torch 2.13.

    Raises:
        PrivateAttributeError: If the class of the unit has other bases.
    """
    bases = type(unit).__bases__
    if len(bases) != 2 or bases[0] is not FSDPModule:
        raise PrivateAttributeError("the class FSDP<name>(FSDPModule, <name>) of a unit", "2.13")
    return bases[1]


def is_of_fsdp(value: Any) -> bool:
    """Whether a value is a function or method defined by FSDP.

    Recognised by its module, ``torch.distributed.fsdp...``, seen in torch 2.13.
    """
    function = value.__func__ if isinstance(value, MethodType) else value
    home = function.__globals__["__name__"] if isinstance(function, FunctionType) else ""
    return bool(home.startswith(_FSDP_HOME))


def remove_fsdp_hooks(module: nn.Module) -> None:
    """Remove the forward hooks that ``fully_shard`` has registered in a module and its parts.

    ``Module._forward_pre_hooks`` and ``Module._forward_hooks``, seen in torch 2.13.

    Raises:
        PrivateAttributeError: If these are gone, or hold no hook of FSDP: hooks that are not
            recognised would make the copy gather the weights of the network in training.
    """
    removed = 0
    for part in module.modules():
        for name in ("_forward_pre_hooks", "_forward_hooks"):
            hooks = getattr(part, name, None)
            if hooks is None:
                raise PrivateAttributeError(f"torch.nn.Module.{name}", "2.13")
            for key in [key for key, hook in hooks.items() if is_of_fsdp(hook)]:
                del hooks[key]
                removed += 1
    if not removed:
        raise PrivateAttributeError(f"a forward hook from {_FSDP_HOME} on a sharded unit", "2.13")


def file_writer(writer: Any) -> Any:
    """The writer of the event file of a ``SummaryWriter``, which is begun where there is none.

    ``SummaryWriter._get_file_writer``, seen in torch 2.13; Lightning's ``TensorBoardLogger`` calls
    it too.

    Raises:
        PrivateAttributeError: If there is no such method, and no event file yet.
    """
    begin = getattr(writer, "_get_file_writer", None)
    if begin is not None:
        return begin()
    if writer.file_writer is None:
        what = "SummaryWriter._get_file_writer"
        raise PrivateAttributeError(what, "2.13", "Figures cannot be given to TensorBoard")
    return writer.file_writer
