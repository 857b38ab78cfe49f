"""When analyses are made and how large they are, on a clock that stands still unless told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from lightning_morse.monitoring.budget import Budget
from lightning_morse.monitoring.costs import (
    FADES,
    PLANNED_OVER_MEASURED,
    Costs,
    Portion,
    Timing,
)
from lightning_morse.monitoring.machine import slowness
from lightning_morse.monitoring.pace import Ahead, Pace
from lightning_morse.monitoring.portions import Portions
from lightning_morse.monitoring.probed_loss import _MOST_FORMED, _seconds_of_point
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
            self.pace.timed(Timing(self.true.batch), len(self.made), ahead, final=final)
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
        self.excess = max(self.excess, self.budget.spent() - GRACE - SHARE * self.budget.trained())


LENGTHS = {20: 3, 120: 6, 1200: 15, 10800: 30}


def most_possible(length, cost):
    """How many analyses of 64 samples on a coarse grid fit in, as planned."""
    true = True_(cost)
    around = true.of(Portion(64, 64, 4, 64), 0)
    smallest = PLANNED_OVER_MEASURED * around + 64 * (true.place + 4 * true.batch)
    return int((GRACE + SHARE * length) / (1 - SHARE) / smallest)


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
    assert all(48 <= each.portion.most <= 512 for each in cheap.made + dear.made)


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


@dataclass
class Parts:
    """Seconds that the parts of an analysis take, as in nine ordinary runs at speed 1."""

    weights: float = 1e5
    speed: float = 1.0
    fixed: float = 0.75
    coarse: float = 0.5  # of it, on half as many cells
    once: float = 0.05  # in the first analysis only
    place: float = 0.008
    batch: float = 0.0005
    recognising: float = 0.05
    files: float = 0.08
    figures: tuple[float, float] = (0.3, 0.9)
    per_snapshot: float = 5.5e-9


class RunInParts:
    """A run whose analyses have all their parts, and whose end waits for figures.

    The machine gets slower all the while, in the end so many times.
    """

    def __init__(self, length: float, parts: Parts, slowing: float = 1.0, **options) -> None:
        self.now, self.parts = 0.0, parts
        self.budget = Budget(SHARE, lambda: self.now, GRACE)
        self.budget.start()
        self.pace = Pace(settings(**options), self.budget, automatic=True)
        self.pace.costs.most_snapshots = 32
        first = parts.speed
        self.pace.expect(int(parts.weights), lambda: max(0.5, parts.speed))
        self.made: list[Made] = []
        self.excess, self.figures = -math.inf, 0
        step = length / 400
        for i in range(1, 401):
            parts.speed = first * (1 + (slowing - 1) * i / 400)
            self.now += step
            with self.budget.work():
                self.now += 0.005 * step
            # A record of 32 that thins itself is never less than half full.
            self.pace.costs.n_snapshots = i if i <= 32 else 17 + (i - 17) % 16
            self.look(Ahead((400 - i) * step, step=step if i < 400 else 0.0), i == 400)
        self.wait_for_figures()

    def look(self, ahead: Ahead, final: bool) -> None:
        parts, given = self.parts, (len(self.made), ahead)
        decision = self.pace.decide(*given, final=final)
        if decision.must_time:
            self.spend(parts.batch)
            self.pace.timed(Timing(parts.speed * parts.batch), *given, final=final)
            decision = self.pace.decide(*given, final=final)
        if decision.portion is not None:
            self.analyse(decision, final)

    def analyse(self, decision, final: bool) -> None:
        parts, costs, portion = self.parts, self.pace.costs, decision.portion
        coarse, start = portion.resolution < 128, self.now
        fixed = parts.fixed * (parts.coarse if coarse else 1.0) + (0.0 if self.made else parts.once)
        recognising = parts.recognising if self.made else 0.0
        of_slice = parts.per_snapshot * parts.weights * (costs.n_snapshots + 8)
        each = parts.place + portion.batches * parts.batch
        over, n = start + decision.limit - costs.kept(coarse) - parts.speed * each, 0
        self.spend(of_slice)
        while n < 16 or (n < portion.most and self.now <= over):
            self.spend(each)
            n += 1
        self.spend(fixed + recognising)
        of_loss, took = n * portion.batches * parts.batch, self.now - start
        seconds = [parts.speed * s for s in (of_slice, of_loss, n * parts.place)]
        beside = parts.speed * recognising, parts.speed * parts.files
        costs.measured(took, *seconds, n, portion, coarse, *beside)
        costs.drew(*(parts.speed * s for s in parts.figures))
        self.pace.analysed(took)
        self.made.append(Made(start, portion, final))

    def wait_for_figures(self) -> None:
        """As long as there is room, if the last weights were analysed."""
        room = self.budget.room()
        if self.made and self.made[-1].final:
            first, everything = (self.parts.speed * s for s in self.parts.figures)
            self.figures = sum(room >= s - 1e-9 for s in (first, everything))
            with self.budget.work():
                self.now += max(0.0, min(room, everything))
        self.note()

    def spend(self, seconds: float) -> None:
        with self.budget.work():
            self.now += self.parts.speed * seconds
        self.note()

    def note(self) -> None:
        now = self.budget.spent() - GRACE - SHARE * self.budget.trained()
        self.excess = max(self.excess, now)


@pytest.mark.parametrize("length", [5, 8, 10, 12, 17, 20, 30, 120, 1200])
@pytest.mark.parametrize("weights", [1e5, 1e6])
@pytest.mark.parametrize("speed", [0.5, 1.0, 1.5])
def test_runs_whose_analyses_have_all_their_parts_keep_the_promise(speed, weights, length):
    """Waiting for figures is part of it; the last weights are seen wherever anything is."""
    run = RunInParts(length, Parts(weights, speed))
    assert run.excess <= 1e-6
    assert run.made
    assert run.made[-1].final


@pytest.mark.parametrize("slowing", [1.25, 1.5])
@pytest.mark.parametrize("weights", [1e5, 1e6])
@pytest.mark.parametrize("speed", [0.6, 0.8, 1.0, 1.2, 1.5])
def test_the_last_weights_are_seen_on_a_machine_that_gets_slower(speed, weights, slowing):
    """What cannot be stopped may take longer than it did before by as much."""
    parts = Parts(weights, speed)
    longer = (slowing - 1) * speed * (parts.fixed + parts.recognising)
    for length in (5, 8, 10, 12, 15, 17, 20, 30, 60, 120):
        run = RunInParts(length, Parts(weights, speed), slowing)
        assert run.excess <= longer
        assert run.made[-1].final


def test_what_was_measured_on_a_quicker_machine_is_planned_to_take_longer():
    costs, portion = Costs(), Portion(64, 64, 4, 128)
    costs.expect(10**6, 1.0)
    costs.measured(2.0, 0.1, 0.2, 0.2, 64, portion, coarse=False)
    before, resumed = costs.of(64, 4, coarse=False), Costs()
    resumed.load_state_dict(costs.state_dict())
    resumed.expect(10**6, 1.2)  # perhaps the same machine
    assert resumed.of(64, 4, coarse=False) == before
    resumed.expect(10**6, 3.0)
    assert resumed.of(64, 4, coarse=False) == pytest.approx(3 * before)
    resumed.expect(10**6, 3.0)
    assert resumed.of(64, 4, coarse=False) == pytest.approx(3 * before)


def test_derivatives_of_the_loss_are_planned_until_a_slice_has_been_measured():
    """Four times the loss on all probe batches, each."""
    pca, hessian = Costs(per_batch=0.01), Costs(per_batch=0.01, n_derivatives=12)
    extra = hessian.of(48, 4, coarse=True) - pca.of(48, 4, coarse=True)
    assert extra == pytest.approx(12 * 4 * 4 * 0.01)
    hessian.measured(3.0, 1.5, 0.2, 0.2, 48, Portion(48, 48, 4, 64), coarse=True)
    assert hessian.around(True, 4) == hessian.around(True, 1)


def test_what_telling_the_speed_takes_is_not_taken_to_go_on():
    """It is spent a few times in the beginning; hooks are at every step."""
    now = 0.0

    def slow_look() -> float:
        nonlocal now
        now += 0.1
        return 1.0

    budget = Budget(SHARE, lambda: now, GRACE)
    budget.start()
    pace = Pace(settings(), budget, automatic=True)
    with budget.work():
        pace.expect(1000, slow_look)
    now += 10.0
    with budget.work():
        pace.decide(0, Ahead(10.0), final=False)
    now += 5.0
    assert budget.spent() == pytest.approx(0.2)
    assert pace._room_at_end(10.0) == pytest.approx(budget.room(10.0))


def test_no_process_is_worth_while_where_only_the_last_analysis_fits_in():
    budget = Budget(0.05, lambda: 0.0, 2.0)
    budget.start()
    pace = Pace(settings(), budget, automatic=True)
    assert pace.is_worth_a_process(Ahead(30.0, step=0.01))
    assert not pace.is_worth_a_process(Ahead(3.0, step=0.01))
    # 48 evaluations of a third of that take longer than 2 s and 5 %.
    assert not pace.is_worth_a_process(Ahead(30.0, step=0.3))


def steps_of(pace, budget, seconds, n, step):
    """After which of ``n`` steps there is an analysis that takes so long."""
    made = []
    for i in range(1, n):
        budget.now._clock.now += step
        decision = pace.decide(len(made), Ahead((n - i) * step, step=step), final=False)
        if decision.must_time:
            pace.timed(Timing(0.001), len(made), Ahead((n - i) * step, step=step), final=False)
            decision = pace.decide(len(made), Ahead((n - i) * step, step=step), final=False)
        if decision.portion is not None:
            with budget.work():
                budget.now._clock.now += seconds
            pace.analysed(seconds)
            made.append(i)
    return made


class Clock:
    """Stands still unless told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_several_that_are_due_do_not_follow_one_another_at_once():
    """After a slow first batch most of the run is over, and nothing has been analysed."""
    budget = Budget(0.05, Clock(), 10.0)
    budget.start()
    budget.now._clock.now += 60.0
    pace = Pace(settings(grace=10.0), budget, automatic=True)
    made = steps_of(pace, budget, 0.5, 300, 0.1)
    assert len(made) >= 3
    assert min(b - a for a, b in pairwise(made)) > 20


