"""The size of the box, given, from the trajectory, and grown."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_morse.analysis.design import design
from lightning_morse.monitoring.extent import MOST_DOUBLINGS, given_extent, half_widths, sample_box
from lightning_morse.monitoring.pilot import held_by
from tests.landscapes import himmelblau


def test_half_widths():
    assert half_widths([[1.0, -2.0], [0.5, 1.0]]).tolist() == [1.5, 3.0]
    assert half_widths([[1.0, -2.0], [0.5, 1.0]], margin=3).tolist() == [3.0, 6.0]
    assert half_widths([[0.1, -2.0]]).tolist() == [0.75, 3.0]
    assert half_widths([[0.0, 0.0]], [4.0, 5.0]).tolist() == [4.0, 5.0]
    assert half_widths([[2.0, 0.0]], [4.0, 5.0]).tolist() == [3.0, 0.75]
    assert half_widths([[2.0, 0.0]], [1.0, 5.0], at_least=True).tolist() == [3.0, 5.0]
    with pytest.raises(ValueError, match="set extent"):
        half_widths([[0.0, 0.0]])


def test_extents_that_users_give():
    auto = given_extent("auto", 2)
    assert (auto.half, auto.grows) == (None, True)
    share = given_extent(" 62.5 % ", 2)
    assert (share.half, share.margin, share.grows) == (None, 0.625, False)
    given = given_extent([1, 2], 2)
    assert given.half is not None
    assert (given.half.tolist(), given.grows) == ([1.0, 2.0], False)


@pytest.mark.parametrize("wrong", ["all", "0%", "-5%", "1e3%", "%", 0, -1, math.inf, [1, 2, 3]])
def test_other_extents_are_refused(wrong):
    with pytest.raises(ValueError, match="extent must be 'auto', a share of the trajectory such"):
        given_extent(wrong, 2)


HERE = np.zeros(2)


def bowl_at(x0, calls=None):
    def loss(x):
        if calls is not None:
            calls.append(len(x))
        return (x[:, 0] - x0).square() + 0.01 * x[:, 1].square()

    return loss


def test_a_box_grows_to_hold_the_attractor():
    one, calls = np.ones(2), []
    half, samples, losses = sample_box(bowl_at(0.3, calls), one, 64, 0, HERE)
    assert half.tolist() == [1.0, 1.0]
    assert sum(calls) == 64  # the pilot is part of the design
    assert samples.shape == (64, 2)
    assert losses == pytest.approx((samples[:, 0] - 0.3) ** 2 + 0.01 * samples[:, 1] ** 2)
    calls.clear()
    half, samples, losses = sample_box(bowl_at(1.5, calls), one, 64, 0, HERE)
    assert half.tolist() == [2.0, 2.0]
    # Samples of the smaller box are kept, except the centre, which both designs share.
    assert sum(calls) == 64 + 33
    assert len(samples) == len(np.unique(samples, axis=0)) == len(losses) == 64 + 32
    assert (np.abs(samples[64:]) <= 1).all()
    assert losses == pytest.approx((samples[:, 0] - 1.5) ** 2 + 0.01 * samples[:, 1] ** 2)
    assert (samples[0] == 0).all()
    most = 2.0**MOST_DOUBLINGS
    assert sample_box(bowl_at(100.0), one, 64, 0, HERE)[0].tolist() == [most, most]
    assert sample_box(bowl_at(100.0), one, 64, 0)[0].tolist() == [1.0, 1.0]
    half, _, losses = sample_box(lambda x: x[:, 0] * math.nan, one, 64, 0, HERE)
    assert half.tolist() == [1.0, 1.0]
    assert np.isnan(losses).all()


def closed(loss, half, n=128, start=None):
    half = np.asarray(half, dtype=np.float64)
    samples = design(-half, half, n, 0)
    losses = loss(torch.from_numpy(samples)).numpy()
    return all(held_by(samples, losses, half, np.zeros(len(half)) if start is None else start))


def double_well(shift):
    """Minima at 0 and 2 * shift on the first axis, the saddle at shift."""

    def loss(x):
        across = x[:, 1:].square().sum(dim=1)
        return ((x[:, 0] - shift) / shift).square().sub(1).square() + across

    return loss


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_saddle_has_to_be_inside(d):
    """As long as the other well is not visible there is nothing to grow for."""
    assert closed(double_well(1.0), [0.7] * d)
    assert closed(double_well(1.0), [3.0] * d)
    assert not closed(lambda x: -double_well(1.0)(x), [3.0] * d)


def test_a_pass_on_a_face_is_outside():
    """Valleys side by side, joined over a ridge that is lowest where the second axis is 0 or 3."""

    def valleys(x, at):
        ridge = 1 + 0.5 * (x[:, 1] - at).square()
        return (np.pi * x[:, 0]).sin().square() * ridge + 0.3 * x[:, 1].square()

    half = [0.9, 1.2]
    assert closed(lambda x: valleys(x, 0.0), half)
    assert not closed(lambda x: valleys(x, 3.0), half)
    # One doubling for a saddle, whether that shows it or not.
    for at, expected in ((0.0, half), (3.0, [1.8, 2.4]), (9.0, [1.8, 2.4])):
        grown = sample_box(lambda x, a=at: valleys(x, a), np.array(half), 256, 0, HERE)[0]
        assert grown.tolist() == expected


def test_himmelblau_from_each_minimum():
    minima = torch.tensor(
        [[3.0, 2.0], [-2.805118, 3.131312], [-3.779310, -3.283186], [3.584428, -1.848126]]
    ).double()
    for minimum in minima:
        half = sample_box(lambda x, m=minimum: himmelblau(x + m), np.full(2, 0.5), 64, 0, HERE)[0]
        assert (half == 0.5).all()  # a bowl
        half = sample_box(lambda x, m=minimum: himmelblau(x + m), np.full(2, 5.0), 128, 0, HERE)[0]
        assert (half <= 20).all()
    # From a local maximum nothing ends inside until the box holds minima.
    top = torch.tensor([-0.270845, -0.923039]).double()
    half = sample_box(lambda x: himmelblau(x + top), np.full(2, 1.0), 64, 0, HERE)[0]
    assert (half >= 4).all()


def test_diverged_losses_are_walls():
    def loss(x):
        return torch.where(x[:, 0] > 0.4, torch.nan, bowl_at(0.0)(x))

    assert closed(loss, [1.0, 1.0])
    assert closed(lambda x: x[:, 0] * torch.nan, [1.0, 1.0])  # shows nothing


def test_a_start_outside_of_the_box():
    assert not closed(lambda x: -x[:, 0], [1.0, 1.0], start=np.array([5.0, 0.0]))
    assert closed(bowl_at(0.0), [1.0, 1.0], start=np.array([5.0, 0.0]))
