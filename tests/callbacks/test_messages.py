"""Messages: each once, and visible where nobody has configured logging."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import contextmanager

import pytest

from lightning_morse.callbacks._messages import LOG, Messages, close_console, open_console
from tests.forks import ROOT, run_forked


@pytest.fixture(autouse=True)
def level_as_imported():
    """Examples that were run in this process may have set one."""
    before = LOG.level
    LOG.setLevel(logging.NOTSET)
    yield
    LOG.setLevel(before)


IMPORT_ALL = """
import importlib, logging, pkgutil
import lightning_morse
for module in pkgutil.walk_packages(lightning_morse.__path__, "lightning_morse."):
    importlib.import_module(module.name)
log = logging.getLogger("lightning_morse")
assert (log.handlers, log.level, log.propagate) == ([], logging.NOTSET, True)
assert not logging.getLogger().handlers
"""

# What somebody may have configured, and how often a run then says what it found.
SETUPS = {
    "nothing": ("", 1),
    "root": ("logging.basicConfig(level=logging.INFO)", 1),
    "root, warnings": ("logging.basicConfig(level=logging.WARNING)", 0),
    "level": ("logging.getLogger('lightning_morse').setLevel(logging.WARNING)", 0),
    "handler": ("logging.getLogger('lightning_morse').addHandler(logging.NullHandler())", 0),
}

IMPORTS = """
import logging, sys
import lightning_morse.callbacks._account as home
import pytest
from tests.callback_models import draw_nothing, fit, monitor, stub_analysis
"""

RUN = """
folder, setup = sys.argv[1:]
patch = pytest.MonkeyPatch()
stub_analysis(patch), draw_nothing(patch)
home.QUIET_BELOW_SECONDS = 0.0
log = logging.getLogger("lightning_morse")
exec(setup)
before = log.handlers[:], log.level
fit(folder, monitor(), max_epochs=1)
assert (log.handlers, log.level) == before
"""


@pytest.mark.slow
def test_importing_everything_configures_no_logging():
    subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, timeout=180, check=True)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """What is printed, by the name of the set-up."""
    root = tmp_path_factory.mktemp("runs")
    runs = [(str(root / name), setup) for name, (setup, _) in SETUPS.items()]
    ends = run_forked(IMPORTS, RUN, runs, root)
    assert not any(end.code for end in ends), ends
    return {name: end.said for name, end in zip(SETUPS, ends, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETUPS)
def test_a_run_says_once_what_it_found(name, output):
    _, times = SETUPS[name]
    assert "`Trainer.fit` stopped" in output[name]
    assert output[name].count("epoch 1: Certainly in the basin of attractor 0") == times
    assert output[name].count("at least 1 attractor") == times


@contextmanager
def nothing_configured():
    """Take away the handlers that pytest puts on the root logger while a test runs."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        yield
    finally:
        root.handlers = handlers


def test_the_console_closes_as_it_opened(capsys):
    with nothing_configured():
        assert open_console()
        assert LOG.level == logging.INFO
        assert not open_console()  # by a second monitor
        LOG.info("seen")
        close_console()
        assert (LOG.handlers, LOG.level) == ([], logging.NOTSET)
        LOG.info("unseen")
    assert capsys.readouterr().err == "seen\n"


def test_the_console_is_silent_once_logging_is_configured(capsys):
    with nothing_configured():
        assert open_console()
        logging.getLogger().addHandler(logging.NullHandler())
        LOG.info("twice")
        close_console()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_console_closes_when_a_fit_ends_badly(error, tmp_path):
    from tests.callback_models import Net, fit, monitor

    class Broken(Net):
        def training_step(self, batch, batch_idx):
            assert LOG.handlers
            raise error

    with nothing_configured(), pytest.raises((error, SystemExit)):
        fit(tmp_path, monitor(), module=Broken())
    assert (LOG.handlers, LOG.level) == ([], logging.NOTSET)


def said(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "lightning_morse"]


def test_a_warning_is_given_once_for_each_cause(caplog):
    messages = Messages("Recorder")
    for number in range(2):
        messages.warn("disk full")
        messages.warn(f"diverged in call {number}", "epoch 3", about="divergence")
    assert said(caplog) == ["Recorder: disk full", "epoch 3: diverged in call 0"]
    messages.forget()
    messages.warn("disk full")
    assert said(caplog)[2:] == ["Recorder: disk full"]


def test_information_is_given_as_often_as_it_comes_up_unless_it_is_about_something(caplog):
    messages = Messages("Recorder")
    with caplog.at_level(logging.INFO, "lightning_morse"):
        for _ in range(2):
            messages.inform("found", "epoch 1")
            messages.inform("no time", "epoch 2", about="budget")
    assert said(caplog) == ["epoch 1: found", "epoch 2: no time", "epoch 1: found"]


def test_a_guarded_failure_is_told_with_its_traceback_for_debugging(caplog):
    messages = Messages("Recorder")
    with caplog.at_level(logging.DEBUG, "lightning_morse"), messages.guard("writing"):
        raise OSError("disk full")
    assert said(caplog) == ["Recorder: writing failed: OSError: disk full", "writing failed"]
    assert caplog.records[-1].exc_info[0] is OSError


def test_a_guard_that_is_not_active_lets_failures_pass():
    with pytest.raises(OSError, match="full"), Messages("x").guard("writing", active=False):
        raise OSError("full")
