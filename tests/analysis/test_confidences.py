"""How certain the claim of a tower is: the second portrait, at a higher level."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lightning_morse.analysis.conclusion import final_portrait
from lightning_morse.analysis.confidences import confidences
from lightning_morse.analysis.design import design
from lightning_morse.analysis.phase_portrait import phase_portrait
from lightning_morse.analysis.samples import Samples, hold_out
from lightning_morse.analysis.settings import checked_settings
from lightning_morse.analysis.surrogates import judge
from lightning_morse.analysis.tower import Tower
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.stopwatch import Stopwatch

LOWER, UPPER = np.full(2, -1.0), np.full(2, 1.0)


def bowl(x):
    return (x - 0.1).square().sum(1) + 0.1 * x[:, 0].pow(3)


def two_bowls(x):
    return (2 * x[:, 0].square() - 1).square() + x[:, 1].square() + 0.1 * x[:, 0]


def sampled(loss, points):
    return loss(torch.from_numpy(points)).numpy()


def tower(loss, n=64, band="proved"):
    """A box and one inside it around (0.1, 0.1), both judged."""
    settings = checked_settings(LOWER, UPPER, n, 32, 0.95, 0, band)
    outer = design(LOWER, UPPER, n, 0)
    made = Tower(settings, Samples(outer, sampled(loss, outer)))
    inner = made.open(np.full(2, -0.25), np.full(2, 0.5), 0, 12)
    made.snap(settings.grid)
    box = made.boxes[inner]
    places = design(box.lower, box.upper, 12, 1)
    made.add(inner, places, sampled(loss, places))
    for k, each in enumerate(made.boxes):
        grid = CubicalGrid(each.lower, each.upper, (1, 1))
        judge(made, k, hold_out(loss, each.first, grid, 2, k))
    return made


@pytest.mark.parametrize("loss", [bowl, two_bowls])
def test_a_tower_has_the_level_of_a_portrait_drawn_anew_with_wider_bands(loss):
    made = tower(loss)
    final = final_portrait(made, Stopwatch())
    assert final.portrait.is_exact
    _, each, together = confidences(final.portrait, made)
    # The naive way: everything from the samples again, at the other level.
    made.settings = dataclasses.replace(made.settings, confidence=0.99)
    second = final_portrait(made, Stopwatch()).portrait
    assert second.is_exact
    assert len(second.found.attractors) == len(final.portrait.found.attractors) == len(each)
    assert together == pytest.approx(second.level, abs=1e-12)
    assert together >= 0.99 > final.portrait.level
    assert (each >= together).all()


def test_a_claim_that_wider_bands_do_not_bear_keeps_its_level(monkeypatch):
    made = tower(bowl)
    final = final_portrait(made, Stopwatch())
    levels = []

    def undecided(nested, charts, failure, clock):
        levels.append(1 - sum(1 - one.band.level for one in charts))
        wide = [
            dataclasses.replace(one, candidates=np.ones_like(one.candidates), trusted=False)
            for one in charts
        ]
        return phase_portrait(nested, wide, failure, clock)

    monkeypatch.setattr("lightning_morse.analysis.confidences.phase_portrait", undecided)
    _, each, together = confidences(final.portrait, made)
    assert levels[0] >= 0.99
    assert together == max(0.95, final.portrait.level)
    assert each.min() >= together


def test_simulated_bands_of_two_levels_are_not_compared():
    made = tower(bowl, band="simulated")
    final = final_portrait(made, Stopwatch())
    _, _, together = confidences(final.portrait, made)
    assert together == max(0.95, final.portrait.level)
