"""Parts of a probe batch: which batches can be cut with certainty, and at which examples.

Where the loss on a single probe batch is still too dear for an analysis within the run, it is
evaluated on some of its examples. Whatever is not certain to be a row for each example stays whole.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.rnn import PackedSequence

from lightning_morse.monitoring.probe_batches import DEEPEST
from lightning_morse.slices.batches import batch_size, mapped
from lightning_morse.slices.objects import slots_of

# Fewest examples of a part: with fewer the loss is mostly that of single examples.
FEWEST_EXAMPLES = 8
# With batch norm statistics are those of the part. The variance of 32 values is known to a quarter.
FEWEST_WITH_STATISTICS = 32
# Keeps the choice of examples apart from the other random numbers of a seed.
_EXAMPLES_STREAM = 6
# Types in which tokens come.
_TOKENS = (torch.int64, torch.int32, torch.int16, torch.uint8)
# A list of more tensors that are all alike may be one of examples instead of one of fields.
_MOST_ALIKE = 3


@dataclass(frozen=True)
class Part:
    """Some of the examples of a probe batch.

    Attributes:
        n: How many.
        of: Out of how many.

    Example:
        >>> Part(8, 32).words
        '8 of the 32 examples of one probe batch'
    """

    n: int
    of: int

    @property
    def words(self) -> str:
        """What is left of the probe set."""
        return f"{self.n} of the {self.of} examples of one probe batch"


class _CannotBeCutError(Exception):
    """A batch holds something that may not have a row for each example."""


def n_divisible(batch: Any) -> int:
    """Number of examples of a batch that can be cut; 0 of one that stays whole.

    It can be cut if it is a tensor, or dictionaries with strings as keys, lists, tuples, named
    tuples and dataclasses, nested as one likes, that hold nothing but tensors and None, and all
    tensors have the same first dimension, at least 2. It is taken to be that of the examples, as
    Lightning takes it.

    Everything else stays whole: tensors with other first dimensions or none (which may count the
    examples), square ones that may say how examples hang together, sparse and nested ones and
    those of a class of their own, packed sequences, graphs and other objects, arrays, strings and
    numbers. So do a list or tuple of tensors with one shape and type, if there are more than three
    of them or as many as they have rows, and one of containers that are all alike: those may be the
    examples.

    Args:
        batch: What a loader yields.

    Example:
        >>> n_divisible({"x": torch.zeros(16, 3), "y": torch.zeros(16)})
        16
        >>> n_divisible([torch.zeros(16, 3), torch.zeros(40)])
        0
    """
    try:
        tensors = list(_tensors_of(batch))
        lengths = {len(t) if t.ndim else 0 for t in tensors}
    except (_CannotBeCutError, RecursionError):
        return 0
    n = lengths.pop() if len(lengths) == 1 else 0
    if n < 2 or _are_related(tensors) or any(map(_may_be_numbers, tensors)):
        return 0
    return n if batch_size(batch) == n else 0


def _are_related(tensors: list[Tensor]) -> bool:
    """Whether a square tensor may say how examples hang together, as links or distances do.

    Integers may also be tokens, where sequences are as long as the batch is large. They are taken
    for that if no features stand beside them, and if they have more than two values, are not
    symmetric and differ along the diagonal.
    """
    square = [t for t in tensors if t.ndim == 2 and t.shape[0] == t.shape[1]]
    if not square:
        return False
    if any(t.is_floating_point() and t.ndim > 1 for t in tensors):
        return True
    return any(t.dtype not in _TOKENS or _looks_related(t) for t in square)


def _looks_related(square: Tensor) -> bool:
    diagonal, (low, high) = square.diagonal(), square.aminmax()
    constant = bool((diagonal == diagonal[0]).all())
    return constant or int(high) - int(low) < 2 or torch.equal(square, square.T)


def _may_be_numbers(tensor: Tensor) -> bool:
    """Whether entries may be numbers of examples, which would be out of range among fewer.

    On the CPU that raises, and the batch stays whole; an accelerator does not recover from it.
    """
    if tensor.device.type == "cpu" or tensor.is_floating_point() or tensor.is_complex():
        return False
    return FEWEST_EXAMPLES <= int(tensor.max()) < len(tensor)


def _tensors_of(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """All tensors of a batch that holds nothing else."""
    if depth > DEEPEST:  # as one that holds itself
        raise _CannotBeCutError
    if value is None:
        return
    if type(value) is Tensor:
        if value.layout is not torch.strided or value.is_nested:
            raise _CannotBeCutError
        yield value
        return
    for part in _fields_of(value):
        yield from _tensors_of(part, depth + 1)


def _fields_of(value: Any) -> list[Any]:
    """What a container holds."""
    if type(value) in (dict, OrderedDict, defaultdict) and all(type(k) is str for k in value):
        return list(value.values())
    if type(value) in (list, tuple) and not _may_be_examples(value):
        return list(value)
    if isinstance(value, PackedSequence):
        raise _CannotBeCutError
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(value)
    plain = is_dataclass(value) and not isinstance(value, type | dict | list | tuple | Tensor)
    if plain and hasattr(value, "__dict__") and not any(slots_of(type(value))):
        return list(vars(value).values())
    raise _CannotBeCutError


def _may_be_examples(parts: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list may hold one entry for each example."""
    if len(parts) > 1 and not any(part is None or type(part) is Tensor for part in parts):
        return len({_form(part) for part in parts}) == 1
    tensors = [part for part in parts if isinstance(part, Tensor)]
    alike = len({(t.shape, t.dtype) for t in tensors}) == 1 and len(tensors) == len(parts)
    if not alike or len(parts) == 1:
        return False
    return len(parts) > _MOST_ALIKE or parts[0].shape[:1] == (len(parts),)


def _form(value: Any) -> tuple[Any, ...]:
    """Type of a value, and of what it holds."""
    held = value.values() if isinstance(value, dict) else value
    parts = held if isinstance(value, dict | list | tuple) else ()
    return type(value), *(type(part) for part in parts)


def part_of(batch: Any, n: int, seed: int) -> Any:
    """A random part of a batch, always the same; the batch itself where it cannot be cut.

    Args:
        batch: What a loader yields.
        n: Number of examples, kept in their order. A batch that has no more is not cut.
        seed: Decides which: those of a smaller part are among those of a larger one.

    Returns:
        A batch of the same kind; the one that was given is not changed.

    Example:
        >>> part_of([torch.arange(4), torch.arange(4) ** 2], 2, seed=0)
        [tensor([1, 2]), tensor([1, 4])]
    """
    whole = n_divisible(batch)
    if whole <= n:
        return batch
    order = np.random.default_rng([seed, _EXAMPLES_STREAM]).permutation(whole)
    chosen = torch.from_numpy(np.sort(order[:n]))
    return mapped(batch, lambda t: t.index_select(0, chosen.to(t.device)))


def fewest_examples(shadow: nn.Module, of_batch: bool) -> int:
    """Fewest examples that a part should have.

    Args:
        shadow: The network as analyses evaluate it.
        of_batch: Whether it has layers that use the statistics of a batch instead of running ones.
    """
    never_running = (
        isinstance(layer, _BatchNorm) and layer.running_mean is None for layer in shadow.modules()
    )
    return FEWEST_WITH_STATISTICS if of_batch or any(never_running) else FEWEST_EXAMPLES
