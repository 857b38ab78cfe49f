r"""Affine subspaces of weight space: points of a slice, and coordinates of weights in it.

A slice of the loss landscape is :math:`\theta(x) = \theta_c + D x` with orthonormal columns in
:math:`D`. Then :math:`\nabla_x \ell = D^\top \nabla L`: the gradient flow in :math:`x` is the
projected gradient flow of the network, in weight-space units and in step-time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from lightning_morse.slices.bases import (
    WHOLE,
    Whole,
    as_columns,
    first_dependent,
    orthonormal_columns,
)
from lightning_morse.slices.columns import blocks, gram_matrix, in_double, largest, multiply

# Machine epsilons by which inner products of directions may be off. Columns made orthonormal in
# their own precision stay within about 20; columns made so in float32 are refused for float64
# weights. Claims about the loss as a function of x do not depend on it; that its gradient flow is
# the projected flow of the network holds to this relative accuracy.
_ORTHONORMAL_WITHIN_EPSILONS = 1000
# Weight vectors that blocks of weights are made for at least.
_AT_LEAST = 32
# Weights closer than this, relative to their largest entry, count as identical: the same weights
# summed in another order. Only an error message depends on it.
_IDENTICAL_WITHIN_EPSILONS = 8


@dataclass(frozen=True, eq=False)
class AffineSubspace:
    r"""The affine subspace :math:`\theta(x) = \theta_c + D x` of weight space.

    Attributes:
        origin: :math:`\theta_c`, shape ``(p,)``, float32 or float64.
        directions: :math:`D`, shape ``(p, d)`` with ``1 <= d <= p``, the dtype and device of
            ``origin``. The columns are orthonormal: every entry of :math:`D^\top D` is within 1000
            machine epsilons of the identity (1e-4 for float32, 2e-13 for float64).
        rows: How the weights are spread over processes. Unless it is :data:`WHOLE`, ``origin`` and
            ``directions`` hold the rows of this process, perhaps none, and everything but
            :meth:`point` is collective: all processes call it together.

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
        if not torch.isfinite(self.rows.largest(largest(origin))):
            raise ValueError(
                "origin must be finite, got NaN or infinite weights. Use weights from before the "
                "run diverged"
            )
        for j, size in enumerate(self.rows.largest(largest(directions)).tolist()):
            if not 0 < size < float("inf"):
                raise ValueError(
                    f"directions[:, {j}] must be finite and not zero, got largest entry {size}. "
                    "Leave that direction out or replace it"
                )
        gram = self.rows.sum(gram_matrix(directions))
        error = (gram - torch.eye(self.dim, dtype=torch.float64)).abs()
        tolerance = _ORTHONORMAL_WITHIN_EPSILONS * torch.finfo(origin.dtype).eps
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

    def turned(self, axes: Tensor) -> AffineSubspace:
        """The same subspace in turned coordinates about its origin.

        Args:
            axes: Orthonormal columns, shape ``(d, d)``: the point ``x`` has the coordinates
                ``axes.T @ x`` there.
        """
        columns = self.directions.clone()  # in the order in which it lies in memory
        multiply(columns, axes)
        return AffineSubspace(self.origin, columns, self.rows)

    def point(self, x: Tensor | Sequence[float], out: Tensor | None = None) -> Tensor:
        """Weights at the coordinates ``x``.

        Args:
            x: Coordinates in weight-space units, shape ``(d,)``.
            out: Tensor to write to, shape ``(p,)``; by default a new one.

        Returns:
            Flat weights, shape ``(p,)``, dtype and device of ``origin``; exactly ``origin`` at 0.

        Raises:
            ValueError: If ``x`` does not have one coordinate per direction.
        """
        coordinates = torch.as_tensor(x, dtype=self.origin.dtype, device=self.origin.device)
        if coordinates.shape != (self.dim,):
            raise ValueError(
                f"x must have shape ({self.dim},), one coordinate per direction, got "
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
        # The current weights are the origin itself; a pass over them would find that out.
        if len(rows) != 1 or rows.data_ptr() != self.origin.data_ptr():
            for offsets, directions in self._offsets(rows):
                x += (offsets @ directions).cpu()
        x = self.rows.sum(x)
        return x.reshape(*theta.shape[:-1], self.dim)

    def residual(self, theta: Tensor, x: Tensor | None = None) -> Tensor:
        """Euclidean distance of weights from the subspace.

        Args:
            theta: Flat weights, shape ``(p,)`` or ``(k, p)``.
            x: What :meth:`project` returns for them, if that is known.

        Returns:
            Distances in weight-space units, shape ``()`` or ``(k,)``, float64 on the CPU. Summed
            over the remainders of the weights rather than taken as a difference of squares, so a
            small distance keeps its digits.

        Raises:
            ValueError: If the weights do not have ``p`` entries.
        """
        rows = self._checked(theta)
        x = self.project(rows) if x is None else x.reshape(len(rows), self.dim)
        squares = torch.zeros(len(rows), dtype=torch.float64)
        for offsets, directions in self._offsets(rows):
            offsets.addmm_(x.to(directions.device), directions.T, alpha=-1)
            squares += torch.linalg.vector_norm(offsets, dim=1).square().cpu()
        return self.rows.sum(squares).sqrt().reshape(theta.shape[:-1])

    def _checked(self, theta: Tensor) -> Tensor:
        if theta.ndim not in (1, 2) or theta.shape[-1] != self.n_parameters:
            raise ValueError(
                f"theta must have shape ({self.n_parameters},) or (k, {self.n_parameters}), flat "
                f"weights of the network of this subspace, got {tuple(theta.shape)}"
            )
        # Not reshape(-1, p): there may be no weights here.
        return theta.detach().reshape(1 if theta.ndim == 1 else len(theta), self.n_parameters)

    def _offsets(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``rows - origin`` and directions in float64, one block of weights at a time."""
        # However few they are, sums are over the same blocks.
        for block in blocks(self.n_parameters, max(_AT_LEAST, len(rows))):
            offsets = in_double(rows[:, block].to(self.origin.device), copy=True)
            offsets -= in_double(self.origin[block])
            yield offsets, in_double(self.directions[block]).contiguous()


def plane_through(weights: Sequence[Tensor]) -> AffineSubspace:
    """The affine subspace through ``d + 1`` weight vectors, centred at their mean.

    Args:
        weights: Flat weights, each of shape ``(p,)``; at least two.

    Returns:
        The ``d``-dimensional subspace. Its first direction points from ``weights[0]`` to
        ``weights[1]``; the others follow by Gram-Schmidt.

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
    columns = as_columns(list(weights), "weights")
    sizes = largest(columns)
    for i, size in enumerate(sizes.tolist()):
        if not size < float("inf"):
            raise ValueError(
                f"weights[{i}] must be finite, got NaN or infinite weights. Leave it out"
            )
    rounding = _IDENTICAL_WITHIN_EPSILONS * torch.finfo(columns.dtype).eps
    for i, j in combinations(range(len(sizes)), 2):
        if largest(columns[:, j] - columns[:, i]) <= rounding * max(sizes[i], sizes[j]):
            raise ValueError(
                f"weights must differ, got identical weights[{i}] and weights[{j}]. Leave one of "
                "them out"
            )
    differences = columns[:, 1:] - columns[:, :1]
    dependent = first_dependent(differences)
    if dependent is not None:
        raise ValueError(
            f"weights[{dependent + 1}] must not lie in the affine span of weights[0] to "
            f"weights[{dependent}], got one that does. Leave it out"
        )
    return AffineSubspace(columns.mean(dim=1), orthonormal_columns(differences, name="differences"))
