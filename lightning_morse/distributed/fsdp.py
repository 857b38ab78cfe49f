r"""Networks whose weights are spread over processes by ``fully_shard`` (FSDP2).

Every process holds its own rows of all that is as long as the weights: of the point, the
directions and the snapshots. Sums over weights are sums over processes, and nothing but small
matrices is exchanged for them. Weights that are not sharded count as rows of the first process.

The network that is being trained is only ever read. The loss is evaluated on a copy without
weights; each part of it that FSDP shards as one unit gets its full weights from the processes
before its forward pass and loses them after it, as under FSDP itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from lightning_morse.distributed.processes import Lockstep
from lightning_morse.slices.bases import Whole, orthonormal_columns
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.module_copy import shadow_copy
from lightning_morse.slices.parameters import flatten, trainable_parameters
from lightning_morse.slices.stand_ins import Silence, World
from lightning_morse.slices.subspace import AffineSubspace

try:  # torch 2.6 and later, built with distributed
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, fully_shard
    from torch.distributed.tensor import DTensor, Replicate, Shard

    AVAILABLE = True
except ImportError:  # pragma: no cover (not with the pinned torch)
    AVAILABLE = False

# Random numbers drawn at a time; a multiple of the 16 that torch makes at once.
_DRAWN = 1 << 16


def is_sharded(module: nn.Module) -> bool:
    """Whether a part of a module has been given to ``fully_shard``."""
    return AVAILABLE and any(isinstance(part, FSDPModule) for part in module.modules())


def check_sharding(module: nn.Module, n_processes: int) -> None:
    """Refuse what cannot be evaluated here.

    Args:
        module: The network.
        n_processes: How many processes the run has.

    Raises:
        ValueError: If a parameter is split along more than one axis (tensor parallel meshes), in
            uncommon ways, outside of ``fully_shard``, or over a part of the processes only; if a
            part is wrapped in ``FullyShardedDataParallel`` (FSDP1).
    """
    if not AVAILABLE:
        return
    if any(isinstance(part, FullyShardedDataParallel) for part in module.modules()):
        raise ValueError(
            "sharded weights must be those of fully_shard, got FullyShardedDataParallel (FSDP1). "
            "Use ModelParallelStrategy and fully_shard, or leave the monitor out"
        )
    units = [part for part in module.modules() if isinstance(part, FSDPModule)]
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
    """Where FSDP computes, which is not where it keeps weights that are offloaded."""
    meshes = [p.device_mesh for p in module.parameters() if isinstance(p, DTensor)]
    return torch.device(meshes[0].device_type if meshes else "cpu")


def flat_shards(module: nn.Module, rank: int) -> Tensor:
    """The trainable weights of one process as one vector; together they are all, each once.

    Full weights that FSDP has left over from a forward pass without a backward pass are dropped
    first (``reshard()``): it would gather the same again.

    Args:
        module: A sharded network.
        rank: Number of the process.

    Returns:
        A detached copy, shape ``(p_rank,)``, perhaps empty, at least float32, in the order of
        :func:`lightning_morse.slices.parameters.trainable_parameters`.

    Raises:
        ValueError: As :func:`lightning_morse.slices.parameters.trainable_parameters`.
    """
    _reshard(module)
    return flatten([_owned(p, rank)[0] for _, p in trainable_parameters(module)])


def _reshard(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def _owned(parameter: Tensor, rank: int) -> tuple[Tensor, int, int]:
    """What a process holds for all of them; along which axis; and its place along that."""
    if not isinstance(parameter, DTensor):
        local = parameter.detach().reshape(parameter.shape or (1,))
        return local[: len(local) if rank == 0 else 0], 0, rank
    local = parameter.detach().to_local()  # type: ignore[attr-defined]
    axis, place, first = 0, 0, True
    coordinate = parameter.device_mesh.get_coordinate()
    assert coordinate is not None, "check_sharding has seen that the mesh holds all processes"
    for at, placement in zip(coordinate, parameter.placements, strict=True):
        if isinstance(placement, Shard):
            axis, place = placement.dim, at
        else:
            first = first and at == 0
    return local.narrow(axis, 0, local.shape[axis] if first else 0), axis, place


@dataclass(frozen=True)
class _Layout:
    """How one parameter is spread over the processes.

    Attributes:
        shape: Of the whole of it, with at least one axis.
        dtype: Of the parameter.
        axis: Along which it is split.
        lengths: How much of that axis each process has, in the order of the processes.
        order: The processes by where in it their pieces lie.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    axis: int
    lengths: tuple[int, ...]
    order: tuple[int, ...]

    def shape_in(self, rank: int) -> tuple[int, ...]:
        return (*self.shape[: self.axis], self.lengths[rank], *self.shape[self.axis + 1 :])

    def numel_in(self, rank: int) -> int:
        return torch.Size(self.shape_in(rank)).numel()

    def piece(self, whole: Tensor, rank: int) -> Tensor:
        before = self.order[: self.order.index(rank)]
        return whole.narrow(self.axis, sum(self.lengths[r] for r in before), self.lengths[rank])


