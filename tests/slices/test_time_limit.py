"""Code that takes too long is stopped, and the alarm clock of the process is as before."""

from __future__ import annotations

import signal
import sys
import threading
import time

import pytest

from lightning_morse.slices.requests import EndedByStepError, ending_nothing, is_from_outside
from lightning_morse.slices.silence import quiet
from lightning_morse.slices.time_limit import TooLongError, at_most

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarms")
SHORT, LONG = 0.05, 10.0


@pytest.fixture(autouse=True)
def no_trace():
    """Whoever runs the tests may use the alarm clock; it is free here, and afterwards again."""
    handler = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    remaining = signal.setitimer(signal.ITIMER_REAL, 0.0)
    yield
    assert signal.signal(signal.SIGALRM, handler) is signal.SIG_DFL
    assert signal.setitimer(signal.ITIMER_REAL, *remaining) == (0.0, 0.0)
    assert sys.gettrace() is None or "coverage" in sys.modules


def for_ever():
    while True:
        pass


def asleep():
    time.sleep(LONG)


def swallows_errors():
    while True:
        try:
            for_ever()
        except Exception:
            continue


def swallows_everything_once():
    try:
        for_ever()
    except BaseException:
        for_ever()


def makes_another_error():
    try:
        for_ever()
    finally:
        raise ValueError


def exits():
    try:
        for_ever()
    except BaseException:
        sys.exit(1)


ENDLESS = (for_ever, asleep, swallows_errors, swallows_everything_once, makes_another_error, exits)


@pytest.mark.parametrize("code", ENDLESS)
def test_code_without_end_is_stopped(code):
    begun = time.perf_counter()
    with (
        pytest.raises(TooLongError, match=r"at most 0.05 s") as caught,
        ending_nothing(),
        quiet(),
        at_most(SHORT),
    ):
        code()
    assert time.perf_counter() - begun < LONG / 2
    assert not is_from_outside(caught.value)


def test_a_loop_in_the_block_itself_is_stopped():
    with pytest.raises(TooLongError), at_most(SHORT):  # noqa: PT012
        while True:
            pass


def test_code_that_ends_is_not():
    with at_most(LONG):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    with at_most(SHORT):
        pass
    time.sleep(2 * SHORT)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_errors_pass(error):
    with pytest.raises(error), at_most(LONG):
        raise error


def test_what_another_signal_raises_passes():
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt) as caught, ending_nothing(), at_most(LONG):
            signal.raise_signal(signal.SIGUSR1)
        assert is_from_outside(caught.value)
        with pytest.raises(EndedByStepError), ending_nothing(), at_most(LONG):
            raise SystemExit
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_or_a_timer_of_others_is_left_alone():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    with at_most(SHORT):
        time.sleep(2 * SHORT)
    signal.setitimer(signal.ITIMER_REAL, SHORT)
    with at_most(LONG):
        time.sleep(2 * SHORT)
    assert rung == [1]
    signal.signal(signal.SIGALRM, before)


def test_code_that_sets_an_alarm_itself_keeps_it():
    with at_most(SHORT):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        time.sleep(2 * SHORT)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_IGN
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_an_outer_limit_holds_in_an_inner_block():
    with pytest.raises(TooLongError, match=r"at most 0.05 s"), at_most(SHORT), at_most(LONG):
        for_ever()


def test_there_is_none_in_other_threads():
    found = []

    def work():
        with at_most(SHORT):
            found.append(signal.getitimer(signal.ITIMER_REAL))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(LONG)
    assert found == [(0.0, 0.0)]


def test_a_signal_never_gets_out_of_a_block_that_ends():
    late = 0
    for i in range(300):
        try:
            with at_most(1e-5 * (1 + i % 20)):
                sum(range(2000))
        except TooLongError:
            late += 1
        sum(range(200))
    assert late
