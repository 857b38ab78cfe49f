"""The weights of a sharded network as rows of tall matrices, some of them in each process.

Every process holds its own rows of everything that is as long as the weights: of the point, the
directions and the snapshots. Sums over weights become sums over processes, for which only small
matrices are exchanged. Weights that are not sharded count as rows of the first process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_morse.distributed.normal_stream import NormalStream
from lightning_morse.distributed.processes import Lockstep
from lightning_morse.distributed.sharding import piece_of, reshard
from lightning_morse.slices.bases import Whole, orthonormalised
from lightning_morse.slices.parameters import flatten, trainable_parameters


@dataclass(frozen=True)
class Layout:
    """How one parameter is spread over the processes.

    Attributes:
        shape: Shape of the whole parameter, with at least one axis.
        dtype: Its dtype.
        axis: The axis along which it is split.
        lengths: Length of the piece of each process along that axis, by rank.
        order: Ranks in the order of their pieces along that axis.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    axis: int
    lengths: tuple[int, ...]
    order: tuple[int, ...]

    def shape_in(self, rank: int) -> tuple[int, ...]:
        """Shape of the piece of a process."""
        return (*self.shape[: self.axis], self.lengths[rank], *self.shape[self.axis + 1 :])

    def numel_in(self, rank: int) -> int:
        """Number of entries of the piece of a process."""
        return torch.Size(self.shape_in(rank)).numel()

    def piece(self, whole: Tensor, rank: int) -> Tensor:
        """The piece of a process, cut out of the whole."""
        before = self.order[: self.order.index(rank)]
        return whole.narrow(self.axis, sum(self.lengths[r] for r in before), self.lengths[rank])


