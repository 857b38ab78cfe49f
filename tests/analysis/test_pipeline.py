import dataclasses

import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse.analysis.pipeline import analyze_samples
from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from lightning_morse.gp.process import SurrogateError
from tests import landscapes as land


def wrong_labels(result, gradient, minima, n=2000, seed=5, length=0.02, steps=3000):
    """Share of random points whose certain label the true gradient flow contradicts."""
    x = np.random.default_rng(seed).uniform(
        result.grid.lower, result.grid.upper, (n, len(minima[0]))
    )
    label = result.basin_of(x)
    owner = result.basin_of(minima)
    assert set(owner) <= set(result.attractors), "a minimum is not in a certain basin"
    known = label >= 0
    end = land.follow(gradient, x[known], steps=steps, length=length)
    distance = np.linalg.norm(end[:, None] - minima[None], axis=2)
    assert (distance.min(1) < 1e-2).all(), "the true flow has not arrived"
    return np.mean(owner[distance.argmin(1)] != label[known])


def holds(result, points):
    """Whether each point lies in a cell of some Morse set."""
    cells = result.grid.cell_of(points)
    every = np.concatenate([m.cells for m in result.morse_sets])
    return np.isin(cells, every)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_himmelblau(seed):
    result = lm.analyze(
        land.himmelblau, [-5, -5], [5, 5], n_samples=128, resolution=128, confidence=0.95, seed=seed
    )
    assert result.n_attractors == 4
    assert result.mu_model >= 0.95
    critical = np.concatenate(
        [land.HIMMELBLAU_MINIMA, land.HIMMELBLAU_SADDLES, land.HIMMELBLAU_MAXIMA]
    )
    assert np.abs(land.himmelblau_gradient(critical)).max() < 1e-9
    assert holds(result, critical).all()
    assert result.n_morse_sets <= 12
    assert sum(result.basin_volumes.values()) >= 0.85
    assert wrong_labels(result, land.himmelblau_gradient, land.HIMMELBLAU_MINIMA) == 0
    # Each critical point is in a Morse set of its own, with its index certified: an exact count.
    cells = result.grid.cell_of(critical)
    owners = [next(m for m in result.morse_sets if c in m.cells) for c in cells]
    assert len({id(m) for m in owners}) == 9
    assert [m.index for m in owners] == [0] * 4 + [1] * 4 + [2]
    assert result.n_unresolved == 0
    assert result.claim == "exactly 4 attractors"
    found = np.array([m.center for m in result.morse_sets if m.is_attractor])
    nearest = np.linalg.norm(found[:, None] - land.HIMMELBLAU_MINIMA[None], axis=2).min(0)
    assert nearest.max() < 0.01


def test_double_well_in_one_dimension():
    result = lm.analyze(land.double_well, [-2], [2])
    assert result.n_attractors == 2
    assert result.n_morse_sets == 3
    assert result.n_unresolved == 0
    assert [m.index for m in result.morse_sets] == [0, 0, 1]
    repeller = result.morse_sets[2]
    assert repeller.center == pytest.approx([0], abs=1e-3)
    assert sorted(result.graph.edges) == [(2, 0), (2, 1)]
    assert result.barrier(0) == pytest.approx(1, abs=1e-3)
    assert result.undecided < 0.05
    assert wrong_labels(result, land.double_well_gradient, np.array([[-1.0], [1.0]])) == 0


@pytest.mark.slow
def test_double_well_in_three_dimensions():
    result = lm.analyze(land.double_well, [-2] * 3, [2] * 3, n_samples=256, resolution=48)
    corners = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), -1).reshape(-1, 3)
    assert result.n_attractors == 8
    assert wrong_labels(result, land.double_well_gradient, corners) == 0
    grid = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3), -1).reshape(-1, 3)
    assert holds(result, grid).all()
    assert sum(result.basin_volumes.values()) > 0.6


