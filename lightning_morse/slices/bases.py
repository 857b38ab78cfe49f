"""Orthonormal bases for slices: of given vectors, of a trajectory, at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_morse.slices.columns import (
    blocks,
    empty_columns,
    gram_matrix,
    in_double,
    largest,
    multiply,
    working_dtype,
)
from lightning_morse.slices.parameters import flatten

# Vectors whose smallest relative singular value lies below this count as collinear. Above it, two
# rounds of Cholesky QR give orthonormal columns: Gram matrices in float64 square it to 1e-12, well
# above their rounding. Soundness does not depend on it: AffineSubspace checks the columns it gets.
_RANK_TOLERANCE = 1e-6
# Machine epsilons by which inner products of columns differ from 0 and 1 where only their entries
# were rounded.
_ROUNDING = 4


class Whole:
    """How the rows of tall matrices, one per weight, are spread over processes: all are here.

    Whatever is summed or maximised over weights goes through an object of this kind, and
    :class:`lightning_morse.distributed.shards.Shards` overrides its methods where every process
    holds rows of its own.
    """

    def sum(self, here: Tensor) -> Tensor:
        """Sum over all processes of what each found in its own rows."""
        return here

    def largest(self, here: Tensor) -> Tensor:
        """Largest over all processes, entry by entry; not finite where one is not."""
        return here

    def random_directions(
        self, flat: Tensor, shapes: Sequence[torch.Size], dim: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """:func:`random_directions` at flat weights, those of parameters with these shapes."""
        parts = torch.split(flat, [shape.numel() for shape in shapes])
        weights = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return random_directions(weights, dim, generator)


WHOLE = Whole()


def orthonormal_columns(
    vectors: Tensor | Sequence[Tensor], name: str = "directions", rows: Whole = WHOLE
) -> Tensor:
    """Gram-Schmidt: the first ``j`` columns span what the first ``j`` vectors do, for each ``j``.

    Cholesky QR, done twice (Yamamoto et al., "Roundoff error analysis of the CholeskyQR2
    algorithm", 2015), with Gram matrices in float64: orthonormal to the rounding of the result.

    Args:
        vectors: Shape ``(p, d)``, one vector per column, or ``d`` tensors of shape ``(p,)``. Their
            norms do not matter.
        name: Name of the argument in messages.
        rows: How the weights are spread over processes, as in :class:`AffineSubspace`.

    Returns:
        Orthonormal columns, shape ``(p, d)``, dtype of the vectors (at least float32). Column ``j``
        has a positive inner product with vector ``j``.

    Raises:
        ValueError: If there is no vector, their lengths differ, a vector is zero or not finite, or
            the vectors are collinear: normalised, the smallest singular value of the first
            ``j + 1`` is below 1e-6 of the largest.

    Example:
        >>> orthonormal_columns([torch.tensor([0.0, 2.0]), torch.tensor([3.0, 1.0])]).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    columns = as_columns(vectors, name, rows)
    if isinstance(vectors, Tensor):  # the caller's
        own = empty_columns(columns, (len(columns), columns.shape[1]), columns.dtype)
        columns = own.copy_(columns)
    return orthonormalised(columns, name, rows)


def orthonormalised(columns: Tensor, name: str, rows: Whole = WHOLE) -> Tensor:
    """As :func:`orthonormal_columns`, in the memory of the columns that are given.

    Args:
        columns: Shape ``(p, d)``, at least float32; what they held is lost, also if this raises.
        name: As there.
        rows: As there.
    """
    sizes = rows.largest(largest(columns))
    for j, size in enumerate(sizes.tolist()):
        if not 0 < size < float("inf"):
            raise ValueError(
                f"{name}[{j}] must be finite and not zero, got largest entry {size}. Leave that "
                "vector out or replace it"
            )
    columns /= sizes
    gram = rows.sum(gram_matrix(columns))
    dependent = _dependent_by(gram)
    if dependent is not None:
        raise ValueError(
            f"{name}[{dependent}] must not lie in the span of the vectors before it, got one that "
            f"is collinear with them (relative singular value below {_RANK_TOLERANCE:g}; vectors "
            f"of length {len(columns)}). Leave it out or replace it"
        )
    for again in (False, True):
        if again:
            gram = rows.sum(gram_matrix(columns))
        multiply(columns, torch.linalg.inv(torch.linalg.cholesky(gram).T))
    return columns


@dataclass(frozen=True, eq=False)
class Principal:
    """Principal directions of a trajectory, and the trajectory seen from its last point.

    Attributes:
        directions: Orthonormal columns, shape ``(p, dim)``.
        at: Coordinates of the snapshots along them, from the last one, shape ``(T, dim)``, float64.
        off: Distances of the snapshots from the affine subspace through the last one, shape
            ``(T,)``, float64. Both follow from inner products in float64: about 1e-8 of the length
            of the trajectory is rounding, less than that of float32 weights.
    """

    directions: Tensor
    at: Tensor
    off: Tensor


def pca_directions(snapshots: Tensor, dim: int, rows: Whole = WHOLE) -> Tensor:
    """Top principal directions of a trajectory of weights.

    Args:
        snapshots: Flat weights along the trajectory, shape ``(T, p)``, oldest first.
        dim: Number of directions.
        rows: How the weights are spread over processes, as in :class:`AffineSubspace`.

    Returns:
        Orthonormal columns, shape ``(p, dim)``, by descending variance, dtype of the snapshots (at
        least float32). The last snapshot lies on the positive side of each.

    Raises:
        ValueError: If a snapshot is not finite, or the centred snapshots span fewer than ``dim``
            dimensions (singular values below 1e-6 of the largest do not count).

    Example:
        >>> snapshots = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
        >>> pca_directions(snapshots, 1).T.tolist()
        [[1.0, 0.0]]
    """
    return principal(snapshots, dim, rows).directions


def principal(snapshots: Tensor, dim: int, rows: Whole = WHOLE) -> Principal:
    """Top principal directions of a trajectory of weights, and the trajectory along them.

    Computed from the eigenvectors of the ``T x T`` Gram matrix of the centred snapshots, which is
    summed over blocks of weights: on top of the snapshots and the directions it takes a few
    megabytes, whatever ``p``. All inner products with the directions follow from it.

    Args:
        snapshots: As in :func:`pca_directions`.
        dim: As there.
        rows: As there.

    Raises:
        ValueError: As there.
    """
    if snapshots.ndim != 2 or not snapshots.dtype.is_floating_point:
        raise ValueError(
            "snapshots must be a floating point tensor of shape (T, p), one flat weight vector per "
            f"row, got shape {tuple(snapshots.shape)}, {snapshots.dtype}"
        )
    snapshots = snapshots.detach()
    _check_dim(dim)
    gram = _gram_of_offsets(snapshots, rows)
    # Offsets from the first snapshot are exactly zero where nothing moves, so centring comes last.
    centred = gram - gram.mean(dim=0)
    centred -= centred.mean(dim=1, keepdim=True)
    variances, vectors = torch.linalg.eigh(centred)
    top = variances.max().item() if len(gram) else 0.0
    rank = int((variances > _RANK_TOLERANCE**2 * top).sum()) if top > 0 else 0
    if rank < dim:
        raise ValueError(
            f"snapshots must span at least dim = {dim} dimensions around their mean, got "
            f"{len(gram)} snapshots that span {rank}. Wait for more snapshots or ask for fewer "
            "directions"
        )
    leading = vectors[:, -dim:].flip(1)
    leading = torch.where(leading[-1] < 0, -leading, leading)
    # Coefficients that sum to zero make the mean of the snapshots drop out.
    leading -= leading.mean(dim=0)
    # Orthonormal combinations: their inner products follow from the Gram matrix, too.
    upper = torch.linalg.cholesky(leading.T @ gram @ leading).T
    leading = torch.linalg.solve_triangular(upper, leading, upper=True, left=False)
    directions = _combined(snapshots, leading)
    if not _are_orthonormal(directions, rows):
        # The Gram matrix squared the condition number; this recovers the digits that cost.
        directions = orthonormalised(directions, "principal directions of the snapshots", rows)
    return Principal(directions, *_seen_from_last(gram, leading))


def _gram_of_offsets(snapshots: Tensor, rows: Whole) -> Tensor:
    """Inner products of the offsets of snapshots from the first one, shape ``(T, T)``, float64."""
    n = len(snapshots)
    gram = torch.zeros(n, n, dtype=torch.float64)
    for _, offsets in _offsets(snapshots):
        offsets = in_double(offsets)
        gram += (offsets @ offsets.T).cpu()
    gram = rows.sum(gram)
    if not torch.isfinite(gram.diagonal()).all():  # the same in all processes
        _check_finite(snapshots, rows)
    return gram


def _combined(snapshots: Tensor, coefficients: Tensor) -> Tensor:
    """Combinations of the offsets of snapshots from the first one, as columns."""
    shape = snapshots.shape[1], coefficients.shape[1]
    columns = empty_columns(snapshots, shape, working_dtype(snapshots.dtype))
    for block, offsets in _offsets(snapshots):
        # One at a time: a product with so thin a matrix takes twice as long.
        for j, column in enumerate(coefficients.T.to(offsets)):
            columns[block, j] = torch.mv(offsets.T, column)
    return columns


def _are_orthonormal(columns: Tensor, rows: Whole) -> bool:
    """Whether columns are orthonormal to the rounding of their entries."""
    gram = rows.sum(gram_matrix(columns))
    error = (gram - torch.eye(len(gram), dtype=torch.float64)).abs().max().item()
    return error <= _ROUNDING * torch.finfo(columns.dtype).eps


def _offsets(snapshots: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of weights, and in each the offsets of snapshots from the first one.

    In the precision of the directions: differences are rounded once, to a part of themselves.
    """
    n, p = snapshots.shape
    for block in blocks(p, n):
        some = snapshots[:, block].to(working_dtype(snapshots.dtype))
        yield block, some - some[:1]


def _seen_from_last(gram: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of offsets along orthonormal combinations of them, and what is left of them.

    Args:
        gram: Inner products of the offsets, shape ``(T, T)``.
        coefficients: Of the combinations, shape ``(T, dim)``.
    """
    from_last = gram - gram[-1]  # inner products of offsets from the last with those from the first
    at = from_last @ coefficients
    squares = from_last.diagonal() - from_last[:, -1]
    return at, (squares - at.square().sum(dim=1)).clamp(min=0).sqrt()


def random_directions(
    parameters: Sequence[Tensor], dim: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Filter-normalised Gaussian directions (Li et al. 2018, arXiv 1712.09913), made orthonormal.

    Each filter (a slice of the leading axis of a tensor with at least two axes) of a raw direction
    is scaled to the norm of that filter in the weights; biases and other vectors do not move. If
    that makes directions zero or collinear (no matrices, or almost no entries), each tensor as a
    whole is scaled to its norm in the weights instead; if that does too, each direction to norm 1.

    Args:
        parameters: The trainable parameters in order, ``p`` entries in all.
        dim: Number of directions.
        generator: CPU generator, the only source of randomness, used direction by direction.

    Returns:
        Orthonormal columns, shape ``(p, dim)``, dtype and device of the flat weights; and the norms
        of the raw directions, shape ``(dim,)``, float64: a natural half-width of the box per axis.

    Raises:
        ValueError: If there are no parameters, ``dim`` is not in ``1 .. p``, the generator is not
            on the CPU, or a weight is not finite.

    Example:
        >>> weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
        >>> directions, norms = random_directions([weight], 1, torch.Generator().manual_seed(0))
        >>> directions[2:].T.tolist(), round(norms.item(), 6)
        ([[0.0, 0.0]], 5.0)
    """
    flat = flatten(parameters)
    p = len(flat)
    _check_dim(dim)
    if dim > p:
        raise ValueError(f"dim must be at most the number of weights, {p}, got {dim}")
    if generator.device.type != "cpu":
        raise ValueError(
            f"generator must be on the CPU, got one on {generator.device}. Use torch.Generator(), "
            "so that a seed gives the same directions on every device"
        )
    if not torch.isfinite(largest(flat)):
        raise ValueError("parameters must be finite, got NaN or infinite weights")
    # Three ways to cut the flat weights into rows whose norm is kept, from fine to coarse.
    weights = [w.cpu() for w in torch.split(flat, [t.numel() for t in parameters])]
    filters = [
        w.view(t.shape).flatten(1) if t.ndim > 1 else w.new_zeros(1, len(w))
        for t, w in zip(parameters, weights, strict=True)
    ]
    tensors = [w.reshape(1, -1) for w in weights]
    one = [torch.tensor(p**-0.5, dtype=flat.dtype).expand(1, p)]

    raw = torch.empty(dim, p, dtype=flat.dtype)
    state = generator.get_state()
    for rows in (filters, tensors, one):
        generator.set_state(state)  # the same noise again, without keeping a copy of it
        for direction in raw:
            direction.normal_(generator=generator)
        parts = torch.split(raw, [r.numel() for r in rows], dim=1)
        for part, row in zip(parts, rows, strict=True):
            shaped = torch.unflatten(part, 1, row.shape)
            shaped *= (row.norm(dim=1) / shaped.norm(dim=2))[..., None]
        norms = gram_matrix(raw.T).diagonal().sqrt()
        if norms.all() and first_dependent(raw.T) is None:
            break
    return orthonormalised(raw.T.to(flat.device), "random directions"), norms


def as_columns(vectors: Tensor | Sequence[Tensor], name: str, rows: Whole = WHOLE) -> Tensor:
    """Stack vectors into the columns of one matrix, in at least float32."""
    if isinstance(vectors, Tensor):
        columns = vectors.detach()
        empty = columns.ndim == 2 and (not columns.shape[1] or (rows is WHOLE and not len(columns)))
        if columns.ndim != 2 or empty:
            raise ValueError(
                f"{name} must have shape (p, d), one vector per column, got {tuple(columns.shape)}"
            )
    else:
        if not len(vectors):
            raise ValueError(f"{name} must hold at least one vector, got none")
        for j, vector in enumerate(vectors):
            if vector.ndim != 1 or len(vector) != len(vectors[0]) or not len(vector):
                raise ValueError(
                    f"{name}[{j}] must be a vector as long as {name}[0], got shapes "
                    f"{tuple(vector.shape)} and {tuple(vectors[0].shape)}. Use flatten() on the "
                    "parameters of one network"
                )
        columns = torch.stack([v.detach().to(vectors[0].device) for v in vectors]).T
    if not columns.dtype.is_floating_point:
        raise ValueError(f"{name} must be floating point, got {columns.dtype}. Use .float()")
    return columns.to(working_dtype(columns.dtype))


def first_dependent(columns: Tensor, rows: Whole = WHOLE) -> int | None:
    """Index of the first column in the numerical span of those before it; no column is zero."""
    return _dependent_by(rows.sum(gram_matrix(columns)))


def _dependent_by(gram: Tensor) -> int | None:
    """The same by the inner products of the columns."""
    lengths = gram.diagonal().sqrt()
    cosines = gram / torch.outer(lengths, lengths)
    for j in range(1, len(gram)):
        squared_singular_values = torch.linalg.eigvalsh(cosines[: j + 1, : j + 1])
        if squared_singular_values[0] < _RANK_TOLERANCE**2 * squared_singular_values[-1]:
            return j
    return None


def _check_finite(snapshots: Tensor, rows: Whole) -> None:
    for i, size in enumerate(rows.largest(largest(snapshots.T)).tolist()):
        if not size < float("inf"):
            raise ValueError(
                f"snapshots[{i}] must be finite, got NaN or infinite weights. Leave it out"
            )


def _check_dim(dim: int) -> None:
    if dim != int(dim) or dim < 1:
        raise ValueError(f"dim must be a positive integer, got {dim!r}")