@pytest.mark.parametrize("grace", [10.0, 60.0])
def test_with_more_grace_there_are_no_fewer_analyses(grace):
    """Whatever a period asks for is made where there is time, also shortly before the end."""
    budget = Budget(0.05, Clock(), grace)
    budget.start()
    pace = Pace(settings(grace=grace), budget, automatic=False)
    made = steps_of(pace, budget, 0.5, 12, 0.3)
    assert made == list(range(1, 12))


def test_a_long_step_is_waited_for_before_the_loss_is_timed():
    budget = Budget(0.05, Clock(), 2.0)
    budget.start()
    pace = Pace(settings(), budget, automatic=False)
    budget.now._clock.now += 3.0
    decision = pace.decide(0, Ahead(math.inf, step=3.0), final=False)
    assert decision.portion is None
    assert not decision.must_time
    needed = pace.portions.smallest().seconds + pace.portions.last() + 3.0
    assert decision.wait == pytest.approx((needed - 2.0) / 0.05 - 3.0)


@pytest.mark.parametrize(("length", "wanted"), [(8, 3), (10, 3), (17, 3), (20, 3), (120, 6)])
@pytest.mark.parametrize("weights", [1e5, 1e6])
def test_where_an_analysis_takes_half_a_second_short_runs_see_three(weights, length, wanted):
    """And the first figure of the last weights."""
    run = RunInParts(length, Parts(weights, speed=0.5))
    assert len(run.made) >= wanted
    assert run.figures >= 1


