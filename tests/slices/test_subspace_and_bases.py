import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from lightning_morse.slices import columns
from lightning_morse.slices.bases import orthonormal_columns, pca_directions, random_directions
from lightning_morse.slices.parameters import flatten
from lightning_morse.slices.subspace import AffineSubspace, plane_through

DTYPES = [torch.float32, torch.float64]


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gram(columns):
    return columns.double().T @ columns.double()


def rounding(dtype):
    return 20 * torch.finfo(dtype).eps


@pytest.fixture(params=[7, 1 << 16], ids=["many blocks", "one block"])
def block(request, monkeypatch):
    """Results may not depend on how many rows are held in float64 at a time."""
    monkeypatch.setattr(columns, "_BLOCK", request.param)


# ------------------------------------------------------------------ AffineSubspace


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


E1, E2 = torch.eye(3)[0], torch.eye(3)[1]


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


# ------------------------------------------------------------------ plane_through, flatten


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


def test_flatten_copies_in_order_and_promotes():
    parameter = torch.nn.Parameter(torch.tensor([[1.0, 2.0]]))
    flat = flatten([parameter])
    flat += 1
    assert not flat.requires_grad
    assert parameter.tolist() == [[1.0, 2.0]]
    assert flatten([torch.ones(1).bfloat16(), torch.tensor(2.0).half()]).dtype == torch.float32
    assert flatten([torch.ones(1), torch.ones(2).double()]).dtype == torch.float64
    with pytest.raises(ValueError, match="tensors must hold at least one parameter"):
        flatten([])
