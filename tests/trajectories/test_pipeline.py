"""From runs of known maps to their Morse graphs."""

import networkx as nx
import numpy as np
import pytest

import lightning_morse as lm
from benchmarks.trajectory_coverage import bistable_field
from lightning_morse.conley.point_maps import time_map
from lightning_morse.gp.process import SurrogateError
from lightning_morse.trajectories.pairs import Pairs, pairs_of_runs
from lightning_morse.trajectories.pipeline import analyze_pairs

BOX = {"lower": [0.5, -1.5], "upper": [3.5, 1.8]}


def runs_of(point_map, start, length, noise, rng):
    states = [start]
    for _ in range(length - 1):
        ideal = point_map(states[-1])
        states.append(ideal + noise * rng.standard_normal(ideal.shape))
    return list(np.stack(states, axis=1))


def bistable_runs(noise=0.005, seed=0, n=60):
    rng = np.random.default_rng(seed)
    start = rng.uniform(BOX["lower"], BOX["upper"], (n, 2))
    return runs_of(time_map(bistable_field, 0.4, 20), start, 7, noise, rng)


@pytest.fixture(scope="module")
def bistable():
    return lm.analyze_trajectories(bistable_runs(), **BOX)


def test_two_attractors_and_one_saddle_of_a_flow_from_60_short_runs(bistable):
    assert bistable.n_attractors == 2
    assert bistable.n_morse_sets == 3
    assert set(bistable.graph.edges) == {(2, 0), (2, 1)}
    expected = [(1, 1), (3, -1), (2, 0)]
    for m, point in zip(bistable.morse_sets, expected, strict=True):
        assert m.center == pytest.approx(point, abs=0.05)
        assert bistable.grid.cell_of([point])[0] in m.cells
    assert bistable.surrogate.betti == ((1, 0, 0), (1, 0, 0), (0, 1, 0))
    assert bistable.surrogate.periods == (1, 1, 1)
    assert bistable.surrogate.noise_deviation == pytest.approx([0.005, 0.005], rel=0.2)
    assert bistable.mu >= bistable.confidence == 0.95


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_from_other_runs(seed):
    result = lm.analyze_trajectories(bistable_runs(seed=seed), **BOX)
    assert (result.n_attractors, result.n_morse_sets) == (2, 3)


def test_certain_basins_are_those_of_the_flow(bistable):
    points = np.random.default_rng(5).uniform(BOX["lower"], BOX["upper"], (3000, 2))
    label = bistable.basin_of(points)
    assert (label >= 0).mean() > 0.5
    decided = label >= 0
    late = time_map(bistable_field, 40.0, 1500)(points[decided])
    sinks = np.array([[1, 1], [3, -1]])
    assert np.abs(late - sinks[label[decided]]).max() < 0.01


def test_the_record_says_honestly_that_there_is_no_loss(bistable, tmp_path):
    assert np.isnan(bistable.mean_loss).all()
    assert np.isnan(bistable.sample_losses).all()
    assert bistable.mean_loss.shape == (129, 129)
    assert all(m.index is None and np.isnan(m.loss) for m in bistable.morse_sets)
    assert bistable.claim == "at least 2 attractors"
    assert len(bistable.samples) == bistable.surrogate.n == 360 - bistable.surrogate.n_outside
    assert "attractor(s)" in bistable.table()
    bistable.save(tmp_path / "a.npz")
    again = lm.MorseAnalysis.load(tmp_path / "a.npz")
    assert again.table() == bistable.table()
    assert again.surrogate == bistable.surrogate
    assert nx.utils.graphs_equal(again.graph, bistable.graph)


def test_it_can_be_drawn(bistable):
    lm.plot_basins(bistable)
    lm.plot_morse_graph(bistable)
    lm.plot_merge_diagram(bistable)
    line = [[[2.0 * s * 0.5**t] for t in range(6)] for s in (-1, -0.3, 0.4, 1)]
    lm.plot_basins(lm.analyze_trajectories(line, resolution=32))


def test_single_noisy_steps_take_wider_boxes(bistable):
    runs = bistable_runs()
    steps = lm.analyze_trajectories(runs, noise="steps", step_level=0.99, **BOX)
    assert steps.n_attractors == 2
    assert steps.surrogate.step_level == 0.99
    for i in range(2):
        assert set(bistable.morse_sets[i].cells) <= set(steps.morse_sets[i].cells)
    assert steps.undecided > bistable.undecided
    loud = lm.analyze_trajectories(bistable_runs(0.1), noise="steps", resolution=64, **BOX)
    assert loud.n_attractors < 2


def test_results_are_reproducible(bistable):
    state = np.random.get_state()
    again = lm.analyze_trajectories(bistable_runs(), **BOX)
    assert np.array_equal(again.labels, bistable.labels)
    assert again.surrogate == bistable.surrogate
    assert all(
        np.array_equal(a, b) for a, b in zip(state[1:2], np.random.get_state()[1:2], strict=True)
    )


