"""Which errors end a run, and what the guard does with the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_morse.distributed.errors import Guard, ProcessError, must_end_run, origin


class TrialPruned(Exception):
    """As in Optuna."""


class PrunedEarly(TrialPruned):
    pass


REQUESTS = [
    TrialPruned(),
    PrunedEarly(),
    KeyboardInterrupt(),
    SystemExit(),
    GeneratorExit(),
    ProcessError("in process 1: KeyboardInterrupt", ends_run=True),
]
FAILURES = [ValueError(), MemoryError(), ProcessError("in process 1: ValueError")]


@pytest.mark.parametrize("error", REQUESTS, ids=repr)
def test_requests_to_end_a_run_pass(error):
    assert must_end_run(error)
    failures = []
    with pytest.raises(type(error)), Guard(failures.append):
        raise error
    assert failures == []


@pytest.mark.parametrize("error", FAILURES, ids=repr)
def test_failures_stay_inside(error):
    assert not must_end_run(error)
    failures = []
    with Guard(failures.append):
        raise error
    assert failures == [error]
    with pytest.raises(type(error)), Guard(failures.append, active=False):
        raise error
    assert failures == [error]


def test_pruning_of_optuna_itself_passes():
    optuna = pytest.importorskip("optuna")
    with pytest.raises(optuna.TrialPruned), Guard(print):
        raise optuna.TrialPruned


def test_without_an_error_nothing_happens():
    failures = []
    with Guard(failures.append):
        pass
    assert failures == []


def test_origin_is_a_place():
    def raised(message):
        try:
            raise ValueError(message)
        except ValueError as error:
            return error

    assert origin(raised("a")) == origin(raised("b"))
    assert Path(__file__).name in origin(raised("a"))
    assert origin(ValueError("never raised")) == "ValueError "