@pytest.mark.parametrize(("weights", "length"), [(1e5, 8), (1e5, 12), (1e6, 17), (1e6, 20)])
def test_where_an_analysis_takes_a_second_short_runs_see_two(weights, length):
    assert len(RunInParts(length, Parts(weights)).made) == 2


@pytest.mark.parametrize("length", [5, 8, 10, 12])
@pytest.mark.parametrize("weights", [1e4, 1e6])
def test_the_only_analysis_of_a_run_leaves_time_for_a_figure(weights, length):
    """There is none before; with fewer samples, but no fewer than are worth while."""
    run = RunInParts(length, Parts(weights, speed=1.5))
    (only,) = run.made
    assert only.portion.most >= 48
    assert run.figures >= 1


def test_the_last_analysis_leaves_time_for_its_figures():
    """For the first of them; for all, once it has the usual number of samples.

    Half of the usual fewest where nothing else is possible.
    """
    assert [RunInParts(length, Parts()).figures for length in (60, 120, 240)] == [1, 1, 2]
    room = 0.9 * Parts().figures[1]
    portions = Portions(settings(), Costs(is_measured=True))
    least = portions.least(final=True)
    assert portions.choose(least, least - room, final=True).most == 32
    assert portions.choose(least, least - room) is None
    fixed = Portions(settings(n_samples=100), Costs(is_measured=True))
    assert fixed.choose(least, least, final=True) is None