def test_bowl():
    result = lm.analyze(land.bowl, [-1, -0.7], [1.3, 1], resolution=64)
    assert result.n_attractors == 1
    assert result.claim == "exactly 1 attractor"
    assert result.basin_volumes[0] == 1
    assert result.morse_sets[0].center == pytest.approx([0, 0], abs=1e-3)


def test_plane_escapes_through_the_right_face():
    result = lm.analyze(land.plane, [-1, -1], [1, 1], resolution=64)
    assert result.n_attractors == 0
    assert result.n_morse_sets == 0
    assert result.escape == 1
    assert result.exit_volumes[0].tolist() == [1, 0]  # downhill is towards the lower face
    # Along the sides a box map spreads by at most a cell a flight, and a flight is three cells.
    assert result.exit_volumes[1].max() < 0.5 / 3 + 4 / 64
    assert result.claim == "exactly 0 attractors"


def test_a_claim_that_would_say_nothing_is_not_counted():
    """Nine wells, of which two dozen samples tell little."""
    result = lm.analyze(
        lambda x: torch.cos(9 * x).sum(1), [-1, -1], [1, 1], n_samples=24, resolution=32
    )
    assert result.n_attractors == 0
    assert result.n_unresolved > 0
    assert result.claim == "no certain attractor"
    assert result.mu == 0


def test_hill():
    result = lm.analyze(land.hill, [-1, -1], [1, 1], resolution=64)
    assert result.claim == "exactly 0 attractors"
    assert result.n_morse_sets == 1
    assert result.morse_sets[0].index == 2
    assert result.morse_sets[0].center == pytest.approx([0, 0], abs=1e-2)
    away = ~np.isin(np.arange(result.grid.size), result.morse_sets[0].cells)
    assert (result.labels[away] == ESCAPES).all()
    assert result.exit_volumes.min() > 0.2


@pytest.mark.slow
def test_losses_of_any_increasing_shape_have_the_same_graph():
    """Warped and plain: same attractors, same order, the same basins where both are certain."""
    plain = lm.analyze(land.double_well, [-2, -2], [2, 2], n_samples=192, resolution=48)
    steep = lm.analyze(
        lambda x: torch.exp(land.double_well(x)), [-2, -2], [2, 2], n_samples=192, resolution=48
    )
    assert steep.surrogate.loss_floor is not None
    assert plain.n_attractors == steep.n_attractors == 4
    centers = np.array([m.center for m in plain.morse_sets[:4]])
    to_steep = steep.basin_of(centers)
    assert sorted(to_steep) == [0, 1, 2, 3]
    both = (plain.labels >= 0) & (steep.labels >= 0)
    assert both.mean() > 0.7
    assert (to_steep[plain.labels[both]] == steep.labels[both]).all()


@pytest.mark.slow
def test_an_attractor_that_leaks_makes_its_neighbours_undecided_not_wrong():
    """A band so wide that attractors leak: whatever is still certain is right."""
    minima = np.array([[i, j] for i in (-1.0, 1.0) for j in (-1.0, 1.0)])
    gaps = []
    for n in (24, 32, 40, 56):
        result = lm.analyze(land.double_well, [-2, -2], [2, 2], n_samples=n, resolution=32)
        gaps.append(4 - result.n_attractors)
        known = result.labels >= 0
        if not known.any():
            continue
        centers = result.grid.cell_centers()[known]
        end = land.follow(land.double_well_gradient, centers, steps=3000, length=0.02)
        nearest = np.linalg.norm(end[:, None] - minima[None], axis=2).argmin(1)
        owner = result.grid.cell_of(minima)
        for a in result.attractors:
            inside = [k for k in range(4) if owner[k] in result.morse_sets[a].cells]
            assert inside, "an attractor without a minimum"
            assert np.isin(nearest[result.labels[known] == a], inside).all()
    assert max(gaps) > 0, "no band was wide enough for this test to mean anything"