class Shards(Whole):
    """The weights of one process among those of a sharded network.

    Everything but the names is done by all processes together, inside ``lockstep.run``.

    Args:
        module: The network, which :func:`check_sharding` has seen.
        lockstep: What connects the processes; its device is :func:`compute_device`.

    Attributes:
        trainable: Names of the trainable parameters, in order.

    Raises:
        RuntimeError: If the pieces of the processes do not make up a parameter.
    """

    def __init__(self, module: nn.Module, lockstep: Lockstep) -> None:
        _reshard(module)
        self.lockstep = lockstep
        self.rank = lockstep.processes.rank
        self.trainable = [name for name, _ in trainable_parameters(module)]
        named = dict(module.named_parameters())
        owned = {name: _owned(p, self.rank) for name, p in named.items()}
        told = lockstep.gather([(o.shape[axis], place) for o, axis, place in owned.values()])
        self._shapes = {name: p.shape for name, p in named.items()}
        self._layouts = {}
        for i, (name, (_, axis, _)) in enumerate(owned.items()):
            lengths, places = zip(*(each[i] for each in told), strict=True)
            shape = tuple(named[name].shape) or (1,)
            if sum(lengths) != shape[axis]:
                raise RuntimeError(
                    f"the pieces of {name!r} must have {shape[axis]} entries along axis {axis} "
                    f"together, got {lengths}"
                )
            order = tuple(sorted(range(len(told)), key=places.__getitem__))
            self._layouts[name] = _Layout(shape, named[name].dtype, axis, lengths, order)

    def sum(self, here: Tensor) -> Tensor:
        """Sum over all processes, in their order, so that it is the same to the bit in all."""
        return torch.stack(self.lockstep.gather(here.cpu())).sum(dim=0).to(here.device)

    def largest(self, here: Tensor) -> Tensor:
        """Largest over all processes, entry by entry; NaN where one is NaN."""
        return torch.stack(self.lockstep.gather(here.cpu())).amax(dim=0).to(here.device)

    def random_directions(
        self, flat: Tensor, shapes: Sequence[torch.Size], dim: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The rows of this process of what :func:`subspace.random_directions` gives for the whole.

        Every process draws all the numbers and keeps its own; one whole parameter is held at a
        time. Norms are summed in another order, so the last digits may differ.

        Args:
            flat: The trainable weights of this process, shape ``(p_rank,)``.
            shapes: Whole shapes of the trainable parameters.
            dim: Number of directions.
            generator: As there; in the same state in all processes.

        Returns:
            Orthonormal columns, shape ``(p_rank, dim)``, and norms as there.

        Raises:
            ValueError: If the weights are not finite.
        """
        flat = flatten([flat])
        layouts = [self._layouts[name] for name in self.trainable]
        n_weights = sum(shape.numel() for shape in shapes)
        filters, tensors = [], []
        for name, part in zip(self.trainable, self.split(flat), strict=True):
            whole = self.whole({name: part})[name]
            tensors.append(whole.norm().reshape(1).cpu())
            rows = whole.flatten(1) if whole.ndim > 1 else whole.new_zeros(1, 1)
            filters.append(rows.norm(dim=1).cpu())
        state = generator.get_state()
        raw = torch.empty(dim, len(flat), dtype=flat.dtype)
        problem: ValueError | None = None
        for norms in (filters, tensors, None):  # from fine to coarse, as for the whole
            generator.set_state(state)
            for direction in raw:
                normal = _Normal(n_weights, generator, flat.dtype)
                pieces = direction.split([layout.numel_in(self.rank) for layout in layouts])
                for i, layout in enumerate(layouts):
                    noise = normal.next(torch.Size(layout.shape).numel())
                    if norms is not None:
                        noise = noise.view(len(norms[i]), -1)
                        noise *= (norms[i] / noise.norm(dim=1))[:, None]
                    mine = layout.piece(noise.view(layout.shape), self.rank)
                    pieces[i].copy_(mine.reshape(-1))
            here = torch.linalg.vector_norm(raw, dim=1, dtype=torch.float64).square()
            lengths = self.sum(here).sqrt()
            try:
                columns = orthonormal_columns(
                    raw.T.to(flat.device), name="random directions", rows=self
                )
            except ValueError as error:  # zero or collinear, by sums that are the same everywhere
                problem = error
                continue
            # The coarsest have length one each.
            return columns, lengths if norms is not None else torch.ones_like(lengths)
        assert problem is not None
        raise problem

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """The trainable weights of this process, parameter by parameter."""
        return flat.split([self._layouts[name].numel_in(self.rank) for name in self.trainable])

    def shape(self, name: str) -> torch.Size:
        """Shape of a whole parameter."""
        return self._shapes[name]

    def whole(self, pieces: Mapping[str, Tensor], label: int = 0) -> dict[str, Tensor]:
        """Whole parameters from the pieces of all processes.

        Args:
            pieces: Flat pieces of this process by the name of the parameter; everywhere of the same
                parameters in the same order, and of the same dtypes.
            label: What this is about, the same everywhere.

        Returns:
            Tensors on the device of ``lockstep``, detached, with the shapes of the parameters (at
            least one axis).
        """
        found: dict[str, Tensor] = {}
        for dtype in dict.fromkeys(piece.dtype for piece in pieces.values()):
            names = [name for name, piece in pieces.items() if piece.dtype == dtype]
            layouts = [self._layouts[name] for name in names]
            n_processes = self.lockstep.processes.size
            numels = [[layout.numel_in(r) for layout in layouts] for r in range(n_processes)]
            longest = max(map(sum, numels))
            packed = torch.zeros(longest, dtype=dtype, device=self.lockstep.device)
            if here := [pieces[name].detach().to(packed.device) for name in names]:
                packed[: sum(numels[self.rank])] = torch.cat(here)
            parts = [
                gathered[: sum(numel)].split(numel)
                for gathered, numel in zip(
                    self.lockstep.all_gather(packed, label), numels, strict=True
                )
            ]
            for i, (name, layout) in enumerate(zip(names, layouts, strict=True)):
                ordered = [parts[r][i].view(layout.shape_in(r)) for r in layout.order]
                found[name] = torch.cat(ordered, dim=layout.axis)
        return found


class _Normal:
    """The numbers of ``torch.empty(n).normal_(generator=generator)``, a few at a time."""

    def __init__(self, n: int, generator: torch.Generator, dtype: torch.dtype) -> None:
        self._left = n
        self._generator = generator
        self._drawn = torch.empty(0, dtype=dtype)

    def next(self, n: int) -> Tensor:
        """The next ``n``, a copy."""
        drawn = [self._drawn]
        short = n - len(self._drawn)
        while short > 0:
            # torch fills tensors by groups of 16 and treats the last one in another way.
            size = _DRAWN if self._left >= 2 * _DRAWN else self._left
            drawn.append(drawn[0].new_empty(size).normal_(generator=self._generator))
            self._left -= size
            short -= size
        numbers = torch.cat(drawn)
        self._drawn = numbers[n:].clone()
        return numbers[:n].clone()


class ShardedSlice(LossSlice):
    """:class:`LossSlice` of a sharded network; the mean loss on the batches of this process.

    A call is collective: all processes evaluate the same points, in the same order, each on its own
    batches, and as many of them. If it fails in one of them it fails in all
    (:class:`lightning_morse.distributed.processes.Lockstep`); collective calls of the network
    itself are not covered by that.

    Beside its rows of the weights and directions, a process holds the weights of one unit of
    ``fully_shard`` at a time, and those of the units around it. The evaluation is in float32 or
    better even where FSDP computes in half precision (``MixedPrecisionPolicy``), whose casts are
    left out. A weight that is read outside of the forward pass of its unit is NaN.

    Args:
        module: The network; never changed.
        subspace: Where to evaluate; its ``rows`` are the :class:`Shards` of ``module``.
        batches: The probe set of this process.
        loss_fn: As for :class:`LossSlice`.
        seed: As for :class:`LossSlice`; each process starts from it.

    Raises:
        ValueError: As :class:`LossSlice`.
    """

    def __init__(
        self,
        module: nn.Module,
        subspace: AffineSubspace,
        batches: Sequence[Any],
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        assert isinstance(subspace.rows, Shards)
        self._shards = subspace.rows
        super().__init__(module, subspace, batches, loss_fn, seed)
        self._loss.promoted = True  # FSDP would have cast inputs in half precision too

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate the loss in all processes.

        Args:
            x: As for :class:`LossSlice`, the same in all processes.

        Returns:
            Losses of this process, as :class:`LossSlice`.

        Raises:
            ProcessError: If it failed in another process.
            RuntimeError: If the processes call different parts of the network.
        """
        return self._shards.lockstep.run(lambda: super(ShardedSlice, self).__call__(x))

    def _count(self, module: nn.Module) -> int:
        return len(flat_shards(module, self._shards.rank))

    def _copy(self, module: nn.Module, world: World) -> nn.Module:
        memo = world.copier.memo
        device = self._shards.lockstep.device
        self._parameters: dict[str, nn.Parameter] = {}
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
            self._pieces_of[name] = _owned(parameter, self._shards.rank)[0].reshape(-1)
            self._parameters[name] = nn.Parameter(empty, requires_grad=False)
            memo[id(parameter)] = self._parameters[name]
            names[id(parameter)] = name
        shadow = _without_fsdp(module, world)
        self._units: list[_Unit] = []
        outside = set(self._parameters)
        for part, copied in zip(module.modules(), shadow.modules(), strict=True):
            if isinstance(part, FSDPModule):
                held = [names[i] for i in dict.fromkeys(map(id, _parameters_of_unit(part)))]
                self._units.append(_Unit(held, len(self._units) + 1, self._fill, self._drop))
                self._units[-1].surround(copied, [n for n, v in vars(part).items() if _is_fsdp(v)])
                outside -= set(held)
        self._outside = [name for name in self._parameters if name in outside]
        return shadow

    def _bind(self) -> None:
        self._theta = torch.empty_like(self.subspace.origin)
        # From now on the pieces of trainable weights are those of the point.
        pieces = self._shards.split(self._theta)
        self._pieces_of.update(zip(self._shards.trainable, pieces, strict=True))

    def _write(self, point: Tensor) -> None:
        self.subspace.point(point, out=self._theta)
        for unit in self._units:
            unit.depth = 0
        self._drop(self._parameters)
        self._fill(self._outside, 0)

    def _fill(self, names: Iterable[str], label: int) -> None:
        """Give parameters their whole weights at the point."""
        pieces = {name: self._pieces_of[name].to(self._missing[name].dtype) for name in names}
        for name, whole in self._shards.whole(pieces, label).items():
            self._parameters[name].data = whole.view(self._shards.shape(name))

    def _drop(self, names: Iterable[str]) -> None:
        """Free the weights of parameters, but for those that another unit still holds."""
        held = {name for unit in self._units if unit.depth for name in unit.names}
        for name in names:
            if name not in held:
                self._parameters[name].data = self._missing[name]


class _Unit:
    """One unit of ``fully_shard``, whose weights are there while it computes."""

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
        """Hold the weights during forward passes of a module, and during some of its methods."""
        module.register_forward_pre_hook(lambda *_: self._enter(), prepend=True)
        module.register_forward_hook(lambda *_: self._leave(), always_call=True)
        for name in methods:  # register_fsdp_forward_method
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


if AVAILABLE:
    for _name in vars(FSDPModule):
        if not _name.startswith("_"):
            setattr(_Unsharded, _name, Silence())


def _without_fsdp(module: nn.Module, world: World) -> nn.Module:
    """A shadow copy with the parameters that ``world`` knows; FSDP, which forbids copies, goes."""
    twins, memo = [], world.copier.memo
    for part in module.modules():
        if isinstance(part, FSDPModule):
            cls: Any = type(part).__mro__[2]  # FSDP<name>, FSDPModule, <name>
            namespace = {"__module__": cls.__module__}
            twin = object.__new__(type(cls)(cls.__name__, (_Unsharded, cls), namespace))
            twins.append((part, twin))
            memo[id(part)] = twin
            state = fully_shard.state(part)  # type: ignore[attr-defined]
            memo[id(state)] = state
    for part, twin in twins:
        twin.__setstate__(world.copier.copy(part.__reduce_ex__(4)[2]))
    shadow = shadow_copy(module, world)
    for part in shadow.modules():
        for hooks in (part._forward_pre_hooks, part._forward_hooks):
            for key in [key for key, hook in hooks.items() if _is_fsdp(hook)]:
                del hooks[key]
    return shadow


def _is_fsdp(value: Any) -> bool:
    """Whether this is a function or method that FSDP has put there."""
    function = value.__func__ if isinstance(value, MethodType) else value
    home = function.__globals__["__name__"] if isinstance(function, FunctionType) else ""
    return home.startswith("torch.distributed.fsdp")


def _parameters_of_unit(unit: nn.Module) -> Iterator[nn.Parameter]:
    """Those that FSDP gathers for a unit: all but those of units inside it."""
    yield from unit.parameters(recurse=False)
    for child in unit.children():
        if not isinstance(child, FSDPModule):
            yield from _parameters_of_unit(child)
