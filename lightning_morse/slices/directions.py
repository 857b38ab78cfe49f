"""Which slice through weight space an analysis looks at."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_morse.slices.bases import WHOLE, Whole, orthonormal_columns, pca_directions
from lightning_morse.slices.curvature import differentiable, gradient_directions, hessian_directions
from lightning_morse.slices.shadow_loss import ShadowLoss
from lightning_morse.slices.subspace import AffineSubspace, plane_through

NAMED = ("pca", "random", "gradient", "hessian", "checkpoints")
# Fewer distinct weights than this have no principal directions worth the name.
FEWEST_FOR_PCA = 3

Weights: TypeAlias = Tensor | Mapping[str, Tensor] | str | os.PathLike[str]
Vectors: TypeAlias = Tensor | Sequence[Tensor | Mapping[str, Tensor]]
Directions: TypeAlias = str | Vectors | Callable[[Any, Sequence[Any]], Vectors]


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice, and what decides how large a piece of it to look at.

    Attributes:
        subspace: The affine subspace; the box is centred at its origin.
        kind: Where the directions come from: a name of ``NAMED``, or ``"user"``.
        inside: Coordinates that must lie well inside the box, shape ``(k, d)``, float64.
        natural: Half-widths in weight-space units to take where ``inside`` says nothing, shape
            ``(d,)``; None where there are no such.
        fallback: Why these are not the directions that were asked for; empty if they are.
    """

    subspace: AffineSubspace
    kind: str
    inside: Tensor
    natural: Tensor | None = None
    fallback: str = ""

    def coverage(self, weights: Tensor, snapshots: Tensor) -> Coverage:
        """How much of a trajectory the slice shows.

        Args:
            weights: The current weights, shape ``(p,)``.
            snapshots: Earlier weights, shape ``(T, p)``.
        """
        about = AffineSubspace(weights, self.subspace.directions, self.subspace.rows)
        along = about.project(snapshots).square().sum(dim=0)
        total = float(along.sum() + about.residual(snapshots).square().sum())
        shares = along / total if total > 0 else torch.zeros(self.subspace.dim)
        off_slice = self.subspace.residual(snapshots).square().mean().sqrt()
        return Coverage(
            shares=tuple(shares.tolist()),
            explained=float(shares.sum()) if total > 0 else 1.0,
            residual=float(off_slice),
        )


@dataclass(frozen=True)
class Coverage:
    """How much of a trajectory a slice shows.

    Attributes:
        shares: Share of the squared displacements from the current weights along each axis.
        explained: Share of them inside the slice, the sum of ``shares``; 1 if nothing moved.
        residual: Root mean square distance of the trajectory from the slice, weight-space units.
    """

    shares: tuple[float, ...]
    explained: float
    residual: float


