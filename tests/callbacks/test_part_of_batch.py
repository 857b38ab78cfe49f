"""Runs in which the loss is too dear for an analysis on all of a probe batch."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import partial

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from lightning_morse import MorseMonitor
from lightning_morse.callbacks import _schedule
from lightning_morse.callbacks._schedule import Schedule
from lightning_morse.monitoring.batch_parts import Part, part_of
from lightning_morse.monitoring.budget import Budget
from lightning_morse.monitoring.probed_loss import ProbedLoss
from lightning_morse.view.record import decode
from tests.callback_models import Net, loader, seed_all, trainer

pytestmark = pytest.mark.usefixtures("no_pictures")

BATCH = 64
SECONDS = 0.02  # that an example is said to take


class Plain(Net):
    """Without dropout and batch normalisation: the loss is a mean over examples."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss_on(self, batch) -> float:
        with torch.no_grad():
            return float((self.net(batch[0]) - batch[1]).square().mean())


@pytest.fixture(autouse=True)
def dear(monkeypatch):
    """The loss takes seconds, or so the clock says by which it is timed.

    All else takes a millisecond, so that nothing depends on how slow this machine is.
    """
    ticks = iter(range(10**9))
    monkeypatch.setattr(_schedule, "Budget", partial(Budget, clock=lambda: 1e-3 * next(ticks)))
    timed = ProbedLoss._timed_here

    def slow(self, clock):
        found = timed(self, clock)
        return replace(found, seconds=SECONDS * (found.n_examples or BATCH))

    monkeypatch.setattr(ProbedLoss, "_timed_here", slow)


def watch(**options) -> MorseMonitor:
    return MorseMonitor(**{"resolution": 24, "grace": 9.0, "dim": 1, **options})


def fit(root, *callbacks, module=None, batch=BATCH, **options):
    seed_all()
    module = module or Plain()
    ckpt_path = options.pop("ckpt_path", None)
    runner = trainer(root, *callbacks, **options)
    runner.fit(module, loader(2 * BATCH, shuffle=False, batch_size=batch), ckpt_path=ckpt_path)
    return module


def part(monitor) -> Part | None:
    return monitor._schedule._pace.portions.part


@pytest.mark.slow
def test_the_loss_is_the_mean_over_the_chosen_examples(tmp_path, caplog):
    monitor = watch(seed=3)
    with caplog.at_level(logging.INFO, "lightning_morse"):
        module = fit(tmp_path, monitor)
    assert part(monitor) == Part(8, BATCH)
    (row,) = monitor.history
    assert not row["morse/failed"]
    examples = [part_of(batch, 8, seed=3) for batch in monitor._run.probe]
    losses = [module.loss_on(batch) for batch in examples]
    assert min(abs(row["loss"] - loss) for loss in losses) < 1e-6
    whole = [module.loss_on(batch) for batch in monitor._run.probe]
    assert min(abs(row["loss"] - loss) for loss in whole) > 1e-4
    said = "8 of the 64 examples of one probe batch"
    assert f"{said}, " in caplog.text or f"{said}:" in caplog.text
    assert monitor.sentence.endswith(f"The loss is that of {said}.")


@pytest.mark.slow
def test_records_say_so(tmp_path):
    monitor = watch()
    fit(tmp_path, monitor)
    said = "8 of the 64 examples of one probe batch"
    (view,) = tmp_path.rglob("*.view.json")
    assert decode(view.read_text()).facts["loss_of"] == said
    (row,) = set(tmp_path.rglob("*.json")) - {view}
    assert json.loads(row.read_text())["loss_of"] == said


def test_records_of_whole_batches_say_nothing(tmp_path):
    monitor = watch(max_overhead=1.0, n_samples=24)
    fit(tmp_path, monitor, max_epochs=1)
    for file in tmp_path.rglob("*.json"):
        assert "loss_of" not in file.read_text()


