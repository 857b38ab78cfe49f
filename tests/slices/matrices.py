"""Matrices that the tests of slices share."""

import torch

DTYPES = [torch.float32, torch.float64]
E1, E2 = torch.eye(3)[0], torch.eye(3)[1]


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gram(columns):
    return columns.double().T @ columns.double()


def rounding(dtype):
    return 20 * torch.finfo(dtype).eps
