"""Orthonormal bases against QR, the singular value decomposition and the paper."""

import math

import pytest
import torch

from lightning_morse.slices.bases import (
    orthonormal_columns,
    pca_directions,
    principal,
    random_directions,
)
from lightning_morse.slices.subspace import AffineSubspace
from tests.slices.matrices import DTYPES, E1, E2, gaussian, gram, rounding

# ------------------------------------------------------------------ orthonormal_columns


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("dtype", DTYPES)
def test_orthonormal_columns_against_qr(dtype):
    vectors = gaussian(30, 4, dtype=dtype) * torch.tensor([1e-12, 1.0, 1e12, 3.0]).to(dtype)
    columns = orthonormal_columns(vectors)
    Q, R = torch.linalg.qr(vectors.double())
    assert columns.dtype == dtype
    torch.testing.assert_close(
        columns.double(), Q * R.diagonal().sign(), rtol=0, atol=rounding(dtype)
    )
    assert torch.equal(columns, orthonormal_columns(list(vectors.T)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("angle", [1e-2, 1e-4, 1e-5])
def test_nearly_collinear_vectors_come_out_orthonormal(dtype, angle):
    first, other = gaussian(2, 500)
    vectors = torch.stack([first, first + angle * other], dim=1).to(dtype)
    columns = orthonormal_columns(vectors)
    assert (gram(columns) - torch.eye(2)).abs().max() < rounding(dtype)
    assert ((columns.double() * vectors.double()).sum(dim=0) > 0).all()


def test_orthonormal_columns_leaves_its_input_alone_and_promotes_half():
    vectors = gaussian(20, 2, dtype=torch.float32).bfloat16()
    before = vectors.clone()
    assert orthonormal_columns(vectors).dtype == torch.float32
    assert torch.equal(vectors, before)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_orthonormal_columns_at_extreme_scales(scale):
    vectors = gaussian(20, 2)
    torch.testing.assert_close(orthonormal_columns(scale * vectors), orthonormal_columns(vectors))


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([], "them must hold at least one vector"),
        ([E1, torch.ones(2)], r"them\[1\] must be a vector as long as them\[0\].*\(2,\).*\(3,\)"),
        ([E1, E2[None]], r"them\[1\] must be a vector"),
        ([torch.zeros(0)], r"them\[0\] must be a vector"),
        (torch.zeros(3), r"them must have shape \(p, d\).*got \(3,\)"),
        (torch.zeros(3, 0), r"them must have shape \(p, d\).*got \(3, 0\)"),
        (torch.eye(3, dtype=torch.int64), "them must be floating point"),
        ([E1, torch.zeros(3)], r"them\[1\] must be finite and not zero"),
        ([E1, E2 * math.inf], r"them\[1\] must be finite and not zero, got largest entry nan"),
        ([torch.full((3,), math.inf)], r"them\[0\] must be finite"),
        ([E1, E2, -2 * E1], r"them\[2\] must not lie in the span"),
        ([E1, E1 + 1e-7 * E2, E2], r"them\[1\] must not lie in the span"),
        ([E1, E2, E1 + 1e-3 * E2], r"them\[2\] must not lie in the span"),
        (torch.ones(1, 2), r"them\[1\] must not lie in the span"),
    ],
)
def test_invalid_vectors(vectors, message):
    with pytest.raises(ValueError, match=message):
        orthonormal_columns(vectors, name="them")


# ------------------------------------------------------------------ pca_directions


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("dtype", DTYPES)
def test_pca_against_svd(dtype):
    scales = torch.tensor([5.0, 3.0, 2.0, *[0.1] * 27], dtype=torch.float64)
    snapshots = (10 + gaussian(8, 30) * scales).to(dtype)
    directions = pca_directions(snapshots, 3)
    centred = snapshots.double() - snapshots.double().mean(dim=0)
    _, _, Vh = torch.linalg.svd(centred, full_matrices=False)
    reference = Vh[:3].T * (Vh[:3] @ centred[-1]).sign()
    assert directions.dtype == dtype
    torch.testing.assert_close(directions.double(), reference, rtol=0, atol=rounding(dtype))
    assert (centred[-1] @ directions.double() > 0).all()


def test_pca_small_components_stay_orthonormal():
    basis = orthonormal_columns(gaussian(100, 2))
    t = torch.linspace(-1, 1, 9, dtype=torch.float64)
    snapshots = torch.stack([t, 1e-4 * t**2], dim=1) @ basis.T
    directions = pca_directions(snapshots, 2)
    torch.testing.assert_close(gram(directions), torch.eye(2).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        (basis.T @ directions).abs(), torch.eye(2).double(), atol=1e-7, rtol=0
    )


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("second", [3.0, 1e-3])
def test_the_trajectory_along_its_principal_directions(dtype, second):
    """As the subspace through the last snapshot projects it, and measures what is left."""
    scales = torch.tensor([5.0, second, *[second / 10] * 28], dtype=torch.float64)
    snapshots = (10 + gaussian(8, 30) * scales).to(dtype)
    found = principal(snapshots, 2)
    plane = AffineSubspace(snapshots[-1].to(found.directions), found.directions)
    torch.testing.assert_close(found.directions, pca_directions(snapshots, 2), rtol=0, atol=0)
    # Inner products of double precision: half of its digits at worst, and those of float32 anyway.
    within = {"rtol": 0, "atol": max(50 * rounding(dtype), 1e-6)}
    torch.testing.assert_close(found.at, plane.project(snapshots), **within)
    torch.testing.assert_close(found.off, plane.residual(snapshots), **within)
    assert found.at[-1].tolist() == [0, 0]
    assert found.off[-1] == 0