class DirectionSource:
    """Where the directions of the slices come from; one for a run.

    Args:
        directions: A name of ``NAMED``; a tensor of shape ``(p, dim)``; ``dim`` flat tensors or
            mappings from parameter names to tensors; or a function that returns such tensors, of a
            copy of the network and the probe batches.
        dim: Dimension of the slices.
        checkpoints: For ``"checkpoints"``: ``dim + 1`` weights, each a flat tensor, a state dict,
            or the path of a checkpoint.
        seed: Seed of the random directions, and of what a search for others begins with.

    Raises:
        ValueError: If something is wrong that can be seen without the network.
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
        if (self.kind == "checkpoints") != (checkpoints is not None):
            raise ValueError(
                "checkpoints and directions='checkpoints' belong together, got directions="
                f"{self.kind!r} and checkpoints {'not ' if checkpoints is None else ''}given. "
                "Give both or neither"
            )
        self._checkpoints = [] if checkpoints is None else _listed(checkpoints, "checkpoints")
        if self.kind == "checkpoints" and len(self._checkpoints) != dim + 1:
            raise ValueError(
                f"checkpoints must be dim + 1 = {dim + 1} weights, which span {dim} dimensions, "
                f"got {len(self._checkpoints)}. Set dim={len(self._checkpoints) - 1} or give others"
            )
        for i, path in enumerate(self._checkpoints):
            if isinstance(path, str | os.PathLike) and not Path(path).is_file():
                raise ValueError(f"checkpoints[{i}] must be an existing file, got {str(path)!r}")

        self._vectors: list[Any] = []
        self._choose: Callable[[Any, Sequence[Any]], Vectors] | None = None
        if callable(directions):
            self._choose = directions
        elif not isinstance(directions, str):
            self._vectors = _columns(directions, dim)
        self._fixed: Tensor | None = None
        self._plane: tuple[AffineSubspace, Tensor] | None = None

    def bind(self, parameters: Mapping[str, Tensor]) -> None:
        """Fit what the user gave to a network.

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
            self._fixed = _orthonormal(self._vectors, parameters)
        if self._checkpoints:
            weights = [
                _flat(_loaded(c, i), parameters, f"checkpoints[{i}]", partial=False)
                for i, c in enumerate(self._checkpoints)
            ]
            try:
                plane = plane_through(weights)
            except ValueError as error:
                raise ValueError(f"checkpoints do not span a plane: {error}") from error
            self._plane = plane, plane.project(torch.stack(weights))

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
            path: Weights along the trajectory, oldest first and the current ones last, shape
                ``(T, p)`` with ``T >= 2``, on the CPU. The first of them scales random directions,
                which are therefore the same all through the run.
            parameters: The trainable parameters by name, in order.
            loss: Makes the loss of the network on the probe set, for directions that come from its
                derivatives or from a function.
            rows: How the weights are spread over processes, as in :class:`AffineSubspace`;
                ``"pca"`` and ``"random"`` only.

        Raises:
            ValueError: If the network no longer has the weights it was bound to, weights are not
                finite, or a function returned something else than directions.
        """
        if self._plane is not None:
            plane, corners = self._plane
            _check_length("checkpoints", plane.n_parameters, len(weights))
            plane = AffineSubspace(plane.origin.to(weights), plane.directions.to(weights))
            return Slice(plane, "checkpoints", corners)
        if self._fixed is not None:
            _check_length("directions", len(self._fixed), len(weights))
            return self._along(self._fixed, weights, path)
        if self._choose is not None:
            copy = loss()
            with differentiable(copy):
                vectors = _columns(self._choose(copy.module, copy.batches), self.dim)
            return self._along(_orthonormal(vectors, parameters), weights, path)
        fallback = ""
        if self.kind in ("gradient", "hessian"):
            try:
                if self.kind == "gradient":
                    columns = gradient_directions(loss(), self.dim)
                else:
                    columns = hessian_directions(loss(), self.dim, self.seed)
                return self._along(columns, weights, path)
            except (ValueError, RuntimeError) as error:  # torch: no second derivative, no memory
                fallback = str(error)
        if self.kind == "pca":
            moved = torch.tensor([float(not a.equal(b)) for a, b in pairwise(path)])
            moves = int(rows.largest(moved).sum())
            if moves + 1 < FEWEST_FOR_PCA:
                fallback = f"there are only {moves + 1} distinct snapshots of the trajectory yet"
            else:
                try:
                    columns = _like(weights, pca_directions(path, self.dim, rows), rows)
                    plane = AffineSubspace(weights, columns, rows)
                    return Slice(plane, "pca", plane.project(path[:-1]))
                except ValueError as error:
                    fallback = str(error)
        shapes = [p.shape for p in parameters.values()]
        generator = torch.Generator().manual_seed(self.seed)
        columns, norms = rows.random_directions(path[0], shapes, self.dim, generator)
        plane = AffineSubspace(weights, _like(weights, columns, rows), rows)
        return Slice(plane, "random", plane.project(path[:-1]), norms, fallback)

    def _along(self, columns: Tensor, weights: Tensor, path: Tensor) -> Slice:
        """The slice at the current weights along given directions, which set no scale."""
        plane = AffineSubspace(weights, columns.to(weights))
        natural = weights.double().norm().cpu().expand(self.dim)
        return Slice(plane, self.kind, plane.project(path[:-1]), natural)


def axis_labels(kind: str, explained: Sequence[float]) -> list[str]:
    """Name the axes of a slice, each with the share of the trajectory along it.

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
    }
    return [
        f"{name.get(kind, 'direction')} {j} ({100 * share:.0f} % of the trajectory)"
        for j, share in enumerate(explained, start=1)
    ]


