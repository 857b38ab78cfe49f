"""When the loss is evaluated on part of a probe batch, on a clock that stands still unless told."""

from __future__ import annotations

import math

import pytest

from lightning_morse.monitoring.batch_parts import FEWEST_EXAMPLES, Part
from lightning_morse.monitoring.budget import Budget
from lightning_morse.monitoring.costs import Costs, Portion, Timing
from lightning_morse.monitoring.pace import Ahead, Pace
from lightning_morse.monitoring.portions import Portions
from tests.monitoring.test_pace import settings

WHOLE = 64


class Run:
    """A run in which an evaluation takes ``once`` seconds and ``each`` more for an example."""

    def __init__(self, length, each, *, once=0.01, n_examples=WHOLE, known=True, **options):
        self.now, self.each, self.once, self.n_examples = 0.0, each, once, n_examples
        given = settings(**options)
        self.budget = Budget(given.max_overhead, lambda: self.now, given.grace)
        self.budget.start()
        self.pace = Pace(given, self.budget, automatic=True)
        self.portions: list[Portion] = []
        self.timed: list[Part | None] = []
        self.excess = -math.inf
        for i in range(1, 401):
            self.now += length / 400
            left = (400 - i) * length / 400 if known else math.inf
            self.look(Ahead(left), final=i == 400)

    def seconds(self, part):
        n = self.n_examples if part is None else part.n
        return self.once + self.each * (n or WHOLE)

    def timing(self, part):
        n = self.n_examples if part is None else part.n
        return Timing(self.seconds(part), n, FEWEST_EXAMPLES, finite=True)

    def look(self, ahead, *, final):
        given = len(self.portions), ahead
        while True:
            decision = self.pace.decide(*given, final=final)
            if not decision.must_time:
                break
            self.spend(self.seconds(decision.part))
            self.pace.analysed(self.seconds(decision.part))
            self.timed.append(decision.part)
            timing = self.timing(decision.part)
            self.pace.timed(timing, *given, final=final, part=decision.part)
        portion = decision.portion
        if portion is not None:
            n, around = portion.most, 0.5
            while n > 16 and around + n * (0.005 + self.seconds(portion.part)) > decision.limit:
                n -= 1
            of_loss, of_places = n * self.seconds(portion.part), n * 0.005
            took = around + of_loss + of_places
            self.spend(took)
            coarse = portion.resolution < 128
            self.pace.costs.measured(took, 0.0, of_loss, of_places, n, portion, coarse)
            self.pace.analysed(took)
            self.portions.append(portion)

    def spend(self, seconds):
        with self.budget.work():
            self.now += seconds
        room = self.budget.grace + self.budget.max_overhead * self.budget.trained()
        self.excess = max(self.excess, self.budget.spent() - room)


def test_where_there_would_be_no_analysis_there_is_one_on_part_of_a_batch():
    whole = Run(40, 0.003, n_examples=0)
    assert whole.portions == []
    run = Run(40, 0.003)
    assert run.portions
    assert run.excess <= 1e-9
    assert run.timed[:2] == [None, Part(32, WHOLE)]
    assert {each.part for each in run.portions} == {run.timed[-1]}
    assert {each.batches for each in run.portions} == {1}


@pytest.mark.parametrize("each", [0.0002, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016])
@pytest.mark.parametrize("length", [10, 40, 200])
def test_the_promise_is_kept_and_no_more_is_cut_than_needed(length, each):
    run = Run(length, each)
    assert run.excess <= 1e-9
    parts = {portion.part for portion in run.portions}
    assert len(parts) <= 1  # the same for all analyses of a run
    whole = Run(length, each, n_examples=0)
    if whole.portions:
        assert run.portions == whole.portions
        assert parts == {None}
    for part in parts - {None}:
        assert part.n >= FEWEST_EXAMPLES


def test_halves_are_timed_one_after_the_other():
    """What a part takes is measured: here a half takes nearly as long as the whole."""
    run = Run(40, 0.0001, once=0.2)
    assert run.timed == [None, Part(32, WHOLE), Part(16, WHOLE), Part(8, WHOLE)]
    assert run.portions == []
    assert run.excess <= 1e-9


def test_nothing_is_timed_where_fewer_examples_cannot_help():
    portions = ready(Costs(fixed=9.0, is_measured=True))
    assert portions.next_part(5.0, at_end=True) is None
    assert portions.next_part(50.0, at_end=True) is None
    assert ready(Costs(fixed=1.0, is_measured=True)).next_part(5.0, at_end=True) == Part(32, WHOLE)


