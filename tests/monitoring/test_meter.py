"""An analysis ends within its time, and uses what samples there are."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from lightning_morse.analysis.pipeline import analyze_from
from lightning_morse.monitoring.budget import Budget
from lightning_morse.monitoring.costs import Portion
from lightning_morse.monitoring.meter import Meter, OutOfTimeError
from tests.callback_models import Net, Outside, fit, monitor, stub_analysis


class Clock(Outside):
    """Which a loss can put forward."""

    def __init__(self) -> None:
        super().__init__(now=0.0)

    def __call__(self) -> float:
        return self.now


def wells(x):
    return (x.square() - 1).square().sum(dim=1) + 0.3 * x[:, 0]


class Loss:
    """Takes time, ten times as much from some evaluation on."""

    def __init__(self, clock, seconds, dear_from=math.inf):
        self.clock, self.seconds, self.dear_from = clock, seconds, dear_from
        self.n = 0

    def __call__(self, points):
        for _ in points:
            self.n += 1
            self.clock.now += self.seconds * (10 if self.n > self.dear_from else 1)
        return wells(points)


def analysed(meter, loss, n=48, most=None):
    return analyze_from(
        meter.of(loss),
        [0.0, 0.0],
        [-2.0, -2.0],
        [2.0, 2.0],
        None,
        n,
        24,
        most=most,
        is_over=meter.is_over if meter.is_limited else None,
    )


def test_an_evaluation_that_takes_ten_times_as_long_ends_sampling():
    clock = Clock()
    loss = Loss(clock, 0.01, dear_from=24)
    meter = Meter(clock, Portion(48, 48, 1, 24), end=2.0)
    result = analysed(meter, loss, most=48)
    assert clock.now <= 2.0
    assert 24 < len(result.samples) < 48
    assert meter.n_evaluations == loss.n
    assert meter.seconds == pytest.approx(clock.now)


def test_samples_beyond_the_usual_number_leave_more_time_to_what_follows():
    clock, loss = Clock(), torch.zeros(224, 1)
    meter = Meter(clock, Portion(224, 224, 1, 24), end=10.0, kept=2.0, kept_more=0.1)
    timed = meter.of(lambda points: points[:, 0])
    timed(loss[:112])
    clock.now = 7.0
    assert not meter.is_over()
    timed(loss[:20])  # 2 s more
    assert meter.is_over()


@pytest.mark.slow
def test_time_enough_changes_nothing():
    clock = Clock()
    free = analysed(Meter(clock, Portion(48, 48, 1, 24)), Loss(clock, 0.01), most=48)
    meter = Meter(clock, Portion(48, 48, 1, 24), end=clock.now + 100)
    limited = analysed(meter, Loss(clock, 0.01), most=48)
    assert (free.samples == limited.samples).all()
    assert (free.labels == limited.labels).all()
    assert free.mu == limited.mu


@pytest.mark.parametrize("most", [17, 32, 48])
def test_the_limit_on_evaluations_is_hard(most):
    loss = Loss(Clock(), 0.0)
    analysed(Meter(Clock(), Portion(most, most, 1, 24)), loss, n=most, most=most)
    assert loss.n <= most


def test_what_is_known_is_not_evaluated_again():
    clock = Clock()
    meter, loss = Meter(clock, Portion(16, 16, 1, 24)), Loss(clock, 1.0)
    known = torch.tensor([0.5, 0.5], dtype=torch.float64), 7.0
    points = torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]], dtype=torch.float64)
    assert meter.of(loss, known)(points)[1] == 7.0
    assert (loss.n, meter.n_evaluations) == (2, 2)


# ------------------------------------------------------------------------- in a run


def counted(watch_options, tmp_path, **options):
    calls = Outside(n=0)

    def loss_fn(module, batch):
        calls.n += 1
        return torch.nn.functional.mse_loss(module.net(batch[0]), batch[1])

    watch = monitor(loss_fn=loss_fn, probe_batches=1, **watch_options)
    fit(tmp_path, watch, **options)
    return watch, calls.n


@pytest.mark.usefixtures("no_pictures")
def test_a_monitor_evaluates_no_more_than_it_was_told(tmp_path):
    watch, n = counted({"n_samples": 24, "max_overhead": 1.0}, tmp_path, max_epochs=2)
    assert len(watch.history) == 2
    assert not watch.history[-1]["morse/failed"]
    assert 24 < n <= 2 * 24


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_two_machines_of_different_speed_agree(tmp_path, monkeypatch):
    rows = []
    for name, speed in (("slow", 1000.0), ("fast", 1e-3)):
        ticks = iter(range(10**9))
        clock = lambda ticks=ticks, speed=speed: speed * next(ticks)  # noqa: E731
        monkeypatch.setattr(
            "lightning_morse.callbacks._schedule.Budget", partial(Budget, clock=clock)
        )
        watch = monitor(n_samples=32, max_overhead=1.0)
        fit(tmp_path / name, watch, max_epochs=2)
        clocks = ("morse/seconds", "morse/overhead")
        rows.append([{k: v for k, v in row.items() if k not in clocks} for row in watch.history])
        assert watch.history[0]["morse/seconds"] > 0
    assert rows[0] == rows[1]
    assert len(rows[0]) == 2


class SlowLoss:
    """Ten times as dear after so many evaluations."""

    def __init__(self, clock, dear_from):
        self.clock, self.dear_from, self.noted = clock, dear_from, Outside(n=0)

    def __call__(self, module, batch):
        self.noted.n += 1
        self.clock.now += 0.002 * (10 if self.noted.n > self.dear_from else 1)
        return torch.nn.functional.mse_loss(module.net(batch[0]), batch[1])


class LossThatWaits:
    """Some evaluations wait for something."""

    def __init__(self, clock, waits):
        self.clock, self.waits, self.noted = clock, waits, Outside(n=0)

    def __call__(self, module, batch):
        self.noted.n += 1
        self.clock.now += 1.0 if self.noted.n in self.waits else 0.001
        return torch.nn.functional.mse_loss(module.net(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("waits", "made", "evaluated"), [({1}, True, None), ({1, 2}, True, None), ({1, 2, 3}, False, 3)]
)
def test_a_first_evaluation_that_waits_decides_nothing(
    tmp_path, monkeypatch, waits, made, evaluated
):
    stub_analysis(monkeypatch)
    clock = Clock()
    watch = monitor(n_samples=24, probe_batches=1)
    module, _ = fit(tmp_path, watch, max_epochs=1)
    watch._analyses.loss_fn = LossThatWaits(clock, waits)
    meter = Meter(clock, Portion(24, 24, 1, 24), end=6.0)
    assert (watch._analyses.of(module, "", meter).run() is not None) is made
    assert evaluated is None or watch._analyses.loss_fn.noted.n == evaluated
    assert meter.quickest == pytest.approx(0.001 if made else 1.0)
    assert meter.why == ("" if made else "the loss has become too dear for what was planned")


def test_an_evaluation_that_takes_all_the_time_is_not_made_again(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    clock = Clock()
    watch = monitor(n_samples=24, probe_batches=1)
    module, _ = fit(tmp_path, watch, max_epochs=1)
    loss = watch._analyses.loss_fn = LossThatWaits(clock, {1, 2, 3})
    meter = Meter(clock, Portion(24, 24, 1, 24), end=0.5)
    assert watch._analyses.of(module, "", meter).run() is None
    assert loss.noted.n == 1


def test_where_choosing_the_slice_took_the_time_the_loss_is_not_blamed():
    clock = Clock()
    meter = Meter(clock, Portion(24, 24, 1, 24), end=1.0)
    clock.now += 1.5
    meter.of(Loss(clock, 0.001))(torch.zeros(1, 2))
    with pytest.raises(OutOfTimeError, match="choosing the slice has taken longer than"):
        meter.check(16)


def test_sampling_that_had_to_end_does_not_begin_again():
    """One quick evaluation after a slow one does not tell that there is time after all."""
    clock = Clock()
    meter = Meter(clock, Portion(64, 64, 1, 24), end=10.0)
    loss = meter.of(Loss(clock, 2.0))
    loss(torch.zeros(1, 2))
    assert meter.is_over()
    meter.of(Loss(clock, 0.001))(torch.zeros(1, 2))
    assert meter.affords(8)
    assert meter.is_over()


@pytest.mark.slow
def test_a_loss_that_becomes_dear_breaks_no_promise(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("lightning_morse.callbacks._schedule.Budget", partial(Budget, clock=clock))
    monkeypatch.setattr("lightning_morse.stopwatch.time", SimpleNamespace(perf_counter=clock))

    class Ticking(Net):
        def training_step(self, batch, batch_idx):
            clock.now += 0.5
            return super().training_step(batch, batch_idx)

    loss = SlowLoss(clock, 150)
    watch = monitor(loss_fn=loss, n_samples="auto", max_overhead=0.05, every_n_epochs=1)
    fit(tmp_path, watch, module=Ticking(), max_epochs=12)
    budget = watch._schedule.budget
    assert watch.history
    assert loss.noted.n > loss.dear_from
    assert budget.spent() <= 2 + 0.05 * budget.elapsed()
    assert watch.history[-1]["step"] == 71


def test_part_of_the_probe_set_is_the_same_throughout(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    noted = Outside(seen=[])
    seen = noted.seen

    def loss_fn(module, batch):
        noted.seen.append(float(batch[0].sum()))
        return torch.nn.functional.mse_loss(module.net(batch[0]), batch[1])

    watch = monitor(loss_fn=loss_fn, n_samples=24, probe_batches=4)
    module, _ = fit(tmp_path, watch, max_epochs=1)
    meter = Meter(Clock(), Portion(24, 24, 2, 24))
    seen.clear()
    watch._analyses.of(module, "", meter).run()
    first = set(seen)
    seen.clear()
    watch._analyses.of(module, "", meter).run()
    assert set(seen) == first
    assert len(first) == 2
    assert first < {float(x.sum()) for x, _ in watch._run.probe}


def test_the_last_weights_are_not_forgotten_where_steps_end_the_run(tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    for options, last in (
        ({"max_steps": 15, "max_epochs": 9}, 14),
        ({"max_epochs": 3}, 17),
        ({"max_epochs": 1}, 5),
    ):
        watch = monitor(max_overhead=0.05, grace=60)  # however busy the machine
        fit(tmp_path / str(last), watch, **options)
        steps = [row["step"] for row in watch.history]
        assert steps[-1] == last
        assert len(set(steps)) == len(steps)


def test_recognising_has_the_time_that_its_files_leave_and_is_no_sampling():
    clock = Clock()
    meter = Meter(clock, Portion(16, 16, 1, 24), end=10.0, kept=4.0, kept_for_files=1.0)
    loss = meter.of(Loss(clock, 0.5))
    loss(torch.zeros(2, 2))
    clock.now = 7.0
    assert not meter.affords(1)
    assert not meter.makes_light_of(1)
    clock.now = 49.9
    assert not meter.makes_light_of(1)
    clock.now = 50.1
    assert meter.makes_light_of(1)
    clock.now = 7.0
    with meter.recognises():
        assert meter.affords(4)
        assert not meter.affords(5)
        loss(torch.zeros(3, 2))
    clock.now += 0.25
    assert (meter.n_evaluations, meter.seconds) == (2, 1.0)
    assert (meter.recognising, meter.files) == (1.5, 0.25)
