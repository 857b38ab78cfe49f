"""Layers that keep running statistics, in a copy of a network, as they compute in a training step.

The loss that training minimises is that of the statistics of each batch; the running ones lag
behind, and away from the current weights they are those of another network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_morse.slices.copying import bare_clone
from lightning_morse.slices.own_classes import Unregistered, derived, preceding

CHOICES = ("batch", "running")

# How torch complains about a batch that has no statistics: one value per channel, one pixel.
TOO_FEW = "Expected more than 1"
_EXCHANGES = "c10d"  # in the names of the libraries of collective operators


@dataclass
class Statistics:
    """Which statistics the layers of a copy use.

    Attributes:
        layers: Names of the layers that keep running statistics.
        of_batch: Names of those that use the statistics of each batch.
        too_few: Names of those among them that got one value per channel, and used the running
            statistics there.
        exchanging: Names of those that would have talked to other processes, likewise.
    """

    layers: list[str] = field(default_factory=list)
    of_batch: list[str] = field(default_factory=list)
    too_few: dict[str, None] = field(default_factory=dict)
    exchanging: dict[str, None] = field(default_factory=dict)


def checked_choice(batch_norm: Any) -> str:
    """Check which statistics are asked for.

    Raises:
        ValueError: If it is neither ``"batch"`` nor ``"running"``.
    """
    if not isinstance(batch_norm, str) or batch_norm not in CHOICES:
        raise ValueError(
            "batch_norm must be 'batch' (the loss that training minimises) or 'running' (the loss "
            f"as deployed), got {batch_norm!r}"
        )
    return batch_norm


def choose_statistics(module: nn.Module, shadow: nn.Module, batch_norm: str) -> Statistics:
    """Let layers of a copy use the statistics that a training step would use.

    With ``"batch"`` every layer that keeps running statistics and is in training mode in the
    network uses those of the batch in the copy. One that is in eval mode, as part of a frozen
    backbone or because all of the network is, uses its running statistics, as it does in a step.
    These are never updated: what a layer does to its buffers is undone after each call of it.
    Everything else in the copy stays in eval mode.

    A layer of torch does not talk to other processes, :class:`torch.nn.SyncBatchNorm` included: not
    all of them evaluate the copy. One of another library that would uses its running statistics.
    So does a layer that torch refuses to evaluate for want of a second value per channel.

    Such layers are those of torch for batch and instance norm, with whatever is derived from them,
    and other modules without submodules that have buffers ``running_mean`` and ``running_var``. Not
    those compiled by ``torch.jit``, which use their running statistics.

    Args:
        module: The network, in the modes in which it trains.
        shadow: A copy of it in eval mode; changed.
        batch_norm: ``"batch"`` or ``"running"``.

    Returns:
        What the layers use; ``too_few`` and ``exchanging`` grow with the evaluations.

    Example:
        >>> norm, twin = nn.BatchNorm1d(1), nn.BatchNorm1d(1).eval()
        >>> choose_statistics(norm, twin, "batch").of_batch
        ['']
        >>> twin(torch.tensor([[2.0], [4.0]])).round().flatten().tolist()
        [-1.0, 1.0]
        >>> twin.running_mean.tolist()
        [0.0]
    """
    found = Statistics()
    parts = zip(module.named_modules(), shadow.modules(), strict=True)
    for (name, part), copied in parts:
        if not _keeps_statistics(part):
            continue
        found.layers.append(name)
        if batch_norm == "batch" and part.training:
            found.of_batch.append(name)
            if isinstance(copied, nn.SyncBatchNorm):
                _keep_to_this_process(copied)
            vars(copied)["training"] = True  # not train(), which reaches its submodules
            vars(copied)["forward"] = _StepForward(copied, name, found)
    return found


def _keeps_statistics(part: nn.Module) -> bool:
    if isinstance(part, torch.jit.ScriptModule):
        return False
    own = vars(part).get("_buffers", {})
    if not all(isinstance(own.get(name), Tensor) for name in ("running_mean", "running_var")):
        return False
    return isinstance(part, _NormBase) or not any(part.children())


class _StepForward:
    """The forward pass of a layer as in a training step, without a trace in its buffers.

    Args:
        layer: The layer, in the copy.
        name: Its name in the network.
        found: Where to note that it had to use its running statistics.
    """

    def __init__(self, layer: nn.Module, name: str, found: Statistics) -> None:
        self._layer = layer
        self._name = name
        self._found = found
        self._own = vars(layer).get("forward")
        homes = [cls.__module__ for cls in type(layer).__mro__ if "forward" in vars(cls)]
        known = ("torch.", f"{__name__}.")
        self._is_of_torch = self._own is None and all(f"{h}.".startswith(known) for h in homes)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the layer."""
        layer = self._layer
        if not layer.training:  # the step has set it to eval mode
            return self._plain(*args, **kwargs)
        try:
            with ExitStack() as stack:
                if not self._is_of_torch and _is_one_of_several():
                    stack.enter_context(_Alone())  # type: ignore[no-untyped-call]
                stack.enter_context(_buffers_kept(layer))
                return self._plain(*args, **kwargs)
        except ValueError as error:
            if TOO_FEW not in str(error):
                raise
            self._found.too_few.setdefault(self._name)
        except _ExchangeError:
            self._found.exchanging.setdefault(self._name)
        layer.training = False
        try:
            return self._plain(*args, **kwargs)
        finally:
            layer.training = True

    def _plain(self, *args: Any, **kwargs: Any) -> Any:
        if self._own is not None:
            return self._own(*args, **kwargs)
        return type(self._layer).forward(self._layer, *args, **kwargs)


@contextmanager
def _buffers_kept(layer: nn.Module) -> Iterator[None]:
    """Let a layer write to clones of its buffers, which are dropped.

    A momentum of zero would not do, since zero times an infinite mean is NaN.
    """
    before = dict(layer._buffers)
    layer._buffers.update({n: bare_clone(t) for n, t in before.items() if t is not None})
    try:
        yield
    finally:
        layer._buffers.clear()
        layer._buffers.update(before)


# ------------------------------------------------------------------ several processes


class _OfThisProcess(nn.SyncBatchNorm):
    """Goes between SyncBatchNorm and what is derived from it: no exchange of statistics."""

    def forward(self, input: Tensor) -> Tensor:
        """As a layer that is not synchronised."""
        return _BatchNorm.forward(self, input)


def _keep_to_this_process(copied: nn.SyncBatchNorm) -> None:
    cls: Any = type(copied)
    parts = (cls,) if cls is not nn.SyncBatchNorm else ()
    copied.__class__ = derived(cls, (preceding(Unregistered, cls), *parts, _OfThisProcess), {})


def _is_one_of_several() -> bool:
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


class _ExchangeError(RuntimeError):
    """A layer was about to talk to other processes."""


class _Alone(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """No exchange between processes: those that do not take part would leave this one waiting."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if _EXCHANGES in func.namespace:
            raise _ExchangeError(f"a layer calls {func}")
        return func(*args, **(kwargs or {}))