def test_most_samples_are_for_the_question_of_the_weights():
    """The picture is left at six tenths of them; a number that was asked for is for both."""
    costs, fine = Costs(per_batch=0.001, is_measured=True), settings(resolution=128)
    sized = {
        most: Portions(fine, costs).choose(costs.of(most, 4, False) + 1e-9, math.inf)
        for most in (64, 100, 160, 320)
    }
    assert {most: found.usual for most, found in sized.items()} == {
        **{64: 48, 100: 60, 160: 96},
        320: 112,
    }
    assert [found.most for found in sized.values()] == list(sized)
    asked = Portions(settings(n_samples=100), costs)
    assert asked.choose(1e3, 1e3) == asked.choose(1e3, 1e3, final=True)
    assert asked.choose(1e3, 1e3).usual == 100


def test_cells_get_coarser_before_there_are_fewer_samples_than_usual():
    """Boxes inside make up for cells, and nothing for samples."""
    costs = Costs(per_batch=0.001, is_measured=True)
    portions = Portions(settings(), costs)
    for_usual = costs.of(112, 4, False)
    assert portions.choose(for_usual + 1e-9, math.inf) == portions._sized(112, coarse=False)
    found = portions.choose(for_usual - 1e-6, math.inf)
    assert found.resolution == 64
    assert found.most > 112
    assert found.seconds <= for_usual


def test_an_analysis_that_its_samples_decided_does_not_tell_what_surrounds_others():
    """Its last fit and picture are those that decided; else they come after the last sample."""
    costs, portion = Costs(fixed=0.4), Portion(112, 320, 4, 128)
    given = (0.5, 0.0, 0.2, 0.2, 120, portion)
    costs.measured(*given, coarse=False, decided=True)
    assert costs.fixed == 0.4
    costs.measured(*given, coarse=False)
    assert costs.fixed == pytest.approx(FADES * 0.4)


def test_more_samples_than_usual_take_longer_afterwards():
    costs = Costs(is_measured=True, fixed=0.5)
    costs.measured(1.5, 0.0, 0.2, 0.3, 224, Portion(112, 224, 4, 128), coarse=False)
    assert costs.fixed == pytest.approx(0.5)  # 1.0 of twice as many
    assert costs.kept_more(coarse=False) == pytest.approx(1.1 * 0.5 / 112)
    assert costs.kept_more(coarse=False, in_background=True) == 0
    few, more = (costs.of(n, 0, False) - costs.of(n - 100, 0, False) for n in (112, 224))
    assert more == pytest.approx(few + 100 * costs.kept_more(coarse=False))
    for n in (48, 112, 300):
        assert costs.n_samples(costs.of(n, 0, False), 0, False) == pytest.approx(n)


