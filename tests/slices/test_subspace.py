"""Points of a subspace and coordinates in it, against the definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from lightning_morse.slices.bases import orthonormal_columns, pca_directions
from lightning_morse.slices.subspace import AffineSubspace, plane_through
from tests.slices.matrices import DTYPES, E1, E2, gaussian, rounding


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("dtype", DTYPES)
def test_project_point_and_residual_against_the_definition(dtype):
    origin = gaussian(40, dtype=dtype)
    D = orthonormal_columns(gaussian(40, 3, seed=1, dtype=dtype))
    space = AffineSubspace(origin, D)
    theta = gaussian(5, 40, seed=2, dtype=dtype)
    offsets = theta.double() - origin.double()
    coordinates = offsets @ D.double()

    assert (space.dim, space.n_parameters) == (3, 40)
    assert space.project(theta).dtype == space.residual(theta).dtype == torch.float64
    torch.testing.assert_close(space.project(theta), coordinates, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(
        space.residual(theta), (offsets - coordinates @ D.double().T).norm(dim=1)
    )
    assert space.project(theta[0]).shape == (3,)
    assert space.residual(theta[0]).shape == ()
    assert torch.equal(space.project(theta[0]), space.project(theta)[0])
    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    assert space.point(x).dtype == dtype
    torch.testing.assert_close(space.point(x), origin + D @ x.to(dtype))
    assert torch.equal(space.point([0, 0, 0]), origin)


def test_small_residual_keeps_its_digits():
    D = orthonormal_columns(gaussian(50, 2))
    space = AffineSubspace(torch.zeros(50, dtype=torch.float64), D)
    off = gaussian(50, seed=1)
    off = 1e-9 * (off - D @ (D.T @ off))
    theta = 100 * D[:, 0] + off
    assert math.isclose(space.residual(theta).item(), off.norm().item(), rel_tol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    shape=array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    seed=st.integers(0, 1000),
)
def test_projection_inverts_point(shape, seed):
    p, d = max(shape), min(shape)
    space = AffineSubspace(
        gaussian(p, seed=seed), orthonormal_columns(gaussian(p, d, seed=seed + 1))
    )
    x = gaussian(d, seed=seed + 2)
    torch.testing.assert_close(space.project(space.point(x)), x, rtol=1e-11, atol=1e-11)
    assert space.residual(space.point(x)).item() < 1e-11


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_projected_stays_as_it_is(dtype):
    """Double precision needs no conversion, and is not written to either."""
    columns = orthonormal_columns(gaussian(40, 2, seed=1, dtype=dtype))
    space = AffineSubspace(gaussian(40, dtype=dtype), columns)
    theta = gaussian(5, 40, seed=2, dtype=dtype)
    before = theta.clone(), space.origin.clone(), space.directions.clone()
    space.residual(theta, space.project(theta))
    pca_directions(theta, 2)
    assert all(map(torch.equal, before, (theta, space.origin, space.directions)))


def test_subspace_does_not_carry_a_graph():
    origin = torch.zeros(3, requires_grad=True)
    assert not AffineSubspace(origin, torch.eye(3)[:, :1]).point([1.0]).requires_grad


@pytest.mark.parametrize(
    ("origin", "directions", "message"),
    [
        (torch.zeros(3, 1), torch.eye(3), r"origin must be a flat .* got shape \(3, 1\)"),
        (torch.zeros(3).half(), torch.eye(3).half(), r"origin .* torch.float16"),
        (torch.zeros(3, dtype=torch.int64), torch.eye(3), r"origin .* torch.int64"),
        (torch.zeros(3), torch.eye(4), r"directions must have shape .* p = 3.* got \(4, 4\)"),
        (torch.zeros(3), torch.zeros(3), r"directions must have shape .* got \(3,\)"),
        (torch.zeros(3), torch.zeros(3, 0), r"directions must have shape .* got \(3, 0\)"),
        (
            torch.zeros(3),
            torch.eye(3).double(),
            r"directions must be torch.float32 .* torch.float64 on cpu",
        ),
        (torch.tensor([0.0, math.nan, 0.0]), torch.eye(3), "origin must be finite"),
        (torch.tensor([0.0, math.inf, 0.0]), torch.eye(3), "origin must be finite"),
        (torch.zeros(2), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), r"directions\[:, 1\] .* not zero"),
        (torch.zeros(2), torch.tensor([[1.0, math.nan], [0.0, 1.0]]), r"directions\[:, 1\] .* nan"),
        (torch.zeros(2), torch.tensor([[2.0], [0.0]]), "inner product 4 of columns 0 and 0"),
        (torch.zeros(2), torch.tensor([[0.6, 0.6], [0.8, 0.8]]), "of columns 0 and 1"),
        (torch.zeros(2), torch.tensor([[1.0, 0.001], [0.0, 1.0]]), "columns 0 and 1"),
    ],
)
def test_invalid_subspace(origin, directions, message):
    with pytest.raises(ValueError, match=message):
        AffineSubspace(origin, directions)


def test_float32_directions_are_not_orthonormal_enough_for_float64_weights():
    D = orthonormal_columns(gaussian(1000, 2, dtype=torch.float32))
    AffineSubspace(torch.zeros(1000), D)
    with pytest.raises(ValueError, match="orthonormal"):
        AffineSubspace(torch.zeros(1000, dtype=torch.float64), D.double())


def test_wrong_shapes_to_the_methods():
    space = AffineSubspace(torch.zeros(3), torch.eye(3)[:, :2])
    for x in ([1.0], [[1.0, 2.0]], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match=r"x must have shape \(2,\)"):
            space.point(x)
    for theta in (torch.zeros(2), torch.zeros(3, 2), torch.zeros(1, 1, 3), torch.zeros(())):
        for method in (space.project, space.residual):
            with pytest.raises(ValueError, match=r"theta must have shape \(3,\) or \(k, 3\)"):
                method(theta)


# ------------------------------------------------------------------ plane_through


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_plane_through_its_weights(dtype, d):
    weights = gaussian(d + 1, 60, dtype=dtype)
    space = plane_through(list(weights))
    assert space.dim == d
    torch.testing.assert_close(space.origin, weights.mean(dim=0))
    assert space.residual(weights).max() < rounding(dtype) * weights.norm()
    x = space.project(weights)
    torch.testing.assert_close(torch.pdist(x), torch.pdist(weights.double()), rtol=1e-6, atol=0)
    assert (x[1] - x[0])[0] > 0
    assert (x[1] - x[0])[1:].abs().sum() < 1e-5


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([E1], "at least two weight vectors .* got 1"),
        ([E1, torch.ones(2)], r"weights\[1\] must be a vector as long as weights\[0\]"),
        ([E1, E2 * math.nan], r"weights\[1\] must be finite"),
        ([E1, E2, E1], r"identical weights\[0\] and weights\[2\]"),
        ([E2, E1, E1 * (1 + 2**-23)], r"identical weights\[1\] and weights\[2\]"),
        ([torch.zeros(3), torch.zeros(3)], r"identical weights\[0\] and weights\[1\]"),
        ([E1, E2, (E1 + E2) / 2], r"weights\[2\] must not lie in the affine span"),
        ([0 * E1, E1, E2, E1 + E2], r"weights\[3\] must not lie in the affine span"),
        ([torch.ones(1), torch.zeros(1), -torch.ones(1)], r"weights\[2\] must not lie"),
    ],
)
def test_invalid_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        plane_through(weights)


def test_the_origin_itself_lies_at_the_origin():
    """Without a pass over the weights where it is the same memory."""
    weights = torch.randn(50, generator=torch.Generator().manual_seed(0))
    plane = AffineSubspace(weights, torch.eye(50)[:, :2])
    assert plane.project(weights).tolist() == plane.project(weights.clone()).tolist() == [0.0, 0.0]
    assert plane.project(torch.stack([weights, weights + 1])).tolist() == [[0.0, 0.0], [1.0, 1.0]]
