r"""Affine subspaces of weight space, and the ways to choose their directions.

A slice of the loss landscape is :math:`\theta(x) = \theta_c + D x` with orthonormal columns in
:math:`D`. Then :math:`\nabla_x \ell = D^\top \nabla L`: the gradient flow in :math:`x` is the
projected gradient flow of the network, in weight-space units and in step-time.

Weights stay in their own precision (float32, or float64 if they are). Inner products are summed in
float64 over blocks of rows, so that no float64 copy of all the weights is ever made; coordinates
and norms come back as float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

# Rows held in float64 at a time: half a megabyte a column.
_BLOCK = 1 << 16
# Vectors whose smallest relative singular value lies below this are taken to be collinear.
_RANK_TOLERANCE = 1e-6


class Whole:
    """Weights that are all in this process.

    Sums over weights, and the largest of something over them, go through an object of this kind, so
    that rows of directions and snapshots may also be spread over processes (``sharded.Shards``).
    """

    def sum(self, here: Tensor) -> Tensor:
        """Sum over all processes of what each found in its own weights."""
        return here

    def largest(self, here: Tensor) -> Tensor:
        """Largest over all processes, entry by entry; not finite where one is not."""
        return here

    def random_directions(
        self, flat: Tensor, shapes: Sequence[torch.Size], dim: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """:func:`random_directions` at flat weights that are those of parameters of ``shapes``."""
        parts = flat.split([shape.numel() for shape in shapes])
        weights = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return random_directions(weights, dim, generator)


WHOLE = Whole()


@dataclass(frozen=True, eq=False)
class AffineSubspace:
    r"""The affine subspace :math:`\theta(x) = \theta_c + D x` of weight space.

    Attributes:
        origin: :math:`\theta_c`, shape ``(p,)``, float32 or float64.
        directions: :math:`D`, shape ``(p, d)`` with ``1 <= d <= p``, the dtype and device of
            ``origin``. The columns are orthonormal: every entry of :math:`D^\top D` is within 1000
            machine epsilons of the identity (1e-4 for float32, 2e-13 for float64).
        rows: How the weights are spread over processes. If not :data:`WHOLE`, ``origin`` and
            ``directions`` hold those of this process, perhaps none, and everything but
            :meth:`point` is done by all processes together.

    Raises:
        ValueError: If a shape, dtype or device does not fit, an entry is not finite, or the columns
            are not orthonormal (:func:`orthonormal_columns` makes them so).

    Example:
        >>> plane = AffineSubspace(torch.tensor([1.0, 1.0, 5.0]), torch.eye(3)[:, :2])
        >>> plane.point([2.0, 0.0]).tolist()
        [3.0, 1.0, 5.0]
        >>> theta = torch.tensor([3.0, 1.0, 9.0])
        >>> plane.project(theta).tolist(), plane.residual(theta).item()
        ([2.0, 0.0], 4.0)
    """

    origin: Tensor
    directions: Tensor
    rows: Whole = WHOLE

    def __post_init__(self) -> None:
        origin, directions = self.origin.detach(), self.directions.detach()
        object.__setattr__(self, "origin", origin)
        object.__setattr__(self, "directions", directions)
        if origin.ndim != 1 or origin.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                "origin must be a flat float32 or float64 weight vector, shape (p,), got shape "
                f"{tuple(origin.shape)}, {origin.dtype}. Use flatten() on the parameters"
            )
        if directions.ndim != 2 or len(directions) != len(origin) or directions.shape[1] < 1:
            raise ValueError(
                f"directions must have shape (p, d) with p = {len(origin)}, the length of origin, "
                f"and d >= 1, got {tuple(directions.shape)}. Put one direction in each column"
            )
        if (directions.dtype, directions.device) != (origin.dtype, origin.device):
            raise ValueError(
                f"directions must be {origin.dtype} on {origin.device} like origin, got "
                f"{directions.dtype} on {directions.device}. Convert one of them with .to()"
            )
        if not torch.isfinite(_largest(origin, self.rows)):
            raise ValueError(
                "origin must be finite, got NaN or infinite weights. Use weights from before the "
                "run diverged"
            )
        for j, size in enumerate(_largest(directions, self.rows).tolist()):
            if not 0 < size < float("inf"):
                raise ValueError(
                    f"directions[:, {j}] must be finite and not zero, got largest entry {size}. "
                    "Leave that direction out or give another"
                )
        gram = _gram(directions, self.rows)
        error = (gram - torch.eye(self.dim, dtype=torch.float64)).abs()
        tolerance = 1000 * torch.finfo(origin.dtype).eps
        if error.max() > tolerance:
            i, j = divmod(int(error.argmax()), self.dim)
            raise ValueError(
                f"directions must have orthonormal columns, got the inner product {gram[i, j]:.6g} "
                f"of columns {i} and {j}, which should be {int(i == j)} to within {tolerance:.1e}. "
                "Pass orthonormal_columns(directions)"
            )

    @property
    def dim(self) -> int:
        """Dimension ``d`` of the subspace."""
        return self.directions.shape[1]

    @property
    def n_parameters(self) -> int:
        """Dimension ``p`` of the weight space."""
        return len(self.origin)

    def to(self, device: torch.device | str) -> AffineSubspace:
        """The same subspace on another device; itself if it is there."""
        if self.origin.device == torch.device(device):
            return self
        return AffineSubspace(self.origin.to(device), self.directions.to(device), self.rows)

    def point(self, x: Tensor | Sequence[float], out: Tensor | None = None) -> Tensor:
        """Weights at the coordinates ``x``.

        Args:
            x: Coordinates in weight-space units, shape ``(d,)``.
            out: Where to write them, shape ``(p,)``; by default a new tensor.

        Returns:
            Flat weights, shape ``(p,)``, dtype and device of ``origin``; exactly ``origin`` at 0.

        Raises:
            ValueError: If ``x`` does not have one coordinate for each direction.
        """
        coordinates = torch.as_tensor(x, dtype=self.origin.dtype, device=self.origin.device)
        if coordinates.shape != (self.dim,):
            raise ValueError(
                f"x must have shape ({self.dim},), one coordinate for each direction, got "
                f"{tuple(coordinates.shape)}"
            )
        return torch.addmv(self.origin, self.directions, coordinates, out=out)

    def project(self, theta: Tensor) -> Tensor:
        r"""Coordinates :math:`D^\top (\theta - \theta_c)` of the nearest point of the subspace.

        Args:
            theta: Flat weights, shape ``(p,)`` or ``(k, p)``.

        Returns:
            Coordinates, shape ``(d,)`` or ``(k, d)``, float64 on the CPU.

        Raises:
            ValueError: If the weights do not have ``p`` entries.
        """
        rows = self._checked(theta)
        x = torch.zeros(len(rows), self.dim, dtype=torch.float64)
        for block, offset in self._offsets(rows):
            x += (offset @ _double(self.directions[block]).contiguous()).cpu()
        x = self.rows.sum(x)
        return x.reshape(*theta.shape[:-1], self.dim)

    def residual(self, theta: Tensor) -> Tensor:
        """Euclidean distance of weights from the subspace.

        Args:
            theta: Flat weights, shape ``(p,)`` or ``(k, p)``.

        Returns:
            Distances in weight-space units, shape ``()`` or ``(k,)``, float64 on the CPU. They are
            summed over what is left of each weight, not taken as a difference of squares, so that
            a small distance keeps its digits.

        Raises:
            ValueError: If the weights do not have ``p`` entries.
        """
        rows = self._checked(theta)
        x = self.project(rows)
        squares = torch.zeros(len(rows), dtype=torch.float64)
        for block, offset in self._offsets(rows):
            directions = _double(self.directions[block]).contiguous()
            off_slice = offset - x.to(directions.device) @ directions.T
            squares += off_slice.square().sum(dim=1).cpu()
        return self.rows.sum(squares).sqrt().reshape(theta.shape[:-1])

    def _checked(self, theta: Tensor) -> Tensor:
        if theta.ndim not in (1, 2) or theta.shape[-1] != self.n_parameters:
            raise ValueError(
                f"theta must have shape ({self.n_parameters},) or (k, {self.n_parameters}), flat "
                f"weights of the network of this subspace, got {tuple(theta.shape)}"
            )
        # Not -1: there may be no weights here.
        return theta.detach().reshape(1 if theta.ndim == 1 else len(theta), self.n_parameters)

    def _offsets(self, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield ``rows - origin`` in float64, a block of weights at a time."""
        for block in _blocks(self.n_parameters):
            yield (
                block,
                _double(rows[:, block].to(self.origin.device)) - _double(self.origin[block]),
            )


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Weights as one vector.

    Args:
        tensors: Parameters of any shapes, in order; at least one.

    Returns:
        A detached copy, shape ``(p,)``, on the device of the first; half precision becomes float32.

    Raises:
        ValueError: If there are no tensors.

    Example:
        >>> flatten([torch.eye(2), torch.tensor([5.0])]).tolist()
        [1.0, 0.0, 0.0, 1.0, 5.0]
    """
    if not tensors:
        raise ValueError("tensors must hold at least one parameter, got none")
    flat = torch.cat([t.detach().reshape(-1).to(tensors[0].device) for t in tensors])
    return flat.to(_working_dtype(flat.dtype))


def orthonormal_columns(
    vectors: Tensor | Sequence[Tensor], name: str = "directions", rows: Whole = WHOLE
) -> Tensor:
    """Gram-Schmidt: the first ``j`` columns span what the first ``j`` vectors do, for each ``j``.

    Cholesky QR, done twice (Yamamoto et al., "Roundoff error analysis of the CholeskyQR2
    algorithm", 2015), with Gram matrices in float64: orthonormal to the rounding of the result.

    Args:
        vectors: Shape ``(p, d)``, one vector a column, or ``d`` tensors of shape ``(p,)``. Their
            lengths do not matter.
        name: What to call the argument in messages.
        rows: How the weights are spread over processes, as in :class:`AffineSubspace`.

    Returns:
        Orthonormal columns, shape ``(p, d)``, dtype of the vectors (at least float32). Column ``j``
        has a positive inner product with vector ``j``.

    Raises:
        ValueError: If there is no vector, the lengths differ, a vector is zero or not finite, or
            the vectors are collinear: scaled to length one, the smallest singular value of the
            first ``j + 1`` is below 1e-6 of the largest.

    Example:
        >>> orthonormal_columns([torch.tensor([0.0, 2.0]), torch.tensor([3.0, 1.0])]).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    columns = _as_columns(vectors, name, rows)
    sizes = _largest(columns, rows)
    for j, size in enumerate(sizes.tolist()):
        if not 0 < size < float("inf"):
            raise ValueError(
                f"{name}[{j}] must be finite and not zero, got largest entry {size}. Leave that "
                "vector out or give another"
            )
    columns = columns / sizes
    dependent = _first_dependent(columns, rows)
    if dependent is not None:
        raise ValueError(
            f"{name}[{dependent}] must not lie in the span of the vectors before it, got one that "
            f"is collinear with them (relative singular value below {_RANK_TOLERANCE:g}; vectors "
            f"of length {len(columns)}). Leave it out or give another"
        )
    for _ in range(2):
        upper = torch.linalg.cholesky(_gram(columns, rows)).T
        columns = _times(columns, torch.linalg.inv(upper))
    return columns


def pca_directions(snapshots: Tensor, dim: int, rows: Whole = WHOLE) -> Tensor:
    """Top principal directions of a trajectory of weights.

    From the eigenvectors of the ``T x T`` Gram matrix of the centred snapshots: no ``p x p``
    matrix is formed.

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
    if snapshots.ndim != 2 or not snapshots.dtype.is_floating_point:
        raise ValueError(
            "snapshots must be a floating point tensor of shape (T, p), one flat weight vector a "
            f"row, got shape {tuple(snapshots.shape)}, {snapshots.dtype}"
        )
    snapshots = snapshots.detach()
    _check_dim(dim)
    for i, size in enumerate(_largest(snapshots.T, rows).tolist()):
        if not size < float("inf"):
            raise ValueError(
                f"snapshots[{i}] must be finite, got NaN or infinite weights. Leave it out"
            )
    n, p = snapshots.shape
    gram = torch.zeros(n, n, dtype=torch.float64)
    for block in _blocks(p):
        offsets = _double(snapshots[:, block]) - _double(snapshots[:1, block])
        gram += (offsets @ offsets.T).cpu()
    gram = rows.sum(gram)
    # Offsets from the first snapshot are exactly zero where nothing moves; centring comes after.
    gram -= gram.mean(dim=0)
    gram -= gram.mean(dim=1, keepdim=True)
    variances, vectors = torch.linalg.eigh(gram)
    top = variances.max().item() if n else 0.0
    rank = int((variances > _RANK_TOLERANCE**2 * top).sum()) if top > 0 else 0
    if rank < dim:
        raise ValueError(
            f"snapshots must span at least dim = {dim} dimensions around their mean, got {n} "
            f"snapshots that span {rank}. Wait for more snapshots or ask for fewer directions"
        )
    leading = vectors[:, -dim:].flip(1)
    leading = torch.where(leading[-1] < 0, -leading, leading)
    # With weights that sum to zero the mean of the snapshots drops out.
    leading -= leading.mean(dim=0)
    directions = snapshots.new_empty((dim, p), dtype=_working_dtype(snapshots.dtype)).T
    for block in _blocks(p):
        offsets = _double(snapshots[:, block]) - _double(snapshots[:1, block])
        directions[block] = (offsets.T @ leading.to(offsets.device)).to(directions)
    # The Gram matrix squares the condition number; this restores what that cost.
    return orthonormal_columns(directions, "principal directions of the snapshots", rows)


def random_directions(
    parameters: Sequence[Tensor], dim: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Filter-normalised Gaussian directions (Li et al. 2018, arXiv 1712.09913), made orthonormal.

    Each filter (a slice of the leading axis of a tensor with at least two axes) of a raw direction
    has the norm of that filter in the weights; biases and other vectors do not move. Where that
    makes directions zero or collinear (no matrices, or almost no entries), each whole tensor gets
    the norm it has in the weights instead; where that does too, each direction norm one.

    Args:
        parameters: The trainable parameters in order, ``p`` entries in all.
        dim: Number of directions.
        generator: CPU generator, the only source of randomness. It is drawn from direction by
            direction.

    Returns:
        Orthonormal columns, shape ``(p, dim)``, dtype and device of the flat weights; and the norms
        of the raw directions, shape ``(dim,)``, float64: a natural half-width of the box on each
        axis.

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
    if not torch.isfinite(_largest(flat)):
        raise ValueError("parameters must be finite, got NaN or infinite weights")
    # Three ways to cut the flat weights into rows that keep their norm, from fine to coarse.
    weights = [w.cpu() for w in flat.split([t.numel() for t in parameters])]
    filters = [
        w.view(t.shape).flatten(1) if t.ndim > 1 else w.new_zeros(1, len(w))
        for t, w in zip(parameters, weights, strict=True)
    ]
    tensors = [w.reshape(1, -1) for w in weights]
    one = [torch.tensor(p**-0.5, dtype=flat.dtype).expand(1, p)]

    raw = torch.empty(dim, p, dtype=flat.dtype)
    state = generator.get_state()
    for rows in (filters, tensors, one):
        generator.set_state(state)  # the same noise, without a copy of it
        for direction in raw:
            direction.normal_(generator=generator)
        for part, row in zip(raw.split([r.numel() for r in rows], dim=1), rows, strict=True):
            shaped = part.unflatten(1, row.shape)
            shaped *= (row.norm(dim=1) / shaped.norm(dim=2))[..., None]
        norms = _gram(raw.T).diagonal().sqrt()
        if norms.all() and _first_dependent(raw.T) is None:
            break
    return orthonormal_columns(raw.T.to(flat.device), name="random directions"), norms


def plane_through(weights: Sequence[Tensor]) -> AffineSubspace:
    """The affine subspace through ``d + 1`` weight vectors, centred at their mean.

    Args:
        weights: Flat weights, each of shape ``(p,)``; at least two.

    Returns:
        The ``d``-dimensional subspace. Its first direction points from ``weights[0]`` to
        ``weights[1]``, the others follow by Gram-Schmidt.

    Raises:
        ValueError: If there are fewer than two vectors, their lengths differ, one is not finite,
            two are identical to rounding, or one lies in the affine span of those before it.

    Example:
        >>> line = plane_through([torch.tensor([0.0, 1.0]), torch.tensor([4.0, 1.0])])
        >>> line.origin.tolist(), line.directions.T.tolist()
        ([2.0, 1.0], [[1.0, 0.0]])
    """
    if len(weights) < 2:
        raise ValueError(
            f"weights must hold at least two weight vectors to span a subspace, got {len(weights)}"
        )
    columns = _as_columns(list(weights), "weights")
    sizes = _largest(columns)
    for i, size in enumerate(sizes.tolist()):
        if not size < float("inf"):
            raise ValueError(
                f"weights[{i}] must be finite, got NaN or infinite weights. Leave it out"
            )
    rounding = 8 * torch.finfo(columns.dtype).eps
    for i, j in combinations(range(len(sizes)), 2):
        if _largest(columns[:, j] - columns[:, i]) <= rounding * max(sizes[i], sizes[j]):
            raise ValueError(
                f"weights must differ, got identical weights[{i}] and weights[{j}]. Leave one of "
                "them out"
            )
    differences = columns[:, 1:] - columns[:, :1]
    dependent = _first_dependent(differences)
    if dependent is not None:
        raise ValueError(
            f"weights[{dependent + 1}] must not lie in the affine span of weights[0] to "
            f"weights[{dependent}], got one that does. Leave it out"
        )
    return AffineSubspace(columns.mean(dim=1), orthonormal_columns(differences, name="differences"))


def _as_columns(vectors: Tensor | Sequence[Tensor], name: str, rows: Whole = WHOLE) -> Tensor:
    """Stack vectors into the columns of one matrix, in at least float32."""
    if isinstance(vectors, Tensor):
        columns = vectors.detach()
        empty = columns.ndim == 2 and (not columns.shape[1] or (rows is WHOLE and not len(columns)))
        if columns.ndim != 2 or empty:
            raise ValueError(
                f"{name} must have shape (p, d), one vector a column, got {tuple(columns.shape)}"
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
        columns = torch.stack([v.detach().to(vectors[0].device) for v in vectors], dim=1)
    if not columns.dtype.is_floating_point:
        raise ValueError(f"{name} must be floating point, got {columns.dtype}. Use .float()")
    return columns.to(_working_dtype(columns.dtype))


def _first_dependent(columns: Tensor, rows: Whole = WHOLE) -> int | None:
    """The first column in the numerical span of those before it; none of them is zero."""
    gram = _gram(columns, rows)
    lengths = gram.diagonal().sqrt()
    cosines = gram / torch.outer(lengths, lengths)
    for j in range(1, len(gram)):
        squared_singular_values = torch.linalg.eigvalsh(cosines[: j + 1, : j + 1])
        if squared_singular_values[0] < _RANK_TOLERANCE**2 * squared_singular_values[-1]:
            return j
    return None


def _working_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _check_dim(dim: int) -> None:
    if dim != int(dim) or dim < 1:
        raise ValueError(f"dim must be a positive integer, got {dim!r}")


def _largest(tensor: Tensor, rows: Whole = WHOLE) -> Tensor:
    """Largest absolute value down the leading axis; not finite where an entry is not."""
    if not len(tensor):
        return rows.largest(tensor.new_zeros(tensor.shape[1:]))
    return rows.largest(torch.linalg.vector_norm(tensor, ord=float("inf"), dim=0))


def _double(tensor: Tensor) -> Tensor:
    # Apple's GPUs have no float64.
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def _blocks(length: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, length, _BLOCK))


def _gram(columns: Tensor, rows: Whole = WHOLE) -> Tensor:
    """Inner products of the columns, float64 on the CPU."""
    d = columns.shape[1]
    gram = torch.zeros(d, d, dtype=torch.float64)
    for block in _blocks(len(columns)):
        some = _double(columns[block])
        gram += (some.T @ some).cpu()
    return rows.sum(gram)


def _times(columns: Tensor, matrix: Tensor) -> Tensor:
    """Product with a small float64 matrix, rounded once to the dtype of the columns."""
    # Column by column in memory, in which order AffineSubspace.point reads them fastest.
    product = columns.new_empty(columns.shape[::-1]).T
    for block in _blocks(len(columns)):
        rows = _double(columns[block])
        product[block] = (rows @ matrix.to(rows.device)).to(product)
    return product
