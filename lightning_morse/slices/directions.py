"""The slice through weight space that an analysis looks at, and where its directions come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_morse.slices.bases import WHOLE, Whole, orthonormal_columns, principal
from lightning_morse.slices.columns import as_few_threads_as_help
from lightning_morse.slices.curvature import (
    differentiable,
    gradient_directions,
    hessian_directions,
    n_products,
)
from lightning_morse.slices.given_vectors import (
    Vectors,
    Weights,
    checkpoint_weights,
    direction_vectors,
    listed,
    orthonormal_directions,
)
from lightning_morse.slices.shadow_loss import ShadowLoss
from lightning_morse.slices.subspace import AffineSubspace, plane_through

NAMED = ("pca", "random", "gradient", "hessian", "checkpoints")
VALLEY = "valley"
# Two distinct weights span one line, which says where training went but not how it turned.
FEWEST_FOR_PCA = 3

Directions: TypeAlias = str | Vectors | Callable[[Any, Sequence[Any]], Vectors]

__all__ = ["NAMED", "Coverage", "DirectionSource", "Directions", "Slice", "Weights", "axis_labels"]


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice, and the facts that determine how large a box in it to look at.

    Attributes:
        subspace: The affine subspace; the box is centred at its origin.
        kind: Where the directions come from: a name in ``NAMED``, or ``"user"``; ``"valley"`` for
            axes that were turned along one.
        inside: Coordinates that must lie well inside the box, shape ``(k, d)``, float64.
        natural: Half-widths of the box where ``inside`` gives none, in weight-space units, shape
            ``(d,)``; None if there is no such scale.
        fallback: Why these are not the directions requested; empty if they are.
        off: Distances of the weights at ``inside`` from the slice, shape ``(k,)``, float64, where
            they are known.
    """

    subspace: AffineSubspace
    kind: str
    inside: Tensor
    natural: Tensor | None = None
    fallback: str = ""
    off: Tensor | None = None

    def turned(self, axes: Tensor) -> Slice:
        """The same slice in coordinates along a valley.

        Args:
            axes: Orthonormal columns, shape ``(d, d)``, float64.
        """
        subspace = self.subspace.turned(axes)
        return Slice(subspace, VALLEY, self.inside @ axes, None, self.fallback, self.off)

    def coverage(self, weights: Tensor, snapshots: Tensor, at: Tensor) -> Coverage:
        """How much of a trajectory the slice shows.

        Args:
            weights: The current weights, shape ``(p,)``.
            snapshots: Earlier weights, shape ``(T, p)``; perhaps none.
            at: Their coordinates in the slice, shape ``(T, d)``.
        """
        if self.off is not None and at is self.inside:
            off = distances = self.off
        else:
            off = distances = self.subspace.residual(snapshots, at)
        if not torch.equal(self.subspace.origin, weights):  # true of all processes or of none
            about = AffineSubspace(weights, self.subspace.directions, self.subspace.rows)
            at = about.project(snapshots)
            off = about.residual(snapshots, at)
        along = at.square().sum(dim=0)
        total = float(along.sum() + off.square().sum())
        shares = along / total if total > 0 else torch.zeros(self.subspace.dim)
        off_slice = distances.square().sum() / max(1, len(snapshots))
        return Coverage(
            shares=tuple(shares.tolist()),
            explained=float(shares.sum()) if total > 0 else 1.0,
            residual=float(off_slice.sqrt()),
        )


@dataclass(frozen=True)
class Coverage:
    """How much of a trajectory a slice shows.

    Attributes:
        shares: Share of the squared displacements from the current weights along each axis.
        explained: Share of them inside the slice, the sum of ``shares``; 1 if nothing moved.
        residual: Root mean square distance of the trajectory from the slice, weight-space units; 0
            if there is no trajectory.
    """

    shares: tuple[float, ...]
    explained: float
    residual: float


