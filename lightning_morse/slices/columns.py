"""Arithmetic on tall matrices with one direction per column, on the rows of this process.

Weights stay in their own precision (float32, or float64 if they are). Inner products are summed in
float64 over blocks of rows, so that no float64 copy of all the weights is ever made; coordinates
and norms come back as float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Rows converted to float64 at a time: half a megabyte per column. Only memory depends on it, and
# the last digits of sums.
BLOCK_ROWS = 1 << 16


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which weights of a dtype are kept: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def largest(tensor: Tensor) -> Tensor:
    """Largest absolute value along the leading axis; not finite where an entry is not."""
    if len(tensor):
        found: Tensor = torch.linalg.vector_norm(tensor, ord=float("inf"), dim=0)
        return found
    return tensor.new_zeros(tensor.shape[1:])


def in_double(tensor: Tensor) -> Tensor:
    """A copy in float64, on the CPU where the device has no float64."""
    # Apple's GPUs do not.
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def blocks(length: int) -> Iterator[slice]:
    """Slices that cut this many rows into blocks."""
    return (slice(start, start + BLOCK_ROWS) for start in range(0, length, BLOCK_ROWS))


def gram_matrix(columns: Tensor) -> Tensor:
    """Inner products of the columns, shape ``(d, d)``, float64 on the CPU."""
    d = columns.shape[1]
    gram = torch.zeros(d, d, dtype=torch.float64)
    for block in blocks(len(columns)):
        some = in_double(columns[block])
        gram += (some.T @ some).cpu()
    return gram


def times(columns: Tensor, matrix: Tensor) -> Tensor:
    """Product with a small float64 matrix, rounded once to the dtype of the columns."""
    # Column-major in memory, the order in which AffineSubspace.point reads them fastest.
    product = columns.new_empty(columns.shape[::-1]).T
    for block in blocks(len(columns)):
        rows = in_double(columns[block])
        product[block] = (rows @ matrix.to(rows.device)).to(product)
    return product
