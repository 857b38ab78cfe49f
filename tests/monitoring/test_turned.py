"""A slice whose coordinates are turned along a valley."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_morse.monitoring.findings import Look
from lightning_morse.slices.bases import orthonormal_columns
from lightning_morse.slices.directions import Coverage, Slice, axis_labels
from lightning_morse.slices.subspace import AffineSubspace


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_weights_have_turned_coordinates(dtype):
    generator = torch.Generator().manual_seed(0)
    directions = orthonormal_columns(torch.randn(50, 2, generator=generator, dtype=dtype))
    plane = AffineSubspace(torch.randn(50, generator=generator, dtype=dtype), directions)
    axes = np.array([[0.6, -0.8], [0.8, 0.6]])
    inside = torch.tensor([[1.0, 0.0], [0.5, -2.0]], dtype=torch.float64)
    chosen = Slice(plane, "pca", inside)
    coverage = Coverage((0.5, 0.4), 0.9, 0.1)
    look = Look(chosen, torch.zeros(2, dtype=torch.float64), inside, coverage)
    turned = look.turned(axes)
    tolerance = 100 * torch.finfo(dtype).eps
    for before, after in zip(look.trajectory, turned.trajectory, strict=True):
        there, here = turned.subspace.point(after), plane.point(before)
        torch.testing.assert_close(there, here, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(turned.subspace.project(plane.point([1.0, 0.0])), after_of(axes))
    assert directions.data_ptr() != turned.subspace.directions.data_ptr()
    # The shares are those of the squared displacements along the new axes; their sum stays.
    along = (inside.numpy() @ axes) ** 2
    expected = 0.9 * along.sum(0) / along.sum()
    np.testing.assert_allclose(turned.coverage.shares, expected)
    assert turned.coverage.explained == 0.9
    labels = axis_labels(turned.chosen.kind, turned.coverage.shares)
    assert labels[0].startswith("valley axis 1 (")


def after_of(axes):
    return torch.from_numpy(axes.T @ [1.0, 0.0])