class DirectionSource:
    """Source of the directions of all slices of a run.

    Args:
        directions: A name in ``NAMED``; a tensor of shape ``(p, dim)``; ``dim`` flat tensors or
            mappings from parameter names to tensors; or a function that returns such tensors, given
            a copy of the network and the probe batches.
        dim: Dimension of the slices.
        checkpoints: For ``"checkpoints"``: ``dim + 1`` weights, each a flat tensor, a state dict,
            or the path of a checkpoint.
        seed: Seed of the random directions, and of the initial vector of the eigenvalue solver.

    Raises:
        ValueError: If an argument is wrong in a way that can be seen without the network.
    """

    def __init__(
        self, directions: Directions, dim: int, checkpoints: Sequence[Weights] | None, seed: int
    ) -> None:
        self.kind = directions if isinstance(directions, str) else "user"
        self.dim = dim
        self.seed = seed
        if isinstance(directions, str) and directions not in NAMED:
            raise ValueError(
                f"directions must be one of {', '.join(map(repr, NAMED))}, tensors, or a function, "
                f"got {directions!r}"
            )
        self._checkpoints = self._checked(checkpoints)
        self._vectors: list[Any] = []
        self._choose: Callable[[Any, Sequence[Any]], Vectors] | None = None
        if callable(directions):
            self._choose = directions
        elif not isinstance(directions, str):
            self._vectors = direction_vectors(directions, dim)
        # Set by bind(): the user's directions, or the plane through the checkpoints and where in it
        # they lie.
        self._fixed: Tensor | None = None
        self._plane: tuple[AffineSubspace, Tensor] | None = None

    def _checked(self, checkpoints: Sequence[Weights] | None) -> list[Weights]:
        if (self.kind == "checkpoints") != (checkpoints is not None):
            raise ValueError(
                "checkpoints and directions='checkpoints' belong together, got directions="
                f"{self.kind!r} and checkpoints {'not ' if checkpoints is None else ''}given. "
                "Give both or neither"
            )
        found = [] if checkpoints is None else listed(checkpoints, "checkpoints")
        if self.kind == "checkpoints" and len(found) != self.dim + 1:
            raise ValueError(
                f"checkpoints must be dim + 1 = {self.dim + 1} weights, which span {self.dim} "
                f"dimensions, got {len(found)}. Set dim={len(found) - 1} or give others"
            )
        for i, path in enumerate(found):
            if isinstance(path, str | os.PathLike) and not Path(path).is_file():
                raise ValueError(f"checkpoints[{i}] must be an existing file, got {str(path)!r}")
        return found

    def bind(self, parameters: Mapping[str, Tensor]) -> None:
        """Check the user's directions or checkpoints against a network, and prepare them.

        Args:
            parameters: Its trainable parameters by name, in order.

        Raises:
            ValueError: If a length, name or shape does not fit, a direction is zero or not finite,
                directions are collinear, or two checkpoints are identical.
        """
        n_parameters = sum(t.numel() for t in parameters.values())
        if self.dim > n_parameters:
            raise ValueError(
                f"dim must be at most the number of trainable weights, {n_parameters}, got "
                f"{self.dim}"
            )
        if self._vectors:
            self._fixed = orthonormal_directions(self._vectors, parameters)
        if self._checkpoints:
            weights = [
                checkpoint_weights(c, i, parameters) for i, c in enumerate(self._checkpoints)
            ]
            try:
                plane = plane_through(weights)
            except ValueError as error:
                raise ValueError(f"checkpoints do not span a plane: {error}") from error
            self._plane = plane, plane.project(torch.stack(weights))

    @property
    def n_derivatives(self) -> int:
        """Gradients of the loss, and of such gradients, that choosing takes as a rule."""
        return {"gradient": self.dim, "hessian": n_products(self.dim)}.get(self.kind, 0)

    def slice_at(
        self,
        weights: Tensor,
        path: Tensor,
        parameters: Mapping[str, Tensor],
        loss: Callable[[], ShadowLoss],
        rows: Whole = WHOLE,
    ) -> Slice:
        """The slice to analyse at the current weights.

        Args:
            weights: The trainable weights, flat, shape ``(p,)``.
            path: Weights along the trajectory, oldest first, the current ones last, shape
                ``(T, p)`` with ``T >= 2``, on the CPU. The first of them scales random directions,
                which are therefore the same throughout the run.
            parameters: The trainable parameters by name, in order.
            loss: Makes the loss of the network on the probe set, for directions given by its
                derivatives or by a function.
            rows: How the weights are spread over processes, as in :class:`AffineSubspace`;
                ``"pca"`` and ``"random"`` only.

        Returns:
            The slice; along random directions, with the reason in ``fallback``, if the requested
            ones do not exist.

        Raises:
            ValueError: If the network no longer has the weights it was bound to, weights are not
                finite, or a function did not return directions.
        """
        if self._plane is not None:
            return self._through_checkpoints(*self._plane, weights)
        if self._fixed is not None:
            _check_length("directions", len(self._fixed), len(weights))
            return self._along(self._fixed, weights, path)
        if self._choose is not None:
            copy = loss()
            with differentiable(copy):
                vectors = direction_vectors(self._choose(copy.module, copy.batches), self.dim)
            return self._along(orthonormal_directions(vectors, parameters), weights, path)
        fallback = ""
        if self.kind == "pca":
            try:
                return self._principal(weights, path, rows)
            except ValueError as error:
                fallback = str(error)
        elif self.kind in ("gradient", "hessian"):
            try:
                return self._along(self._from_derivatives(loss()), weights, path)
            except (ValueError, RuntimeError) as error:  # torch: no second derivative, no memory
                fallback = str(error)
        shapes = [p.shape for p in parameters.values()]
        return self._random(weights, path, shapes, rows, fallback)

    def _through_checkpoints(
        self, plane: AffineSubspace, corners: Tensor, weights: Tensor
    ) -> Slice:
        _check_length("checkpoints", plane.n_parameters, len(weights))
        plane = AffineSubspace(plane.origin.to(weights), plane.directions.to(weights))
        return Slice(plane, "checkpoints", corners)

    def _along(self, columns: Tensor, weights: Tensor, path: Tensor) -> Slice:
        """The slice at the current weights along given directions, which set no scale."""
        plane = AffineSubspace(weights, columns.to(weights))
        natural = weights.double().norm().cpu().expand(self.dim)
        return Slice(plane, self.kind, plane.project(path[:-1]), natural)

    def _from_derivatives(self, loss: ShadowLoss) -> Tensor:
        if self.kind == "gradient":
            return gradient_directions(loss, self.dim)
        return hessian_directions(loss, self.dim, self.seed)

    def _principal(self, weights: Tensor, path: Tensor, rows: Whole) -> Slice:
        moved = torch.tensor([float(not a.equal(b)) for a, b in pairwise(path)])
        distinct = int(rows.largest(moved).sum()) + 1
        if distinct < FEWEST_FOR_PCA:
            raise ValueError(f"there are only {distinct} distinct snapshots of the trajectory yet")
        with as_few_threads_as_help(path.numel()):
            found = principal(path, self.dim, rows)
            plane = AffineSubspace(weights, _like(weights, found.directions, rows), rows)
            if path.dtype != weights.dtype:  # the last snapshot is not quite the weights
                return Slice(plane, "pca", plane.project(path[:-1]))
        return Slice(plane, "pca", found.at[:-1], off=found.off[:-1])

    def _random(
        self,
        weights: Tensor,
        path: Tensor,
        shapes: Sequence[torch.Size],
        rows: Whole,
        fallback: str,
    ) -> Slice:
        generator = torch.Generator().manual_seed(self.seed)
        columns, norms = rows.random_directions(path[0], shapes, self.dim, generator)
        plane = AffineSubspace(weights, _like(weights, columns, rows), rows)
        return Slice(plane, "random", plane.project(path[:-1]), norms, fallback)


