"""The cost of the callback: its share of the wall time, and its memory."""

from __future__ import annotations

import dataclasses
import logging
import math
from contextlib import nullcontext
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.profiler import profile

from lightning_morse import MorseMonitor
from lightning_morse.callbacks._lightning import Period
from lightning_morse.callbacks._schedule import SHARE_KEPT_BACK, Schedule
from lightning_morse.monitoring.budget import Budget
from lightning_morse.slices.parameters import trainable_parameters
from lightning_morse.slices.shadow_loss import ShadowLoss
from tests.callback_models import Net, fit, loader, monitor, one_answer, stub_analysis, trainer


class Clock:
    """Stands still unless told to advance."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Ticks(Callback):
    """A training step takes a second."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_start(self, *args):
        self.clock.now += 1


@pytest.fixture
def clock(monkeypatch):
    """A run with 1 s per batch, 6 s per epoch and 3 s per analysis."""
    clock = Clock()

    def slow(*args, **options):
        clock.now += 3
        return one_answer(*args, **options)

    stub_analysis(monkeypatch)
    monkeypatch.setattr("lightning_morse.callbacks._schedule.Budget", partial(Budget, clock=clock))
    monkeypatch.setattr("lightning_morse.callbacks._schedule.CALLING_SECONDS", 0.0)
    monkeypatch.setattr("lightning_morse.monitoring.exploring.analyze_turning", slow)
    return clock


@pytest.mark.slow
def test_a_due_analysis_waits_for_time(clock, tmp_path, caplog):
    watch = monitor(max_overhead=0.05, grace=4.0, every_n_epochs=1)
    with caplog.at_level(logging.INFO, "lightning_morse"):
        _, runner = fit(tmp_path, watch, Ticks(clock), max_epochs=60)
    rows = watch.history
    assert rows[-1]["epoch"] == 59
    # 3 s each, out of 4 + 0.05 * 360 = 22 s, of which 0.45 of the 18 are kept back.
    assert len(rows) == 4
    assert [row["morse/seconds"] for row in rows] == [3.0] * 4
    for row in rows[1:]:  # before, nothing is
        elapsed = 6 * (row["epoch"] + 1) + 3 * (rows.index(row) + 1)
        spent = row["morse/overhead"] * elapsed
        assert spent == pytest.approx(3 * (rows.index(row) + 1))
        assert spent <= 4 + (1 - SHARE_KEPT_BACK) * 0.05 * (elapsed - spent) + 1e-9
    assert runner.callback_metrics["morse/overhead"] == pytest.approx(12 / 372)
    said = [r.getMessage() for r in caplog.records if "has room for it" in r.getMessage()]
    assert len(said) == 1
    assert "no analysis, the smallest takes about 3 seconds and max_overhead=0.05" in said[0]
    assert "e+" not in said[0]


def test_what_is_kept_back_counts_from_when_training_is_disturbed():
    now = [0.0]
    budget = Budget(0.05, lambda: now[0], 2.0)
    budget.start()
    budget.kept_share = 0.02
    now[0] = 100.0
    assert budget.room() == pytest.approx(2 + 5)
    assert budget.room(100.0) == pytest.approx(2 + 10 - 2)  # it may begin now
    assert budget.state_dict()["kept_from"] == math.inf  # not yet, also for a run that goes on
    budget.disturb()
    now[0] = 150.0
    budget.disturb()
    assert budget.room() == pytest.approx(2 + 7.5 - 1)
    again = Budget(0.05, lambda: now[0], 2.0)
    again.load_state_dict(budget.state_dict())
    again.start()
    again.kept_share = 0.02
    now[0] = 250.0
    assert again.room() == budget.room() == pytest.approx(2 + 12.5 - 3)


def test_the_first_picture_of_a_run_may_take_what_is_otherwise_kept_back():
    now = [0.0]
    schedule = Schedule(Period.of(None, None), MorseMonitor(max_overhead=0.05).settings, True)
    schedule.budget = Budget(0.05, lambda: now[0], 2.0)
    schedule.budget.start()
    schedule.budget.disturb()
    schedule.budget.kept_share = SHARE_KEPT_BACK * 0.05
    now[0] = 100.0
    assert schedule.room_for_figures(is_first=False) == schedule.budget.room() < 5
    assert schedule.room_for_figures(is_first=True) == pytest.approx(2.0 + 5.0)


