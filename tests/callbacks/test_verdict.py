"""What becomes of the weights is said wherever an analysis is told."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from lightning_morse import MorseMonitor
from lightning_morse.callbacks._account import Account
from lightning_morse.callbacks._figures import summary_of
from lightning_morse.callbacks.loggers import Report, log_report
from lightning_morse.distributed.errors import Guard
from lightning_morse.monitoring.findings import Findings, View
from lightning_morse.monitoring.one_analysis import OneAnalysis
from lightning_morse.view.record import decode
from tests.callback_models import Net, fit, seed_all, stub_analysis
from tests.plotting.test_basins_and_morse_graph import nothing, plane


class _Runner:
    loggers: tuple[object, ...] = ()


class _Board:
    """As much of a TensorBoardLogger as takes figures."""

    def __init__(self) -> None:
        self.experiment, self.texts = self, []

    def add_image(self, *args, **options) -> None: ...

    def flush(self) -> None: ...

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.texts.append((tag, text, step))


def test_one_line_has_a_bound_only_for_a_claim():
    said = summary_of(plane(16), "In the basin of attractor 0.", 1.25)
    assert said == "In the basin of attractor 0. (at least 3 attractors, mu 0.9996; 1.2 s)"
    none = summary_of(nothing(), "Undecided.", 1.0)
    assert none.startswith("Undecided. ")
    assert ("mu" in none) == (nothing().mu > 0)


def test_it_stands_above_the_table(tmp_path):
    result, board, failures = plane(16), _Board(), []
    view = View(np.zeros((2, 2)), np.zeros(2), ["a", "b"], "epoch 1", {0: 0, 1: 1, 2: 2}, "leaving")
    runner = _Runner()
    runner.loggers = (board,)
    report = Report(result, view, {}, 7, 1)
    taken = log_report(runner, report, lambda what: Guard(failures.append), tmp_path)
    assert taken.loggers == (board,)
    assert board.texts == [("morse/sets", f"leaving\n\n{result.table()}", 7)]
    assert not failures


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (lambda w: w.square().sum(), "Certainly in the basin of attractor 0: "),
        (lambda w: w.sum(), "Still descending: leaves through random direction "),
    ],
)
@pytest.mark.usefixtures("no_pictures")
def test_a_run_says_what_becomes_of_its_weights(loss, kind, tmp_path):
    def loss_fn(module, batch):
        return loss(torch.cat([p.flatten() for p in module.parameters()]))

    watch = MorseMonitor(
        "random", 1, n_samples=24, resolution=32, loss_fn=loss_fn, max_overhead=1.0
    )
    assert watch.sentence == ""
    fit(tmp_path, watch, max_epochs=1)
    (row,) = watch.history
    assert not row["morse/failed"]
    said = watch.sentence
    assert said.startswith(kind)
    now = float(watch.result.sample_losses[watch.result.samples[:, 0] == 0][0])
    floor = watch.result.morse_sets[0].loss if watch.result.n_attractors else 0.0
    assert (f"now {now:.3g}" in said) or (f"{now - floor:.3g} above its floor" in said)
    (record,) = tmp_path.rglob("step-*.view.json")
    assert decode(record.read_text()).facts["verdict"] == said
    (facts,) = (p for p in tmp_path.rglob("step-*.json") if ".view" not in p.name)
    assert json.loads(facts.read_text())["verdict"] == said
    assert said in watch.figures()["basins"].get_suptitle().replace("\n", " ")
    leaves = row["morse/basin_current"] == -2
    assert leaves == kind.startswith("Still")
    assert (row["morse/exit_face"] >= 0) == leaves
    if leaves:
        way = watch.result.way_out
        assert row["morse/exit_face"] == way.face[1]
        assert row["morse/headroom"] == 0
        assert way.loss < now


class Resting(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_it_says_since_when(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    watch = MorseMonitor(
        "random", 1, n_samples=16, resolution=8, every_n_epochs=1, extent=0.5, max_overhead=1.0
    )
    fit(tmp_path, watch, module=Resting(), max_epochs=3)
    first = watch.history[0]["step"]
    kept = {row["morse/identity_current"] for row in watch.history}
    assert len(kept) == 1  # one basin all the time
    assert [row["morse/settled"] for row in watch.history] == [first] * 3
    assert f"attractor 0, as in all decided analyses since step {first}" in watch.sentence


class Heavy(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)


def test_a_run_with_sgd_has_a_limit_of_stability(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    watch = MorseMonitor("random", 1, n_samples=16, resolution=8, extent=0.5, max_overhead=1.0)
    fit(tmp_path, watch, module=Heavy(), max_epochs=1)
    assert watch.history[-1]["morse/sharpness_limit"] == pytest.approx(30)


def test_since_when_breaks_off_and_passes_over_what_says_nothing():
    rows = [(0, 5, 0), (10, 5, 0), (20, 7, 0), (30, 5, 0), (40, -1, 1), (50, 5, 0)]
    account = Account.__new__(Account)
    account._name = "m"
    account.history = [
        {"step": step, "m/identity_current": float(identity), "m/failed": float(failed)}
        for step, identity, failed in rows
    ]
    assert account.since(5.0) == 30
    assert account.since(7.0) is None
    account.history.append({"step": 60, "m/identity_current": -1.0, "m/failed": 0.0})
    assert account.since(5.0) == 30
    account.history.append({"step": 70, "m/identity_current": -2.0, "m/failed": 0.0})
    assert account.since(5.0) is None
    assert account.since(-1.0) is None


@pytest.mark.parametrize(
    ("asked", "limited", "made", "told"),
    [
        (None, True, 64, True),
        (None, True, 320, False),
        (None, False, 64, False),
        (100, True, 60, True),
        (100, True, 97, False),
    ],
)
def test_it_says_if_there_was_no_time_for_more_samples(asked, limited, made, told):
    one = SimpleNamespace(
        settings=SimpleNamespace(most_wanted=asked or 320),
        meter=SimpleNamespace(is_limited=limited),
    )
    result = SimpleNamespace(samples=np.zeros((made, 2)))
    assert OneAnalysis._time_was_up(one, result) is told


def test_settled_is_the_step_since_which_the_basin_has_been_the_same():
    account = Account.__new__(Account)
    account._name, account.history, account._scalars = "m", [], {}
    settled = []
    for step, identity in ((10, 0), (20, 0), (30, 2), (40, 2), (50, -1), (60, 2)):
        account.take_over(Findings({"identity_current": float(identity)}, {}), step)
        settled.append(account._scalars["settled"])
        account.history.append({"step": step, "m/identity_current": float(identity), "m/failed": 0})
    assert settled == [10, 10, 30, 30, -1, 30]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("rate", "is_said"), [(10.0, True), (5.0, False)])
def test_a_run_says_where_next_to_nothing_is_left_of_what_its_loss_was(rate, is_said, tmp_path):
    """A loss that falls with the distance from where training began, to exp(-rate) of it."""
    seed_all()
    began = parameters_to_vector(Net().parameters()).detach()
    ended = parameters_to_vector(fit(tmp_path, max_epochs=2)[0].parameters()).detach()
    length = float((ended - began).norm())

    def loss_fn(module, batch):
        far = (parameters_to_vector(module.parameters()) - began).norm()
        return torch.exp(-rate * far / length)

    # Where a number of samples is used up, no evaluation is left for it.
    options = {"resolution": 32, "loss_fn": loss_fn, "max_overhead": 1.0}
    watch = MorseMonitor("pca", 1, every_n_epochs=2, **options)
    fit(tmp_path, watch, max_epochs=2)
    assert not watch.history[-1]["morse/failed"]
    assert watch.history[-1]["morse/basin_current"] < 0
    assert ("next to nothing is left to gain: it is " in watch.sentence) == is_said