def test_a_loss_that_diverges_somewhere():
    def loss(x):
        out = land.bowl(x)
        out[x[:, 0] > 0.5] = float("nan")
        out[x[:, 1] < -0.8] = float("inf")
        return out

    result = lm.analyze(loss, [-1, -1], [1, 1], resolution=64)
    centers = result.grid.cell_centers()
    assert result.diverged[centers[:, 0] > 0.75].all()
    assert not result.diverged[(centers[:, 0] < 0.2) & (centers[:, 1] > -0.5)].any()
    assert (result.labels[result.diverged] == ESCAPES).all()
    assert result.n_attractors == 1
    assert result.morse_sets[0].center == pytest.approx([0, 0], abs=1e-2)
    assert np.isnan(result.sample_losses).any()


def test_all_samples_diverged():
    with pytest.raises(SurrogateError, match="not finite at any of the 31 samples"):
        lm.analyze(lambda x: x[:, 0] * float("nan"), [0], [1], n_samples=32)


def test_a_constant_loss_is_refused():
    with pytest.raises(SurrogateError, match="the loss is the same at every sample"):
        lm.analyze(land.flat, [-1, -1], [1, 1], n_samples=32)


def test_same_seed_same_analysis_and_no_global_generator_moves():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    a, b, c = (lm.analyze(land.double_well, [-2], [2], n_samples=32, seed=s) for s in (3, 3, 4))
    assert np.array_equal(a.samples, b.samples)
    assert np.array_equal(a.labels, b.labels)
    assert a.surrogate == b.surrogate
    assert not np.array_equal(a.samples, c.samples)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_a_float32_loss_on_another_shape_of_grid():
    result = lm.analyze(
        lambda x: land.bowl(x.float()), [-1, -1], [1, 1], n_samples=64, resolution=(16, 40)
    )
    assert result.grid.shape == (16, 40)
    assert result.n_attractors == 1


