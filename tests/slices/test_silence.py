"""What user code says during an evaluation is not shown, and nothing else is silenced."""

import io
import logging
import os
import sys
import threading
import warnings
from unittest import mock

import pytest

from lightning_morse.slices.silence import quiet, raising

LOG = logging.getLogger("tests.silence")
USUAL = logging.Logger.isEnabledFor


def state():
    return sys.stdout, sys.stderr, warnings.filters, logging.root.manager.disable


@pytest.fixture(autouse=True)
def as_before():
    before = state()
    yield
    assert all(a is b for a, b in zip(state(), before, strict=True))
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


def test_many_threads_leave_everything_as_it_was():
    def work():
        for _ in range(200):
            with quiet(), quiet():
                print("nothing of it")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def test_what_a_step_disables_is_allowed_again(caplog):
    with quiet():
        logging.disable(logging.CRITICAL)
    LOG.error("outside")
    assert caplog.messages == ["outside"]


def test_a_patch_that_begins_inside_and_ends_outside_leaves_nothing_for_long():
    patch = mock.patch.object(logging.Logger, "isEnabledFor", USUAL)
    with quiet():
        patch.start()
    patch.stop()  # which puts back what it found
    assert LOG.isEnabledFor(logging.ERROR)
    with quiet():
        assert not LOG.isEnabledFor(logging.ERROR)
    assert logging.Logger.isEnabledFor is USUAL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_that_is_forked_in_a_block_is_not_silent():
    with quiet():
        child = os.fork()
        if not child:
            works = logging.Logger.isEnabledFor is USUAL
            with quiet():
                works &= not LOG.isEnabledFor(logging.ERROR)
            os._exit(0 if works else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


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


def test_other_threads_print_and_warn_all_the_while(capsys, recwarn):
    warnings.simplefilter("always")

    def speak():
        print("elsewhere")
        print("elsewhere", file=sys.stderr)
        warnings.warn("elsewhere", stacklevel=1)

    with quiet():
        in_a_thread(speak)
        print("here")
        warnings.warn("here", stacklevel=1)
    assert capsys.readouterr() == ("elsewhere\n", "elsewhere\n")
    assert [str(w.message) for w in recwarn] == ["elsewhere"]


def test_a_stream_that_is_kept_shows_what_comes_later(capsys):
    with quiet():
        handler = logging.StreamHandler(sys.stdout)
        write = sys.stdout.write
        write("inside")
        sys.stdout.buffer.write(b"inside")
        assert isinstance(sys.stdout, io.TextIOBase)
        assert sys.stdout.encoding
    handler.emit(logging.makeLogRecord({"msg": "later"}))
    write("and this")
    with quiet():
        write("but not this")
    assert capsys.readouterr().out == "later\nand this"


def warn_of(what):
    warnings.warn(what, stacklevel=1)


def test_a_warning_is_shown_once_if_it_would_be_without():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        with quiet():
            warn_of("once")  # not shown, so it does not count
        for _ in range(3):
            warn_of("once")
            with quiet():
                warn_of("once")
    assert [str(w.message) for w in shown] == ["once"]


@pytest.mark.parametrize(
    "change",
    [
        lambda: warnings.simplefilter("error"),
        warnings.resetwarnings,
        lambda: setattr(warnings, "showwarning", print),
        lambda: warnings.catch_warnings().__enter__(),
    ],
)
def test_how_warnings_are_shown_is_as_before(change):
    with warnings.catch_warnings():
        before, how = list(warnings.filters), warnings.showwarning
        with quiet():
            change()
        assert list(warnings.filters) == before
        assert warnings.showwarning is how


def test_filters_of_another_thread_that_end_meanwhile_have_ended():
    before = warnings.filters
    caught = warnings.catch_warnings()
    caught.__enter__()
    warnings.simplefilter("error")
    with quiet():
        in_a_thread(lambda: caught.__exit__(None, None, None))
    assert warnings.filters is before


def test_warnings_of_a_category_are_raised_and_no_others_shown():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(2):
            warn_of("once")
            with raising(RuntimeWarning):
                warnings.warn("ignored", stacklevel=1)
                with pytest.raises(RuntimeWarning):
                    warnings.warn("raised", RuntimeWarning, stacklevel=1)
    assert [str(w.message) for w in shown] == ["once"]
