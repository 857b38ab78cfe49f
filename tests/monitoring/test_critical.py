"""Critical sharpness: the search on a line, and a run whose curvature is known."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_morse.monitoring.critical import MOST_EVALUATIONS, critical_step
from tests.callback_models import Net, Outside, fit, monitor, stub_analysis


@pytest.mark.parametrize("where", [0.001, 0.02, 0.3, 0.9, 1.1, 5.0, 60.0, 3000.0])
def test_it_is_where_a_parabola_comes_up_again(where):
    asked = []

    def parabola(step):
        asked.append(step)
        return step * (step - where)

    assert critical_step(parabola, 0.0) == pytest.approx(where, rel=0.05)
    assert len(asked) <= MOST_EVALUATIONS


def test_it_is_unknown_where_the_loss_does_not_turn_in_reach():
    assert math.isnan(critical_step(lambda s: s, 0.0))
    assert math.isnan(critical_step(lambda s: -s, 0.0))
    assert math.isnan(critical_step(lambda s: math.nan, 0.0))


def test_a_loss_that_is_not_finite_has_climbed():
    found = critical_step(lambda s: math.nan if s > 3 else -s, 0.0)
    assert found == pytest.approx(3, rel=0.05)


class Bowl(Net):
    """Trains half the curvature times the squares of all weights."""

    curvature, rate = 3.0, 1e-3

    def training_step(self, batch, batch_idx):
        weights = torch.cat([p.flatten() for p in self.parameters()])
        return 0.5 * self.curvature * weights.square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class Uphill(Bowl):
    rate = -1e-3  # set after the optimizer has been made, which refuses it

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-3)
        optimizer.param_groups[0]["lr"] = self.rate
        return optimizer


def test_a_run_in_a_bowl_has_its_curvature(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    watch = monitor(directions="random", dim=1, n_samples="auto")
    fit(tmp_path, watch, module=Bowl(), max_epochs=2)
    for row in watch.history:
        assert not row["morse/failed"]
        assert row["morse/sharpness_critical"] == pytest.approx(Bowl.curvature, rel=0.06)
        assert row["morse/sharpness_limit"] == pytest.approx(2000)


def test_where_steps_climb_it_is_unknown(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    watch = monitor(directions="random", dim=1, n_samples="auto")
    fit(tmp_path, watch, module=Uphill(), max_epochs=1)
    assert watch.history[-1]["morse/sharpness_critical"] == 0


def test_without_memory_nothing_is_evaluated_for_it(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    watch = monitor(directions="random", dim=1, n_samples="auto", max_memory=1)
    fit(tmp_path, watch, module=Bowl(), max_epochs=1)
    assert not watch.history[-1]["morse/failed"]
    assert watch.history[-1]["morse/sharpness_critical"] == 0


@pytest.mark.parametrize(("n_samples", "fits"), [(16, False), (100, True)])
def test_a_number_of_samples_is_a_limit(n_samples, fits, tmp_path, monkeypatch):
    calls = Outside(n=0)

    def loss_fn(module, batch):
        calls.n += 1
        return module.training_step(batch, 0)

    stub_analysis(monkeypatch)
    given = {"directions": "random", "dim": 1, "n_samples": n_samples, "probe_batches": 1}
    watch = monitor(**given, loss_fn=loss_fn)
    fit(tmp_path, watch, module=Bowl(), max_epochs=1)
    assert (watch.history[-1]["morse/sharpness_critical"] > 0) == fits
    assert 0 < calls.n <= n_samples