@pytest.mark.slow
def test_the_run_is_the_same_with_and_without(tmp_path):
    monitor = watch()
    with_it, bare = fit(tmp_path / "a", monitor), fit(tmp_path / "b")
    assert part(monitor) is not None
    assert with_it.seen == bare.seen
    for a, b in zip(with_it.parameters(), bare.parameters(), strict=True):
        assert a.equal(b)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"n_samples": 64, "probe_batches": 1}, {"max_overhead": 1.0, "n_samples": 24}],
    ids=["so many samples", "no limit"],
)
def test_what_was_asked_for_is_not_cut(options, tmp_path):
    monitor = watch(**options)
    fit(tmp_path, monitor)
    assert part(monitor) is None
    assert "probe batch" not in monitor.sentence


def test_a_batch_that_cannot_be_cut_stays_whole(tmp_path):
    class Strings(Plain):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return [*batch, ["a"] * len(batch[0])]

        def training_step(self, batch, batch_idx):
            return super().training_step(batch[:2], batch_idx)

    monitor = watch()
    fit(tmp_path, monitor, module=Strings())
    assert part(monitor) is None
    assert monitor.history == []


@pytest.mark.slow
def test_batch_norm_leaves_more_examples(tmp_path):
    monitor = watch(grace=40.0)
    fit(tmp_path, monitor, module=Net())
    assert part(monitor) == Part(32, BATCH)
    assert len(monitor.history) == 1


class Refuses(Plain):
    """A loss that does not work on few examples, at first or later."""

    fails = True
    value: float | None = None

    def training_step(self, batch, batch_idx):
        if len(batch[0]) < BATCH and type(self).fails:
            if self.value is None:
                raise ValueError("too few examples")
            return (self.net(batch[0]) - batch[1]).square().mean() * self.value
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_where_the_loss_does_not_work_on_part_of_a_batch_it_stays_whole(value, on_error, tmp_path):
    class Here(Refuses):
        pass

    Here.value = value
    monitor = watch(on_error=on_error)
    fit(tmp_path, monitor, module=Here())
    assert part(monitor) is None
    assert monitor.history == []


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_part_on_which_the_loss_stops_working_is_given_up(value, tmp_path, caplog, monkeypatch):
    class Later(Refuses):
        fails = False

    Later.value = value
    meter = Schedule.meter

    def begins(self, decision):
        assert decision.portion.part == Part(8, BATCH)
        Later.fails = True
        return meter(self, decision)

    monkeypatch.setattr(Schedule, "meter", begins)
    monitor = watch(on_error="raise")
    with caplog.at_level(logging.INFO, "lightning_morse"):
        fit(tmp_path, monitor, module=Later())
    assert "the loss cannot be evaluated on part of a probe batch" in caplog.text
    assert part(monitor) is None
    assert monitor.history == []
    whys = [row["why"] for row in monitor.left_out]
    assert any("cannot be evaluated on part" in why for why in whys)


def test_where_nothing_works_any_more_an_analysis_has_failed(tmp_path, monkeypatch):
    """A fault of the loss is not one of the part."""

    class Breaks(Plain):
        fails = False

        def training_step(self, batch, batch_idx):
            if self.fails:
                raise ValueError("broken")
            return super().training_step(batch, batch_idx)

    meter = Schedule.meter

    def begins(self, decision):
        Breaks.fails = True
        return meter(self, decision)

    monkeypatch.setattr(Schedule, "meter", begins)
    monitor = watch()
    fit(tmp_path, monitor, module=Breaks())
    assert [row["why"] for row in monitor.history] == ["ValueError: broken"]
    assert part(monitor) == Part(8, BATCH)


@pytest.mark.slow
def test_a_resumed_run_sees_the_same_examples(tmp_path):
    keeper = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    fit(tmp_path, watch(), keeper, max_epochs=1, enable_checkpointing=True)
    again, path = watch(grace=18.0), str(tmp_path / "last.ckpt")
    torch.load(path, weights_only=True)
    module = fit(tmp_path, again, max_epochs=3, ckpt_path=path)
    assert part(again) == Part(8, BATCH)
    assert len(again.history) >= 2
    losses = [module.loss_on(part_of(batch, 8, seed=0)) for batch in again._run.probe]
    assert min(abs(again.history[-1]["loss"] - loss) for loss in losses) < 1e-6
