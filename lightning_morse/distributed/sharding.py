"""How ``fully_shard`` (FSDP2) spreads a network over processes, and which layouts are supported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_morse._compat_torch import (
    DTensor,
    FSDPModule,
    FullyShardedDataParallel,
    Replicate,
    Shard,
)
from lightning_morse.slices.parameters import flatten, trainable_parameters


def is_unit(module: nn.Module) -> bool:
    """Whether a module itself has been given to ``fully_shard``."""
    return isinstance(module, FSDPModule)


def is_sharded(module: nn.Module) -> bool:
    """Whether a part of a module has been given to ``fully_shard``."""
    return any(map(is_unit, module.modules()))


def check_sharding(module: nn.Module, n_processes: int) -> None:
    """Refuse shardings that are not supported.

    Args:
        module: The network.
        n_processes: Number of processes of the run.

    Raises:
        ValueError: If a parameter is split along more than one axis (tensor parallel meshes), in
            uncommon ways, outside of ``fully_shard``, or over only some of the processes; or if a
            part is wrapped in ``FullyShardedDataParallel`` (FSDP1).
    """
    if any(isinstance(part, FullyShardedDataParallel) for part in module.modules()):
        raise ValueError(
            "sharded weights must be those of fully_shard, got FullyShardedDataParallel (FSDP1). "
            "Use ModelParallelStrategy and fully_shard, or leave the monitor out"
        )
    units = [part for part in module.modules() if is_unit(part)]
    inside = {id(p) for unit in units for p in unit.parameters()}
    for name, parameter in module.named_parameters():
        if not isinstance(parameter, DTensor):
            continue
        kinds = [type(placement) for placement in parameter.placements]
        plain = all(kind in (Shard, Replicate) for kind in kinds) and kinds.count(Shard) <= 1
        if not plain or id(parameter) not in inside:
            raise ValueError(
                "sharded weights must be those of fully_shard, split along one axis, got "
                f"{parameter.placements} for {name!r}"
                f"{'' if id(parameter) in inside else ', which fully_shard does not hold'}. Tensor "
                "parallel networks are not supported: use tensor_parallel_size=1 and "
                "fully_shard(..., mesh=self.device_mesh['data_parallel'])"
            )
        if parameter.device_mesh.size() != n_processes:
            raise ValueError(
                f"sharded weights must be spread over all {n_processes} processes, got "
                f"{parameter.device_mesh} for {name!r}. Shard over the mesh of all of them"
            )


def compute_device(module: nn.Module) -> torch.device:
    """Where FSDP computes, which is not where offloaded weights are kept."""
    meshes = [p.device_mesh for p in module.parameters() if isinstance(p, DTensor)]
    return torch.device(meshes[0].device_type if meshes else "cpu")


class Piece(NamedTuple):
    """The part of a parameter that a process contributes to the whole.

    Attributes:
        local: The entries; none where another process contributes the same ones.
        axis: The axis along which the parameter is split.
        place: Position of this piece along it, among those of all processes.
    """

    local: Tensor
    axis: int
    place: int


def piece_of(parameter: Tensor, rank: int) -> Piece:
    """The part of a parameter that a process contributes; together they are all of it, once.

    Parameters that are not sharded belong to the first process, replicas to the first of each kind.
    """
    if not isinstance(parameter, DTensor):
        local = parameter.detach().reshape(parameter.shape or (1,))
        return Piece(local[: len(local) if rank == 0 else 0], 0, rank)
    local = parameter.detach().to_local()  # type: ignore[attr-defined]
    axis, place, first = 0, 0, True
    coordinate = parameter.device_mesh.get_coordinate()
    assert coordinate is not None, "check_sharding has seen that the mesh holds all processes"
    for at, placement in zip(coordinate, parameter.placements, strict=True):
        if isinstance(placement, Shard):
            axis, place = placement.dim, at
        else:
            first = first and at == 0
    return Piece(local.narrow(axis, 0, local.shape[axis] if first else 0), axis, place)


def parameters_of_unit(unit: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that FSDP gathers for a unit: all but those of units inside it."""
    yield from unit.parameters(recurse=False)
    for child in unit.children():
        if not is_unit(child):
            yield from parameters_of_unit(child)


def reshard(module: nn.Module) -> None:
    """Drop full weights that FSDP has left in place; it gathers the same ones again when needed."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def flat_shards(module: nn.Module, rank: int) -> Tensor:
    """The trainable weights of one process as one vector; together they are all, each once.

    Full weights left over from a forward pass without a backward pass are dropped first
    (:func:`reshard`).

    Args:
        module: A sharded network.
        rank: Rank of the process.

    Returns:
        A detached copy, shape ``(p_rank,)``, perhaps empty, at least float32, in the order of
        :func:`lightning_morse.slices.parameters.trainable_parameters`.

    Raises:
        ValueError: As :func:`lightning_morse.slices.parameters.trainable_parameters`.
    """
    reshard(module)
    return flatten([piece_of(p, rank).local for _, p in trainable_parameters(module)])
