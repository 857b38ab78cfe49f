"""The loss of a sharded network on an affine subspace of its weights.

The network that is being trained is only ever read. The loss is evaluated on a copy without
weights; each part of it that FSDP shards as one unit gets its full weights from the processes
before its forward pass and drops them afterwards, as under FSDP itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_morse.distributed.sharding import flat_shards, is_unit, parameters_of_unit, piece_of
from lightning_morse.distributed.shards import Shards
from lightning_morse.distributed.unsharded_copy import Unit, copy_without_fsdp, forward_methods
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.subspace import AffineSubspace
from lightning_morse.slices.world import World

# Labels exchanges for weights outside of all units; the units are numbered from 1.
_OUTSIDE = 0


class ShardedSlice(LossSlice):
    """:class:`LossSlice` of a sharded network: the mean loss on the batches of this process.

    A call is collective: all processes evaluate the same points in the same order, each on its own
    batches, of which all have the same number. If it fails in one of them it fails in all
    (:class:`lightning_morse.distributed.processes.Lockstep`); collective calls made by the network
    itself are not covered by that.

    Besides its rows of the weights and directions, a process holds the weights of one unit of
    ``fully_shard`` at a time, and of the units around it. The evaluation is in float32 or better
    even where FSDP computes in half precision (``MixedPrecisionPolicy``), whose casts are left out.
    A weight that is read outside of the forward pass of its unit is NaN.

    Args:
        module: The network; never changed.
        subspace: Where to evaluate; its ``rows`` are the :class:`Shards` of ``module``.
        batches: The probe set of this process.
        loss_fn: As for :class:`LossSlice`.
        seed: As for :class:`LossSlice`; each process starts from it.
        batch_norm: As for :class:`LossSlice`; each process has statistics of its own.

    Raises:
        ValueError: As :class:`LossSlice`.
    """

    def __init__(
        self,
        module: nn.Module,
        subspace: AffineSubspace,
        batches: Sequence[Any],
        loss_fn: Callable[[Any, Any], Tensor | None] | None = None,
        seed: int = 0,
        batch_norm: str = "batch",
    ) -> None:
        assert isinstance(subspace.rows, Shards)
        self._shards = subspace.rows
        super().__init__(module, subspace, batches, loss_fn, seed, batch_norm=batch_norm)

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate the loss in all processes.

        Args:
            x: As for :class:`LossSlice`, the same in all processes.

        Returns:
            Losses of this process, as :class:`LossSlice`.

        Raises:
            ProcessError: If the evaluation failed in another process.
            RuntimeError: If the processes call different parts of the network.
        """
        return self._shards.lockstep.run(lambda: super(ShardedSlice, self).__call__(x))

    def _count(self, module: nn.Module) -> int:
        return len(flat_shards(module, self._shards.rank))

    def _copy(self, module: nn.Module, world: World) -> nn.Module:
        memo = world.copier.memo
        device = self._shards.lockstep.device
        self._parameters: dict[str, nn.Parameter] = {}
        # What a parameter of the copy holds while it is not filled, and this process's piece.
        self._missing: dict[str, Tensor] = {}
        self._pieces_of: dict[str, Tensor] = {}
        names = {}
        for name, parameter in module.named_parameters():
            dtype = parameter.dtype
            empty = torch.empty(0, dtype=dtype, device=device)
            self._missing[name] = empty
            if dtype.is_floating_point:
                dtype = torch.promote_types(dtype, torch.float32)
                nan = torch.full((), torch.nan, dtype=dtype, device=device)
                self._missing[name] = nan.expand(parameter.shape)
            self._pieces_of[name] = piece_of(parameter, self._shards.rank).local.reshape(-1)
            self._parameters[name] = nn.Parameter(empty, requires_grad=False)
            memo[id(parameter)] = self._parameters[name]
            names[id(parameter)] = name
        world.written.extend(self._parameters.values())
        shadow = copy_without_fsdp(module, world)
        self._units: list[Unit] = []
        outside = set(self._parameters)
        for part, copied in zip(module.modules(), shadow.modules(), strict=True):
            if is_unit(part):
                held = [names[i] for i in dict.fromkeys(map(id, parameters_of_unit(part)))]
                label = _OUTSIDE + 1 + len(self._units)
                self._units.append(Unit(held, label, self._fill, self._drop))
                self._units[-1].surround(copied, forward_methods(part))
                outside -= set(held)
        self._outside = [name for name in self._parameters if name in outside]
        return shadow

    def _bind(self) -> None:
        self._theta = torch.empty_like(self.subspace.origin)
        # From now on the pieces of trainable weights are views of the point.
        pieces = self._shards.split(self._theta)
        self._pieces_of.update(zip(self._shards.trainable, pieces, strict=True))

    def _write(self, point: Tensor) -> None:
        self.subspace.point(point, out=self._theta)
        for unit in self._units:
            unit.depth = 0  # an evaluation that failed may have left some inside
        self._drop(self._parameters)
        self._fill(self._outside, _OUTSIDE)

    def _fill(self, names: Iterable[str], label: int) -> None:
        """Give parameters their whole weights at the point."""
        pieces = {name: self._pieces_of[name].to(self._missing[name].dtype) for name in names}
        for name, whole in self._shards.whole(pieces, label).items():
            self._parameters[name].data = whole.view(self._shards.shape(name))

    def _drop(self, names: Iterable[str]) -> None:
        """Free the weights of parameters, except those that another unit still holds."""
        held = {name for unit in self._units if unit.depth for name in unit.names}
        for name in names:
            if name not in held:
                self._parameters[name].data = self._missing[name]
