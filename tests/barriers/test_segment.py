"""Whether two sets of weights are connected, where the answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_morse.barriers.segment import MOST_EVALUATIONS, Segment

THERE = torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 0.0])  # from, and how far


def segment(tolerance=0.05):
    return Segment(*THERE, tolerance, 0.95)


def counted(loss):
    calls = []

    def at(share):
        calls.append(share)
        return loss(share)

    return at, calls


@pytest.mark.parametrize(
    ("loss", "answer"),
    [
        (lambda t: (2 * t - 1) ** 2, "connected"),  # a valley between them
        (lambda t: 1 + t, "connected"),  # a slope: no excess over the straight line
        (lambda t: ((2 * t - 1) ** 2 - 1) ** 2, "apart"),
        (lambda t: t + math.exp(-(((t - 0.3) / 0.1) ** 2)), "apart"),
        (lambda t: math.inf if 0.4 < t < 0.6 else t, "apart"),  # beyond any loss
    ],
)
def test_clear_cases_take_a_dozen_evaluations(loss, answer):
    at, calls = counted(loss)
    assert segment().relation(at) == answer
    assert len(calls) <= 14


def test_what_a_few_evaluations_cannot_tell_stays_open():
    at, calls = counted(lambda t: 0.04 * math.sin(40 * t) ** 2)
    assert segment().relation(at) == "undecided"
    assert len(calls) == MOST_EVALUATIONS


def test_ends_without_a_loss_say_nothing():
    at, calls = counted(lambda t: math.nan if t == 1 else 0.0)
    assert segment().relation(at) == "undecided"
    assert len(calls) == 2


def test_the_same_weights_need_no_evaluation():
    at, calls = counted(lambda t: 1.0)
    assert Segment(THERE[0], torch.zeros(2), 0.05, 0.95).relation(at) == "connected"
    assert calls == []
