"""Barriers between sets of weights: known answers, bounds, and what is refused."""

import math

import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse.mode_connectivity.point_loss import LossAtWeights
from lightning_morse.slices.parameters import flat_parameters
from tests.mode_connectivity.networks import (
    MINIMA,
    NO_DATA,
    TwoWeights,
    all_pairs,
    batches,
    cross_entropy,
    himmelblau,
    mlp,
    permuted,
    trained,
)


def found_by(net, weights, **options):
    return lm.connectivity(net, batches(), weights, loss_fn=cross_entropy, **options)


def barrier_on_dense_line(loss, a, b, n=1001):
    shares = torch.linspace(0, 1, n, dtype=torch.float64).tolist()
    losses = np.array([loss(torch.lerp(a, b, s)) for s in shares])
    chord = np.linspace(losses[0], losses[-1], n)
    return max(0.0, float((losses - chord).max()))


def flat(net, state):
    net.load_state_dict(state)
    return flat_parameters(net)


@pytest.fixture(scope="module")
def three_minima():
    return lm.connectivity(TwoWeights(), NO_DATA, list(MINIMA), loss_fn=himmelblau, precision=1e-3)


def test_minima_of_himmelblau(three_minima):
    for i, j in three_minima.pairs:
        share = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
        x, y = ((1 - share) * MINIMA[i] + share * MINIMA[j]).T
        losses = ((x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2).numpy()
        true = (losses - np.linspace(losses[0], losses[-1], 4001)).max()
        assert abs(three_minima.barriers[i, j] - true) < 1e-3
        assert three_minima.lower[i, j] <= true + 1e-3
        assert true <= three_minima.upper[i, j]
        assert three_minima.verdict(i, j) == "not connected"
    assert sorted(three_minima.groups) == [(0,), (1,), (2,)]
    assert all(len(p.shares) <= 32 for p in three_minima.profiles)


def test_one_minimum_twice():
    found = lm.connectivity(TwoWeights(), NO_DATA, [MINIMA[0], MINIMA[0]], loss_fn=himmelblau)
    assert found.barriers.tolist() == found.upper.tolist() == [[0, 0], [0, 0]]
    assert found.verdict(0, 1) == "connected"
    assert found.groups == ((0, 1),)
    assert "weights[0] and weights[1] are identical" in found.notes
    assert found.n_evaluations == 2  # one to see whether it is a function


def test_permuted_copies_are_not_connected_though_their_losses_are_equal():
    net = mlp(0)
    (state,) = trained(net)
    found = found_by(net, [state, permuted(state, torch.arange(12).flip(0))])
    assert found.losses[0] == pytest.approx(found.losses[1], rel=1e-5)
    assert found.lower[0, 1] > found.tolerance
    assert found.verdict(0, 1) == "not connected"
    assert found.profiles[0].shares.size <= 12


def test_the_last_ten_checkpoints_of_a_run_are_connected():
    net = mlp(0)
    states = trained(net, 300, every=15, lr=0.1)[-10:]
    found = found_by(net, states, tolerance=0.01)
    assert found.connected.all()
    assert found.groups == (tuple(range(10)),)
    assert max(len(p.shares) for p in found.profiles) <= 12


def test_three_independent_runs_are_not():
    states = [trained(mlp(seed), seed=seed)[0] for seed in range(3)]
    found = found_by(mlp(0), states)
    assert sorted(found.groups) == [(0,), (1,), (2,)]
    assert all(found.apart[p] for p in found.pairs)


@pytest.mark.parametrize("normalised", [False, True])
def test_bounds_hold_on_dense_lines(normalised):
    states = [s for seed in range(2) for s in trained(mlp(seed, normalised=normalised), 90, 30)]
    net = mlp(0, normalised=normalised)
    loss = LossAtWeights(net, batches(), cross_entropy)
    found = found_by(net, states[1::2], precision=0.02)
    flats = [flat(net, state) for state in states[1::2]]
    for i, j in found.pairs:
        true = barrier_on_dense_line(loss, flats[i], flats[j], 201)
        assert found.lower[i, j] - 1e-3 <= true <= found.upper[i, j] + 1e-6


def test_statistics_are_recomputed_at_each_point():
    """As update_bn does, so stale ones in the checkpoints make no difference."""
    net = mlp(0, normalised=True)
    (state,) = trained(net)
    stale = {k: v + 7 if "running_mean" in k else v for k, v in state.items()}
    loss = LossAtWeights(net, batches(), cross_entropy)
    theta = flat(net, state)
    statistics = loss.statistics(theta)
    torch.optim.swa_utils.update_bn(batches(), net)
    for name, value in statistics.items():
        assert torch.allclose(value.double(), net.state_dict()[name].double(), rtol=1e-5), name
    net.eval()
    expected = np.mean([cross_entropy(net, batch).item() for batch in batches()])
    net.train()
    assert loss(theta) == pytest.approx(expected, rel=1e-5)
    found = found_by(net, [state, stale])
    assert found.barriers[0, 1] == 0
    assert any("recomputed on the batches" in note for note in found.notes)


def test_frozen_normalisation_keeps_its_statistics():
    net = mlp(0, normalised=True)
    net[1].eval()
    assert LossAtWeights(net, batches(), cross_entropy).layers == []
    net.eval()
    assert LossAtWeights(net, batches(), cross_entropy).layers == ["1"]


def test_the_module_is_only_read():
    net = mlp(0, normalised=True)
    states = trained(net, 60, 20)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    found_by(net, states[:2])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training


def test_frozen_parts_are_those_of_the_sets():
    """The module at hand need not have the backbone of the checkpoints."""
    net = mlp(0)
    states = trained(net, 60, 20)
    loss = LossAtWeights(net, batches(), cross_entropy)
    expected = loss(flat(net, states[0]))
    frozen = {k: v for k, v in states[0].items() if k.startswith("0")}
    other = mlp(5)
    other[0].requires_grad_(False)
    found = found_by(other, [{**states[0]}, {**states[1], **frozen}])
    assert found.losses[0] == pytest.approx(expected, rel=1e-6)


def test_groups_need_every_pair():
    """0-1 and 1-2 are connected, 0-2 is not: there is no group of three."""
    upper = np.array([[0.0, 0.1, 5.0], [0.1, 0.0, 0.2], [5.0, 0.2, 0.0]])
    found = record(upper, losses=[3.0, 2.0, 1.0])
    assert found.groups == ((1, 2), (0,))


def record(upper, losses):
    k = len(losses)
    pairs = all_pairs(k)
    profile = lm.mode_connectivity.record.Profile(
        np.array([0.0, 1.0]), np.zeros(2), np.full((3, 5), np.nan)
    )
    return lm.Connectivity(
        names=tuple(map(str, range(k))),
        losses=np.array(losses),
        lower=upper,
        barriers=upper,
        upper=upper,
        tolerance=1.0,
        confidence=0.95,
        profiles=(profile,) * len(pairs),
        n_evaluations=0,
    )


def test_a_loss_that_diverges_on_the_line_is_a_barrier():
    def loss(net, batch):
        return -torch.log((net.w[0] - 1.5) ** 2 - 0.04)

    found = lm.connectivity(
        TwoWeights(), NO_DATA, [MINIMA[0] * 0, MINIMA[0]], loss_fn=loss, tolerance=0.1
    )
    assert found.lower[0, 1] == math.inf
    assert found.verdict(0, 1) == "not connected"
    found.figure()


def test_a_constant_line_is_undecided_with_a_reason():
    def loss(net, batch):
        return net.w[0] * 0 + 1

    found = lm.connectivity(TwoWeights(), NO_DATA, list(MINIMA[:2]), loss_fn=loss)
    assert found.verdict(0, 1) == "undecided"
    assert "the loss is the same at every sample" in found.table()


def test_table_summary_figure_and_file(three_minima, tmp_path):
    assert three_minima.table("text").splitlines()[0].split()[:3] == ["a", "b", "barrier"]
    with pytest.raises(ValueError, match="form must be one of text, markdown, got 'html'"):
        three_minima.table("html")
    table = three_minima.table().splitlines()
    assert len(table) == 2 + 3
    assert table[2].split(" | ")[-2] == "not connected"
    assert "no two sets are certainly connected" in three_minima.summary()
    titles = [axes.get_title() for axes in all_axes(three_minima.figure())]
    assert "0 → 1\nnot connected" in titles
    three_minima.save(tmp_path / "a.npz")
    again = lm.Connectivity.load(tmp_path / "a.npz")
    assert again.table() == three_minima.table()
    assert again.notes == three_minima.notes
    assert np.array_equal(again.profiles[1].band, three_minima.profiles[1].band)
    with pytest.raises(ValueError, match="read from a file, without the network"):
        again.plane()


def all_axes(figure):
    return [axes for part in figure.subfigs for axes in part.axes]


def test_what_is_no_record_is_refused(tmp_path):
    lm.Run("a", np.arange(2), np.zeros((2, 1)), np.zeros(2)).save(tmp_path / "a.npz")
    with pytest.raises(lm.DamagedFile, match="does not hold a record of barriers"):
        lm.Connectivity.load(tmp_path / "a.npz")


@pytest.mark.slow
def test_the_plane_tells_basins(three_minima):
    plane = three_minima.plane(0, 1, 2, n_samples=160)
    assert plane.in_one_basin(0, 1) is False
    assert len(set(plane.basins)) == 3
    assert np.allclose(plane.subspace.point(plane.corners[1]), MINIMA[1])
    plane.figure()


@pytest.mark.parametrize("sets", [(0, 1, 1), (0, 1, 3), (-1, 0, 1)])
def test_planes_need_three_sets(three_minima, sets):
    with pytest.raises(ValueError, match="three different numbers below 3"):
        three_minima.plane(*sets)
