"""The loss of a network on an affine subspace of its weights.

Everything is evaluated on a shadow copy: the network that is being trained is only ever read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_morse.slices.batch_statistics import Statistics
from lightning_morse.slices.copying import Check
from lightning_morse.slices.isolation import plain_arithmetic
from lightning_morse.slices.module_copy import shadow_copy
from lightning_morse.slices.parameters import as_real, count_of_weights, trainable_parameters
from lightning_morse.slices.shadow_loss import (
    ShadowLoss,
    SkippedBatchError,
    is_not_of_the_point,
)
from lightning_morse.slices.silence import quiet
from lightning_morse.slices.subspace import AffineSubspace
from lightning_morse.slices.world import World


class LossSlice:
    r"""The mean loss on a fixed probe set as a function on an affine subspace of weight space.

    .. math:: \ell(x) = \frac{1}{\sum_b n_b} \sum_b n_b \, L(\theta_c + D x; \text{batch}_b)

    It is a function: at every point the shadow copy starts from the same buffers and attributes,
    the batches from the same contents, and the global random number generators from ``seed``
    (:class:`ShadowLoss`). Those generators are restored afterwards, whatever happens. Memory does
    not grow with the number of points.

    The loss is the one that training minimises: layers that keep running statistics (batch norm)
    and are in training mode use those of each batch, and update nothing; everything else is in eval
    mode, so that dropout and other noise are off
    (:func:`~lightning_morse.slices.batch_statistics.choose_statistics`). It is evaluated without
    autocast and in float32 or better, unless it cannot be (``conceded``). A loss may differentiate
    by its inputs or by the weights. Frozen weights, buffers and attributes are as they were at
    construction, whatever a step does to them.

    Args:
        module: The network; read once, at construction, and never changed.
        subspace: Where to evaluate, with as many weights as ``module`` has trainable ones.
        batches: The probe set, on the device of the module. Batch ``b`` has weight ``n_b``
            (:class:`ShadowLoss`); a batch that the step skips at the first point is left out.
        loss_fn: ``loss_fn(module, batch)`` returns the mean loss of a batch as a tensor with one
            element. It must use the module it is given. Default: :func:`loss_from_steps`.
        seed: Seed of the random numbers a stochastic loss draws.
        indices: The index that each batch had in its epoch, for steps that look at it.
        failing: What to do where the loss raises: ``"raise"``, or ``"nan"`` for a loss that is NaN
            there. At the first point evaluated it always raises.
        batch_norm: ``"batch"``, or ``"running"`` for the loss as deployed: all layers use their
            running statistics.
        check: Called after every few hundred objects of ``module`` that are copied; it raises where
            there is no time left for more (:class:`ShadowLoss`).

    Attributes:
        subspace: Where to evaluate.
        seed: Of the random numbers.
        fault: The first error that was turned into NaN; None if there was none.

    Raises:
        ValueError: If the subspace does not fit the module, there are no batches, one is empty, or
            ``failing`` or ``batch_norm`` is none of its choices.

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
        batches: Iterable[Any],
        loss_fn: Callable[[Any, Any], Tensor | None] | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        failing: str = "raise",
        batch_norm: str = "batch",
        check: Check | None = None,
    ) -> None:
        if failing not in ("raise", "nan"):
            raise ValueError(f"failing must be 'raise' or 'nan', got {failing!r}")
        n_weights = self._count(module)
        if subspace.n_parameters != n_weights:
            raise ValueError(
                f"subspace must have one entry for each of the {n_weights} trainable weights of "
                f"module, got {subspace.n_parameters}. Build it from flat_parameters(module)"
            )
        self.subspace = subspace
        self.seed = seed
        self.fault: Exception | None = None
        self._failing = failing
        self._begun = False
        given = module, batches, loss_fn, seed, self._copy, indices, batch_norm, check
        self._loss = ShadowLoss(*given)
        with torch.inference_mode(False), torch.no_grad():
            self._bind()

    @property
    def n_examples(self) -> int:
        """Number of examples in the probe set."""
        return self._loss.n_examples

    @property
    def statistics(self) -> Statistics:
        """Which statistics layers that keep running ones have used so far."""
        return self._loss.statistics

    @property
    def conceded(self) -> tuple[str, ...]:
        """In words, what is as in training because the loss cannot be evaluated otherwise."""
        return self._loss.conceded

    @property
    def kept_away(self) -> tuple[str, ...]:
        """What steps wrote to the trainer and the like, kept away from the run."""
        self._loss.world.forget()
        return tuple(self._loss.world.kept_away)

    def close(self) -> None:
        """Give the copy of the network up: the loss is not evaluated any more.

        No need to call it; classes made for the copy are gone at once then.
        """
        self._loss.close()

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate the loss.

        Args:
            x: Points in the coordinates of the subspace, shape ``(n, d)``.

        Returns:
            Losses, shape ``(n,)``, float64, on the device of ``x``. NaN and infinite losses come
            back as they are; a point at which the step skips a batch that it does not skip at the
            first point is NaN.

        Raises:
            ValueError: If ``x`` has another shape or is not finite, or ``loss_fn`` does not return
                a tensor with one element. Other errors of ``loss_fn`` pass through, unless they
                become NaN; a request to end the run becomes an
                :class:`~lightning_morse.slices.requests.EndedByStepError`.
        """
        points = torch.as_tensor(x, dtype=torch.float64).detach()
        if points.ndim != 2 or points.shape[1] != self.subspace.dim:
            raise ValueError(
                f"x must have shape (n, {self.subspace.dim}), one point per row, got "
                f"{tuple(points.shape)}"
            )
        if not torch.isfinite(points).all():
            i = int((~torch.isfinite(points)).any(dim=1).nonzero()[0])
            raise ValueError(f"x must be finite, got {points[i].tolist()} in row {i}")
        with (
            plain_arithmetic(self._theta.device.type),
            self._loss.leaving_no_trace(),
            quiet(),
        ):
            return points.new_tensor([self._loss_at(point) for point in points])

    def _count(self, module: nn.Module) -> int:
        return count_of_weights(p for _, p in trainable_parameters(module))

    def _copy(self, module: nn.Module, world: World) -> nn.Module:
        return shadow_copy(module, world)

    def _bind(self) -> None:
        """Make the weights of the copy views of one vector, so that a point is written once."""
        weights = self._loss.weights
        self._promoted = self._loss.promoted
        self._theta = torch.empty_like(self.subspace.origin)
        pieces = torch.split(self._theta, [count_of_weights([w]) for w in weights])
        self._pieces: list[tuple[nn.Parameter, Tensor]] = []
        self._copied: list[tuple[nn.Parameter, Tensor]] = []
        for weight, piece in zip(weights, pieces, strict=True):
            alike = weight.is_contiguous() and (weight.dtype, weight.device) == (
                piece.dtype,
                piece.device,
            )
            shaped = piece.view_as(as_real(weight.detach()))
            (self._pieces if alike else self._copied).append((weight, shaped))
            if alike:
                weight.data = shaped  # frees what it held

    def _loss_at(self, point: Tensor) -> float:
        with torch.no_grad():
            self._loss.reset()
            self._write(point)
        try:
            total = sum(share * loss.item() for share, loss in self._loss.parts())
        except SkippedBatchError:
            return math.nan
        except Exception as error:
            if self._failing == "raise" or not self._begun or is_not_of_the_point(error):
                raise
            self.fault = self.fault or error
            return math.nan
        self._begun = True
        return total

    def _write(self, point: Tensor) -> None:
        """Put the weights of a point into the copy."""
        if self._promoted != self._loss.promoted:  # since the first point
            self._bind()
        self.subspace.point(point, out=self._theta)
        for weight, piece in self._pieces:
            weight.data = piece  # each time: a step may have bound it to something else
        for weight, piece in self._copied:
            as_real(weight.detach()).copy_(piece)
