"""Losses that are reported are measured, and where not, no lower than the samples support."""

import dataclasses

import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse.analysis.description import CriticalPoints
from lightning_morse.analysis.measurement import supported
from lightning_morse.analysis.pipeline import analyze_samples
from tests import landscapes as land


class Counted:
    """A loss that notes where it is evaluated."""

    def __init__(self, loss):
        self.loss, self.points = loss, []

    def __call__(self, x):
        self.points.extend(x.numpy().copy())
        return self.loss(x)


def at(loss, m):
    return loss(torch.tensor(m.center[None])).item()


@pytest.fixture(scope="module")
def himmelblau():
    loss = Counted(land.himmelblau)
    return loss, lm.analyze(loss, [-5, -5], [5, 5], n_samples=96, resolution=32)


def test_reported_losses_are_those_at_the_centres(himmelblau):
    _, result = himmelblau
    assert result.n_attractors >= 3
    for m in result.morse_sets:
        if m.measured:
            assert m.loss == at(land.himmelblau, m)
        else:
            assert m.loss_deviation > 0
    # Attractors come first, as far as evaluations are left.
    first = [result.morse_sets[a].measured for a in result.attractors]
    assert any(first)
    assert all(first) or not any(m.measured for m in result.morse_sets[result.n_attractors :])
    losses = [m.loss for m in result.morse_sets]
    n = result.n_attractors
    assert losses[:n] == sorted(losses[:n])
    assert losses[n:] == sorted(losses[n:])


def test_they_are_evaluations_like_others(himmelblau):
    loss, result = himmelblau
    assert len(loss.points) == len(result.samples) <= 96
    assert (result.samples == np.array(loss.points)).all()
    assert result.n_measured == sum(m.measured for m in result.morse_sets)
    assert result.surrogate.n == len(result.samples) - result.n_measured
    centers = [m.center for m in result.morse_sets if m.measured]
    last = result.samples[len(result.samples) - result.n_measured :]
    assert {tuple(x) for x in last} == {tuple(x) for x in centers}
    assert (result.samples[0] == 0).all()  # the centre


def test_the_table_gives_the_deviation_of_what_was_not_measured():
    plane = lm.analyze(land.plane, [-1], [1], n_samples=16, resolution=16)
    assert "mu" not in plane.table()  # there is nothing it could belong to
    given = np.linspace(-2, 2, 33)[:, None]
    losses = land.double_well(torch.tensor(given)).numpy()
    result = analyze_samples(given, losses, [-2.0], [2.0], resolution=32)
    assert result.n_attractors == 2
    assert not any(m.measured for m in result.morse_sets)
    assert result.n_measured == 0
    rows = result.table().splitlines()
    assert all(" ± " in row for row in rows[2:])
    assert " mu " in rows[0]
    assert "±" not in lm.analyze(land.bowl, [-1], [1], n_samples=32, resolution=16).table()


def ditch(x):
    """Like a cross-entropy of classes that are separated: steep, and next to 0 on its floor."""
    x = x[:, 0]
    return (25 * (x - 0.31).square() - 1).relu() + 0.001 * x.square()


@pytest.mark.parametrize("n", [16, 24])
@pytest.mark.parametrize("evaluated", [True, False])
def test_a_loss_that_is_never_below_zero_is_not_reported_to_be(n, evaluated):
    result = lm.analyze(ditch, [-1], [1], n_samples=n, resolution=32)
    if not evaluated:
        result = analyze_samples(result.samples, result.sample_losses, [-1], [1], resolution=32)
    assert result.mean_loss.min() < 0  # what the surrogate says of the floor
    assert result.n_attractors == 1
    assert result.morse_sets[0].measured == (evaluated and n == 24)
    assert all(m.loss >= 0 for m in result.morse_sets)


def test_a_loss_that_is_not_finite_at_a_centre_leaves_the_estimate():
    def loss(x):
        value = (x - 0.3).square().sum(1)
        return torch.where(value < 1e-8, torch.nan, value)

    result = lm.analyze(loss, [-1], [1], n_samples=32, resolution=32)
    (a,) = result.attractors
    assert np.isnan(result.sample_losses[-result.n_measured :]).all()
    assert result.n_measured == 1
    assert not result.diverged.any()  # the surrogate has not seen it
    m = result.morse_sets[a]
    assert not m.measured
    assert m.loss_deviation > 0
    assert 0 <= m.loss < 1e-3


def test_what_was_not_measured_is_no_lower_than_the_samples_support():
    located = CriticalPoints(
        np.zeros((5, 1)),
        np.array([-0.2, 1e-5, -0.2, -0.3, 0.7]),
        np.array([0.5, 1e-4, 0.5, 0.0, 0.1]),
    )
    found = supported(located, np.array([True, True, False, True, False]), 0.1)
    # Unsure: as low as was seen. Sure: almost as low as it says. A saddle: as low as was seen.
    # Measured: that. Higher than what was seen: no reason to doubt it.
    assert found.losses.tolist() == pytest.approx([0.1, 2.1e-4, 0.1, -0.3, 0.7])


def test_a_pass_that_is_not_resolved_is_as_high_as_the_least_mean_in_it(himmelblau):
    """Wherever in it the saddle may be."""
    _, result = himmelblau
    resolved = result.barrier(0)
    open_sets = tuple(
        m if m.is_attractor else dataclasses.replace(m, resolved=False) for m in result.morse_sets
    )
    changed = dataclasses.replace(result, morse_sets=open_sets)
    lowest, own = changed.lowest_pass(0), result.morse_sets[0]
    corners = []
    for box in changed.boxes:
        for cell in np.argwhere((box.sets == lowest).reshape(box.grid.shape)):
            i, j = cell
            corners.append(box.mean_loss[i : i + 2, j : j + 2].min())
    assert changed.barrier(0) == pytest.approx(min(corners) - own.loss, abs=1e-9)
    assert 0 < changed.barrier(0) < resolved


def test_no_barrier_is_below_zero(himmelblau):
    _, result = himmelblau
    passes = range(result.n_attractors, result.n_morse_sets)
    assert all(result.barrier(a) > 0 for a in result.attractors)
    lower = tuple(
        dataclasses.replace(m, loss=-1.0) if i in passes else m
        for i, m in enumerate(result.morse_sets)
    )
    changed = dataclasses.replace(result, morse_sets=lower)
    assert {changed.barrier(a) for a in result.attractors} == {0.0}