def test_what_recognising_takes_is_planned():
    costs, portion = Costs(), Portion(64, 64, 4, 128)
    costs.measured(2.0, 0.0, 0.2, 0.2, 64, portion, coarse=False)
    before = costs.of(64, 4, coarse=False)
    costs.measured(2.5, 0.0, 0.2, 0.2, 64, portion, False, of_recognising=0.5, of_files=0.1)
    assert costs.fixed == pytest.approx(1.6)
    assert costs.recognising == 0.5
    assert costs.of(64, 4, coarse=False) == pytest.approx(before + 1.1 * 0.5)
    assert costs.kept(coarse=False) == pytest.approx(1.1 * (1.6 + 0.5))
    assert costs.kept_for_files == pytest.approx(0.11)


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
    assert portions.choose_batches(aim=2.0) == 1
    assert portions.choose_batches(aim=100.0) == 1  # fixed for the run
    assert Portions(settings(), costs).choose_batches(aim=3.0) == 2
    assert Portions(settings(), costs).choose_batches(aim=100.0) == 4
    assert Portions(settings(n_samples=64), costs).choose_batches(aim=0.1) == 4


def test_all_of_the_probe_set_where_the_loss_is_next_to_nothing():
    """To leave batches out makes the loss noisier, and here buys no time."""
    costs = Costs(fixed=0.9, per_sample=0.01)
    costs.evaluated(0.0003)
    assert Portions(settings(), costs).choose_batches(aim=0.5) == 4
    costs.evaluated(0.003)
    assert Portions(settings(), costs).choose_batches(aim=0.5) == 1


def test_without_a_limit_the_clock_does_not_matter():
    budget = Budget(1.0, lambda: math.nan)
    for n_samples, usual, most in (("auto", 112, 320), (100, 100, 100)):
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
    assert costs.around(coarse=False, batches=1) == pytest.approx(1.1 * (16 * 0.8 / 12 + 1.6))
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
    assert slowness(lambda: 0.0) == 0.5
    assert slowness(lambda: 0.09 * next(ticks)) == pytest.approx(10)


def test_forming_a_point_is_paid_once_whatever_the_batches():
    costs = Costs(per_sample=0.0)
    costs.timed(Timing(0.01, of_point=0.5))
    assert costs.each(1) == pytest.approx(0.51)
    assert costs.each(4) == pytest.approx(0.54)
    costs.evaluated(0.5 + 4 * 0.02, batches=4)  # measured in an analysis, all in one
    assert costs.each(4) == pytest.approx(0.58)
    costs.evaluated(0.1)  # quicker than it was timed
    assert costs.each(1) == pytest.approx(0.5 + 0.8 * 0.02)


def test_no_part_of_a_batch_where_points_are_what_is_dear():
    costs = Costs(fixed=0.0, per_sample=0.0)
    costs.timed(timing := Timing(0.001, 64, 8, finite=True, of_point=0.1))
    portions = Portions(settings(), costs)
    portions.batches, portions.of_whole = 1, timing
    assert portions.next_part(0.9 * costs.of(32, 1, True), at_end=False) is None


@pytest.mark.parametrize("shapes", [[(3, 2), (4,)], [(1 << 12, 1 << 11)]])
def test_the_time_of_a_point_is_that_of_all_weights(shapes):
    """On a clock that ticks whenever it is read."""
    weights = [torch.zeros(shape) for shape in shapes]
    ticks = iter(range(100))
    p = sum(w.numel() for w in weights)
    found = _seconds_of_point(weights, 2, lambda: float(next(ticks)))
    assert found == max(1, p / _MOST_FORMED)