def ready(costs: Costs, **options) -> Portions:
    costs.evaluated(0.5)
    portions = Portions(settings(**options), costs)
    portions.batches = 1
    portions.of_whole = Timing(0.5, WHOLE, FEWEST_EXAMPLES, finite=True)
    return portions


def test_a_limit_that_was_asked_for_and_a_larger_probe_set_are_not_cut():
    assert ready(Costs()).next_part(5.0, at_end=True) is not None
    assert ready(Costs(), n_samples=64).next_part(5.0, at_end=True) is None
    portions = ready(Costs())
    portions.batches = 2
    assert portions.next_part(5.0, at_end=True) is None
    unknown = Portions(settings(), Costs(per_batch=0.5))
    unknown.batches = 1
    assert unknown.next_part(5.0, at_end=True) is None


def test_without_a_limit_nothing_is_timed_or_cut():
    for n_samples in ("auto", 100):
        run = Run(40, 0.1, max_overhead=1.0, n_samples=n_samples)
        assert run.timed == []
        assert {portion.part for portion in run.portions} == {None}


def test_where_the_end_is_not_known_a_whole_batch_is_waited_for():
    run = Run(400, 0.003, known=False)
    assert run.portions
    assert {portion.part for portion in run.portions} == {None}


def test_few_examples_are_never_left():
    portions = ready(Costs())
    portions.of_whole = Timing(0.5, 12, FEWEST_EXAMPLES, finite=True)
    part = portions.next_part(5.0, at_end=True)
    assert part == Part(8, 12)
    portions.use(part, Timing(0.4, 8, 8, finite=True))
    assert portions.next_part(5.0, at_end=True) is None
    portions.of_whole = Timing(0.5, 64, 32, finite=True)  # batch norm
    portions.part = None
    assert portions.next_part(5.0, at_end=True) == Part(32, 64)


@pytest.mark.parametrize(
    "timing",
    [Timing(0.1, 32, 8, finite=False), Timing(math.nan), Timing(0.1, 0, 8, True)],
    ids=["not finite", "raises", "the step counts otherwise"],
)
def test_a_part_on_which_the_loss_does_not_work_is_given_up(timing):
    costs = Costs()
    portions = ready(costs)
    portions.use(Part(32, WHOLE), timing)
    assert portions.part is None
    assert costs.per_batch == 0.5
    assert portions.next_part(5.0, at_end=True) is None  # for good


def test_a_resumed_run_has_the_same_part():
    portions, again = ready(Costs()), Portions(settings(), Costs())
    portions.use(Part(32, WHOLE), Timing(0.25, 32, 8, finite=True))
    again.load_state_dict(portions.state_dict())
    assert (again.batches, again.part, again.of_whole) == (1, Part(32, WHOLE), portions.of_whole)
    assert again.whole().part == Part(32, WHOLE)


def test_checkpoints_from_before_parts_are_read():
    pace = Pace(settings(), Budget(0.05, lambda: 0.0, 2.0), automatic=True)
    state = pace.state_dict()
    for key in ("part", "of_whole"):
        del state[key]
    pace.load_state_dict({**state, "batches": 1})
    assert (pace.portions.batches, pace.portions.part) == (1, None)


def test_without_the_batch_it_is_of_a_part_is_chosen_anew():
    pace = Pace(settings(), Budget(0.05, lambda: 0.0, 2.0), automatic=True)
    pace.portions = ready(pace.costs)
    pace.portions.use(Part(32, WHOLE), Timing(0.25, 32, 8, finite=True))
    state = pace.state_dict()
    again = Pace(settings(), Budget(0.05, lambda: 0.0, 2.0), automatic=True)
    again.load_state_dict(state)
    again.forget_part()
    assert again.portions.part is None
    assert again.portions.of_whole is None
    # Though there have been analyses, of another probe set.
    ahead = Ahead(seconds=0.0, dues=1.0, step=1e-3)
    assert again.decide(5, ahead, final=True).must_time
    # What is whole stays whole.
    whole = Pace(settings(), Budget(0.05, lambda: 0.0, 2.0), automatic=True)
    whole.load_state_dict({**state, "part": None})
    whole.forget_part()
    assert whole.portions.of_whole is not None
