"""Loss and exact gradient of a network on a slice, at many points at once.

The product evaluates a loss at one point after the other. What is checked against the true flow
needs thousands of gradients, and many small networks at once are several times as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_morse.slices.curvature import differentiable, loss_gradient
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.shadow_loss import ShadowLoss

# Networks evaluated at once.
_CHUNK = 16
# Distance of the points at which the two ways of evaluation are compared, relative to the weights.
_APART = 0.01
# By how much they may differ, relative to the largest loss or gradient there.
_ALIKE = 1e-3


class Slope:
    """The loss on a slice and its gradient in slice coordinates, by automatic differentiation.

    It is the loss of the very copy that :class:`LossSlice` evaluates, from the same state and with
    the same random numbers. Points are evaluated together where that is possible and agrees with
    evaluating them one by one, which is checked first.

    Args:
        loss: The loss on the slice. It must not be evaluated by anyone else meanwhile.

    Attributes:
        together: Whether points are evaluated together.
        count: Gradients evaluated so far.
    """

    def __init__(self, loss: LossSlice) -> None:
        self._loss = loss
        self._shadow: ShadowLoss = loss._loss
        self._space = loss.subspace
        self.count = 0
        for weight in self._shadow.weights:
            weight.requires_grad_(True)
        size = _APART * float(self._space.origin.norm())
        points = size * np.vstack([np.zeros(self._space.dim), np.eye(self._space.dim)])
        losses = loss(torch.from_numpy(points)).numpy()  # settles which batches count
        alone = self._alone(points)
        try:
            gradients, again = self._mean(points, _with_gradient)
            self.together = _alike(gradients, alone) and _alike(again, losses)
        except RuntimeError:  # an operation without a batching rule
            self.together = False

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Gradients at points, both of shape ``(n, d)``."""
        self.count += len(points)
        if not self.together:
            return self._alone(points)
        return np.concatenate([self._mean(part, _with_gradient)[0] for part in _chunks(points)])

    def losses(self, points: np.ndarray) -> np.ndarray:
        """The losses, shape ``(n,)``."""
        if self.together:
            try:
                return np.concatenate([self._mean(part, vmap)[0] for part in _chunks(points)])
            except RuntimeError:  # some operations can be batched only as parts of a graph
                pass
        return self._loss(torch.from_numpy(points)).numpy()

    def _alone(self, points: np.ndarray) -> np.ndarray:
        gradients = []
        for point in torch.from_numpy(points):
            with torch.no_grad():
                self._loss._write(point)
            gradient = loss_gradient(self._shadow).double()
            gradients.append((self._space.directions.double().T @ gradient).numpy())
        return np.array(gradients).reshape(points.shape)

    def _mean(self, points: np.ndarray, batched: Callable[..., Any]) -> list[np.ndarray]:
        """The weighted mean over the probe batches of what a transformed loss returns."""
        shadow, space = self._shadow, self._space
        step = _Step(shadow)
        known = {id(p): name for name, p in step.named_parameters()}
        names = [known[id(w)] for w in shadow.weights]
        sizes = [w.numel() for w in shadow.weights]

        def loss(x: Tensor, b: int) -> Tensor:
            pieces = (space.origin + space.directions @ x).split(sizes)
            weights = {
                name: piece.view_as(w)
                for name, piece, w in zip(names, pieces, shadow.weights, strict=True)
            }
            return functional_call(step, weights, (b,)).reshape(())

        at = torch.from_numpy(points).to(space.origin)
        total: list[Tensor] = []
        # Kernels for attention that are fast for one network cannot be batched.
        with differentiable(shadow), sdpa_kernel(SDPBackend.MATH):
            skipped, n = shadow._skipped or (), shadow.n_examples
            for b in (b for b in range(len(shadow.batches)) if b not in skipped):
                found = batched(loss, in_dims=(0, None), randomness="same")(at, b)
                found = found if isinstance(found, tuple) else (found,)
                share = shadow._sizes[b] / n
                weighted = [share * part.detach().double() for part in found]
                total = [a + w for a, w in zip(total, weighted, strict=True)] if total else weighted
        return [part.numpy() for part in total]


class _Step(nn.Module):
    """The loss of a probe batch as the forward pass of a module, whose weights can be replaced."""

    def __init__(self, shadow: ShadowLoss) -> None:
        super().__init__()
        self.module = shadow.module
        self._called = shadow._called

    def forward(self, b: int) -> Tensor:
        loss = self._called(b)
        assert loss is not None, "the batches that the step skips are left out"
        return loss


def _with_gradient(loss: Callable[..., Tensor], **how: Any) -> Callable[..., Any]:
    return vmap(grad_and_value(loss), **how)


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() <= _ALIKE * np.abs(b).max())


def _chunks(points: np.ndarray) -> list[np.ndarray]:
    return np.array_split(points, max(1, -(-len(points) // _CHUNK)))