def leslie(u, fertility=18.0):
    """Two age classes, overcompensatory (Ricker) recruitment, in square roots of the numbers."""
    s = (u**2).sum(axis=1)
    return np.sqrt(np.stack([fertility * s * np.exp(-0.1 * s), 0.7 * u[:, 0] ** 2], axis=1))


def leslie_analysis(n):
    rng = np.random.default_rng(0)
    low, up = [0.5, 0.4], [9.0, 7.5]
    runs = runs_of(leslie, rng.uniform(low, up, (n, 2)), 2, 0.01, rng)
    return lm.analyze_trajectories(runs, lower=low, upper=up)


def check_leslie(result):
    assert result.n_attractors == 1
    assert result.surrogate.periods[0] == 3
    # Its cells hold the orbit of period 3 and fall into pieces around its points.
    u = np.array([[2.6, 0.76]])
    for _ in range(3000):
        u = leslie(u)
    orbit = [u]
    for _ in range(2):
        orbit.append(leslie(orbit[-1]))
    assert np.isin(result.grid.cell_of(np.concatenate(orbit)), result.morse_sets[0].cells).all()
    assert leslie(orbit[-1]) == pytest.approx(u, abs=1e-6)
    assert result.surrogate.betti[0] == (3, 0, 0)
    # The fixed point recurs in a Morse set above, without a period.
    fixed = np.sqrt([np.log(18 * 1.7) / 0.17, 0.7 * np.log(18 * 1.7) / 0.17])[None]
    assert leslie(fixed) == pytest.approx(fixed)
    (home,) = [
        i for i, m in enumerate(result.morse_sets) if result.grid.cell_of(fixed)[0] in m.cells
    ]
    assert result.surrogate.periods[home] == 1
    assert nx.has_path(result.graph, home, 0)
    assert result.mu >= 0.95


def test_an_attractor_of_period_3_from_500_pairs():
    check_leslie(leslie_analysis(500))


@pytest.mark.slow
def test_an_attractor_of_period_3_from_2000_pairs():
    check_leslie(leslie_analysis(2000))


def walk(seed=0, n=100):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 1))
    return list(np.stack([x, x + 0.15 * rng.standard_normal((n, 1))], axis=1))


@pytest.mark.parametrize("seed", range(6))
def test_noise_without_dynamics_has_no_attractor(seed):
    result = lm.analyze_trajectories(walk(seed), lower=[-1.0], upper=[1.0])
    assert result.n_attractors == 0
    assert not (result.labels >= 0).any()


def test_shuffled_pairs_would_have_one():
    """The pairing is all that keeps it so: an attractor, its basin the whole box."""
    found = []
    for seed in range(6):
        pairs = pairs_of_runs(walk(seed))
        shuffled = Pairs(
            start=pairs.start,
            end=np.random.default_rng(seed).permutation(pairs.end),
            run=pairs.run,
            step=pairs.step,
            lag=1,
            run_ids=pairs.run_ids,
        )
        wrong = analyze_pairs(shuffled, lm.CubicalGrid([-1.0], [1.0], (128,)))
        found += [share for share in wrong.basin_volumes.values() if share > 0.5]
    assert len(found) >= 4


def test_what_lies_far_from_the_runs_is_undecided():
    rng = np.random.default_rng(0)

    def wavy(x):
        return 0.6 * x - 0.08 * np.sin(10 * x)

    runs = runs_of(wavy, rng.uniform(-0.5, 0.5, (60, 1)), 2, 0.003, rng)
    result = lm.analyze_trajectories(runs, lower=[-3.0], upper=[3.0])
    far = result.grid.cell_of([[-2.5], [2.5]])
    assert result.diverged[far].all()
    assert (result.labels[far] == -1).all()
    assert result.surrogate.unknown == pytest.approx(result.diverged.mean())
    assert result.n_attractors == 1
    assert not result.diverged[result.morse_sets[0].cells].any()


def test_a_run_that_diverged_is_named():
    runs = [r.copy() for r in bistable_runs()]
    runs[3][2:] = np.nan
    result = lm.analyze_trajectories(runs, resolution=32, **BOX)
    assert result.surrogate.cut_runs == ("3",)
    assert result.surrogate.n_runs == 60


def test_a_single_run_tells_of_one_attractor():
    x = np.array([[2.0]])
    states = [x]
    for _ in range(30):
        states.append(0.8 * states[-1])
    result = lm.analyze_trajectories([np.concatenate(states)], lower=[-0.5], upper=[2.0])
    assert result.n_attractors == 1
    assert result.surrogate.n_runs == 1


