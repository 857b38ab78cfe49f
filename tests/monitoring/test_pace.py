"""When analyses are made and how large they are, on a clock that stands still unless told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest

from lightning_morse.monitoring.budget import Budget
from lightning_morse.monitoring.costs import Costs, Portion, Portions, slowness
from lightning_morse.monitoring.pace import Ahead, Pace
from lightning_morse.monitoring.settings import Settings
from lightning_morse.monitoring.timetable import due_after, due_shares, n_worth

SHARE, GRACE = 0.05, 2.0


def settings(**options) -> Settings:
    given = {
        "dim": 2,
        "n_samples": "auto",
        "resolution": "auto",
        "confidence": 0.95,
        "extent": "auto",
        "probe_batches": 4,
        "max_snapshots": 32,
        "seed": 0,
        "max_overhead": SHARE,
        "grace": GRACE,
        "snapshot_dtype": "float32",
        "on_error": "warn",
        "name": "morse",
        "dynamics": "gradient",
        "batch_norm": "batch",
    }
    return Settings(**(given | options))


@dataclass
class True_:
    """What analyses really cost: half around the samples, half of the rest the loss."""

    seconds: float  # at 128 samples on all batches and cells

    def of(self, portion: Portion, n: int) -> float:
        around = 0.5 * self.seconds * (0.7 if portion.resolution < 128 else 1.0)
        return around + n * (self.place + portion.batches * self.batch)

    @property
    def place(self) -> float:
        return 0.25 * self.seconds / 128

    @property
    def batch(self) -> float:
        return 0.25 * self.seconds / 128 / 4


@dataclass
class Made:
    after: float  # seconds of training
    portion: Portion
    final: bool


class Run:
    """A run of some length, and the analyses made of it."""

    def __init__(
        self, length, cost, *, known=True, measured=True, surprise=None, hooks=0.0, **options
    ):
        self.now = 0.0
        self.budget = Budget(SHARE, lambda: self.now, GRACE)
        self.budget.start()
        self.pace = Pace(settings(**options), self.budget, automatic=True)
        self.true = True_(cost)
        if measured:
            portion, true = Portion(128, 128, 4, 128), self.true
            given = cost, 0.0, 128 * 4 * true.batch, 128 * true.place, 128
            self.pace.costs.measured(*given, portion, coarse=False)
        self.made: list[Made] = []
        self.excess = -math.inf
        step = length / 400
        for i in range(1, 401):
            self.now += step
            with self.budget.work():  # what is not an analysis
                self.now += hooks * step
            if surprise is not None and i == surprise:
                self.look(Ahead(0.0), final=True)
                return
            left = (400 - i) * step if known else math.inf
            self.look(Ahead(left, surprise is not None), final=i == 400)

    def look(self, ahead, *, final):
        decision = self.pace.decide(len(self.made), ahead, final=final)
        if decision.must_time:
            with self.budget.work():
                self.now += self.true.batch
            self.pace.timed(self.true.batch, len(self.made), ahead, final=final)
            decision = self.pace.decide(len(self.made), ahead, final=final)
        if decision.portion is None:
            return
        portion, start = decision.portion, self.now
        n = portion.most  # as many as fit, as the meter would stop
        while n > 16 and self.true.of(portion, n) > decision.limit:
            n -= 1
        took = self.true.of(portion, n)
        with self.budget.work():
            self.now += took
        of_loss, of_places = n * portion.batches * self.true.batch, n * self.true.place
        coarse = portion.resolution < 128
        self.pace.costs.measured(took, 0.0, of_loss, of_places, n, portion, coarse)
        self.pace.analysed(took)
        self.made.append(Made(start - self.budget.spent() + took, portion, final))
        self.excess = max(self.excess, self.budget.spent() - GRACE - SHARE * self.budget.elapsed())


LENGTHS = {20: 3, 120: 6, 1200: 15, 10800: 30}


def most_possible(length, cost):
    """How many analyses of 64 samples on a coarse grid and one batch fit in, as planned."""
    smallest = True_(cost).of(Portion(64, 64, 4, 64), 64)
    return int((GRACE + SHARE * length) / (1 - SHARE) / (1.25 * smallest))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("cost", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_run_gets_its_analyses_and_keeps_the_promise(length, cost, known):
    run = Run(length, cost, known=known)
    assert run.excess <= 1e-9
    wanted = min(LENGTHS[length], most_possible(length, cost))
    assert len(run.made) >= wanted
    if wanted:
        assert run.made[-1].final
    assert sum(each.final for each in run.made) <= 1
    if cost == 0.5:
        assert len(run.made) >= LENGTHS[length]
    if (length, cost) == (1200, 8.0):
        assert len(run.made) >= 14


def test_dear_analyses_are_smaller_before_they_are_fewer():
    cheap, dear = Run(120, 0.5), Run(120, 2.0)
    assert len(dear.made) >= 5
    assert max(each.portion.most for each in dear.made[:-1]) < 128
    assert any(each.portion.resolution == 64 for each in dear.made)
    assert all(each.portion.resolution == 128 for each in cheap.made)
    assert max(each.portion.most for each in cheap.made) > 256
    assert all(64 <= each.portion.most <= 512 for each in cheap.made + dear.made)


def test_where_nothing_is_affordable_nothing_is_made():
    run = Run(20, 40.0)
    assert run.made == []
    assert run.budget.spent() == 0


@pytest.mark.parametrize("surprise", [40, 100, 250, 399])
def test_a_surprising_end_is_paid_for(surprise):
    """Early stopping: time for the last weights has been kept back all along."""
    for length in (20, 120, 1200):
        run = Run(length, 0.5, surprise=surprise)
        assert run.made[-1].final
        assert run.excess <= 1e-9


def test_what_is_guessed_at_first_is_soon_measured():
    run = Run(120, 0.5, measured=False)
    assert len(run.made) >= 6
    assert run.made[-1].final
    assert run.excess <= 1e-9


@pytest.mark.parametrize("hooks", [0.0, 0.03])
@pytest.mark.parametrize(("length", "wanted"), [(12, 2), (20, 3), (25, 3)])
@pytest.mark.parametrize("cost", [0.4, 0.8, 1.2])
def test_a_newcomers_first_short_run_is_seen(length, wanted, cost, hooks):
    """A guess of the first analysis that is too high leaves it to the end, or out."""
    run = Run(length, cost, measured=False, hooks=hooks)
    assert len(run.made) >= wanted
    assert run.made[-1].final
    assert run.excess <= 1e-9


@pytest.mark.parametrize("length", [12, 20, 120])
def test_a_guess_that_is_too_low_breaks_no_promise(length):
    """The first analysis then has fewer samples, and what is kept back for the last pays for it."""
    for cost in (2.5, 4.0):
        run = Run(length, cost, measured=False)
        assert run.excess <= 1e-9


def test_a_hard_limit_is_neither_raised_nor_lowered():
    for length in (20, 120, 1200):
        run = Run(length, 2.0, n_samples=100, resolution=128)
        assert {each.portion.most for each in run.made} == {100}
        assert {each.portion.usual for each in run.made} == {100}
        assert {each.portion.batches for each in run.made} == {4}
        assert {each.portion.resolution for each in run.made} == {128}
        assert run.excess <= 1e-9
        assert run.made[-1].final


def test_a_grid_that_was_asked_for_stays():
    run = Run(120, 2.0, resolution=128)
    assert {each.portion.resolution for each in run.made} == {128}


def test_the_beginning_is_seen_often():
    run = Run(1200, 0.5)
    after = [each.after for each in run.made]
    assert after[3] < 0.05 * 1200
    gaps = [b - a for a, b in pairwise(after)]
    late = gaps[len(gaps) // 2 :]
    assert max(late) < 1.5 * min(late)


def test_part_of_the_probe_set_where_all_is_too_dear():
    costs = Costs(fixed=0.4, per_sample=0.002)
    portions = Portions(settings(), costs)
    costs.evaluated(0.02)
    assert portions.choose_batches(aim=2.5) == 1
    assert portions.choose_batches(aim=100.0) == 1  # fixed for the run
    assert Portions(settings(), costs).choose_batches(aim=4.0) == 2
    assert Portions(settings(), costs).choose_batches(aim=100.0) == 4
    assert Portions(settings(n_samples=64), costs).choose_batches(aim=0.1) == 4


def test_without_a_limit_the_clock_does_not_matter():
    budget = Budget(1.0, lambda: math.nan)
    for n_samples, usual, most in (("auto", 128, 320), (100, 100, 100)):
        pace = Pace(settings(max_overhead=1.0, n_samples=n_samples), budget, automatic=False)
        pace.costs.measured(1e6, 1e5, 1e5, 1e5, 10, Portion(64, 64, 4, 128), coarse=False)
        decision = pace.decide(3, Ahead(), final=False)
        assert decision.portion == Portion(usual, most, 4, 128)
        assert decision.limit == math.inf


def test_costs_fade_but_do_not_forget_at_once():
    costs = Costs()
    portion = Portion(100, 100, 2, 128)
    costs.n_snapshots = 4
    costs.measured(6.0, 1.0, 2.0, 1.0, 100, portion, coarse=False)
    assert costs.per_snapshot == pytest.approx(1 / 12)  # eight more for what is constant
    assert (costs.fixed, costs.per_sample, costs.per_batch) == (2.0, 0.01, 0.01)
    costs.measured(0.5, 0.0, 0.2, 0.1, 100, portion, coarse=False)
    assert costs.fixed == pytest.approx(1.6)
    assert costs.per_batch == pytest.approx(0.008)
    assert costs.per_snapshot == pytest.approx(0.8 / 12)
    costs.n_snapshots = 8
    assert costs.around(coarse=False) == pytest.approx(1.25 * (16 * 0.8 / 12 + 1.6))
    again = Costs()
    again.load_state_dict(costs.state_dict())
    assert again == costs


@pytest.mark.parametrize("n", range(2, 60))
def test_due_shares_rise_to_the_end(n):
    shares = due_shares(n)
    assert len(shares) == n
    assert shares[-1] == 1
    assert all(a < b for a, b in pairwise(shares))


def test_an_unknown_end_has_the_same_law():
    for seconds in (20, 120, 1200, 10800):
        n = n_worth(seconds)
        assert due_after(n - 2, 0.0, math.inf) <= seconds <= due_after(n, 0.0, math.inf)


def test_a_machine_is_slow_by_its_clock():
    ticks = iter(range(100))
    assert slowness(lambda: 0.0) == 1
    assert slowness(lambda: 0.01 * next(ticks)) == pytest.approx(10)