@pytest.mark.slow
def test_every_critical_point_is_in_a_morse_set_of_random_landscapes():
    """Random trigonometric sums: every minimum found by descent lies in a Morse set."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        frequency, phase = rng.normal(0, 1.5, (6, 2)), rng.uniform(0, 6, 6)

        def gradient(x, frequency=frequency, phase=phase):
            return -np.sin(x @ frequency.T + phase) @ frequency + 0.6 * x

        def loss(x, frequency=frequency, phase=phase):
            wave = torch.cos(x @ torch.from_numpy(frequency).T + torch.from_numpy(phase)).sum(1)
            return wave + 0.3 * (x**2).sum(1)

        result = lm.analyze(loss, [-2, -2], [2, 2], n_samples=128, resolution=64, seed=seed)
        starts = rng.uniform(-2, 2, (200, 2))
        label = result.basin_of(starts)
        end = land.follow(gradient, starts, steps=2000, length=0.02)
        inside = (np.abs(end) < 2).all(1)
        if inside.any():
            assert holds(result, end[inside]).all()
        for a in result.attractors:
            assert np.isin(result.grid.cell_of(end[label == a]), result.morse_sets[a].cells).all()
        assert (label == UNDECIDED).mean() < 0.7


def test_record_round_trip(tmp_path):
    result = lm.analyze(land.double_well, [-2, -2], [2, 2], n_samples=64, resolution=32)
    path = tmp_path / "result.npz"
    result.save(path)
    back = lm.MorseAnalysis.load(path)
    assert [p.name for p in tmp_path.iterdir()] == ["result.npz"]  # nothing left behind
    assert np.array_equal(back.labels, result.labels)
    assert back.graph.edges == result.graph.edges
    assert back.mu == result.mu
    assert back.table() == result.table()
    assert back.surrogate == result.surrogate
    assert back.grid.shape == result.grid.shape
    for a, b in zip(back.morse_sets, result.morse_sets, strict=True):
        assert np.array_equal(a.cells, b.cells)
        assert (a.index, a.resolved, a.is_attractor) == (b.index, b.resolved, b.is_attractor)
    x = np.random.default_rng(0).uniform(-2.5, 2.5, (50, 2))
    assert np.array_equal(back.basin_of(x), result.basin_of(x))
    assert (back.basin_of([[3.0, 0.0]]) == ESCAPES).all()


def test_a_record_keeps_the_deviation_and_what_cells_may_reach(tmp_path):
    result = lm.analyze(land.himmelblau, [-5, -5], [5, 5], n_samples=48, resolution=24)
    path = tmp_path / "result.npz"
    result.save(path)
    back = lm.MorseAnalysis.load(path)
    assert np.array_equal(back.loss_deviation, result.loss_deviation)
    assert np.array_equal(back.reach.kinds, result.reach.kinds)
    assert np.array_equal(back.reach.of, result.reach.of)
    with np.load(path) as archive:
        whole = dict(archive)

    def loaded(**changes):
        arrays = {k: v for k, v in (whole | changes).items() if v is not None}
        np.savez(path, **arrays)
        return lm.MorseAnalysis.load(path)

    older = loaded(loss_deviation=None, reach_kinds=None, reach_of=None)
    assert older.loss_deviation is None
    assert older.reach is None
    for broken, message in (
        (
            {"loss_deviation": np.zeros(3)},
            r'"loss_deviation" should be number of shape .* got shape \(3,\)',
        ),
        ({"reach_of": whole["reach_of"][1:]}, r'"reach_of" should be integer of shape \(576\)'),
        (
            {"reach_of": whole["reach_of"] + 99},
            '"reach_of" should be integer.* below the number of kinds',
        ),
        ({"reach_of": whole["reach_of"] * 0}, '"labels" should be those of what its cells'),
        (
            {"reach_of": whole["reach_of"] * 1.0},
            '"reach_of" should be integer, .* got values of type float64',
        ),
        (
            {"reach_kinds": whole["reach_kinds"][:, 1:]},
            '"reach_kinds" should be true or false of shape',
        ),
        (
            {"reach_kinds": whole["reach_kinds"] * 1},
            '"reach_kinds" should be true or false, .* got values of type',
        ),
        ({"reach_kinds": None}, '"reach_of" should be numbers of kinds, got none to refer to'),
    ):
        with pytest.raises(ValueError, match=message):
            loaded(**broken)


def test_the_deviation_is_that_of_the_surrogate_in_units_of_the_loss():
    def loss(x):
        return (x**2 - 1).square().sum(1).exp()

    result = lm.analyze(loss, [-1.6, -1.6], [1.6, 1.6], n_samples=48, resolution=24)
    origin, floor = result.surrogate.loss_origin, result.surrogate.loss_floor
    assert floor is not None  # warped: the slope of the inverse is not 1 everywhere
    assert result.loss_deviation.shape == result.mean_loss.shape
    # From values of the warp alone: T(l) = S log(1 + (l - l_0) / S), S = l_0 - floor.
    step = 1e-4 * (result.mean_loss - floor)
    warped = [
        (origin - floor) * np.log((loss_at - floor) / (origin - floor))
        for loss_at in (result.mean_loss - step, result.mean_loss + step)
    ]
    deviation = result.loss_deviation * (warped[1] - warped[0]) / (2 * step)
    assert (deviation <= result.surrogate.deviation * (1 + 1e-6)).all()
    at = np.stack(np.meshgrid(*result.grid.edges, indexing="ij"), -1).reshape(-1, 2)
    error = np.abs(loss(torch.tensor(at)).numpy() - result.mean_loss.ravel())
    assert np.mean(error <= 3 * result.loss_deviation.ravel()) > 0.97


def test_record_without_morse_sets_round_trips(tmp_path):
    result = lm.analyze(land.plane, [-1], [1], n_samples=32, resolution=16)
    result.save(tmp_path / "a.npz")
    assert lm.MorseAnalysis.load(tmp_path / "a.npz").n_morse_sets == 0


def test_a_damaged_record_is_refused(tmp_path):
    result = lm.analyze(land.bowl, [-1], [1], n_samples=32, resolution=16)
    path = tmp_path / "result.npz"
    result.save(path)
    whole = path.read_bytes()
    for broken in (b"", b"not an archive", whole[: len(whole) // 2]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="does not hold a Morse analysis"):
            lm.MorseAnalysis.load(path)
    np.savez(path, facts=np.zeros(3))
    with pytest.raises(ValueError, match="does not hold a Morse analysis"):
        lm.MorseAnalysis.load(path)
    with pytest.raises(FileNotFoundError):
        lm.MorseAnalysis.load(tmp_path / "missing.npz")


def test_a_repeller_is_no_barrier():
    """At a corner of the box one may lie lower than the saddles."""
    result = lm.analyze(land.himmelblau, [-5, -5], [5, 5], n_samples=128, resolution=64)
    tops = [i for i, m in enumerate(result.morse_sets) if m.index == 2]
    sets = list(result.morse_sets)
    for i in tops:
        sets[i] = dataclasses.replace(sets[i], loss=1.0)
    lower = dataclasses.replace(result, morse_sets=tuple(sets))
    assert tops
    for a in result.attractors:
        saddles = [m.loss for m in result.morse_sets if m.index == 1]
        assert min(abs(result.barrier(a) + sets[a].loss - s) for s in saddles) == 0
        assert lower.barrier(a) == result.barrier(a)


def test_barrier_wants_an_attractor():
    result = lm.analyze(land.double_well, [-2], [2], n_samples=64)
    with pytest.raises(ValueError, match=r"one of the attractors \(0, 1\), got 2"):
        result.barrier(2)
    assert np.isnan(lm.analyze(land.bowl, [-1], [1], n_samples=32).barrier(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lower": [-1, np.nan]}, "lower must be finite"),
        ({"upper": [1, -1]}, "lower must be below upper on every axis, but on axis 1"),
        ({"resolution": 3}, "resolution must be an integer of at least 4"),
        ({"resolution": (8, 8, 8)}, "or 2 of them"),
        ({"resolution": 8.5}, "resolution must be"),
        ({"n_samples": 15}, "n_samples must be an integer of at least 16, got 15"),
        ({"n_samples": 32.0}, "n_samples must be"),
        ({"confidence": 1.0}, "strictly between 0 and 1, got 1.0"),
        ({"band": "pointwise"}, "band must be 'proved' or 'simulated', got 'pointwise'"),
        ({"confidence": "high"}, "strictly between 0 and 1, got 'high'"),
        ({"loss": lambda x: x}, r"shape \(16,\), got \(16, 2\)"),
        ({"loss": lambda x: 1.0}, "got float"),
        ({"loss": None}, "loss must be a function of points"),
        ({"resolution": np.array([8, 8, 8])}, "or 2 of them"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"seed": None}, "seed must be"),
        ({"seed": True}, "seed must be"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    given = {
        "loss": land.bowl,
        "lower": [-1, -1],
        "upper": [1, 1],
        "n_samples": 16,
        "resolution": 8,
    }
    with pytest.raises(ValueError, match=message):
        lm.analyze(**{**given, **change})


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_a_loss_that_is_the_same_everywhere_is_given_up(value):
    """However many samples were allowed."""
    seen = []

    def constant(x):
        seen.append(len(x))
        return torch.full((len(x),), value)

    with pytest.raises(SurrogateError):
        lm.analyze(constant, [-1, -1], [1, 1], n_samples=10**6, resolution=16)
    assert sum(seen) < 600


def test_numbers_and_arrays_of_numpy_do_as_well():
    given = {"n_samples": 32, "resolution": 8, "confidence": 0.75, "seed": 1}
    same = {
        "n_samples": np.int64(32),
        "resolution": np.array([8, 8]),
        "confidence": np.float32(0.75),
        "seed": np.uint8(1),
    }
    one, other = (lm.analyze(land.bowl, [-1, -1], [1, 1], **k) for k in (given, same))
    assert np.array_equal(one.labels, other.labels)
    assert (one.claim, one.mu, one.confidence) == (other.claim, other.mu, 0.75)
    with pytest.raises(ValueError, match=r"points must have shape \(n, 2\)"):
        one.basin_of(0.5)
    with pytest.raises(ValueError, match=r"points must have shape \(n, 2\)"):
        one.box_at(0.5)


def test_bad_samples_are_refused():
    with pytest.raises(ValueError, match=r"samples must have shape \(n, 2\)"):
        analyze_samples(np.zeros((20, 1)), np.zeros(20), [0, 0], [1, 1])


def test_two_modes_of_a_deep_linear_network():
    """Two balanced scalar modes of strength 3 and 1 at depth 2: all of it is known."""

    def loss(x):
        return 0.5 * (3 - x[:, 0] ** 2) ** 2 + 0.5 * (1 - x[:, 1] ** 2) ** 2

    result = lm.analyze(loss, [-2.5, -1.8], [2.5, 1.8], n_samples=128, resolution=64)
    assert result.claim == "exactly 4 attractors"
    assert [m.index for m in result.morse_sets] == [0] * 4 + [1] * 4 + [2]
    assert result.graph.number_of_edges() == 12
    minima = np.array([m.center for m in result.morse_sets[:4]])
    assert np.abs(minima) == pytest.approx(np.tile([3**0.5, 1], (4, 1)), abs=0.01)
    certain = result.labels >= 0
    signs = np.sign(minima)[result.labels[certain]]
    centers = result.grid.cell_centers()[certain]
    assert (np.sign(centers) == signs).all()  # basins are the open quadrants
    assert result.undecided < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.3, 3.0, 10.0])
def test_noise_of_the_loss_is_estimated_and_carried(noise):
    generator = torch.Generator().manual_seed(0)

    def loss(x):
        return land.himmelblau(x) + noise * torch.randn(len(x), generator=generator, dtype=x.dtype)

    result = lm.analyze(loss, [-5, -5], [5, 5], n_samples=128, resolution=64)
    quiet = lm.analyze(land.himmelblau, [-5, -5], [5, 5], n_samples=128, resolution=64)
    drawn = float(
        np.std(result.sample_losses - land.himmelblau(torch.tensor(result.samples)).numpy())
    )
    # With the deviations the noise is multiplied by up to 1.5 for the smoother kernel.
    assert 0.8 * drawn < result.surrogate.noise_deviation < 1.7 * drawn
    assert result.calibration < 1.1  # even a right model is inflated a little in one case of 20
    assert result.undecided > quiet.undecided
    assert result.n_attractors >= (3 if noise < 10 else 2)
    if noise != 3.0:  # there it depends on where samples fall
        assert (result.mu_model < 1 - 1e-6) == (noise > 3)
    # No certain label contradicts the one without noise; minima may be told apart in one only.
    for a in result.attractors:
        ends = np.unique(quiet.labels[result.labels == a])
        for end in ends[ends >= 0]:
            cell = result.grid.cell_of(quiet.morse_sets[end].center[None])
            near = np.abs(
                result.grid.cell_centers()[result.morse_sets[a].cells]
                - result.grid.cell_centers()[cell]
            )
            assert (near <= 1.5 * result.grid.cell_widths).all(axis=1).any()


@pytest.mark.slow
def test_nothing_but_noise_is_refused_or_refuted():
    """Most of it before there is a surrogate, the rest by the held-out samples."""
    refused = 0
    for seed in range(32):
        generator = torch.Generator().manual_seed(seed)

        def noise(x, generator=generator):
            return torch.randn(len(x), generator=generator, dtype=x.dtype)

        try:
            result = lm.analyze(noise, [-1, -1], [1, 1], n_samples=64, resolution=16)
        except SurrogateError as err:
            refused += "cannot be told from noise around a constant" in str(err)
        else:
            assert result.mu == 0
            assert result.undecided == 1
            assert result.n_attractors == 0
    assert refused >= 20