def test_pairs_that_start_outside_the_box_are_left_out_and_counted():
    runs = bistable_runs()
    inside = lm.analyze_trajectories(runs, lower=[0.5, 0.3], upper=[1.5, 1.7], resolution=32)
    assert inside.surrogate.n + inside.surrogate.n_outside == 360
    assert inside.surrogate.n_outside > 100
    assert ((inside.samples >= [0.5, 0.3]) & (inside.samples <= [1.5, 1.7])).all()
    assert inside.n_attractors == 1


def test_the_box_is_that_of_the_states_by_default():
    runs = bistable_runs()
    result = lm.analyze_trajectories(runs, resolution=16)
    states = np.concatenate(runs)
    reach = np.ptp(states, axis=0)
    assert result.grid.lower == pytest.approx(states.min(axis=0) - 0.05 * reach)
    assert result.grid.upper == pytest.approx(states.max(axis=0) + 0.05 * reach)


def test_lag():
    result = lm.analyze_trajectories(bistable_runs(), lag=2, resolution=64, **BOX)
    assert result.surrogate.lag == 2
    assert (result.n_attractors, result.n_morse_sets) == (2, 3)


def test_three_coordinates():
    rng = np.random.default_rng(0)
    runs = runs_of(lambda x: 0.5 * x, rng.uniform(-1, 1, (40, 3)), 3, 0.002, rng)
    result = lm.analyze_trajectories(runs, resolution=12)
    assert result.n_attractors == 1
    assert result.morse_sets[0].center == pytest.approx([0, 0, 0], abs=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confidence": 1.0}, "confidence must lie strictly between 0 and 1, got 1.0"),
        ({"step_level": 0}, "step_level must lie strictly between 0 and 1"),
        ({"noise": "both"}, "noise must be 'mean' or 'steps', got 'both'"),
        ({"resolution": 2}, "resolution must be an integer of at least 4"),
        ({"resolution": (16, 16, 16)}, "or 2 of them for the 2 axes"),
        ({"upper": None}, "both or neither"),
        ({"lower": [0.0], "upper": [1.0]}, "one number for each of the 2 coordinates .* got 1"),
        ({"trajectories": [np.random.default_rng(0).normal(size=(9, 4))]}, "1, 2 or 3 .* got 4"),
        ({"run_ids": ["a"] * 60}, "an id of its own"),
    ],
)
def test_arguments_out_of_range_are_refused(change, message):
    given = {"trajectories": bistable_runs(), "resolution": 16, **BOX} | change
    with pytest.raises(ValueError, match=message):
        lm.analyze_trajectories(**given)


def test_a_coordinate_that_never_changes_has_no_box():
    runs = [np.stack([np.arange(5.0), np.full(5, 2.0)], axis=1) for _ in range(4)]
    with pytest.raises(ValueError, match="coordinate 1 is 2 in all states"):
        lm.analyze_trajectories(runs)


def test_a_box_without_states_is_refused():
    with pytest.raises(SurrogateError, match=r"at least 8 pairs .* got 0 of 360"):
        lm.analyze_trajectories(bistable_runs(), lower=[10, 10], upper=[11, 11])


def test_a_grid_of_another_dimension_is_refused():
    pairs = pairs_of_runs(walk())
    with pytest.raises(ValueError, match="grid must have 1 axes"):
        analyze_pairs(pairs, lm.CubicalGrid([0, 0], [1, 1], (8, 8)))
    with pytest.raises(ValueError, match="none periodic"):
        analyze_pairs(pairs, lm.CubicalGrid([0], [1], (8,), periodic=(True,)))


def halving_with_one_outlier(n):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (n, 1))
    y = 0.5 * x + 0.002 * rng.standard_normal(x.shape)
    y[7] += 0.5
    return x[7], list(np.stack([x, y], axis=1))


def test_nothing_is_certain_where_the_pairs_refute_the_surrogate():
    _, runs = halving_with_one_outlier(100)
    result = lm.analyze_trajectories(runs, lower=[-1.0], upper=[1.0])
    assert result.surrogate.leaves == 1
    assert result.calibration >= 2
    assert result.mu == 0.0


def test_with_many_pairs_a_refuted_leaf_voids_itself_alone():
    outlier, runs = halving_with_one_outlier(600)
    result = lm.analyze_trajectories(runs, lower=[-1.0], upper=[1.0])
    assert result.diverged[result.grid.cell_of([outlier])].all()
    assert 0 < result.surrogate.void < 0.2
    assert result.surrogate.unknown >= result.surrogate.void
    assert result.calibration < 2
    assert result.n_attractors == 1
    assert result.grid.cell_of([[0.0]])[0] in result.morse_sets[0].cells
    assert result.mu > 0.95
    # Far from the outlier labels are as certain as ever.
    assert (result.labels >= 0).mean() > 0.5