class Shards(Whole):
    """The weights of one process among those of a sharded network.

    Everything but the names is collective: all processes call it together, inside ``lockstep.run``.

    Args:
        module: The network, which has passed
            :func:`lightning_morse.distributed.sharding.check_sharding`.
        lockstep: Connects the processes; its device is that of
            :func:`lightning_morse.distributed.sharding.compute_device`.

    Attributes:
        trainable: Names of the trainable parameters, in order.

    Raises:
        RuntimeError: If the pieces of the processes do not make up a parameter.
    """

    def __init__(self, module: nn.Module, lockstep: Lockstep) -> None:
        reshard(module)
        self.lockstep = lockstep
        self.rank = lockstep.processes.rank
        self.trainable = [name for name, _ in trainable_parameters(module)]
        named = dict(module.named_parameters())
        owned = {name: piece_of(p, self.rank) for name, p in named.items()}
        found = lockstep.gather([(p.local.shape[p.axis], p.place) for p in owned.values()])
        self._shapes = {name: p.shape for name, p in named.items()}
        self._layouts: dict[str, Layout] = {}
        for i, (name, piece) in enumerate(owned.items()):
            lengths, places = zip(*(each[i] for each in found), strict=True)
            shape = tuple(named[name].shape) or (1,)
            if sum(lengths) != shape[piece.axis]:
                raise RuntimeError(
                    f"the pieces of {name!r} must have {shape[piece.axis]} entries along axis "
                    f"{piece.axis} together, got {lengths}"
                )
            order = tuple(sorted(range(len(found)), key=places.__getitem__))
            self._layouts[name] = Layout(shape, named[name].dtype, piece.axis, lengths, order)

    def sum(self, here: Tensor) -> Tensor:
        """Sum over all processes, in order of rank, so that it is the same to the bit in all."""
        return torch.stack(self.lockstep.gather(here.cpu())).sum(dim=0).to(here.device)

    def largest(self, here: Tensor) -> Tensor:
        """Largest over all processes, entry by entry; NaN where one is NaN."""
        return torch.stack(self.lockstep.gather(here.cpu())).amax(dim=0).to(here.device)

    def random_directions(
        self, flat: Tensor, shapes: Sequence[torch.Size], dim: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """This process's rows of :func:`lightning_morse.slices.bases.random_directions`.

        Every process draws all the numbers and keeps its own; at most one whole parameter is held
        at a time. Norms are summed in another order, so the last digits may differ.

        Args:
            flat: The trainable weights of this process, shape ``(p_rank,)``.
            shapes: Shapes of the whole trainable parameters.
            dim: Number of directions.
            generator: As there; in the same state in all processes.

        Returns:
            Orthonormal columns, shape ``(p_rank, dim)``, and norms as there.

        Raises:
            ValueError: If the weights are not finite.
        """
        flat = flatten([flat])
        n_weights = sum(shape.numel() for shape in shapes)
        filters, tensors = self._norms(flat)
        state = generator.get_state()
        raw = torch.empty(dim, len(flat), dtype=flat.dtype)
        problem: ValueError | None = None
        for norms in (filters, tensors, None):  # from fine to coarse, as for the whole
            generator.set_state(state)
            for direction in raw:
                stream = NormalStream(n_weights, generator, flat.dtype)
                self._draw(direction, norms, stream)
            here = torch.linalg.vector_norm(raw, dim=1, dtype=torch.float64).square()
            lengths = self.sum(here).sqrt()
            try:
                columns = orthonormalised(raw.T.to(flat.device), "random directions", self)
            except ValueError as error:  # zero or collinear: all processes agree, sums are the same
                problem = error
                continue
            # The coarsest directions have norm one each.
            return columns, lengths if norms is not None else torch.ones_like(lengths)
        assert problem is not None
        raise problem

    def _norms(self, flat: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Norms of the filters of each trainable parameter, and of each as a whole."""
        filters, tensors = [], []
        for name, part in zip(self.trainable, self.split(flat), strict=True):
            whole = self.whole({name: part})[name]
            tensors.append(whole.norm().reshape(1).cpu())
            rows = whole.flatten(1) if whole.ndim > 1 else whole.new_zeros(1, 1)
            filters.append(rows.norm(dim=1).cpu())
        return filters, tensors

    def _draw(
        self, direction: Tensor, norms: Sequence[Tensor] | None, stream: NormalStream
    ) -> None:
        """Fill this process's rows of a raw direction, whose parts get the given norms."""
        layouts = [self._layouts[name] for name in self.trainable]
        pieces = torch.split(direction, [layout.numel_in(self.rank) for layout in layouts])
        for i, layout in enumerate(layouts):
            noise = stream.next(torch.Size(layout.shape).numel())
            if norms is not None:
                noise = noise.view(len(norms[i]), -1)
                noise *= (norms[i] / noise.norm(dim=1))[:, None]
            mine = layout.piece(noise.view(layout.shape), self.rank)
            pieces[i].copy_(mine.reshape(-1))

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """The trainable weights of this process, parameter by parameter."""
        sizes = [self._layouts[name].numel_in(self.rank) for name in self.trainable]
        return tuple(torch.split(flat, sizes))

    def shape(self, name: str) -> torch.Size:
        """Shape of a whole parameter."""
        return self._shapes[name]

    def whole(self, pieces: Mapping[str, Tensor], label: int = 0) -> dict[str, Tensor]:
        """Whole parameters, put together from the pieces of all processes.

        Args:
            pieces: Flat pieces of this process by the name of the parameter; in all processes the
                same parameters in the same order, and of the same dtypes.
            label: Identifies the exchange, the same in all processes.

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
            # all_gather needs tensors of one shape: shorter ones are padded.
            longest = max(map(sum, numels))
            packed = torch.zeros(longest, dtype=dtype, device=self.lockstep.device)
            if here := [pieces[name].detach().to(packed.device) for name in names]:
                packed[: sum(numels[self.rank])] = torch.cat(here)
            parts = [
                torch.split(gathered[: sum(numel)], numel)
                for gathered, numel in zip(
                    self.lockstep.all_gather(packed, label), numels, strict=True
                )
            ]
            for i, (name, layout) in enumerate(zip(names, layouts, strict=True)):
                ordered = [parts[r][i].view(layout.shape_in(r)) for r in layout.order]
                found[name] = torch.cat(ordered, dim=layout.axis)
        return found
