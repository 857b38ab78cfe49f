"""Arithmetic on tall matrices with one direction per column, on the rows of this process.

Weights stay in their own precision (float32, or float64 if they are). Inner products are summed in
float64 over blocks of rows, so that no float64 copy of all the weights is ever made; coordinates
and norms come back as float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Rows converted to float64 at a time: half a megabyte per column, and two megabytes in all where
# there are more than four columns. Only memory depends on it, and the last digits of sums.
BLOCK_ROWS = 1 << 16
_FULL_COLUMNS = 4
# Entries up to which blocks are worked on as fast by one thread as by two, and by more.
_FEW_FOR_TWO, _FEW_FOR_MORE = 10**9, 10**8


@contextmanager
def as_few_threads_as_help(n_entries: int) -> Iterator[None]:
    """Work on matrices with so many entries in all, on one thread if that is quicker.

    Blocks are small. On two cores the principal directions of 33 snapshots of 1.1 million weights
    took 0.19 s on one thread and 0.25 s on two, up to 0.48 s where one of the cores was busy; those
    of 9 snapshots of 17 million took 0.7 s on one, and from 0.6 to 1.3 s on two.
    """
    before = torch.get_num_threads()
    if n_entries <= (_FEW_FOR_TWO if before <= 2 else _FEW_FOR_MORE):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which weights of a dtype are kept: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def largest(tensor: Tensor) -> Tensor:
    """Largest absolute value along the leading axis; not finite where an entry is not."""
    if len(tensor):
        # The infinity norm is the same, at a quarter of the speed.
        return torch.maximum(tensor.amax(dim=0), -tensor.amin(dim=0))
    return tensor.new_zeros(tensor.shape[1:])


def in_double(tensor: Tensor, *, copy: bool = False) -> Tensor:
    """The tensor in float64, on the CPU where the device has no float64.

    Args:
        tensor: The tensor.
        copy: Whether the result may be written to; otherwise it may be the tensor itself.
    """
    if tensor.device.type == "mps":  # Apple's GPUs do not
        tensor = tensor.cpu()
    return tensor.to(torch.float64, copy=copy)


def blocks(length: int, columns: int = 1) -> Iterator[slice]:
    """Slices that cut this many rows into blocks, of fewer rows where there are many columns."""
    rows = max(1, BLOCK_ROWS * _FULL_COLUMNS // max(_FULL_COLUMNS, columns))
    return (slice(start, start + rows) for start in range(0, length, rows))


def gram_matrix(columns: Tensor) -> Tensor:
    """Inner products of the columns, shape ``(d, d)``, float64 on the CPU."""
    d = columns.shape[1]
    gram = torch.zeros(d, d, dtype=torch.float64)
    for block in blocks(len(columns), d):
        some = in_double(columns[block])
        gram += (some.T @ some).cpu()
    return gram


def multiply(columns: Tensor, matrix: Tensor) -> None:
    """Replace columns by their product with a small square float64 matrix, rounded once."""
    # Columns lie in memory one after the other, so products are taken of their transposes.
    for block in blocks(len(columns), columns.shape[1]):
        rows = in_double(columns.T[:, block])
        columns.T[:, block] = (matrix.T.to(rows.device) @ rows).to(columns)


def empty_columns(like: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Columns to write to, on the device of another tensor.

    Column-major in memory, the order in which AffineSubspace.point reads them fastest.
    """
    return like.new_empty(shape[::-1], dtype=dtype).T