def _like(weights: Tensor, columns: Tensor, rows: Whole) -> Tensor:
    """Orthonormal columns in the precision of the weights, orthonormal to that precision."""
    finer = torch.finfo(weights.dtype).eps < torch.finfo(columns.dtype).eps
    columns = columns.to(weights)
    return orthonormal_columns(columns, rows=rows) if finer else columns


def _columns(directions: Any, dim: int) -> list[Any]:
    """The vectors that a user gave, one a direction."""
    if isinstance(directions, Tensor) and directions.ndim != 2:
        raise ValueError(
            "directions must have shape (p, dim), one direction a column, got shape "
            f"{tuple(directions.shape)}"
        )
    vectors = _listed(directions.T if isinstance(directions, Tensor) else directions, "directions")
    if len(vectors) != dim:
        raise ValueError(
            f"directions must be dim = {dim} vectors, got {len(vectors)}. Set dim={len(vectors)} "
            "or give others"
        )
    return vectors


def _orthonormal(vectors: Sequence[Any], parameters: Mapping[str, Tensor]) -> Tensor:
    flat = [_flat(v, parameters, f"directions[{i}]", partial=True) for i, v in enumerate(vectors)]
    return orthonormal_columns(flat, name="directions")


def _listed(given: Any, name: str) -> list[Any]:
    if isinstance(given, Mapping | str | os.PathLike) or not hasattr(given, "__len__"):
        raise ValueError(f"{name} must be a sequence, got {type(given).__name__}")
    return list(given)


def _check_length(name: str, before: int, now: int) -> None:
    if before != now:
        raise ValueError(
            f"{name} were given for {before} trainable weights, but the network now has {now}: "
            "parameters were frozen or unfrozen during the run"
        )


def _loaded(checkpoint: Weights, i: int) -> Tensor | Mapping[str, Tensor]:
    """Read a checkpoint if it is a path; unwrap Lightning's."""
    if isinstance(checkpoint, str | os.PathLike):
        try:
            checkpoint = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever the unpickler meets in a damaged or foreign file
            raise ValueError(
                f"checkpoints[{i}] must be a file that torch.load(..., weights_only=True) reads, "
                f"got {str(checkpoint)!r}: {error}. Load it yourself and pass its state dict"
            ) from error
    if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get("state_dict"), Mapping):
        checkpoint = checkpoint["state_dict"]
    return checkpoint  # type: ignore[return-value]


def _flat(given: Any, parameters: Mapping[str, Tensor], name: str, *, partial: bool) -> Tensor:
    """Check one weight vector against the network and return it flat, on the CPU.

    ``partial``: names that are missing count as zero and unknown ones are refused (a direction);
    otherwise missing ones are refused and unknown ones are buffers or frozen (a state dict).
    """
    n_parameters = sum(t.numel() for t in parameters.values())
    # In the precision of the network: what it cannot tell apart counts as identical.
    dtype = torch.promote_types(torch.float32, next(iter(parameters.values())).dtype)
    if isinstance(given, Tensor):
        if given.shape != (n_parameters,):
            raise ValueError(
                f"{name} must be flat, with one entry for each of the {n_parameters} trainable "
                f"weights of the module in the order of its parameters(), got shape "
                f"{tuple(given.shape)}"
            )
        return given.detach().cpu().to(dtype)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{name} must be a flat tensor or a mapping from parameter names to tensors, got "
            f"{type(given).__name__}"
        )
    wrong = (
        sorted(set(given) - set(parameters)) if partial else sorted(set(parameters) - set(given))
    )
    if wrong:
        raise ValueError(
            f"{name} {'has' if partial else 'lacks'} {wrong[0]!r}, which is "
            f"{'not ' if partial else ''}a trainable parameter of the module"
        )
    parts = []
    for key, parameter in parameters.items():
        part = given.get(key, torch.zeros(()).expand(parameter.shape))
        if not isinstance(part, Tensor) or part.shape != parameter.shape:
            raise ValueError(
                f"{name}[{key!r}] must be a tensor of shape {tuple(parameter.shape)} like the "
                f"parameter, got {tuple(part.shape) if isinstance(part, Tensor) else part!r}"
            )
        parts.append(part.detach().cpu().to(dtype).reshape(-1))
    return torch.cat(parts)
