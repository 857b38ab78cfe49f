"""Arithmetic on tall matrices with one column a direction.

Weights stay in their own precision (float32, or float64 if they are). Inner products are summed in
float64 over blocks of rows, so that no float64 copy of all the weights is ever made; coordinates
and norms come back as float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

# Rows held in float64 at a time: half a megabyte a column.
_BLOCK = 1 << 16


class Rows(Protocol):
    """How the rows of tall matrices, one for each weight, are spread over processes."""

    def sum(self, here: Tensor) -> Tensor:
        """Sum over all processes of what each found in its own rows."""
        ...

    def largest(self, here: Tensor) -> Tensor:
        """Largest over all processes, entry by entry; not finite where one is not."""
        ...


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which weights of a dtype are kept: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def largest(tensor: Tensor, rows: Rows | None = None) -> Tensor:
    """Largest absolute value down the leading axis; not finite where an entry is not."""
    if len(tensor):
        found = torch.linalg.vector_norm(tensor, ord=float("inf"), dim=0)
    else:
        found = tensor.new_zeros(tensor.shape[1:])
    return found if rows is None else rows.largest(found)


def in_double(tensor: Tensor) -> Tensor:
    """A copy in float64, on the CPU where the device has no such numbers."""
    # Apple's GPUs have no float64.
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def blocks(length: int) -> Iterator[slice]:
    """Slices that cut a number of rows into blocks."""
    return (slice(start, start + _BLOCK) for start in range(0, length, _BLOCK))


def gram_matrix(columns: Tensor, rows: Rows | None = None) -> Tensor:
    """Inner products of the columns, float64 on the CPU."""
    d = columns.shape[1]
    gram = torch.zeros(d, d, dtype=torch.float64)
    for block in blocks(len(columns)):
        some = in_double(columns[block])
        gram += (some.T @ some).cpu()
    return gram if rows is None else rows.sum(gram)


def times(columns: Tensor, matrix: Tensor) -> Tensor:
    """Product with a small float64 matrix, rounded once to the dtype of the columns."""
    # Column by column in memory, in which order AffineSubspace.point reads them fastest.
    product = columns.new_empty(columns.shape[::-1]).T
    for block in blocks(len(columns)):
        rows = in_double(columns[block])
        product[block] = (rows @ matrix.to(rows.device)).to(product)
    return product
