"""Runs with two processes: one picture, the same values in both, and no deadlock."""

from __future__ import annotations

import pytest
import torch

from lightning_morse.distributed.errors import ProcessError
from lightning_morse.distributed.processes import Processes, SharedLoss
from tests.process_groups import reports_of

TIME_LIMIT = 300


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports of both processes for each run, by name."""
    folder = tmp_path_factory.mktemp("runs")
    return reports_of("tests.two_processes", folder, 2, TIME_LIMIT)


@pytest.mark.slow
def test_the_run_is_the_same_with_and_without(reports):
    for bare, watched in zip(reports["bare"], reports["watched"], strict=True):
        for what in ("weights", "seen", "generators"):
            assert bare[what] == watched[what]


@pytest.mark.slow
def test_all_publish_the_same(reports):
    for name in set(reports) - {"bare", "said", "pruned", "raises", "second_cannot_be_cut"}:
        first, second = reports[name]
        assert first["metrics"] == second["metrics"], name
        assert first["history"] == second["history"], name
        assert first["found"], name
        assert not second["found"], name
        assert first["ended"] == second["ended"] == "", name
    assert [row["morse/failed"] for row in reports["watched"][0]["history"]] == [0, 0, 0]


@pytest.mark.slow
def test_all_cut_their_batches_or_none_does(reports):
    first, second = reports["part"]
    assert first["part"] == second["part"] == [4, 8]
    mean = (first["own_loss"] + second["own_loss"]) / 2
    assert first["centre_loss"] == pytest.approx(mean, rel=1e-5)
    for report in reports["second_cannot_be_cut"]:
        assert report["part"] is None
        assert report["history"] == []
        assert report["ended"] == ""
    for name in ("part", "second_cannot_be_cut"):
        for bare, watched in zip(reports["bare"], reports[name], strict=True):
            assert bare["weights"] == watched["weights"]


@pytest.mark.slow
def test_the_loss_is_that_of_all_probe_batches(reports):
    first, second = reports["watched"]
    assert first["probe"] != second["probe"]
    # Batches have the same size. Batch-norm statistics are those of each process.
    mean = (first["own_loss"] + second["own_loss"]) / 2
    assert first["centre_loss"] == pytest.approx(mean, rel=1e-5)
    assert abs(first["own_loss"] - mean) > 1e-3


@pytest.mark.slow
def test_only_the_first_keeps_the_record(reports):
    first, second = reports["watched"]
    assert first["snapshots"] > 3
    assert second["snapshots"] == 0


@pytest.mark.slow
def test_a_resumed_run_has_the_probe_batches_of_each(reports):
    for before, after in zip(reports["watched"], reports["resumed"], strict=True):
        assert after["probe"] == before["probe"]
        assert after["history"][:3] == before["history"]
        assert len(after["history"]) == 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("first_fails", "epoch 2: no analysis, training goes on (MemoryError: lost)"),
        ("second_fails", "(ProcessError: in process 1: MemoryError: lost)"),
        ("second_fails_at_once", "(ProcessError: in process 1: MemoryError: lost)"),
        ("second_has_no_copy", "(ProcessError: in process 1: MemoryError: no room for a copy)"),
        ("numerics_fail", "LinAlgError: not positive-definite)"),
    ],
)
@pytest.mark.slow
def test_a_failure_in_one_process_is_one_in_all(name, said, reports):
    for bare, report in zip(reports["bare"], reports[name], strict=True):
        failed = [row["morse/failed"] for row in report["history"]]
        lasting = name in ("second_has_no_copy", "numerics_fail")
        assert failed == [0, 1, int(lasting)]
        assert report["weights"] == bare["weights"]
        assert report["generators"] == bare["generators"]
    assert said in reports["said"][0]
    assert "no analysis" not in reports["said"][1]


@pytest.mark.slow
def test_on_error_raise_ends_all(reports):
    first, second = reports["raises"]
    assert first["ended"] == "ProcessError: in process 1: MemoryError: lost"
    assert second["ended"] == "MemoryError: lost"


@pytest.mark.slow
def test_pruning_at_a_point_of_the_slice_ends_none(reports):
    for bare, report in zip(reports["bare"], reports["pruned"], strict=True):
        assert report["ended"] == ""
        assert [row["morse/failed"] for row in report["history"]] == [0, 0, 0]
        assert report["weights"] == bare["weights"]


@pytest.mark.slow
def test_all_leave_out_the_same_analyses(reports):
    for name in ("budget", "chosen"):
        first, second = reports[name]
        assert first["history"] == second["history"]
        assert 1 <= len(first["history"]) < 8


def test_one_process_exchanges_nothing():
    alone = Processes.of(1)
    assert (alone.rank, alone.size, alone.leads) == (0, 1, True)
    assert alone.each(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        alone.first(lambda: 1 / 0)
    shared = SharedLoss(lambda x: x[:, 0], lambda: 4, alone)
    assert shared.explore(lambda: shared(torch.ones(2, 1)).tolist()) == [1.0, 1.0]


def test_processes_that_are_not_connected_are_refused():
    with pytest.raises(ValueError, match=r"connected by torch\.distributed, got 2"):
        Processes.of(2)


class Scripted(Processes):
    """The first of two processes; the answers of the second are scripted."""

    def __init__(self, *answers):
        super().__init__(0, 2)
        self.answers = list(answers)
        self.told = []

    def share(self, value):
        self.told.append(value)
        return value

    def gather(self, value):
        return [value, self.answers.pop(0)]


def test_the_mean_is_over_examples():
    there = ((torch.tensor([4.0, 8.0], dtype=torch.float64), 1), None)
    processes = Scripted(there)
    loss = SharedLoss(lambda x: x[:, 0], lambda: 3, processes)
    assert loss(torch.zeros(2, 1, dtype=torch.float64)).tolist() == [1.0, 2.0]


def test_an_interrupt_here_is_told_to_the_others():
    processes = Scripted()

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        processes.first(interrupted)
    error = processes.told[0].error()
    assert isinstance(error, ProcessError)
    assert error.ends_run
    assert str(error) == "in process 0: KeyboardInterrupt: "
