"""The loss at any weights, with the statistics of normalisation layers recomputed there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_morse.slices.batch_statistics import TOO_FEW
from lightning_morse.slices.isolation import plain_arithmetic
from lightning_morse.slices.module_copy import shadow_copy
from lightning_morse.slices.parameters import as_real, count_of_weights
from lightning_morse.slices.shadow_loss import ShadowLoss
from lightning_morse.slices.silence import quiet
from lightning_morse.slices.world import World


def recomputed_layers(module: nn.Module) -> list[str]:
    """Names of the layers whose running statistics are recomputed at every point.

    Those of torch for batch and instance norm that keep running statistics and are in training mode
    in the module: one in eval mode is part of a frozen backbone, say, and keeps its own. If the
    module as a whole is in eval mode, which says nothing about training, all of them.

    Args:
        module: The network.

    Example:
        >>> recomputed_layers(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)))
        ['1']
    """
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, _NormBase)
        and part.running_mean is not None
        and (part.training or not module.training)
    ]


class LossAtWeights:
    """The mean loss of a network on fixed batches, at any of its weights.

    Evaluated on a copy in eval mode, from the same buffers, batch contents and random numbers each
    time (:class:`~lightning_morse.slices.shadow_loss.ShadowLoss`). Before each evaluation the
    statistics of :func:`recomputed_layers` are reset, and one pass over all batches with these
    layers, and nothing else, in training mode replaces them by the plain mean over the batches, as
    :func:`torch.optim.swa_utils.update_bn` does. The loss is that of a second pass, with these.

    Args:
        module: The network; only read.
        batches: The batches, on the device of the module.
        loss_fn: As in :class:`~lightning_morse.slices.loss_slice.LossSlice`.
        seed: Of the random numbers that a stochastic loss draws.
        kept: Values of frozen parameters and buffers by name, in place of those of the module.

    Attributes:
        layers: Names of the layers whose statistics are recomputed.
        n_evaluations: How often the loss has been evaluated.

    Raises:
        ValueError: As :class:`~lightning_morse.slices.loss_slice.LossSlice`.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: Iterable[Any],
        loss_fn: Callable[[Any, Any], Tensor | None] | None = None,
        seed: int = 0,
        kept: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.layers = recomputed_layers(module)
        self.n_evaluations = 0
        values = {} if kept is None else kept

        def with_values(original: nn.Module, world: World) -> nn.Module:
            return _loaded(shadow_copy(original, world), values)

        self._loss = ShadowLoss(module, batches, loss_fn, seed, with_values, batch_norm="running")
        self._sizes = [count_of_weights([w]) for w in self._loss.weights]
        self._normalising = [
            part for name, part in self._loss.module.named_modules() if name in set(self.layers)
        ]

    def __call__(self, theta: Tensor) -> float:
        """The loss at flat weights.

        Args:
            theta: Shape ``(p,)``, in the order of the trainable parameters.

        Returns:
            The loss; NaN or infinite where it is.

        Raises:
            ValueError: If ``loss_fn`` does not return a tensor with one element, or torch refuses
                to compute the statistics of a batch. Other errors of the loss pass through.
        """
        self.n_evaluations += 1
        device = self._loss.weights[0].device.type
        with plain_arithmetic(device), self._loss.leaving_no_trace(), quiet():
            self._write(theta)
            return float(sum(share * loss.item() for share, loss in self._loss.parts()))

    def statistics(self, theta: Tensor) -> dict[str, Tensor]:
        """The recomputed statistics at flat weights, by the names of their buffers, on the CPU."""
        device = self._loss.weights[0].device.type
        with plain_arithmetic(device), self._loss.leaving_no_trace(), quiet():
            self._write(theta)
            return {
                f"{name}.{buffer}" if name else buffer: value.detach().cpu().clone()
                for name, part in zip(self.layers, self._normalising, strict=True)
                for buffer, value in part.named_buffers(recurse=False)
            }

    def _write(self, theta: Tensor) -> None:
        """Put weights into the copy, and recompute the statistics there."""
        loss = self._loss
        loss.reset()
        pieces = torch.split(theta.detach(), self._sizes)
        for weight, piece in zip(loss.weights, pieces, strict=True):
            real = as_real(weight.detach())
            real.copy_(piece.view(real.shape))
        if self._normalising:
            try:
                with _gathering(self._normalising):
                    for _ in loss.parts():
                        pass
            except ValueError as error:
                if TOO_FEW not in str(error):
                    raise
                raise ValueError(
                    f"every batch must have statistics of its own, got one that has none: {error}. "
                    "Leave out batches of a single example"
                ) from error


@contextmanager
def _gathering(layers: Sequence[Any]) -> Iterator[None]:
    """Let layers replace their running statistics by the mean over the batches they meet."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch takes the plain mean then
        layer.training = True
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum, layer.training = momentum, False


def _loaded(module: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """Write values of parameters and buffers into a copy."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
    return module
