"""What user code says during an evaluation is not shown, and nothing else is silenced."""

import logging
import sys
import threading
import warnings

import pytest

from lightning_morse.slices.silence import quiet

LOG = logging.getLogger("tests.silence")
USUAL = logging.Logger.isEnabledFor


@pytest.fixture(autouse=True)
def as_before():
    yield
    assert logging.Logger.isEnabledFor is USUAL


def in_a_thread(what):
    thread = threading.Thread(target=what)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_nothing_is_printed_warned_of_or_logged(capsys, caplog, recwarn):
    with caplog.at_level(logging.DEBUG), quiet():
        with quiet():
            LOG.critical("inside")
        LOG.critical("still inside")
        print("printed")
        print("printed", file=sys.stderr)
        warnings.warn("a warning", stacklevel=1)
        assert not LOG.isEnabledFor(logging.CRITICAL)
    assert (capsys.readouterr(), caplog.records, len(recwarn)) == (("", ""), [], 0)
    LOG.error("outside")
    assert caplog.messages == ["outside"]


def test_other_threads_log_all_the_while(caplog):
    with quiet():
        in_a_thread(lambda: LOG.error("elsewhere"))
        LOG.error("here")
    assert caplog.messages == ["elsewhere"]


def test_an_error_ends_the_silence(caplog):
    with pytest.raises(KeyError), quiet():
        raise KeyError
    LOG.error("outside")
    assert caplog.messages == ["outside"]


def test_blocks_of_two_threads_may_overlap(caplog):
    begun, left = threading.Event(), threading.Event()

    def other():
        with quiet():
            begun.set()
            assert left.wait(10)
            LOG.error("in the other")

    thread = threading.Thread(target=other)
    with quiet():
        thread.start()
        assert begun.wait(10)
    LOG.error("first has left")
    left.set()
    thread.join(10)
    assert not thread.is_alive()
    assert caplog.messages == ["first has left"]


def test_what_others_put_there_meanwhile_stays_and_is_asked(caplog):
    asked = []
    with quiet():
        inner = logging.Logger.isEnabledFor

        def others(logger, level):
            asked.append(level)
            return inner(logger, level)

        logging.Logger.isEnabledFor = others
    try:
        assert logging.Logger.isEnabledFor is others
        LOG.error("outside")
        assert (caplog.messages, asked) == (["outside"], [logging.ERROR])
    finally:
        logging.Logger.isEnabledFor = USUAL


def test_what_loggers_remember_is_left_to_them():
    assert LOG.isEnabledFor(logging.ERROR)
    remembered = dict(LOG._cache)
    with quiet():
        assert not LOG.isEnabledFor(logging.ERROR)
    assert LOG._cache == remembered
    assert remembered
