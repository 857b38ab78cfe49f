"""The loss of a network on an affine subspace of its weights.

Everything is evaluated on a shadow copy: the network that is being trained is only ever read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_morse.slices.isolation import plain_arithmetic, preserved_random_state
from lightning_morse.slices.module_copy import shadow_copy
from lightning_morse.slices.parameters import trainable_parameters
from lightning_morse.slices.shadow_loss import ShadowLoss
from lightning_morse.slices.subspace import AffineSubspace


class LossSlice:
    r"""The mean loss on a fixed probe set as a function on an affine subspace of weight space.

    .. math:: \ell(x) = \frac{1}{\sum_b n_b} \sum_b n_b \, L(\theta_c + D x; \text{batch}_b)

    It is a function: at every point the shadow copy starts from the same buffers and attributes,
    the batches from the same contents, and the global random number generators from ``seed``
    (:class:`ShadowLoss`). Those generators are restored afterwards, whatever happens. Memory does
    not grow with the number of points.

    The evaluation is in eval mode, without gradients, without autocast and in float32 or better. A
    loss that needs gradients of its own must ask for them with ``torch.enable_grad()``. Weights
    that are frozen, and buffers, are those at construction; a step that writes to frozen weights
    finds at the next point what it wrote.

    Args:
        module: The network; read once, at construction, and never changed.
        subspace: Where to evaluate, with as many weights as ``module`` has trainable ones.
        batches: The probe set, on the device of the module. Batch ``b`` has weight ``n_b``, the
            leading length of the first tensor in it, or 1 if it holds none.
        loss_fn: ``loss_fn(module, batch)`` returns the mean loss of a batch as a tensor with one
            element. It must use the module it is given. Default: :func:`loss_from_steps`.
        seed: Seed of the random numbers a stochastic loss draws.

    Raises:
        ValueError: If the subspace does not fit the module, there are no batches, a batch is empty,
            or the module cannot be copied (:func:`shadow_copy`).

    Example:
        >>> layer = torch.nn.Linear(1, 1, bias=False)
        >>> line = AffineSubspace(torch.tensor([2.0]), torch.tensor([[1.0]]))
        >>> loss = LossSlice(layer, line, [torch.ones(4, 1)], lambda net, x: net(x).square().mean())
        >>> loss(torch.tensor([[0.0], [1.0]], dtype=torch.float64)).tolist()
        [4.0, 9.0]
    """

    def __init__(
        self,
        module: nn.Module,
        subspace: AffineSubspace,
        batches: Sequence[Any],
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        n_weights = self._count(module)
        if subspace.n_parameters != n_weights:
            raise ValueError(
                f"subspace must have one entry for each of the {n_weights} trainable weights of "
                f"module, got {subspace.n_parameters}. Build it from flat_parameters(module)"
            )
        self.subspace = subspace
        self.seed = seed
        self._loss = ShadowLoss(module, batches, loss_fn, seed, self._copy)
        with torch.inference_mode(False), torch.no_grad():
            self._bind()

    @property
    def n_examples(self) -> int:
        """Number of examples in the probe set."""
        return self._loss.n_examples

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate the loss.

        Args:
            x: Points in the coordinates of the subspace, shape ``(n, d)``.

        Returns:
            Losses, shape ``(n,)``, float64, on the device of ``x``. NaN and infinite losses come
            back as they are.

        Raises:
            ValueError: If ``x`` has another shape or is not finite, or ``loss_fn`` does not return
                a tensor with one element. Other errors of ``loss_fn`` pass through.
        """
        points = torch.as_tensor(x, dtype=torch.float64).detach()
        if points.ndim != 2 or points.shape[1] != self.subspace.dim:
            raise ValueError(
                f"x must have shape (n, {self.subspace.dim}), one point a row, got "
                f"{tuple(points.shape)}"
            )
        if not torch.isfinite(points).all():
            i = int((~torch.isfinite(points)).any(dim=1).nonzero()[0])
            raise ValueError(f"x must be finite, got {points[i].tolist()} in row {i}")
        with plain_arithmetic(self._theta.device.type), preserved_random_state():
            return points.new_tensor([self._loss_at(point) for point in points])

    def _count(self, module: nn.Module) -> int:
        return sum(p.numel() for _, p in trainable_parameters(module))

    def _copy(self, module: nn.Module) -> nn.Module:
        return shadow_copy(module)

    def _bind(self) -> None:
        """Make the weights of the copy pieces of one vector, so that a point is written once."""
        weights = self._loss.weights
        self._theta = torch.empty_like(self.subspace.origin)
        pieces = self._theta.split([w.numel() for w in weights])
        self._pieces: list[tuple[nn.Parameter, Tensor]] = []
        self._copied: list[tuple[nn.Parameter, Tensor]] = []
        for weight, piece in zip(weights, pieces, strict=True):
            alike = weight.is_contiguous() and (weight.dtype, weight.device) == (
                piece.dtype,
                piece.device,
            )
            (self._pieces if alike else self._copied).append((weight, piece.view_as(weight)))
            if alike:
                weight.data = piece.view_as(weight)  # frees what it held

    def _loss_at(self, point: Tensor) -> float:
        self._loss.reset()
        self._write(point)
        return sum(share * loss.item() for share, loss in self._loss.parts())

    def _write(self, point: Tensor) -> None:
        """Put the weights of a point into the copy."""
        self.subspace.point(point, out=self._theta)
        for weight, piece in self._pieces:
            weight.data = piece  # each time: a step may have bound it to something else
        for weight, piece in self._copied:
            weight.copy_(piece)