def test_a_step_period_waits_too(clock, tmp_path):
    watch = monitor(max_overhead=0.3, grace=0.0, every_n_steps=4)
    fit(tmp_path, watch, Ticks(clock), max_epochs=10)
    budget = watch._schedule.budget
    assert budget.spent() <= 0.3 * budget.trained()
    assert 2 <= len(watch.history) < 15
    assert watch.history[-1]["step"] == 59
    assert all((row["step"] + 1) % 4 == 0 for row in watch.history)


def test_without_a_limit_every_analysis_is_made(clock, tmp_path):
    watch = monitor(max_overhead=1.0)
    fit(tmp_path, watch, Ticks(clock), max_epochs=4)
    assert [row["epoch"] for row in watch.history] == [0, 1, 2, 3]


def test_a_failed_analysis_is_paid_for(clock, tmp_path, monkeypatch):
    def fails(*args, **options):
        clock.now += 3
        raise ValueError("in the end")

    monkeypatch.setattr("lightning_morse.monitoring.exploring.analyze_turning", fails)
    watch = monitor(max_overhead=0.05, grace=4.0)
    fit(tmp_path, watch, Ticks(clock), max_epochs=60)
    assert len(watch.history) >= 2
    assert watch.history[-1]["epoch"] == 59
    assert watch._schedule.budget.spent() <= 4 + 0.05 * watch._schedule.budget.trained()


