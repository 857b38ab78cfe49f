"""Tensors that a module holds besides its weights and that lie in the memory of these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class WeightViews:
    """Lets what was a view of weights in a module be one of those of its copy.

    A flat vector that the weights are views of is the usual one. An evaluation writes weights
    without telling it, wherever they lie, so it is led to where they are.

    Args:
        tensors: Those of the copy that are no weights.
        weights: Those of the copy that every evaluation writes.
        originals: The tensors they are copies of, by ``id`` of the copy, where known.
    """

    def __init__(
        self, tensors: Iterable[Tensor], weights: Iterable[Tensor], originals: Mapping[int, Tensor]
    ) -> None:
        self._found: list[tuple[Tensor, Tensor, list[tuple[Tensor, int]]]] = []
        by_storage: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for weight in weights:
            original = originals.get(id(weight))
            if original is not None and _is_plain(original) and _is_plain(weight):
                by_storage.setdefault(_storage(original), []).append((weight, original))
        for tensor in tensors:
            original = originals.get(id(tensor))
            if original is None or not _is_plain(original) or not original.numel():
                continue
            beside = by_storage.get(_storage(original), ())
            met = [(w, o.data_ptr()) for w, o in beside if _meet(original, o)]
            if met:
                self._found.append((tensor, original.detach(), met))
        self.ids = {id(tensor) for tensor, _, _ in self._found}

    def follow(self) -> None:
        """Lead every view to where the weights are now.

        Raises:
            RuntimeError: If they lie otherwise than in the module.
        """
        for tensor, original, met in self._found:
            first, began = met[0]
            moved = first.data_ptr() - began
            together = all(
                weight.data_ptr() - start == moved and _storage(weight) == _storage(first)
                for weight, start in met
            )
            alike = first.dtype == original.dtype and all(w.is_contiguous() for w, _ in met)
            if not (together and alike and _is_covered(original, met)):
                raise RuntimeError(
                    f"the module holds a tensor of shape {tuple(original.shape)} that is a view of "
                    "its weights, and of something else, which an evaluation at other weights "
                    "cannot keep together. Pass loss_fn(module, batch) that does without it"
                )
            start = original.data_ptr() + moved - _storage(first)
            made = torch.empty(0, dtype=original.dtype, device=first.device)
            offset = start // original.element_size()
            made.set_(first.untyped_storage(), offset, original.shape, original.stride())
            tensor.data = made


def _is_plain(tensor: Tensor) -> bool:
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
        return False
    if tensor.is_meta or tensor.is_nested or tensor.is_quantized:
        return False
    return tensor.data_ptr() != 0  # else its storage has been freed for a while


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bounds(tensor: Tensor) -> tuple[int, int]:
    """Addresses of the first byte, and of that after the last one."""
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _meet(a: Tensor, b: Tensor) -> bool:
    if not b.numel():
        return False
    (first, end), (other, its_end) = _bounds(a), _bounds(b)
    return first < its_end and other < end


def _is_covered(view: Tensor, weights: list[tuple[Tensor, int]]) -> bool:
    """Whether weights that begin at some addresses leave no gap in the memory of a view."""
    at, end = _bounds(view)
    for weight, start in sorted(weights, key=lambda one: one[1]):
        if start > at:
            return False
        at = max(at, start + weight.numel() * weight.element_size())
    return at >= end
