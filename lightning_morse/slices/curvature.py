"""Directions given by the derivatives of the loss at the current weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_morse._typing import Array
from lightning_morse.slices.bases import orthonormal_columns
from lightning_morse.slices.isolation import plain_arithmetic
from lightning_morse.slices.parameters import flatten
from lightning_morse.slices.shadow_loss import ShadowLoss

# Tolerance of ARPACK, relative to the eigenvalue. Eigenvectors are axes to look along, not results:
# every statement about the slice holds whatever its directions are.
_EIGENVECTOR_TOLERANCE = 1e-2
# Vectors of the Lanczos basis beyond twice those requested: more converge in fewer restarts, each
# costs as much memory as the weights in float64.
_EXTRA_LANCZOS_VECTORS = 6


@contextmanager
def differentiable(loss: ShadowLoss) -> Iterator[None]:
    """Reset the shadow copy to its initial state, and build the graph of what it computes.

    The global random number generators start from the seed of the loss and are restored afterwards.
    """
    device = loss.weights[0].device.type
    with plain_arithmetic(device), loss.leaving_no_trace():
        loss.reset()
        with torch.enable_grad():
            yield


def loss_gradient(loss: ShadowLoss) -> Tensor:
    """Gradient of the mean loss at the weights of the shadow copy.

    The global random number generators are restored afterwards.

    Args:
        loss: The loss of the network.

    Returns:
        Shape ``(p,)``, in the order of :func:`lightning_morse.flat_parameters`, at least float32;
        zero for weights that the loss does not depend on.

    Raises:
        ValueError: If the loss has no gradient. Errors of ``loss_fn`` pass through.
    """
    total: Tensor | None = None
    with differentiable(loss):
        for share, part in loss.parts():
            gradient = share * flatten(_derivative(part, loss.weights))
            total = gradient if total is None else total + gradient
    assert total is not None
    return total


def hessian_product(loss: ShadowLoss, vector: Tensor) -> Tensor:
    """Product of the Hessian of the mean loss with a vector, by two backward passes per batch.

    Args:
        loss: The loss of the network.
        vector: Shape ``(p,)``.

    Returns:
        Shape ``(p,)``, as :func:`loss_gradient`.

    Raises:
        ValueError: As :func:`loss_gradient`.
        RuntimeError: If an operation in the loss has no second derivative in torch.
    """
    pieces = torch.split(vector, [w.numel() for w in loss.weights])
    total = torch.zeros_like(vector)
    # Fused attention kernels have no second derivative.
    with differentiable(loss), sdpa_kernel(SDPBackend.MATH):
        for share, part in loss.parts():
            gradient = _derivative(part, loss.weights, create_graph=True)
            slope = torch.stack(
                [(g * v.view_as(g).to(g)).sum() for g, v in zip(gradient, pieces, strict=True)]
            ).sum()
            if slope.requires_grad:  # otherwise the loss is linear in all weights
                total += share * flatten(_derivative(slope, loss.weights))
    return total


def gradient_directions(loss: ShadowLoss, dim: int) -> Tensor:
    """The directions in which the gradient flow leaves the current weights.

    They span the gradient ``g``, ``H g``, ``H H g`` and so on (``H`` the Hessian), ``dim`` vectors
    in all: where third derivatives of the loss vanish, the first ``dim`` time derivatives of the
    solution of ``w' = -g(w)``. The first direction is that of steepest descent.

    Args:
        loss: The loss of the network.
        dim: Number of directions.

    Returns:
        Orthonormal columns, shape ``(p, dim)``.

    Raises:
        ValueError: If the gradient is zero or not finite, or the vectors do not span ``dim``
            dimensions.
        RuntimeError: As :func:`hessian_product`, for ``dim > 1``.
    """
    vectors = [-loss_gradient(loss)]
    while len(vectors) < dim:
        last = vectors[-1]
        size = last.norm()
        vectors.append(hessian_product(loss, last / size if size > 0 else last))
    return orthonormal_columns(vectors, name="derivatives of the gradient flow")


def n_products(dim: int) -> int:
    """Products with the Hessian that :func:`hessian_directions` takes as a rule."""
    return 2 * dim + _EXTRA_LANCZOS_VECTORS + 2


def hessian_directions(loss: ShadowLoss, dim: int, seed: int) -> Tensor:
    """Eigenvectors of the Hessian with the largest eigenvalues in absolute value.

    Computed by the implicitly restarted Lanczos method of ARPACK (Lehoucq, Sorensen, Yang 1998) on
    Hessian-vector products. It keeps ``2 dim + 6`` vectors in double precision on the CPU.

    Args:
        loss: The loss of the network.
        dim: Number of directions.
        seed: Seed of the initial vector.

    Returns:
        Orthonormal columns, shape ``(p, dim)``, by descending absolute eigenvalue, with residuals
        of at most about a hundredth of it. The entry of largest magnitude in each is positive.

    Raises:
        ValueError: If the Hessian is not finite or zero, or the iteration does not converge.
        RuntimeError: As :func:`hessian_product`.
    """
    like = flatten(loss.weights)
    p = len(like)

    def product(v: Array) -> Array:
        found = hessian_product(loss, torch.from_numpy(v.ravel().copy()).to(like))
        if not torch.isfinite(found).all():
            raise ValueError("the Hessian is not finite at the current weights")
        return found.cpu().double().numpy()

    operator = LinearOperator((p, p), matvec=product, dtype=np.float64)
    kept = 2 * dim + _EXTRA_LANCZOS_VECTORS
    if p <= kept:  # ARPACK needs a basis smaller than the space
        full = operator @ np.eye(p)
        values, vectors = np.linalg.eigh((full + full.T) / 2)
    else:
        start = torch.randn(p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        if not product(start.numpy()).any():
            raise ValueError("the Hessian is zero at the current weights")
        try:
            values, vectors = eigsh(
                operator, dim, which="LM", v0=start.numpy(), ncv=kept, tol=_EIGENVECTOR_TOLERANCE
            )
        except ArpackNoConvergence as error:
            raise ValueError(f"eigenvectors of the Hessian did not converge: {error}") from error
    order = np.argsort(-np.abs(values), kind="stable")[:dim]
    if not np.abs(values[order]).min() > 0:
        raise ValueError(f"the Hessian has a rank below dim = {dim} at the current weights")
    columns = vectors[:, order]
    columns *= np.sign(columns[np.abs(columns).argmax(axis=0), range(dim)])
    return orthonormal_columns(torch.from_numpy(columns).to(like), name="eigenvectors")


def _derivative(
    value: Tensor, weights: list[torch.nn.Parameter], *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    if not value.requires_grad:
        raise ValueError(
            "the loss must have a gradient with respect to the weights, got one without. Do not "
            "detach it, or choose other directions"
        )
    return torch.autograd.grad(
        value,
        weights,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