@pytest.mark.parametrize("broken_off", [False, True])
def test_between_two_fits_no_time_passes(clock, tmp_path, broken_off):
    class Interrupts(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if broken_off and trainer.global_step == 30:
                raise ValueError("broken off")

    watch, module = monitor(max_overhead=0.05, grace=4.0, every_n_epochs=1), Net()
    runner = trainer(tmp_path, watch, Ticks(clock), Interrupts(), max_epochs=10)
    with pytest.raises(ValueError, match="broken") if broken_off else nullcontext():
        runner.fit(module, loader())
    clock.now += 1800
    runner.fit_loop.max_epochs = 20
    runner.fit(module, loader())
    budget = watch._schedule.budget
    assert budget.trained() == runner.global_step >= 120
    assert 6 <= budget.spent() <= 4 + 0.05 * budget.trained()
    assert watch._schedule.is_analysed(runner)


def test_a_used_monitor_begins_anew_with_another_run(clock, tmp_path):
    """One that goes on from a checkpoint that knows nothing of it."""
    keeper = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    fit(tmp_path, keeper, max_epochs=2, enable_checkpointing=True)
    watch = monitor(max_overhead=1.0)
    fit(tmp_path, watch, Ticks(clock), max_epochs=6)
    assert watch.history[-1]["step"] == 35
    fit(tmp_path, watch, Ticks(clock), max_epochs=6, ckpt_path=str(tmp_path / "last.ckpt"))
    assert [row["step"] for row in watch.history] == [17, 23, 29, 35]
    assert watch._schedule.budget.trained() == 24


def test_what_putting_the_copy_back_takes_is_part_of_an_evaluation(tmp_path, monkeypatch):
    """Where a module holds much, such as a replay buffer, it takes longer than the loss."""
    stub_analysis(monkeypatch)
    watch, clock, resets = monitor(probe_batches=1), Clock(), []
    module, _ = fit(tmp_path, watch, max_epochs=1)
    reset = ShadowLoss.reset

    def slow(self):
        clock.now += 2.0
        resets.append(reset(self))

    monkeypatch.setattr(ShadowLoss, "reset", slow)
    timing = watch._analyses.of(module).loss.timed(clock)
    assert timing.seconds == 2.0
    assert len(resets) == 1


class Eta(Callback):
    """Says when the run will be over, in its own way."""

    time_elapsed = 0.0
    time_remaining = float("nan")

    @property
    def stopped_epoch(self):
        raise RuntimeError("not yet")


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_attributes_of_other_callbacks_end_nothing(clock, tmp_path, share):
    watch = monitor(max_overhead=share, grace=30.0)
    _, runner = fit(tmp_path, watch, Eta(), Ticks(clock), max_epochs=3)
    assert runner.global_step == 18
    assert watch.history[-1]["step"] == 17


def test_a_resumed_run_goes_on_with_its_budget(clock, tmp_path):
    first = monitor(max_overhead=0.05, grace=4.0)
    fit(tmp_path, first, Ticks(clock), max_epochs=2)
    state = first.state_dict()
    spent, elapsed = first._schedule.budget.spent(), first._schedule.budget.elapsed()
    assert spent
    clock.now += 1000  # does not count
    second = monitor(max_overhead=0.05, grace=4.0)
    second.load_state_dict(state)
    assert second._schedule.budget.overhead() == pytest.approx(spent / elapsed)
    second._schedule.budget.start()
    clock.now += 1
    assert second._schedule.budget.overhead() == pytest.approx(spent / (elapsed + 1))
    assert second._schedule._pace.costs == first._schedule._pace.costs
    assert second._schedule._pace.costs.is_measured


class Jumps(Clock):
    """Falls back by two hours, leaps ahead by a day, and is broken at times."""

    calls = 0

    def __call__(self) -> float:
        self.calls += 1
        odd = {3: -7200.0, 5: math.nan, 8: 86400.0, 9: math.inf}
        return self.now + odd.get(self.calls % 11, 0.0)


def test_what_checkpoints_grow_by_is_paid_for(clock, tmp_path, monkeypatch):
    """Lightning writes it, after the monitor has handed it over."""
    watch = monitor(every_n_epochs=1, max_overhead=0.5, probe_batches=1)
    fit(tmp_path, watch, max_epochs=1)
    budget = watch._schedule.budget
    watch._run.state_dict(watch._folder.of_state(watch.name))  # it is stored once
    save, before = torch.save, budget.spent()

    def slow(*args):
        clock.now += 4
        save(*args)

    monkeypatch.setattr("lightning_morse.monitoring.growth.torch.save", slow)
    states = [watch.state_dict() for _ in range(5)]
    # Measured at the first, second and fourth; what that takes is work, too.
    assert budget.spent() == before + 5 * 4 + 3 * 4
    assert states[-1].keys() == watch.state_dict().keys()


def test_a_clock_that_jumps_spoils_nothing(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    clock = Jumps()
    monkeypatch.setattr("lightning_morse.callbacks._schedule.Budget", partial(Budget, clock=clock))
    monkeypatch.setattr("lightning_morse.callbacks._schedule.CALLING_SECONDS", 0.0)
    watch = monitor(max_overhead=0.3)
    _, runner = fit(tmp_path, watch, Ticks(clock), max_epochs=20)
    assert len(watch.history) >= 2
    assert watch.history[-1]["step"] == 119
    for row in watch.history:
        assert 0 <= row["morse/overhead"] <= 1
        assert math.isfinite(row["morse/seconds"])
        assert row["morse/seconds"] >= 0
    assert all(torch.isfinite(value) for value in runner.callback_metrics.values())


def test_broken_times_in_a_checkpoint_count_as_none():
    for broken in ({"spent": math.nan, "elapsed": 5.0}, {"spent": 9.0, "elapsed": -3.0}):
        budget = Budget(0.5, Clock())
        budget.load_state_dict(broken)
        budget.start()
        assert budget.overhead() == 0
    budget.load_state_dict({"spent": 9.0, "elapsed": 3.0})
    assert budget.overhead() == 1


@pytest.mark.parametrize(("share", "grace"), [(0.05, 2.0), (0.5, 0.0)])
def test_room_and_wait_agree(share, grace):
    clock = Clock()
    budget = Budget(share, clock, grace)
    budget.start()
    budget.kept_share = share / 4
    budget.disturb()
    with budget.work():
        clock.now += 3
    clock.now += 10
    room = budget.room()
    more = room + 3.0
    wait = budget.wait(more)
    assert budget.allows(room - 1e-9)
    assert not budget.allows(room + 1e-9)
    assert budget.room(wait) == pytest.approx(more)
    clock.now += wait
    assert budget.allows(more - 1e-6)


def test_what_lightning_takes_to_call_hooks_is_counted(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    monkeypatch.setattr("lightning_morse.callbacks._schedule.slowness", lambda clock: 1.0)
    monkeypatch.setattr("lightning_morse.callbacks._schedule.CALLING_SECONDS", 100.0)
    watch = monitor(max_overhead=0.5, every_n_epochs=100)
    _, runner = fit(tmp_path, watch, max_epochs=2)
    calls = round(watch._schedule.budget.spent() / 100)
    assert calls == runner.global_step > 0


def test_budget_counts_nested_work_once():
    clock = Clock()
    budget = Budget(0.5, clock)
    assert budget.overhead() == 0
    budget.start()
    with budget.work():
        clock.now += 1
        with budget.work():
            clock.now += 1
        assert budget.overhead() == 1
    clock.now += 2
    budget.start()  # a second call changes nothing
    assert budget.overhead() == 0.5
    assert budget.wait(2) == 6
    assert not budget.allows(2)


def test_work_that_fails_counts():
    clock = Clock()
    budget = Budget(0.5, clock)
    budget.start()

    def fails():
        with budget.work():
            clock.now += 1
            raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        fails()
    clock.now += 1
    assert budget.overhead() == 0.5


# --------------------------------------------------------------------------------- memory


class Wide(Net):
    """Weights larger than everything else: 16 MB per copy."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, 2000), nn.Tanh(), nn.Linear(2000, 2000), nn.Linear(2000, 1)
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def count(module: nn.Module) -> int:
    return sum(p.numel() for _, p in trainable_parameters(module))


def peak(work) -> int:
    """Peak memory of some work in torch, bytes."""
    with profile(profile_memory=True) as record:
        work()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = largest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        largest = max(largest, held)
    return largest


def test_peak_is_that_of_the_profiler():
    assert peak(lambda: [torch.zeros(1000), torch.zeros(1000)]) == 8000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("directions", "dim", "n_samples"),
    [
        ("random", 1, 16),
        ("pca", 2, 48),
        pytest.param("pca", 1, 16, marks=pytest.mark.slow),
        pytest.param("random", 2, 48, marks=pytest.mark.slow),
        pytest.param("random", 3, 16, marks=pytest.mark.slow),
        pytest.param("pca", 3, 16, marks=pytest.mark.slow),
    ],
)
def test_an_analysis_takes_the_memory_it_says(directions, dim, n_samples, tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    watch = monitor(directions=directions, dim=dim, n_samples=n_samples)
    module, _ = fit(tmp_path, watch, module=Wide(), max_epochs=1)
    assert not watch.history[0]["morse/failed"]
    with torch.no_grad():  # or the attractor would be where it was, and no line be evaluated
        for weights in module.parameters():
            weights += 0.01
    watch._run.plan = dataclasses.replace(watch._run.plan, slices=1)  # memory is short
    copies = peak(lambda: watch._analyses.of(module).run()) / (4 * count(module))
    assert copies <= dim + 4
    assert copies > dim + 2  # the shadow copy, the weights and the directions at least


@pytest.mark.slow
def test_lines_between_attractors_take_two_copies_more(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    watch = monitor(dim=2, n_samples=16)
    module, _ = fit(tmp_path, watch, module=Wide(), max_epochs=1)
    with torch.no_grad():
        for weights in module.parameters():
            weights += 0.01
    assert peak(lambda: watch._analyses.of(module).run()) / (4 * count(module)) <= 2 + 6.01


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2), ("float64", 8)])
def test_snapshots_take_the_memory_they_say(dtype, size, tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    watch = monitor(snapshot_dtype=dtype, max_snapshots=4)
    module, _ = fit(tmp_path, watch, max_epochs=2)
    assert not watch.history[-1]["morse/failed"]
    assert watch._account.view.axis_labels[0].startswith("PC 1")
    assert len(watch._run.trajectory) == 4
    assert watch._run.trajectory.n_bytes == 5 * size * count(module)
    assert watch._run.trajectory.state_dict()["snapshots"][0].dtype == getattr(torch, dtype)


def test_batches_are_kept_once(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    watch = monitor(probe_batches=3)
    runner = trainer(tmp_path, watch, max_epochs=2)
    runner.fit(Net(), loader(), loader(16))
    assert [len(x) for x, _ in watch._run.probe] == [8, 8, 8]
    assert isinstance(runner, pl.Trainer)
