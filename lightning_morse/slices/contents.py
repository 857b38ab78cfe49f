"""Contents of tensors and arrays, remembered so that they can be put back."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_morse.slices.copying import bare_clone

# Tensors up to this size are kept twice; the content of larger ones is read from the original
# again, where it is known.
SMALL_BYTES = 1 << 20


class Content:
    """A tensor and its content.

    Args:
        tensor: The tensor.
        original: The tensor it is a copy of, if known, so that a large one is not kept twice.
    """

    def __init__(self, tensor: Tensor, original: Tensor | None) -> None:
        self.tensor = tensor
        self._uncounted = tensor.is_inference()
        self._requires_grad = tensor.requires_grad
        self._large = tensor.numel() * tensor.element_size() > SMALL_BYTES
        if self._large and original is not None and not original.is_inference():
            self._source: Tensor = original.detach()
            self._version: int | None = original._version
        else:
            self._source, self._version = bare_clone(tensor), None
        self._mark = self._now()

    def _now(self) -> tuple[Any, ...]:
        t = self.tensor
        return (0 if t.is_inference() else t._version), t.data_ptr(), t.shape, t.stride(), t.dtype

    @property
    def _unchanged(self) -> bool:
        if self._now() != self._mark:
            return False
        if self._large and not self._uncounted:
            return True
        # Some kernels, such as that of batch norm, write without incrementing the version.
        return same_values(self.tensor, self._source)

    def look_closely(self) -> None:
        """Compare a large tensor once, for writes that its version counter misses."""
        if self._large:
            self._uncounted = True
            self._uncounted = not self._unchanged

    def restore(self) -> None:
        """Restore the content if it has changed."""
        tensor = self.tensor
        if tensor.is_leaf and tensor.grad is not None:
            tensor.grad = None
        if tensor.requires_grad != self._requires_grad and tensor.is_leaf:
            tensor.requires_grad_(self._requires_grad)
        if self._unchanged:
            return
        if self._version is not None and self._source._version != self._version:
            raise RuntimeError(
                f"a step writes to a tensor of shape {tuple(tensor.shape)} that the module holds, "
                "and what it held is gone, because the module itself has been trained since. Make "
                "a new slice"
            )
        self._put_back()
        self._mark = self._now()

    def _put_back(self) -> None:
        # Not copy_: an expanded buffer cannot be written in place.
        self.tensor.data = self._source.to(self._mark[4], copy=True)


class ContentInRun(Content):
    """A tensor that training goes on with, and its content: it keeps its storage and gradient.

    Args:
        tensor: The tensor.
    """

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor, None)
        with torch._C.DisableTorchFunctionSubclass():
            self._storage = Tensor.detach(tensor)

    def restore(self) -> None:
        """Restore the content if it has changed."""
        if not self._unchanged:
            self._put_back()
            self._mark = self._now()

    def _put_back(self) -> None:
        if self._now()[1:] != self._mark[1:]:
            self.tensor.data = self._storage
        with torch.no_grad():
            self._storage.copy_(self._source)


class ArrayContent:
    """An array and its content; that of an array of objects are the objects.

    Args:
        array: The array.
    """

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array, self._kept = array, array.copy()

    def restore(self) -> None:
        """Restore the content if it has changed."""
        if self._array.dtype == object:
            changed = any(map(operator.is_not, self._array.flat, self._kept.flat))
        else:
            changed = not np.array_equal(_bits(self._array), _bits(self._kept))
        if changed:
            self._array[...] = self._kept


def _bits(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The memory of an array, in as few numbers as it fills: NaN is itself there."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.int64 if flat.nbytes % 8 == 0 and flat.itemsize % 8 == 0 else np.uint8)


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers."""
    with torch._C.DisableTorchFunctionSubclass():
        return torch.equal(a.detach(), b.to(a.dtype))
