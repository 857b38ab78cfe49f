"""The mean loss of a shadow copy of a network on a fixed probe set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lightning_morse.slices.isolation import _seed_everything
from lightning_morse.slices.module_copy import ModuleState, shadow_copy, tensors_in
from lightning_morse.slices.parameters import trainable_parameters
from lightning_morse.slices.steps import _described, loss_from_steps


class ShadowLoss:
    r"""The mean loss of a shadow copy of a network on a fixed probe set.

    Every evaluation starts from the same buffers and attributes, the batches from the same
    contents, and the global random number generators of torch (CPU and CUDA), NumPy and Python from
    ``seed`` (common random numbers); keeping those of the run is up to the caller
    (:func:`preserved_random_state`). The copy is in eval mode and in float32 or better (a module in
    half precision is converted, its batches too).

    Args:
        module: The network; read once, at construction, and never changed.
        batches: The probe set, on the device of the module. Batch ``b`` has weight ``n_b``, the
            leading length of the first tensor in it, or 1 if it holds none.
        loss_fn: ``loss_fn(module, batch)`` returns the mean loss of a batch as a tensor with one
            element. It must use the module it is given. Default: :func:`loss_from_steps`.
        seed: Seed of the random numbers a stochastic loss draws.
        copy_of: Makes the shadow copy.

    Attributes:
        module: The shadow copy.
        batches: The probe set.
        weights: The parameters of the copy that belong to trainable ones of the network, in order.
        n_examples: Number of examples in the probe set.
        promoted: Whether batches in half precision are converted.

    Raises:
        ValueError: If nothing is trainable, there are no batches, a batch is empty, or the module
            cannot be copied (:func:`shadow_copy`).
    """

    def __init__(
        self,
        module: nn.Module,
        batches: Sequence[Any],
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        seed: int = 0,
        copy_of: Callable[[nn.Module], nn.Module] = shadow_copy,
    ) -> None:
        trainable_parameters(module)
        trains = [p.requires_grad for p in module.parameters()]
        if loss_fn is not None and not callable(loss_fn):
            raise ValueError(f"loss_fn must be callable as loss_fn(module, batch), got {loss_fn!r}")
        if not batches:
            raise ValueError("batches must hold at least one probe batch, got none")
        self.batches = tuple(batches)
        self._sizes = [_batch_size(batch) for batch in self.batches]
        if 0 in self._sizes:
            raise ValueError(
                f"batches[{self._sizes.index(0)}] must not be empty, got a leading length of 0. "
                "Leave it out"
            )
        self.n_examples = sum(self._sizes)
        self._loss_fn = loss_from_steps if loss_fn is None else loss_fn
        self._seed = seed
        with torch.inference_mode(False), torch.no_grad():
            self.module = copy_of(module)
            self.promoted = any(map(_is_half, self.module.parameters()))
            if self.promoted:
                self.module.float()
            self._state = ModuleState(self.module)
        self.weights = [
            p for p, trained in zip(self.module.parameters(), trains, strict=True) if trained
        ]

    def reset(self) -> None:
        """Put the copy and the global generators where every evaluation starts."""
        self._state.restore()
        _seed_everything(self._seed)

    def parts(self) -> Iterator[tuple[float, Tensor]]:
        """Loss and share of each batch, in turn; the mean loss is the sum of their products.

        Raises:
            ValueError: If ``loss_fn`` does not return a tensor with one element. Its other errors
                pass through.
        """
        for size, batch in zip(self._sizes, self.batches, strict=True):
            loss = self._loss_fn(self.module, self._fresh_batch(batch))
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise ValueError(
                    f"loss_fn must return a tensor with one element, got {_described(loss)}. "
                    "Return the mean loss of the batch"
                )
            yield size / self.n_examples, loss

    def _fresh_batch(self, batch: Any) -> Any:
        if type(batch) in (list, tuple) and all(type(leaf) is Tensor for leaf in batch):
            return type(batch)([self._fresh(leaf) for leaf in batch])  # much faster than a tree
        return tree_map(self._fresh, batch)

    def _fresh(self, leaf: Any) -> Any:
        """Copy a part of a batch: what a step does to its batch in place ends with the step."""
        if not isinstance(leaf, Tensor):
            return copy.deepcopy(leaf)
        return leaf.float() if self.promoted and _is_half(leaf) else leaf.clone()


def _batch_size(batch: Any) -> int:
    """Leading length of the first tensor in a batch, also of one that is an object."""
    found = tensors_in([batch, getattr(batch, "__dict__", None)])
    return next((len(tensor) for tensor in found if tensor.ndim), 1)


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)
