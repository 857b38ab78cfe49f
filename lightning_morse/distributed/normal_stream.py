"""Gaussian random numbers drawn piecemeal, the same to the bit as drawn at once."""

from __future__ import annotations

import torch
from torch import Tensor

# Numbers drawn at a time, a quarter of a megabyte in float32. A multiple of the 16 that torch makes
# at once: otherwise the numbers would not be those drawn in one call.
CHUNK = 1 << 16


class NormalStream:
    """The numbers of ``torch.empty(n).normal_(generator=generator)``, a few at a time.

    Args:
        n: How many there are in all, which decides how torch makes the last ones.
        generator: CPU generator; after the last number in the state it would have been left in.
        dtype: Floating point dtype.

    Example:
        >>> seeded = torch.Generator().manual_seed(0)
        >>> stream = NormalStream(5, seeded, torch.float32)
        >>> parts = torch.cat([stream.next(2), stream.next(3)])
        >>> bool(parts.equal(torch.empty(5).normal_(generator=seeded.manual_seed(0))))
        True
    """

    def __init__(self, n: int, generator: torch.Generator, dtype: torch.dtype) -> None:
        self._left = n
        self._generator = generator
        self._drawn = torch.empty(0, dtype=dtype)

    def next(self, n: int) -> Tensor:
        """The next ``n`` numbers, a copy."""
        drawn = [self._drawn]
        short = n - len(self._drawn)
        while short > 0:
            # torch fills tensors in groups of 16 and makes the last group in another way, so the
            # last call must be one that would also end the whole tensor.
            size = CHUNK if self._left >= 2 * CHUNK else self._left
            drawn.append(drawn[0].new_empty(size).normal_(generator=self._generator))
            self._left -= size
            short -= size
        numbers = torch.cat(drawn)
        self._drawn = numbers[n:].clone()
        return numbers[:n].clone()