def axis_labels(kind: str, explained: Sequence[float]) -> list[str]:
    """Label each axis of a slice with the share of the trajectory along it.

    Example:
        >>> axis_labels("pca", [0.83, 0.104])
        ['PC 1 (83 % of the trajectory)', 'PC 2 (10 % of the trajectory)']
    """
    name = {
        "pca": "PC",
        "random": "random direction",
        "gradient": "descent direction",
        "hessian": "Hessian eigenvector",
        "checkpoints": "plane direction",
        VALLEY: "valley axis",
    }
    return [
        f"{name.get(kind, 'direction')} {j} ({100 * share:.0f} % of the trajectory)"
        for j, share in enumerate(explained, start=1)
    ]


def _like(weights: Tensor, columns: Tensor, rows: Whole) -> Tensor:
    """Orthonormal columns converted to the dtype of the weights, orthonormal to its precision."""
    finer = torch.finfo(weights.dtype).eps < torch.finfo(columns.dtype).eps
    columns = columns.to(weights)
    return orthonormal_columns(columns, rows=rows) if finer else columns


def _check_length(name: str, before: int, now: int) -> None:
    if before != now:
        raise ValueError(
            f"{name} were given for {before} trainable weights, but the network now has {now}: "
            "parameters were frozen or unfrozen during the run"
        )