@pytest.mark.parametrize(
    ("snapshots", "dim", "message"),
    [
        (torch.rand(4, 5), 0, "dim must be a positive integer, got 0"),
        (torch.rand(4, 5), 1.5, "dim must be a positive integer, got 1.5"),
        (torch.rand(5), 1, r"snapshots must be a floating point tensor of shape \(T, p\)"),
        (torch.ones(4, 5, dtype=torch.int64), 1, "snapshots must be a floating point"),
        (torch.tensor([[1.0], [math.nan]]), 1, r"snapshots\[1\] must be finite"),
        (torch.rand(2, 5), 2, "at least dim = 2 dimensions .* got 2 snapshots that span 1"),
        (torch.rand(0, 5), 1, "got 0 snapshots that span 0"),
        (torch.rand(1, 5), 1, "got 1 snapshots that span 0"),
        (torch.full((6, 50), 0.1), 1, "got 6 snapshots that span 0"),
        (torch.full((49, 50), 0.1).double(), 1, "got 49 snapshots that span 0"),
        (torch.arange(6.0)[:, None] * torch.ones(7), 2, "span 1"),
    ],
)
def test_invalid_snapshots(snapshots, dim, message):
    with pytest.raises(ValueError, match=message):
        pca_directions(snapshots, dim)


# ------------------------------------------------------------------ random_directions


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def naive_filter_normalised(parameters, generator):
    """Li et al. 2018, one filter after the other, from one Gaussian vector."""
    noise = torch.randn(sum(w.numel() for w in parameters), generator=generator)
    parts = []
    for w in parameters:
        g, noise = noise[: w.numel()].view_as(w), noise[w.numel() :]
        if w.ndim <= 1:
            parts.append(torch.zeros(w.numel()))
            continue
        parts += [(a * b.norm() / a.norm()).flatten() for a, b in zip(g, w, strict=True)]
    return torch.cat(parts)


def test_random_directions_against_the_paper():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(4, 5)
    )
    parameters = list(net.parameters())
    directions, norms = random_directions(parameters, 3, seeded())
    generator = seeded()
    raw = torch.stack([naive_filter_normalised(parameters, generator) for _ in range(3)], dim=1)
    torch.testing.assert_close(directions, orthonormal_columns(raw))
    torch.testing.assert_close(norms, raw.double().norm(dim=0))
    assert norms.dtype == torch.float64
    one, _ = random_directions(parameters, 1, seeded())
    torch.testing.assert_close(one, directions[:, :1])


def test_random_directions_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    first, _ = random_directions([torch.eye(3)], 2, seeded(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, random_directions([torch.eye(3)], 2, seeded(4))[0])
    assert not torch.equal(first, random_directions([torch.eye(3)], 2, seeded(5))[0])


@pytest.mark.parametrize(
    ("parameters", "norm"),
    [
        ([torch.full((4,), 3.0), torch.zeros(2)], 6.0),  # vectors only
        ([torch.zeros(2, 2), torch.tensor([3.0, 4.0])], 5.0),  # zero matrices
        ([torch.tensor([[3.0]]), torch.tensor([4.0, 0.0])], 5.0),  # a single filter entry
        ([torch.zeros(3, 2), torch.zeros(3)], 1.0),  # nothing at all
        ([torch.tensor(2.0), torch.tensor(0.0)], 1.0),  # two scalars, one of which cannot move
    ],
)
def test_random_directions_are_never_zero(parameters, norm):
    directions, norms = random_directions(parameters, 2, seeded())
    torch.testing.assert_close(gram(directions), torch.eye(2).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(norms, torch.full((2,), norm).double(), rtol=1e-6, atol=0)


def test_random_directions_skip_parameters_without_entries():
    parameters = [torch.eye(2), torch.zeros(0, 3), torch.zeros(0), torch.eye(2)]
    directions, _ = random_directions(parameters, 2, seeded())
    assert torch.equal(directions, random_directions(parameters[::3], 2, seeded())[0])


def test_random_directions_take_the_dtype_of_the_weights():
    assert random_directions([torch.eye(3).double()], 1, seeded())[0].dtype == torch.float64
    assert random_directions([torch.eye(3).half()], 1, seeded())[0].dtype == torch.float32


def test_invalid_random_directions():
    with pytest.raises(ValueError, match="at least one parameter"):
        random_directions([], 1, seeded())
    with pytest.raises(ValueError, match="dim must be at most the number of weights, 4, got 5"):
        random_directions([torch.eye(2)], 5, seeded())
    with pytest.raises(ValueError, match="dim must be a positive integer"):
        random_directions([torch.eye(2)], 0, seeded())
    with pytest.raises(ValueError, match="parameters must be finite"):
        random_directions([torch.tensor([[math.nan, 1.0]])], 1, seeded())

    class Elsewhere:
        device = torch.device("cuda")

    with pytest.raises(ValueError, match="generator must be on the CPU, got one on cuda"):
        random_directions([torch.eye(2)], 1, Elsewhere())
