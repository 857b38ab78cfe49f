"""Units do not matter: losses and boxes of any scale have the same analysis, to the last bit."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse import CubicalGrid
from lightning_morse.analysis.pipeline import analyze_from, analyze_samples
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.nested import NestedGrid
from lightning_morse.result import MorseAnalysis
from lightning_morse.result.frame import Frame
from tests import landscapes as land

WIDTH = np.array([4.0, 3.0])


def wells(x):
    """Two minima on each axis, at -1 and 1."""
    return (x**2 - 1).square().sum(dim=1)


def in_units(loss, of_loss, of_box):
    """The loss with values and points in other units: powers of two."""

    def scaled(x):
        values = loss(torch.from_numpy(np.ldexp(x.numpy(), -of_box)))
        return torch.from_numpy(np.ldexp(values.numpy(), of_loss))

    return scaled


def analysis(of_loss, of_box, dim=1, loss=wells):
    half = np.ldexp(WIDTH[:dim] / 2, of_box)
    n, resolution = (32, 48) if dim == 1 else (48, 24)
    scaled = in_units(loss, of_loss, of_box)
    return lm.analyze(scaled, -half, half, n_samples=n, resolution=resolution)


def assert_same_but_for_units(a: MorseAnalysis, b: MorseAnalysis, of_loss, of_box):
    """``b`` is ``a`` with losses times ``2**of_loss`` and lengths times ``2**of_box``."""

    def lengths(x, y):
        assert np.array_equal(np.ldexp(x, of_box), y)

    def losses(x, y):
        assert np.array_equal(np.ldexp(x, of_loss), y, equal_nan=True)

    assert (a.mu, a.claim, a.confidence) == (b.mu, b.claim, b.confidence)
    assert set(a.graph.edges) == set(b.graph.edges)
    assert np.array_equal(a.ladder.levels, b.ladder.levels)
    assert np.array_equal(a.ladder.blocks, b.ladder.blocks)
    assert np.array_equal(a.exit_volumes, b.exit_volumes)
    assert a.basin_volumes == b.basin_volumes
    lengths(a.samples, b.samples)
    losses(a.sample_losses, b.sample_losses)
    for m, n in zip(a.morse_sets, b.morse_sets, strict=True):
        same = ("is_attractor", "resolved", "index", "volume", "mu")
        assert [getattr(m, k) for k in same] == [getattr(n, k) for k in same]
        assert np.array_equal(m.cells, n.cells)
        lengths(m.center, n.center)
        losses([m.loss, m.loss_deviation], [n.loss, n.loss_deviation])
    for x, y in zip(a.boxes, b.boxes, strict=True):
        lengths([x.grid.lower, x.grid.upper], [y.grid.lower, y.grid.upper])
        assert (x.parent, x.calibration, x.n_samples) == (y.parent, y.calibration, y.n_samples)
        for k in ("labels", "diverged", "faces", "sets"):
            assert np.array_equal(getattr(x, k), getattr(y, k))
        losses(x.mean_loss, y.mean_loss)
        losses(x.loss_deviation, y.loss_deviation)
        same = ("kernel", "n", "largest_residual", "largest_held_out", "band_deviations")
        p, q = x.surrogate, y.surrogate
        assert [getattr(p, k) for k in same] == [getattr(q, k) for k in same]
        lengths(p.lengthscales, q.lengthscales)
        of_losses = ("mean", "deviation", "noise_deviation", "loss_origin")
        losses([getattr(p, k) for k in of_losses], [getattr(q, k) for k in of_losses])
        assert (p.loss_floor is None) == (q.loss_floor is None)
        losses(p.loss_floor or 0.0, q.loss_floor or 0.0)
        density = p.log_evidence - p.n * of_loss * math.log(2)
        assert q.log_evidence == pytest.approx(density, rel=1e-12, abs=1e-9)
    assert (a.way_out is None) == (b.way_out is None)
    if a.way_out is not None:
        lengths([a.way_out.start, a.way_out.end], [b.way_out.start, b.way_out.end])
        losses(a.way_out.loss, b.way_out.loss)
        assert a.way_out.face == b.way_out.face


@pytest.fixture(scope="module")
def natural():
    return {dim: analysis(0, 0, dim) for dim in (1, 2)}


@pytest.mark.parametrize("of_loss", [-900, -517, -1, 3, 505, 900])
def test_losses_times_a_power_of_two(of_loss, natural):
    assert_same_but_for_units(natural[1], analysis(of_loss, 0), of_loss, 0)


@pytest.mark.parametrize("of_box", [-400, -3, 1, 400])
def test_boxes_times_a_power_of_two(of_box, natural):
    assert_same_but_for_units(natural[1], analysis(0, of_box), 0, of_box)


@pytest.mark.parametrize(("of_loss", "of_box"), [(900, -400), (-900, 400), (900, 400)])
def test_both_in_the_plane(of_loss, of_box, natural):
    assert natural[2].n_attractors
    assert_same_but_for_units(natural[2], analysis(of_loss, of_box, 2), of_loss, of_box)


def test_random_powers_of_two(natural):
    rng = np.random.default_rng(21)
    for of_loss, of_box in zip(rng.integers(-900, 901, 8), rng.integers(-400, 401, 8), strict=True):
        k, e = int(of_loss), int(of_box)
        assert_same_but_for_units(natural[1], analysis(k, e), k, e)


@pytest.mark.slow
@pytest.mark.parametrize("of_loss", [-900, 900])
@pytest.mark.parametrize("of_box", [-400, 400])
def test_following_a_point_in_any_unit(of_loss, of_box):
    """The box grows, and others are opened inside, as they do in order one."""

    def followed(k, e):
        lower, upper = np.ldexp([-1.0], e), np.ldexp([1.5], e)
        return analyze_from(
            in_units(wells, k, e),
            np.ldexp([-0.9], e),
            lower,
            upper,
            (4 * lower, 4 * upper),
            n_samples=48,
            resolution=32,
        )

    assert_same_but_for_units(followed(0, 0), followed(of_loss, of_box), of_loss, of_box)


def test_where_the_flow_leaves_is_in_units():
    def followed(k, e):
        half = np.ldexp([1.0], e)
        loss = in_units(lambda x: x[:, 0] + 0.1 * x[:, 0] ** 2, k, e)
        return analyze_from(loss, 0 * half, -half, half, n_samples=32, resolution=32)

    natural = followed(0, 0)
    assert natural.way_out is not None
    assert_same_but_for_units(natural, followed(700, -300), 700, -300)


def test_given_samples_in_any_unit():
    x = np.linspace(-2, 2, 40)[:, None]
    losses = ((x**2 - 1) ** 2).sum(axis=1)
    losses[3] = np.inf

    def given(k, e):
        half = np.ldexp([2.0], e)
        return analyze_samples(np.ldexp(x, e), np.ldexp(losses, k), -half, half, resolution=32)

    assert_same_but_for_units(given(0, 0), given(-900, 400), -900, 400)


@pytest.mark.slow
def test_units_that_are_no_powers_of_two():
    """What used to be certain and false: no attractors, with mu 0.955."""
    for loss, box in ((1e152, 1.0), (1e-155, 1.0), (1.0, 1e160), (1.0, 1e-160)):
        result = lm.analyze(
            lambda x, box=box, loss=loss: loss * wells(x / box),
            [-2 * box, -1.5 * box],
            [2 * box, 1.5 * box],
            n_samples=64,
            resolution=32,
        )
        assert result.n_attractors == 4
        assert result.mu_model >= 0.95


def test_the_edge_of_the_range_of_floats():
    """Losses near the largest float, and below the smallest normal one."""
    x = np.linspace(-2, 2, 40)[:, None]
    losses = ((x**2 - 1) ** 2).sum(axis=1)
    large = analyze_samples(x, losses * 1e306, [-2], [2], resolution=32)
    small = analyze_samples(x, losses * 1e-310, [-2], [2], resolution=32)
    assert large.claim == small.claim == "exactly 2 attractors"
    with pytest.raises(SurrogateError, match="too large for a float"):
        analyze_samples(0.5 * x, (0.5 * x[:, 0] + 1) * 8e307, [-2], [2], resolution=32)


def test_first_losses_of_zero_do_not_tell_the_scale():
    def plateau(x):
        return torch.where(x[:, 0].abs() < 1e-9, 0.0, 1.0) * wells(x)

    def followed(k):
        asked = iter(range(10**6))
        return analyze_from(
            in_units(plateau, k, 0),
            [0.5],
            [-2],
            [2],
            n_samples=32,
            resolution=32,
            is_over=lambda: next(asked) > 500,
        )

    assert_same_but_for_units(followed(0), followed(850), 850, 0)
    frame = Frame.of([-2], [2])
    assert frame.losses(np.zeros(3)).tolist() == [0, 0, 0]
    assert frame.loss is None
    assert frame.losses(np.array([np.nan, 2.0**700])).tolist()[1] == 0.5


# --------------------------------------------------------------------------- what is refused


def test_axes_share_one_factor():
    """Another factor for each axis would be another metric, and other basins."""
    frame = Frame.of([-2, -(2.0**20)], [2, 2.0**20])
    grid = frame.grid(CubicalGrid([-2, -(2.0**20)], [2, 2.0**20], (4, 4)))
    assert (grid.upper / [2, 2.0**20] == 2.0**-frame.box).all()
    with pytest.raises(ValueError, match="widths of the box"):
        lm.analyze(land.bowl, [-1e-100, -1], [1e-100, 1], n_samples=32)


@pytest.mark.parametrize("lower", [1.0, 1e10, -1e-200])
@pytest.mark.parametrize("ulps", [1, 4, 1000, 100_000])
def test_a_box_of_a_few_ulps_is_refused(lower, ulps):
    upper = lower + ulps * np.spacing(lower) * np.sign(lower)
    with pytest.raises(ValueError, match="the box is too small for floats: on axis 0"):
        lm.analyze(land.bowl, *sorted([[lower], [upper]]), n_samples=32, resolution=32)
    with pytest.raises(ValueError, match="the box is too small for floats"):
        lm.analyze_trajectories([[[lower], [upper]]] * 9, 1, *sorted([[lower], [upper]]))


def test_the_smallest_box_that_floats_resolve():
    """Its cells hold 4,096 floats each; nothing false is said of it."""
    width = 32 * 2**12 * np.spacing(1.0)
    loss = lambda x: ((x[:, 0] - 1) / width - 0.4) ** 2  # noqa: E731
    result = lm.analyze(loss, [1.0], [1 + width], n_samples=32, resolution=32)
    assert result.claim in ("exactly 1 attractor", "at least 1 attractor", "no certain attractor")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (lambda y: y.to(torch.complex128), "torch.complex128"),
        (lambda y: y > 1, "torch.bool"),
        (lambda y: y.to_sparse(), "a sparse_coo tensor of torch.float64"),
        (lambda y: torch.quantize_per_tensor(y.float(), 0.1, 0, torch.quint8), "a quantized"),
        (lambda y: y.to("meta"), "a meta tensor"),
        (lambda y: torch.nested.nested_tensor(list(y[:, None])), "a nested tensor"),
    ],
)
def test_losses_that_are_no_dense_real_numbers_are_refused_by_name(kind, named):
    with pytest.raises(ValueError, match=f"dense tensor of real .* got {named}"):
        lm.analyze(lambda x: kind(land.bowl(x)), [-1], [1], n_samples=32)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.float16, torch.bfloat16])
def test_losses_of_other_real_types_are_fine(dtype):
    loss = lambda x: (100 * x[:, 0] ** 2).to(dtype)  # noqa: E731
    result = lm.analyze(loss, [-1], [1], n_samples=32, resolution=32)
    assert result.sample_losses.dtype == np.float64
    assert np.array_equal(result.sample_losses, loss(torch.from_numpy(result.samples)).double())


@pytest.mark.parametrize("kind", [complex, bool, str, object])
def test_given_arrays_of_other_kinds_are_refused_by_name(kind):
    x, losses = np.linspace(-1, 1, 20)[:, None], np.linspace(-1, 1, 20) ** 2
    named = str(np.dtype(kind)) if kind is not str else "<U"
    with pytest.raises(ValueError, match=f"losses must be real .* got {named}"):
        analyze_samples(x, losses.astype(kind), [-1], [1])
    with pytest.raises(ValueError, match=f"samples must be real .* got {named}"):
        analyze_samples(x.astype(kind), losses, [-1], [1])
    with pytest.raises(ValueError, match="lower must be real"):
        lm.analyze(land.bowl, np.array([-1]).astype(kind), [1], n_samples=32)
    with pytest.raises(ValueError, match=r"trajectories\[0\] must be real"):
        lm.analyze_trajectories([x.astype(kind)])


def test_a_sparse_array_of_losses_is_refused_by_name():
    x, losses = np.linspace(-1, 1, 20)[:, None], torch.linspace(-1, 1, 20) ** 2
    with pytest.raises(ValueError, match="losses must be a dense array of real numbers"):
        analyze_samples(x, losses.to_sparse(), [-1], [1])


def test_samples_that_are_not_finite_are_refused():
    x, losses = np.linspace(-1, 1, 20)[:, None], np.linspace(-1, 1, 20) ** 2
    x[4] = np.nan
    with pytest.raises(ValueError, match="samples must be finite, but row 4"):
        analyze_samples(x, losses, [-1], [1])


# --------------------------------------------------------------------- no claim from overflow


def test_a_loss_that_is_found_to_be_too_large_is_refused():
    """Beyond what a surrogate of the first losses spans, and finite."""

    asked = []

    def cliff(x):
        asked.append(len(x))
        return x[:, 0] ** 2 if len(asked) == 1 else torch.full_like(x[:, 0], 1e300)

    with pytest.raises(SurrogateError, match="no surrogate spans both"):
        lm.analyze(cliff, [-1], [1], n_samples=32)


def test_a_number_that_overflows_is_no_certain_claim(monkeypatch):
    """Whatever the cause: numbers behind a claim are looked at before one is made."""
    from lightning_morse.gp.process import GaussianProcess

    sound = GaussianProcess.lattice_posterior

    for name, value in (
        ("gradient", np.inf),
        ("hessian", np.nan),
        ("mean", np.nan),
        ("gradient_deviation", 0.0),
        ("gradient_deviation", np.inf),
    ):

        def broken(self, axes, name=name, value=value):
            found = sound(self, axes)
            spoilt = getattr(found, name).copy()
            spoilt.flat[len(spoilt) // 2] = value
            return dataclasses.replace(found, **{name: spoilt})

        monkeypatch.setattr(GaussianProcess, "lattice_posterior", broken)
        with (
            pytest.raises(SurrogateError, match="left the range of floats"),
            np.errstate(all="ignore"),
        ):
            lm.analyze(wells, [-2], [2], n_samples=32, resolution=32)


def test_critical_points_that_cannot_be_counted_are_not_ruled_out(monkeypatch):
    from lightning_morse.gp.process import GaussianProcess

    sound = GaussianProcess.derivative_distribution

    def broken(self, points):
        mean, covariance = sound(self, points)
        return np.where(points[:, :1] < 0, np.nan, mean), covariance

    monkeypatch.setattr(GaussianProcess, "derivative_distribution", broken)
    result = lm.analyze(wells, [-2], [2], n_samples=32, resolution=32)
    assert result.n_unresolved
    assert not result.claim.startswith("exactly")


def test_volumes_of_huge_and_tiny_boxes():
    grid = CubicalGrid([-2.0, -2.0], [2.0, 2.0], (8, 8))
    expected = NestedGrid.of(grid).around([-0.4, -0.4], [0.4, 0.4], 0, 8).volumes
    for size in (2.0**1000, 2.0**-1000):
        scaled = CubicalGrid(grid.lower * size, grid.upper * size, grid.shape)
        corner = np.array([0.4, 0.4]) * size
        nested = NestedGrid.of(scaled).around(-corner, corner, 0, 8)
        assert np.array_equal(nested.volumes, expected)


# ------------------------------------------------------------------------------ trajectories


@pytest.mark.parametrize("of_box", [-400, -37, 400])
def test_trajectories_in_any_unit(of_box):
    def learned(e):
        runs = [[[2.0 * s * 0.5**t] for t in range(6)] for s in (-1, -0.3, 0.4, 1)]
        return lm.analyze_trajectories([np.ldexp(run, e) for run in runs], resolution=32)

    a, b = learned(0), learned(of_box)
    assert (a.claim, a.mu) == (b.claim, b.mu)
    assert np.array_equal(a.labels, b.labels)
    assert np.array_equal(a.diverged, b.diverged)
    for m, n in zip(a.morse_sets, b.morse_sets, strict=True):
        assert np.array_equal(np.ldexp(m.center, of_box), n.center)
    for name in ("lengthscales", "mean", "deviation", "noise_deviation", "band_between"):
        scaled = np.ldexp(getattr(a.surrogate, name), of_box)
        assert np.array_equal(scaled, getattr(b.surrogate, name))
    assert np.array_equal(np.ldexp(a.samples, of_box), b.samples)
    assert np.array_equal(np.ldexp(a.grid.upper, of_box), b.grid.upper)


def test_a_run_too_far_from_its_box_is_refused():
    runs = [[[s], [0.5 * s], [np.copysign(1e300, s)]] for s in np.linspace(-1e-10, 1e-10, 12)]
    with pytest.raises(SurrogateError, match="no float holds the distance"):
        lm.analyze_trajectories(runs, 1, [-1e-10], [1e-10])
